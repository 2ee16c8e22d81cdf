"""Every clip's counts in memory-mapped files: one a process while counting, `clip_counts.npy` when all is done."""

import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from jaxdissect.errors import InputError
from jaxdissect.runtime.files import path_beside, require_space, reserve, sweep, writing


def open_clip_store(path: Path, shape: tuple[int, int, int], afresh: bool) -> UInt16[np.memmap, "clip layer neuron"]:
    """Active tokens of clips and neurons, to be filled in; room for all of them is claimed on the disk at once.

    Args:
      path: path of the file.
      shape: clips, layers, and neurons per layer.
      afresh: whether to begin with zeros; else the file is that of an earlier run of the same count.

    Raises:
      InputError: there is no room, or the file of the earlier run is missing or damaged.
    """
    if not afresh:
        try:
            earlier: np.memmap = np.lib.format.open_memmap(path, mode="r+")
            if earlier.shape == shape and earlier.dtype == np.uint16:
                return earlier
            reason = f"its shape is {earlier.shape}, not {shape}"
        except (OSError, ValueError) as error:
            reason = str(error)
        raise InputError(
            f"{path} cannot be used ({reason}), though the state beside it needs it: remove {path.parent} to start "
            f"afresh."
        )
    require_space(path.parent, 2 * math.prod(shape), path.name)  # two bytes a count
    temporary = path_beside(path)
    with writing(path):
        try:
            counts = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint16, shape=shape)
            reserve(temporary)  # a new memory map has holes, and writing into one ends the process on a full disk
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return counts


def join_clip_stores(
    path: Path, shape: tuple[int, int, int], parts: Iterable[tuple[Path, np.ndarray, np.ndarray]]
) -> None:
    """Join the stores of several processes into one of all clips.

    Args:
      path: path of the new file.
      shape: clips, layers, and neurons per layer of all clips.
      parts: for each store its path, the numbers of the clips that it has rows for, and whether it has counted each.

    Raises:
      InputError: there is no room, or a part is missing.
    """
    whole = open_clip_store(path, shape, afresh=True)
    for part, clips, counted in parts:
        try:
            counts = np.load(part, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{part} cannot be read ({error}): remove {part.parent} to start afresh.") from error
        for row in np.flatnonzero(counted):  # row by row: all rows may take more than the memory
            whole[clips[row]] = counts[row]
    whole.flush()


def publish_clip_store(store: Path, path: Path) -> None:
    """Put a finished store in its place; it can be published again elsewhere if what follows fails.

    Args:
      store: path of the finished store.
      path: path of the published file.

    Raises:
      InputError: it cannot be written there.
    """
    sweep(path)
    beside = path_beside(path)
    with writing(path):
        try:
            try:
                os.link(store, beside)
            except OSError:  # another disk, or one without links
                shutil.copyfile(store, beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
