"""Ctrl-C in the middle of a step would lose the step's state, so it waits until the step is done."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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
