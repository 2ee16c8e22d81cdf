"""A run directory: everything that a run made, and the record of how (`run.json`)."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdissect.errors import InputError
from jaxdissect.runtime.files import locked, require_regular, whole_file
from jaxdissect.runtime.machine import device, versions


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
      path: the directory; made when its first file is written.
    """

    path: Path

    def file(self, name: str) -> Path:
        """Path of one of the run's files."""
        return self.path / name

    def stages(self) -> dict[str, Any]:
        """The record of the stages that are done: `{name: {options, fingerprints, versions, device, ...}}`."""
        if self.path.is_dir():
            require_regular(self.file("run.json"))
        try:
            stages = json.loads(self.file("run.json").read_text())["stages"]
            for record in stages.values():
                if not all(isinstance(record[part], dict) for part in ("options", "fingerprints")):
                    raise TypeError("options and fingerprints must be objects")
            return stages
        except FileNotFoundError:
            return {}
        except NotADirectoryError as error:
            raise InputError(f"--run {self.path} is a file: choose another, a folder.") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{self.file('run.json')} cannot be read ({error}): choose another --run, or remove "
                f"{self.path} to start afresh."
            ) from error

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes from writing to the run directory, which is made if it is not there.

        Raises:
          InputError: another process is writing to it, or it cannot be written.
        """
        return locked(self.path, f"--run {self.path}")

    def require(self, stage: str) -> dict[str, Any]:
        """The record of a stage that another builds on.

        Raises:
          InputError: it has not been run here.
        """
        stages = self.stages()
        if stage not in stages:
            raise InputError(
                f"--run {self.path}: the stage {stage!r} has not been run here: run "
                f"`jaxdissect {stage} --run {self.path} ...` first."
            )
        return stages[stage]

    def is_done(self, stage: str, options: Mapping[str, Any], fingerprints: Mapping[str, str]) -> bool:
        """Whether a stage's results are here already and are the same.

        Raises:
          InputError: they are here, but of other options or inputs.
        """
        record = self.stages().get(stage)
        if record is None:
            return False
        differing = [
            f"{label.format(name.replace('_', '-'))} (there {_short(record[kind].get(name))}, here {_short(value)})"
            for kind, label, new in (("options", "--{}", options), ("fingerprints", "the {}", fingerprints))
            for name, value in new.items()
            if record[kind].get(name) != value
        ]
        if differing:
            raise InputError(
                f"--run {self.path} holds the stage {stage!r} of another run, which differs in "
                f"{', '.join(differing)}. Choose another --run, or remove {self.path} to start afresh."
            )
        return True

    def require_own(self, stage: str, what: str, fingerprints: Mapping[str, str]) -> None:
        """Refuse to mix with what a stage has left here of another encoder or task.

        Raises:
          InputError: it has been run here, on another one.
        """
        there = self.stages().get(stage)
        differing = [name for name, value in fingerprints.items() if there and there["fingerprints"].get(name) != value]
        if differing:
            raise InputError(
                f"--run {self.path} holds {what} of another {' and another '.join(differing)}: choose another --run, "
                f"or give the options that it was made with."
            )

    def reopen(self, stage: str) -> None:
        """Strike a stage from the record before its files are written anew."""
        stages = self.stages()
        if stages.pop(stage, None) is not None:
            self._write(stages)

    def finish(self, stage: str, record: Mapping[str, Any]) -> None:
        """Record a stage as done, after all its files are written."""
        self._write({**self.stages(), stage: {**record, "versions": versions(), "device": device()}})

    def amend(self, stage: str, parts: Mapping[str, Any]) -> None:
        """Replace parts of the record of a stage that is done; what it was computed by stays."""
        stages = self.stages()
        self._write({**stages, stage: {**stages[stage], **parts}})

    def _write(self, stages: Mapping[str, Any]) -> None:
        with whole_file(self.file("run.json")) as temporary:
            temporary.write_text(json.dumps({"stages": stages}, indent=2) + "\n")


def save_or_rescue(run: Run, save: Callable[[Run], None], what: str) -> None:
    """Write results; if the run directory cannot take them, to a new one, so that nothing that took long is lost.

    Args:
      run: where to.
      save: writes to a run directory.
      what: is saved, e.g. "what was counted".

    Raises:
      InputError: the run directory could not be written; says where the results are kept.
    """
    try:
        save(run)
    except InputError as error:
        rescue = Run(Path(tempfile.mkdtemp(prefix="jaxdissect-rescued-")))
        try:
            save(rescue)
        except InputError as second:
            shutil.rmtree(rescue.path, ignore_errors=True)
            raise InputError(f"{error} Nor could {what} be kept elsewhere: {second}") from error
        raise InputError(
            f"{error} Nothing is lost: {what} is kept in {rescue.path}, a run directory like any other; continue with "
            f"--run {rescue.path}."
        ) from error


def absolute(name: str | Path | None) -> str | None:
    """What is there under a name, in full, for the working folder may be another next time; other names as they are."""
    if name is None:
        return None
    return str(Path(name).absolute()) if Path(name).exists() else str(name)


def record_attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    """What was counted, as attributes of netCDF files."""
    options = {name: _attribute(value) for name, value in record["options"].items()}
    return options | {f"{name}_sha256": value for name, value in record["fingerprints"].items()}


def require_same_run(run: Run, attrs: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Refuse a netCDF file that another run has left in a run directory.

    Args:
      run: the run directory.
      attrs: of the file.
      record: of the stage that should have written it.

    Raises:
      InputError: names what differs.
    """
    differing = [name for name, value in record_attributes(record).items() if attrs.get(name) != value]
    if differing:
        raise InputError(
            f"--run {run.path}: its files are of different runs, {', '.join(differing)} differ from run.json's. "
            f"Choose another --run, or remove {run.path} to start afresh."
        )


def _attribute(value: Any) -> Any:
    """Attributes of netCDF hold numbers and strings."""
    if value is None:
        return "none"
    return ",".join(value) if isinstance(value, list) else int(value) if isinstance(value, bool) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:13]}...'"
