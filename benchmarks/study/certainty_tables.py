"""Tables of what `benchmarks.study.certainty` has recorded: `python -m benchmarks.study.certainty_tables RECORD`."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

from benchmarks.common import table

SELECTORS = ("aape", "probability", "class_selectivity", "d_prime", "auroc", "average_precision")


def tables(record: Mapping[str, Any]) -> str:
    """Survivors, duration detectors, sharing, and how far selectors agree, in Markdown."""
    rows, agreement = pd.DataFrame(record["label_sets"]), pd.DataFrame(record["agreement"])
    found = pd.DataFrame(record["sharing"])
    parts = [
        survivors(rows),
        durations(rows),
        table(list(map(str, found)), [list(map(cell, row)) for row in found.to_numpy()]),
    ]
    parts += [
        agreement_of(agreement, "m2d_tiny", case, name) for case, name in (("esc50-train", "event"), ("fsdd", "digit"))
    ]
    return "\n\n".join(parts)


def survivors(rows: pd.DataFrame) -> str:
    """Over all tokens: pairs that were selected, that chance would select, that are significant."""
    names = {
        "case": "clips", "label_set": "label set", "encoder": "encoder", "preset": "preset", "coverage": "coverage",
        "pairs": "pairs", "pairs_by_chance": "by chance", "pairs_significant": "q <= 0.05",
        "all_pairs_significant": "of all pairs", "split_half_jaccard": "halves agree",
    }  # fmt: skip
    some = rows[(rows["tokens"] == "all") & (rows["pairs"] > 0)].sort_values(["case", "label_set"], kind="stable")
    some = some.assign(coverage=some["coverage"].map("{:.0%}".format))
    some["split_half_jaccard"] = some["split_half_jaccard"].map("{:.0%}".format)
    return table(list(names.values()), [list(map(cell, row)) for row in some[list(names)].to_numpy()])


def durations(rows: pd.DataFrame) -> str:
    """Preset lape: what is left of the pairs selected over all tokens when only sounding ones are counted."""
    lape = rows[rows["preset"] == "lape"].set_index(["case", "label_set", "encoder", "tokens"])
    lines = []
    for key in dict.fromkeys(index[:3] for index in lape.index.to_list()):
        everything, sounding = lape.loc[(*key, "all")], lape.loc[(*key, "sounding")]
        if everything["pairs"]:
            lines.append(
                [*key, f"{everything['coverage']:.0%} / {sounding['coverage']:.0%}",
                 f"{everything['pairs']} / {sounding['pairs']}", percent(everything["also_selected_over_sounding"]),
                 percent(everything["duration_detectors"])]
            )  # fmt: skip
    head = ("clips", "label set", "encoder", "coverage, all / sounding", "pairs, all / sounding",
            "selected over sounding, too", "significant over all tokens only")  # fmt: skip
    return table(head, lines)


def agreement_of(agreement: pd.DataFrame, encoder: str, case: str, label_set: str) -> str:
    """Rank correlation / Jaccard of every two selectors, preset lape, all tokens."""
    where = {"encoder": encoder, "case": case, "label_set": label_set, "preset": "lape", "tokens": "all"}
    for column, value in where.items():
        agreement = agreement[agreement[column] == value]
    cells = {
        (row.selector_a, row.selector_b): f"{row.rank_correlation:.2f} / {row.jaccard:.2f}"
        for row in agreement.itertuples()
    }
    lines = [[a, *(cells.get((a, b), "") for b in SELECTORS[1:])] for a in SELECTORS[:-1]]
    return f"{encoder}, {case}, {label_set}:\n\n" + table(["", *SELECTORS[1:]], lines)


def percent(value: float | None) -> str:
    """A share in words."""
    return "-" if value is None or math.isnan(value) else f"{value:.0%}"


def cell(value: Any) -> str:
    """A number as a reader wants it."""
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def main(record: Annotated[Path, tyro.conf.Positional]) -> None:
    """Print the tables of a record."""
    print(tables(json.loads(record.read_text())))


if __name__ == "__main__":
    tyro.cli(main)
