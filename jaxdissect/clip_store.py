"""Every clip's counts in one memory-mapped file, `clip_counts.npy`."""

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from jaxdissect.files import cannot_write, path_beside, require_space, reserve


@dataclass(frozen=True, eq=False)
class ClipStore:
    """Active tokens of every clip and neuron, while they are being counted.

    Attributes:
      counts: memory-mapped; all zero at first.
      path: of the unfinished file.
    """

    counts: UInt16[np.memmap, "clip layer neuron"]
    path: Path

    def publish(self, path: Path) -> None:
        """Put the finished file in its place; it can be published again elsewhere if what follows fails.

        Raises:
          InputError: it cannot be written there.
        """
        beside = path_beside(path)
        try:
            self.counts.flush()
            try:
                os.link(self.path, beside)
            except OSError:  # another disk, or one without links
                shutil.copyfile(self.path, beside)
            beside.replace(path)
        except OSError as error:
            raise cannot_write(path, error) from error
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def new_clip_store(path: Path, shape: tuple[int, int, int]) -> Iterator[ClipStore]:
    """An empty store beside `path`, its room on the disk claimed at once; it vanishes unless it is published.

    Raises:
      InputError: there is no room.
    """
    for left in path.parent.glob(f".{path.name}-*"):  # of a run that was killed
        left.unlink(missing_ok=True)
    require_space(path.parent, 2 * math.prod(shape), path.name)
    temporary = path_beside(path)
    try:
        try:
            counts = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint16, shape=shape)
            reserve(temporary)
        except OSError as error:
            raise cannot_write(path, error) from error
        yield ClipStore(counts, temporary)
    finally:
        temporary.unlink(missing_ok=True)
