"""Statistics under permuted labels: their moments in closed form, their pools, and one step of permutations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

HISTOGRAM_BINS, BINS_PER_UNIT = 4096, 64  # of the null: statistics up to 64, in steps of 1/64
LEAST_POOL = 1 / 16  # least size of a pool but the rarest, as a fraction of the neurons that fire
TINY = 1e-38  # float32's least normal number, about: keeps a logarithm finite


def exchange_moments(
    members: Bool[np.ndarray, "unit class"],
    stratum: Int[np.ndarray, " unit"],
    excess: Float[np.ndarray, "unit neuron"],
) -> tuple[Float[np.ndarray, "class neuron"], Float[np.ndarray, "class neuron"]]:
    """Mean and standard deviation of the excess of a class, over all exchanges of labels within strata.

    Source: Hoeffding, "A combinatorial central limit theorem" (Annals of Mathematical Statistics 1951).

    Args:
      members: classes of every unit.
      stratum: number of every unit's stratum.
      excess: active tokens of every unit beyond what the neuron's rate lets expect; a class has the sum of its units.
    """
    count = np.bincount(stratum).astype(np.float64)

    def per_stratum(values: np.ndarray) -> np.ndarray:
        total = np.zeros((len(count), values.shape[1]))
        np.add.at(total, stratum, values)
        return total

    x, e = per_stratum(members.astype(np.float64)), per_stratum(excess)
    # Sums of squared deviations within a stratum. Of zeros and ones they are n - n^2 / count. Those of the excess are
    # taken about the stratum's mean first, so that what is constant comes out as nearly exactly zero.
    spread_x = x - x**2 / count[:, None]
    spread_e = per_stratum((excess - (e / count[:, None])[stratum]) ** 2)
    mean = (x / count[:, None]).T @ e
    return mean, np.sqrt((spread_x / np.maximum(count - 1, 1)[:, None]).T @ spread_e)


def pools(firing: Int[np.ndarray, " neuron"]) -> Int[np.ndarray, " neuron"]:
    """The pool of every neuron, by the number of units in which it fires; exchanging labels does not change that.

    There is a pool for every doubling of that number. From the most frequent neurons down, a pool with too few takes in
    the next rarer ones. The rarest are a pool however few they are: with their heavy tails they would decide what more
    frequent neurons must exceed.

    Args:
      firing: number of units in which each neuron fires; by ranks, in which it is above its mean.
    """
    doublings = np.log2(np.maximum(firing, 1)).astype(np.int64)
    size = np.bincount(doublings[firing > 0], minlength=1)
    pool_of, pool, filled = np.zeros(len(size), np.int64), 0, 0
    for doubling in reversed(range(len(size))):
        pool_of[doubling], filled = pool, filled + size[doubling]
        if filled >= LEAST_POOL * size.sum():
            pool, filled = pool + 1, 0
    return np.unique(pool_of[doublings], return_inverse=True)[1].astype(np.int64)


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
    """Statistics and passing pairs of a batch of permutations, on a range of neurons; jit-safe.

    Args:
      members: classes of the units after each exchange.
      counts: active tokens of each unit.
      tokens: tokens of each unit.
      rate: active tokens / tokens of all units; less one above a half, so that float32 keeps its digits.
      mean: mean of the excess under exchange.
      scale: 1 / deviation of the excess under exchange; 0 where it does not vary.
      pool: pool of each neuron.
      cut: least distance of AAPE below ln(classes), and the rate and the probability to exceed.
      histogram: statistics of the permutations before, which those of the batch are added to.
    """
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    active = product("pcu,un->pcn", members, counts)
    class_tokens = product("pcu,u->pc", members, tokens)[..., None]
    # excess = active - tokens x rate. With a rate less one it is (active - tokens) - tokens x (rate - 1): the first
    # difference is of whole numbers and exact, and the product is small for a neuron that is nearly always active.
    above = active - jnp.where(rate < 0, 1, 0)[None, None] * class_tokens
    z = (above - class_tokens * rate[None, None] - mean[None]) * scale[None]
    # The cut-offs of the selection, applied to the permuted classes.
    p = active / class_tokens
    total = p.sum(axis=1)
    kept = (total > 0) & (_below_uniform(p, total) >= cut[0]) & (total / p.shape[1] > cut[1])
    passing = (p > cut[2]) & kept[:, None]
    as_number = passing.astype(jnp.float32)
    # The first bin holds all statistics up to 1/64, also negative ones, and the last all from 64 on.
    bins = jnp.clip(z * BINS_PER_UNIT, 0, HISTOGRAM_BINS - 1).astype(jnp.int32)
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
    near = d**2 / 2 - d**3 / 6 + d**4 / 12  # the series about 0, where the difference of the terms would cancel
    far = jnp.where(d > -1, (1 + d) * jnp.log(jnp.maximum(1 + d, TINY)), 0) - d
    return jnp.where(jnp.abs(d) < 0.01, near, far).mean(axis=1)
