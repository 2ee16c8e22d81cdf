"""Progress on everything that takes longer than two seconds: rate and remaining time, on stderr."""

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

SOON = 2.0  # seconds that nobody minds
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_warned: ContextVar[list[str] | None] = ContextVar("warned", default=None)


class Bar(tqdm):
    """A bar that shows itself when its `delay` is over, though its first item may take long, as what compiles does."""

    def __init__(self, *given: Any, delay: float = 0, **more: Any) -> None:
        super().__init__(*given, delay=delay, **more)
        self._timer = threading.Timer(delay, self._show)
        self._timer.daemon = True
        if delay and not self.disable:
            self._timer.start()

    def _show(self) -> None:
        with self.get_lock():
            if not self.disable and self.delay > 0:
                self.delay: float = 0  # by which `close` knows that there is something to end
                self.refresh(nolock=True)

    def close(self) -> None:
        """End the bar."""
        if not self.disable:
            self._timer.cancel()
        super().close()


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    what: str,
    total: int | None = None,
    at_once: bool = False,
    unit: str = "clip",
    shown: bool = True,
) -> Bar:
    """A bar over clips that shows after two seconds, or `at_once`; in a log file it writes a state every 20 s."""
    interval = 0.2 if sys.stderr.isatty() else 20.0
    return Bar(
        items,
        desc=what,
        total=total,
        unit=unit,
        delay=0 if at_once else SOON,
        mininterval=interval,
        dynamic_ncols=True,
        disable=not shown or _quiet.get(),
    )


@contextlib.contextmanager
def under_way(what: str) -> Iterator[None]:
    """Say what is going on, where nobody knows at which rate, once it has taken two seconds."""
    timer = threading.Timer(SOON, note, [f"{what} ..."])
    timer.daemon = True
    if not _quiet.get():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def note(text: str) -> None:
    """What the command is about to do, on stderr, unless it is to be quiet."""
    if not _quiet.get():
        print(text, file=sys.stderr, flush=True)


def warn(text: str, once: bool = False) -> None:
    """What a result should not be read without, or what went wrong without ending the command, on stderr.

    Args:
      text: a sentence or two.
      once: not again within one command, whose stages may all come to say it.
    """
    heard = _warned.get()
    if heard is not None:
        if once and text in heard:
            return
        heard.append(text)
    print(f"jaxdissect: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def listening(quiet: bool) -> Iterator[list[str]]:
    """Show no progress if `quiet`; what `warn` tells meanwhile is kept in the list."""
    heard: list[str] = []
    tokens = _quiet.set(quiet), _warned.set(heard)
    try:
        yield heard
    finally:
        _quiet.reset(tokens[0])
        _warned.reset(tokens[1])
