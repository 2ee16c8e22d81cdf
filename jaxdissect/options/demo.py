"""Options of `jaxdissect demo`."""

import dataclasses
from pathlib import Path

from jaxdissect.options.rules import Count, Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """Dissect a self-supervised, a supervised and an untrained encoder on synthesised notes, side by side.

    Attributes:
      run: folder to write, with one run directory per encoder in it. Default: a new temporary one.
      batch_size: clips per device and step.
    """

    run: Path | None = None
    batch_size: Count = 32
