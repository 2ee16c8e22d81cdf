"""Class-conditional counts as a streaming accumulator: init, update (on the device), flush and merge (on the host).

A neuron's class-conditional activation probability is `active_tokens[c, l, n] / tokens[c]`. The accumulator's memory
depends on classes and neurons, never on the number of clips. The device counts in int32, which the host moves to
int64 before it can overflow (`Totals`). Float sums are kept as unevaluated pairs of float32, so that only the rounding
within a batch shows (below 1e-6 of the sum of absolute values). All clips are kept as one more class, the last one.
"""

from dataclasses import dataclass
from operator import itemgetter

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdissect.activations.read import Reading
from jaxdissect.counting.top_clips import Leaf, TopClips, add_top_clips, merge_top_clips, no_top_clips
from jaxdissect.errors import require

MOST_TOKENS_PER_CLIP = 46_340  # its square fits into int32


@flax.struct.dataclass
class ClassCounts:
    """What one device has counted since the last flush; a pytree. The last class is all clips.

    Attributes:
      clips, tokens: numbers of clips and tokens; int32 (class).
      active_tokens: tokens at which a neuron was active; int32 (class, layer, neuron).
      sum, sum_squares: sums of activations and of their squares; float32 (2, class, layer, neuron), two parts to add.
      top: clips that fire each neuron most.
    """

    clips: Leaf
    tokens: Leaf
    active_tokens: Leaf
    sum: Leaf
    sum_squares: Leaf
    top: TopClips


@dataclass(frozen=True, eq=False)
class Totals:
    """What was counted altogether, on the host. The last class is all clips.

    Attributes:
      clips, tokens: numbers of clips and tokens.
      active_tokens: tokens at which a neuron was active.
      sum, sum_squares: sums of activations and of their squares.
      top: clips that fire each neuron most.
    """

    clips: Int[np.ndarray, " class"]
    tokens: Int[np.ndarray, " class"]
    active_tokens: Int[np.ndarray, "class layer neuron"]
    sum: Float[np.ndarray, "class layer neuron"]
    sum_squares: Float[np.ndarray, "class layer neuron"]
    top: TopClips


def init(classes: int, layers: int, neurons: int, ranks: int = 10) -> ClassCounts:
    """An empty accumulator.

    Args:
      classes: number of classes; all clips together are one more.
      layers: number of layers.
      neurons: neurons per layer.
      ranks: number of top clips that are kept for every neuron.
    """
    rows = classes + 1
    return ClassCounts(
        clips=jnp.zeros(rows, jnp.int32),
        tokens=jnp.zeros(rows, jnp.int32),
        active_tokens=jnp.zeros((rows, layers, neurons), jnp.int32),
        sum=jnp.zeros((2, rows, layers, neurons), jnp.float32),
        sum_squares=jnp.zeros((2, rows, layers, neurons), jnp.float32),
        top=no_top_clips(ranks, layers, neurons),
    )


