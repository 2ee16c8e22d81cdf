"""Top clips: for every neuron the clips that fire it most, kept up to date on the device and merged on the host."""

from typing import Any, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

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
    """Insert the clips of a batch. Pure and jit-safe.

    Args:
      top: the lists so far.
      reading: reading of the batch, with axes (clip, layer, neuron).
      valid: clips that may be listed.
      clip: numbers of the clips, ascending from batch to batch, so that the listed one wins a tie.
    """
    shape = reading.active_tokens.shape
    new = TopClips(
        clip=jnp.broadcast_to(clip[:, None, None], shape),
        active_tokens=jnp.where(valid[:, None, None], reading.active_tokens, 0),  # such a clip is never listed
        tokens=jnp.broadcast_to(jnp.maximum(reading.tokens, 1)[:, None, None], shape),
        maximum=reading.maximum,
    )
    return jax.lax.platform_dependent(top, new, default=_insert_one_by_one, cuda=_insert_together)


def _insert_one_by_one(top: TopClips, new: TopClips) -> TopClips:
    """Insert one clip after another: fast where an operation costs little to start."""

    def insert(top: TopClips, new: TopClips) -> tuple[TopClips, None]:
        # a / b > c / d as a d > c b, in int32: exact, since a clip has at most MOST_TOKENS_PER_CLIP tokens.
        new_fraction, listed_fraction = new.active_tokens * top.tokens, top.active_tokens * new.tokens
        better = (new_fraction > listed_fraction) | ((new_fraction == listed_fraction) & (new.maximum > top.maximum))
        better &= new.active_tokens > 0
        # The lists are sorted, so the ranks at which the new clip is better are the last ones. It takes the first of
        # these, and the clips from there on move down by one rank.
        first = better & ~jnp.concatenate([jnp.zeros_like(better[:1]), better[:-1]])

        def place(listed: Array, value: Array) -> Array:
            moved = jnp.concatenate([listed[:1], listed[:-1]])
            return jnp.where(first, value, jnp.where(better, moved, listed))

        return jax.tree.map(place, top, new), None

    rows = jax.tree.map(lambda leaf: leaf[:, None], new)  # (clip, rank, layer, neuron)
    return jax.lax.scan(insert, top, rows)[0]


def _insert_together(top: TopClips, new: TopClips) -> TopClips:
    """Sort the listed clips and the new ones together: a few operations, where starting each costs much."""
    joined = jax.tree.map(lambda listed, added: jnp.concatenate([listed, added]), top, new)
    # A clip that does not fire the neuron is as good as none.
    none = joined.active_tokens == 0
    maximum = jnp.where(none, 0.0, joined.maximum)
    # The sort is stable, and listed clips come first: they win ties.
    keys = (jnp.uint32(2**31) - _fraction(joined.active_tokens, joined.tokens), -maximum)
    others = (jnp.where(none, -1, joined.clip), joined.active_tokens, jnp.where(none, 1, joined.tokens))
    _, lowest, *rest = jax.lax.sort((*keys, *others), dimension=0, is_stable=True, num_keys=2)
    best = [values[: len(top.clip)] for values in (*rest, -lowest)]
    return TopClips(*best)


def _fraction(part: Int[Array, "..."], whole: Int[Array, "..."]) -> UInt32[Array, "..."]:
    """`part / whole` in units of 2**-31, rounded down: it orders fractions exactly.

    Two fractions of at most MOST_TOKENS_PER_CLIP tokens differ by more than such a unit, or are equal.
    """
    part, whole = part.astype(jnp.uint32), whole.astype(jnp.uint32)
    # A long division in two steps of 15 and 16 binary digits, neither of which overflows 32 bits.
    first = (part << 15) // whole
    rest = (part << 15) - first * whole
    return (first << 16) + (rest << 16) // whole


def merge_top_clips(*parts: TopClips) -> TopClips:
    """The best of several lists, as if one list had seen all clips; on the host."""
    ranks = len(parts[0].clip)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    # lexsort sorts by its last key first. Equal fractions are equal in float64 too: division rounds correctly.
    order = np.lexsort((joined.clip, -joined.maximum, -joined.active_share), axis=0)[:ranks]
    return jax.tree.map(lambda leaf: np.take_along_axis(leaf, order, axis=0), joined)
