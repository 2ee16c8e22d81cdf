"""Work that can be interrupted and resumed: its state is one file, written now and then and when the work stops."""

import contextlib
import json
import shutil
import signal
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxdissect.errors import InputError, LostProcessError, require
from jaxdissect.runtime.files import whole_file
from jaxdissect.runtime.progress import warn
from jaxdissect.runtime.records import differences
from jaxdissect.types import Record

T = TypeVar("T")
Arrays = Mapping[str, np.ndarray]

RECORD, IDENTITY = "record", "of"  # the entry of a state file that holds JSON, and that JSON's part with the identity
# What NumPy, zipfile, zlib and a parser of the content raise for a file that is cut, overwritten, or another program's.
DAMAGE = (OSError, ValueError, TypeError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Interrupted(KeyboardInterrupt):
    """A signal has come and the step under way is done, so that the state can be saved."""


@dataclass(frozen=True)
class StateFile:
    """The file that keeps the state of unfinished work: arrays, and a JSON record beside them.

    Killed work resumes from its state and ends with the same results to the bit. The file is one NumPy archive without
    pickled objects. It is no orbax checkpoint: in a job of several processes, orbax needs JAX's coordination service,
    which ends every process when one has died.

    Attributes:
      path: path of the file.
      work: kind of work in messages, such as "a count".
      identity: JSON values that make the work what it is, by their names in messages; the state of other work is
        refused.
    """

    path: Path
    work: str
    identity: Mapping[str, object]

    def write(self, arrays: Arrays, record: Mapping[str, object], *, needed: bool = True) -> None:
        """Replace the state, as a whole; where that fails, the state before it stays.

        Args:
          arrays: arrays of the state, by name.
          record: JSON values of the state, by name.
          needed: whether the work must end where the file cannot be written; else a warning says so.

        Raises:
          InputError: the file is needed and cannot be written.
        """
        content = json.dumps({IDENTITY: self.identity, **record}).encode()
        entries: dict[str, Any] = {RECORD: np.frombuffer(content, np.uint8), **arrays}  # Any: savez has other arguments
        try:
            with whole_file(self.path) as temporary, temporary.open("wb") as file:
                np.savez(file, **entries)
        except InputError as error:
            if needed:
                raise
            warn(f"the state of {self.work} was not saved, the one before is kept: {error}")

    def read(self, parse: Callable[[dict[str, np.ndarray], Record], T]) -> T | None:
        """Read the state.

        Args:
          parse: what makes the result of the arrays and the record; it may fail where they are not as written.

        Returns:
          the result of `parse`; None if there is no such file.

        Raises:
          InputError: the file is damaged, lacks something, or is the state of other work.
        """
        try:
            # allow_pickle=False: a state may come from anywhere, and pickled objects could run code.
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            record = json.loads(arrays.pop(RECORD).tobytes())
            self._require_identity(dict(record.pop(IDENTITY)))
            return parse(arrays, record)
        except FileNotFoundError:
            return None
        except InputError:  # a ValueError too, but with a message of its own
            raise
        except DAMAGE as error:
            raise InputError(
                f"{self.path} cannot be read as the state of {self.work} ({error}): remove it to start that part "
                f"afresh."
            ) from error

    def _require_identity(self, identity: Mapping[str, object]) -> None:
        differing = differences(identity, self.identity)
        require(
            not differing,
            f"{self.path} is the state of an unfinished run that differs in {', '.join(differing.values())}: resume it "
            f"by the command that began it, choose another --run, or remove {self.path.parent} to start afresh.",
        )


def remove_states(folder: Path) -> None:
    """Remove the states of a stage, whose results are saved by now.

    Args:
      folder: folder of the states, in one for the states of all stages, which is removed too if it is empty then.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # states of other stages are in it
        folder.parent.rmdir()


class Clock:
    """Says when a state is due.

    Attributes:
      seconds: time from one state to the next.
      last: when the last one was due, by `time.monotonic`.
    """

    def __init__(self, save_minutes: float) -> None:
        self.seconds, self.last = 60 * save_minutes, time.monotonic()

    def due(self) -> bool:
        """Whether it is time for a state; the next one is due `seconds` later."""
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True


@contextlib.contextmanager
def resumable(
    save: Callable[[], None], save_minutes: float, check: Callable[[], None] = lambda: None
) -> Iterator[Callable[[], None]]:
    """Do work in steps, so that it can be resumed from its state; yields the function to call between two steps.

    That function saves the state when one is due, and stops the work if a signal has come. What ends the work between
    two steps (a signal, a mistake in the data, a lost process) saves the state, too. What ends it within a step, such
    as a second signal, does not: arrays may be half updated then.

    Args:
      save: saves the state as it is between two steps.
      save_minutes: minutes from one state to the next.
      check: called between two steps; ends the work by an exception.

    Raises:
      KeyboardInterrupt: a signal has come; the state is saved.
    """
    clock = Clock(save_minutes)
    with deferred_interrupts() as interrupted:

        def stop_if_interrupted() -> None:
            if interrupted():
                raise Interrupted

        def between() -> None:
            stop_if_interrupted()
            check()
            if clock.due():
                save()

        try:
            yield between
            stop_if_interrupted()  # the signal came during the last step
        except (InputError, LostProcessError, Interrupted):
            save()
            raise


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Hold back the signals that would raise `KeyboardInterrupt`; yields a function that says whether one has come.

    A second one is not held back. Outside the main thread, where Python allows no handlers, none is held back.
    """
    received: list[int] = []

    def hold_back(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    numbers = []
    if threading.current_thread() is threading.main_thread():
        # A handler that somebody else has set is left alone.
        candidates = (signal.SIGINT, signal.SIGTERM)
        numbers = [number for number in candidates if signal.getsignal(number) is signal.default_int_handler]
    # SIGTERM is treated like Ctrl-C: schedulers send it some seconds before they kill.
    for number in numbers:
        signal.signal(number, hold_back)
    try:
        yield lambda: bool(received)
    finally:
        for number in numbers:
            signal.signal(number, signal.default_int_handler)
