"""Options of `jaxdissect neurons`."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from jaxdissect.options.base import Fraction, Options, Positive, Whole

CLIP_SELECTORS = ("auroc", "average_precision")  # selectors that need every clip's counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronsOptions(Options):
    """Choose the class-specific neurons from the counts.

    Examples:
      jaxdissect neurons --run runs/esc50 --preset lape
      jaxdissect neurons --run runs/esc50 --keep 0.02 --permutations 10000

    Attributes:
      run: run directory that holds the counts.
      preset: aape, the audio paper's filters; lape, those of the language paper.
      keep: fraction of all neurons to keep. Default: the task's, 0.01, and 0.02 for esc50 and gise51.
      drop_weakest: fraction of neurons with the lowest activation rate that preset aape drops.
      bar: quantile of all probabilities; a kept neuron is specific to the classes whose probability exceeds it.
      selector: score by which neurons are chosen. Others than aape give every class the fraction --keep of all neurons
        with the highest score; auroc and average_precision need --keep-clips.
      permutations: permutations of the labels, for p-values; with --keep-clips only. 0: no intervals and no stability
        either. Default: 1000.
      resamples: resamples of the recordings, for intervals. Default: 200.
      splits: splits into random halves, for the stability. Default: 50.
      seed: seed of permutations, resamples and splits. Default: 0.
      save_minutes: minutes between two saved states, from which killed permutations resume. Default: 10.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ("activations",)

    run: Path
    preset: Literal["aape", "lape"] = "aape"
    keep: Fraction | None = None
    drop_weakest: Fraction = 0.05
    bar: Fraction = 0.95
    selector: Literal["aape", "probability", "class_selectivity", "d_prime", "auroc", "average_precision"] = "aape"
    permutations: Whole | None = None
    resamples: Whole | None = None
    splits: Whole | None = None
    seed: Whole | None = None
    save_minutes: Positive | None = None