def update(
    counts: ClassCounts,
    reading: Reading,
    members: Bool[Array, "clip class"],
    clip: Int[Array, " clip"],
    labels_per_clip: int,
) -> ClassCounts:
    """Add a batch of clips. Pure and jit-safe.

    Args:
      counts: the accumulator.
      reading: reading of the batch, with axes (clip, layer, neuron).
      members: classes of every clip. The last column, all clips, is False for padding and for clips that could not be
        read.
      clip: numbers of the clips, ascending from batch to batch.
      labels_per_clip: number of classes that a clip has at most (static). A batch then touches at most
        `labels_per_clip x clips` classes, so the cost does not grow with the number of classes.
    """
    classes = members.shape[1] - 1
    # The rows that the batch adds to: its classes, padded to a static number by a row that does not exist (its updates
    # are dropped), and the row of all clips, which is the last one.
    touched = min(classes, labels_per_clip * len(members))
    present = jnp.nonzero(members[:, :-1].any(axis=0), size=touched, fill_value=classes + 1)[0]
    rows = jnp.append(present, classes)
    member = jnp.where(rows <= classes, members[:, jnp.minimum(rows, classes)], False).T  # (row, clip)

    def per_class(values: Array) -> Array:
        """Sum over the clips of each row; exact for integers, whose sums `stream` keeps below 2**24."""
        # `where` and not a product: what must not count may be NaN.
        values = jnp.where(members[:, -1].reshape(-1, *[1] * (values.ndim - 1)), values, 0).astype(jnp.float32)
        return jnp.tensordot(member.astype(jnp.float32), values, axes=1, precision="highest")

    def add(total: Array, values: Array) -> Array:
        return total.at[rows].add(per_class(values).astype(jnp.int32), mode="drop")

    def add_pair(pair: Array, values: Array) -> Array:
        high, low = pair.at[:, rows].get(mode="fill", fill_value=0.0)
        added = jnp.stack(_two_sum(high, low, per_class(values)))
        return pair.at[:, rows].set(added, mode="drop")

    return ClassCounts(
        clips=add(counts.clips, jnp.ones(len(members))),
        tokens=add(counts.tokens, reading.tokens),
        active_tokens=add(counts.active_tokens, reading.active_tokens),
        sum=add_pair(counts.sum, reading.sum),
        sum_squares=add_pair(counts.sum_squares, reading.sum_squares),
        top=add_top_clips(counts.top, reading, members[:, -1], clip),
    )


def flush(counts: ClassCounts) -> Totals:
    """Move what devices have counted to the host, as int64 and float64.

    Args:
      counts: accumulators, with a leading axis `device`.
    """
    host = jax.device_get(counts)
    return Totals(
        clips=host.clips.sum(axis=0, dtype=np.int64),
        tokens=host.tokens.sum(axis=0, dtype=np.int64),
        active_tokens=host.active_tokens.sum(axis=0, dtype=np.int64),
        # Over devices and over the two parts of each sum.
        sum=host.sum.sum(axis=(0, 1), dtype=np.float64),
        sum_squares=host.sum_squares.sum(axis=(0, 1), dtype=np.float64),
        top=merge_top_clips(*(jax.tree.map(itemgetter(device), host.top) for device in range(len(host.clips)))),
    )


def merge(*parts: Totals) -> Totals:
    """The totals of disjoint sets of clips together."""
    names = ("clips", "tokens", "active_tokens", "sum", "sum_squares")
    sums = {name: np.sum([getattr(part, name) for part in parts], axis=0) for name in names}
    return Totals(**sums, top=merge_top_clips(*(part.top for part in parts)))


def steps_before_overflow(tokens_per_clip: int, clips_per_step: int) -> int:
    """How many batches a device may count before its int32 counters have to be flushed.

    Args:
      tokens_per_clip: tokens of a clip, class tokens included.
      clips_per_step: clips of a batch on one device.

    Raises:
      InputError: a batch or a clip has so many tokens that a float32 class sum, or a product of two counts of a clip
        in int32, would not be exact.
    """
    require(
        tokens_per_clip <= MOST_TOKENS_PER_CLIP,
        f"A clip may have up to {MOST_TOKENS_PER_CLIP:,} tokens, got {tokens_per_clip:,}: choose a shorter unit length "
        f"(unit_seconds).",
    )
    require(
        tokens_per_clip * clips_per_step < 2**24,
        f"A batch may hold fewer than 2**24 tokens a device, got {clips_per_step} clips of {tokens_per_clip} tokens: "
        f"choose a smaller batch_size.",
    )
    return (2**31 - 1) // (tokens_per_clip * clips_per_step)


def _two_sum(high: Array, low: Array, value: Array) -> tuple[Array, Array]:
    """Add to an unevaluated pair: `high + low` keeps what rounding takes from `high`.

    Source: TwoSum of Knuth, "The Art of Computer Programming", volume 2.
    """
    total = high + value
    rounded = total - high  # the part of `value` that `total` has taken in
    return total, low + ((high - (total - rounded)) + (value - rounded))
