"""The files of a data set that tensorflow-datasets (TFDS) has prepared as array_record, read without TensorFlow.

Such a set is a folder NAME/VERSION or NAME/CONFIG/VERSION. Its `dataset_info.json` lists the splits and the number of
records in each of their files, `features.json` the content of a record (a tree, whose leaves are called
"instrument/family" and so on), and `FEATURE.labels.txt` the classes of a feature. Records and JSON are protobuf by
TFDS's own definitions; nothing is unpickled.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from jaxdissect.errors import InputError, UnreadableError, first_line, require
from jaxdissect.runtime.files import allow_open_files, refused_by_system, require_regular

SPLIT_BY_TFDS_NAME = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}
FILE_FORMAT = "array_record"
KNOWN_SETS: Mapping[str, tuple[int, float | None]] = {  # rate, Hz, if features.json has none; unit length, s
    "crema_d": (16000, 2.5),
    "gtzan": (22050, 30.0),
    "nsynth": (16000, 4.0),
    "voxforge": (16000, 5.8),
    "speech_commands": (16000, 1.0),
    "spoken_digit": (8000, None),
}
RECORD_NUMBER = re.compile(r"\d{8,18}", re.ASCII)
PREPARE_AGAIN = "copy the data set again, or prepare it again."
NEED_FEWER_FILES = "prepare the data set by `jaxdissect prepare`"  # advice if too many files are open
INFO_FILE, FEATURES_FILE = "dataset_info.json", "features.json"


@dataclass(frozen=True)
class DataSet:
    """A prepared data set, as its JSON files describe it.

    Attributes:
      folder: folder of its version.
      name: name of the data set, e.g. "crema_d".
      files: files of each split, by TFDS's name of the split, each with its number of records.
      features: features of a record by their names; each TFDS's protobuf `Feature`, and the file that may name its
        classes.
    """

    folder: Path
    name: str
    files: Mapping[str, Sequence[tuple[Path, int]]]
    features: Mapping[str, tuple[Any, Path]]


def is_tfds_folder(folder: Path) -> bool:
    """Whether a folder holds a data set that TFDS has prepared; Hugging Face's have the first of the two files, too.

    Args:
      folder: folder of a version.
    """
    return all((folder / name).is_file() for name in (INFO_FILE, FEATURES_FILE))


class Records:
    """The records of a data set, whose files are all opened; for many threads.

    Attributes:
      ends: for each split the number of records up to the end of each of its files.
    """

    def __init__(self, data_set: DataSet) -> None:
        """Open the files.

        Args:
          data_set: data set to read.

        Raises:
          InputError: a file is missing, damaged, or holds another number of records than in dataset_info.json.
        """
        from tensorflow_datasets.proto import tf_example_pb2

        allow_open_files(sum(map(len, data_set.files.values())))
        self._parse = tf_example_pb2.Example.FromString
        self._files = {
            split: [(file, _open_records(*file)) for file in files] for split, files in data_set.files.items()
        }
        self.ends = {split: list(accumulate(length for _, length in files)) for split, files in data_set.files.items()}

    def read(self, file_name: str) -> Any:
        """The content of a record, by feature.

        Args:
          file_name: "SPLIT/NUMBER", by which the task knows the record.

        Raises:
          UnreadableError: there is no such record, or it is damaged.
          InputError: the system refuses to open or read its file.
        """
        split, _, number = file_name.partition("/")
        ends = self.ends.get(split, [0])
        if not RECORD_NUMBER.fullmatch(number) or int(number) >= ends[-1]:
            raise UnreadableError("is no record of the data set")
        file = bisect_right(ends, int(number))  # the first file that ends behind the record
        (path, length), records = self._files[split][file]
        try:
            # The file's first record is the split's record number ends[file] - length.
            return self._parse(records[int(number) - ends[file] + length]).features.feature
        except Exception as error:  # the errors of array_record and of protobuf have no class in common
            refused = refused_by_system(error, NEED_FEWER_FILES)
            if refused is not None:  # this is not the one record's fault
                raise InputError(f"{path} cannot be read any more ({refused}).") from error
            raise UnreadableError(f"cannot be read: {first_line(error)}") from error


def read_data_set(folder: Path) -> DataSet:
    """The data set in a folder that TFDS has prepared.

    Args:
      folder: folder of a version.

    Raises:
      InputError: a package is missing, the records have another format, no known split holds any, or a file is
        missing or damaged.
    """
    try:
        import array_record.python.array_record_data_source  # noqa: F401
        from tensorflow_datasets.core.proto import dataset_info_pb2, feature_pb2
    except ImportError as error:
        raise InputError(
            f"{folder} needs a package that is missing ({error}): pip install 'jaxdissect[tfds]'"
        ) from error
    path = folder / INFO_FILE
    info = _parse_json(path, dataset_info_pb2.DatasetInfo())
    require(
        FILE_FORMAT in (info.file_format, *info.alternative_file_formats),
        f"{path}: the records must be in the format {FILE_FORMAT}, found {info.file_format or 'tfrecord'}, which takes "
        f"TensorFlow to read. Prepare the data set anew: tfds build {info.name} --file_format={FILE_FORMAT}; or, where "
        f"TensorFlow is: tfds convert_format --dataset_version_dir={folder} --out_file_format={FILE_FORMAT}",
    )
    splits = [split for split in info.splits if split.name in SPLIT_BY_TFDS_NAME and any(split.shard_lengths)]
    present = ", ".join(split.name for split in info.splits) or "none"
    listed = ", ".join(SPLIT_BY_TFDS_NAME)
    require(bool(splits), f"{path}: a split must be named {listed} and hold records, found {present}.")
    features = {}
    # Leaves are named by all names on the way to them, in records with slashes, in files' names with hyphens.
    for parts, feature in _leaves(_parse_json(folder / FEATURES_FILE, feature_pb2.Feature())):
        stem = "-".join(part.replace("/", ".") for part in parts)  # as TFDS names the file with the classes
        features["/".join(parts)] = (feature, folder / f"{stem}.labels.txt")
    return DataSet(folder, info.name, {split.name: _files(path, info.name, split) for split in splits}, features)


def _parse_json(path: Path, message: Any) -> Any:
    from google.protobuf import json_format

    require_regular(path)
    try:
        return json_format.Parse(path.read_text(encoding="utf-8"), message, ignore_unknown_fields=True)
    except Exception as error:  # of files, of JSON, or of protobuf
        raise InputError(f"{path} is missing or damaged ({first_line(error)}): {PREPARE_AGAIN}") from error


def _leaves(feature: Any, parts: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The features of a tree that hold something, each with the names on the way to it."""
    if feature.WhichOneof("content") != "features_dict":
        yield parts, feature
    for name, child in sorted(feature.features_dict.features.items()):
        yield from _leaves(child, (*parts, name))


