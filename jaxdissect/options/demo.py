"""Options of `jaxdissect demo`."""

import dataclasses
from pathlib import Path

from jaxdissect.options.base import Count, Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """Dissect the shipped encoders on synthesised notes, side by side.

    Three encoders of one architecture: self-supervised on ESC-50's sounds, supervised on the same, and with random
    weights, which shows what chance gives. None was trained on these notes.

    Examples:
      jaxdissect demo
      jaxdissect demo --run runs/demo

    Attributes:
      run: folder to write, with one run directory per encoder in it. Default: a new temporary one.
      batch_size: clips per device and step.
    """

    run: Path | None = None
    batch_size: Count = 32
