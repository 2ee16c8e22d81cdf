"""The files of a data set that tensorflow-datasets (TFDS) has prepared as array_record, read without TensorFlow.

Such a set is a folder NAME/VERSION or NAME/CONFIG/VERSION. Its `dataset_info.json` tells the splits and how many
records each of their files holds, `features.json` what a record holds (a tree, whose leaves are called
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

from jaxdissect.errors import InputError, UnreadableError, first_line
from jaxdissect.runtime.files import allow_open_files, refused_by_system, require_regular

SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}  # by TFDS's names
FORMAT = "array_record"
INDEX = re.compile(r"\d{8,18}", re.ASCII)
AGAIN = "copy the data set again, or prepare it again."
FEWER = "prepare the data set by `jaxdissect prepare`"  # if there are too many files
INFO, FEATURES = "dataset_info.json", "features.json"


@dataclass(frozen=True)
class DataSet:
    """What a prepared data set says of itself.

    Attributes:
      folder: of its version.
      name: e.g. "crema_d".
      files: by TFDS's name of the split its files, each with how many records it holds.
      features: by name, as in a record; each TFDS's protobuf `Feature`, and the file that may name its classes.
    """

    folder: Path
    name: str
    files: Mapping[str, Sequence[tuple[Path, int]]]
    features: Mapping[str, tuple[Any, Path]]


def is_tfds_folder(folder: Path) -> bool:
    """Whether a folder holds a data set that TFDS has prepared; Hugging Face's know the first of the two files, too."""
    return all((folder / name).is_file() for name in (INFO, FEATURES))


class Records:
    """The records of a data set, whose files are all opened; for many threads.

    Attributes:
      ends: by split, how many records there are up to the end of each of its files.

    Raises:
      InputError: a file is missing, damaged, or holds another number of records than dataset_info.json says.
    """

    def __init__(self, data_set: DataSet) -> None:
        from tensorflow_datasets.proto import tf_example_pb2

        allow_open_files(sum(map(len, data_set.files.values())))
        self._parse = tf_example_pb2.Example.FromString
        self._files = {split: [(file, _opened(*file)) for file in files] for split, files in data_set.files.items()}
        self.ends = {split: list(accumulate(length for _, length in files)) for split, files in data_set.files.items()}

    def read(self, file_name: str) -> Any:
        """What the record "SPLIT/INDEX" stores, by feature.

        Raises:
          UnreadableError: there is no such record, or it is damaged.
          InputError: the system refuses to open or read its file.
        """
        split, _, index = file_name.partition("/")
        ends = self.ends.get(split, [0])
        if not INDEX.fullmatch(index) or int(index) >= ends[-1]:
            raise UnreadableError("is no record of the data set")
        number = bisect_right(ends, int(index))
        (path, length), records = self._files[split][number]
        try:
            return self._parse(records[int(index) - ends[number] + length]).features.feature
        except Exception as error:  # the errors of array_record and of protobuf have no class in common
            refused = refused_by_system(error, FEWER)
            if refused is not None:  # this is not the one record's fault
                raise InputError(f"{path} cannot be read any more ({refused}).") from error
            raise UnreadableError(f"cannot be read: {first_line(error)}") from error


def read_data_set(folder: Path) -> DataSet:
    """What stands in a folder that TFDS has prepared.

    Raises:
      InputError: a package is missing, the records are of another format, no known split holds any, or a file is
        missing or damaged.
    """
    try:
        import array_record.python.array_record_data_source  # noqa: F401
        from tensorflow_datasets.core.proto import dataset_info_pb2, feature_pb2
    except ImportError as error:
        raise InputError(
            f"{folder} needs a package that is missing ({error}): pip install 'jaxdissect[tfds]'"
        ) from error
    path = folder / INFO
    info = _parsed(path, dataset_info_pb2.DatasetInfo())
    if FORMAT not in (info.file_format, *info.alternative_file_formats):
        raise InputError(
            f"{path}: the records must be in the format {FORMAT}, found {info.file_format or 'tfrecord'}, which takes "
            f"TensorFlow to read. Prepare the data set anew: tfds build {info.name} --file_format={FORMAT}; or, where "
            f"TensorFlow is: tfds convert_format --dataset_version_dir={folder} --out_file_format={FORMAT}"
        )
    splits = [split for split in info.splits if split.name in SPLITS and any(split.shard_lengths)]
    if not splits:
        found = ", ".join(split.name for split in info.splits) or "none"
        raise InputError(f"{path}: a split must be named {', '.join(SPLITS)} and hold records, found {found}.")
    files = {split.name: _files(path, info.name, split) for split in splits}
    features = {
        "/".join(parts): (feature, folder / f"{'-'.join(part.replace('/', '.') for part in parts)}.labels.txt")
        for parts, feature in _leaves(_parsed(folder / FEATURES, feature_pb2.Feature()))
    }
    return DataSet(folder, info.name, files, features)


def _parsed(path: Path, message: Any) -> Any:
    from google.protobuf import json_format

    require_regular(path)
    try:
        return json_format.Parse(path.read_text(encoding="utf-8"), message, ignore_unknown_fields=True)
    except Exception as error:  # of files, of JSON, or of protobuf
        raise InputError(f"{path} is missing or damaged ({first_line(error)}): {AGAIN}") from error


def _leaves(feature: Any, parts: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if feature.WhichOneof("content") != "features_dict":
        yield parts, feature
    for name, child in sorted(feature.features_dict.features.items()):
        yield from _leaves(child, (*parts, name))


def _files(path: Path, name: str, split: Any) -> list[tuple[Path, int]]:
    from tensorflow_datasets.core.naming import ShardedFileTemplate

    folder = path.parent
    try:
        template = ShardedFileTemplate(folder, split.filepath_template, name, split.name, FORMAT)
        files = [Path(file) for file in template.sharded_filepaths(len(split.shard_lengths))]
        # By the names alone: a link in the folder leads wherever its owner wants.
        outside = [file for file in files if not Path(os.path.normpath(file)).is_relative_to(os.path.normpath(folder))]
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged (split {split.name}: {first_line(error)}): {AGAIN}") from error
    if outside:
        raise InputError(f"{path}: files of split {split.name} must lie in {folder}, found {outside[0]}: {AGAIN}")
    return list(zip(files, split.shard_lengths, strict=True))


def _opened(path: Path, length: int) -> Any:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    if not path.is_file():
        raise InputError(f"{path} is missing: {AGAIN}")
    try:
        records = ArrayRecordDataSource([str(path)])
    except (OSError, RuntimeError, ValueError) as error:
        refused = refused_by_system(error, FEWER)
        if refused is not None:
            raise InputError(f"{path} cannot be read ({refused}).") from error
        raise InputError(f"{path} is damaged or cut off ({first_line(error)}): {AGAIN}") from error
    if len(records) != length:
        raise InputError(f"{path} should hold {length} records by dataset_info.json, found {len(records)}: {AGAIN}")
    return records
