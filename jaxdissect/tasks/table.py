"""A task: which clips, which labels, which split; and the tables it is read from (EVAR's CSV format)."""

import csv
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from jaxdissect.errors import InputError
from jaxdissect.runtime.files import json_fingerprint, require_regular, stays_inside
from jaxdissect.tasks.recordings import BY_COLUMN

SPLITS = ("train", "valid", "test")
CLIP_COLUMNS = ("clip", "file_name", "split", "fold", "status", "reason", "samples")  # of clips.csv, before the labels
WHOLE_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
LONGEST_SECONDS = 3600.0
TEST_FOLD = 5  # the fold that is held out where none is named
Fold = int | Literal["default"] | None  # a fold that somebody names; fold 5 of tables with folds; none


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """One way of labelling a task's clips.

    Attributes:
      name: e.g. "emotion".
      classes: the values it takes anywhere in the task's table; whole numbers in numerical order, else alphabetical.
      members: for each clip the indices of its classes: one, several (multi-label) or none (no label).
      multi_label: a clip may belong to several classes, or to none of them.
    """

    name: str
    classes: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    multi_label: bool = False

    def table(self, clips: Sequence[int] | None = None) -> Bool[np.ndarray, "clip class"]:
        """Which clips belong to which classes.

        Args:
          clips: their numbers; default: all.
        """
        chosen = self.members if clips is None else [self.members[clip] for clip in clips]
        table = np.zeros((len(chosen), len(self.classes)), bool)
        for row, classes in enumerate(chosen):
            table[row, list(classes)] = True
        return table


@dataclasses.dataclass(frozen=True)
class Task:
    """Labelled clips of one length.

    Attributes:
      name: of the task.
      data: the data folder that file names are relative to.
      unit_seconds: length to which clips are cropped or padded, s.
      file_names, splits, folds: one entry per clip; a fold is None where the table has splits instead.
      label_sets: the label sets to count.
      keep: fraction of all neurons that selection keeps.
      recordings: the recording that each clip was cut from, where the table tells; clips of one are not independent.
      recordings_from: column of the table that tells: "src_file", or "file_name" by the naming of a known task; empty
        where `recordings` is None.
    """

    name: str
    data: Path
    unit_seconds: float
    file_names: tuple[str, ...]
    splits: tuple[str, ...]
    folds: tuple[int | None, ...]
    label_sets: tuple[LabelSet, ...]
    keep: float = 0.01
    recordings: tuple[str, ...] | None = None
    recordings_from: str = ""

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """All (label set, class) pairs, in the order of the `class` axis."""
        return tuple((labels.name, name) for labels in self.label_sets for name in labels.classes)

    @property
    def sources(self) -> tuple[str, ...]:
        """What to permute, resample and split by: the recording of each clip, or else the clip itself."""
        return self.file_names if self.recordings is None else self.recordings

    @property
    def labels_per_clip(self) -> int:
        """The most classes that any clip belongs to, over all label sets."""
        return max(
            (sum(map(len, rows)) for rows in zip(*(labels.members for labels in self.label_sets), strict=True)),
            default=0,
        )

    def members(self, clips: Sequence[int]) -> Bool[np.ndarray, "clip class"]:
        """Which of some clips belong to which classes, of all label sets one after the other.

        Args:
          clips: their numbers.
        """
        nothing = np.zeros((len(clips), 0), bool)
        return np.concatenate([nothing, *(labels.table(clips) for labels in self.label_sets)], axis=1)

    def only(self, split: str) -> "Task":
        """The clips of one split; classes stay, also those without a clip.

        Args:
          split: "train", "valid" or "test"; "all" keeps every clip.

        Raises:
          InputError: no clip is in that split.
        """
        chosen = [row for row, name in enumerate(self.splits) if split in ("all", name)]
        if not chosen:
            found = ", ".join(sorted(set(self.splits))) or "no clips"
            raise InputError(
                f"--split {split}: task {self.name!r} has no such clips (it has {found}): choose one of "
                f"{', '.join(SPLITS)}, all."
            )
        return self.rows(chosen)

    def rows(self, rows: Sequence[int]) -> "Task":
        """Some of the clips; classes stay, also those without a clip.

        Args:
          rows: their numbers.
        """
        return dataclasses.replace(
            self,
            file_names=tuple(self.file_names[row] for row in rows),
            splits=tuple(self.splits[row] for row in rows),
            folds=tuple(self.folds[row] for row in rows),
            recordings=None if self.recordings is None else tuple(self.recordings[row] for row in rows),
            label_sets=tuple(
                dataclasses.replace(labels, members=tuple(labels.members[row] for row in rows))
                for labels in self.label_sets
            ),
        )

    def fingerprint(self) -> str:
        """SHA-256 of the table: unit length, file names, splits, folds and label sets; not of where the data lies."""
        content: dict[str, Any] = dataclasses.asdict(self)
        del content["data"], content["keep"], content["recordings"], content["recordings_from"]
        for labels in content["label_sets"]:
            del labels["multi_label"]  # how a label set is judged, not what it is
        return json_fingerprint(content)


