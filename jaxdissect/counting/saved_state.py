"""The state of an unfinished count: what one process has counted so far, to the bit, and of which clips."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import PyTree

from jaxdissect.counting import statistics
from jaxdissect.counting.clip_log import ClipLog
from jaxdissect.counting.clip_store import ClipStore
from jaxdissect.counting.statistics import ClassCounts, TopClips, Totals
from jaxdissect.counting.stream import Counter
from jaxdissect.errors import InputError
from jaxdissect.runtime.pulse import Pulse
from jaxdissect.runtime.resume import StateFile
from jaxdissect.runtime.sharding import shard_clips
from jaxdissect.types import Record

COUNTS, FLUSHED = "counts", "flushed"  # first parts of the arrays' names: counts on the devices, counts on the host
# Trees with the structure of what is stored, by which arrays are named; their leaves mean nothing.
TOP_TREE = TopClips(0, 0, 0, 0)
COUNTS_TREE = ClassCounts(0, 0, 0, 0, 0, TOP_TREE)
TOTALS_TREE = {"clips": 0, "tokens": 0, "active_tokens": 0, "sum": 0, "sum_squares": 0, "top": TOP_TREE}


@dataclass(frozen=True, eq=False)
class CountState:
    """What a state file holds.

    Attributes:
      counts: counts of each device since they were last moved to the host; leading axis `device`.
      steps: number of steps in `counts`.
      flushed: counts that were moved to the host before; None if there are none.
      log: what became of the clips.
    """

    counts: ClassCounts
    steps: int
    flushed: Totals | None
    log: ClipLog

    @staticmethod
    def parse(arrays: Mapping[str, np.ndarray], record: Record) -> "CountState":
        """Make the state of what its file holds."""
        flushed = FLUSHED in record["parts"]
        return CountState(
            _as_tree(COUNTS_TREE, arrays, COUNTS),
            record["steps"],
            Totals(**_as_tree(TOTALS_TREE, arrays, FLUSHED)) if flushed else None,
            ClipLog.of(arrays, record["reasons"]),
        )


@dataclass(frozen=True, eq=False)
class CountKeeper:
    """Keeps the state of one process's count in a file.

    Attributes:
      file: the file.
      save_minutes: minutes from one state to the next.
      pulse: signs of life of the job's processes, looked at after every batch.
      read_by_others: whether the finished count is read from its state too, to be added to those of other processes.
      store: what is kept of every clip, written to the disk before a state says that it is there; None: nothing.
    """

    file: StateFile
    save_minutes: float
    pulse: Pulse
    read_by_others: bool = False
    store: ClipStore | None = None

    def restore(self, counter: Counter) -> ClipLog | None:
        """Set a counter to the state in the file; on as many devices as wrote it, to the bit.

        Raises:
          InputError: the file is damaged, or another count's.
        """
        state = self.file.read(CountState.parse)
        if state is None:
            return None
        if state.flushed is not None:
            counter.add(state.flushed)
        if len(state.counts.clips) == counter.mesh.size:
            counter.counts, counter.steps = shard_clips(state.counts, counter.mesh), state.steps
        else:  # other devices: float sums then are equal up to rounding, integers exactly
            counter.add(statistics.flush(state.counts))
        return state.log

    def check(self) -> None:
        """Make sure that the other processes of the job live.

        Raises:
          LostProcessError: one of them failed or died.
        """
        self.pulse.check()

    def save(self, counter: Counter, log: ClipLog, finished: bool = False) -> None:
        """Write the file; where that fails, warn and keep the state before.

        Args:
          counter: counts so far.
          log: what became of the clips so far.
          finished: all clips are counted; the state is then written only for other processes, which cannot do without.

        Raises:
          InputError: the state of a finished count cannot be written.
          LostProcessError: another job has begun, whose states must not be mixed with this one's.
        """
        if finished and not self.read_by_others:
            return
        self.pulse.require_current()
        # The store reaches the disk before the state that relies on it, so that a kill between leaves no clip out.
        if self.store is not None:
            self.store.flush()
        arrays = _as_arrays(counter.counts, COUNTS) | log.arrays()
        if counter.flushed is not None:
            arrays |= _as_arrays(vars(counter.flushed), FLUSHED)
        parts = [COUNTS] if counter.flushed is None else [COUNTS, FLUSHED]
        record = {"steps": counter.steps, "parts": parts, "reasons": log.reasons}
        self.file.write(arrays, record, needed=finished)


def read_part(file: StateFile) -> tuple[Totals, ClipLog]:
    """What a process has counted according to its state, and of which clips.

    Raises:
      InputError: the file is missing, damaged, or another count's.
    """
    state = file.read(CountState.parse)
    if state is None:
        raise InputError(
            f"{file.path} is missing: do all processes see the folder of --run? Repeat the command to resume the count."
        )
    totals = statistics.flush(state.counts)
    return totals if state.flushed is None else statistics.merge(state.flushed, totals), state.log


def _as_arrays(tree: PyTree, name: str) -> dict[str, np.ndarray]:
    """The leaves of a tree, on the host, by a name and their path in the tree."""
    host = jax.device_get(tree)
    return {name + jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(host)}


def _as_tree(like: PyTree, arrays: Mapping[str, np.ndarray], name: str) -> PyTree:
    """The tree whose leaves `_as_arrays` has named."""
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[name + jax.tree_util.keystr(path)], like)
