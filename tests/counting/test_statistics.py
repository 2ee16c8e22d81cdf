"""The accumulator against the slow version, whatever the batches, padding, order, devices and labels."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_method as slow

from jaxdissect import InputError, Reading
from jaxdissect.counting.statistics import flush, init, merge, steps_before_overflow, update

LAYERS, NEURONS, RANKS = 2, 3, 4
CLASSES = 7  # two label sets: 0-3 (several labels a clip, or none) and 4-6 (one label a clip, or none)
LABELS_PER_CLIP = 3
COUNTS = ("clips", "tokens", "active_tokens")
SUMS = ("sum", "sum_squares")

# Relative to the sum of absolute values. Readings are float32 sums of a clip, so nothing can be better than 6e-8.
SUM_TOLERANCE = 1e-6  # measured: 1.5e-7
PAIR_TOLERANCE = 1e-10  # measured over 20,000 updates: 1.6e-11; each is rounded to 6e-8

run_update = jax.jit(update, static_argnums=4)


@dataclass
class Clips:
    """Activations (token, layer, neuron) of clips, None where unreadable, and the classes of each."""

    activations: list
    members: list
    numbers: list | None = None  # ascending clip numbers, if they are not 0, 1, 2, ...
    threshold: float = 0.0

    def __len__(self):
        return len(self.activations)

    def part(self, chosen):
        return Clips(
            [self.activations[n] for n in chosen], [self.members[n] for n in chosen], list(chosen), self.threshold
        )


def random_clips(count=37, seed=0, ties=False, bad=(4, 17, 18), threshold=0.0):
    """Clips of 1 to 6 tokens, several of which have no label, no token, or could not be read."""
    random = np.random.default_rng(seed)
    activations, members = [], []
    for number in range(count):
        shape = (0 if number == 9 else random.integers(1, 7), LAYERS, NEURONS)
        values = random.integers(-2, 3, shape) / 4 if ties else random.normal(0.2, 1, shape)
        values[:, 1, 2] = -np.abs(values[:, 1, 2])  # a neuron that never fires
        if number % 6:
            values[:, 0, 1] = -np.abs(values[:, 0, 1])  # and one that few clips fire
        activations.append(None if number in bad else values.astype(np.float32))
        several = random.choice(4, random.integers(0, 3), replace=False).tolist()
        one = [] if number % 5 == 0 else [4 + int(random.integers(3))]
        members.append(sorted(several + one))
    return Clips(activations, members, None, threshold)


def reading_of(clips, size):
    """A `Reading` of some clips, in numpy, padded to `size`; what must not be counted is NaN or nonsense."""
    reading = Reading(
        tokens=np.full(size, 99, np.int32),
        active_tokens=np.full((size, LAYERS, NEURONS), 77, np.int32),
        sum=np.full((size, LAYERS, NEURONS), np.nan, np.float32),
        sum_squares=np.full((size, LAYERS, NEURONS), np.nan, np.float32),
        excess=np.full((size, LAYERS, NEURONS), np.nan, np.float32),
        maximum=np.full((size, LAYERS, NEURONS), np.nan, np.float32),
    )
    for row, values in enumerate(clips.activations):
        if values is not None:
            reading.tokens[row] = len(values)
            reading.active_tokens[row] = (values > clips.threshold).sum(axis=0)
            reading.sum[row] = values.sum(axis=0)
            reading.sum_squares[row] = np.square(values).sum(axis=0)
            reading.maximum[row] = values.max(axis=0, initial=-np.inf)
    return jax.tree.map(jnp.asarray, reading)


def member_table(clips, size, classes, label_the_bad=False):
    table = np.zeros((size, classes + 1), bool)
    for row, labels in enumerate(clips.members):
        readable = clips.activations[row] is not None
        table[row, labels] = readable or label_the_bad
        table[row, -1] = readable
    return jnp.asarray(table)


def counted(clips, batch_size, classes=CLASSES, labels_per_clip=LABELS_PER_CLIP, label_the_bad=False):
    """Accumulate in batches, the last one padded, on one device."""
    counts = init(classes, LAYERS, NEURONS, RANKS)
    numbers = list(range(len(clips))) if clips.numbers is None else clips.numbers
    for first in range(0, len(clips), batch_size):
        rows = range(first, min(first + batch_size, len(clips)))
        batch = clips.part(rows)
        clip = np.full(batch_size, -1, np.int32)
        clip[: len(rows)] = [numbers[row] for row in rows]
        members = member_table(batch, batch_size, classes, label_the_bad)
        counts = run_update(counts, reading_of(batch, batch_size), members, jnp.asarray(clip), labels_per_clip)
    return counts


def totals(clips, batch_size, **options):
    return flush(one_device(counted(clips, batch_size, **options)))


def one_device(*counts):
    """The leading axis `device`."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *counts)


