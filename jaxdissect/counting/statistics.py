"""Class-conditional counts as a streaming accumulator: init, update (on the device), flush and merge (on the host).

A neuron's class-conditional activation probability is `active_tokens[c, l, n] / tokens[c]`. The accumulator's memory
depends on classes and neurons, never on the number of clips. The device counts in int32, which the host moves to
int64 before it can overflow (`Totals`); float sums are kept as unevaluated pairs of float32, so that only the rounding
within a batch shows (below 1e-6 of the sum of absolute values). All clips are kept as one more class, the last one.
"""

from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdissect.activations.read import Reading
from jaxdissect.errors import InputError

MOST_TOKENS_PER_CLIP = 46_340  # its square fits into int32


@flax.struct.dataclass
class TopClips:
    """For every neuron the clips that fire it most, best first.

    Ordered by the share of active tokens, then by the maximal activation, then by the clip's number.

    Attributes:
      clip: number of the clip, -1 where fewer clips fire the neuron than there are ranks; int32 (rank, layer, neuron).
      active_tokens, tokens: of that clip; int32, likewise. Shares are compared as fractions, exactly on any device.
      maximum: largest activation on that clip; float32, likewise.
    """

    clip: Any
    active_tokens: Any
    tokens: Any
    maximum: Any

    @property
    def active_share(self) -> Any:
        """Active tokens / tokens of each listed clip."""
        return self.active_tokens / self.tokens


@flax.struct.dataclass
class ClassCounts:
    """What one device has counted since the last flush; a pytree. The last class is all clips.

    Attributes:
      clips, tokens: int32 (class).
      active_tokens: int32 (class, layer, neuron).
      sum, sum_squares: float32 (2, class, layer, neuron), two parts whose sum is meant.
      top: the clips that fire each neuron most.
    """

    clips: Any
    tokens: Any
    active_tokens: Any
    sum: Any
    sum_squares: Any
    top: TopClips


@dataclass(frozen=True, eq=False)
class Totals:
    """What was counted altogether, on the host. The last class is all clips."""

    clips: Int[np.ndarray, " class"]
    tokens: Int[np.ndarray, " class"]
    active_tokens: Int[np.ndarray, "class layer neuron"]
    sum: Float[np.ndarray, "class layer neuron"]
    sum_squares: Float[np.ndarray, "class layer neuron"]
    top: TopClips


