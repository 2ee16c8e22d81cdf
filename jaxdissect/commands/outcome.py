"""What a command answers with: a summary for people, or one JSON object for programs."""

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import tyro

FAILED = 1
Options = TypeVar("Options")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """How a command answers.

    Attributes:
      quiet: show no progress and no summary; warnings and errors are still told.
      json: print one JSON object in place of the summary; see docs/command-line.md.
    """

    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    json: tyro.conf.FlagCreatePairsOff[bool] = False


def without_output(kind: type[Options], command: Any) -> Options:
    """A command's options of a kind alone, for a record in which it does not matter how the command answers."""
    return kind(**{field.name: getattr(command, field.name) for field in dataclasses.fields(kind)})  # type: ignore


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What one step of a command has done.

    Attributes:
      stage: its name.
      summary: for a terminal; it holds the warnings.
      results: the same for programs, the units in the names.
      files: in which the results are.
      warnings: without which the results should not be read.
      failure: why the command fails although its results are there.
    """

    stage: str
    summary: str
    results: Mapping[str, Any]
    files: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    failure: str | None = None


@dataclasses.dataclass(eq=False)
class Answer:
    """What a command has answered so far.

    Attributes:
      command: its name; None where it is not known.
      folder: where it writes, as `run` in the JSON object.
      options: how it answers.
    """

    command: str | None
    folder: Path | None
    options: OutputOptions
    outcomes: list[Outcome] = dataclasses.field(default_factory=list)

    def take(self, outcomes: Iterable[Outcome]) -> int:
        """Print each outcome as soon as it is there, and where the files are; returns the exit code."""
        for outcome in map(self._told_once, outcomes):
            self.outcomes.append(outcome)
            if not (self.options.quiet or self.options.json):
                print(outcome.summary, flush=True)
            else:
                for sentence in outcome.warnings:
                    print(f"jaxdissect: {sentence}", file=sys.stderr)
        if self._files and not (self.options.quiet or self.options.json):
            print(written(self._files), flush=True)
        failures = self.failures
        for failure in failures:
            print(f"jaxdissect: {failure}", file=sys.stderr)
        return FAILED if failures else 0

    def _told_once(self, outcome: Outcome) -> Outcome:
        """An outcome without the warnings of those before it, in its summary too, where each has a line of its own."""
        before = {sentence for one in self.outcomes for sentence in one.warnings}
        warnings = tuple(sentence for sentence in outcome.warnings if sentence not in before)
        repeated = before.intersection(outcome.warnings)
        summary = "\n".join(line for line in outcome.summary.split("\n") if line not in repeated)
        return dataclasses.replace(outcome, warnings=warnings, summary=summary)

    @property
    def failures(self) -> list[str]:
        """Why the command fails although its results are there."""
        return [outcome.failure for outcome in self.outcomes if outcome.failure is not None]

    @property
    def _files(self) -> list[Path]:
        return [file for outcome in self.outcomes for file in outcome.files]

    def to_json(self, code: int, error: str | None, warned: Iterable[str]) -> str:
        """The object that `--json` prints, as strict JSON in ASCII: a stream's encoding cannot spoil it.

        Args:
          code: the exit code.
          error: why the command has not done what it should.
          warned: what it has told on the way.
        """
        told = [*warned, *(sentence for outcome in self.outcomes for sentence in outcome.warnings)]
        answer = {
            "command": self.command,
            "run": self.folder,
            "results": {outcome.stage: outcome.results for outcome in self.outcomes},
            "files": self._files,
            "warnings": told,
            "error": error or " ".join(self.failures) or None,
            "exit_code": code,
        }
        return json.dumps(plain(answer), allow_nan=False)


def written(files: Iterable[Path]) -> str:
    """Where files are, by folder."""
    folders: dict[Path, list[str]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file.name)
    return "\n".join(
        f"Written to {folder}: {', '.join(names)}." if len(names) > 1 else f"Written to {folder / names[0]}."
        for folder, names in folders.items()
    )


def plain(value: Any) -> Any:
    """A value as JSON knows it: a table as a list of rows, paths as text, null for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict("records")]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)
