"""The overview of a run in words and numbers, which the page holds even without its script."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from jaxdissect.report.cautions import cautions_of
from jaxdissect.report.payload import Axes
from jaxdissect.report.payload_evidence import ProbeScores, probe_scores
from jaxdissect.report.run_contents import Contents
from jaxdissect.significance.assess import LEVEL
from jaxdissect.significance.held_out import TEST_SPLIT
from jaxdissect.significance.held_out_tables import GOOD_AUROC
from jaxdissect.types import Json, Record

MAX_BAD_CLIPS = 200  # clips that are listed as unreadable or silent
TOKENS = {
    "all": "every token, the class token too",
    "patches": "patches, without the class token",
    "sounding": "patches inside the recording and within 60 dB of its peak",
}


@dataclass(frozen=True)
class Fact:
    """A number of the run.

    Attributes:
      name: name of the number.
      value: the number as text, with its unit.
      meaning: explanation, in small print; may be empty.
    """

    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True)
class BadClip:
    """A clip that was not counted, or is silent.

    Attributes:
      file: name of the sound file.
      status: `unreadable` or `silent`.
      reason: why the clip cannot be read; empty for a silent clip.
    """

    file: str
    status: str
    reason: str


@dataclass(frozen=True)
class Figure:
    """A published figure beside the figure of this run.

    Attributes:
      name: name of the figure.
      class_name: class that it is about; empty for all classes.
      published: figure of the paper; a dash where there is none.
      here: figure of this run; a dash where there is none.
    """

    name: str
    class_name: str
    published: str
    here: str


@dataclass(frozen=True)
class Overview:
    """What the first section shows.

    Attributes:
      subject: encoder and task.
      neurons: class-specific neurons, and all neurons.
      rule: what the class-specific neurons have in common.
      facts: numbers of the count.
      label_sets: numbers of each label set, by its name.
      published: figures of a paper beside those of this run.
      cautions: sentences, by the part of the page whose numbers they are about.
      bad: clips that were not counted, or are silent.
      bad_unlisted: number of further bad clips.
      versions: versions of the packages that counted.
    """

    subject: str
    neurons: str
    rule: str
    facts: tuple[Fact, ...]
    label_sets: Mapping[str, tuple[Fact, ...]]
    published: tuple[Figure, ...]
    cautions: Mapping[str, tuple[str, ...]]
    bad: tuple[BadClip, ...]
    bad_unlisted: int
    versions: str


def overview(contents: Contents, axes: Axes) -> Overview:
    """The overview of a run.

    Args:
      contents: files of the run.
      axes: layers, neurons and classes of the page.

    Returns:
      Facts, tables and cautions, each with text that the template escapes.
    """
    counting = contents.stages.get("activations", {})
    bad = _bad_clips(contents)
    # The first stage counted; later stages may have run with other versions.
    versions: Record = next((record["versions"] for record in contents.stages.values() if "versions" in record), {})
    # A label set without any number gets no heading.
    label_sets = {name: _label_set(contents, name) for name in axes.label_sets}
    return Overview(
        subject=f"{counting['encoder']} on {counting['task']}" if "encoder" in counting else contents.name,
        neurons=f"{len(axes.neurons):,} of {axes.layers * axes.width:,} neurons",
        rule=selection_words(contents),
        facts=tuple(_facts(contents, axes)),
        label_sets={name: facts for name, facts in label_sets.items() if facts},
        published=_published(contents),
        cautions=cautions_of(contents),
        bad=bad[:MAX_BAD_CLIPS],
        bad_unlisted=max(len(bad) - MAX_BAD_CLIPS, 0),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )


def _bad_clips(contents: Contents) -> tuple[BadClip, ...]:
    """Clips that were not counted, or are silent, in the order of the task's table."""
    clips = contents.tables.get("clips.csv")
    if clips is None:  # left out, which the page says elsewhere
        return ()
    rows = clips[clips["status"].isin(["unreadable", "silent"])]
    return tuple(BadClip(*row) for row in rows[["file_name", "status", "reason"]].itertuples(index=False, name=None))


