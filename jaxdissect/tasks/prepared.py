"""A prepared data folder: a task's clips decoded once, 16-bit PCM in ArrayRecord shards, beside the task's table.

Decoding, not the accelerator, is the limit at scale. A prepared folder takes the place of the data folder: the table
stands where it stood, and the clips that it names are read from `shard-*.array_record`, one record a clip: eight bytes
of the SHA-256 of its name, then little-endian 16-bit samples, mono, at one rate, cropped to the unit length and not
padded. `shard-*.json` lists a shard's clips in the order of its records, with its size and SHA-256; `prepared.json`
lists the shards, and is complete when all of them are there.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdissect.audio.decode import ClipStatus, Recording, pad_recording
from jaxdissect.errors import InputError

RECORD = "prepared.json"
FULL_SCALE = 32768
MARK = 8  # bytes in front of the samples


@dataclass(frozen=True)
class Prepared:
    """What a prepared folder says of itself.

    Attributes:
      sample_rate: of the clips, Hz.
      unit_seconds: to which they were cropped, s.
      shards: of each its name without ending, `clips`, `bytes` and `sha256`.
      sha256: of `prepared.json`, which names the contents.
    """

    sample_rate: int
    unit_seconds: float
    shards: Mapping[str, Mapping[str, Any]]
    sha256: str


@dataclass(frozen=True)
class Shard:
    """A shard's own list.

    Attributes:
      bytes: size of its records' file.
      sha256: of that file.
      sample_rate, unit_seconds: of its clips.
      clips: file name and status of each, in the order of the records.
    """

    bytes: int
    sha256: str
    sample_rate: int
    unit_seconds: float
    clips: tuple[tuple[str, ClipStatus], ...]


def is_prepared(data: Path) -> bool:
    """Whether a data folder holds shards instead of files."""
    return (data / RECORD).is_file()


def read_prepared(data: Path) -> Prepared:
    """What stands in a prepared folder.

    Raises:
      InputError: it is not finished, is damaged, or a shard has another size than was written.
    """
    path = data / RECORD
    try:
        content = path.read_bytes()
        found = json.loads(content)
        complete = bool(found["complete"])
        prepared = Prepared(
            int(found["sample_rate"]),
            float(found["unit_seconds"]),
            {str(name): dict(shard) for name, shard in found["shards"].items()} if complete else {},
            hashlib.sha256(content).hexdigest(),
        )
        sizes = {name: int(shard["bytes"]) for name, shard in prepared.shards.items()}
        if not prepared.unit_seconds > 0 or prepared.sample_rate < 1:
            raise ValueError("rate and unit length must be positive")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): prepare the data again.") from error
    if not complete:
        raise InputError(f"{data} is not wholly prepared: repeat the `jaxdissect prepare` that began it, it goes on.")
    for name, size in sizes.items():
        shard = shard_file(data, name)
        there = shard.stat().st_size if shard.is_file() else 0
        if there != size:
            raise InputError(
                f"{shard} is {'truncated' if there < size else 'another file'}: it should have {size:,} bytes, found "
                f"{there:,}. Copy it again, or remove it and {RECORD} and repeat `jaxdissect prepare`."
            )
    return prepared


def shard_file(data: Path, name: str) -> Path:
    """Path of a shard's records.

    Raises:
      InputError: the name leaves the folder.
    """
    if Path(name).name != name:
        raise InputError(f"{data / RECORD}: a shard must lie in the folder itself, found {name!r}.")
    return data / f"{name}.array_record"


def prepared_reader(data: Path, sample_rate: int, samples: int) -> Callable[[str], Recording]:
    """`read(file_name) -> Recording` from the shards of a prepared folder, whose PCM stays 16-bit; for many threads.

    Args:
      data: prepared folder.
      sample_rate: that is wanted, Hz.
      samples: unit length that is wanted.

    Raises:
      InputError: the folder is damaged, or prepared at another rate or for a shorter unit; when reading: a shard fails
        its checksum.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    prepared = read_prepared(data)
    if prepared.sample_rate != sample_rate:
        raise InputError(
            f"--data {data} was prepared at {prepared.sample_rate} Hz, and the encoder takes {sample_rate} Hz: prepare "
            f"the data with --sample-rate {sample_rate}."
        )
    if round(prepared.unit_seconds * sample_rate) < samples:
        raise InputError(
            f"--data {data} was prepared for clips of {prepared.unit_seconds:g} s, shorter than the "
            f"{samples / sample_rate:g} s asked for: prepare the data with a longer --unit-seconds."
        )
    files = [str(shard_file(data, name)) for name in prepared.shards]
    found: dict[str, tuple[int, ClipStatus]] = {}
    for name, shard in prepared.shards.items():
        listed = read_shard(data, name)
        of_folder = (shard["sha256"], prepared.sample_rate, prepared.unit_seconds)
        if (listed.sha256, listed.sample_rate, listed.unit_seconds) != of_folder:
            raise InputError(f"{data / name}.json is not of the shard that {RECORD} lists: copy it again.")
        for file_name, status in listed.clips:
            found[file_name] = len(found), status
    try:
        records = ArrayRecordDataSource(files)
    except (RuntimeError, ValueError) as error:
        raise _damaged(data, error) from error
    if len(records) != len(found):
        raise InputError(f"--data {data}: the shards hold {len(records)} clips, their tables {len(found)}.")

    def nothing(reason: str) -> Recording:
        return Recording(np.zeros(samples, np.int16), ClipStatus(0, "unreadable", reason))

    def read(file_name: str) -> Recording:
        if file_name not in found:
            return nothing("is not among the prepared clips")
        number, status = found[file_name]
        if status.status == "unreadable":
            return nothing(status.reason)
        try:
            content = records[number]
        except (RuntimeError, ValueError, IndexError) as error:
            raise _damaged(data, error) from error
        if content[:MARK] != _mark(file_name):
            raise _damaged(data, ValueError(f"a record holds another clip than {file_name!r}"))
        return pad_recording(np.frombuffer(content, "<i2", offset=MARK)[:samples], sample_rate, samples)

    return read


def read_shard(data: Path, name: str) -> Shard:
    """What `shard-*.json` says of a shard.

    Raises:
      InputError: it is missing or damaged.
    """
    path = data / f"{name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        clips = tuple(
            (str(file_name), ClipStatus(int(samples), str(status), str(reason)))
            for file_name, samples, status, reason in found["clips"]
        )
        rate, unit = int(found["sample_rate"]), float(found["unit_seconds"])
        return Shard(int(found["bytes"]), str(found["sha256"]), rate, unit, clips)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): copy it again, or prepare the data again.") from error


def to_shard(file_name: str, recording: Recording) -> bytes:
    """A clip as it stands in a shard: a mark of its name, and its samples; 16 bits at this rate stay exact."""
    pcm = np.rint(recording.pcm[: recording.clip.samples] * FULL_SCALE)
    return _mark(file_name) + np.clip(pcm, -FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes()


def _mark(file_name: str) -> bytes:
    """By which a record is known to be of this clip, whatever shard it was found in."""
    return hashlib.sha256(file_name.encode()).digest()[:MARK]


def _damaged(data: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0][:300]
    return InputError(
        f"--data {data}: a shard is damaged ({reason}). `jaxdissect verify {data}` tells which: copy it "
        f"again, or remove it and {RECORD} and repeat `jaxdissect prepare`. What was counted before is kept."
    )
