"""The state of an ablation on disk, and its parts: independent jobs over the interventions of one suite.

Job I of N judges the interventions I, I + N, ... and keeps what it has judged in `state/ablate/I-of-N/` of the run
directory; the whole is the job 1 of 1. Jobs exchange nothing, except that controls are matched by one measurement of
the neurons' activity: the first job that has made it leaves it to all.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdissect.ablation.interventions import Intervention
from jaxdissect.ablation.matched_controls import Activity
from jaxdissect.ablation.stream import ClipVerdicts
from jaxdissect.ablation.suite_state import SuiteState, first_edits, new_state
from jaxdissect.ablation.verdicts import Verdicts
from jaxdissect.errors import InputError, require
from jaxdissect.probe.judge import Judge
from jaxdissect.runtime.files import path_beside, writing
from jaxdissect.runtime.resume import StateFile, remove_states
from jaxdissect.types import Record

PROGRESS = ("clips", "edits", "passes", "position", "reasons")  # parts of `ClipVerdicts` that the state keeps as JSON


@dataclasses.dataclass(frozen=True, eq=False)
class SuiteFiles:
    """Where the jobs of one suite keep their states.

    Attributes:
      folder: folder of the files.
      identity: JSON values that make the suite what it is, by their names in messages.
      judges: judge of each label set.
      chosen: all interventions.
    """

    folder: Path
    identity: Mapping[str, object]
    judges: Mapping[str, Judge]
    chosen: Sequence[Intervention]

    def path(self, part: int, parts: int) -> Path:
        """Path of the state of a job."""
        return self.folder / f"{part}-of-{parts}" / "judged.npz"

    def some(self, numbers: Sequence[int]) -> list[Intervention]:
        """The interventions of those numbers."""
        return [self.chosen[number] for number in numbers]

    def read(self, path: Path) -> tuple[list[int], SuiteState] | None:
        """The numbers of a job's interventions, and what it has judged of them; None if there is no such file.

        Raises:
          InputError: the file is damaged, or another suite's.
        """
        return self._file(path).read(self._parse)

    def write(self, path: Path, numbers: Sequence[int], state: SuiteState, *, needed: bool = True) -> None:
        """Replace a job's state; where that fails, the state before it stays.

        Args:
          path: path of the job's state.
          numbers: numbers of the job's interventions.
          state: what it has judged of them.
          needed: whether the job must end where the file cannot be written; else a warning says so.

        Raises:
          InputError: the file is needed and cannot be written.
        """
        arrays = {  # label sets by number: their names may hold what a name of an array must not
            f"{label}.{key}": array
            for label, verdicts in enumerate(state.classes.values())
            for key, array in verdicts.arrays().items()
        }
        record: Record = {"numbers": list(numbers), "done": state.done, "reasons": state.reasons, "found": None}
        if state.usable is not None:
            arrays["usable"] = state.usable
        unfinished = state.unfinished
        if unfinished is not None and unfinished.position:  # some clips are judged under the next edits
            arrays["found.usable"] = unfinished.usable
            for label, name in enumerate(self.judges):
                parts = unfinished.verdicts[name]._asdict()
                arrays |= {f"found.{label}.{key}": values for key, values in parts.items() if values is not None}
            record["found"] = {key: getattr(unfinished, key) for key in PROGRESS}
        self._file(path).write(arrays, record, needed=needed)

    def others(self, mine: Path) -> list[tuple[list[int], SuiteState]]:
        """What other jobs have judged, of interventions that no two of them share.

        Args:
          mine: path of this job's own state.

        Raises:
          InputError: a job is not finished, or two have judged the same.
        """
        parts: list[tuple[list[int], SuiteState]] = []
        for path in sorted(self.folder.glob("*-of-*/judged.npz")):
            part = None if path == mine else self.read(path)  # None too if it was removed meanwhile
            if part is None:
                continue
            numbers, state = part
            name = path.parent.name.replace("-of-", "/")
            require(
                state.done >= int(first_edits(self.some(numbers))[-1]),
                f"The part {name} is not finished: run it again with --part {name} to resume it, or remove {path} to "
                f"judge its interventions here.",
            )
            require(
                not any(set(numbers) & set(before) for before, _ in parts),
                f"{path} holds interventions that another part has judged, too: remove one of the files in "
                f"{self.folder}.",
            )
            parts.append(part)
        return parts

    def remove(self) -> None:
        """Remove all states, once what was judged is saved elsewhere."""
        remove_states(self.folder)

    def _file(self, path: Path) -> StateFile:
        return StateFile(path, "an ablation", self.identity)

    def _parse(self, arrays: Mapping[str, np.ndarray], record: Record) -> tuple[list[int], SuiteState]:
        state = new_state(self.judges, self.some(record["numbers"]))
        for label, verdicts in enumerate(state.classes.values()):
            for key, array in verdicts.arrays().items():  # views into the verdicts
                array[...] = arrays[f"{label}.{key}"]
        state.done, state.reasons, state.usable = record["done"], _by_number(record["reasons"]), arrays.get("usable")
        if record["found"] is not None:
            state.unfinished = self._unfinished(arrays, record["found"])
        return record["numbers"], state

    def _unfinished(self, arrays: Mapping[str, np.ndarray], progress: Record) -> ClipVerdicts:
        unfinished = ClipVerdicts(progress["clips"], progress["edits"])
        unfinished.passes, unfinished.position = progress["passes"], progress["position"]
        unfinished.reasons, unfinished.usable = _by_number(progress["reasons"]), arrays["found.usable"]
        for label, name in enumerate(self.judges):
            correct, scores = (arrays.get(f"found.{label}.{key}") for key in ("correct", "scores"))
            unfinished.verdicts[name] = Verdicts(arrays[f"found.{label}.margin"], correct, scores)
        return unfinished


def common_activity(folder: Path, identity: Mapping[str, object], measure: Callable[[], Activity]) -> Activity:
    """The activity by which the jobs of a suite match controls: the first that was measured.

    Args:
      folder: folder that all jobs see.
      identity: JSON values that make the measurement what it is, by their names in messages.
      measure: measures it, where no job has done so yet.

    Raises:
      InputError: the file belongs to another measurement, or is damaged.
    """
    file = StateFile(folder / "activity.npz", "an ablation", identity)

    def read() -> Activity | None:
        return file.read(lambda arrays, _: Activity(**arrays))

    activity = read()
    if activity is None:
        temporary = path_beside(file.path)
        dataclasses.replace(file, path=temporary).write(vars(measure()), {})
        with writing(file.path):
            try:
                os.link(temporary, file.path)  # unlike a move, it fails if another job was faster
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                temporary.replace(file.path)
            finally:
                temporary.unlink(missing_ok=True)
        activity = read()
    if activity is None:
        raise InputError(f"{file.path} has vanished: repeat the command.")
    return activity


def _by_number(reasons: Mapping[str, str]) -> dict[int, str]:
    """Reasons by the clip's number, which JSON turns into text."""
    return {int(clip): reason for clip, reason in reasons.items()}