def init(classes: int, layers: int, neurons: int, ranks: int = 10) -> ClassCounts:
    """An empty accumulator for `classes` classes (and, beside them, all clips) that keeps `ranks` top clips."""
    rows = classes + 1
    return ClassCounts(
        clips=jnp.zeros(rows, jnp.int32),
        tokens=jnp.zeros(rows, jnp.int32),
        active_tokens=jnp.zeros((rows, layers, neurons), jnp.int32),
        sum=jnp.zeros((2, rows, layers, neurons), jnp.float32),
        sum_squares=jnp.zeros((2, rows, layers, neurons), jnp.float32),
        top=TopClips(
            clip=jnp.full((ranks, layers, neurons), -1, jnp.int32),
            active_tokens=jnp.zeros((ranks, layers, neurons), jnp.int32),
            tokens=jnp.ones((ranks, layers, neurons), jnp.int32),
            maximum=jnp.zeros((ranks, layers, neurons), jnp.float32),
        ),
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
      reading: of the batch, with axes (clip, layer, neuron).
      members: which clips belong to which classes; its last column, all clips, is False for padding and for clips
        that could not be read.
      clip: numbers of the clips, ascending from batch to batch.
      labels_per_clip: at most so many classes has a clip (static). A batch then touches at most
        `labels_per_clip x clips` classes, so the cost does not grow with the number of classes.
    """
    classes = members.shape[1] - 1
    touched = min(classes, labels_per_clip * len(members))
    present = jnp.nonzero(members[:, :-1].any(axis=0), size=touched, fill_value=classes + 1)[0]
    rows = jnp.append(present, classes)
    member = jnp.where(rows <= classes, members[:, jnp.minimum(rows, classes)], False).T

    def per_class(values: Array) -> Array:
        """Sum over the clips of each class; exact for integers, whose sums `stream` keeps below 2**24."""
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
        top=_insert_clips(counts.top, reading, members[:, -1], clip),
    )


def flush(counts: ClassCounts) -> Totals:
    """Move what devices have counted (leading axis `device`) to the host, as int64 and float64."""
    host: Any = jax.device_get(counts)
    return Totals(
        clips=host.clips.sum(axis=0, dtype=np.int64),
        tokens=host.tokens.sum(axis=0, dtype=np.int64),
        active_tokens=host.active_tokens.sum(axis=0, dtype=np.int64),
        sum=host.sum.sum(axis=(0, 1), dtype=np.float64),
        sum_squares=host.sum_squares.sum(axis=(0, 1), dtype=np.float64),
        top=_best_clips(*(_on_device(host.top, device) for device in range(len(host.clips)))),
    )


def merge(*parts: Totals) -> Totals:
    """The totals of disjoint sets of clips together."""

    def added(name: str) -> np.ndarray:
        return np.sum([getattr(part, name) for part in parts], axis=0)

    return Totals(
        clips=added("clips"),
        tokens=added("tokens"),
        active_tokens=added("active_tokens"),
        sum=added("sum"),
        sum_squares=added("sum_squares"),
        top=_best_clips(*(part.top for part in parts)),
    )


def steps_before_overflow(tokens_per_clip: int, clips_per_step: int) -> int:
    """How many batches a device may count before its int32 counters have to be flushed.

    Raises:
      InputError: a batch or a clip has so many tokens that a float32 class sum, or a product of two counts of a clip
        in int32, would not be exact.
    """
    if tokens_per_clip > MOST_TOKENS_PER_CLIP:
        raise InputError(
            f"A clip may have up to {MOST_TOKENS_PER_CLIP:,} tokens, got {tokens_per_clip:,}: choose a shorter "
            f"--unit-seconds."
        )
    if tokens_per_clip * clips_per_step >= 2**24:
        raise InputError(
            f"A batch may hold fewer than 2**24 tokens a device, got {clips_per_step} clips of {tokens_per_clip} "
            f"tokens: choose a smaller --batch-size."
        )
    return (2**31 - 1) // (tokens_per_clip * clips_per_step)


def _two_sum(high: Array, low: Array, value: Array) -> tuple[Array, Array]:
    """Add to an unevaluated pair (Knuth's TwoSum): `high + low` keeps what rounding takes from `high`."""
    total = high + value
    rounded = total - high
    return total, low + ((high - (total - rounded)) + (value - rounded))


def _insert_clips(top: TopClips, reading: Reading, valid: Bool[Array, " clip"], clip: Int[Array, " clip"]) -> TopClips:
    def insert(top: TopClips, row: tuple[TopClips, Array]) -> tuple[TopClips, None]:
        new, valid = row
        ours, theirs = new.active_tokens * top.tokens, top.active_tokens * new.tokens
        above = (ours > theirs) | ((ours == theirs) & (new.maximum > top.maximum))
        above &= valid & (new.active_tokens > 0)
        here = above & ~jnp.concatenate([jnp.zeros_like(above[:1]), above[:-1]])

        def place(kept: Array, value: Array) -> Array:
            shifted = jnp.concatenate([kept[:1], kept[:-1]])
            return jnp.where(here, value, jnp.where(above, shifted, kept))

        return jax.tree.map(place, top, new), None

    per_clip = TopClips(clip[:, None, None], reading.active_tokens, reading.tokens[:, None, None], reading.maximum)
    rows = jax.tree.map(lambda leaf: leaf[:, None], per_clip)  # (clip, rank, layer, neuron)
    return jax.lax.scan(insert, top, (rows, valid))[0]


def _on_device(top: TopClips, device: int) -> TopClips:
    return TopClips(top.clip[device], top.active_tokens[device], top.tokens[device], top.maximum[device])


def _best_clips(*parts: TopClips) -> TopClips:
    """The best of several lists, as if one list had seen all clips."""
    ranks = len(parts[0].clip)
    clip, active_tokens, tokens, maximum = (
        np.concatenate(values)
        for values in zip(*((part.clip, part.active_tokens, part.tokens, part.maximum) for part in parts), strict=True)
    )
    order = np.lexsort((clip, -maximum, -active_tokens / tokens), axis=0)[:ranks]
    return TopClips(*(np.take_along_axis(values, order, axis=0) for values in (clip, active_tokens, tokens, maximum)))
