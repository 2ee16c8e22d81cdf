"""Tasks from data sets that tensorflow-datasets (TFDS) has prepared: their clips, labels and sound."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdissect.audio.decode import Recording, make_recording, unreadable
from jaxdissect.errors import InputError, UnreadableError, first_line
from jaxdissect.runtime.files import require_regular
from jaxdissect.tasks.table import CONTROL, LabelSet, Task, cell_labels, label_set, make_task
from jaxdissect.tasks.tfds_audio import decode, find_audio
from jaxdissect.tasks.tfds_records import AGAIN, FORMAT, SPLITS, DataSet, Records, is_tfds_folder, read_data_set

PREFIX = "tfds:"
UNIT_SECONDS: Mapping[str, float] = {
    "crema_d": 2.5, "gtzan": 30.0, "nsynth": 4.0, "voxforge": 5.8, "speech_commands": 1.0,
}  # fmt: skip
TASK = re.compile(r"tfds:[A-Za-z]\w*(/[\w+-][\w+.-]*){0,2}", re.ASCII)
VERSION = re.compile(r"\d{1,9}\.\d{1,9}\.\d{1,9}", re.ASCII)
LABEL_TYPES = ("string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


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
      task: "tfds:NAME" or "tfds:NAME/CONFIG", of which the newest version is taken, or either with "/VERSION".
      data: TFDS's data_dir, the folder that holds NAME/...
      label: features to count, each a label set: class labels, texts, whole numbers, truth values; default: "label" or
        else "instrument/family"; None: none, and no record is read.
      unit_seconds: length of a clip, s; default: that of `UNIT_SECONDS`.
      multi_label: commas in these features separate several labels.
      progress: wraps the iteration over records, which are read for their labels.

    Raises:
      InputError: there is no such data set or feature, it is of another format, incomplete or damaged, its unit length
        is not known, or a package is missing.
    """
    folder = _version_folder(task, data)
    name = folder.relative_to(data).parts[0]
    seconds = UNIT_SECONDS.get(name) if unit_seconds is None else unit_seconds
    if seconds is None:
        raise InputError(f"--task {task} needs --unit-seconds, the length to which clips are cropped or padded.")
    data_set = read_data_set(folder)
    find_audio(data_set)
    chosen = _chosen(data_set, label)
    records = Records(data_set)
    clips = [(split, index) for split, ends in records.ends.items() for index in range(ends[-1])]
    file_names = [f"{split}/{index:08d}" for split, index in clips]
    labels = _label_sets(data_set, records, chosen, progress(file_names), multi_label) if chosen else []
    splits = [SPLITS[split] for split, _ in clips]
    return make_task(name, folder, seconds, file_names, splits, [None] * len(clips), labels)


def tfds_reader(task_data: Path, sample_rate: int, samples: int) -> Callable[[str], Recording]:
    """`read(file_name) -> Recording` from a prepared data set; for many threads.

    Args:
      task_data: the folder of its version, as in the task.
      sample_rate: of the result, Hz.
      samples: unit length of the result.

    Raises:
      InputError: the data set is incomplete or damaged, or a package is missing; when reading: a file has vanished, or
        samples have more than 16 bits. What is wrong with one record is its status.
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
    if not TASK.fullmatch(task):
        raise InputError(f"--task {task}: must be {PREFIX}NAME, {PREFIX}NAME/VERSION or {PREFIX}NAME/CONFIG/VERSION.")
    name, *parts = task.removeprefix(PREFIX).split("/")
    given = parts.pop() if parts and VERSION.fullmatch(parts[-1]) else None
    above = data.joinpath(name, *parts)
    try:
        there = sorted(path.name for path in above.iterdir() if not path.name.startswith("."))
    except OSError:
        there = []
    versions = [found for found in there if VERSION.fullmatch(found) and is_tfds_folder(above / found)]
    if not versions or given not in (None, *versions):
        raise InputError(
            f"--task {task}: {above} must hold a data set that TFDS has prepared, {given or 'of some version'}; found "
            f"{', '.join(there) or 'nothing'}. Name one of these, give TFDS's data_dir as --data, or prepare it: "
            f"tfds build {name} --file_format={FORMAT} --data_dir={data}"
        )
    return above / (given or max(versions, key=lambda version: [int(number) for number in version.split(".")]))


def _chosen(data_set: DataSet, label: Sequence[str] | None) -> tuple[str, ...]:
    """The features to count."""
    if label is None:
        return ()
    there = [name for name, (feature, _) in data_set.features.items() if _is_label(feature)]
    chosen = tuple(label) or tuple(name for name in ("label", "instrument/family") if name in there)[:1]
    unknown = [name for name in chosen if name not in there]
    if unknown or not chosen:
        raise InputError(
            f"--label {' '.join(unknown) or 'is needed'}: {data_set.folder} has the label sets "
            f"{', '.join(there) or 'none'}: name them with --label."
        )
    return chosen


def _is_label(feature: Any) -> bool:
    kind, tensor = feature.WhichOneof("content"), feature.tensor
    scalar = not tensor.shape.dimensions and tensor.dtype in LABEL_TYPES and tensor.encoding in ("", "none")
    return kind in ("class_label", "text") or (kind == "tensor" and scalar)


def _label_sets(
    data_set: DataSet, records: Records, chosen: Sequence[str], file_names: Iterable[str], multi_label: bool
) -> list[LabelSet]:
    names = {name: _class_names(*data_set.features[name]) for name in chosen}
    rows: dict[str, list[list[str]]] = {name: [] for name in names}
    for file_name in file_names:
        try:
            stored = records.read(file_name)
        except UnreadableError:  # is told of when it is decoded
            stored = {}
        for name, labels in rows.items():
            labels.append(
                _labels(stored[name], data_set.features[name], names[name], file_name) if name in stored else []
            )
    for name, labels in rows.items():
        odd = next((value for row in labels for value in row if CONTROL.search(value)), None)
        if odd is not None:
            raise InputError(
                f"--label {name}: a label must not hold control characters, found {odd[:80]!r} in {data_set.folder}: "
                f"choose another."
            )
    for labels in rows.values():
        labels[:] = [[part for text in row for part in cell_labels(text, multi_label)] for row in labels]
    return [label_set(name, rows[name], multi_label) for name in chosen]


def _class_names(feature: Any, path: Path) -> Sequence[str | int] | None:
    """The names of a class label's classes by number, or else their numbers; None: it is no class label."""
    if feature.WhichOneof("content") != "class_label":
        return None
    require_regular(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}): {AGAIN}") from error
    return [line.strip() for line in lines if line.strip()] or range(feature.class_label.num_classes)


def _labels(values: Any, described: tuple[Any, Path], names: Sequence[str | int] | None, file_name: str) -> list[str]:
    """A record's label, if it has one."""
    feature, path = described
    value = next(iter((*values.int64_list.value, *values.bytes_list.value)), b"")
    if isinstance(value, bytes):
        text = value.decode("utf-8", "replace").strip()
        return [text] if text else []
    if names is None:
        return [str(bool(value) if feature.tensor.dtype == "bool" else value)]
    if not -1 <= value < len(names):
        raise InputError(
            f"{path.parent}: {file_name} is of class {value}, {path.name} has {len(names)} classes: {AGAIN}"
        )
    return [] if value == -1 else [str(names[value])]  # TFDS's sign of no label
