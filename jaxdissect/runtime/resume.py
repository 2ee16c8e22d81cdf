"""Work in steps that goes on from a state: Ctrl-C waits until a step is done, and states are written now and then."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxdissect.errors import InputError, LostProcessError


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Keep signals that would raise `KeyboardInterrupt` back; yields a function that tells whether one has come.

    A second one is not kept back. Outside the main thread, where Python allows no handlers, nothing is kept back.
    """
    came: list[int] = []

    def keep_back(number: int, _frame: Any) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    numbers = []
    if threading.current_thread() is threading.main_thread():
        candidates = (signal.SIGINT, signal.SIGTERM)
        numbers = [number for number in candidates if signal.getsignal(number) is signal.default_int_handler]
    for number in numbers:
        signal.signal(number, keep_back)
    try:
        yield lambda: bool(came)
    finally:
        for number in numbers:
            signal.signal(number, signal.default_int_handler)


class Clock:
    """Tells when the next state is due."""

    def __init__(self, minutes: float) -> None:
        """Start.

        Args:
          minutes: between two states.
        """
        self.seconds, self.last = 60 * minutes, time.monotonic()

    def due(self) -> bool:
        """Whether it is time; then the next is so many minutes later."""
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True


@contextmanager
def resumable(save: Callable[[], None], due: Callable[[], bool]) -> Iterator[Callable[[], None]]:
    """Work in steps that goes on from a state; yields a function to be called between two steps.

    It saves the state when that is due, and stops the work when a signal has come. What ends the work between two steps
    (a signal, a mistake in the data, a lost process) saves the state, too; what ends it within a step does not.

    Args:
      save: the state, as it is between two steps.
      due: whether it is time to.

    Raises:
      KeyboardInterrupt: a signal has come; the state is saved.
    """
    stopped = False

    with deferred_interrupts() as interrupted:

        def between() -> None:
            nonlocal stopped
            if interrupted():
                stopped = True
                raise KeyboardInterrupt
            if due():
                save()

        try:
            yield between
            if interrupted():  # during the last step
                stopped = True
                raise KeyboardInterrupt
        except (InputError, LostProcessError, KeyboardInterrupt) as error:
            if stopped or not isinstance(error, KeyboardInterrupt):
                save()
            raise
