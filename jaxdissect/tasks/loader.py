"""Clips of a task as batches of equal size, decoded by threads and put on the devices ahead of the work (Grain).

Nothing is dropped: the last batch is padded, and a mask marks the rows that count. A loader keeps no state but the
numbers of its clips: one that gets the clips that are left continues exactly, in any number of processes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, Int16

from jaxdissect.audio.decode import ClipStatus, Recording, read_clip
from jaxdissect.runtime.files import json_fingerprint, sha256_file
from jaxdissect.runtime.sharding import pad_clips, shard_clips
from jaxdissect.tasks.shards import is_prepared, prepared_reader, read_prepared
from jaxdissect.tasks.table import Task
from jaxdissect.tasks.tfds import tfds_reader
from jaxdissect.tasks.tfds_records import FEATURES_FILE, INFO_FILE, is_tfds_folder

BATCHES_AHEAD = 2  # batches that wait on the host, and as many on the devices
RECORDINGS_AHEAD = 64  # clips that wait where they are read one by one
LEAST_THREADS = 4  # that decode, however few processors there are
Clips = Sequence[int] | Int[np.ndarray, " chosen"]  # numbers of clips
Placed = TypeVar("Placed")


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips ready for the device, and the outcome of reading their files.

    Attributes:
      pcm: samples of the task's unit length; float32, or 16-bit integers as in shards (see `samples_as_float`).
      samples: recorded samples of each clip, at the encoder's rate.
      clip: number of the clip in the task; -1 for padding.
      members: classes of each clip; the last column, all clips, is False for padding and unreadable clips.
      statuses: outcome of reading each clip's file, without the padding.
    """

    pcm: Float[np.ndarray, "clip sample"] | Int16[np.ndarray, "clip sample"]
    samples: Int[np.ndarray, " clip"]
    clip: Int[np.ndarray, " clip"]
    members: Bool[np.ndarray, "clip class"]
    statuses: tuple[ClipStatus, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that the devices need."""
        return {"pcm": self.pcm, "samples": self.samples, "clip": self.clip, "members": self.members}


def batches(
    task: Task,
    sample_rate: int,
    batch_size: int,
    clips: Clips | None = None,
    threads: int | None = None,
) -> Iterator[Batch]:
    """Stream a task's clips.

    Args:
      task: task to read.
      sample_rate: rate of the encoder, Hz.
      batch_size: number of rows of every batch.
      clips: numbers of the clips, in the order of reading; default: all.
      threads: number of threads that decode; default: as many as there are processors, at least 4.

    Raises:
      InputError: the data folder is a prepared one and does not suit, or is damaged.
    """
    return _stream(task, sample_rate, batch_size, clips, threads, lambda batch: batch)


def device_batches(
    task: Task,
    sample_rate: int,
    batch_size: int,
    mesh: Mesh,
    clips: Clips | None = None,
) -> Iterator[tuple[Batch, dict[str, jax.Array]]]:
    """As `batches`, each with its arrays on the devices of a mesh, which never wait as long as decoding keeps up.

    Args:
      task: task to read.
      sample_rate: rate of the encoder, Hz.
      batch_size: number of rows of every batch.
      mesh: devices that share the rows.
      clips: numbers of the clips, in the order of reading; default: all.
    """

    def place(batch: Batch) -> tuple[Batch, dict[str, jax.Array]]:
        with jax.profiler.TraceAnnotation("transfer"):
            return batch, shard_clips(batch.arrays(), mesh)

    return _stream(task, sample_rate, batch_size, clips, None, place)


def recordings(
    task: Task, sample_rate: int, clips: Sequence[int], threads: int | None = None
) -> Iterator[tuple[int, Recording]]:
    """Clips one by one, each with its number, decoded ahead by threads.

    Args:
      task: task to read.
      sample_rate: rate of the recordings, Hz.
      clips: numbers of the clips, in the order of reading.
      threads: number of threads that decode; default: as many as there are processors, at least 4.

    Raises:
      InputError: as `batches`.
    """
    if clips:
        yield from _decoded(task, sample_rate, clips, threads, RECORDINGS_AHEAD)


def unit_samples(task: Task, sample_rate: int) -> int:
    """Samples of one clip of the task.

    Args:
      task: task, whose unit length counts.
      sample_rate: rate of the clip, Hz.
    """
    return round(task.unit_seconds * sample_rate)


def data_fingerprint(task: Task) -> str | None:
    """SHA-256 of the description of a prepared folder or a data set of TFDS; None where there are audio files.

    Args:
      task: task, whose data folder counts.

    Raises:
      InputError: the description is damaged.
    """
    if is_prepared(task.data):
        return read_prepared(task.data).sha256
    if is_tfds_folder(task.data):
        return json_fingerprint([sha256_file(task.data / name) for name in (INFO_FILE, FEATURES_FILE)])
    return None


def clip_reader(task: Task, sample_rate: int) -> Callable[[str], Recording]:
    """`read(file_name) -> Recording` of the task's unit length, from files, shards or a data set of TFDS.

    Args:
      task: task to read.
      sample_rate: rate of the recordings, Hz.

    Raises:
      InputError: the data folder is a prepared one and does not suit, or is damaged.
    """
    samples = unit_samples(task, sample_rate)
    if is_prepared(task.data):
        return prepared_reader(task.data, sample_rate, samples)
    if is_tfds_folder(task.data):
        return tfds_reader(task.data, sample_rate, samples)
    return lambda file_name: read_clip(task.data, file_name, sample_rate, samples)


def _stream(
    task: Task,
    sample_rate: int,
    batch_size: int,
    clips: Clips | None,
    threads: int | None,
    place: Callable[[Batch], Placed],
) -> Iterator[Placed]:
    """Batches that are decoded, put together and placed ahead of their use, each in threads of their own."""
    from grain.experimental import ThreadPrefetchIterDataset

    numbers = list(range(len(task)) if clips is None else map(int, clips))
    if not numbers:
        return
    decoded = _decoded(task, sample_rate, numbers, threads, 2 * batch_size).batch(
        batch_size, batch_fn=lambda items: _batch(task, items, batch_size)
    )
    placed = ThreadPrefetchIterDataset(decoded, prefetch_buffer_size=BATCHES_AHEAD).map(place)
    stream = iter(ThreadPrefetchIterDataset(placed, prefetch_buffer_size=BATCHES_AHEAD))
    try:
        yield from stream
    finally:
        stream.close()  # ends its threads


def _decoded(task: Task, sample_rate: int, clips: Sequence[int], threads: int | None, ahead: int) -> Any:
    """Grain's data set of (number, recording), in the order of `clips`."""
    import grain  # takes more than a second to import

    read = clip_reader(task, sample_rate)

    def decode(clip: int) -> tuple[int, Recording]:
        with jax.profiler.TraceAnnotation("decode"):
            return clip, read(task.file_names[clip])

    threads = threads or max(LEAST_THREADS, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, threads))
    return grain.MapDataset.source(clips).map(decode).to_iter_dataset(options)


def _batch(task: Task, items: Sequence[tuple[int, Recording]], size: int) -> Batch:
    clips = [clip for clip, _ in items]
    recordings = [recording for _, recording in items]
    # Classes of each clip, and all clips as a last class; an unreadable clip is in none.
    readable = np.array([recording.clip.status != "unreadable" for recording in recordings])
    members = np.concatenate([task.members(clips) & readable[:, None], readable[:, None]], axis=1)
    return Batch(
        pcm=pad_clips(np.stack([recording.pcm for recording in recordings]), size),
        samples=pad_clips(np.array([recording.clip.samples for recording in recordings], np.int32), size),
        clip=pad_clips(np.array(clips, np.int32) + 1, size) - 1,  # padding is zero: 1 is added, so that it becomes -1
        members=pad_clips(members, size),
        statuses=tuple(recording.clip for recording in recordings),
    )
