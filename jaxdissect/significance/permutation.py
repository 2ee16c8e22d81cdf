"""What labels that mean nothing would show: every neuron x class pair under permuted labels, on the device.

The statistic of a pair is how many more tokens of the class the neuron is active at than its rate over all classes lets
expect, over the standard deviation that this has when labels are exchanged. Mean and deviation under exchange are known
in closed form (Hoeffding 1951, "A combinatorial central limit theorem"), so the statistics of all neurons are on one
scale, and those of all permutations and many neurons together are the null distribution of a class: its p-values do not
end at 1 / (permutations + 1), below which a correction for some hundred thousand tests would reject nothing. Pooled are
neurons that fire in about as many units: one that fires in a single unit has a far heavier tail than one that fires in
many, and would decide what the others must exceed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdissect.significance.unit_counts import UnitCounts

BINS, PER_UNIT = 4096, 64  # of the null histogram: statistics up to 64, in steps of 1/64
SLACK = 0.05  # of a bin, by which float32 moves a statistic that equals the one found, up to some 1e5 tokens a class
TIE = 1e-5  # relative, within which float32 does not tell a probability from a cut-off
LEAST_POOL = 1 / 8  # of the neurons that fire, in a pool
AT_ONCE = 2**22  # of permutations x classes x neurons


@dataclass(frozen=True)
class CutOffs:
    """What a selection has come to: a pair passes that is above the bar, of a neuron within the others.

    Attributes:
      aape: highest AAPE kept, nats.
      rate: activation rate that a neuron must exceed; -1 if none.
      probability: bar that p must exceed.
    """

    aape: float
    rate: float
    probability: float


@dataclass(frozen=True, eq=False)
class Moments:
    """The exact mean and deviation of a class's excess of active tokens when labels are exchanged."""

    mean: Float[np.ndarray, "class neuron"]
    deviation: Float[np.ndarray, "class neuron"]


def exchange_moments(
    members: Bool[np.ndarray, "unit class"],
    stratum: Int[np.ndarray, " unit"],
    excess: Float[np.ndarray, "unit neuron"],
) -> Moments:
    """Mean and standard deviation, over all exchanges within strata, of the excess summed over a class's units."""
    count = np.bincount(stratum).astype(np.float64)

    def per_stratum(values: np.ndarray) -> np.ndarray:
        total = np.zeros((len(count), values.shape[1]))
        np.add.at(total, stratum, values)
        return total

    x, e = per_stratum(members.astype(np.float64)), per_stratum(excess)
    spread_x = x - x**2 / count[:, None]  # sum of squared deviations of zeros and ones
    spread_e = per_stratum((excess - (e / count[:, None])[stratum]) ** 2)  # of what is constant, nearly exactly zero
    return Moments((x / count[:, None]).T @ e, np.sqrt((spread_x / np.maximum(count - 1, 1)[:, None]).T @ spread_e))


def pools(firing: Int[np.ndarray, " neuron"]) -> Int[np.ndarray, " neuron"]:
    """Pools of neurons by the number of units in which they fire, which labels do not change.

    One for every doubling of that number; one with too few neurons takes in the next, the last what remains if that is
    too little.
    """
    doublings = np.log2(np.maximum(firing, 1)).astype(np.int64)
    size = np.bincount(doublings[firing > 0], minlength=1)
    pool_of, pool, filled = np.zeros(len(size), np.int64), 0, 0
    for doubling, number in enumerate(size.tolist()):
        pool_of[doubling], filled = pool, filled + number
        if filled >= LEAST_POOL * size.sum() and size[doubling + 1 :].sum() >= LEAST_POOL * size.sum():
            pool, filled = pool + 1, 0
    return pool_of[np.minimum(doublings, len(size) - 1)]


def null_step(
    members: Float[Array, "permutation class unit"],
    counts: Float[Array, "unit neuron"],
    tokens: Float[Array, " unit"],
    rate: Float[Array, " neuron"],
    mean: Float[Array, "class neuron"],
    scale: Float[Array, "class neuron"],
    pool: Int[Array, " neuron"],
    cut: Float[Array, "3"],
    histogram: Int[Array, "class pool bin"],
) -> dict[str, Array]:
    """What some permutations show on some neurons; jit-safe.

    Args:
      members: classes of the units, exchanged.
      counts: active tokens of each unit.
      tokens: of each unit.
      rate: of all units, active tokens / tokens; less one above a half, so that float32 keeps its digits.
      mean: of the excess under exchange.
      scale: 1 / its deviation; 0 where it has none.
      pool: of each neuron.
      cut: how far AAPE must be below ln(classes), rate and probability.
      histogram: is added to.
    """
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    active = product("pcu,un->pcn", members, counts)
    of_class = product("pcu,u->pc", members, tokens)[..., None]
    above = active - jnp.where(rate < 0, 1, 0)[None, None] * of_class
    z = (above - of_class * rate[None, None] - mean[None]) * scale[None]
    p = active / of_class
    total = p.sum(axis=1)
    below = _below_uniform(p, total)
    kept = (total > 0) & (below >= cut[0]) & (total / p.shape[1] > cut[1])
    passing = (p > cut[2]) & kept[:, None]
    as_number = passing.astype(jnp.float32)
    bins = jnp.clip(z * PER_UNIT, 0, BINS - 1).astype(jnp.int32)
    classes = jnp.arange(members.shape[1], dtype=jnp.int32)[None, :, None]
    return {
        "histogram": histogram.at[classes, pool[None, None], bins].add(1),
        "highest": z.max(axis=(1, 2)),
        "neurons": passing.any(axis=1).sum(axis=1),
        "shared": product("pcn,pdn->pcd", as_number, as_number),
    }


