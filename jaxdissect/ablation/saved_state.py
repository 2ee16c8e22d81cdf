"""The state of an ablation on disk, and its parts: independent jobs over the interventions of one suite.

Job I of N judges the interventions I, I + N, ... and keeps what it has found in `state/ablate/I-of-N/` of the run
directory; the whole is the job 1 of 1. Jobs have nothing to say to each other, except that controls are matched by
one measurement of the neurons' activity: the first job that has made it leaves it to all.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdissect.ablation.controls import Activity
from jaxdissect.ablation.interventions import Intervention
from jaxdissect.ablation.stream import Found
from jaxdissect.ablation.suite_state import SuiteState, first_edits, new_state
from jaxdissect.ablation.verdicts import Verdicts
from jaxdissect.errors import InputError
from jaxdissect.probe.judge import Judge
from jaxdissect.runtime.files import cannot_write, path_beside
from jaxdissect.runtime.state_files import State, read_state, remove_states, write_state

VERDICTS = ("margin", "correct", "scores")


@dataclasses.dataclass(frozen=True, eq=False)
class SuiteFiles:
    """Where the jobs of one suite keep their states.

    Attributes:
      folder: of the files.
      identity: JSON values that tell this suite from others, by names for people.
      judges: of each label set.
      chosen: all interventions.
    """

    folder: Path
    identity: Mapping[str, Any]
    judges: Mapping[str, Judge]
    chosen: Sequence[Intervention]

    def path(self, part: int, parts: int) -> Path:
        """The state of a job."""
        return self.folder / f"{part}-of-{parts}" / "judged.npz"

    def some(self, numbers: Sequence[int]) -> list[Intervention]:
        """The interventions of those numbers."""
        return [self.chosen[number] for number in numbers]

    def read(self, path: Path) -> tuple[list[int], SuiteState] | None:
        """The numbers of a job's interventions, and how far it is; None if there is no such file.

        Raises:
          InputError: the file is damaged, or another suite's.
        """
        return read_state(path, "an ablation", self.identity, self._parse)

    def _parse(self, state: State) -> tuple[list[int], SuiteState]:
        numbers, found = state.record["numbers"], new_state(self.judges, self.some(state.record["numbers"]))
        for label, judgements in enumerate(found.judgements.values()):
            for key, array in judgements.arrays().items():
                array[...] = state.arrays[f"{label}.{key}"]
        found.done, found.reasons = state.record["done"], _by_number(state.record["reasons"])
        found.usable = state.arrays.get("usable")
        if state.record["found"] is not None:
            found.found = self._found(state)
        return numbers, found

    def write(self, path: Path, numbers: Sequence[int], state: SuiteState) -> None:
        """Keep a job's state in the place of the one before.

        Raises:
          InputError: it cannot be written; the one before stays.
        """
        arrays = {
            f"{label}.{key}": array
            for label, judgements in enumerate(state.judgements.values())
            for key, array in judgements.arrays().items()
        }
        record = {"numbers": list(numbers), "done": state.done, "reasons": state.reasons, "found": None}
        if state.usable is not None:
            arrays["usable"] = state.usable
        found = state.found
        if found is not None and found.position:
            arrays["found.usable"] = found.usable
            for label, name in enumerate(self.judges):
                verdicts = found.arrays[name]
                kept = {key: getattr(verdicts, key) for key in VERDICTS if getattr(verdicts, key) is not None}
                arrays |= {f"found.{label}.{key}": values for key, values in kept.items()}
            sizes = {key: getattr(found, key) for key in ("clips", "edits", "passes", "position", "reasons")}
            record["found"] = sizes
        write_state(path, State(self.identity, arrays, record))

    def others(self, mine: Path) -> list[tuple[list[int], SuiteState]]:
        """What other jobs have judged, of interventions that no two of them share.

        Raises:
          InputError: a job is not finished, or two have judged the same.
        """
        parts: list[tuple[list[int], SuiteState]] = []
        for path in sorted(self.folder.glob("*-of-*/judged.npz")):
            part = None if path == mine else self.read(path)
            if part is None:
                continue
            numbers, state = part
            edits = int(first_edits(self.some(numbers))[-1])
            if state.done < edits:
                name = path.parent.name.replace("-of-", "/")
                raise InputError(
                    f"The part {name} is not finished: run it again with --part {name}, it goes on; or remove {path} "
                    f"to judge its interventions here."
                )
            if any(set(numbers) & set(before) for before, _ in parts):
                raise InputError(
                    f"{path} holds interventions that another part has judged, too: remove one of the files in "
                    f"{self.folder}."
                )
            parts.append(part)
        return parts

    def remove(self) -> None:
        """Remove all states: what was judged is saved elsewhere."""
        remove_states(self.folder)

    def _found(self, state: State) -> Found:
        sizes = state.record["found"]
        found = Found(sizes["clips"], sizes["edits"])
        found.passes, found.position, found.reasons = sizes["passes"], sizes["position"], _by_number(sizes["reasons"])
        found.usable = state.arrays["found.usable"]
        for label, name in enumerate(self.judges):
            found.arrays[name] = Verdicts(**{key: state.arrays.get(f"found.{label}.{key}") for key in VERDICTS})
        return found


def common_activity(folder: Path, identity: Mapping[str, Any], measure: Callable[[], Activity]) -> Activity:
    """The activity that the jobs of a suite match controls by: the first that was measured.

    Args:
      folder: that all jobs see.
      identity: of what it is measured on.
      measure: does it.

    Raises:
      InputError: what is there is of something else, or damaged.
    """
    path = folder / "activity.npz"

    def read() -> Activity | None:
        return read_state(path, "an ablation", identity, lambda state: Activity(**state.arrays))

    activity = read()
    if activity is None:
        measured = measure()
        temporary = path_beside(path)
        write_state(temporary, State(identity, {"rate": measured.rate, "impact": measured.impact}, {}))
        try:
            os.link(temporary, path)  # fails if another job was faster
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            try:
                temporary.replace(path)
            except OSError as error:
                raise cannot_write(path, error) from error
        finally:
            temporary.unlink(missing_ok=True)
        activity = read()
    if activity is None:
        raise InputError(f"{path} has vanished: repeat the command.")
    return activity


def _by_number(reasons: Mapping[str, str]) -> dict[int, str]:
    return {int(clip): reason for clip, reason in reasons.items()}
