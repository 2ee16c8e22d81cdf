"""Options of `jaxdissect share`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from jaxdissect.options.base import Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareOptions(Options):
    """Compare the neuron sets of classes, beside what chance shares.

    The classes of every two label sets of the run are compared, and with --with those of other runs, too.

    Examples:
      jaxdissect share --run runs/cremad --figures
      jaxdissect share --run runs/esc50 --with runs/gise51

    Attributes:
      run: run directory with the stage `neurons`; it gets the results.
      with_: other run directories, of an encoder with as many layers and neurons.
      figures: also draw heatmaps with dendrograms into RUN/figures, as SVG and PNG with their data as CSV; needs
        matplotlib.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ("neurons",)

    run: Path
    with_: tuple[Path, ...] = ()
    figures: bool = False
