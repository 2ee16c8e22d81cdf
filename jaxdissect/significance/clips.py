"""What every neuron did on every clip of a run directory, and what the clips are grouped by."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float32, Int, UInt16

from jaxdissect.counting.clip_store import STORE_FILES, STORE_TYPES
from jaxdissect.errors import InputError, require
from jaxdissect.runtime.run_directory import Run, require_same_run
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.selection.auroc import READINGS
from jaxdissect.significance.units import Units, find_units

NO_READINGS = (
    "Means and peaks of the clips were not kept, since an older version has counted. Count again into another --run, "
    "or take --preset lape."
)
# The end of each message about a file of the store.
REMEDY = "count again with --keep-clips, or remove it and do without (--preset lape --permutations 0)."


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
    """What every neuron did on every clip, and what the clips are grouped by.

    Attributes:
      counts: active tokens of every clip; memory-mapped.
      tokens: counted tokens of every clip.
      members: classes of every clip by which neurons are chosen; none for a clip that was not counted, or is held out.
      sources: recording of every clip.
      folds: fold of every clip; -1 for none.
      means, peaks, excesses: readings of every clip, as in `ClipStore`; memory-mapped. None: an older version counted.
      held_out: classes of every clip on which neurons are judged; none for a clip by which they are chosen.
    """

    counts: UInt16[np.ndarray, "clip layer neuron"]
    tokens: Int[np.ndarray, " clip"]
    members: Bool[np.ndarray, "clip class"]
    sources: Sequence[str]
    folds: Sequence[int]
    means: Float32[np.ndarray, "clip layer neuron"] | None = None
    peaks: Float32[np.ndarray, "clip layer neuron"] | None = None
    excesses: Float32[np.ndarray, "clip layer neuron"] | None = None
    held_out: Bool[np.ndarray, "clip class"] | None = None

    def of_classes(self, classes: Int[np.ndarray, " chosen"]) -> "Clips":
        """The same clips with some of the classes alone.

        Args:
          classes: numbers of the classes.
        """
        held_out = None if self.held_out is None else self.held_out[:, classes]
        return dataclasses.replace(self, members=self.members[:, classes], held_out=held_out)

    def readings(self) -> tuple[Float32[np.ndarray, "clip layer neuron"], ...]:
        """The readings in the order of `READINGS`.

        Raises:
          InputError: an older version counted, and kept none.
        """
        values = tuple(values for values in (self.means, self.peaks, self.excesses) if values is not None)
        require(len(values) == len(READINGS), NO_READINGS)
        return values

    def units(self) -> Units:
        """The clips by which neurons are chosen, grouped into units."""
        return find_units(self.members, self.sources, self.folds)


def read_clips(run: Run, counts: xr.Dataset, needed: bool = True) -> Clips | None:
    """What every neuron did on every clip of a run; None if it was not kept.

    Args:
      run: run directory with the stage `activations`.
      counts: counts of the classes, from `activations.nc`.
      needed: whether a file that has been removed is an error; else the result is None then, too.

    Raises:
      InputError: a file is missing, cut off, or of another run.
    """
    counted = run.require("activations")
    if not counted["options"].get("keep_clips") or not (needed or run.file(STORE_FILES["counts"]).exists()):
        return None
    # Labels are stored as pairs of clip and class, since most clips have few of many classes.
    labels = read_netcdf(run.file("clip_labels.nc"))
    require_same_run(run, labels.attrs, counted)
    tokens = labels["tokens"].values
    members = np.zeros((labels.sizes["clip"], counts.sizes["class"]), bool)
    members[labels["label_clip"].values, labels["label_class"].values] = True
    members &= (tokens > 0)[:, None]  # an unreadable or a silent clip may have labels and no token
    # Older versions held no clip out, and kept no means and peaks.
    held_out = labels["held_out"].values.astype(bool) if "held_out" in labels else np.zeros(len(tokens), bool)
    arrays = {name: _read_array(run, name, counts, len(tokens)) for name in STORE_FILES if name in _kept(counted)}
    # All of the file is read once: a store of another run of the same shape would give wrong p-values silently.
    path = run.file(STORE_FILES["counts"])
    total = arrays["counts"].sum(axis=0, dtype=np.int64) - arrays["counts"][held_out].sum(axis=0, dtype=np.int64)
    same = (total == counts["total_active_tokens"].values).all()
    require(bool(same), f"{path} does not add up to activations.nc: it belongs to another run, {REMEDY}")
    return Clips(
        tokens=tokens,
        members=members & ~held_out[:, None],
        sources=labels["source"].values.tolist(),
        folds=labels["fold"].values.tolist(),
        held_out=members & held_out[:, None],
        **arrays,
    )


def _kept(counted: dict) -> tuple[str, ...]:
    """Names of the arrays that a run has kept; versions that recorded no `held_out` kept counts alone."""
    return tuple(STORE_FILES) if "held_out" in counted["options"] else ("counts",)


def _read_array(run: Run, name: str, counts: xr.Dataset, clips: int) -> np.ndarray:
    path, kind = run.file(STORE_FILES[name]), STORE_TYPES[name]
    shape = (clips, counts.sizes["layer"], counts.sizes["neuron"])
    try:
        stored: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}): {REMEDY}") from error
    require(
        stored.shape == shape and stored.dtype == kind,
        f"{path} must hold {kind} of {shape} clips, layers and neurons, found {stored.dtype} of {stored.shape}: it "
        f"belongs to another run, {REMEDY}",
    )
    return stored