def assert_slow(found, clips, classes=CLASSES):
    """Integers and top clips equal the slow version exactly, sums within the tolerance."""
    expected = slow.count(clips.activations, clips.members, classes=classes, threshold=clips.threshold)
    for name in COUNTS:
        value = getattr(found, name)
        assert value.dtype == np.int64
        np.testing.assert_array_equal(value[:-1], expected[name], err_msg=name)
        np.testing.assert_array_equal(value[-1], expected[f"total_{name}"], err_msg=f"total_{name}")
    sizes = Clips([None if one is None else np.abs(one) for one in clips.activations], clips.members)
    scale = slow.count(sizes.activations, sizes.members, classes=classes)
    for name in SUMS:
        value = getattr(found, name)
        assert value.dtype == np.float64
        for part, label in ((value[:-1], name), (value[-1], f"total_{name}")):
            error = np.abs(part - expected[label])
            assert (error <= SUM_TOLERANCE * scale[label]).all(), label
    assert_same_top(found.top, slow.top_clips(clips.activations, RANKS, threshold=clips.threshold))


def assert_same_top(top, expected):
    clip, share, highest = expected
    np.testing.assert_array_equal(top.clip, clip)
    np.testing.assert_array_equal(top.active_share, share)
    np.testing.assert_array_equal(top.maximum, highest.astype(np.float32))


def assert_equal_totals(one, other, exact_sums=False):
    for name in COUNTS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in SUMS:
        tolerance = 0.0 if exact_sums else SUM_TOLERANCE
        scale = np.abs(one.sum_squares).max()
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=tolerance * scale, err_msg=name)
    for name in ("clip", "active_tokens", "tokens", "maximum"):
        np.testing.assert_array_equal(getattr(one.top, name), getattr(other.top, name), err_msg=name)


# --- any split into batches


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 10, 37, 64])
def test_update_in_any_batches_equals_the_slow_version(batch_size, ties):
    clips = random_clips(ties=ties)
    found = totals(clips, batch_size)
    assert_slow(found, clips)
    if ties:  # quarters, whose sums are exact in float32 too
        expected = slow.count(clips.activations, clips.members, classes=CLASSES)
        for name in SUMS:
            np.testing.assert_array_equal(getattr(found, name)[:-1], expected[name])


def test_random_clips_have_ties_and_neurons_that_never_fire():
    clips = random_clips(ties=True)
    labels = [len(members) for members in clips.members]
    assert min(labels) == 0
    assert max(labels) == LABELS_PER_CLIP
    best, share, highest = slow.top_clips(clips.activations, RANKS)
    assert (best[:, 1, 2] == -1).all()  # never fires
    assert (best[:, 0, 0] >= 0).all()
    tied = (np.diff(share, axis=0) == 0) & (np.diff(highest, axis=0) == 0) & (best[1:] >= 0)
    assert tied.any()  # only the clip's number decides
    assert ((np.diff(share, axis=0) == 0) & (np.diff(highest, axis=0) < 0) & (best[1:] >= 0)).any()


def test_init_is_zero():
    found = flush(one_device(init(CLASSES, LAYERS, NEURONS, RANKS)))
    for name in COUNTS + SUMS:
        value = getattr(found, name)
        assert value.shape == (CLASSES + 1, LAYERS, NEURONS)[: value.ndim]
        assert not value.any()
    assert (found.top.clip == -1).all()
    assert found.top.clip.shape == (RANKS, LAYERS, NEURONS)