def label_set(name: str, values: Sequence[Sequence[str]], multi_label: bool = False) -> LabelSet:
    """A label set from each clip's class names."""
    names = {value for row in values for value in row}
    numeric = all(WHOLE_NUMBER.fullmatch(value) for value in names)
    classes = tuple(sorted(names, key=(lambda value: (int(value), value)) if numeric else None))
    index = {value: position for position, value in enumerate(classes)}
    return LabelSet(name, classes, tuple(tuple(sorted({index[value] for value in row})) for row in values), multi_label)


def read_table(path: Path, needed: Sequence[str], delimiter: str = ",") -> dict[str, list[str]]:
    """Columns of a CSV file, stripped of surrounding blanks.

    Raises:
      InputError: the file is missing, has no rows, is not UTF-8 CSV, or lacks a needed column.
    """
    require_regular(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            lines = [(reader.line_num, [field.strip() for field in fields]) for fields in reader if fields]
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: give its path, or the folder that holds it.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a UTF-8 CSV table ({error}).") from error
    if len(lines) < 2:
        raise InputError(f"{path} has no rows: a table needs a header and a row per clip.")
    (_, header), *rows = lines
    missing = [column for column in needed if column not in header]
    if missing:
        raise InputError(
            f"{path}: column {', '.join(map(repr, missing))} is missing; the table has {', '.join(header)}."
        )
    if len(set(header)) < len(header):
        raise InputError(f"{path}: every column needs a name of its own, found {', '.join(header)}.")
    for line, fields in lines:
        odd = next((field for field in fields if CONTROL.search(field)), None)
        if odd is not None:
            raise InputError(f"{path}, line {line}: a field must not hold control characters, found {odd[:80]!r}.")
    for line, fields in rows:
        if len(fields) != len(header):
            raise InputError(
                f"{path}, line {line}: expected {len(header)} fields as in the header, found {len(fields)}."
            )
    return {
        column: list(values) for column, values in zip(header, zip(*(row for _, row in rows), strict=True), strict=True)
    }


def evar_task(
    name: str,
    path: Path,
    data: Path,
    unit_seconds: float,
    label: Sequence[str] = ("label",),
    multi_label: bool | None = None,
    test_fold: Fold = "default",
) -> Task:
    """A task from a CSV in EVAR's format: `file_name`, label columns, and `split` or `fold`.

    Args:
      name: of the task.
      path: the CSV.
      data: folder that file names are relative to.
      unit_seconds: length of a clip, s.
      label: columns to count, each a label set.
      multi_label: commas in these columns separate several labels; None: they do not.
      test_fold: with a column `fold`, the fold that is the test split (None: none is); all others are training.

    Raises:
      InputError: the table breaks a rule of `read_table` or `make_task`, or a fold is named that it does not have.
    """
    columns = read_table(path, ["file_name"])
    labels = [column_labels(columns, column, path, bool(multi_label)) for column in label]
    splits, folds = clip_splits(columns, path, test_fold)
    return make_task(
        name, data, unit_seconds, columns["file_name"], splits, folds, labels, recordings=columns.get(BY_COLUMN)
    )


def make_task(
    name: str,
    data: Path,
    unit_seconds: float,
    file_names: Sequence[str],
    splits: Sequence[str],
    folds: Sequence[int | None],
    label_sets: Sequence[LabelSet],
    keep: float = 0.01,
    recordings: Sequence[str] | None = None,
    recordings_from: str = BY_COLUMN,
) -> Task:
    """A checked `Task`; a clip without a recording is one by itself, and recordings of which no clip has one are none.

    Raises:
      InputError: no data folder, a file name that leaves it or stands twice, a unit length that is not positive,
        two label sets of one name, a label set without a label.
    """
    if not data.is_dir():
        raise InputError(f"--data {data}: the data folder is missing: give the folder that file names are relative to.")
    if not 0 < unit_seconds <= LONGEST_SECONDS:
        raise InputError(
            f"--unit-seconds must be a positive number of seconds, at most {LONGEST_SECONDS:g}, got {unit_seconds}."
        )
    seen: set[str] = set()
    for line, file_name in enumerate(file_names, start=2):
        _check_file_name(file_name, line, name)
        plain = str(PurePosixPath(file_name))  # "./a.wav" is "a.wav"
        if plain in seen:
            raise InputError(
                f"Task {name!r}, line {line}: {file_name!r} stands twice in the table and would be counted "
                f"twice: remove one row."
            )
        seen.add(plain)
    names = [labels.name for labels in label_sets]
    if len(set(names)) < len(names):
        raise InputError(f"--label: every label set may be named once, got {', '.join(names)}.")
    for labels in label_sets:
        if labels.name in CLIP_COLUMNS:
            raise InputError(
                f"--label: a label set cannot be named {labels.name!r}, like a column of clips.csv: rename the column."
            )
        if not labels.classes:
            raise InputError(f"Task {name!r}: the label set {labels.name!r} holds no label: choose another --label.")
    sources = None
    if recordings is not None and any(recordings):
        sources = tuple(source or file_name for source, file_name in zip(recordings, file_names, strict=True))
    return Task(
        name, data, float(unit_seconds), tuple(file_names), tuple(splits), tuple(folds), tuple(label_sets), keep,
        sources, recordings_from if sources else "",
    )  # fmt: skip


def column_labels(columns: Mapping[str, list[str]], column: str, path: Path, multi_label: bool = False) -> LabelSet:
    """A label set from one column; an empty cell is no label."""
    if column not in columns:
        raise InputError(
            f"{path}: there is no label column {column!r}; the table has {', '.join(columns)}: name them with --label."
        )
    return label_set(column, [cell_labels(cell, multi_label) for cell in columns[column]], multi_label)


def cell_labels(cell: str, multi_label: bool) -> list[str]:
    """The labels in one cell of a table: the whole cell, or with `multi_label` its parts between commas."""
    parts = cell.split(",") if multi_label else [cell]
    return [part.strip() for part in parts if part.strip()]


def clip_splits(columns: Mapping[str, list[str]], path: Path, test_fold: Fold) -> tuple[list[str], list[int | None]]:
    """Split and fold of every clip, from the column `split` or `fold`.

    Raises:
      InputError: both columns are missing, a cell is neither split nor fold, or a fold is named that the table lacks.
    """
    if "split" in columns:
        if isinstance(test_fold, int):
            raise InputError(
                f"--test-fold {test_fold}: the column 'split' of {path} says which clips are the test split, so no "
                f"fold is held out: leave --test-fold out, or take a table with the column 'fold' alone."
            )
        for line, split in enumerate(columns["split"], start=2):
            if split not in SPLITS:
                raise InputError(f"{path}, line {line}: split must be one of {', '.join(SPLITS)}, found {split!r}.")
        return columns["split"], [None] * len(columns["split"])
    if "fold" not in columns:
        raise InputError(f"{path}: a column 'split' or 'fold' is missing; the table has {', '.join(columns)}.")
    for line, fold in enumerate(columns["fold"], start=2):
        if not WHOLE_NUMBER.fullmatch(fold):
            raise InputError(f"{path}, line {line}: fold must be a whole number, found {fold!r}.")
    folds = [int(fold) for fold in columns["fold"]]
    held_out = TEST_FOLD if test_fold == "default" else test_fold
    if held_out is not None and held_out not in folds:
        raise InputError(f"--test-fold {held_out}: {path} has the folds {sorted(set(folds))}: give one of them.")
    return ["test" if fold == held_out else "train" for fold in folds], list(folds)


def _check_file_name(file_name: str, line: int, task: str) -> None:
    if not stays_inside(file_name) or "\0" in file_name:
        raise InputError(
            f"Task {task!r}, line {line}: a file name must be a path inside the data folder, found {file_name!r}."
        )
