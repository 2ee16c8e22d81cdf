"""Options of `jaxdissect report`."""

import dataclasses
from pathlib import Path

from jaxdissect.options.base import Options, Positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Write a page on which a run's neurons can be seen and heard.

    The page opens from the disk, without a network.

    Examples:
      jaxdissect report --run runs/esc50
      jaxdissect report --run runs/esc50 --with runs/supervised --full

    Attributes:
      run: run directory; it gets report.html, and figures/.
      with_: another run directory to compare with, e.g. of a supervised or an untrained encoder.
      data: data folder, if it has moved.
      encoder: encoder directory, if it has moved.
      max_mb: largest size of the page, MB. Clips are left out to keep it; more neurons come first, then more clips of
        each.
      full: write a folder report/ with every top clip in a file of its own instead, whatever its size.
      figures: also draw figures for papers into RUN/figures, as PNG and SVG with their data as CSV; needs matplotlib.
    """

    run: Path
    with_: Path | None = None
    data: Path | None = None
    encoder: str | None = None
    max_mb: Positive = 25.0
    full: bool = False
    figures: bool = True
