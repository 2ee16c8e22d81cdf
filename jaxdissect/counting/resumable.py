"""Counting a task so that nothing counted is lost: with a state on disk, in one process or several.

Process p of P counts the clips p, p + P, p + 2P, ... and keeps its state in the run directory, `state/activations/`.
A clip belongs to the state that has counted it. So a job can be resumed by any number of processes: the states of
another number of processes stay as they are, and what they have not counted is divided anew. The first process adds
all of them up.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool

from jaxdissect.counting import statistics
from jaxdissect.counting.clip_log import ClipLog
from jaxdissect.counting.clip_store import BYTES, join_clip_stores, open_clip_store, store_paths
from jaxdissect.counting.saved_state import CountKeeper, read_part
from jaxdissect.counting.statistics import Totals
from jaxdissect.counting.stream import Counted, CountOptions, count_clips, neuron_shape
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.runtime.processes import Processes
from jaxdissect.runtime.pulse import DONE, Pulse
from jaxdissect.runtime.resume import StateFile
from jaxdissect.tasks.table import Task


@dataclasses.dataclass(frozen=True, eq=False)
class CountJob:
    """A count that can be interrupted.

    Attributes:
      encoder: any `Encoder`.
      task: the clips and their classes.
      options: what is counted.
      folder: folder of the states.
      identity: JSON values that make the count what it is, by their names in messages; another one's state is refused.
      keep_clips: whether what every neuron did on every clip is kept too.
      chooses: clips that are counted for their classes; the others are only kept clip by clip. None: all clips are.
      save_minutes: minutes from one state to the next.
    """

    encoder: Encoder
    task: Task
    options: CountOptions
    folder: Path
    identity: Mapping[str, object]
    keep_clips: bool = False
    chooses: Bool[np.ndarray, " clip"] | None = None
    save_minutes: float = 10.0

    def state(self, processes: Processes) -> StateFile:
        """The file in which a process keeps its state."""
        return StateFile(self.folder / f"counts-{processes.name}.npz", "a count", self.identity)

    def store(self, name: str) -> Path:
        """Path that a store's files begin with: of the clips in the state of that name, or of "all"."""
        return self.folder / f"clips-{name}"


def count_job(job: CountJob, pulse: Pulse, progress: Callable[[int], object] = lambda clips: None) -> Counted | None:
    """Count this process's part of a task; the first process waits for the others and returns the whole.

    Args:
      job: the count.
      pulse: signs of life of the job's processes.
      progress: called with the number of clips that this process has finished.

    Raises:
      InputError: a state is damaged or of another count, or there is no room; what was counted is kept.
      LostProcessError: another process failed or died; what was counted is kept.
      KeyboardInterrupt: a signal has come; what was counted is kept.
    """
    me = pulse.processes
    file, clips = job.state(me), me.clip_numbers(len(job.task))
    elsewhere = _counted_elsewhere(job, me).counted
    store = None
    if job.keep_clips:
        shape = (len(clips), *neuron_shape(job.encoder, job.task))
        store = open_clip_store(job.store(me.name), shape, afresh=not file.path.exists())
    if me.first:
        for path in store_paths(job.store("all")).values():  # of a process that was killed while it joined them
            path.unlink(missing_ok=True)
    # A count that no other process takes part in, nor has, is complete in memory and needs no last state.
    alone = me.count == 1 and not elsewhere.any()
    keeper = CountKeeper(file, job.save_minutes, pulse, not alone, store)
    counted = count_clips(
        job.encoder,
        job.task,
        job.options,
        store,
        progress=progress,
        clips=clips,
        chooses=job.chooses,
        keeper=keeper,
        skip=elsewhere,
    )
    if store is not None:
        store.flush()
    pulse.report(DONE)
    if not me.first:
        return None
    pulse.wait_for(DONE)
    return counted if alone else _joined(job)


def whole_store(job: CountJob) -> Path | None:
    """Path that the files of the store of all clips begin with, once `count_job` has returned; None if not kept."""
    if not job.keep_clips:
        return None
    whole = job.store("all")
    joined = all(path.exists() for path in store_paths(whole).values())
    return whole if joined else job.store(Processes().name)


def room_needed(job: CountJob, processes: Processes) -> int:
    """Bytes that a job still takes on the disk: states, while old ones are replaced, and the store of every clip.

    Args:
      job: the count.
      processes: one of the job's processes.
    """
    layers, neurons = neuron_shape(job.encoder, job.task)
    stores = _room_for_stores(job, processes, layers * neurons) if job.keep_clips else 0
    rows = (len(job.task.classes) + 1) * layers * neurons  # the last row is all clips
    top = 160 * layers * neurons  # 10 top clips of four 4-byte numbers for each neuron
    # For each row a device holds one int32 and four float32, the host one int64 and two float64.
    of_device, of_totals = 20 * rows + top, 24 * rows + top
    return stores + processes.count * 2 * (len(jax.local_devices()) * of_device + of_totals + 10 * len(job.task))


def _room_for_stores(job: CountJob, processes: Processes, neurons: int) -> int:
    """Bytes of this job's stores that are not on the disk yet, and of the store that several are joined in."""
    # Stores of several processes are joined in one more, which is as long as all of them.
    several = any(known.count > 1 for known in (processes, *_with_state(job.folder)))
    stores = [job.store(Processes(index, processes.count).name) for index in range(processes.count)]
    paths = [path for store in stores for path in store_paths(store).values()]
    present = sum(path.stat().st_size for path in paths if path.exists())
    return BYTES * len(job.task) * neurons * (1 + several) - present


def _counted_elsewhere(job: CountJob, me: Processes) -> ClipLog:
    """Clips that jobs of another number of processes have counted; they remain in those jobs' states."""
    log = ClipLog(len(job.task))
    for processes in _with_state(job.folder):
        if processes.count != me.count:  # with the same count it is this process's state or that of a partner
            log.add(read_part(job.state(processes))[1])
    return log


def _joined(job: CountJob) -> Counted:
    """What all states together have counted."""
    totals: Totals | None = None
    log = ClipLog(len(job.task))
    stores = []
    for processes in _with_state(job.folder):
        part, part_log = read_part(job.state(processes))
        log.add(part_log)
        totals = part if totals is None else statistics.merge(totals, part)
        clips = processes.clip_numbers(len(job.task))
        stores.append((job.store(processes.name), clips, part_log.counted[clips]))
    if totals is None or not log.done.all():
        raise InputError(
            f"{job.folder}: the states of the processes do not add up to the {len(job.task):,} clips of the task, they "
            f"hold {int(log.done.sum()):,}: do all processes see this folder? Repeat the command to resume the count."
        )
    if job.keep_clips:
        join_clip_stores(job.store("all"), (len(job.task), *neuron_shape(job.encoder, job.task)), stores)
    return Counted(totals, log)


def _with_state(folder: Path) -> list[Processes]:
    """The processes that have left a state, of this job or others."""
    return [Processes.named(path.stem.removeprefix("counts-")) for path in sorted(folder.glob("counts-*-of-*.npz"))]
