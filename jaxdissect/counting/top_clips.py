"""Top clips: for every neuron the clips that fire it most, kept up to date on the device and merged on the host."""

from typing import Any, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxdissect.activations.read import Reading

Leaf: TypeAlias = Any  # an array, or what a transformation of a pytree puts in its place


@flax.struct.dataclass
class TopClips:
    """For every neuron the clips that fire it most, best first; a pytree.

    Ordered by the fraction of active tokens, then by the largest activation, then by the clip's number.

    Attributes:
      clip: number of the clip, -1 where fewer clips fire the neuron than there are ranks; int32 (rank, layer, neuron).
      active_tokens, tokens: tokens of that clip; int32, likewise. Fractions are compared exactly, on any device.
      maximum: largest activation on that clip; float32, likewise.
    """

    clip: Leaf
    active_tokens: Leaf
    tokens: Leaf
    maximum: Leaf

    @property
    def active_share(self) -> Leaf:
        """Active tokens / tokens of each listed clip."""
        return self.active_tokens / self.tokens


def no_top_clips(ranks: int, layers: int, neurons: int) -> TopClips:
    """An empty list of `ranks` clips for every neuron."""
    shape = (ranks, layers, neurons)
    return TopClips(
        clip=jnp.full(shape, -1, jnp.int32),
        active_tokens=jnp.zeros(shape, jnp.int32),
        tokens=jnp.ones(shape, jnp.int32),  # so that a fraction of no active tokens is 0, not NaN
        maximum=jnp.zeros(shape, jnp.float32),
    )


def add_top_clips(top: TopClips, reading: Reading, valid: Bool[Array, " clip"], clip: Int[Array, " clip"]) -> TopClips:
    """Insert the clips of a batch, one after another. Pure and jit-safe.

    Args:
      top: the lists so far.
      reading: reading of the batch, with axes (clip, layer, neuron).
      valid: clips that may be listed.
      clip: numbers of the clips, ascending from batch to batch, so that the listed one wins a tie.
    """

    def insert(top: TopClips, row: tuple[TopClips, Array]) -> tuple[TopClips, None]:
        new, valid = row
        # a / b > c / d as a d > c b, in int32: exact, since a clip has at most MOST_TOKENS_PER_CLIP tokens.
        new_fraction, listed_fraction = new.active_tokens * top.tokens, top.active_tokens * new.tokens
        better = (new_fraction > listed_fraction) | ((new_fraction == listed_fraction) & (new.maximum > top.maximum))
        better &= valid & (new.active_tokens > 0)
        # The lists are sorted, so the ranks at which the new clip is better are the last ones. It takes the first of
        # these, and the clips from there on move down by one rank.
        first = better & ~jnp.concatenate([jnp.zeros_like(better[:1]), better[:-1]])

        def place(listed: Array, value: Array) -> Array:
            moved = jnp.concatenate([listed[:1], listed[:-1]])
            return jnp.where(first, value, jnp.where(better, moved, listed))

        return jax.tree.map(place, top, new), None

    per_clip = TopClips(clip[:, None, None], reading.active_tokens, reading.tokens[:, None, None], reading.maximum)
    rows = jax.tree.map(lambda leaf: leaf[:, None], per_clip)  # (clip, rank, layer, neuron)
    return jax.lax.scan(insert, top, (rows, valid))[0]


def merge_top_clips(*parts: TopClips) -> TopClips:
    """The best of several lists, as if one list had seen all clips; on the host."""
    ranks = len(parts[0].clip)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    # lexsort sorts by its last key first. Equal fractions are equal in float64 too: division rounds correctly.
    order = np.lexsort((joined.clip, -joined.maximum, -joined.active_share), axis=0)[:ranks]
    return jax.tree.map(lambda leaf: np.take_along_axis(leaf, order, axis=0), joined)
