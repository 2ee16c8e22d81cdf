"""How stable a selection is: bootstrap over recordings, and random halves of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.selection.aape import SelectionRule, select
from jaxdissect.selection.overlap import overlap
from jaxdissect.significance.unit_counts import UnitCounts


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Percentile intervals over resamples of the recordings, in each of which neurons are selected anew.

    Attributes:
      aape: low and high ends of each neuron's AAPE, nats.
      coverage: low and high ends of the fraction of classes that have a neuron.
      neurons_per_class: low and high ends of the mean number of neurons of a class.
      jaccard: low and high ends of the Jaccard coefficient of every two classes.
    """

    aape: Float[np.ndarray, "2 layer neuron"]
    coverage: Float[np.ndarray, "2"]
    neurons_per_class: Float[np.ndarray, "2"]
    jaccard: Float[np.ndarray, "2 class class"]


@dataclass(frozen=True, eq=False)
class Stability:
    """What is selected on random halves of the recordings.

    Attributes:
      selected: fraction of all halves in which a pair is selected (Meinshausen and Buehlmann, JRSS B 2010).
      jaccard: Jaccard coefficient of the pairs that are selected on the two halves of a split, mean over the splits in
        which any pair is; NaN if there is no such split.
    """

    selected: Float[np.ndarray, "class layer neuron"]
    jaccard: float


def bootstrap(
    counts: UnitCounts,
    rule: SelectionRule,
    resamples: int,
    seed: int,
    level: float = 0.95,
    progress: Callable[[int], object] = lambda done: None,
) -> Bootstrap:
    """Resample recordings with replacement, within folds and classes, and select in every resample.

    A selection from a resample is noisier than the observed one, so overlaps tend to be low.

    Args:
      counts: active tokens of the units.
      rule: rule of the selection.
      resamples: number of resamples.
      seed: seed of the draws.
      level: intended coverage of the intervals.
      progress: function called with the number of resamples done.
    """
    aape, coverage, sizes, jaccard = [], [], [], []
    for number in range(resamples):
        # Each resample has its own generator, whose last number keeps it from those of permutations and splits.
        weights = counts.units.resampled(np.random.default_rng([seed, number, 1]))
        entropy, specific = _select(counts, weights, rule)
        aape.append(entropy.astype(np.float32))
        coverage.append(specific.any(axis=(1, 2)).mean())
        sizes.append(specific.sum() / len(specific))
        jaccard.append(overlap(specific, specific).jaccard.astype(np.float32))
        progress(number + 1)
    ends = [(1 - level) / 2, (1 + level) / 2]
    return Bootstrap(*(_quantiles(np.stack(values), ends) for values in (aape, coverage, sizes, jaccard)))


def split_halves(
    counts: UnitCounts,
    rule: SelectionRule,
    splits: int,
    seed: int,
    progress: Callable[[int], object] = lambda done: None,
) -> Stability:
    """Select on both halves of random splits of the recordings, within folds and classes.

    Args:
      counts: active tokens of the units.
      rule: rule of the selection.
      splits: number of splits.
      seed: seed of the splits.
      progress: function called with the number of splits done.
    """
    selected, jaccard = np.zeros((counts.units.members.shape[1], *counts.shape)), []
    for number in range(splits):
        half = counts.units.half(np.random.default_rng([seed, number, 2]))
        first, second = (_select(counts, part.astype(np.int64), rule)[1] for part in (half, ~half))
        selected += first.astype(np.float64) + second
        if first.any() or second.any():
            # All pairs of a half as one set.
            jaccard.append(float(overlap(first[None], second[None]).jaccard[0, 0]))
        progress(number + 1)
    return Stability(selected / max(2 * splits, 1), float(np.mean(jaccard)) if jaccard else np.nan)


def _select(
    counts: UnitCounts, weights: Int[np.ndarray, " unit"], rule: SelectionRule
) -> tuple[Float[np.ndarray, "layer neuron"], Bool[np.ndarray, "class layer neuron"]]:
    """AAPE and selection with weighted units; a class without a token gets no neurons."""
    # One draw, in which a unit counts for its classes as often as its weight says.
    active, tokens = counts.of_classes((counts.units.members * weights[:, None]).T[None])
    counted = tokens[0] > 0
    aape, specific = np.full(counts.shape, np.nan), np.zeros((len(counted), *counts.shape), bool)
    if counted.any():  # the half of a single recording may be empty
        selection = select(active[0, counted], tokens[0, counted], rule)
        aape, specific[counted] = selection.aape, selection.specific
    return aape, specific


def _quantiles(values: Float[np.ndarray, "resample *axes"], ends: list[float]) -> Float[np.ndarray, "2 *axes"]:
    """Quantiles over resamples of what is not NaN; NaN where all are."""
    any_number = ~np.isnan(values).all(axis=0)
    quantiles = np.full((len(ends), *values.shape[1:]), np.nan)
    # Both give the same where there is no NaN, but nanquantile takes far longer.
    quantile = np.nanquantile if np.isnan(values[:, any_number]).any() else np.quantile
    quantiles[:, any_number] = quantile(values[:, any_number], ends, axis=0)
    return quantiles
