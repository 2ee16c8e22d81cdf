"""How sure the selections of real encoders on real audio are, and which neurons are duration or padding detectors.

`python -m benchmarks.study.certainty --esc50 ESC-50 --fsdd FSDD --out benchmarks/results/certainty.json` counts pairs
of class and neuron for every encoder and task, over all tokens and over sounding ones: pairs that are selected, that
would be under permuted labels, and that have q <= 0.05. A pair is called a duration detector if it is selected and has
q <= 0.05 over all tokens, and q > 0.05 over sounding ones. The runs are kept for `jaxdissect share` and its figures.

`python -m benchmarks.study.certainty --record benchmarks/results/certainty.json` prints the tables of a record.
Expected time: two hours; seconds with a record.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import tyro

from benchmarks.common import short_name, table, write_record
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.selection.labelled import Neurons
from jaxdissect.significance.assess import LEVEL
from jaxdissect.stages.activations import run_activations
from jaxdissect.stages.neurons import run_neurons
from jaxdissect.stages.share import run_share
from jaxdissect.types import Record

Tokens = Literal["all", "sounding"]
Preset = Literal["aape", "lape"]
TOKENS: tuple[Tokens, ...] = ("all", "sounding")
PRESETS: tuple[Preset, ...] = ("aape", "lape")
SELECTORS = ("aape", "probability", "class_selectivity", "d_prime", "auroc")
AGREEMENT_SHOWN = (("esc50-train", "event"), ("fsdd", "digit"))  # case and label set of the printed agreement
LABEL_SET_COLUMNS = {  # of the first table, with their heads
    "case": "clips",
    "label_set": "label set",
    "encoder": "encoder",
    "preset": "preset",
    "coverage": "coverage",
    "pairs": "pairs",
    "pairs_by_chance": "by chance",
    "pairs_significant": "q <= 0.05",
    "all_pairs_significant": "of all pairs",
    "split_half_jaccard": "halves agree",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Encoders and tasks to look at, or a record to print."""

    esc50: Path = Path("ESC-50")  # the ESC-50 folder
    fsdd: Path = Path("FSDD")  # the folder with fsdd.csv
    runs: Path = Path("runs/certainty")  # folder of the run directories; counts in it are not made again
    out: Path | None = None  # the JSON file to write
    encoders: tuple[str, ...] = ("m2d_tiny", "supervised_tiny", "jaxdissect.demo:untrained_tiny")
    permutations: int = 1000
    record: Path | None = None  # JSON file of an earlier run, whose tables are printed instead


@dataclasses.dataclass(frozen=True)
class Case:
    """A task with its options; the encoders have heard folds 1-4 of ESC-50, so fold 5 is a case of its own."""

    name: str
    task: str
    data: Path | None
    label: str
    unit_seconds: float | None
    split: Literal["train", "test", "all"]


def cases(options: Options) -> list[Case]:
    """All tasks."""
    return [
        Case("fsdd", str(options.fsdd / "fsdd.csv"), options.fsdd, "digit,speaker,accent", 1.0, "train"),
        Case("esc50-train", "esc50", options.esc50, "event", None, "train"),
        Case("esc50-test", "esc50", options.esc50, "event", None, "test"),
        Case("notes", "notes", None, "octave,pitch_class,instrument", None, "train"),
        Case("notes2", "notes2", None, "octave", None, "train"),
    ]


def dissect(options: Options, encoder: str, case: Case, tokens: Tokens, preset: Preset) -> tuple[Path, Neurons]:
    """Count, unless the run has the counts, and select."""
    run = options.runs / f"{short_name(encoder)}-{case.name}-{tokens}"
    counting = ActivationsOptions(
        encoder=encoder,
        task=case.task,
        data=case.data,
        label=case.label,
        split=case.split,
        run=run,
        unit_seconds=case.unit_seconds,
        tokens=tokens,
        keep_clips=True,
    )
    run_activations(counting)
    return run, run_neurons(NeuronsOptions(run=run, preset=preset, permutations=options.permutations))