def _below_uniform(
    p: Float[Array, "permutation class neuron"], total: Float[Array, "permutation neuron"]
) -> Float[Array, "permutation neuron"]:
    """ln(classes) - AAPE, with float32's relative precision: a neuron that is always active is nearly uniform.

    With 1 + d = q x classes it is the mean of (1 + d) ln(1 + d) - d over classes, none of which is negative.
    """
    classes = p.shape[1]
    d = p * classes / jnp.where(total > 0, total, 1)[:, None] - 1
    near = d**2 / 2 - d**3 / 6 + d**4 / 12
    far = jnp.where(d > -1, (1 + d) * jnp.log(jnp.maximum(1 + d, 1e-38)), 0) - d
    return jnp.where(jnp.abs(d) < 0.01, near, far).mean(axis=1)


@dataclass(eq=False)
class Null:
    """What the permutations so far have shown.

    Attributes:
      histogram: of the statistics, by class, pool and bin.
      highest: statistic of each permutation.
      pairs, neurons: that pass the cut-offs in each permutation.
      shared: neurons that two classes share, summed over permutations; the diagonal is their own number.
      as_many: permutations in which two classes share at least as many neurons as they were found to.
    """

    histogram: Int[np.ndarray, "class pool bin"]
    highest: Float[np.ndarray, " permutation"]
    pairs: Int[np.ndarray, " permutation"]
    neurons: Int[np.ndarray, " permutation"]
    shared: Int[np.ndarray, "class class"]
    as_many: Int[np.ndarray, "class class"]

    @staticmethod
    def empty(classes: int, pools: int) -> "Null":
        """Nothing permuted yet."""
        several, square = np.zeros(0, np.int64), np.zeros((classes, classes), np.int64)
        histogram = np.zeros((classes, pools, BINS), np.int64)
        return Null(histogram, np.zeros(0), several, several.copy(), square, square.copy())

    @property
    def done(self) -> int:
        """Permutations so far."""
        return len(self.highest)


@dataclass(frozen=True, eq=False)
class Tested:
    """How the pairs of one label set compare with permuted labels; NaN where a pair cannot be tested.

    Attributes:
      statistic: of each pair.
      p_value: one-sided, from the pooled null of its class and pool.
      p_highest: that any pair of the label set reaches this by chance (max-T): controls the family-wise error.
      lowest: p-value that a statistic has which no permutation reaches.
    """

    statistic: Float[np.ndarray, "class layer neuron"]
    p_value: Float[np.ndarray, "class layer neuron"]
    p_highest: Float[np.ndarray, "class layer neuron"]
    lowest: Float[np.ndarray, "class layer neuron"]


@dataclass(frozen=True, eq=False)
class _Chunk:
    """What a step needs of some neurons: counts, rate, mean, scale, pool; and their statistics as they were found."""

    arrays: tuple[Array, ...]
    statistic: Float[np.ndarray, "class neuron"]


