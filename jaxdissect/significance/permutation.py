"""The permutation test: every pair of class and neuron against permuted labels, on the device.

The statistic of a pair is the excess of active tokens over what the neuron's rate over all classes lets expect, divided
by the standard deviation that it has when labels are exchanged. Mean and deviation under exchange have a closed form
(Hoeffding 1951, "A combinatorial central limit theorem"), so the statistics of all neurons are on one scale.

The null distribution of a class is made of the statistics of all permutations and many neurons together. Its p-values
therefore do not end at 1 / (permutations + 1), below which a correction for some hundred thousand tests would reject
nothing. Only neurons that fire in about as many units are pooled: one that fires in a single unit has a far heavier
tail than one that fires in many, and would decide what the others must exceed.

A test may have several readings of each neuron, of which a pair takes the largest statistic. Permutation k then
permutes reading k modulo their number, and p-values are multiplied by that number (Bonferroni): with R readings the
mean of their tails times R bounds the probability that any of them reaches a statistic.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdissect.significance.permuted_statistics import (
    BINS_PER_UNIT,
    HISTOGRAM_BINS,
    exchange_moments,
    null_step,
    pools,
)
from jaxdissect.significance.unit_counts import UnitCounts

SLACK = 0.05  # bins by which float32 moves a statistic that equals the observed one, up to some 1e5 tokens a class
TIE = 1e-5  # relative difference within which float32 does not separate a probability from a cut-off
AT_ONCE = 2**22  # statistics (permutations x classes x neurons) that are computed together
_step = jax.jit(null_step, donate_argnames="histogram")


@dataclass(frozen=True)
class CutOffs:
    """Cut-offs that a selection has led to: a pair passes whose p is above the bar, of a neuron within the others.

    Attributes:
      aape: highest AAPE kept, nats.
      rate: activation rate that a neuron must exceed; -1 if none.
      probability: bar that p must exceed.
    """

    aape: float
    rate: float
    probability: float

    def limits(self, classes: int) -> tuple[float, float, float]:
        """Limits for `null_step`, loosened or tightened a little: what equals one must not pass or fail by rounding.

        Args:
          classes: number of classes.
        """
        # AAPE is compared as its distance below ln(classes), whose error in float32 grows with the root of the
        # distance.
        below, above = max(math.log(classes) - self.aape, 0.0), 1 + TIE
        below -= 2e-6 * math.sqrt(below) if math.isfinite(below) else 0.0
        return below, self.rate * above, self.probability * above


@dataclass(eq=False)
class Null:
    """What the permutations so far have shown; `PermutationTest.run` adds to it.

    Attributes:
      histogram: number of statistics, by class, pool and bin.
      highest: highest statistic of each permutation.
      pairs: number of pairs that pass the cut-offs in each permutation.
      neurons: number of neurons with such a pair in each permutation.
      shared: neurons that two classes share, summed over permutations; the diagonal is a class's own number.
      as_many: permutations in which two classes share at least as many neurons as were observed.
    """

    histogram: Int[np.ndarray, "class pool bin"]
    highest: Float[np.ndarray, " permutation"]
    pairs: Int[np.ndarray, " permutation"]
    neurons: Int[np.ndarray, " permutation"]
    shared: Int[np.ndarray, "class class"]
    as_many: Int[np.ndarray, "class class"]

    @property
    def done(self) -> int:
        """Number of permutations so far."""
        return len(self.highest)

    def add(self, steps: list[dict[str, Array]], observed: Int[np.ndarray, "class class"]) -> None:
        """Add a batch of permutations, except to the histogram.

        Args:
          steps: results of `null_step` on every range of neurons, without the histogram.
          observed: neurons that two classes were found to share.
        """
        on_host = jax.device_get(steps)
        shared = sum(step["shared"].astype(np.int64) for step in on_host)
        highest = np.max([step["highest"] for step in on_host], axis=0)
        self.highest = np.append(self.highest, highest.astype(np.float64))
        self.pairs = np.append(self.pairs, np.trace(shared, axis1=1, axis2=2))  # a class shares its pairs with itself
        self.neurons = np.append(self.neurons, sum(step["neurons"].astype(np.int64) for step in on_host))
        self.shared += shared.sum(axis=0)
        self.as_many += (shared >= observed).sum(axis=0)


@dataclass(frozen=True, eq=False)
class Tested:
    """How the pairs of one label set compare with permuted labels; NaN where a pair cannot be tested.

    Attributes:
      statistic: studentised excess of active tokens of each pair.
      p_value: one-sided p-value, from the pooled null of the pair's class and pool.
      p_highest: probability that any pair of the label set reaches the statistic by chance (max-T), which controls the
        family-wise error.
      lowest: p-value of a statistic that no permutation reaches.
    """

    statistic: Float[np.ndarray, "class layer neuron"]
    p_value: Float[np.ndarray, "class layer neuron"]
    p_highest: Float[np.ndarray, "class layer neuron"]
    lowest: Float[np.ndarray, "class layer neuron"]


class PermutationTest:
    """Permutes the labels of one label set; its result does not depend on batches, chunks or interruptions.

    Attributes:
      statistic: observed statistic of every pair (class, layer, neuron); NaN where a pair cannot be tested.
      pool: pool of every neuron.
      readings: for each reading the arguments `counts`, `rate`, `mean`, `scale`, `pool` of `null_step` for each range
        of neurons.
    """

    def __init__(self, readings: Sequence[UnitCounts], cut: CutOffs, seed: int) -> None:
        """Compute the observed statistics and their moments.

        Args:
          readings: active tokens, or ranks, of the same units; of several a pair takes the largest statistic.
          cut: cut-offs of the selection.
          seed: seed of the permutations.
        """
        counts = readings[0]
        self.units, self.tokens, self.shape = counts.units, counts.tokens, counts.shape
        self.cut, self.seed = cut, seed
        firing = [np.concatenate([np.asarray((chunk > 0).sum(axis=0)) for chunk in one.chunks]) for one in readings]
        self.pool = pools(np.min(firing, axis=0))
        ends = np.cumsum([chunk.shape[1] for chunk in counts.chunks])[:-1]
        self.readings: list[list[tuple[Array, ...]]] = []
        self.statistic = np.full((self.units.members.shape[1], *self.shape), np.nan)
        for one in readings:
            chunks, statistics = [], []
            for chunk, pool in zip(one.chunks, np.split(self.pool, ends), strict=True):
                rate, mean, scale, statistic = self._observed(np.asarray(chunk, np.float64))
                on_device = (jnp.asarray(values, jnp.float32) for values in (rate - (rate > 0.5), mean, scale))
                chunks.append((chunk, *on_device, jnp.asarray(pool, jnp.int32)))
                statistics.append(statistic)
            self.readings.append(chunks)
            # fmax: a reading that cannot be tested leaves the pair to the others.
            self.statistic = np.fmax(self.statistic, np.concatenate(statistics, axis=1).reshape(-1, *self.shape))

    def empty_null(self) -> Null:
        """A null to which no permutation was added yet."""
        classes, number_of_pools = len(self.statistic), int(self.pool.max(initial=0)) + 1
        return Null(
            histogram=np.zeros((classes, number_of_pools, HISTOGRAM_BINS), np.int64),
            highest=np.zeros(0),
            pairs=np.zeros(0, np.int64),
            neurons=np.zeros(0, np.int64),
            shared=np.zeros((classes, classes), np.int64),
            as_many=np.zeros((classes, classes), np.int64),
        )

    def _observed(self, active: Float[np.ndarray, "unit neuron"]) -> tuple[np.ndarray, ...]:
        """Rate (neuron), and mean under exchange, 1 / deviation, and observed statistic (class, neuron)."""
        members = self.units.members
        rate = active.sum(axis=0) / self.tokens.sum()
        excess = active - np.outer(self.tokens, rate)
        mean, deviation = exchange_moments(members, self.units.stratum, excess)
        # Not tested are a class of a single unit, and what varies by no more than float64's rounding.
        tested = (members.sum(axis=0) > 1)[:, None] & (deviation > 1e-9 * active.sum(axis=0))
        scale = np.divide(1, deviation, out=np.zeros_like(mean), where=tested)
        return rate, mean, scale, np.where(tested, (members.T.astype(np.float64) @ excess - mean) * scale, np.nan)

    def run(
        self,
        permutations: int,
        null: Null,
        overlap: Int[np.ndarray, "class class"],
        between: Callable[[], object] = lambda: None,
    ) -> None:
        """Permute until a null holds so many permutations.

        Permutation k draws from its own generator, of (seed, k), so any of them can be the first after an interruption.

        Args:
          permutations: number of permutations in all.
          null: result of `empty_null`, or of an earlier run; it is added to.
          overlap: neurons that two classes were found to share.
          between: function called after each batch, when `null` can be saved.
        """
        classes = self.units.members.shape[1]
        widest = max(chunk[0].shape[1] for chunk in self.readings[0])
        batch = len(self.readings) * max(1, AT_ONCE // (classes * widest))
        cut = jnp.asarray(self.cut.limits(classes), jnp.float32)
        tokens = jnp.asarray(self.tokens, jnp.float32)
        while null.done < permutations:
            numbers = range(null.done, min(null.done + batch, permutations))
            for place, chunks in enumerate(self.readings):
                of_reading = [number for number in numbers if number % len(self.readings) == place]
                if not of_reading:
                    continue
                exchanged = [self.units.exchanged(np.random.default_rng([self.seed, k])).T for k in of_reading]
                members = jnp.asarray(np.stack(exchanged), jnp.float32)
                # int32 on the device, for one batch; the host adds the batches up in int64.
                histogram, steps = jnp.zeros(null.histogram.shape, jnp.int32), []
                for counts, *of_neurons in chunks:
                    step = _step(members, counts, tokens, *of_neurons, cut, histogram)
                    histogram = step.pop("histogram")
                    steps.append(step)
                null.histogram += np.asarray(histogram)
                null.add(steps, overlap)
            between()

    def tested(self, null: Null) -> Tested:
        """How the pairs compare with the permutations of a null.

        Args:
          null: result of `run`.
        """
        classes = len(self.statistic)
        z = self.statistic.reshape(classes, -1)
        untested = np.isnan(z)
        observed = np.where(untested, 0, z)
        # At each bin the statistics in it or beyond, of (class, pool).
        tail = null.histogram[..., ::-1].cumsum(axis=2)[..., ::-1]
        in_pool = np.eye(tail.shape[1], dtype=np.int64)[self.pool]
        total = (null.done * (~untested).astype(np.int64) @ in_pool)[:, self.pool]  # statistics of the null
        bins = (observed * BINS_PER_UNIT - SLACK).clip(0, HISTOGRAM_BINS - 1).astype(int)
        reached = tail[np.arange(classes)[:, None], self.pool, bins]
        p_value = (1 + np.minimum(reached, total)) / (1 + total)
        # Of each statistic the number of permutations whose highest statistic is below it.
        below = np.searchsorted(np.sort(null.highest), observed - SLACK / BINS_PER_UNIT, side="left")
        p_highest = (1 + null.done - below) / (1 + null.done)
        several = len(self.readings)  # the largest of several statistics: Bonferroni
        results = (np.minimum(several * p, 1) for p in (p_value, p_highest, 1 / (1 + total)))
        masked = (np.where(untested, np.nan, values).reshape(-1, *self.shape) for values in results)
        return Tested(self.statistic, *masked)
