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
    """Active tokens of some clips and every neuron, to be filled in; its room on the disk is claimed at once.

    Args:
      path: of the file.
      shape: (clips, layers, neurons).
      afresh: all zero; else as an earlier run of the same count has left it.

    Raises:
      InputError: there is no room, or the file that was left is missing or damaged.
    """
    if not afresh:
        try:
            left: np.memmap = np.lib.format.open_memmap(path, mode="r+")
            if left.shape == shape and left.dtype == np.uint16:
                return left
            found = f"its shape is {left.shape}, not {shape}"
        except (OSError, ValueError) as error:
            found = str(error)
        raise InputError(
            f"{path} cannot be used ({found}), though the state beside it counts on it: remove {path.parent} to start "
            f"afresh."
        )
    require_space(path.parent, 2 * math.prod(shape), path.name)
    temporary = path_beside(path)
    with writing(path):
        try:
            counts = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint16, shape=shape)
            reserve(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return counts


def join_clip_stores(
    path: Path, shape: tuple[int, int, int], parts: Iterable[tuple[Path, np.ndarray, np.ndarray]]
) -> None:
    """One store of all clips from those of several processes.

    Args:
      path: of the new file.
      shape: of all clips.
      parts: of each store its path, the numbers of the clips that it has rows for, and which of them it has counted.

    Raises:
      InputError: there is no room, or a part is missing.
    """
    whole = open_clip_store(path, shape, afresh=True)
    for part, clips, own in parts:
        try:
            counts = np.load(part, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{part} cannot be read ({error}): remove {part.parent} to start afresh.") from error
        for row in np.flatnonzero(own):
            whole[clips[row]] = counts[row]
    whole.flush()


def publish_clip_store(store: Path, path: Path) -> None:
    """Put a finished store in its place; it can be published again elsewhere if what follows fails.

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
