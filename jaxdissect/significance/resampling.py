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
      aape: low and high, nats.
      coverage, neurons_per_class: low and high.
      jaccard: low and high, of every two classes.
    """

    aape: Float[np.ndarray, "2 layer neuron"]
    coverage: Float[np.ndarray, "2"]
    neurons_per_class: Float[np.ndarray, "2"]
    jaccard: Float[np.ndarray, "2 class class"]


@dataclass(frozen=True, eq=False)
class Stability:
    """What is selected on random halves of the recordings.

    Attributes:
      selected: share of all halves in which a pair is selected (Meinshausen and Buehlmann, JRSS B 2010).
      jaccard: of the pairs that are selected on the two halves of a split, mean over splits in which any is; else NaN.
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

    A selection from a resample is noisier than the one that was made, so overlaps tend to lie low.

    Args:
      counts: of the units.
      rule: by which neurons were selected.
      resamples: how many.
      seed: of the draws.
      level: coverage that is aimed at.
      progress: called with the number of resamples done.
    """
    aape, coverage, sizes, similar = [], [], [], []
    for number in range(resamples):
        weights = counts.units.drawn(np.random.default_rng([seed, number, 1]))
        entropy, specific = _select(counts, weights, rule)
        aape.append(entropy.astype(np.float32))
        coverage.append(specific.any(axis=(1, 2)).mean())
        sizes.append(specific.sum() / len(specific))
        similar.append(overlap(specific, specific).jaccard.astype(np.float32))
        progress(number + 1)
    ends = [(1 - level) / 2, (1 + level) / 2]
    return Bootstrap(*(_quantiles(np.stack(values), ends) for values in (aape, coverage, sizes, similar)))


def split_halves(
    counts: UnitCounts,
    rule: SelectionRule,
    splits: int,
    seed: int,
    progress: Callable[[int], object] = lambda done: None,
) -> Stability:
    """Select on both halves of random splits of the recordings, within folds and classes.

    Args:
      counts: of the units.
      rule: by which neurons were selected.
      splits: how many.
      seed: of the splits.
      progress: called with the number of splits done.
    """
    selected, similar = np.zeros((counts.units.members.shape[1], *counts.shape)), []
    for number in range(splits):
        half = counts.units.halved(np.random.default_rng([seed, number, 2]))
        first, second = (_select(counts, part.astype(np.int64), rule)[1] for part in (half, ~half))
        selected += first.astype(np.float64) + second
        if first.any() or second.any():
            similar.append(float(overlap(first[None], second[None]).jaccard[0, 0]))
        progress(number + 1)
    return Stability(selected / max(2 * splits, 1), float(np.mean(similar)) if similar else np.nan)


def _select(
    counts: UnitCounts, weights: Int[np.ndarray, " unit"], rule: SelectionRule
) -> tuple[Float[np.ndarray, "layer neuron"], Bool[np.ndarray, "class layer neuron"]]:
    """AAPE and selection with weighted units; a class that has none of them gets no neurons."""
    active, tokens = counts.of_classes((counts.units.members * weights[:, None]).T[None])
    there = tokens[0] > 0
    aape, specific = np.full(counts.shape, np.nan), np.zeros((len(there), *counts.shape), bool)
    if there.any():  # half of one recording may be nothing
        found = select(active[0, there], tokens[0, there], rule)
        aape, specific[there] = found.aape, found.specific
    return aape, specific


def _quantiles(values: Float[np.ndarray, "resample *axes"], ends: list[float]) -> Float[np.ndarray, "2 *axes"]:
    """Of what is not NaN; NaN where all are."""
    found, there = np.full((len(ends), *values.shape[1:]), np.nan), ~np.isnan(values).all(axis=0)
    quantile = np.nanquantile if np.isnan(values[:, there]).any() else np.quantile  # the former takes far longer
    found[:, there] = quantile(values[:, there], ends, axis=0)
    return found
