"""A prepared data folder: a task's clips decoded once, 16-bit PCM in ArrayRecord shards, beside the task's table.

Decoding, not the accelerator, is the limit at scale. A prepared folder takes the place of the data folder: it holds a
copy of the table, and the clips that the table names are read from `shard-*.array_record`, one record for each clip.
A record is eight bytes of the SHA-256 of the clip's name, then little-endian 16-bit samples, mono, at one rate, cropped
to the unit length and not padded. `shard-*.json` lists a shard's clips in the order of its records. `prepared.json` has
the size and SHA-256 of every other file, and is complete when all of them are there.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxdissect.audio.decode import ClipStatus, Recording, pad_recording
from jaxdissect.audio.pcm import samples_as_int16
from jaxdissect.errors import InputError, first_line, require
from jaxdissect.runtime.files import allow_open_files, refused_by_system, sha256_file, stays_inside
from jaxdissect.types import Record

PREPARED_FILE = "prepared.json"
PREPARED_FORMAT = 2  # version of a prepared folder's format
COPY_AGAIN = "Copy it again, or remove it and repeat `jaxdissect prepare`."
NAME_BYTES = 8  # of the hash of a clip's name, in front of its samples
# Errors of reading JSON and of what it holds; a rule that it breaks, an InputError, is a ValueError.
MALFORMED = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class FileDigest:
    """By which a file is known.

    Attributes:
      bytes: size of the file.
      sha256: SHA-256 of its content, in hexadecimal.
    """

    bytes: int
    sha256: str

    @staticmethod
    def of(path: Path) -> "FileDigest":
        """The digest of a file.

        Args:
          path: path of the file.
        """
        return FileDigest(path.stat().st_size, sha256_file(path))


@dataclass(frozen=True)
class Prepared:
    """A prepared folder, as `prepared.json` describes it.

    Attributes:
      sample_rate: rate of the clips, Hz.
      unit_seconds: length to which they were cropped, s.
      shards: names of the shards, without ending.
      files: digests of the shards, their lists and the tables, by their place in the folder.
      sha256: SHA-256 of `prepared.json`, and so of all contents.
    """

    sample_rate: int
    unit_seconds: float
    shards: tuple[str, ...]
    files: Mapping[str, FileDigest]
    sha256: str


@dataclass(frozen=True)
class Shard:
    """A shard, as its own list describes it.

    Attributes:
      digest: digest of the file with its records.
      sample_rate: rate of its clips, Hz.
      unit_seconds: length to which they were cropped, s.
      clips: file name and status of each clip, in the order of the records.
    """

    digest: FileDigest
    sample_rate: int
    unit_seconds: float
    clips: tuple[tuple[str, ClipStatus], ...]


def is_prepared(data: Path) -> bool:
    """Whether a data folder holds shards instead of files.

    Args:
      data: data folder.
    """
    return (data / PREPARED_FILE).is_file()


def read_prepared(data: Path) -> Prepared:
    """The description of a prepared folder, whose shards have the size that they should have.

    Args:
      data: prepared folder.

    Raises:
      InputError: it is not finished, is damaged or of another format, or a shard has another size than was written.
    """
    prepared = read_description(data)
    for shard in prepared.shards:
        fault = find_fault(data, f"{shard}.array_record", prepared.files[f"{shard}.array_record"], by_size=True)
        require(fault is None, str(fault))
    return prepared


def read_description(data: Path) -> Prepared:
    """The description of a prepared folder; the files that it names are not looked at.

    Args:
      data: prepared folder.

    Raises:
      InputError: it is not finished, is damaged, or of another format.
    """
    path = inside(data, PREPARED_FILE)
    try:
        content = path.read_bytes()
        record = json.loads(content)
        # Only a complete file of this format is read any further.
        version, complete = record["format"], bool(record["complete"])
        if version == PREPARED_FORMAT and complete:
            return _parse_description(record, hashlib.sha256(content).hexdigest())
    except MALFORMED as error:
        raise InputError(f"{path} cannot be read ({error}): prepare the data again.") from error
    require(
        version == PREPARED_FORMAT,
        f"{path} has format {version!r}, and this version of jaxdissect reads format {PREPARED_FORMAT}: remove that "
        f"file and repeat `jaxdissect prepare`, which keeps the shards that suit it.",
    )
    raise InputError(
        f"{data} is not wholly prepared: repeat the `jaxdissect prepare` that began it, which then continues."
    )


def _parse_description(record: Record, sha256: str) -> Prepared:
    files = {str(name): FileDigest(int(file["bytes"]), str(file["sha256"])) for name, file in record["files"].items()}
    shards = tuple(map(str, record["shards"]))
    sample_rate, unit_seconds = int(record["sample_rate"]), float(record["unit_seconds"])
    require(unit_seconds > 0 and sample_rate >= 1, "rate and unit length must be positive")
    for shard in shards:
        require({f"{shard}.array_record", f"{shard}.json"} <= set(files), f"it has no digest of {shard}")
    return Prepared(sample_rate, unit_seconds, shards, files, sha256)


def shard_file(data: Path, shard: str) -> Path:
    """Path of a shard's records.

    Args:
      data: prepared folder.
      shard: name of the shard.

    Raises:
      InputError: it leaves the folder.
    """
    return inside(data, f"{shard}.array_record")


def list_file(data: Path, shard: str) -> Path:
    """Path of a shard's list.

    Args:
      data: prepared folder.
      shard: name of the shard.

    Raises:
      InputError: it leaves the folder.
    """
    return inside(data, f"{shard}.json")


def inside(data: Path, name: str) -> Path:
    """Path of a file of a prepared folder; a link there may lead anywhere.

    Args:
      data: prepared folder.
      name: place of the file in it.

    Raises:
      InputError: the name leaves the folder.
    """
    require(stays_inside(name), f"{data / name} must lie in the prepared folder itself, and leaves it. {COPY_AGAIN}")
    return data / name


def find_fault(data: Path, name: str, digest: FileDigest, *, by_size: bool = False) -> str | None:
    """What is wrong with a file of a prepared folder, as a sentence; None: nothing.

    Args:
      data: prepared folder.
      name: place of the file in it.
      digest: digest that the file should have.
      by_size: whether to compare no more than its size.
    """
    try:
        path = inside(data, name)
        if not path.is_file():
            return f"{path} is {'no regular file' if path.exists() else 'missing'}. {COPY_AGAIN}"
        size = path.stat().st_size
        if size != digest.bytes:
            fault = "is truncated" if size < digest.bytes else "is another file"
            return f"{path} {fault}: it should have {digest.bytes:,} bytes, found {size:,}. {COPY_AGAIN}"
        if not by_size and sha256_file(path) != digest.sha256:
            return f"{path} is damaged: its SHA-256 is another than was written. {COPY_AGAIN}"
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{data / name} cannot be read ({error.strerror or error}): see to it that it can."
    return None


def prepared_reader(data: Path, sample_rate: int, samples: int) -> Callable[[str], Recording]:
    """`read(file_name) -> Recording` from the shards of a prepared folder, whose PCM stays 16-bit; for many threads.

    Args:
      data: prepared folder.
      sample_rate: rate of the result, Hz.
      samples: unit length of the result.

    Raises:
      InputError: the folder is damaged, or prepared at another rate or for a shorter unit; when reading: a shard fails
        its checksum.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    prepared = read_prepared(data)
    require(
        prepared.sample_rate == sample_rate,
        f"data {data} was prepared at {prepared.sample_rate} Hz, and the encoder takes {sample_rate} Hz: prepare the "
        f"data with --sample-rate {sample_rate}.",
    )
    require(
        round(prepared.unit_seconds * sample_rate) >= samples,
        f"data {data} was prepared for clips of {prepared.unit_seconds:g} s, shorter than the "
        f"{samples / sample_rate:g} s asked for: prepare the data with a longer --unit-seconds.",
    )
    allow_open_files(len(prepared.shards))
    shards = [read_shard(data, shard, prepared.files[f"{shard}.json"].sha256) for shard in prepared.shards]
    listed = [clip for shard in shards for clip in shard.clips]
    # Number of each clip's record, counted over all shards, and the clip's status.
    clips = {file_name: (number, status) for number, (file_name, status) in enumerate(listed)}
    try:
        records = ArrayRecordDataSource([str(shard_file(data, shard)) for shard in prepared.shards])
    except (RuntimeError, ValueError) as error:
        raise _shard_error(data, error) from error
    require(
        len(records) == len(clips),
        f"data {data}: the shards hold {len(records)} clips, their tables {len(clips)}.",
    )

    def read(file_name: str) -> Recording:
        number, status = clips.get(file_name, (-1, ClipStatus(0, "unreadable", "is not among the prepared clips")))
        if status.status == "unreadable":
            return Recording(np.zeros(samples, np.int16), ClipStatus(0, "unreadable", status.reason))
        try:
            content = records[number]
        except (RuntimeError, ValueError, IndexError) as error:
            raise _shard_error(data, error) from error
        # A shard that was copied in place of another has records of other clips.
        if content[:NAME_BYTES] != _name_hash(file_name):
            raise _shard_error(data, ValueError(f"a record holds another clip than {file_name!r}"))
        # Shards may be of longer clips than the task: these are cropped, and padded to the unit length.
        return pad_recording(np.frombuffer(content, "<i2", offset=NAME_BYTES)[:samples], sample_rate, samples)

    return read