def test_init_keeps_ten_top_clips_by_default():
    assert init(1, LAYERS, NEURONS).top.clip.shape == (10, LAYERS, NEURONS)


@pytest.mark.parametrize("threshold", [-0.5, 0.25])
def test_update_counts_above_any_threshold(threshold):
    clips = random_clips(seed=3, ties=True, threshold=threshold)
    assert_slow(totals(clips, 10), clips)


# --- clips that must not count, and labels


def test_update_ignores_unreadable_clips_and_padding_even_if_they_are_labelled():
    clips = random_clips()
    assert_equal_totals(totals(clips, 10, label_the_bad=True), totals(clips, 10), exact_sums=True)


def test_update_by_a_batch_of_unreadable_clips_changes_nothing():
    clips = random_clips(10)
    before = totals(clips, 10)
    worse = Clips(clips.activations + [None] * 10, clips.members + [[0, 4]] * 10)
    assert_equal_totals(totals(worse, 10), before, exact_sums=True)


def test_update_counts_clips_without_a_label_for_all_clips_only():
    clips = random_clips()
    unlabelled = Clips(clips.activations, [[] for _ in clips.members])
    found = totals(unlabelled, 10, labels_per_clip=0)
    assert_slow(found, unlabelled)
    for name in COUNTS + SUMS:
        assert not getattr(found, name)[:-1].any()
    assert found.clips[-1] == sum(one is not None for one in clips.activations)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_update_of_more_classes_than_a_batch_can_touch(batch_size):
    """30 classes, and 1 or 2 for each clip: a batch adds to `labels_per_clip x clips` rows of them only."""
    random = np.random.default_rng(1)
    clips = random_clips()
    clips.members = [sorted(random.choice(30, 1 + number % 2, replace=False).tolist()) for number in range(len(clips))]
    for labels_per_clip in (2, 30):
        assert_slow(totals(clips, batch_size, classes=30, labels_per_clip=labels_per_clip), clips, classes=30)


def test_update_with_every_class_of_every_clip():
    clips = random_clips()
    clips.members = [list(range(CLASSES)) for _ in clips.members]
    assert_slow(totals(clips, 5, labels_per_clip=CLASSES), clips)


def test_update_of_the_last_class_alone():
    """The row of the last class lies beside that of all clips."""
    clips = random_clips(10)
    clips.members = [[CLASSES - 1] if number % 2 else [] for number in range(10)]
    assert_slow(totals(clips, 3, labels_per_clip=1), clips)


# --- order, devices, merging


def test_update_does_not_depend_on_the_order_of_clips():
    """Without ties: the numbers of tied clips decide their rank, and they come in ascending order."""
    clips = random_clips()
    order = np.random.default_rng(2).permutation(len(clips)).tolist()
    assert_equal_totals(totals(clips.part(order), 5), totals(clips, 5))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("devices", [2, 3])
def test_flush_of_several_devices_equals_the_whole(devices, ties):
    """Every device counts some clips of every batch; a device may see none of a class."""
    clips = random_clips(ties=ties)
    shares = [clips.part(range(device, len(clips), devices)) for device in range(devices)]
    assert_slow(flush(one_device(*(counted(share, 5) for share in shares))), clips)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("cut", [1, 9, 20, 36])
def test_merge_of_two_halves_equals_the_whole(cut, ties):
    clips = random_clips(ties=ties)
    one, other = totals(clips.part(range(cut)), 5), totals(clips.part(range(cut, len(clips))), 5)
    assert_slow(merge(one, other), clips)
    assert_equal_totals(merge(one, other), merge(other, one))


def test_merge_is_associative_and_has_a_zero():
    clips = random_clips(ties=True)
    parts = [totals(clips.part(range(first, len(clips), 3)), 5) for first in range(3)]
    left = merge(merge(parts[0], parts[1]), parts[2])
    assert_equal_totals(left, merge(parts[0], merge(parts[1], parts[2])), exact_sums=True)
    assert_slow(left, clips)
    empty = flush(one_device(init(CLASSES, LAYERS, NEURONS, RANKS)))
    assert_equal_totals(merge(empty, left), left, exact_sums=True)
    assert_equal_totals(merge(left, empty), left, exact_sums=True)


# --- top clips, worked out


