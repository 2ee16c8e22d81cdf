"""What every neuron did on every clip, in memory-mapped files: a store for each process, and one when all is done.

A store is four files: for every clip and neuron the active tokens, the mean activation, the highest activation, and
the mean excess over the threshold.
"""

import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt16

from jaxdissect.errors import InputError
from jaxdissect.runtime.files import path_beside, require_space, reserve, sweep, writing

STORE_FILES = {  # names in a run directory
    "counts": "clip_counts.npy",
    "means": "clip_means.npy",
    "peaks": "clip_peaks.npy",
    "excesses": "clip_excesses.npy",
}
STORE_TYPES = {name: np.dtype(np.uint16 if name == "counts" else np.float32) for name in STORE_FILES}
BYTES = sum(kind.itemsize for kind in STORE_TYPES.values())  # of one clip and neuron


@dataclass(frozen=True, eq=False)
class ClipStore:
    """What every neuron did on every clip; the arrays may be memory-mapped.

    Attributes:
      counts: active tokens; a clip has at most `MOST_TOKENS_PER_CLIP`, which uint16 holds.
      means: mean activation over the counted tokens; 0 for a clip without a counted token.
      peaks: highest activation of the counted tokens; 0 likewise.
      excesses: mean over the counted tokens of what the activation exceeds the threshold by; 0 likewise.
    """

    counts: UInt16[np.ndarray, "clip layer neuron"]
    means: Float32[np.ndarray, "clip layer neuron"]
    peaks: Float32[np.ndarray, "clip layer neuron"]
    excesses: Float32[np.ndarray, "clip layer neuron"]

    def flush(self) -> None:
        """Have everything reach the disk, where the arrays are memory-mapped."""
        for array in (self.counts, self.means, self.peaks, self.excesses):
            if isinstance(array, np.memmap):
                array.flush()


def empty_clip_store(shape: tuple[int, int, int]) -> ClipStore:
    """A store in memory, to be filled in.

    Args:
      shape: clips, layers, and neurons per layer.
    """
    return ClipStore(**{name: np.zeros(shape, kind) for name, kind in STORE_TYPES.items()})


def store_paths(store: Path) -> dict[str, Path]:
    """Paths of a store's files while counting.

    Args:
      store: path that the names of the files begin with.
    """
    return {name: store.with_name(f"{store.name}-{name}.npy") for name in STORE_TYPES}


def open_clip_store(store: Path, shape: tuple[int, int, int], afresh: bool) -> ClipStore:
    """A store on the disk, to be filled in; room for all of it is claimed at once.

    Args:
      store: path that the names of its files begin with.
      shape: clips, layers, and neurons per layer.
      afresh: whether to begin with zeros; else the files are those of an earlier run of the same count.

    Raises:
      InputError: there is no room, or a file of the earlier run is missing or damaged.
    """
    make = _new_array if afresh else _earlier_array
    return ClipStore(**{name: make(path, shape, STORE_TYPES[name]) for name, path in store_paths(store).items()})


def _earlier_array(path: Path, shape: tuple[int, int, int], kind: np.dtype) -> np.memmap:
    try:
        earlier: np.memmap = np.lib.format.open_memmap(path, mode="r+")
        if earlier.shape == shape and earlier.dtype == kind:
            return earlier
        reason = f"it holds {earlier.dtype} of {earlier.shape}, not {kind} of {shape}"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise InputError(
        f"{path} cannot be used ({reason}), though the state beside it needs it: remove {path.parent} to start afresh."
    )


def _new_array(path: Path, shape: tuple[int, int, int], kind: np.dtype) -> np.memmap:
    require_space(path.parent, kind.itemsize * math.prod(shape), path.name)
    temporary = path_beside(path)
    with writing(path):
        try:
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=kind, shape=shape)
            reserve(temporary)  # a new memory map has holes, and writing into one ends the process on a full disk
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return array


def join_clip_stores(
    store: Path, shape: tuple[int, int, int], parts: Iterable[tuple[Path, np.ndarray, np.ndarray]]
) -> None:
    """Join the stores of several processes into one of all clips.

    Args:
      store: path that the names of the new files begin with.
      shape: clips, layers, and neurons per layer of all clips.
      parts: for each store its path, the numbers of the clips that it has rows for, and whether it has counted each.

    Raises:
      InputError: there is no room, or a part is missing.
    """
    whole = open_clip_store(store, shape, afresh=True)
    for part, clips, counted in parts:
        for name, path in store_paths(part).items():
            try:
                values = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise InputError(f"{path} cannot be read ({error}): remove {path.parent} to start afresh.") from error
            into = getattr(whole, name)
            for row in np.flatnonzero(counted):  # row by row: all rows may take more than the memory
                into[clips[row]] = values[row]
    whole.flush()


def publish_clip_store(store: Path, folder: Path) -> None:
    """Put a finished store in its place; it can be published again elsewhere if what follows fails.

    Args:
      store: path that the names of the finished files begin with.
      folder: run directory.

    Raises:
      InputError: it cannot be written there.
    """
    for name, path in store_paths(store).items():
        _publish(path, folder / STORE_FILES[name])


def _publish(finished: Path, path: Path) -> None:
    sweep(path)
    beside = path_beside(path)
    with writing(path):
        try:
            try:
                os.link(finished, beside)
            except OSError:  # another disk, or one without links
                shutil.copyfile(finished, beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
