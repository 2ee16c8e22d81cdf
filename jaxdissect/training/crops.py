"""Random crops of a task's clips, as a pure function of seed and step, so that a training can be resumed exactly."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxdissect.audio.pcm import samples_as_int16
from jaxdissect.runtime.files import require_space, reserve, whole_file
from jaxdissect.tasks.loader import batches, data_fingerprint, unit_samples
from jaxdissect.tasks.table import Task

AUDIBLE = 1e-3  # of a clip's peak, -60 dB
DECODED_AT_ONCE = 64
PCM, CLIPS = "pcm.npy", "clips.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
    """The readable clips of a task, decoded.

    Attributes:
      pcm: 16 bit.
      spans: first audible sample of each clip and the one after the last, within 60 dB of its peak.
      members: classes of each clip.
      unreadable: files left out, with the reason.
      sha256: of all samples.
    """

    pcm: Int[np.ndarray, "clip sample"]
    spans: Int[np.ndarray, "clip 2"]
    members: Bool[np.ndarray, "clip class"]
    unreadable: dict[str, str]
    sha256: str


@dataclasses.dataclass(frozen=True)
class Crops:
    """Crops of one step: 16-bit PCM and the classes of each."""

    pcm: Int[np.ndarray, "*part clip sample"]
    members: Bool[np.ndarray, "*part clip class"]


def decoded_clips(
    task: Task, sample_rate: int, folder: Path, progress: Callable[[int], None] = lambda clips: None
) -> Clips:
    """Decode every clip once, into a memory-mapped file of 16-bit samples; what is there of the same files serves.

    Args:
      task: the clips.
      sample_rate: of the encoder, Hz.
      folder: of `pcm.npy` and `clips.json`.
      progress: called with the number of clips read so far.

    Raises:
      InputError: the disk has no room.
    """
    origin = {"task": task.fingerprint(), "sample_rate": sample_rate, "files": _files(task)}
    found = _found(folder, origin)
    if found is None:
        (folder / CLIPS).unlink(missing_ok=True)
        found = _decode(task, sample_rate, folder / PCM, progress) | {"origin": origin}
        with whole_file(folder / CLIPS) as temporary:
            temporary.write_text(json.dumps(found))
    pcm = np.load(folder / PCM, mmap_mode="r")[: len(found["clip"])]
    spans = np.array(found["span"], np.int64).reshape(-1, 2)
    return Clips(pcm, spans, task.members(found["clip"]), found["unreadable"], found["sha256"])


def forget_clips(folder: Path) -> None:
    """Let the clips be decoded anew the next time."""
    (folder / CLIPS).unlink(missing_ok=True)


def _found(folder: Path, origin: dict[str, Any]) -> dict[str, Any] | None:
    """What was decoded here before, if it is whole and of the same files."""
    try:
        found = json.loads((folder / CLIPS).read_text())
        np.load(folder / PCM, mmap_mode="r")
        return found if found["origin"] == origin else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(task: Task) -> str:
    """SHA-256 of the files' names, sizes and times, which tells whether they are still the same."""
    whole = data_fingerprint(task)
    if whole is not None:
        return whole
    digest = hashlib.sha256()
    for name in task.file_names:
        try:
            status = (task.data / name).stat()
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{name} missing\n".encode())
    return digest.hexdigest()


def _decode(task: Task, sample_rate: int, path: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    samples = unit_samples(task, sample_rate)
    require_space(path.parent, 2 * len(task) * samples, "the decoded audio")
    read: dict[str, Any] = {"clip": [], "span": [], "unreadable": {}}
    digest = hashlib.sha256()
    with whole_file(path) as temporary:
        pcm = np.lib.format.open_memmap(temporary, "w+", np.int16, (len(task), samples))
        reserve(temporary)
        for batch in batches(task, sample_rate, DECODED_AT_ONCE):
            for row, status in enumerate(batch.statuses):
                clip = int(batch.clip[row])
                if status.status == "unreadable":
                    read["unreadable"][task.file_names[clip]] = status.reason
                    continue
                samples16 = samples_as_int16(batch.pcm[row])
                digest.update(samples16.tobytes())
                pcm[len(read["clip"])] = samples16
                read["clip"].append(clip)
                read["span"].append(audible_span(batch.pcm[row]))
            progress(int(batch.clip.max()) + 1)
        pcm.flush()
    return read | {"sha256": digest.hexdigest()}


def audible_span(pcm: np.ndarray) -> tuple[int, int]:
    """First sample within 60 dB of the peak, and the one after the last; the whole clip if it is silent."""
    level = np.abs(pcm.astype(np.float32))
    audible = np.flatnonzero(level > AUDIBLE * level.max())
    return (int(audible[0]), int(audible[-1]) + 1) if len(audible) else (0, len(pcm))


def crops(clips: Clips, seed: int, step: int, batch_size: int, samples: int) -> Crops:
    """The crops of one step.

    Clips are taken in a new random order every epoch; epochs follow each other without a gap, so that none is left
    out. A crop lies within its clip's audible span where that is long enough, and covers it where it is not.

    Args:
      clips: to crop.
      seed, step: what is drawn depends on these alone.
      batch_size: crops.
      samples: of a crop, at most a clip's.
    """
    position = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(position, len(clips.pcm))
    index = np.array([_order(seed, int(epoch), len(clips.pcm))[at] for epoch, at in zip(epochs, places, strict=True)])
    first, last = clips.spans[index].T
    low, high = np.minimum(first, last - samples), np.maximum(first, last - samples)
    latest = clips.pcm.shape[1] - samples
    low, high = np.clip(low, 0, latest), np.clip(high, 0, latest)
    start = np.random.default_rng((seed, 1, step)).integers(low, high, endpoint=True)
    pcm = np.stack([clips.pcm[clip, at : at + samples] for clip, at in zip(index, start, strict=True)])
    return Crops(pcm, clips.members[index])


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, clips: int) -> Int[np.ndarray, " clip"]:
    return np.random.default_rng((seed, 0, epoch)).permutation(clips)
