"""Options of `jaxdissect share`."""

import dataclasses
from pathlib import Path

from jaxdissect.options.rules import Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareOptions(Options):
    """Compare the neuron sets of classes, within a run and with other runs.

    Attributes:
      run: run directory with the stage `neurons`; it gets the results.
      with_: other run directories, of an encoder with as many layers and neurons.
      figures: also draw heatmaps with dendrograms into RUN/figures, as SVG and PNG with their data as CSV; needs
        matplotlib.
    """

    run: Path
    with_: tuple[Path, ...] = ()
    figures: bool = False
