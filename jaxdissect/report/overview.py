"""The overview of a run in words and numbers, which stands in the page even without its script."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from jaxdissect.report.payload import Frame
from jaxdissect.report.payload_checks import probe_scores
from jaxdissect.report.run_contents import Contents, Missing
from jaxdissect.significance.assess import LEVEL
from jaxdissect.significance.cautions import (
    Basis,
    counting_cautions,
    has_p_values,
    recording_cautions,
    selection_cautions,
)

LISTED = 200  # clips that could not be counted
TOKENS = {
    "all": "every token, the class token too",
    "patches": "patches, without the class token",
    "sounding": "patches inside the recording and within 60 dB of its peak",
}


@dataclass(frozen=True)
class Fact:
    """A number with its name, and what it means."""

    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True)
class BadClip:
    """A clip that was not counted, or is silent."""

    file: str
    status: str
    reason: str


@dataclass(frozen=True)
class Figure:
    """A published figure beside the one found here; a dash where there is none."""

    name: str
    class_name: str
    published: str
    found: str


@dataclass(frozen=True)
class Overview:
    """What the first section shows.

    Attributes:
      facts: of the run.
      coverage: facts of each label set, by its name.
      published: figures of a paper beside those found here.
      warnings: sentences.
      missing: what is not there.
      bad: clips that were not counted, or are silent.
      bad_unlisted: how many more.
      commands: that made the run.
      versions: of the packages.
    """

    facts: tuple[Fact, ...]
    coverage: tuple[tuple[str, tuple[Fact, ...]], ...]
    published: tuple[Figure, ...]
    warnings: tuple[str, ...]
    missing: tuple[Missing, ...]
    bad: tuple[BadClip, ...]
    bad_unlisted: int
    commands: tuple[str, ...]
    versions: str


def overview(
    contents: Contents, axes: Frame, missing: tuple[Missing, ...], warnings: tuple[str, ...], commands: Sequence[str]
) -> Overview:
    """The overview of what a run directory holds.

    Args:
      contents: content of the run directory.
      axes: layers, neurons and classes of the page.
      missing: what the page does without.
      warnings: sentences beside those that the contents give rise to.
      commands: command lines that made the run.
    """
    clips = contents.tables.get("clips")
    bad: tuple[BadClip, ...] = ()
    if clips is not None:
        rows = clips[clips["status"].isin(["unreadable", "silent"])]
        bad = tuple(BadClip(*row) for row in rows[["file_name", "status", "reason"]].itertuples(index=False, name=None))
    versions = next((record.get("versions") for record in contents.stages.values()), None) or {}
    sentences = (*contents.warnings, *_cautions(contents), *warnings)
    return Overview(
        _facts(contents, axes), _label_sets(contents, axes), _published(contents), sentences, missing, bad[:LISTED],
        max(len(bad) - LISTED, 0), tuple(commands),
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    )  # fmt: skip


def _facts(contents: Contents, axes: Frame) -> tuple[Fact, ...]:
    record: Any = contents.stages.get("activations", {})
    options, counts = record.get("options", {}), contents.counts
    found = [
        Fact("Encoder", str(record.get("encoder", "not recorded"))),
        Fact("Task", str(record.get("task", "not recorded")), f"{options.get('split', '?')} split"),
    ]
    if axes.layers:
        found.append(
            Fact("Neurons", f"{axes.layers * axes.width:,}", f"{axes.layers} layers of {axes.width:,}, read after GELU")
        )
    if counts is not None:
        unit = record.get("unit_seconds")
        length = f"of {unit:g} s, cropped or padded" if isinstance(unit, (int, float)) else ""
        tokens = int(counts["total_tokens"])
        never = int((counts["total_active_tokens"].values == 0).sum())
        found += [
            Fact("Clips counted", f"{int(counts['total_clips']):,}", length),
            Fact("Tokens", f"{tokens:,}", TOKENS.get(str(options.get("tokens")), "")),
            Fact("Never fire", f"{never:,}", "neurons that no token of any clip activates"),
        ]
    chosen = contents.stages.get("neurons", {}).get("options")
    if chosen:
        keep = chosen.get("keep")
        share = f"keeps {100 * keep:g}% of the neurons" if isinstance(keep, (int, float)) else ""
        found.append(Fact("Selection", f"{chosen.get('selector', '?')}, preset {chosen.get('preset', '?')}", share))
    return tuple(found)


def _label_sets(contents: Contents, axes: Frame) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    table = contents.tables.get("coverage")
    rows: dict[str, Any] = {} if table is None else {str(row["label_set"]): row for row in table.to_dict("records")}
    found = []
    for name in dict.fromkeys([*rows, *axes.label_sets]):
        facts = [
            *(_coverage(rows[name]) if name in rows else ()),
            *_sharing(contents.data.get("sharing"), name),
            *_probe(probe_scores(contents, name)),
        ]
        if facts:
            found.append((name, tuple(facts)))
    return tuple(found)


def _coverage(row: Mapping[str, Any]) -> list[Fact]:
    interval = ""
    if _known(row, "coverage_low"):
        interval = f"; {row['coverage_low']:.0%} to {row['coverage_high']:.0%} over resampled recordings"
    facts = [
        Fact(
            "Coverage",
            f"{row['coverage']:.0%}",
            f"{row['covered']:.0f} of {row['classes']:.0f} classes have a class-specific neuron{interval}",
        ),
        Fact("Neurons per class", f"{row['mean_neurons_per_class']:.1f}", "class-specific neurons, mean over classes"),
        Fact(
            "Kept neurons",
            f"{row['kept_neurons']:,.0f}",
            "as many as the selection is told to keep, on shuffled labels too",
        ),
    ]
    if _known(row, "pairs_by_chance"):
        facts.append(
            Fact(
                "Pairs of class and neuron",
                f"{row['pairs']:,.0f}",
                f"{row['pairs_by_chance']:,.1f} would pass the same cut-offs under permuted labels; "
                f"{row['pairs_significant']:,.0f} have q ≤ {LEVEL}",
            )
        )
    if _known(row, "split_half_jaccard"):
        facts.append(
            Fact(
                "Stability",
                f"{row['split_half_jaccard']:.0%}",
                "of the pairs agree between random halves of the recordings (Jaccard)",
            )
        )
    return facts


def _known(row: Mapping[str, Any], name: str) -> bool:
    return name in row and not math.isnan(row[name])


def _sharing(sharing: xr.Dataset | None, label_set: str) -> list[Fact]:
    """How many pairs of classes share neurons beyond what sizes and breadth explain."""
    if sharing is None or "q_by_breadth" not in sharing:
        return []
    rows = np.flatnonzero((sharing["label_set_a"].values == label_set) & (sharing["size_a"].values > 0))
    q_value = sharing["q_by_breadth"].values[np.ix_(rows, rows)][np.triu_indices(len(rows), 1)]
    if not len(q_value):
        return []
    meaning = (
        f"of {len(q_value):,} pairs of classes with neurons, beyond what their sizes and the breadth of the neurons "
        f"explain (q ≤ {LEVEL})"
    )
    return [Fact("Share in particular", f"{int((q_value <= LEVEL).sum()):,}", meaning)]


def _probe(scores: Mapping[str, Any]) -> list[Fact]:
    if not scores or "test" not in scores["mean"]:
        return []
    others = ", ".join(
        f"{split} {scores['mean'][split]:.1%}"
        for split in ("train", "valid")
        if not math.isnan(scores["mean"].get(split, math.nan))
    )
    several = f" ± {100 * scores['deviation']['test']:.1f}" if scores["probes"] > 1 else ""
    probes = f"{scores['probes']} probe{'s' * (scores['probes'] != 1)}"
    meaning = f"{scores['metric']} on {scores['clips']:,} test clips, {probes}" + (f"; {others}" if others else "")
    return [Fact("Linear probe", f"{scores['mean']['test']:.1%}{several}", meaning)]


def _published(contents: Contents) -> tuple[Figure, ...]:
    table = contents.tables.get("reproduction")
    if table is None:
        return ()
    return tuple(
        Figure(row["figure"], row["class"], _plain(row["published"]), _plain(row["found"]))
        for row in table.to_dict("records")
    )


def _plain(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}" if value.is_integer() else f"{value:.3g}"


def _cautions(contents: Contents) -> list[str]:
    record: Mapping[str, Any] = contents.stages.get("activations", {})
    table, scores, labels = (
        contents.tables.get("coverage"),
        contents.data.get("scores"),
        contents.data.get("clip_labels"),
    )
    found = []
    if table is not None and "pairs_by_chance" not in table:
        found.append(
            "AAPE keeps a fixed share of neurons, on shuffled labels too: the number found says nothing by itself. "
            "Count with --keep-clips for p- and q-values, and compare with an untrained encoder."
        )
    if table is not None and scores is not None:
        found += selection_cautions(table, scores.attrs)
    found += counting_cautions(record, contents.tables.get("clips"))
    if "ablation" in contents.tables or (table is not None and has_p_values(table)):
        sources = None if labels is None else labels["source"].values.tolist()
        classes = 0 if table is None else int(table["classes"].max())
        found += recording_cautions(Basis(record, contents.tables.get("clips"), sources), classes)
    if record.get("options", {}).get("tokens") == "all":
        found.append(
            "Every token was counted, those of silence and padding too: neurons that answer to duration or silence may "
            "look class-specific. Hold it against a run with --tokens sounding."
        )
    return found
