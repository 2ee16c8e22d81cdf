"""Options of `jaxdissect neurons`."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from jaxdissect.options.base import Count, Fraction, Options, Positive, Whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronsOptions(Options):
    """Choose the class-specific neurons from the counts.

    Examples:
      jaxdissect neurons --run runs/esc50
      jaxdissect neurons --run runs/esc50 --preset lape --keep 0.02 --permutations 10000

    Attributes:
      run: run directory that holds the counts.
      preset: auroc, the neurons that best tell a class's clips from all others; lape, the audio paper's selection as
        its figures allow it; aape, the paper's words taken literally.
      per_class: most neurons of a class by preset auroc.
      least_auroc: AUROC that a neuron must reach for its class by preset auroc.
      keep: fraction of all neurons to keep by lape and aape. Default: the task's, 0.01, and 0.02 for esc50 and gise51.
      drop_weakest: fraction of neurons with the lowest activation rate that preset aape drops.
      bar: quantile of all probabilities; a kept neuron is specific to the classes whose probability exceeds it.
      selector: score by which every class gets the fraction --keep of all neurons, in place of a preset.
      permutations: permutations of the labels, for p-values; where clips were kept. 0: no intervals and no stability
        either. Default: 1000.
      resamples: resamples of the recordings, for intervals. Default: 200.
      splits: splits into random halves, for the stability. Default: 50.
      seed: seed of permutations, resamples and splits. Default: 0.
      save_minutes: minutes between two saved states, from which killed permutations resume. Default: 10.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ("activations",)

    run: Path
    preset: Literal["auroc", "lape", "aape"] = "auroc"
    per_class: Count = 5
    least_auroc: Fraction = 0.7
    keep: Fraction | None = None
    drop_weakest: Fraction = 0.05
    bar: Fraction = 0.95
    selector: Literal["probability", "class_selectivity", "d_prime"] | None = None
    permutations: Whole | None = None
    resamples: Whole | None = None
    splits: Whole | None = None
    seed: Whole | None = None
    save_minutes: Positive | None = None
