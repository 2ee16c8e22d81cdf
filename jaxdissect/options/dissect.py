"""Options of `jaxdissect dissect`."""

import dataclasses
from typing import ClassVar

from jaxdissect.errors import require
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.options.base import Positive, Whole
from jaxdissect.options.neurons import NeuronsOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class DissectOptions(ActivationsOptions, NeuronsOptions):
    """Count, then choose: `activations` and `neurons` in one go.

    With --ablate, `probe` and `ablate` run too, and with --report, `share` and `report`. --seed and --save-minutes hold
    for all stages that draw random numbers or save states.

    Examples:
      jaxdissect dissect --encoder m2d_tiny --task esc50 --data ESC-50 --run runs/esc50
      jaxdissect dissect --encoder m2d_base --task cremad --data CREMA-D --run runs/cremad --ablate --report

    Attributes:
      ablate: then train a probe and silence every class's neurons on the test split, as `probe` and `ablate` do by
        default; that takes (1 + controls) passes of the test split for each class.
      controls: random neuron sets that each class's neurons are compared with.
      report: at the end, compare the neuron sets of classes and write report.html, as `share` and `report` do.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ()

    ablate: bool = False
    controls: Whole = 200
    report: bool = False
    save_minutes: Positive = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.keep_clips is not False or self.preset != "auroc" or self.selector is not None,
            "--preset auroc needs what every neuron did on every clip: leave out --no-keep-clips, or take --preset "
            "lape.",
        )
        require(
            not (self.ablate and self.distributed),
            "--ablate runs in one process or in parts: leave it out here, see `jaxdissect ablate --help`.",
        )