def test_top_clips_worked_out():
    """Share first, then the highest activation, then the number; a clip that never fires the neuron is not listed."""
    activations = [[-1, -1], [1, -1], [1, 2], [2, -1], [2, 1], [1, -9]]  # shares 0, 1/2, 1, 1/2, 1, 1/2
    clips = Clips(
        [np.full((2, LAYERS, NEURONS), 1, np.float32) * np.array(one)[:, None, None] for one in activations], [[0]] * 6
    )
    for batch_size in (1, 4, 6):
        top = totals(clips, batch_size).top
        assert top.clip[:, 0, 0].tolist() == [2, 4, 3, 1]  # and 5, which ties with 1, is the fifth
        assert top.active_share[:, 0, 0].tolist() == [1.0, 1.0, 0.5, 0.5]
        assert top.maximum[:, 0, 0].tolist() == [2.0, 2.0, 2.0, 1.0]


@pytest.mark.parametrize("highest", [(1, 2), (2, 1)])
@pytest.mark.parametrize(
    ("active", "tokens"), [((40, 41), (40, 41)), ((5, 15), (6, 18)), ((1, 3), (5, 15)), ((3, 9), (7, 21))]
)
def test_top_clips_of_equal_fractions_are_tied_whatever_their_length(active, tokens, highest):
    """All of 40 tokens or all of 41 is the same share, 1, so the highest activation decides."""
    maximum, counts = (
        jnp.broadcast_to(jnp.array(values)[:, None, None], (2, LAYERS, NEURONS)) for values in (highest, active)
    )
    maximum = maximum.astype(jnp.float32)
    reading = Reading(jnp.array(tokens), counts, maximum, maximum, maximum, maximum)
    top = run_update(init(1, LAYERS, NEURONS, 2), reading, jnp.ones((2, 2), bool), jnp.arange(2), 1).top
    assert top.clip[:, 0, 0].tolist() == [int(np.argmax(highest)), int(np.argmin(highest))]


def test_top_clips_of_fewer_clips_than_ranks():
    clips = random_clips(5, bad=(1,))
    clips.activations = [None if one is None else np.abs(one) + 1 for one in clips.activations]
    for batch_size in (1, 2, 8):
        found = totals(clips, batch_size)
        assert_slow(found, clips)
        assert sorted(found.top.clip[:, 0, 0].tolist()) == [0, 2, 3, 4]
    two = totals(clips.part(range(2)), 2)
    assert two.top.clip[:, 0, 0].tolist() == [0, -1, -1, -1]


# --- exactness over a long run


def repeated(values, tokens=None, clips_per_batch=1):
    """One update per row of `values` (update, clip), in one compiled loop; class 0 has every clip."""
    values = jnp.asarray(values, jnp.float32)

    def step(counts, value):
        shape = (clips_per_batch, 1, 1)
        reading = Reading(
            tokens=jnp.full(clips_per_batch, 1 if tokens is None else tokens, jnp.int32),
            active_tokens=jnp.full(shape, 1 if tokens is None else tokens - 1, jnp.int32),
            sum=value.reshape(shape),
            sum_squares=jnp.square(value).reshape(shape),
            excess=value.reshape(shape),
            maximum=value.reshape(shape),
        )
        members = jnp.ones((clips_per_batch, 2), bool)
        return update(counts, reading, members, jnp.zeros(clips_per_batch, jnp.int32), 1), None

    return jax.jit(lambda values: jax.lax.scan(step, init(1, 1, 1, 2), values)[0])(values)


@pytest.mark.parametrize("case", ["cancelling", "growing", "one large"])
def test_update_keeps_sums_accurate_over_many_batches(case):
    random = np.random.default_rng(0)
    values = random.normal(0, 1, 20_000)
    if case == "cancelling":  # thousands that cancel, and ones that stay
        values[1::2] = 1e4 * np.where(np.arange(10_000) % 2, 1, -1) * np.repeat(random.uniform(1, 2, 5_000), 2)
    elif case == "growing":
        values = np.abs(values)
    else:
        values[0], values[-1] = 1e8, -1e8  # whose squares swallow all others in any arithmetic
    values = values.astype(np.float32)
    found = flush(one_device(repeated(values[:, None])))
    for name, terms in (("sum", values), ("sum_squares", np.square(values))):
        exact, scale = math.fsum(terms.tolist()), math.fsum(np.abs(terms).tolist())
        error = np.abs(getattr(found, name) - exact).max()
        assert error <= PAIR_TOLERANCE * scale, name
        plain = abs(float(np.cumsum(terms, dtype=np.float32)[-1]) - exact)
        assert error * 1000 <= plain, f"{name}: plain float32 is as good, so this tests nothing"


