"""How stable a selection is: bootstrap over recordings, and random halves of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.selection.aape import SelectionRule, select
from jaxdissect.selection.auroc import AurocRule, best_neurons
from jaxdissect.selection.overlap import overlap
from jaxdissect.significance.unit_counts import UnitCounts, UnitRanks, best_readings
from jaxdissect.significance.units import Units

# Chooses from samples: how often every unit counts in each -> for each its AAPE, where it is chosen by that, and its
# pairs of class and neuron.
Chosen: TypeAlias = tuple[Float[np.ndarray, "layer neuron"] | None, Bool[np.ndarray, "class layer neuron"]]
Choose: TypeAlias = Callable[[Int[np.ndarray, "sample unit"]], Iterator[Chosen]]
AT_ONCE = 2**23  # values (samples x classes x neurons) that are computed together


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Percentile intervals over resamples of the recordings, in each of which neurons are selected anew.

    Attributes:
      aape: low and high ends of each neuron's AAPE, nats; None where neurons are not chosen by it.
      coverage: low and high ends of the fraction of classes that have a neuron.
      neurons_per_class: low and high ends of the mean number of neurons of a class.
      jaccard: low and high ends of the Jaccard coefficient of every two classes.
    """

    aape: Float[np.ndarray, "2 layer neuron"] | None
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


def by_aape(counts: UnitCounts, rule: SelectionRule) -> Choose:
    """Choose from samples as AAPE does; a class without a token gets no neurons.

    Args:
      counts: active tokens of the units.
      rule: rule of the selection.
    """

    def choose(weights: Int[np.ndarray, "sample unit"]) -> Iterator[Chosen]:
        # A unit counts for its classes as often as its weight says.
        active, tokens = counts.of_classes(counts.units.members.T[None] * weights[:, None, :])
        for of_sample, of_classes in zip(active, tokens, strict=True):
            counted = of_classes > 0
            aape, specific = np.full(counts.shape, np.nan), np.zeros((len(counted), *counts.shape), bool)
            if counted.any():  # the half of a single recording may be empty
                selection = select(of_sample[counted], of_classes[counted], rule)
                aape, specific[counted] = selection.aape, selection.specific
            yield aape, specific

    return choose


def by_auroc(readings: Sequence[UnitRanks], rule: AurocRule) -> Choose:
    """Choose from samples by AUROC; labels are not permuted anew, so that the rule's level has no part in it.

    Args:
      readings: ranks of the units, by each reading.
      rule: rule of the selection.
    """

    def choose(weights: Int[np.ndarray, "sample unit"]) -> Iterator[Chosen]:
        for auroc in best_readings(readings, weights)[0]:
            yield None, best_neurons(auroc, rule)

    return choose


def at_once(units: Units, shape: tuple[int, int]) -> int:
    """How many samples to choose from together, so that the memory is bounded.

    Args:
      units: units of the clips.
      shape: layers, and neurons per layer.
    """
    return max(1, AT_ONCE // (units.members.shape[1] * math.prod(shape)))


def bootstrap(
    units: Units,
    choose: Choose,
    shape: tuple[int, int],
    resamples: int,
    seed: int,
    level: float = 0.95,
    progress: Callable[[int], object] = lambda done: None,
) -> Bootstrap:
    """Resample recordings with replacement, within folds and classes, and select in every resample.

    A selection from a resample is noisier than the observed one, so overlaps tend to be low.

    Args:
      units: units of the clips.
      choose: how neurons are chosen from a resample.
      shape: layers, and neurons per layer.
      resamples: number of resamples.
      seed: seed of the draws.
      level: intended coverage of the intervals.
      progress: function called with the number of resamples done.
    """
    aape, coverage, sizes, jaccard = [], [], [], []
    for numbers in _batches(resamples, at_once(units, shape)):
        # Each resample has its own generator, whose last number keeps it from those of permutations and splits.
        weights = [units.resampled(np.random.default_rng([seed, number, 1])) for number in numbers]
        for number, (entropy, specific) in zip(numbers, choose(np.stack(weights)), strict=True):
            if entropy is not None:
                aape.append(entropy.astype(np.float32))
            coverage.append(specific.any(axis=(1, 2)).mean())
            sizes.append(specific.sum() / len(specific))
            jaccard.append(overlap(specific, specific).jaccard.astype(np.float32))
            progress(number + 1)
    ends = [(1 - level) / 2, (1 + level) / 2]
    limits = [_quantiles(np.stack(values), ends) for values in (coverage, sizes, jaccard)]
    return Bootstrap(_quantiles(np.stack(aape), ends) if aape else None, *limits)


def split_halves(
    units: Units,
    choose: Choose,
    shape: tuple[int, int],
    splits: int,
    seed: int,
    progress: Callable[[int], object] = lambda done: None,
) -> Stability:
    """Select on both halves of random splits of the recordings, within folds and classes.

    Args:
      units: units of the clips.
      choose: how neurons are chosen from a half.
      shape: layers, and neurons per layer.
      splits: number of splits.
      seed: seed of the splits.
      progress: function called with the number of splits done.
    """
    selected, jaccard = np.zeros((units.members.shape[1], *shape)), []
    for numbers in _batches(splits, max(1, at_once(units, shape) // 2)):
        halves = [units.half(np.random.default_rng([seed, number, 2])) for number in numbers]
        both = np.stack([part for half in halves for part in (half, ~half)]).astype(np.int64)
        chosen = (specific for _, specific in choose(both))
        for number, first, second in zip(numbers, chosen, chosen, strict=True):  # two halves in turn
            selected += first.astype(np.float64) + second
            if first.any() or second.any():
                # All pairs of a half as one set.
                jaccard.append(float(overlap(first[None], second[None]).jaccard[0, 0]))
            progress(number + 1)
    return Stability(selected / max(2 * splits, 1), float(np.mean(jaccard)) if jaccard else np.nan)


def _batches(total: int, size: int) -> Iterator[range]:
    """The numbers below `total` in ranges of `size`."""
    return (range(first, min(first + size, total)) for first in range(0, total, size))


def _quantiles(values: Float[np.ndarray, "resample *axes"], ends: list[float]) -> Float[np.ndarray, "2 *axes"]:
    """Quantiles over resamples of what is not NaN; NaN where all are."""
    any_number = ~np.isnan(values).all(axis=0)
    quantiles = np.full((len(ends), *values.shape[1:]), np.nan)
    # Both give the same where there is no NaN, but nanquantile takes far longer.
    quantile = np.nanquantile if np.isnan(values[:, any_number]).any() else np.quantile
    quantiles[:, any_number] = quantile(values[:, any_number], ends, axis=0)
    return quantiles
