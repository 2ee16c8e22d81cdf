"""A run directory: everything that a run made, and the record of how (`run.json`)."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from jaxdissect.errors import InputError, require
from jaxdissect.runtime.files import locked, require_regular, write_json
from jaxdissect.runtime.machine import device, versions
from jaxdissect.runtime.records import differences, named_parts
from jaxdissect.types import Record

# No JAX, pandas, SciPy or xarray here: the command line imports this module before it has parsed its options.


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

    def stages(self) -> dict[str, Record]:
        """The records of the stages that have finished: `{name: {options, fingerprints, versions, device, ...}}`.

        Raises:
          InputError: `run.json` is damaged, or the run directory is a file.
        """
        path = self.file("run.json")
        if self.path.is_dir():
            require_regular(path)
        try:
            stages = json.loads(path.read_text())["stages"]
            for record in stages.values():  # the rest of this module relies on these two parts
                if not all(isinstance(record[part], dict) for part in ("options", "fingerprints")):
                    raise TypeError("options and fingerprints must be objects")
            return stages
        except FileNotFoundError:  # a new run
            return {}
        except NotADirectoryError as error:
            raise InputError(f"--run {self.path} is a file: choose another, a folder.") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{path} cannot be read ({error}): choose another --run, or remove {self.path} to start afresh."
            ) from error

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes from writing to the run directory, which is made if it does not exist.

        Raises:
          InputError: another process is writing to it, or it cannot be written.
        """
        return locked(self.path, f"--run {self.path}")

    def require(self, stage: str) -> Record:
        """The record of a stage that another builds on.

        Raises:
          InputError: it has not been run here.
        """
        stages = self.stages()
        require(
            stage in stages,
            f"--run {self.path}: the stage {stage!r} has not been run here: run `jaxdissect {stage} --run {self.path} "
            f"...` first.",
        )
        return stages[stage]

    def is_done(self, stage: str, options: Mapping[str, object], fingerprints: Mapping[str, str]) -> bool:
        """Whether the run directory holds the results of a stage with the same options and inputs.

        Args:
          stage: name of the stage.
          options: options that its results depend on.
          fingerprints: fingerprints of its inputs, by name.

        Raises:
          InputError: it holds results of other options or inputs.
        """
        record = self.stages().get(stage)
        if record is None:
            return False
        # Only what was asked for is compared: a later version may have recorded more.
        given = named_parts({"options": options, "fingerprints": fingerprints})
        differing = differences(named_parts(record), given, names=given)
        require(
            not differing,
            f"--run {self.path} holds the stage {stage!r} of another run, which differs in "
            f"{', '.join(differing.values())}. Choose another --run, or remove {self.path} to start afresh.",
        )
        return True

    def require_inputs(self, stage: str, results: str, fingerprints: Mapping[str, str]) -> None:
        """Refuse to mix results of one encoder or task with those that a stage has left here of another.

        Args:
          stage: name of the stage; if it has not been run here, nothing is refused.
          results: its results in words, such as "counts".
          fingerprints: fingerprints that its inputs must have, by name.

        Raises:
          InputError: the stage has been run here, on another encoder or task.
        """
        record = self.stages().get(stage)
        differing = differences(record["fingerprints"], fingerprints, names=fingerprints) if record else {}
        require(
            not differing,
            f"--run {self.path} holds {results} of another {' and another '.join(differing)}: choose another --run, or "
            f"give the options that it was made with.",
        )

    def reopen(self, stage: str) -> None:
        """Strike a stage from the record before its files are written anew."""
        stages = self.stages()
        if stages.pop(stage, None) is not None:
            self._write(stages)

    def finish(self, stage: str, record: Mapping[str, object]) -> None:
        """Record a stage as finished, after all its files are written."""
        record = {**record, "versions": versions(), "device": device()}
        self._write({**self.stages(), stage: record})

    def amend(self, stage: str, parts: Mapping[str, object]) -> None:
        """Replace parts of the record of a finished stage; versions and device stay those that computed it."""
        stages = self.stages()
        self._write({**stages, stage: {**stages[stage], **parts}})

    def _write(self, stages: Mapping[str, Mapping[str, object]]) -> None:
        write_json(self.file("run.json"), {"stages": stages})


def save_or_rescue(run: Run, save: Callable[[Run], None], results: str) -> None:
    """Write results; if the run directory cannot take them, to a new one, so that nothing that took long is lost.

    Args:
      run: the run directory that should hold them.
      save: what writes them to a run directory.
      results: the results in words, such as "what was counted".

    Raises:
      InputError: the run directory could not be written; the message says where the results are kept.
    """
    try:
        save(run)
    except InputError as error:
        rescue = Run(Path(tempfile.mkdtemp(prefix="jaxdissect-rescued-")))
        try:
            save(rescue)
        except InputError as second:
            shutil.rmtree(rescue.path, ignore_errors=True)
            raise InputError(f"{error} Nor could {results} be kept elsewhere: {second}") from error
        raise InputError(
            f"{error} Nothing is lost: {results} is kept in {rescue.path}, a run directory like any other; continue "
            f"with --run {rescue.path}."
        ) from error


def absolute(name: str | Path | None) -> str | None:
    """The absolute path of a file or folder, since a later command may run in another folder; other names unchanged."""
    if name is None:
        return None
    return str(Path(name).absolute()) if Path(name).exists() else str(name)


def record_attributes(record: Record) -> Record:
    """Options and fingerprints of a stage's record, as attributes of its netCDF files."""
    options = {name: _attribute(value) for name, value in record["options"].items()}
    return options | {f"{name}_sha256": value for name, value in record["fingerprints"].items()}


def require_same_run(run: Run, attributes: Mapping[str, object], record: Record) -> None:
    """Refuse a netCDF file that another run has left in a run directory.

    Args:
      run: the run directory.
      attributes: attributes of the file.
      record: record of the stage that should have written it.

    Raises:
      InputError: names what differs.
    """
    expected = record_attributes(record)
    differing = differences(attributes, expected, names=expected, words=("in the file", "in run.json"))
    require(
        not differing,
        f"--run {run.path}: its files are of different runs, which differ in {', '.join(differing.values())}. Choose "
        f"another --run, or remove {run.path} to start afresh.",
    )


def _attribute(value: object) -> object:
    """A value as netCDF can hold it: numbers and strings."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ",".join(value)
    return int(value) if isinstance(value, bool) else value
