"""Progress on everything that takes longer than two seconds: rate and remaining time, on stderr."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any] | None = None, *, what: str, total: int | None = None) -> tqdm:
    """A bar over clips that shows after two seconds; in a log file it writes a line's worth every 20 s."""
    interval = 0.2 if sys.stderr.isatty() else 20.0
    return tqdm(items, desc=what, total=total, unit="clip", delay=2, mininterval=interval, dynamic_ncols=True)
