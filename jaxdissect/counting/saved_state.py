"""The state of an unfinished count: what one process has counted so far, to the bit, and of which clips."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdissect.counting import statistics
from jaxdissect.counting.clip_log import ClipLog
from jaxdissect.counting.statistics import ClassCounts, TopClips, Totals
from jaxdissect.counting.stream import Counter
from jaxdissect.errors import InputError
from jaxdissect.runtime.processes import Processes
from jaxdissect.runtime.progress import warn
from jaxdissect.runtime.pulse import Pulse
from jaxdissect.runtime.sharding import shard_clips
from jaxdissect.runtime.state_files import State, read_state, write_state

COUNTS, FLUSHED = "counts", "flushed"
EMPTY: Any = TopClips(0, 0, 0, 0)
COUNTS_TREE: Any = ClassCounts(0, 0, 0, 0, 0, EMPTY)
TOTALS_TREE = {"clips": 0, "tokens": 0, "active_tokens": 0, "sum": 0, "sum_squares": 0, "top": EMPTY}


@dataclass(frozen=True, eq=False)
class _CountState:
    """What a state file says: each device's counts of the last `steps` steps, those moved to the host before, clips."""

    counts: ClassCounts
    steps: int
    flushed: Totals | None
    log: ClipLog

    @staticmethod
    def parse(state: State) -> "_CountState":
        flushed = FLUSHED in state.record["parts"]
        return _CountState(
            _tree(COUNTS_TREE, state.arrays, COUNTS),
            state.record["steps"],
            Totals(**_tree(TOTALS_TREE, state.arrays, FLUSHED)) if flushed else None,
            ClipLog.of(state.arrays, state.record["reasons"]),
        )


class CountKeeper:
    """Keeps the state of one process's count in a file."""

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        clips: np.ndarray,
        save_minutes: float,
        pulse: Pulse,
        at_end: bool = False,
        clip_counts: np.memmap | None = None,
    ) -> None:
        """Keep a state.

        Args:
          path: of the file.
          identity: of the count; another's state is refused.
          clips: that this process counts.
          save_minutes: from one state to the next.
          pulse: looked at after every batch.
          at_end: save when all is counted, too, for the first process to add up.
          clip_counts: brought to the disk before a state says that they are there.
        """
        self.at_end, self.clip_counts = at_end, clip_counts
        self.path, self.identity, self.clips, self.pulse = path, dict(identity), clips, pulse
        self.save_minutes, self.saved = save_minutes, time.monotonic()

    def restore(self, counter: Counter) -> ClipLog | None:
        """Set a counter to the state in the file; on as many devices as wrote it, to the bit.

        Raises:
          InputError: the file is damaged, or another count's.
        """
        state = read_state(self.path, "a count", self.identity, _CountState.parse)
        if state is None:
            return None
        if state.flushed is not None:
            counter.take(state.flushed)
        if len(state.counts.clips) == counter.mesh.size:
            counter.counts, counter.steps = shard_clips(state.counts, counter.mesh), state.steps
        else:
            counter.take(statistics.flush(state.counts))
        return state.log

    def due(self, at_end: bool = False) -> bool:
        """Whether it is time to save.

        Raises:
          LostProcessError: another process of the job failed or died.
        """
        if at_end:
            return self.at_end
        self.pulse.check()
        return time.monotonic() - self.saved > 60 * self.save_minutes

    def save(self, counter: Counter, log: ClipLog) -> None:
        """Write the file; where that fails, say so and keep the state before.

        Raises:
          InputError: it cannot be written, and the work ends with it.
          LostProcessError: another job has begun, whose states must not be mixed with this one's.
        """
        self.pulse.require_current()
        try:
            self._write(counter, log)
        except InputError as error:
            if self.at_end and log.done[self.clips].all():
                raise
            warn(f"the state of the count was not saved, the one before is kept: {error}")

    def _write(self, counter: Counter, log: ClipLog) -> None:
        self.saved = time.monotonic()
        if self.clip_counts is not None:
            self.clip_counts.flush()
        arrays = _arrays(counter.counts, COUNTS) | log.arrays()
        if counter.flushed is not None:
            arrays |= _arrays(vars(counter.flushed), FLUSHED)
        record = {
            "steps": counter.steps,
            "parts": [COUNTS] if counter.flushed is None else [COUNTS, FLUSHED],
            "reasons": log.reasons,
        }
        write_state(self.path, State(self.identity, arrays, record))


def read_part(path: Path, identity: Mapping[str, Any]) -> tuple[Totals, ClipLog]:
    """What a process has counted by its state, and of which clips.

    Raises:
      InputError: the file is missing, damaged, or another count's.
    """
    state = read_state(path, "a count", identity, _CountState.parse)
    if state is None:
        raise InputError(
            f"{path} is missing: do all processes see the folder of --run? Repeat the command, it goes on."
        )
    totals = statistics.flush(state.counts)
    return totals if state.flushed is None else statistics.merge(state.flushed, totals), state.log


def state_path(folder: Path, processes: Processes) -> Path:
    """Where a process keeps its state."""
    return folder / f"counts-{processes.name}.npz"


def _arrays(tree: Any, name: str) -> dict[str, np.ndarray]:
    host = jax.device_get(tree)
    return {name + jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(host)}


def _tree(like: Any, arrays: Mapping[str, np.ndarray], name: str) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[name + jax.tree_util.keystr(path)], like)
