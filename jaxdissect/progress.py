"""Progress on everything that takes longer than two seconds: rate and remaining time, on stderr."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    what: str,
    total: int | None = None,
    at_once: bool = False,
    unit: str = "clip",
    shown: bool = True,
) -> tqdm:
    """A bar over clips that shows after two seconds, or `at_once`; in a log file it writes a state every 20 s."""
    interval = 0.2 if sys.stderr.isatty() else 20.0
    return tqdm(
        items,
        desc=what,
        total=total,
        unit=unit,
        delay=0 if at_once else 2,
        mininterval=interval,
        dynamic_ncols=True,
        disable=not shown,
    )
