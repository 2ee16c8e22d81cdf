"""Tasks from data sets that tensorflow-datasets (TFDS) has prepared: their clips, labels and sound."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdissect.audio.decode import Recording, make_recording, unreadable
from jaxdissect.errors import InputError, UnreadableError, first_line, require
from jaxdissect.runtime.files import require_regular
from jaxdissect.tasks.table import CONTROL_CHARACTER, LabelSet, Task, cells_label_set, make_task
from jaxdissect.tasks.tfds_audio import decode, find_audio
from jaxdissect.tasks.tfds_records import (
    FILE_FORMAT,
    KNOWN_SETS,
    PREPARE_AGAIN,
    SPLIT_BY_TFDS_NAME,
    DataSet,
    Records,
    is_tfds_folder,
    read_data_set,
)

PREFIX = "tfds:"
TASK_NAME = re.compile(r"tfds:[A-Za-z]\w*(/[\w+-][\w+.-]*){0,2}", re.ASCII)
VERSION = re.compile(r"\d{1,9}\.\d{1,9}\.\d{1,9}", re.ASCII)
LABEL_TYPES = ("string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
DEFAULT_LABELS = ("label", "instrument/family")  # the first that is there


def load_tfds_task(
    task: str,
    data: Path,
    label: Sequence[str] | None = (),
    unit_seconds: float | None = None,
    multi_label: bool = False,
    progress: Callable = iter,
) -> Task:
    """A task from a data set that TFDS has prepared; splits other than training, validation and test are left out.

    Args:
      task: "tfds:NAME" or "tfds:NAME/CONFIG" for the newest version, or either with "/VERSION".
      data: TFDS's data_dir, the folder that holds NAME/...
      label: features to count, each a label set: class labels, texts, whole numbers, truth values; default: "label" or
        else "instrument/family"; None: none, and no record is read.
      unit_seconds: length of a clip, s; default: that of `KNOWN_SETS`.
      multi_label: whether commas in these features separate several labels.
      progress: wrapper of the iteration over records, which are read for their labels.

    Raises:
      InputError: there is no such data set or feature, it has another format, is incomplete or damaged, its unit length
        is unknown, or a package is missing.
    """
    folder = _version_folder(task, data)
    name = folder.relative_to(data).parts[0]
    seconds = KNOWN_SETS.get(name, (0, None))[1] if unit_seconds is None else unit_seconds
    if seconds is None:
        raise InputError(f"Task {task!r} needs unit_seconds, the length to which clips are cropped or padded.")
    data_set = read_data_set(folder)
    find_audio(data_set)  # refuses a set without sound before its records are read
    chosen = _chosen_features(data_set, label)
    records = Records(data_set)
    clips = [(split, number) for split, ends in records.ends.items() for number in range(ends[-1])]
    file_names = [f"{split}/{number:08d}" for split, number in clips]
    label_sets = _read_labels(data_set, records, chosen, progress(file_names), multi_label) if chosen else []
    splits = [SPLIT_BY_TFDS_NAME[split] for split, _ in clips]
    return make_task(name, folder, seconds, file_names, splits, [None] * len(clips), label_sets)


def tfds_reader(task_data: Path, sample_rate: int, samples: int) -> Callable[[str], Recording]:
    """`read(file_name) -> Recording` from a prepared data set; for many threads.

    Args:
      task_data: folder of its version, as in the task.
      sample_rate: rate of the result, Hz.
      samples: unit length of the result.

    Raises:
      InputError: the data set is incomplete or damaged, or a package is missing; when reading: a file has vanished, or
        samples have more than 16 bits. A fault of one record is its status.
    """
    data_set = read_data_set(task_data)
    audio = find_audio(data_set)
    records = Records(data_set)

    def read(file_name: str) -> Recording:
        try:
            pcm, rate = decode(records.read(file_name), audio, sample_rate, samples)
        except UnreadableError as error:
            return unreadable(str(error), samples)
        return make_recording(pcm, rate, sample_rate, samples)

    return read


def _version_folder(task: str, data: Path) -> Path:
    """The folder of the version that a task names, or else of the newest one."""
    name_fits = TASK_NAME.fullmatch(task) is not None
    require(name_fits, f"Task {task!r} must be {PREFIX}NAME, {PREFIX}NAME/VERSION or {PREFIX}NAME/CONFIG/VERSION.")
    name, *parts = task.removeprefix(PREFIX).split("/")  # NAME, NAME/VERSION, NAME/CONFIG or NAME/CONFIG/VERSION
    named = parts.pop() if parts and VERSION.fullmatch(parts[-1]) else None
    parent = data.joinpath(name, *parts)
    try:
        present = sorted(path.name for path in parent.iterdir() if not path.name.startswith("."))
    except OSError:
        present = []
    versions = [entry for entry in present if VERSION.fullmatch(entry) and is_tfds_folder(parent / entry)]
    require(
        bool(versions) and named in (None, *versions),
        f"Task {task!r}: {parent} must hold a data set that TFDS has prepared, {named or 'of some version'}; found "
        f"{', '.join(present) or 'nothing'}. Name one of these, give TFDS's data_dir as data, or prepare it: "
        f"tfds build {name} --file_format={FILE_FORMAT} --data_dir={data}",
    )
    # Versions are compared by their numbers: 1.10.0 is newer than 1.9.0.
    return parent / (named or max(versions, key=lambda version: [int(number) for number in version.split(".")]))


def _chosen_features(data_set: DataSet, label: Sequence[str] | None) -> tuple[str, ...]:
    """The features to count."""
    if label is None:
        return ()
    usable = [name for name, (feature, _) in data_set.features.items() if _is_label(feature)]
    chosen = tuple(label) or tuple(name for name in DEFAULT_LABELS if name in usable)[:1]
    unknown = [name for name in chosen if name not in usable]
    require(
        bool(chosen) and not unknown,
        f"{data_set.folder}: there is no label set {', '.join(unknown) or DEFAULT_LABELS[0]}; the data set has "
        f"{', '.join(usable) or 'none'}: choose one of these by label.",
    )
    return chosen


def _is_label(feature: Any) -> bool:
    kind, tensor = feature.WhichOneof("content"), feature.tensor
    is_scalar = not tensor.shape.dimensions and tensor.dtype in LABEL_TYPES and tensor.encoding in ("", "none")
    return kind in ("class_label", "text") or (kind == "tensor" and is_scalar)


def _read_labels(
    data_set: DataSet, records: Records, chosen: Sequence[str], file_names: Iterable[str], multi_label: bool
) -> list[LabelSet]:
    # A pass over the records collects a text for each, as a table's cell, for every chosen feature.
    class_names = {name: _class_names(*data_set.features[name]) for name in chosen}
    cells: dict[str, list[str]] = {name: [] for name in chosen}
    for file_name in file_names:
        try:
            record: Mapping[str, Any] = records.read(file_name)
        except UnreadableError:  # decoding it gives the clip its status
            record = {}
        for name, column in cells.items():
            column.append(_cell(record.get(name), *data_set.features[name], class_names[name], file_name))
    for name, column in cells.items():
        odd = next((cell for cell in column if CONTROL_CHARACTER.search(cell)), None)
        if odd is not None:
            raise InputError(
                f"Label set {name!r}: a label must not hold control characters, found {odd[:80]!r} in "
                f"{data_set.folder}: choose another."
            )
    return [cells_label_set(name, cells[name], multi_label) for name in chosen]


def _class_names(feature: Any, path: Path) -> Sequence[str | int] | None:
    """The names of a class label's classes by number, or else their numbers; None: it is no class label."""
    if feature.WhichOneof("content") != "class_label":
        return None
    require_regular(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}): {PREPARE_AGAIN}") from error
    return [line.strip() for line in lines if line.strip()] or range(feature.class_label.num_classes)


def _cell(values: Any, feature: Any, path: Path, names: Sequence[str | int] | None, file_name: str) -> str:
    """A record's label as text, as in the cell of a table; empty: it has none."""
    if values is None:
        return ""
    value = next(iter((*values.int64_list.value, *values.bytes_list.value)), b"")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if names is None:
        return str(bool(value) if feature.tensor.dtype == "bool" else value)
    require(
        -1 <= value < len(names),
        f"{path.parent}: {file_name} has class {value}, {path.name} has {len(names)} classes: {PREPARE_AGAIN}",
    )
    return "" if value == -1 else str(names[value])  # -1 is TFDS's sign of no label
