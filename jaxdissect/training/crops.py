"""Random crops of a task's clips, as a pure function of seed and step, so that a training can be resumed exactly."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from jaxdissect.audio.pcm import FULL_SCALE, samples_as_int16
from jaxdissect.runtime.files import require_space, reserve, whole_file
from jaxdissect.tasks.loader import batches, data_fingerprint, unit_samples
from jaxdissect.tasks.table import Task
from jaxdissect.types import Record

AUDIBLE_LEVEL = 1e-3  # amplitude as a fraction of a clip's peak, -60 dB
DECODED_AT_ONCE = 64  # clips
PCM_FILE, CLIPS_FILE = "pcm.npy", "clips.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
    """The readable clips of a task, decoded.

    Attributes:
      pcm: samples as 16-bit integers.
      spans: first audible sample of each clip and the one after the last, within 60 dB of its peak.
      members: classes of each clip.
      unreadable: reason for each file that was left out.
      sha256: SHA-256 of all samples.
    """

    pcm: Int[np.ndarray, "clip sample"]
    spans: Int[np.ndarray, "clip 2"]
    members: Bool[np.ndarray, "clip class"]
    unreadable: dict[str, str]
    sha256: str


@dataclasses.dataclass(frozen=True)
class Crops:
    """Crops of one step.

    Attributes:
      pcm: samples as 16-bit integers.
      members: classes of each crop.
    """

    pcm: Int[np.ndarray, "*part clip sample"]
    members: Bool[np.ndarray, "*part clip class"]


def decoded_clips(
    task: Task, sample_rate: int, folder: Path, progress: Callable[[int], None] = lambda clips: None
) -> Clips:
    """Decode every clip once, into a memory-mapped file of 16-bit samples.

    A file that was decoded before from the same files, at the same rate and full scale, is used again.

    Args:
      task: clips to decode.
      sample_rate: sampling rate of the encoder, Hz.
      folder: folder of `pcm.npy` and `clips.json`.
      progress: function called with the number of clips read so far.

    Raises:
      InputError: the disk has no room.
    """
    origin = {
        "task": task.fingerprint(),
        "sample_rate": sample_rate,
        "full_scale": FULL_SCALE,
        "files": _files_fingerprint(task),
    }
    record = _decoded_before(folder, origin)
    if record is None:
        # The description goes first and comes last, so that it never describes another file of samples.
        forget_clips(folder)
        record = _decode(task, sample_rate, folder / PCM_FILE, progress) | {"origin": origin}
        with whole_file(folder / CLIPS_FILE) as temporary:
            temporary.write_text(json.dumps(record))
    pcm = np.load(folder / PCM_FILE, mmap_mode="r")[: len(record["clip"])]
    spans = np.array(record["span"], np.int64).reshape(-1, 2)
    return Clips(pcm, spans, task.members(record["clip"]), record["unreadable"], record["sha256"])


def forget_clips(folder: Path) -> None:
    """Let the clips be decoded anew the next time."""
    (folder / CLIPS_FILE).unlink(missing_ok=True)


def _decoded_before(folder: Path, origin: Record) -> Record | None:
    """The description of what was decoded here before, if that is whole and of the same origin."""
    try:
        record: Record = json.loads((folder / CLIPS_FILE).read_text())
        np.load(folder / PCM_FILE, mmap_mode="r")  # fails where the file is missing or damaged
        return record if record["origin"] == origin else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files_fingerprint(task: Task) -> str:
    """SHA-256 of the files' names, sizes and times, by which changed files are known."""
    prepared = data_fingerprint(task)
    if prepared is not None:
        return prepared
    digest = hashlib.sha256()
    for name in task.file_names:
        try:
            status = (task.data / name).stat()
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{name} missing\n".encode())
    return digest.hexdigest()


def _decode(task: Task, sample_rate: int, path: Path, progress: Callable[[int], None]) -> Record:
    samples = unit_samples(task, sample_rate)
    require_space(path.parent, 2 * len(task) * samples, "the decoded audio")  # 2 bytes a sample
    read: Record = {"clip": [], "span": [], "unreadable": {}}
    digest = hashlib.sha256()
    with whole_file(path) as temporary:
        pcm = np.lib.format.open_memmap(temporary, "w+", np.int16, (len(task), samples))
        reserve(temporary)  # a memory map on a full disk would end the process by a signal
        for batch in batches(task, sample_rate, DECODED_AT_ONCE):
            for row, status in enumerate(batch.statuses):
                clip = int(batch.clip[row])
                if status.status == "unreadable":
                    read["unreadable"][task.file_names[clip]] = status.reason
                    continue
                samples16 = samples_as_int16(batch.pcm[row])
                digest.update(samples16.tobytes())
                # Rows of readable clips only; the file keeps room for all.
                pcm[len(read["clip"])] = samples16
                read["clip"].append(clip)
                read["span"].append(audible_span(batch.pcm[row]))
            progress(int(batch.clip.max()) + 1)
        pcm.flush()
    return read | {"sha256": digest.hexdigest()}


def audible_span(pcm: np.ndarray) -> tuple[int, int]:
    """First sample within 60 dB of the peak, and the one after the last; the whole clip if it is silent.

    Args:
      pcm: samples of a clip.
    """
    level = np.abs(pcm.astype(np.float32))
    audible = np.flatnonzero(level > AUDIBLE_LEVEL * level.max())
    return (int(audible[0]), int(audible[-1]) + 1) if len(audible) else (0, len(pcm))


def crops(clips: Clips, seed: int, step: int, batch_size: int, samples: int) -> Crops:
    """The crops of one step.

    Clips are taken in a new random order every epoch; epochs follow each other without a gap, so that none is left
    out. A crop lies within its clip's audible span where that is long enough, and covers it where it is not.

    Args:
      clips: clips to crop.
      seed, step: seed of the training and number of the step, on which alone the draws depend.
      batch_size: number of crops.
      samples: length of a crop in samples, at most a clip's.
    """
    # Places in the endless sequence of epochs, each a permutation of the clips.
    position = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(position, len(clips.pcm))
    index = np.array([_order(seed, int(epoch), len(clips.pcm))[at] for epoch, at in zip(epochs, places, strict=True)])
    # A crop lies within the audible span, or covers it where it is longer: either way it begins between two samples.
    first, last = clips.spans[index].T
    low, high = np.minimum(first, last - samples), np.maximum(first, last - samples)
    latest = clips.pcm.shape[1] - samples
    low, high = np.clip(low, 0, latest), np.clip(high, 0, latest)
    # Streams of the seed: 0 for the order of an epoch, 1 for the places of a step's crops.
    start = np.random.default_rng((seed, 1, step)).integers(low, high, endpoint=True)
    pcm = np.stack([clips.pcm[clip, at : at + samples] for clip, at in zip(index, start, strict=True)])
    return Crops(pcm, clips.members[index])


@functools.lru_cache(maxsize=2)  # a batch can span the end of one epoch and the start of the next
def _order(seed: int, epoch: int, clips: int) -> Int[np.ndarray, " clip"]:
    return np.random.default_rng((seed, 0, epoch)).permutation(clips)