def test_update_keeps_counts_exact_beyond_float32():
    """50 batches of 15 clips of 2**20 + 1 tokens: 786,432,750 tokens, where float32 has steps of 64."""
    tokens = 2**20 + 1
    found = flush(one_device(repeated(np.ones((50, 15)), tokens, clips_per_batch=15)))
    assert found.tokens.tolist() == [750 * tokens] * 2
    assert found.active_tokens.ravel().tolist() == [750 * (tokens - 1)] * 2
    assert found.clips.tolist() == [750] * 2


def test_flush_and_merge_keep_counts_exact_beyond_int32():
    """Clips as long as they may be, as many as fit before a flush, on two devices, and merged four times."""
    tokens = 46_340
    steps = steps_before_overflow(tokens, 1)
    assert steps * tokens <= 2**31 - 1 < (steps + 1) * tokens
    counts = repeated(np.ones((steps, 1)), tokens)
    assert counts.tokens.tolist() == [steps * tokens] * 2
    part = flush(one_device(counts, counts))
    whole = merge(*[part] * 5)
    assert whole.tokens.tolist() == [10 * steps * tokens] * 2
    assert whole.active_tokens.ravel().tolist() == [10 * steps * (tokens - 1)] * 2


@pytest.mark.parametrize(("tokens", "clips"), [(1, 1), (161, 16), (4095, 4096), (46_340, 362)])
def test_steps_before_overflow_are_as_many_as_fit(tokens, clips):
    steps = steps_before_overflow(tokens, clips)
    assert steps * tokens * clips <= 2**31 - 1 < (steps + 1) * tokens * clips


@pytest.mark.parametrize(("tokens", "clips"), [(4096, 4096), (161, 2**20)])
def test_steps_before_overflow_refuses_batches_too_large_for_exact_sums(tokens, clips):
    with pytest.raises(InputError, match=rf"2\*\*24 tokens a device, got {clips} clips of {tokens} tokens"):
        steps_before_overflow(tokens, clips)


def test_steps_before_overflow_refuses_clips_too_long_for_exact_fractions():
    with pytest.raises(InputError, match="up to 46,340 tokens, got 46,341"):
        steps_before_overflow(46_341, 1)


# --- the accumulator as a pytree


def test_update_compiles_once():
    traces = 0

    def traced(*arguments):
        nonlocal traces
        traces += 1
        return update(*arguments)

    step = jax.jit(traced, static_argnums=4)
    clips = random_clips(12)
    counts = init(CLASSES, LAYERS, NEURONS, RANKS)
    for first in (0, 6):
        batch = clips.part(range(first, first + 6))
        clip = jnp.arange(first, first + 6, dtype=jnp.int32)
        counts = step(counts, reading_of(batch, 6), member_table(batch, 6, CLASSES), clip, LABELS_PER_CLIP)
    assert traces == 1
    assert_slow(flush(one_device(counts)), clips)


def test_update_keeps_the_types_of_the_accumulator():
    before = init(CLASSES, LAYERS, NEURONS, RANKS)
    batch = random_clips(6)
    after = jax.eval_shape(
        lambda counts: update(counts, reading_of(batch, 6), member_table(batch, 6, CLASSES), jnp.arange(6), 3), before
    )
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, new.weak_type)


def test_update_leaves_its_argument_alone():
    before = init(CLASSES, LAYERS, NEURONS, RANKS)
    batch = random_clips(6)
    run_update(before, reading_of(batch, 6), member_table(batch, 6, CLASSES), jnp.arange(6), LABELS_PER_CLIP)
    assert not any(leaf.any() for leaf in jax.tree.leaves((before.clips, before.active_tokens, before.sum)))