def _facts(contents: Contents, axes: Axes) -> list[Fact]:
    """Numbers of the count: encoder, task, neurons, clips and tokens; and the rule by which neurons were chosen.

    Args:
      contents: files of the run.
      axes: layers, neurons and classes of the page.
    """
    counting = contents.stages.get("activations", {})
    options, counts = counting.get("options", {}), contents.counts
    facts = [
        Fact("Encoder", str(counting.get("encoder", "not recorded"))),
        Fact("Task", str(counting.get("task", "not recorded")), f"{options.get('split', '?')} split"),
    ]
    if axes.layers:
        size = f"{axes.layers} layers of {axes.width:,}, read after GELU"
        facts.append(Fact("Neurons", f"{axes.layers * axes.width:,}", size))
    if counts is not None:
        length = f"of {counting['unit_seconds']:g} s, cropped or padded" if counting.get("unit_seconds") else ""
        # Totals are over all clips: a clip of several label sets is counted once.
        never = int((counts["total_active_tokens"].values == 0).sum())
        facts += [
            Fact("Clips counted", f"{int(counts['total_clips']):,}", length),
            Fact("Tokens", f"{int(counts['total_tokens']):,}", TOKENS.get(str(options.get("tokens")), "")),
            Fact("Never fire", f"{never:,}", "neurons that no token of any clip activates"),
        ]
    choosing = contents.stages.get("neurons", {}).get("options")
    if choosing:
        fraction = f"keeps {100 * choosing['keep']:g}% of the neurons" if "keep" in choosing else ""
        if choosing.get("selector") == "auroc":
            fraction = f"at most {choosing.get('per_class')} neurons a class, of AUROC ≥ {choosing.get('least')}"
        rule = f"preset {choosing.get('preset', '?')}" if chosen_by_preset(choosing) else str(choosing["selector"])
        facts.append(Fact("Selection", rule, fraction))
    return facts


def chosen_by_preset(choosing: Mapping[str, Json]) -> bool:
    """Whether a preset chose the neurons, and not another score in its place; both are recorded.

    Args:
      choosing: recorded options of the stage `neurons`.
    """
    return choosing.get("selector") in (None, "aape", choosing.get("preset"))


def selection_words(contents: Contents) -> str:
    """What the neurons of a run have in common, by the rule that chose them; the end of "Each neuron ...".

    Args:
      contents: files of the run.
    """
    choosing = contents.stages.get("neurons", {}).get("options", {})
    if choosing.get("selector") == "auroc":
        return "each tells clips of a class from all others (AUROC)"
    if choosing.get("selector", "aape") == "aape":
        return "each has a low AAPE, and is active more often for a class than the bar asks"
    return f"each is among those of the highest {choosing['selector'].replace('_', ' ')} for a class"


def _label_set(contents: Contents, label_set: str) -> tuple[Fact, ...]:
    """Numbers of a label set: coverage, significance, stability, sharing and probe score, as far as they are known.

    Args:
      contents: files of the run.
      label_set: name of the label set.
    """
    coverage, sharing = contents.tables.get("coverage.csv"), contents.data.get("sharing.nc")
    rows = [] if coverage is None else coverage[coverage["label_set"] == label_set].to_dict("records")
    probe = probe_scores(contents, label_set)
    facts = [fact for row in rows for fact in _coverage(row)]
    if sharing is not None and "q_by_breadth" in sharing:
        facts += _sharing(sharing, label_set)
    return (*facts, *([] if probe is None else [_probe(probe)]))


