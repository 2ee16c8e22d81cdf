"""Every clip's counts of a run directory, and what they are grouped by."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int, UInt16

from jaxdissect.errors import InputError, require
from jaxdissect.runtime.run_directory import Run, require_same_run
from jaxdissect.runtime.tables import read_netcdf

CLIP_COUNTS = "clip_counts.npy"
# The end of each message about the file of clip counts.
REMEDY = "count again with --keep-clips, or remove it and do without (--permutations 0)."


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
    """Every clip's counts, and what they are grouped by.

    Attributes:
      counts: active tokens of every clip; memory-mapped.
      tokens: counted tokens of every clip.
      members: classes of every clip; none for a clip that was not counted.
      sources: recording of every clip.
      folds: fold of every clip; -1 for none.
    """

    counts: UInt16[np.ndarray, "clip layer neuron"]
    tokens: Int[np.ndarray, " clip"]
    members: Bool[np.ndarray, "clip class"]
    sources: Sequence[str]
    folds: Sequence[int]


def read_clips(run: Run, counts: xr.Dataset, needed: bool = True) -> Clips | None:
    """Every clip's counts of a run; None if they were not kept.

    Args:
      run: run directory with the stage `activations`.
      counts: counts of the classes, from `activations.nc`.
      needed: whether a file that has been removed is an error; else the result is None then, too.

    Raises:
      InputError: the counts are cut off, or of another run.
    """
    counted = run.require("activations")
    if not counted["options"].get("keep_clips") or not (needed or run.file(CLIP_COUNTS).exists()):
        return None
    # Labels are stored as pairs of clip and class, since most clips have few of many classes.
    labels = read_netcdf(run.file("clip_labels.nc"))
    require_same_run(run, labels.attrs, counted)
    tokens = labels["tokens"].values
    members = np.zeros((labels.sizes["clip"], counts.sizes["class"]), bool)
    members[labels["label_clip"].values, labels["label_class"].values] = True
    return Clips(
        _read_counts(run, counts, labels.sizes["clip"]),
        tokens,
        members & (tokens > 0)[:, None],  # an unreadable or a silent clip may have labels and no token
        labels["source"].values.tolist(),
        labels["fold"].values.tolist(),
    )


def _read_counts(run: Run, counts: xr.Dataset, clips: int) -> UInt16[np.ndarray, "clip layer neuron"]:
    path = run.file(CLIP_COUNTS)
    shape = (clips, counts.sizes["layer"], counts.sizes["neuron"])
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}): {REMEDY}") from error
    require(
        stored.shape == shape and stored.dtype == np.uint16,
        f"{path} must hold uint16 counts of {shape} clips, layers and neurons, found {stored.dtype} of "
        f"{stored.shape}: it belongs to another run, {REMEDY}",
    )
    # All of the file is read once: a store of another run of the same shape would give wrong p-values silently.
    same = (stored.sum(axis=0, dtype=np.int64) == counts["total_active_tokens"].values).all()
    require(bool(same), f"{path} does not add up to activations.nc: it belongs to another run, {REMEDY}")
    return stored