def _files(path: Path, name: str, split: Any) -> list[tuple[Path, int]]:
    """The files of a split, each with its number of records."""
    from tensorflow_datasets.core.naming import ShardedFileTemplate

    folder = path.parent
    try:
        # The template names a split's files, "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}" unless a user changed it.
        template = ShardedFileTemplate(folder, split.filepath_template, name, split.name, FILE_FORMAT)
        files = [Path(file) for file in template.sharded_filepaths(len(split.shard_lengths))]
        # By the names alone: a link in the folder may lead anywhere.
        outside = [file for file in files if not Path(os.path.normpath(file)).is_relative_to(os.path.normpath(folder))]
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged (split {split.name}: {first_line(error)}): {PREPARE_AGAIN}") from error
    example = next(iter(outside), None)
    require(
        not outside,
        f"{path}: files of split {split.name} must lie in {folder}, found {example}: {PREPARE_AGAIN}",
    )
    return list(zip(files, split.shard_lengths, strict=True))


def _open_records(path: Path, length: int) -> Any:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    require(path.is_file(), f"{path} is missing: {PREPARE_AGAIN}")
    try:
        records = ArrayRecordDataSource([str(path)])
    except (OSError, RuntimeError, ValueError) as error:
        refused = refused_by_system(error, NEED_FEWER_FILES)
        fault = f"is damaged or cut off ({first_line(error)}): {PREPARE_AGAIN}"
        raise InputError(f"{path} {fault if refused is None else f'cannot be read ({refused}).'}") from error
    require(
        len(records) == length,
        f"{path} should hold {length} records by dataset_info.json, found {len(records)}: {PREPARE_AGAIN}",
    )
    return records