class PermutationTest:
    """Permutes the labels of one label set; what is found does not depend on batches, chunks or interruptions."""

    def __init__(self, counts: UnitCounts, cut: CutOffs, seed: int) -> None:
        """Find the statistics and their moments.

        Args:
          counts: of the units.
          cut: of the selection that was made.
          seed: of the permutations.
        """
        self.units, self.tokens, self.shape = counts.units, counts.tokens, counts.shape
        self.cut, self.seed = cut, seed
        self.pool = pools(np.concatenate([np.asarray((chunk > 0).sum(axis=0)) for chunk in counts.chunks]))
        ends = np.cumsum([chunk.shape[1] for chunk in counts.chunks])[:-1]
        by_chunk = zip(counts.chunks, np.split(self.pool, ends), strict=True)
        self.chunks = [self._chunk(*chunk) for chunk in by_chunk]
        statistic = np.concatenate([chunk.statistic for chunk in self.chunks], axis=1)
        self.statistic = statistic.reshape(-1, *self.shape)

    def nothing(self) -> Null:
        """Nothing permuted yet."""
        return Null.empty(len(self.statistic), int(self.pool.max(initial=0)) + 1)

    def _chunk(self, counts: Float[Array, "unit neuron"], pool: Int[np.ndarray, " neuron"]) -> _Chunk:
        active, members = np.asarray(counts, np.float64), self.units.members
        rate = active.sum(axis=0) / self.tokens.sum()
        excess = active - np.outer(self.tokens, rate)
        moments = exchange_moments(members, self.units.stratum, excess)
        several = (members.sum(axis=0) > 1)[:, None]
        tested = several & (moments.deviation > 1e-9 * active.sum(axis=0))
        scale = np.divide(1, moments.deviation, out=np.zeros_like(moments.mean), where=tested)
        found = np.where(tested, (members.T.astype(np.float64) @ excess - moments.mean) * scale, np.nan)
        of_neurons = rate - (rate > 0.5), moments.mean, scale
        arrays = (counts, *(jnp.asarray(one, jnp.float32) for one in of_neurons), jnp.asarray(pool, jnp.int32))
        return _Chunk(arrays, found)

    def run(
        self,
        permutations: int,
        null: Null,
        overlap: Int[np.ndarray, "class class"],
        between: Callable[[], object] = lambda: None,
    ) -> None:
        """Go on until so many permutations are done.

        Args:
          permutations: in all.
          null: `nothing()`, or one that was left; it is added to.
          overlap: neurons that two classes were found to share.
          between: called after each batch, when `null` can be saved.
        """
        classes = self.units.members.shape[1]
        batch = max(1, AT_ONCE // (classes * max(len(chunk.arrays[1]) for chunk in self.chunks)))
        below = max(math.log(classes) - self.cut.aape, 0.0)  # what equals a cut-off must not pass or fail by rounding
        below, above = below - 2e-6 * math.sqrt(below) if math.isfinite(below) else below, 1 + TIE
        cut = jnp.asarray([below, self.cut.rate * above, self.cut.probability * above], jnp.float32)
        tokens = jnp.asarray(self.tokens, jnp.float32)
        while null.done < permutations:
            numbers = range(null.done, min(null.done + batch, permutations))
            drawn = [self.units.exchanged(np.random.default_rng([self.seed, number])).T for number in numbers]
            members = jnp.asarray(np.stack(drawn), jnp.float32)
            histogram, found = jnp.zeros(null.histogram.shape, jnp.int32), []
            for chunk in self.chunks:
                shown = _step(members, chunk.arrays[0], tokens, *chunk.arrays[1:], cut, histogram)
                histogram = shown.pop("histogram")
                found.append(shown)
            null.histogram += np.asarray(histogram)
            _add(null, found, overlap)
            between()

    def tested(self, null: Null) -> Tested:
        """How the pairs compare with the permutations that were done."""
        classes = len(self.statistic)
        z = self.statistic.reshape(classes, -1)
        untested = np.isnan(z)
        tail = null.histogram[..., ::-1].cumsum(axis=2)[..., ::-1]
        members = np.eye(tail.shape[1], dtype=np.int64)[self.pool]
        total = (null.done * (~untested).astype(np.int64) @ members)[:, self.pool]
        bins = (np.where(untested, 0, z) * PER_UNIT - SLACK).clip(0, BINS - 1).astype(int)
        reached = tail[np.arange(classes)[:, None], self.pool, bins]
        p_value = (1 + np.minimum(reached, total)) / (1 + total)
        ordered = np.sort(null.highest)
        above = null.done - np.searchsorted(ordered, np.where(untested, 0, z) - SLACK / PER_UNIT, side="left")
        p_highest = (1 + above) / (1 + null.done)
        found = p_value, p_highest, 1 / (1 + total)
        masked = (np.where(untested, np.nan, values).reshape(-1, *self.shape) for values in found)
        return Tested(self.statistic, *masked)


_step = jax.jit(null_step, donate_argnames="histogram")


def _add(null: Null, found: list[dict[str, Array]], overlap: Int[np.ndarray, "class class"]) -> None:
    """Add what a batch has shown on all chunks of neurons, but the histogram."""
    chunks = jax.device_get(found)
    shared = sum(chunk["shared"].astype(np.int64) for chunk in chunks)
    null.highest = np.append(null.highest, np.max([chunk["highest"] for chunk in chunks], axis=0).astype(np.float64))
    null.pairs = np.append(null.pairs, np.trace(shared, axis1=1, axis2=2))
    null.neurons = np.append(null.neurons, sum(chunk["neurons"].astype(np.int64) for chunk in chunks))
    null.shared += shared.sum(axis=0)
    null.as_many += (shared >= overlap).sum(axis=0)
