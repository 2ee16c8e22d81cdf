"""Warnings that a result should not be read without: the same sentences for summaries, `--json` and the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from jaxdissect.errors import InputError
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.significance.held_out import LEAST_CLIPS, LEAST_RECORDINGS, NOTHING
from jaxdissect.tasks.recordings import BY_COLUMN, BY_NAME, suspected_groups
from jaxdissect.types import Json

INDEPENDENT = (
    "Every clip was treated as independent. If several clips were cut from one recording, p-values are too small and "
    "intervals too narrow. Add the column src_file to the table: it names the recording of each clip."
)
LEAST_FILLED = 0.5  # mean fraction of the unit length that recordings fill, below which a caution is given
HIGHEST_BAR, HIGHEST_AAPE = 0.95, 0.99  # bar, and median normalised AAPE, above which a caution is given
LEAST_HELD_OUT = 0.6  # median AUROC on held-out clips below which a caution is given
MOST_FIXED = 0.5  # fraction of clips whose labels cannot be exchanged, above which a caution is given


@dataclass(frozen=True, eq=False)
class Basis:
    """What a run directory says of its count, as far as cautions need it.

    Attributes:
      record: record of the stage `activations`, from `run.json`.
      clips: columns `file_name`, `status` and `samples` of `clips.csv`; None where it cannot be read.
      sources: recording of each clip; None where `clip_labels.nc` cannot be read.
    """

    record: Mapping[str, Json]
    clips: pd.DataFrame | None
    sources: Sequence[str] | None

    @property
    def recordings_from(self) -> str:
        """Column of the task's table that names the recordings; empty where no column does."""
        recorded = self.record.get("recordings")
        if isinstance(recorded, Mapping):
            return str(recorded.get("from", ""))
        # An older record does not name the column. A recording that is not named as its file came from a column.
        if self.clips is None or self.sources is None:
            return ""
        return "" if list(self.sources) == self.clips["file_name"].tolist() else BY_COLUMN


def read_basis(run: Run) -> Basis:
    """Read what a run directory says of its count.

    A file that cannot be read is left out, since the command that needs it reports the fault.

    Args:
      run: run directory with the stage `activations`.
    """
    try:
        clips = pd.read_csv(run.file("clips.csv"), keep_default_na=False, dtype=str)
        clips = clips.astype({"samples": float})[["file_name", "status", "samples"]]
    except (OSError, ValueError, KeyError):
        clips = None
    try:
        sources = read_netcdf(run.file("clip_labels.nc"))["source"].values.tolist()
    except (InputError, KeyError):
        sources = None
    return Basis(run.stages().get("activations", {}), clips, sources)


def counting_cautions(record: Mapping[str, Json], clips: pd.DataFrame | None) -> list[str]:
    """Cautions on a count: most of it is padding; no clip is left to test the neurons on.

    Args:
      record: record of the stage `activations`.
      clips: table with columns `status` and `samples`; None: unknown.
    """
    return [*(_padding(record, clips) if clips is not None else ()), *_no_test_clips(record)]


def _padding(record: Mapping[str, Json], clips: pd.DataFrame) -> list[str]:
    counted = clips[clips["status"] != "unreadable"]
    seconds, rate = record.get("unit_seconds"), record.get("sample_rate")
    # An older record has no sample rate; there a recording that fills its clip shows the unit length in samples.
    full = counted[counted["status"] == "ok"]["samples"]
    unit = round(seconds * rate) if seconds and rate else full.max() if len(full) else 0
    if not unit or record.get("options", {}).get("tokens") == "sounding":
        return []
    filled = float(counted["samples"].mean()) / unit
    if not filled < LEAST_FILLED:  # NaN, of no counted clip, is no caution
        return []
    length = f" of {seconds:g} s" if seconds else ""
    return [
        f"More than half of the counted time is padding: on average a recording fills {filled:.0%} of the unit "
        f"length{length}. Neurons that respond to silence may then look class-specific. Count again with --tokens "
        f"sounding, or with a shorter --unit-seconds."
    ]


