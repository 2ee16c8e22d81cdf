"""A task: its clips, labels and splits; and the CSV tables that tasks are read from (EVAR's format)."""

import csv
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Bool

from jaxdissect.errors import InputError, require
from jaxdissect.runtime.files import json_fingerprint, require_regular, stays_inside
from jaxdissect.tasks.recordings import BY_COLUMN

SPLITS = ("train", "valid", "test")
CLIP_COLUMNS = ("clip", "file_name", "split", "fold", "status", "reason", "samples")  # of clips.csv, before the labels
WHOLE_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
LONGEST_SECONDS = 3600.0  # of a clip
TEST_FOLD = 5  # the fold that is held out where none is named
Fold = int | Literal["default"] | None  # number of the fold to hold out; "default": fold 5 of a table with folds
Columns = Mapping[str, list[str]]  # cells of a table by the names of its columns
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """One way of labelling a task's clips.

    Attributes:
      name: name of the label set, e.g. "emotion".
      classes: values that it takes anywhere in the task's table; whole numbers in numerical order, else alphabetical.
      members: for each clip the indices of its classes: one, several (multi-label) or none (no label).
      multi_label: whether a clip may belong to several classes, or to none of them.
    """

    name: str
    classes: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    multi_label: bool = False

    def table(self, clips: Sequence[int] | None = None) -> Bool[np.ndarray, "clip class"]:
        """Which clips belong to which classes.

        Args:
          clips: numbers of the clips; default: all.
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
      name: name of the task.
      data: data folder that file names are relative to.
      unit_seconds: length to which clips are cropped or padded, s.
      file_names, splits, folds: one entry for each clip; a fold is None where the table has splits instead.
      label_sets: label sets to count.
      keep: fraction of all neurons that selection keeps.
      recordings: recording that each clip was cut from, if the table shows it; clips of one are not independent.
      recordings_from: column of the table that shows it: "src_file", or "file_name" by the naming of a known task;
        empty where `recordings` is None.
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
        by_clip = zip(*(labels.members for labels in self.label_sets), strict=True)
        return max((sum(map(len, members)) for members in by_clip), default=0)

    def members(self, clips: Sequence[int]) -> Bool[np.ndarray, "clip class"]:
        """Which of some clips belong to which classes, with the label sets side by side.

        Args:
          clips: numbers of the clips.
        """
        no_classes = np.zeros((len(clips), 0), bool)  # a task may have no label set
        return np.concatenate([no_classes, *(labels.table(clips) for labels in self.label_sets)], axis=1)

    def only(self, split: str) -> "Task":
        """The clips of one split; classes stay, also those without a clip.

        Args:
          split: "train", "valid" or "test"; "all" keeps every clip.

        Raises:
          InputError: no clip is in that split.
        """
        chosen = [row for row, name in enumerate(self.splits) if split in ("all", name)]
        present = ", ".join(sorted(set(self.splits))) or "no clips"
        require(
            bool(chosen),
            f"split {split!r}: task {self.name!r} has no such clips (it has {present}): choose one of "
            f"{', '.join(SPLITS)}, all.",
        )
        return self.rows(chosen)

    def rows(self, rows: Sequence[int]) -> "Task":
        """Some of the clips; classes stay, also those without a clip.

        Args:
          rows: numbers of the clips.
        """

        def chosen(column: Sequence[Item]) -> tuple[Item, ...]:
            return tuple(column[row] for row in rows)

        return dataclasses.replace(
            self,
            file_names=chosen(self.file_names),
            splits=chosen(self.splits),
            folds=chosen(self.folds),
            recordings=None if self.recordings is None else chosen(self.recordings),
            label_sets=tuple(dataclasses.replace(labels, members=chosen(labels.members)) for labels in self.label_sets),
        )

    def fingerprint(self) -> str:
        """SHA-256 of name, unit length, file names, splits, folds and label sets; not of where the data lies."""
        # How a label set is judged, `multi_label`, is no part of it.
        names = ("name", "unit_seconds", "file_names", "splits", "folds")
        label_sets = [
            {name: getattr(labels, name) for name in ("name", "classes", "members")} for labels in self.label_sets
        ]
        return json_fingerprint({name: getattr(self, name) for name in names} | {"label_sets": label_sets})


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
    """A checked `Task`.

    Args:
      name: name of the task.
      data: data folder.
      unit_seconds: length of a clip, s.
      file_names: path of each clip's file, relative to `data`.
      splits: split of each clip.
      folds: fold of each clip, or None.
      label_sets: label sets to count.
      keep: fraction of all neurons that selection keeps.
      recordings: recording of each clip; a clip with an empty one is a recording by itself; if all are empty, no
        recordings are known.
      recordings_from: column that they are read from.

    Raises:
      InputError: there is no data folder, a file name leaves it or is there twice, the unit length is not positive, two
        label sets have one name, or a label set has no label.
    """
    require(data.is_dir(), f"data {data} must be a folder, the one that file names are relative to.")
    require(
        0 < unit_seconds <= LONGEST_SECONDS,
        f"unit_seconds must be a positive number of seconds, at most {LONGEST_SECONDS:g}, got {unit_seconds}.",
    )
    _check_file_names(file_names, name)
    # Names of label sets become columns of clips.csv, in which each must be there once.
    names = [labels.name for labels in label_sets]
    require(len(set(names)) == len(names), f"label: every label set may be named once, got {', '.join(names)}.")
    for labels in label_sets:
        require(
            labels.name not in CLIP_COLUMNS,
            f"label: a label set cannot be named {labels.name!r}, like a column of clips.csv: rename the column.",
        )
        require(bool(labels.classes), f"Task {name!r}: label set {labels.name!r} holds no label: choose another.")
    sources = None
    if recordings is not None and any(recordings):
        sources = tuple(source or file_name for source, file_name in zip(recordings, file_names, strict=True))
    by_clip = tuple(file_names), tuple(splits), tuple(folds)
    source = recordings_from if sources else ""
    return Task(name, data, float(unit_seconds), *by_clip, tuple(label_sets), keep, sources, source)


def _check_file_names(file_names: Sequence[str], task: str) -> None:
    """Refuse a name that leaves the data folder, or a file that is counted twice."""
    seen: set[str] = set()
    for line, file_name in enumerate(file_names, start=2):  # line 1 of a table is its header
        if not stays_inside(file_name) or "\0" in file_name:
            raise InputError(
                f"Task {task!r}, line {line}: a file name must be a path inside the data folder, found {file_name!r}."
            )
        plain = str(PurePosixPath(file_name))  # "./a.wav" is "a.wav"
        if plain in seen:
            raise InputError(
                f"Task {task!r}, line {line}: {file_name!r} is in the table twice and would be counted twice: remove "
                f"one row."
            )
        seen.add(plain)


def label_set(name: str, values: Sequence[Sequence[str]], multi_label: bool = False) -> LabelSet:
    """A label set from each clip's class names.

    Args:
      name: name of the label set.
      values: class names of each clip.
      multi_label: whether a clip may belong to several classes.
    """
    names = {value for row in values for value in row}
    # Whole numbers are ordered as numbers; "7" and "07", equal as such, as texts.
    numeric = all(WHOLE_NUMBER.fullmatch(value) for value in names)
    classes = tuple(sorted(names, key=(lambda value: (int(value), value)) if numeric else None))
    index = {value: position for position, value in enumerate(classes)}
    return LabelSet(name, classes, tuple(tuple(sorted({index[value] for value in row})) for row in values), multi_label)


def cells_label_set(name: str, cells: Sequence[str], multi_label: bool) -> LabelSet:
    """A label set from the cells of a column.

    Args:
      name: name of the label set.
      cells: text for each clip; an empty one is no label.
      multi_label: whether commas separate several labels; else the whole cell is one.
    """
    values = [names_between_commas(cell) if multi_label else [cell.strip()] if cell.strip() else [] for cell in cells]
    return label_set(name, values, multi_label)


def names_between_commas(text: str) -> list[str]:
    """The names in a text, without surrounding blanks and without empty ones.

    Args:
      text: names joined by commas.
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def read_table(path: Path, needed: Sequence[str], delimiter: str = ",") -> dict[str, list[str]]:
    """Columns of a CSV file, whose cells are stripped of surrounding blanks.

    Args:
      path: path of the file.
      needed: columns that must be there.
      delimiter: character between two cells.

    Raises:
      InputError: the file is missing, has no rows, is no UTF-8 CSV, or lacks a needed column.
    """
    require_regular(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: give its path, or the folder that holds it.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a UTF-8 CSV table ({error}).") from error
    require(len(lines) > 1, f"{path} has no rows: a table needs a header and a row for each clip.")
    header = lines[0][1]
    listed = ", ".join(header)
    missing = ", ".join(repr(column) for column in needed if column not in header)
    require(not missing, f"{path}: column {missing} is missing; the table has {listed}.")
    require(len(set(header)) == len(header), f"{path}: every column needs a name of its own, found {listed}.")
    # Cells end up in tables, reports and terminals, where control characters could do harm.
    for line, cells in lines:
        odd = next((cell for cell in cells if CONTROL_CHARACTER.search(cell)), None)
        if odd is not None:
            raise InputError(f"{path}, line {line}: a field must not hold control characters, found {odd[:80]!r}.")
        if len(cells) != len(header):
            raise InputError(
                f"{path}, line {line}: expected {len(header)} fields as in the header, found {len(cells)}."
            )
    # Rows become columns.
    columns = zip(*(cells for _, cells in lines[1:]), strict=True)
    return dict(zip(header, map(list, columns), strict=True))


def clip_splits(columns: Columns, path: Path, test_fold: Fold) -> tuple[list[str], list[int | None]]:
    """Split and fold of every clip, from the column `split` or `fold`.

    Args:
      columns: cells of the table.
      path: path of the table, for messages.
      test_fold: fold that is the test split, where the table has folds; all others are training; None: no fold is.

    Raises:
      InputError: both columns are missing, a cell is neither split nor fold, or a fold is named that the table lacks.
    """
    if "split" in columns:
        require(
            not isinstance(test_fold, int),
            f"test_fold {test_fold}: the column 'split' of {path} already names the test split, so no fold is "
            f"held out: leave test_fold out, or use a table with the column 'fold' alone.",
        )
        for line, split in enumerate(columns["split"], start=2):
            if split not in SPLITS:
                raise InputError(f"{path}, line {line}: split must be one of {', '.join(SPLITS)}, found {split!r}.")
        return columns["split"], [None] * len(columns["split"])
    require("fold" in columns, f"{path}: a column 'split' or 'fold' is missing; the table has {', '.join(columns)}.")
    for line, fold in enumerate(columns["fold"], start=2):
        if not WHOLE_NUMBER.fullmatch(fold):
            raise InputError(f"{path}, line {line}: fold must be a whole number, found {fold!r}.")
    folds = list(map(int, columns["fold"]))
    held_out = TEST_FOLD if test_fold == "default" else test_fold
    require(
        held_out is None or held_out in folds,
        f"test_fold {held_out}: {path} has the folds {sorted(set(folds))}: give one of them.",
    )
    return ["test" if fold == held_out else "train" for fold in folds], [*folds]
