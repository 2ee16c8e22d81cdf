"""Clips of a task as batches of equal size, decoded by threads ahead of the device.

The position in a task is one integer, the number of clips handed out; a loader started there goes on exactly.
Nothing is dropped: the last batch is padded, and a mask says which rows count.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.audio.decode import ClipStatus, Recording, read_clip
from jaxdissect.sharding import pad_clips
from jaxdissect.tasks.table import Task


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips ready for the device, and what became of their files.

    Attributes:
      pcm: float32 in the task's unit length.
      samples: recorded samples of each clip, at the encoder's rate.
      clip: number of the clip in the task; -1 for padding.
      members: classes of each clip; the last column, all clips, is False for padding and unreadable clips.
      statuses: what became of the clips' files, without the padding.
      position: clips of this process handed out, this batch included.
    """

    pcm: Float[np.ndarray, "clip sample"]
    samples: Int[np.ndarray, " clip"]
    clip: Int[np.ndarray, " clip"]
    members: Bool[np.ndarray, "clip class"]
    statuses: tuple[ClipStatus, ...]
    position: int


def batches(
    task: Task,
    sample_rate: int,
    batch_size: int,
    position: int = 0,
    process: int = 0,
    processes: int = 1,
    threads: int | None = None,
) -> Iterator[Batch]:
    """Stream a task's clips in their order.

    Args:
      task: the task.
      sample_rate: of the encoder, Hz.
      batch_size: rows of every batch.
      position: clips of this process to leave out at the start.
      process, processes: this process reads the clips `process, process + processes, ...`.
      threads: that decode; default: as many as there are processors, at least 4.
    """
    import grain  # takes more than a second to import

    samples = unit_samples(task, sample_rate)
    threads = threads or max(4, os.cpu_count() or 1)

    def read(clip: int) -> tuple[int, Recording]:
        return clip, read_clip(task.data, task.file_names[clip], sample_rate, samples)

    clips = np.arange(len(task))[process::processes][position:].tolist()
    if not clips:
        return
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * batch_size, threads))
    stream = iter(grain.MapDataset.source(clips).map(read).to_iter_dataset(options))
    for first in range(0, len(clips), batch_size):
        items = [next(stream) for _ in clips[first : first + batch_size]]
        yield _batch(task, items, batch_size, position + first + len(items))


def unit_samples(task: Task, sample_rate: int) -> int:
    """Samples of one clip of the task."""
    return round(task.unit_seconds * sample_rate)


def _batch(task: Task, items: Sequence[tuple[int, Recording]], size: int, position: int) -> Batch:
    clips = [clip for clip, _ in items]
    recordings = [recording for _, recording in items]
    readable = np.array([recording.clip.status != "unreadable" for recording in recordings])
    members = np.concatenate([task.members(clips) & readable[:, None], readable[:, None]], axis=1)
    return Batch(
        pcm=pad_clips(np.stack([recording.pcm for recording in recordings]), size),
        samples=pad_clips(np.array([recording.clip.samples for recording in recordings], np.int32), size),
        clip=pad_clips(np.array(clips, np.int32) + 1, size) - 1,
        members=pad_clips(members, size),
        statuses=tuple(recording.clip for recording in recordings),
        position=position,
    )