def _no_test_clips(record: Mapping[str, Json]) -> list[str]:
    split, splits = record.get("options", {}).get("split"), record.get("splits")
    consequence = "so no clip is left to test the chosen neurons on, and they are judged by halves of the recordings"
    if splits is not None and not splits.get("test"):
        return [f"The task has no test split, {consequence}. Mark clips as test in its table."]
    if split in ("all", "test"):
        return [f"The test split was counted too (--split {split}), {consequence}. Count with --split train instead."]
    return []


def selection_cautions(coverage: pd.DataFrame, rule: Mapping[str, object]) -> list[str]:
    """Cautions on a selection: label sets without neurons, classes left out, classes and clips that were not tested.

    Args:
      coverage: table of `coverage.csv`.
      rule: attributes of `scores.nc`: preset, selector, keep, bar, skipped_classes.
    """
    lines = [*_no_class_has_a_neuron(coverage, rule), *_hollow(coverage, rule), *_unjudged(coverage)]
    without = coverage["label_set"][coverage["kept_neurons"] == 0]
    if len(without) and rule.get("selector") != "auroc":  # of which another sentence says why
        lines.append(
            f"No neuron was kept for {', '.join(without)}: --keep {rule.get('keep', '')} rounds to no neuron, or no "
            f"neuron passes the filters."
        )
    if rule.get("skipped_classes"):
        lines.append(f"Classes without a counted token were left out: {rule['skipped_classes']}.")
    for _, row in coverage.iterrows():
        # The two columns are missing where no labels were permuted.
        if row.get("classes_untested", 0) > 0:
            lines.append(
                f"{row['label_set']}: {row['classes_untested']:.0f} of {row['classes']:.0f} classes were not tested. "
                f"They have fewer than two recordings, or no recording of another class to exchange labels with."
            )
        if row.get("fixed_clips", 0) > MOST_FIXED:
            lines.append(
                f"{row['label_set']}: the labels of {row['fixed_clips']:.0%} of the clips could not be exchanged. "
                f"No recording of their fold with as many clips has another class. The p-values rest on the other "
                f"clips."
            )
    return lines


def _no_class_has_a_neuron(coverage: pd.DataFrame, rule: Mapping[str, object]) -> list[str]:
    """Why every class of a label set is without a neuron, and what helps."""
    # Of a selection by AAPE that kept nothing another sentence says why.
    reached = (coverage["kept_neurons"] > 0) | (rule.get("selector") == "auroc")
    label_sets = coverage["label_set"][(coverage["covered"] == 0) & reached]
    if not len(label_sets):
        return []
    finding = f"No class of {', '.join(label_sets)} has a neuron"
    if rule.get("selector") == "auroc":
        return [
            f"{finding}: no neuron tells a class from the others with an AUROC of {rule.get('least')} and q <= "
            f"{rule.get('level')}. Classes may have too few recordings, or the encoder no such neuron."
        ]
    if (rule.get("preset"), rule.get("selector")) != ("aape", "aape"):
        return [f"{finding}. Take --preset auroc, which chooses by how well a neuron tells the class from the others."]
    return [
        f"{finding}: the neurons of lowest AAPE fire too seldom to exceed --bar {rule.get('bar', '')}. A larger --keep "
        f"does not change that. Take --preset auroc, or --preset lape, which applies the bar first."
    ]


