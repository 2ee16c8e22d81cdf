"""What a result should not be read without: one source for summaries, `--json` and the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from jaxdissect.errors import InputError
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.tasks.recordings import BY_COLUMN, BY_NAME, suspected_groups

INDEPENDENT = (
    "Every clip was taken as independent: if several were cut from one recording, p-values are too small and intervals "
    "too narrow. Add the column src_file, which names the recording of each clip, to the table."
)
MUCH_PADDING = 0.5  # share of the unit length that recordings fill, below which it is told
MUCH_FIXED = 0.5  # share of clips whose labels cannot be exchanged, above which it is told


@dataclass(frozen=True, eq=False)
class Basis:
    """What is known of a count, for whom it was made.

    Attributes:
      record: of the stage `activations`, in `run.json`.
      clips: `clips.csv`; None where it cannot be read.
      sources: recording of each clip; None where `clip_labels.nc` cannot be read.
    """

    record: Mapping[str, Any]
    clips: pd.DataFrame | None
    sources: Sequence[str] | None

    @property
    def recordings_from(self) -> str:
        """Column of the task's table that tells of recordings; empty: none does."""
        recorded = self.record.get("recordings")
        if isinstance(recorded, Mapping):
            return str(recorded.get("from", ""))
        if self.clips is None or self.sources is None:
            return ""
        return "" if list(self.sources) == self.clips["file_name"].tolist() else BY_COLUMN


def read_basis(run: Run) -> Basis:
    """What a run directory tells of its count; what cannot be read is told by others and left out here."""
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


def counting_cautions(record: Mapping[str, Any], clips: pd.DataFrame | None) -> list[str]:
    """Padding that makes up most of what was counted; no split on which the neurons could be judged.

    Args:
      record: of the stage `activations`.
      clips: columns `status` and `samples`.
    """
    return [*(_padding(record, clips) if clips is not None else ()), *_no_split_beside(record)]


def _padding(record: Mapping[str, Any], clips: pd.DataFrame) -> list[str]:
    counted = clips[clips["status"] != "unreadable"]
    whole = counted[counted["status"] == "ok"]["samples"]
    seconds, rate = record.get("unit_seconds"), record.get("sample_rate")
    unit = round(seconds * rate) if seconds and rate else whole.max() if len(whole) else 0
    if not unit or record.get("options", {}).get("tokens") == "sounding":
        return []
    filled = float(counted["samples"].mean()) / unit
    if not filled < MUCH_PADDING:
        return []
    length = f" of {seconds:g} s" if seconds else ""
    return [
        f"More than half of the counted time is padding: on average a recording fills {filled:.0%} of the unit "
        f"length{length}. Neurons that answer to silence may then look class-specific: count again with --tokens "
        f"sounding, or with a shorter --unit-seconds."
    ]


def _no_split_beside(record: Mapping[str, Any]) -> list[str]:
    split, splits = record.get("options", {}).get("split"), record.get("splits")
    unseen = "so no clip is left on which these neurons can be judged that did not choose them"
    if splits is not None and not splits.get("test"):
        return [f"The task has no test split, {unseen}. Mark clips as test in its table."]
    if split in ("all", "test"):
        return [f"The test split was counted too (--split {split}), {unseen}. Count with --split train for a claim."]
    return []


def selection_cautions(coverage: pd.DataFrame, rule: Mapping[str, Any]) -> list[str]:
    """Label sets and classes without neurons and why; classes left out; what could not be tested.

    Args:
      coverage: as `coverage.csv`.
      rule: attributes of `scores.nc`: preset, selector, keep, bar, skipped_classes.
    """
    lines = [*_bare(coverage, rule)]
    if not (coverage["kept_neurons"] > 0).all():
        lines.append(f"No neuron was kept where --keep {rule.get('keep', '')} rounds to none, or none qualifies.")
    if rule.get("skipped_classes"):
        lines.append(f"Left out, without a counted token: {rule['skipped_classes']}.")
    for _, row in coverage.iterrows():
        if row.get("classes_untested", 0) > 0:
            lines.append(
                f"{row['label_set']}: {row['classes_untested']:.0f} of {row['classes']:.0f} classes were not tested: "
                f"they have fewer than two recordings, or no recording of another class to exchange labels with."
            )
        if row.get("fixed_clips", 0) > MUCH_FIXED:
            lines.append(
                f"{row['label_set']}: the labels of {row['fixed_clips']:.0%} of the clips could not be exchanged: "
                f"no recording of their fold with as many clips is of another class. p-values rest on the others."
            )
    return lines


def _bare(coverage: pd.DataFrame, rule: Mapping[str, Any]) -> list[str]:
    """Why every class of a label set is without a neuron, and what helps."""
    bare = coverage["label_set"][(coverage["covered"] == 0) & (coverage["kept_neurons"] > 0)]
    if not len(bare):
        return []
    if (rule.get("preset"), rule.get("selector")) != ("aape", "aape"):
        return [f"No class of {', '.join(bare)} has a neuron. Take a larger --keep, or a lower --bar."]
    return [
        f"No class of {', '.join(bare)} has a neuron: those of lowest AAPE fire too seldom to exceed --bar "
        f"{rule.get('bar', '')}. Take --preset lape, which asks for the bar first, or a larger --keep."
    ]


def independence_cautions(recordings_from: str) -> list[str]:
    """That p-values and intervals take clips as independent, where no table says which belong together.

    Args:
      recordings_from: as of a `Task`.
    """
    return [] if recordings_from else [INDEPENDENT]


def recording_cautions(basis: Basis, classes: int = 0) -> list[str]:
    """What p-values take for granted of recordings: that there are none, or that some clips stand by themselves.

    Args:
      basis: of the count.
      classes: of the largest label set; as many groups of file names may be its classes.
    """
    names = [] if basis.clips is None else basis.clips["file_name"].tolist()
    lines = independence_cautions(basis.recordings_from)
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
                f"{len(alone):,} of {len(names):,} file names do not follow the task's naming, {alone[0]!r} first: "
                f"each of these clips was taken as a recording of its own. The column src_file can name it."
            )
    return lines


def has_p_values(coverage: pd.DataFrame) -> bool:
    """Whether labels were permuted or recordings resampled."""
    return "pairs_significant" in coverage
