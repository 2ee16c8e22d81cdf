"""What a step of a command answers with, and the tables and lists that summaries are made of."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxdissect.types import Record

LISTED = 10  # files or sets that a summary names; it only counts the others


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What one step of a command has done.

    Attributes:
      stage: name of the step.
      results: results for programs, with the units in their names.
      summary: the same results for a terminal.
      warnings: sentences without which the results should not be read.
      advice: how to read results of this kind in general; the summary ends with it.
      files: files that hold the results.
      failure: why the command fails although its results are there.
    """

    stage: str
    results: Record
    summary: str
    warnings: Sequence[str] = ()
    advice: str = ""
    files: Sequence[Path] = ()
    failure: str | None = None


@runtime_checkable
class CountsBadClips(Protocol):
    """A stage's result that knows how many clips could not be read."""

    @property
    def max_bad_clips(self) -> float:
        """Fraction of unreadable clips that is allowed."""
        ...

    @property
    def too_many_bad(self) -> bool:
        """Whether more clips than allowed could not be read."""
        ...


def bad_clips(result: CountsBadClips, remainder: str) -> str | None:
    """Why a command fails whose results are there.

    Args:
      result: result of a stage.
      remainder: what is saved nevertheless, and where to look.
    """
    if not result.too_many_bad:
        return None
    allowed = result.max_bad_clips
    return f"more than {allowed:.1%} of the clips could not be read (--max-bad-clips {allowed}); {remainder}"


def existing(folder: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """Paths of those files that exist; options decide which files a stage writes.

    Args:
      folder: folder of the files.
      names: names of the files that may exist.
    """
    return tuple(folder / name for name in names if (folder / name).exists())


def left_out(title: str, reasons: Iterable[tuple[object, object]], file: str) -> list[str]:
    """Clips that were not used, a line for each, with the reason; of many only the first.

    Args:
      title: what happened to the clips, e.g. "Not counted".
      reasons: name and reason of every clip.
      file: file that lists all of them.
    """
    entries = list(reasons)
    # A whole data set of one unreadable kind, such as 450 files in AAC, is one fact.
    if len(entries) > LISTED and len({reason for _, reason in entries}) == 1:
        name, reason = entries[0]
        return [f"{title}: {len(entries)} files, all for the same reason: {reason}; the first is {name}, see {file}."]
    lines = [f"{title}: {name}: {reason}" for name, reason in entries[:LISTED]]
    return [*lines, *([f"... and {len(entries) - LISTED} more, see {file}."] if len(entries) > LISTED else [])]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A plain table: the first column to the left, all other ones to the right.

    Args:
      header: names of the columns.
      rows: cells of every row, as many as there are columns.
    """
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    # Each column is as wide as its longest cell.
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def signed(value: float, digits: int) -> str:
    """A number with its sign, zero without one, and "-" for NaN.

    Args:
      value: number.
      digits: digits behind the point.
    """
    return "-" if math.isnan(value) else f"{round(value, digits) + 0.0:+.{digits}f}"  # + 0.0 turns -0.0 into 0.0


def p_text(value: float) -> str:
    """A p-value with three digits, "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def percent(value: float, sign: bool = False) -> str:
    """A fraction in percent, "-" for NaN.

    Args:
      value: fraction.
      sign: whether it is a change, shown with its sign and without "%".
    """
    return "-" if math.isnan(value) else f"{100 * value:.1f}%" if not sign else signed(100 * value, 1)