def read_shard(data: Path, shard: str, sha256: str | None = None) -> Shard:
    """A shard, as `shard-*.json` describes it.

    Args:
      data: prepared folder.
      shard: name of the shard.
      sha256: SHA-256 that the list must have; None: any.

    Raises:
      InputError: the list is missing, damaged, or another.
    """
    path = list_file(data, shard)
    try:
        content = path.read_bytes()
        is_named = sha256 is None or hashlib.sha256(content).hexdigest() == sha256
        require(is_named, f"it is another list than {PREPARED_FILE} names")
        record = json.loads(content)
        clips = tuple(
            (str(file_name), ClipStatus(int(samples), str(status), str(reason)))
            for file_name, samples, status, reason in record["clips"]
        )
        digest = FileDigest(int(record["bytes"]), str(record["sha256"]))
        return Shard(digest, int(record["sample_rate"]), float(record["unit_seconds"]), clips)
    except MALFORMED as error:
        raise InputError(f"{path} cannot be read ({error}). {COPY_AGAIN}") from error


def to_shard(file_name: str, recording: Recording) -> bytes:
    """The record of a clip: hash of its name, and its samples; 16 bits at the shards' rate stay exact.

    Args:
      file_name: path of the clip's file, as in the table.
      recording: clip as it was decoded.
    """
    pcm = samples_as_int16(recording.pcm[: recording.clip.samples])
    return _name_hash(file_name) + pcm.astype("<i2").tobytes()


def _name_hash(file_name: str) -> bytes:
    """By which a record is known to be of a clip, whatever shard it was found in."""
    return hashlib.sha256(file_name.encode()).digest()[:NAME_BYTES]


def _shard_error(data: Path, error: Exception) -> InputError:
    refused = refused_by_system(error, "prepare the data with a larger --shard-clips")
    if refused is not None:
        return InputError(f"data {data}: a shard cannot be read ({refused}). What was counted before is kept.")
    return InputError(
        f"data {data}: a shard is damaged ({first_line(error)}). `jaxdissect verify {data}` names it: copy it again, "
        f"or remove it and repeat `jaxdissect prepare`. What was counted before is kept."
    )