def _hollow(coverage: pd.DataFrame, rule: Mapping[str, object]) -> list[str]:
    """Selections that mean little: neurons that fire alike for all classes, or do not tell them on held-out clips."""
    lines = []
    remedy = " Take --preset auroc." if rule.get("selector") != "auroc" else ""
    for _, row in coverage[coverage["covered"] > 0].iterrows():
        name = row["label_set"]
        if rule.get("selector") == "aape" and row.get("probability_bar", 0) > HIGHEST_BAR:
            lines.append(
                f"{name}: a neuron must be active at more than {row['probability_bar']:.1%} of a class's tokens (the "
                f"bar). Neurons that are nearly always on lead then.{remedy}"
            )
        if rule.get("selector") == "aape" and row.get("median_aape_normalised", 0) > HIGHEST_AAPE:
            lines.append(
                f"{name}: the chosen neurons fire almost alike for all classes: their median AAPE is "
                f"{row['median_aape_normalised']:.4f} of the highest possible, and they fire {row['median_ratio']:.2f} "
                f"times as often for their class as for the others.{remedy}"
            )
        if row.get("held_out_auroc", 1) < LEAST_HELD_OUT:
            lines.append(
                f"{name}: on clips that they were not chosen by, the neurons hardly tell their class from the others: "
                f"their median AUROC is {row['held_out_auroc']:.2f}, and 0.5 is chance. Do not name them after their "
                f"classes.{remedy}"
            )
    return lines


def _unjudged(coverage: pd.DataFrame) -> list[str]:
    """Neurons that could not be judged on clips that they were not chosen by."""
    lines = []
    for _, row in coverage[coverage["covered"] > 0].iterrows():
        name, by = row["label_set"], row.get("held_out_by")
        if by == NOTHING:
            lines.append(
                f"{name}: the neurons were judged on no clips but those that chose them, since the task has no other "
                f"split and this selection cannot be repeated on half of it. Mark clips as test in its table."
            )
        elif isinstance(by, str) and row["classes_judged"] < row["covered"]:
            lines.append(
                f"{name}: the neurons of {row['covered'] - row['classes_judged']:.0f} of {row['covered']:.0f} classes "
                f"were not judged on held-out clips. It takes {LEAST_CLIPS} clips of {LEAST_RECORDINGS} recordings of "
                f"the class, and as many of the others."
            )
        if row.get("held_out_left_out", 0) > 0:
            lines.append(
                f"{name}: {row['held_out_left_out']:.0f} held-out clips were left out, because clips of the same "
                f"recordings chose the neurons."
            )
    return lines


def independence_cautions(recordings_from: str) -> list[str]:
    """Caution that p-values and intervals treat clips as independent, where no column says which belong together.

    Args:
      recordings_from: column that names the recordings, as of a `Task`; empty where no column does.
    """
    return [] if recordings_from else [INDEPENDENT]


def recording_cautions(basis: Basis, classes: int = 0) -> list[str]:
    """Cautions on what p-values assume of recordings: that clips are independent, or that some stand alone.

    Args:
      basis: result of `read_basis`.
      classes: number of classes of the largest label set; as many groups of file names may be its classes.
    """
    names = [] if basis.clips is None else basis.clips["file_name"].tolist()
    lines = independence_cautions(basis.recordings_from)
    # File names are searched for groups only where no column names the recordings.
    suspicion = suspected_groups(names) if lines else None
    if suspicion is not None and suspicion.groups > classes:
        lines.append(
            f"File names suggest that clips belong together: {suspicion.clips:,} clips have {suspicion.groups:,} "
            f"beginnings, and {suspicion.size:,} of them begin with {suspicion.example!r}."
        )
    if basis.recordings_from == BY_NAME and basis.sources is not None and len(names) == len(basis.sources):
        alone = [name for name, source in zip(names, basis.sources, strict=True) if name == source]
        if alone:
            lines.append(
                f"{len(alone):,} of {len(names):,} file names do not follow the task's naming; the first is "
                f"{alone[0]!r}. Each of these clips was treated as a recording of its own. The column src_file can "
                f"name their recordings."
            )
    return lines


def has_p_values(coverage: pd.DataFrame) -> bool:
    """Whether labels were permuted and recordings resampled for a table of coverage."""
    return "pairs_significant" in coverage
