"""What a command says while it works, on stderr: progress bars, notes and warnings."""

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

BRIEF_SECONDS = 2.0  # work that takes less shows no progress
REDRAW_SECONDS, LOG_SECONDS = 0.2, 20.0  # from one state of a bar to the next, on a terminal and in a log file
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_warnings: ContextVar[list[str] | None] = ContextVar("warnings", default=None)


class Bar(tqdm):
    """A bar that appears when its `delay` is over, even while its first item takes long because something compiles.

    tqdm itself looks at the delay only when an item is finished.
    """

    def __init__(self, *arguments: Any, delay: float = 0, **options: Any) -> None:
        super().__init__(*arguments, delay=delay, **options)
        self._timer = threading.Timer(delay, self._show)
        self._timer.daemon = True
        if delay and not self.disable:
            self._timer.start()

    def _show(self) -> None:
        with self.get_lock():
            if not self.disable and self.delay > 0:
                self.delay: float = 0  # by this `close` knows that the bar is on the screen
                self.refresh(nolock=True)

    def update_to(self, finished: int) -> None:
        """Set the number of items that are finished."""
        self.update(finished - self.n)

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
    """Make a bar with rate and remaining time, which appears after two seconds.

    Args:
      items: what the bar iterates over; None: its `update` or `update_to` is called.
      what: name of the work.
      total: number of items; by default the length of `items`.
      at_once: whether the bar appears at once.
      unit: name of an item.
      shown: whether there is a bar at all.
    """
    return Bar(
        items,
        desc=what,
        total=total,
        unit=unit,
        delay=0 if at_once else BRIEF_SECONDS,
        mininterval=REDRAW_SECONDS if sys.stderr.isatty() else LOG_SECONDS,
        dynamic_ncols=True,
        disable=not shown or _quiet.get(),
    )


@contextlib.contextmanager
def under_way(what: str) -> Iterator[None]:
    """Say what the block does once it has taken two seconds, where nothing can be said of its rate."""
    timer = threading.Timer(BRIEF_SECONDS, note, [f"{what} ..."])
    timer.daemon = True
    if not _quiet.get():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def note(text: str) -> None:
    """Print what the command is about to do, unless it is to be quiet."""
    if not _quiet.get():
        print(text, file=sys.stderr, flush=True)


def warn(text: str, once: bool = False) -> None:
    """Print a caution that belongs to a result, or a mishap that does not end the command.

    Args:
      text: a sentence or two.
      once: whether to leave it out if the command has printed it already, as several of its stages may do.
    """
    printed = _warnings.get()
    if printed is not None:
        if once and text in printed:
            return
        printed.append(text)
    print(f"jaxdissect: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def listening(quiet: bool) -> Iterator[list[str]]:
    """Collect the warnings of a block in the list that is yielded, and show no progress if `quiet`."""
    warnings: list[str] = []
    tokens = _quiet.set(quiet), _warnings.set(warnings)
    try:
        yield warnings
    finally:
        _quiet.reset(tokens[0])
        _warnings.reset(tokens[1])
