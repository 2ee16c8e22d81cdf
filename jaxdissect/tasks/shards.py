"""A prepared data folder: a task's clips decoded once, 16-bit PCM in ArrayRecord shards, beside the task's table.

Decoding, not the accelerator, is the limit at scale. A prepared folder takes the place of the data folder: the table
stands where it stood, and the clips that it names are read from `shard-*.array_record`, one record a clip: eight bytes
of the SHA-256 of its name, then little-endian 16-bit samples, mono, at one rate, cropped to the unit length and not
padded. `shard-*.json` lists a shard's clips in the order of its records. `prepared.json` tells the size and SHA-256 of
every other file, and is complete when all of them are there.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdissect.audio.decode import ClipStatus, Recording, pad_recording
from jaxdissect.audio.pcm import samples_as_int16
from jaxdissect.errors import InputError, first_line
from jaxdissect.runtime.files import allow_open_files, refused_by_system, sha256_file, stays_inside

RECORD = "prepared.json"
FORMAT = 2  # of a prepared folder
AGAIN = "Copy it again, or remove it and repeat `jaxdissect prepare`."
MARK = 8  # bytes in front of the samples
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)  # of JSON


@dataclass(frozen=True)
class Content:
    """By which a file is known: its size in bytes, and its SHA-256."""

    bytes: int
    sha256: str

    @staticmethod
    def of(path: Path) -> "Content":
        """What stands in a file."""
        return Content(path.stat().st_size, sha256_file(path))


@dataclass(frozen=True)
class Prepared:
    """What a prepared folder says of itself.

    Attributes:
      sample_rate: of the clips, Hz.
      unit_seconds: to which they were cropped, s.
      shards: their names, without ending.
      files: what must stand in the shards, their lists and the tables, by their place in the folder.
      sha256: of `prepared.json`, which names the contents.
    """

    sample_rate: int
    unit_seconds: float
    shards: tuple[str, ...]
    files: Mapping[str, Content]
    sha256: str


@dataclass(frozen=True)
class Shard:
    """A shard's own list.

    Attributes:
      content: of its records' file.
      sample_rate, unit_seconds: of its clips.
      clips: file name and status of each, in the order of the records.
    """

    content: Content
    sample_rate: int
    unit_seconds: float
    clips: tuple[tuple[str, ClipStatus], ...]


def is_prepared(data: Path) -> bool:
    """Whether a data folder holds shards instead of files."""
    return (data / RECORD).is_file()


def read_prepared(data: Path) -> Prepared:
    """What stands in a prepared folder.

    Raises:
      InputError: it is not finished, is damaged or of another format, or a shard has another size than was written.
    """
    prepared = read_record(data)
    for name in prepared.shards:
        wrong = fault(data, f"{name}.array_record", prepared.files[f"{name}.array_record"], by_size=True)
        if wrong is not None:
            raise InputError(wrong)
    return prepared


def read_record(data: Path) -> Prepared:
    """What a prepared folder says of itself; the files that it tells of are not looked at.

    Raises:
      InputError: it is not finished, is damaged, or of another format.
    """
    path = inside(data, RECORD)
    try:
        content = path.read_bytes()
        found = json.loads(content)
        version, complete = found["format"], bool(found["complete"])
        if version == FORMAT and complete:
            return _parsed(found, hashlib.sha256(content).hexdigest())
    except DAMAGE as error:
        raise InputError(f"{path} cannot be read ({error}): prepare the data again.") from error
    if version != FORMAT:
        raise InputError(
            f"{path} is of format {version!r}, and this version of jaxdissect reads format {FORMAT}: remove that file "
            f"and repeat `jaxdissect prepare`, which keeps the shards that suit it."
        )
    raise InputError(f"{data} is not wholly prepared: repeat the `jaxdissect prepare` that began it, it goes on.")


def _parsed(found: Any, sha256: str) -> Prepared:
    prepared = Prepared(
        int(found["sample_rate"]),
        float(found["unit_seconds"]),
        tuple(map(str, found["shards"])),
        {str(name): Content(int(file["bytes"]), str(file["sha256"])) for name, file in found["files"].items()},
        sha256,
    )
    if not prepared.unit_seconds > 0 or prepared.sample_rate < 1:
        raise ValueError("rate and unit length must be positive")
    lacking = [name for name in prepared.shards if not {f"{name}.array_record", f"{name}.json"} <= set(prepared.files)]
    if lacking:
        raise ValueError(f"it does not tell what {lacking[0]} holds")
    return prepared


def shard_file(data: Path, name: str) -> Path:
    """Path of a shard's records.

    Raises:
      InputError: it leaves the folder.
    """
    return inside(data, f"{name}.array_record")


def list_file(data: Path, name: str) -> Path:
    """Path of a shard's list.

    Raises:
      InputError: it leaves the folder.
    """
    return inside(data, f"{name}.json")


def inside(data: Path, name: str) -> Path:
    """Path of a file of a prepared folder; a link there leads wherever the folder's owner wants.

    Raises:
      InputError: the name leaves the folder.
    """
    if stays_inside(name):
        return data / name
    raise InputError(f"{data / name} must lie in the prepared folder itself, and leaves it. {AGAIN}")


def fault(data: Path, name: str, wanted: Content, *, by_size: bool = False) -> str | None:
    """What is wrong with a file of a prepared folder, as a sentence; None: nothing.

    Args:
      data: prepared folder.
      name: place of the file in it.
      wanted: what must stand in it.
      by_size: look at no more than its size.
    """
    try:
        path = inside(data, name)
        if not path.is_file():
            return f"{path} is {'no regular file' if path.exists() else 'missing'}. {AGAIN}"
        there = path.stat().st_size
        if there != wanted.bytes:
            what = "is truncated" if there < wanted.bytes else "is another file"
            return f"{path} {what}: it should have {wanted.bytes:,} bytes, found {there:,}. {AGAIN}"
        if not by_size and sha256_file(path) != wanted.sha256:
            return f"{path} is damaged: its SHA-256 is another than was written. {AGAIN}"
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{data / name} cannot be read ({error.strerror or error}): see to it that it can."
    return None


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
    allow_open_files(len(prepared.shards))
    found: dict[str, tuple[int, ClipStatus]] = {}
    for name in prepared.shards:
        for file_name, status in read_shard(data, name, prepared.files[f"{name}.json"].sha256).clips:
            found[file_name] = len(found), status
    try:
        records = ArrayRecordDataSource([str(shard_file(data, name)) for name in prepared.shards])
    except (RuntimeError, ValueError) as error:
        raise _failed(data, error) from error
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
            raise _failed(data, error) from error
        if content[:MARK] != _mark(file_name):
            raise _failed(data, ValueError(f"a record holds another clip than {file_name!r}"))
        return pad_recording(np.frombuffer(content, "<i2", offset=MARK)[:samples], sample_rate, samples)

    return read


def read_shard(data: Path, name: str, sha256: str | None = None) -> Shard:
    """What `shard-*.json` says of a shard.

    Args:
      data: prepared folder.
      name: of the shard.
      sha256: that the list must have; None: any.

    Raises:
      InputError: it is missing, damaged, or another.
    """
    path = list_file(data, name)
    try:
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"it is not the list that {RECORD} tells of")
        found = json.loads(content)
        clips = tuple(
            (str(file_name), ClipStatus(int(samples), str(status), str(reason)))
            for file_name, samples, status, reason in found["clips"]
        )
        rate, unit = int(found["sample_rate"]), float(found["unit_seconds"])
        return Shard(Content(int(found["bytes"]), str(found["sha256"])), rate, unit, clips)
    except DAMAGE as error:
        raise InputError(f"{path} cannot be read ({error}). {AGAIN}") from error


def to_shard(file_name: str, recording: Recording) -> bytes:
    """A clip as it stands in a shard: a mark of its name, and its samples; 16 bits at this rate stay exact."""
    pcm = samples_as_int16(recording.pcm[: recording.clip.samples])
    return _mark(file_name) + pcm.astype("<i2").tobytes()


def _mark(file_name: str) -> bytes:
    """By which a record is known to be of this clip, whatever shard it was found in."""
    return hashlib.sha256(file_name.encode()).digest()[:MARK]


def _failed(data: Path, error: Exception) -> InputError:
    refused = refused_by_system(error, "prepare the data with a larger --shard-clips")
    if refused is not None:
        return InputError(f"--data {data}: a shard cannot be read ({refused}). What was counted before is kept.")
    return InputError(
        f"--data {data}: a shard is damaged ({first_line(error)}). `jaxdissect verify {data}` tells which: copy it "
        f"again, or remove it and repeat `jaxdissect prepare`. What was counted before is kept."
    )