def survey(options: Options) -> tuple[list[Record], list[Record]]:
    """Rows per encoder, task, label set, preset and kind of tokens; and the agreement of selectors."""
    rows, agreement = list[dict](), list[dict]()
    for encoder in options.encoders:
        for case in cases(options):
            for preset in PRESETS:
                selected, rows_of_tokens = {}, {}
                for tokens in TOKENS:
                    run, selected[tokens] = dissect(options, encoder, case, tokens, preset)
                    key: dict = {"encoder": short_name(encoder), "case": case.name, "preset": preset, "tokens": tokens}
                    rows_of_tokens[tokens] = [key | row for row in selected[tokens].coverage.to_dict("records")]
                    agreement += [key | row for row in pd.read_csv(run / "agreement.csv").to_dict("records")]
                detectors = duration_detectors(selected["all"], selected["sounding"])
                rows += [row | detectors[row["label_set"]] for row in rows_of_tokens["all"]]
                rows += rows_of_tokens["sounding"]
    return rows, agreement


def duration_detectors(everything: Neurons, sounding: Neurons) -> dict[str, dict[str, float]]:
    """How many of the pairs selected over all tokens are left over sounding tokens, by label set."""
    q_all, q_sounding = (_q_values(neurons) for neurons in (everything, sounding))
    selected_over_sounding = set(_pairs(sounding.neurons))
    rates = {}
    for name in everything.coverage["label_set"]:
        pairs = _pairs(everything.neurons[everything.neurons["label_set"] == name])
        # A pair is (label set, class, layer, neuron): two parts find the class, two the neuron.
        significant = [pair for pair in pairs if q_all[pair[:2]][pair[2:]] <= LEVEL]
        lost = sum(not q_sounding[pair[:2]][pair[2:]] <= LEVEL for pair in significant)  # a q of NaN is lost, too
        rates[str(name)] = {
            "also_selected_over_sounding": _fraction(sum(pair in selected_over_sounding for pair in pairs), len(pairs)),
            "duration_detectors": _fraction(lost, len(significant)),
        }
    return rates


def _pairs(neurons: pd.DataFrame) -> list[tuple[str, str, int, int]]:
    return list(neurons[["label_set", "class", "layer", "neuron"]].itertuples(index=False, name=None))


def _q_values(neurons: Neurons) -> dict[tuple[str, str], np.ndarray]:
    """q-values (layer, neuron) by label set and class."""
    scores = neurons.scores
    names = zip(scores["class_label_set"].values.tolist(), scores["class"].values.tolist(), strict=True)
    return dict(zip(names, scores["q_value"].values, strict=True))


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def sharing(options: Options) -> list[Record]:
    """What the first encoder's classes share, within ESC-50 and FSDD, and octaves across the two sets of notes."""
    first, rows = short_name(options.encoders[0]), list[Record]()
    for case, others in (("fsdd", ()), ("esc50-train", ()), ("notes", ("notes2",))):
        run = options.runs / f"{first}-{case}-all"
        other_runs = tuple(options.runs / f"{first}-{other}-all" for other in others)
        pairs = run_share(ShareOptions(run=run, with_=other_runs)).table
        groups = pairs.groupby(["label_set_a", "run_b", "label_set_b"], sort=False)
        for (label_set_a, run_b, label_set_b), block in groups:
            with_neurons = block[(block["size_a"] > 0) & (block["size_b"] > 0)]
            row = {
                "case": case,
                "label_set_a": label_set_a,
                "with": Path(str(run_b)).name,
                "label_set_b": label_set_b,
                "pairs": len(with_neurons),
                "mean_shared": with_neurons["shared"].mean(),
                "mean_expected": with_neurons["expected_shared"].mean(),
                "null": with_neurons["null"].iloc[0] if len(with_neurons) else "",
                "share": int((with_neurons["q_value"] <= LEVEL).sum()),
                "in_particular": int((with_neurons["q_by_breadth"] <= LEVEL).sum()),
            }
            rows.append(row)
    return rows


