"""Both forms of inserting clips into the lists of top clips: one by one, and together as a GPU does it."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdissect.activations.read import Reading
from jaxdissect.counting import top_clips
from jaxdissect.counting.statistics import MOST_TOKENS_PER_CLIP

RANKS, SHAPE = 3, (2, 5)


def batches(rng, sizes, most):
    """Readings of batches with many ties, clips that do not count, and clips without a token."""
    first = 0
    for size in sizes:
        tokens = rng.integers(0, most + 1, size)
        active = rng.integers(0, tokens[:, None, None] + 1, (size, *SHAPE))
        maximum = np.where(active > 0, rng.integers(0, 3, (size, *SHAPE)) - 1.0, -np.inf)
        empty = jnp.zeros((size, *SHAPE))
        reading = Reading(
            jnp.asarray(tokens, jnp.int32), jnp.asarray(active, jnp.int32), empty, empty, empty, jnp.float32(maximum)
        )
        yield reading, jnp.asarray(rng.random(size) < 0.8), jnp.arange(first, first + size, dtype=jnp.int32)
        first += size


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.lists(st.sampled_from([1, 2, 6]), min_size=1, max_size=4), st.sampled_from([3, 7, 46340])
)
def test_insert_together_keeps_the_clips_inserted_one_by_one(seed, sizes, most):
    given_batches = list(batches(np.random.default_rng(seed), sizes, most))
    one_by_one, together = top_clips.no_top_clips(RANKS, *SHAPE), top_clips.no_top_clips(RANKS, *SHAPE)
    for reading, valid, clip in given_batches:
        one_by_one = top_clips.add_top_clips(one_by_one, reading, valid, clip)
        active = jnp.where(valid[:, None, None], reading.active_tokens, 0)
        new = top_clips.TopClips(
            jnp.broadcast_to(clip[:, None, None], active.shape),
            active,
            jnp.broadcast_to(jnp.maximum(reading.tokens, 1)[:, None, None], active.shape),
            reading.maximum,
        )
        together = top_clips._insert_together(together, new)
    for a, b in zip(jax.tree.leaves(one_by_one), jax.tree.leaves(together), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one_by_one.clip.dtype == together.clip.dtype == jnp.int32


def test_fraction_orders_shares_exactly_up_to_the_longest_clip():
    """The closest fractions are neighbours: a / b and c / d with |ad - bc| = 1."""
    longest = MOST_TOKENS_PER_CLIP
    rng = np.random.default_rng(0)
    pairs = [
        (longest, longest),
        (longest - 1, longest),
        (longest - 2, longest - 1),
        (1, longest),
        (1, longest - 1),
        (0, 5),
    ]
    for whole in rng.integers(longest - 300, longest, 200).tolist():
        other = whole + 1
        # part / other just below or above part' / whole
        part = int(rng.integers(1, whole))
        pairs += [(part, whole), (part * other // whole, other), (part * other // whole + 1, other)]
    parts, wholes = (jnp.asarray(column, jnp.int32) for column in zip(*pairs, strict=True))
    units = np.asarray(top_clips._fraction(parts, wholes)).astype(np.int64).tolist()
    for (a, one), (b, other) in itertools.combinations(zip(pairs, units, strict=True), 2):
        left, right = Fraction(*a), Fraction(*b)
        assert (left < right, left == right) == (one < other, one == other)
    assert max(units) == 2**31


def test_insert_takes_the_sort_on_cuda_and_the_plain_form_on_a_cpu():
    """Lowered for each platform, which needs neither a device nor its plugin."""
    (reading, valid, clip), *_ = batches(np.random.default_rng(0), [4], 7)
    lists = top_clips.no_top_clips(RANKS, *SHAPE)

    def lowered(function, platform, *arguments):
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()

    for platform, sorts, loops in (("cuda", 1, 0), ("cpu", 0, 1)):
        program = lowered(top_clips.add_top_clips, platform, lists, reading, valid, clip)
        assert (program.count("stablehlo.sort"), program.count("stablehlo.while")) == (sorts, loops)