def _coverage(row: Mapping[Hashable, Json]) -> list[Fact]:
    """Numbers of a row of `coverage.csv`.

    Args:
      row: the row; what permutations and resampling add may be missing or NaN.
    """
    interval = ""
    if _has(row, "coverage_low"):
        interval = f"; {row['coverage_low']:.0%} to {row['coverage_high']:.0%} over resampled recordings"
    covered = f"{row['covered']:.0f} of {row['classes']:.0f} classes have a class-specific neuron{interval}"
    facts = [
        *_held_out(row),
        Fact("Coverage", f"{row['coverage']:.0%}", covered),
        Fact("Neurons per class", f"{row['mean_neurons_per_class']:.1f}", "class-specific neurons, mean over classes"),
        Fact("Kept neurons", f"{row['kept_neurons']:,.0f}", "specific to some class, or kept by AAPE before the bar"),
    ]
    if _has(row, "pairs_by_chance"):
        meaning = (
            f"{row['pairs_by_chance']:,.1f} would pass the same cut-offs under permuted labels; "
            f"{row['pairs_significant']:,.0f} have q ≤ {LEVEL}"
        )
        facts.append(Fact("Pairs of class and neuron", f"{row['pairs']:,.0f}", meaning))
    if _has(row, "split_half_jaccard"):
        meaning = "of the pairs agree between random halves of the recordings (Jaccard)"
        facts.append(Fact("Stability", f"{row['split_half_jaccard']:.0%}", meaning))
    return facts


def _held_out(row: Mapping[Hashable, Json]) -> list[Fact]:
    """What the neurons of a label set are worth on clips that they were not chosen by; none where none was judged."""
    if not _has(row, "held_out_auroc"):
        return []
    where = "on the test split" if row["held_out_by"] == TEST_SPLIT else "on the other half of the recordings"
    meaning = (
        f"median over pairs, {where}; a tenth below {row['held_out_auroc_q10']:.2f}; 0.5 is chance; "
        f"{row['classes_held_out']:.0f} of {row['classes']:.0f} classes have a neuron of at least {GOOD_AUROC}"
    )
    return [Fact("AUROC held out", f"{row['held_out_auroc']:.2f}", meaning)]


def _has(row: Mapping[Hashable, Json], name: str) -> bool:
    """Whether a row has a number, which permutations or resampling add."""
    return not math.isnan(row.get(name, math.nan))


def _sharing(sharing: xr.Dataset, label_set: str) -> list[Fact]:
    """How many pairs of classes of a label set share more neurons than sizes and breadth explain.

    Args:
      sharing: content of `sharing.nc`, with `q_by_breadth` (class_a, class_b).
      label_set: name of the label set.

    Returns:
      One fact, or none if fewer than two classes have neurons.
    """
    rows = np.flatnonzero((sharing["label_set_a"].values == label_set) & (sharing["size_a"].values > 0))
    # The classes of the run are the first columns, in the order of the rows: above the diagonal, each pair is once.
    q_values = sharing["q_by_breadth"].values[np.ix_(rows, rows)][np.triu_indices(len(rows), 1)]
    if not len(q_values):
        return []
    meaning = (
        f"of {len(q_values):,} pairs of classes share more neurons than their sizes and the breadth of the neurons "
        f"explain (q ≤ {LEVEL})"
    )
    return [Fact("Sharing in particular", f"{int((q_values <= LEVEL).sum()):,}", meaning)]


def _probe(scores: ProbeScores) -> Fact:
    """The mean test score of the probes of a label set, beside their other scores.

    Args:
      scores: scores by split; the score of a split without clips is NaN.
    """
    # The deviation is over the seeds (and folds) of the probes, and one probe has none.
    several = f" ± {100 * scores.deviation['test']:.1f}" if scores.probes > 1 else ""
    meaning = f"{scores.metric} on {scores.clips:,} test clips, {scores.probes} probe{'s' * (scores.probes != 1)}"
    # A large gap between train and test shows a probe that has learnt its clips by heart.
    others = {split: scores.mean.get(split, math.nan) for split in ("train", "valid")}
    more = ", ".join(f"{split} {score:.1%}" for split, score in others.items() if not math.isnan(score))
    return Fact("Linear probe", f"{scores.mean['test']:.1%}{several}", "; ".join(filter(None, (meaning, more))))


def _published(contents: Contents) -> tuple[Figure, ...]:
    """Published figures of `reproduction.csv`; none if nothing was reproduced."""
    table = contents.tables.get("reproduction.csv")
    rows = [] if table is None else table.to_dict("records")
    return tuple(Figure(row["figure"], row["class"], _plain(row["published"]), _plain(row["found"])) for row in rows)


def _plain(value: float) -> str:
    """A whole number with commas, another number with three digits, a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:,.0f}" if value.is_integer() else f"{value:.3g}"