def tables(record: Mapping[str, list[Record]]) -> str:
    """Survivors, duration detectors, sharing, and how far selectors agree, in Markdown."""
    rows, agreement = pd.DataFrame(record["label_sets"]), pd.DataFrame(record["agreement"])
    shared = pd.DataFrame(record["sharing"])
    shared_table = table(list(map(str, shared)), [list(map(_cell, row)) for row in shared.to_numpy()])
    agreements = [agreement_table(agreement, case, label_set) for case, label_set in AGREEMENT_SHOWN]
    return "\n\n".join([survivors(rows), durations(rows), shared_table, *agreements])


def survivors(rows: pd.DataFrame) -> str:
    """Over all tokens: pairs that were selected, that chance would select, that are significant."""
    with_pairs = rows[(rows["tokens"] == "all") & (rows["pairs"] > 0)]
    with_pairs = with_pairs.sort_values(["case", "label_set"], kind="stable")
    for percentage in ("coverage", "split_half_jaccard"):
        with_pairs = with_pairs.assign(**{percentage: with_pairs[percentage].map("{:.0%}".format)})
    cells = [list(map(_cell, row)) for row in with_pairs[list(LABEL_SET_COLUMNS)].to_numpy()]
    return table(list(LABEL_SET_COLUMNS.values()), cells)


def durations(rows: pd.DataFrame) -> str:
    """Preset lape: what is left of the pairs selected over all tokens when only sounding ones are counted."""
    lape = rows[rows["preset"] == "lape"].set_index(["case", "label_set", "encoder", "tokens"])
    lines = []
    for key in dict.fromkeys(index[:3] for index in lape.index.to_list()):
        everything, sounding = lape.loc[(*key, "all")], lape.loc[(*key, "sounding")]
        if everything["pairs"]:
            coverage = f"{everything['coverage']:.0%} / {sounding['coverage']:.0%}"
            fractions = (everything["also_selected_over_sounding"], everything["duration_detectors"])
            pairs = f"{everything['pairs']} / {sounding['pairs']}"
            lines.append([*key, coverage, pairs, *map(_percent, fractions)])
    head = (
        "clips | label set | encoder | coverage, all / sounding | pairs, all / sounding | "
        "selected over sounding, too | significant over all tokens only"
    )
    return table(head.split(" | "), lines)


def agreement_table(agreement: pd.DataFrame, case: str, label_set: str) -> str:
    """Rank correlation / Jaccard of every two selectors, for m2d_tiny, preset lape, all tokens."""
    where = {"encoder": "m2d_tiny", "case": case, "label_set": label_set, "preset": "lape", "tokens": "all"}
    for column, value in where.items():
        agreement = agreement[agreement[column] == value]
    cells = {
        (row.selector_a, row.selector_b): f"{row.rank_correlation:.2f} / {row.jaccard:.2f}"
        for row in agreement.itertuples()
    }
    lines = [[a, *(cells.get((a, b), "") for b in SELECTORS[1:])] for a in SELECTORS[:-1]]
    return f"m2d_tiny, {case}, {label_set}:\n\n" + table(["", *SELECTORS[1:]], lines)


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.0%}"


def _cell(value: object) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def main(options: Options) -> None:
    """Look, print the tables and write the record; or print the tables of a record."""
    if options.record is not None:
        print(tables(json.loads(options.record.read_text())))
        return
    rows, agreement = survey(options)
    record = {"label_sets": rows, "sharing": sharing(options), "agreement": agreement}
    print(tables(record))
    if options.out is not None:
        write_record(options.out, ("jax", "numpy", "scipy"), permutations=options.permutations, **record)


if __name__ == "__main__":
    main(tyro.cli(Options))
