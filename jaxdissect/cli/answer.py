"""The answer of a command: a summary for people, or one JSON object for programs."""

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdissect.options.base import OutputOptions
from jaxdissect.types import Json

if TYPE_CHECKING:  # commands import JAX, which help need not wait for
    from jaxdissect.commands.outcome import Outcome

FAILED = 1  # exit code of a command whose results are there, but not to be trusted


@dataclasses.dataclass(eq=False)
class Answer:
    """What a command has answered so far.

    Attributes:
      command: name of the command; None if there is no such command.
      folder: folder that it writes or looks at, `run` in the JSON object.
      output: how it answers.
      outcomes: outcomes of its steps so far.
    """

    command: str | None
    folder: Path | None
    output: OutputOptions
    outcomes: "list[Outcome]" = dataclasses.field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Why the command fails although its results are there."""
        return [outcome.failure for outcome in self.outcomes if outcome.failure is not None]

    @property
    def files(self) -> list[Path]:
        """Files that hold the results."""
        return [file for outcome in self.outcomes for file in outcome.files]

    def print_outcomes(self, outcomes: "Iterable[Outcome]") -> int:
        """Print each outcome as soon as it is there, and at the end where the files are; returns the exit code."""
        silent = self.output.quiet or self.output.json  # warnings are then printed on stderr
        for outcome in outcomes:
            # A warning is printed once, beside the first result that it is about.
            earlier = {sentence for before in self.outcomes for sentence in before.warnings}
            warnings = [sentence for sentence in outcome.warnings if sentence not in earlier]
            self.outcomes.append(dataclasses.replace(outcome, warnings=warnings))
            if silent:
                for sentence in warnings:
                    print(f"jaxdissect: {sentence}", file=sys.stderr)
            else:
                # Flushed, because the next stage may take hours.
                print("\n".join(filter(None, [outcome.summary, *warnings, outcome.advice])), flush=True)
        if self.files and not silent:
            print(_places(self.files), flush=True)
        for failure in self.failures:
            print(f"jaxdissect: {failure}", file=sys.stderr)
        return FAILED if self.failures else 0

    def to_json(self, code: int, error: str | None, warned: Iterable[str]) -> str:
        """The object that `--json` prints, as strict JSON in ASCII, which every stream can encode.

        Args:
          code: exit code.
          error: why the command did not do what it should.
          warned: warnings that were printed while it ran.
        """
        warnings = [*warned, *(sentence for outcome in self.outcomes for sentence in outcome.warnings)]
        answer = {
            "command": self.command,
            "run": self.folder,
            "results": {outcome.stage: outcome.results for outcome in self.outcomes},
            "files": self.files,
            "warnings": warnings,
            "error": error or " ".join(self.failures) or None,
            "exit_code": code,
        }
        return json.dumps(plain(answer), allow_nan=False)  # NaN is no JSON


def plain(value: object) -> Json:
    """A value as JSON knows it: a table as a list of rows, paths as text, null for NaN and infinity."""
    if hasattr(value, "to_dict"):  # a table of pandas
        return plain(value.to_dict("records"))
    # By what they can do and not by their types, whose packages need not be imported for a mistake's answer.
    if hasattr(value, "tolist"):  # an array or a number of NumPy
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return None if str(value) == "<NA>" else str(value)  # <NA>: a missing whole number of pandas


def _places(files: Iterable[Path]) -> str:
    """A sentence for every folder that names the files in it."""
    folders: dict[Path, list[str]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file.name)
    return "\n".join(
        f"Written to {folder}: {', '.join(names)}." if len(names) > 1 else f"Written to {folder / names[0]}."
        for folder, names in folders.items()
    )
