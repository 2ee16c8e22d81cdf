"""The permutation test: against the slow version and every exchange of small cases, and whether chance fools it."""

import copy
import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
import slow_significance
from recordings import recorded_clips
from tolerances import assert_within, relative_error

from jaxdissect import InputError, SelectionRule
from jaxdissect.selection.aape import select
from jaxdissect.significance import permutation, unit_counts
from jaxdissect.significance.p_values import benjamini_hochberg
from jaxdissect.significance.permutation import CutOffs, PermutationTest
from jaxdissect.significance.permuted_statistics import BINS_PER_UNIT, _below_uniform, exchange_moments, pools
from jaxdissect.significance.unit_counts import MOST_TOKENS, UnitCounts
from jaxdissect.significance.units import find_units

NOTHING = CutOffs(-math.inf, math.inf, math.inf)  # passes
CASES = {
    "recordings of one class": {},
    "several classes a clip": {"several": 0.3, "neurons": 6},
    "clips of their own classes": {"mixed": 0.5, "unlabelled": 0.1},
    "neurons that seldom fire": {"recordings": 8, "neurons": 20, "seldom": 0.6},
    "one recording a fold, and many folds": {"folds": 7, "recordings": 1, "mixed": 0.8, "clips": (3, 5)},
}


def counts_of(clips, *, sources=None, folds=None):
    units = find_units(clips.members, sources or clips.sources, folds or clips.folds)
    return UnitCounts(clips.counts, clips.tokens, units)


def by_unit(counts, clips):
    """Active tokens (unit, neuron), tokens, classes and strata of units, added up by the slow rules."""
    parts = slow_significance.units(clips.members, clips.sources, clips.folds)
    parts.sort(key=lambda unit: int(counts.units.unit[min(unit.clips)]))
    flat = clips.counts.reshape(len(clips.counts), -1).astype(int)
    active = np.array([sum(flat[clip] for clip in unit.clips) for unit in parts])
    tokens = np.array([sum(int(clips.tokens[clip]) for clip in unit.clips) for unit in parts])
    classes = np.array([[one in unit.classes for one in range(clips.members.shape[1])] for unit in parts])
    return active, tokens, classes, [unit.stratum for unit in parts]


def selected(clips, **options):
    """What a selection of the clips themselves comes to."""
    members = clips.members.astype(int).T
    rule = SelectionRule(**{"keep": 0.4, "drop_weakest": 0.15, "bar": 0.7} | options)
    return select(np.tensordot(members, clips.counts.astype(int), 1), members @ clips.tokens, rule)


def cut_of(selection, *, away=0.0):
    """Its cut-offs, which no score of permuted labels lies at if they are a little `away`."""
    return CutOffs(selection.aape_cutoff + away, selection.rate_cutoff + away, selection.probability_bar)


def run(counts, permutations, *, cut=NOTHING, seed=3, overlap=None, null=None, between=lambda: None):
    classes = counts.units.members.shape[1]
    test = PermutationTest([counts], cut, seed)
    null = null or test.empty_null()
    test.run(permutations, null, np.zeros((classes, classes), int) if overlap is None else overlap, between)
    return test, null


def neurons_first(array):
    return array.reshape(len(array), -1)


# --- counts


@pytest.mark.parametrize("chunk", [1, 60, 2**24])
@pytest.mark.parametrize("case", ["several classes a clip", "clips of their own classes"])
def test_unit_counts_of_classes_are_exact(case, chunk, monkeypatch):
    monkeypatch.setattr(unit_counts, "CHUNK", chunk)
    clips = recorded_clips(0, **CASES[case])
    clips.tokens[:3] = 0  # a recording that is silent
    clips.counts[:3] = 0
    counts = counts_of(clips)
    width = max(1, chunk // len(counts.units.stratum))
    assert len(counts.chunks) == math.ceil(clips.counts[0].size / width)
    assert len(counts.chunks) > 1 or chunk == 2**24
    active, tokens, _, _ = by_unit(counts, clips)
    weights = np.random.default_rng(1).integers(0, 5, (4, 3, len(tokens)))
    found, of_tokens = counts.of_classes(weights)
    assert (found.dtype, of_tokens.dtype) == (np.int64, np.int64)
    expected = np.zeros((4, 3, active.shape[1]), object)
    for draw, one, neuron in np.ndindex(expected.shape):
        terms = zip(weights[draw, one].tolist(), active[:, neuron].tolist(), strict=True)
        expected[draw, one, neuron] = sum(weight * count for weight, count in terms)
    assert found.reshape(expected.shape).tolist() == expected.tolist()
    assert of_tokens.tolist() == [[sum((one * tokens).tolist()) for one in draw] for draw in weights]


def test_unit_counts_are_exact_up_to_the_limit_and_refuse_more_tokens():
    most = MOST_TOKENS - 1
    tokens = np.full(300, 2**16 - 1)
    tokens[most // (2**16 - 1)] = most - tokens[: most // (2**16 - 1)].sum()
    tokens[most // (2**16 - 1) + 1 :] = 0
    units = find_units(np.ones((300, 1), bool), list(range(300)), [0] * 300)
    at_every_token = tokens.astype(np.uint16)[:, None, None]
    active, of_tokens = UnitCounts(at_every_token, tokens, units).of_classes(np.ones((1, 1, 300), int))
    assert active.item() == of_tokens.item() == most
    tokens[-1] = 1
    with pytest.raises(InputError, match=r"fewer than 16,777,216 tokens of a class, .* 16,777,216 here"):
        UnitCounts(at_every_token, tokens, units)


def test_unit_counts_limit_only_what_a_class_can_come_to():
    """Of 600 units with 65,535 tokens each class has 255 at most, the limit is at 257."""
    tokens = np.full(600, 2**16 - 1)
    members = np.zeros((600, 3), bool)
    for one, end in enumerate((255, 510, 600)):
        members[255 * one : end, one] = True
    counts = tokens.astype(np.uint16)[:, None, None]
    units = find_units(members, list(range(600)), [0] * 600)
    active, of_tokens = UnitCounts(counts, tokens, units).of_classes(members.T[None].astype(int))
    np.testing.assert_array_equal(active[0, :, 0, 0], of_tokens[0])
    members[255:258] = [True, False, False]
    with pytest.raises(InputError, match="tokens of a class"):
        UnitCounts(counts, tokens, find_units(members, list(range(600)), [0] * 600))


def test_unit_counts_of_a_bootstrap_sample_are_exact_or_rounded_once():
    """A sample may have more tokens than the clips, which `UnitCounts` has limited."""
    tokens = np.full(255, 2**16 - 1)
    units = find_units(np.ones((255, 1), bool), list(range(255)), [0] * 255)
    counts = UnitCounts(tokens.astype(np.uint16)[:, None, None], tokens, units)
    for times, allowed in ((1, 0), (3, 4)):  # 4: the distance of two float32 numbers there
        active, of_tokens = counts.of_classes(np.full((1, 1, 255), times))
        assert of_tokens.item() == times * 255 * (2**16 - 1)
        assert abs(active.item() - of_tokens.item()) <= allowed


# --- statistic and moments


@pytest.mark.parametrize("case", CASES)
def test_permutation_test_statistics_equal_the_slow_ones(case):
    tested = 0
    for seed in range(3):
        clips = recorded_clips(seed, **CASES[case])
        clips.counts[:, 1, 0] = 0  # a neuron that never fires
        counts = counts_of(clips)
        expected = slow_significance.statistic(*by_unit(counts, clips))
        found = neurons_first(PermutationTest([counts], NOTHING, 0).statistic)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        both = ~np.isnan(expected)
        assert not both[:, expected.shape[1] // 2].any()
        if both.any():
            assert_within("statistic against fractions, relative", relative_error(found[both], expected[both]))
        tested += both.sum()
    assert tested > 30


def test_exchange_moments_equal_those_of_every_exchange():
    """Two folds, one recording of clips of their own classes, and a fold of one recording; some have two classes."""
    rng = np.random.default_rng(5)
    members = np.array([[1, 0], [0, 1], [1, 1], [0, 1], [1, 0], [0, 1], [0, 1], [1, 0], [0, 1], [1, 0], [1, 0]], bool)
    units = find_units(members, list("abcd" + "eee" + "fgh" + "i"), [0] * 4 + [1] * 6 + [2])
    assert np.bincount(units.stratum).tolist() == [4, 3, 3, 1]
    active, tokens = rng.integers(0, 9, (11, 5)), rng.integers(9, 15, 11)
    part = slow_significance.excess(active, tokens)
    means, deviations = exchange_moments(units.members, units.stratum, np.array(part, float))
    for one, neuron in np.ndindex(2, 5):
        e, share = [row[neuron] for row in part], members[:, one].tolist()
        first = second = number = 0
        for row, ways in slow_significance.every_exchange(share, units.stratum.tolist()):
            total = sum(x * value for x, value in zip(row, e, strict=True))
            first, second, number = first + ways * total, second + ways * total**2, number + ways
        assert number == math.factorial(4) * math.factorial(3) * math.factorial(3)
        mean, variance = slow_significance.moments(share, e, units.stratum.tolist())
        assert (mean, variance) == (first / number, second / number - (first / number) ** 2)
        assert variance > 0
        assert means[one, neuron] == pytest.approx(float(mean), rel=1e-12, abs=1e-12)
        assert deviations[one, neuron] == pytest.approx(math.sqrt(variance), rel=1e-12)


def test_exchange_moments_equal_those_of_many_permutations():
    """Of 4,000 permutations the mean is known to 1/63 of a deviation, and the deviation to about 1/89."""
    clips = recorded_clips(1, recordings=12, mixed=0.25, clips=(2, 4), of_fold=1.0)
    counts = counts_of(clips)
    active, tokens, _, _ = by_unit(counts, clips)
    excess = active - np.outer(tokens, active.sum(axis=0) / tokens.sum())
    mean, deviation = exchange_moments(counts.units.members, counts.units.stratum, excess)
    rng = np.random.default_rng(0)
    sums = np.array([counts.units.exchanged(rng).T.astype(float) @ excess for _ in range(4000)])
    assert deviation.min() > 1
    assert np.abs((sums.mean(axis=0) - mean) / deviation).max() < 4.5 / math.sqrt(4000)
    assert np.abs(sums.std(axis=0) / deviation - 1).max() < 4.5 / math.sqrt(2 * 4000)


def test_permutation_test_leaves_out_what_cannot_vary():
    """A class of one unit, a neuron that never fires, one that always does, and one that only tells folds apart."""
    members = np.eye(3, dtype=bool)[[0, 1, 1, 0, 1, 2]]
    units = find_units(members, list("abcdef"), [0, 0, 0, 1, 1, 1])
    tokens = np.full(6, 500)
    counts = np.zeros((6, 1, 4), np.uint16)
    counts[:, 0, 1], counts[:3, 0, 2], counts[:, 0, 3] = 500, 499, [3, 1, 4, 1, 5, 9]
    test, null = run(UnitCounts(counts, tokens, units), 50)
    tested = test.tested(null)
    for values in vars(tested).values():
        assert np.isnan(values[:, 0, :3]).all()
        assert np.isnan(values[2]).all()
        assert np.isfinite(values[:2, 0, 3]).all()


@pytest.mark.parametrize("case", ["one class", "one unit a class", "one recording a fold"])
def test_permutation_test_leaves_out_all_where_nothing_can_be_exchanged(case):
    members = {"one class": np.ones((6, 1), bool), "one unit a class": np.eye(6, dtype=bool)}.get(
        case, np.eye(2, dtype=bool)[[0, 1, 1, 0, 1, 0]]
    )
    folds = list(range(6)) if case == "one recording a fold" else [0] * 6
    counts = np.random.default_rng(0).integers(0, 9, (6, 1, 4)).astype(np.uint16)
    test, null = run(UnitCounts(counts, np.arange(9, 15), find_units(members, list("abcdef"), folds)), 5)
    assert null.done == 5
    assert all(np.isnan(values).all() for values in vars(test.tested(null)).values())


@pytest.mark.parametrize("clips", [7, 20, 50])
def test_permutation_test_leaves_out_what_differs_between_folds_alone(clips):
    """Its excess varies by rounding alone, and must not be divided by that."""
    members, folds = np.eye(2, dtype=bool)[np.arange(2 * clips) % 2], np.arange(2 * clips) * 4 // (2 * clips)
    in_fold = np.array([500, 0, 333, 71])
    counts = np.random.default_rng(0).integers(0, 400, (2 * clips, 1, 4)).astype(np.uint16)
    counts[:, 0, 0], counts[:, 0, 1] = in_fold[folds], in_fold[::-1][folds]
    units = find_units(members, list(map(str, range(2 * clips))), folds.tolist())
    test, null = run(UnitCounts(counts, np.full(2 * clips, 500), units), 20)
    assert np.isnan(test.statistic[:, 0, :2]).all()
    assert np.isfinite(test.statistic[:, 0, 2:]).all()
    assert null.highest.max() < 6


# --- the whole test


@pytest.mark.parametrize("case", CASES)
def test_permutation_test_equals_the_slow_test(case):
    clips = recorded_clips(2, **{"recordings": 5, **CASES[case]})
    selection, counts = selected(clips, keep=0.7), counts_of(clips)
    cut = cut_of(selection, away=1e-4)
    active, tokens, classes, stratum = by_unit(counts, clips)
    assert ("seldom" in CASES[case]) == (len(set(slow_significance.pools(active))) > 2)
    exchanged = [counts.units.exchanged(np.random.default_rng([8, k])) for k in range(25)]
    overlap = np.array([[3, 1, 2], [1, 2, 0], [2, 0, 3]])
    expected = slow_significance.permutation_test(active, tokens, classes, stratum, cut, exchanged, overlap)
    test, null = run(counts, 25, cut=cut, seed=8, overlap=overlap)
    found = test.tested(null)
    p_value, p_highest = neurons_first(found.p_value), neurons_first(found.p_highest)
    tested = np.isfinite(expected.statistic)
    assert tested.mean() > 0.6
    np.testing.assert_array_equal(np.isfinite(p_value), tested)
    np.testing.assert_array_equal(np.isfinite(p_highest), tested)
    assert (p_value >= expected.p_value - 1e-12)[tested].all()
    assert (p_value <= expected.at_most + 1e-12)[tested].all()
    assert (p_highest >= expected.p_highest - 1e-12)[tested].all()
    assert (p_highest <= expected.highest_at_most + 1e-12)[tested].all()
    assert np.abs(p_value - expected.p_value)[tested & (expected.statistic > 0.1)].max() < 0.05
    assert null.pairs.tolist() == expected.pairs.tolist()
    assert null.neurons.tolist() == expected.neurons.tolist()
    assert null.shared.tolist() == expected.shared.tolist()
    assert null.as_many.tolist() == expected.as_many.tolist()
    assert len(set(expected.pairs.tolist())) > 2
    assert (expected.shared > 0).all()
    assert {0 < number < 25 for number in np.ravel(expected.as_many)} == {True, False}


def test_permutation_test_counts_nothing_where_nothing_passes():
    clips = recorded_clips(2)
    _, null = run(counts_of(clips), 5)
    assert not null.pairs.any()
    assert not null.neurons.any()
    assert not null.shared.any()
    assert (null.as_many == 5).all()  # two empty sets share 0, as was found


@pytest.mark.parametrize(
    "options", [{"keep": 1.0, "bar": 0.0}, {"keep": 0.5}, {"drop_weakest": 0.5}, {"preset": "lape"}]
)
def test_permutation_test_repeats_what_was_observed_where_labels_are_fixed(options):
    """Every recording has a fold of its own, so that all permutations are what was observed, at a cut-off too."""
    for seed in range(6):
        clips = recorded_clips(seed, folds=12, recordings=1, clips=(1, 3), neurons=40, tokens=(150, 161))
        clips.members[:] = np.eye(3, dtype=bool)[np.array(clips.folds) % 3]
        selection, counts = selected(clips, **options), counts_of(clips)
        if options.get("preset") != "lape":
            weakest = selection.rate <= selection.rate_cutoff
            assert weakest.sum() == round(options.get("drop_weakest", 0.15) * weakest.size), "ties: another seed"
        _, null = run(counts, 2, cut=cut_of(selection))
        flat = neurons_first(selection.specific).astype(int)
        assert null.pairs.tolist() == [selection.specific.sum()] * 2
        assert null.neurons.tolist() == [selection.specific.any(axis=0).sum()] * 2
        assert null.shared.tolist() == (2 * flat @ flat.T).tolist()
        assert selection.specific.any()


def test_permutation_test_gives_the_same_bits_for_any_batches_chunks_and_interruptions(monkeypatch):
    clips = recorded_clips(4, mixed=0.3, several=0.2)
    selection, overlap = selected(clips, keep=0.6), np.full((3, 3), 1)
    units = len(counts_of(clips).units.stratum)

    def whole(null=None, between=lambda: None, permutations=12):
        counts = counts_of(clips)
        test, null = run(counts, permutations, cut=cut_of(selection), overlap=overlap, null=null, between=between)
        return len(counts.chunks), null, test.tested(null)

    def same(one, other):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)
            assert value.dtype == other[name].dtype

    chunks, null, tested = whole()
    assert (chunks, null.done) == (1, 12)
    assert len(set(null.pairs.tolist())) > 3
    assert null.as_many.max() > 0
    for width, batch in ((1, 1), (4, 3), (8, 4)):
        monkeypatch.setattr(unit_counts, "CHUNK", units * width)
        monkeypatch.setattr(permutation, "AT_ONCE", 3 * width * batch)
        batches = []
        chunks, other, other_tested = whole(between=lambda: batches.append(None))  # noqa: B023
        assert (chunks, len(batches)) == (8 // width, 12 // batch)
        same(vars(null), vars(other))
        for name, tolerance in (("statistic", 1e-12), ("p_value", 0), ("p_highest", 0)):
            np.testing.assert_allclose(vars(tested)[name], vars(other_tested)[name], rtol=tolerance, err_msg=name)

    class KilledError(Exception):
        pass

    going, saved = PermutationTest([counts_of(clips)], cut_of(selection), 3).empty_null(), []

    def kill():
        saved.append(copy.deepcopy(going))
        raise KilledError

    for done in (4, 8):
        with pytest.raises(KilledError):
            whole(going, kill)
        going = copy.deepcopy(saved[-1])  # as read from a file
        assert going.done == done
    _, going, resumed = whole(going)
    same(vars(null), vars(going))
    same(vars(other_tested), vars(resumed))
    before = copy.deepcopy(vars(going))
    whole(going, permutations=5)  # are long done
    same(before, vars(going))
    _, fewer, _ = whole(permutations=8)
    for name in ("highest", "pairs", "neurons"):
        np.testing.assert_array_equal(vars(fewer)[name], vars(null)[name][:8])


@pytest.mark.parametrize(
    ("firing", "expected"),
    [
        ([], []),
        ([0, 0], [0, 0]),
        ([5, 6, 7], [0, 0, 0]),
        ([1, 1, 2, 3, 4, 7, 8, 15], [3, 3, 2, 2, 1, 1, 0, 0]),
        ([0, 64] + [8] * 20 + [1], [1, 0] + [0] * 20 + [1]),  # one of 22 is too few for a pool, unless it is the rarest
        ([0, 9, 1, 0] + [32] * 8, [2, 1, 2, 2] + [0] * 8),
    ],
)
def test_pools_are_of_neurons_that_fire_in_about_as_many_units(firing, expected):
    assert pools(np.array(firing, int)).tolist() == expected
    active = np.arange(64)[:, None] < np.array(firing, int)
    assert slow_significance.pools(active) == expected


def test_pools_keep_rare_neurons_from_hiding_the_others():
    """Of 200 neurons 80 fire in a few clips, with statistics that planted pairs would not reach in one pool."""
    planted = [(one, 100 + one) for one in range(20)]
    data = {"recordings": 60, "classes": 20, "clips": (1, 1), "neurons": 200, "seldom": 0.4, "common": 1.5}
    counts = counts_of(recorded_clips(0, planted=planted, **data))
    places = tuple(np.array(planted).T)
    test, null = run(counts, 399)
    assert null.histogram.shape[1] > 1

    def found(test, null):
        p_value = neurons_first(test.tested(null).p_value)
        return (benjamini_hochberg(p_value.ravel()).reshape(p_value.shape) <= 0.05)[places].mean()

    together = copy.copy(test)
    together.pool = np.zeros_like(test.pool)
    one_pool = dataclasses.replace(null, histogram=null.histogram.sum(axis=1, keepdims=True))
    assert found(test, null) > found(together, one_pool) + 0.3


def test_permutation_test_batches_are_no_larger_than_the_limit(monkeypatch):
    shapes = []
    step = permutation._step

    def spy(members, counts, *rest):
        shapes.append(members.shape[0] * members.shape[1] * counts.shape[1])
        return step(members, counts, *rest)

    monkeypatch.setattr(permutation, "_step", spy)
    monkeypatch.setattr(permutation, "AT_ONCE", 120)
    run(counts_of(recorded_clips(0)), 12)
    assert shapes == [120, 120, 48]


def test_permutation_test_differs_with_the_seed():
    counts = counts_of(recorded_clips(4))
    highest = [run(counts, 10, seed=seed)[1].highest.tolist() for seed in (0, 1, 1)]
    assert highest[0] != highest[1] == highest[2]
    assert len(set(highest[0])) > 5


def test_permutation_test_without_a_permutation_finds_nothing():
    test, null = run(counts_of(recorded_clips(4)), 0)
    found = test.tested(null)
    assert np.nanmin(found.p_value) == np.nanmin(found.p_highest) == np.nanmin(found.lowest) == 1


def test_permutation_test_lowest_p_value_is_of_what_no_permutation_reaches():
    """A clip's neurons that fire in it alone are pooled apart, and the others with each other."""
    clips = recorded_clips(0, neurons=20, seldom=0.6)
    active, *_ = by_unit(counts_of(clips), clips)
    pool = slow_significance.pools(active)
    test, null = run(counts_of(clips), 30)
    null.histogram[..., 1:] = 0
    found = test.tested(null)
    beyond = neurons_first(test.statistic) > 2 / BINS_PER_UNIT
    np.testing.assert_array_equal(neurons_first(found.lowest)[beyond], neurons_first(found.p_value)[beyond])
    for one, neuron in zip(*np.nonzero(beyond), strict=True):
        like_it = [other for other in range(20) if pool[other] == pool[neuron]]
        tested = np.isfinite(neurons_first(test.statistic)[one, like_it]).sum()
        assert neurons_first(found.lowest)[one, neuron] == 1 / (1 + 30 * tested)
    assert len(set(found.lowest[np.isfinite(found.lowest)].tolist())) > 1


def test_permutation_test_statistics_ignore_a_unit_without_a_token():
    clips = recorded_clips(0, recordings=6)
    whole = neurons_first(PermutationTest([counts_of(clips)], NOTHING, 0).statistic)
    alone = np.isin(clips.sources, ["recording 0"]) & (np.array(clips.folds) == 0)
    clips.tokens[alone] = 0
    clips.counts[alone] = 0
    counts = counts_of(clips)
    expected = slow_significance.statistic(*by_unit(counts, clips))
    test, null = run(counts, 30, cut=CutOffs(9.0, -1.0, 0.0))
    assert relative_error(neurons_first(test.statistic), expected) < 1e-12
    assert relative_error(whole, expected) > 0.01
    assert (null.pairs > 0).all()


def test_null_step_keeps_the_digits_of_a_neuron_that_is_nearly_always_active():
    """Of ten million tokens it is silent at 40: float32 must not blur which permutations reach what was found."""
    rng = np.random.default_rng(0)
    members = np.eye(2, dtype=bool)[np.arange(200) % 2]
    units, tokens = find_units(members, list(map(str, range(200))), [0] * 200), np.full(200, 50_001)
    counts = np.full((200, 1, 3), 50_001, np.uint16)
    counts[:, 0, 0] -= rng.binomial(1, 0.2, 200).astype(np.uint16)  # nearly always active
    counts[:, 0, 1] = rng.binomial(1, 0.2, 200)  # hardly ever
    counts[:, 0, 2] = rng.binomial(50_001, 0.5, 200)
    test, null = run(UnitCounts(counts, tokens, units), 200)
    active = counts[:, 0].astype(float)
    excess = active - tokens[:, None] * (active.sum(axis=0) / tokens.sum())
    mean, deviation = exchange_moments(members, units.stratum, excess)
    exact = []
    for k in range(200):
        permuted = units.exchanged(np.random.default_rng([3, k]))
        exact.append((permuted.T.astype(float) @ excess - mean) / deviation)
    highest = np.max(exact, axis=(1, 2))
    assert np.abs(null.highest - highest).max() < permutation.SLACK / BINS_PER_UNIT
    reached = (1 + (highest[:, None, None] >= neurons_first(test.statistic) - 1e-9).sum(axis=0)) / 201
    assert (neurons_first(test.tested(null).p_highest) >= reached).all()


# --- whether chance fools it


def assessed(seed, *, independent=False, permutations=99, **options):
    clips = recorded_clips(seed, **options)
    sources = list(range(len(clips.sources))) if independent else clips.sources
    test, null = run(counts_of(clips, sources=sources), permutations)
    return test.tested(null)


NULL_DATA = {"recordings": 12, "clips": (4, 4), "neurons": 24, "of_fold": 1.0}
LEVELS = np.array([0.01, 0.05, 0.1, 0.25])


@pytest.fixture(scope="module")
def meaningless():
    """120 data sets of 72 pairs each, whose labels mean nothing: what recordings show together is chance."""
    return [assessed(seed, **NULL_DATA) for seed in range(120)]


def shares(found):
    """Share of the pairs whose p-value is at most each level, mean over data sets, and its standard error."""
    p = np.array([neurons_first(one.p_value).ravel() for one in found])
    each = (p[..., None] <= LEVELS).mean(axis=1)
    assert np.isfinite(p).all()
    return each.mean(axis=0), each.std(axis=0, ddof=1) / math.sqrt(len(each))


def test_permutation_test_of_random_labels_has_uniform_p_values(meaningless):
    """The share of p <= 0.05 is known to about 0.005: pairs of a data set are not independent, data sets are."""
    share, error = shares(meaningless)
    assert (error < [0.003, 0.007, 0.012, 0.02]).all(), error
    assert (np.abs(share - LEVELS) < 4 * error).all(), (share, error)


def test_permutation_test_within_recordings_has_uniform_p_values():
    share, error = shares([assessed(seed, mixed=0.5, permutations=299, **NULL_DATA) for seed in range(50)])
    assert (error < [0.003, 0.007, 0.012, 0.02]).all(), error
    assert (np.abs(share - LEVELS) < 4 * error).all(), (share, error)


def test_permutation_test_highest_statistic_reaches_its_level_as_often_as_it_says(meaningless):
    """Any pair at p <= 0.1 by the highest statistic: in at most a tenth of the data sets, give or take 0.03."""
    found = np.mean([one.p_highest.min() <= 0.1 for one in meaningless])
    assert 0.01 < found < 0.1 + 3 * math.sqrt(0.1 * 0.9 / len(meaningless))


def test_permutation_test_of_random_labels_has_few_false_discoveries(meaningless):
    found = np.mean([(benjamini_hochberg(one.p_value.ravel()) <= 0.05).any() for one in meaningless])
    assert found < 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(meaningless)), found


def test_permutation_test_of_dependent_clips_as_independent_finds_what_is_not_there():
    share, error = shares([assessed(seed, independent=True, **NULL_DATA) for seed in range(12)])
    assert (share - 4 * error > [0.02, 0.07, 0.12, 0.25]).all(), (share, error)
    assert share[0] > 5 * LEVELS[0]


def test_permutation_test_of_folds_as_one_finds_what_is_not_there():
    """Classes are not equally common in two folds that are recorded otherwise."""

    def data(seed, one_fold):
        clips = recorded_clips(seed, recordings=12, clips=(1, 1), classes=2, neurons=24, common=0.5, of_fold=2.0)
        first = np.array(clips.folds) == 0
        clips.members[first] = np.eye(2, dtype=bool)[np.random.default_rng(seed).permutation([0] * 9 + [1] * 3)]
        clips.members[~first] = np.eye(2, dtype=bool)[np.random.default_rng([seed]).permutation([0] * 3 + [1] * 9)]
        sources = list(range(len(first)))
        test, null = run(counts_of(clips, sources=sources, folds=[0] * len(sources) if one_fold else None), 99)
        p = test.tested(null).p_value
        return (p <= 0.05).sum() / np.isfinite(p).sum()

    within, together = ([data(seed, one_fold) for seed in range(16)] for one_fold in (False, True))
    error = np.std(within, ddof=1) / math.sqrt(16)
    assert abs(np.mean(within) - 0.05) < 4 * error
    assert np.mean(together) > 0.15


def test_permutation_test_does_not_take_a_recording_for_its_most_frequent_class():
    """Recordings of six clips, most of them of one class: exchange is within each, so recordings cancel."""

    def data(seed, own):
        clips = recorded_clips(seed, folds=1, recordings=10, clips=(6, 6), classes=2, neurons=24)
        rng = np.random.default_rng(seed)
        labels = np.concatenate([rng.permutation([number % 2] * 5 + [1 - number % 2]) for number in range(10)])
        clips.members[:] = np.eye(2, dtype=bool)[labels]
        test, null = run(counts_of(clips, sources=None if own else list(range(60))), 99)
        p = test.tested(null).p_value
        return (p <= 0.05).sum() / np.isfinite(p).sum()

    within, together = ([data(seed, own) for seed in range(16)] for own in (True, False))
    error = np.std(within, ddof=1) / math.sqrt(16)
    assert abs(np.mean(within) - 0.05) < 4 * error
    assert np.mean(together) > 0.1


def test_permutation_test_finds_planted_pairs_below_the_floor_of_single_p_values():
    """99 permutations of 400 pairs: p-values of 1/100 would come to nothing, the pooled ones do not end there."""
    planted = [(one, 5 * number + one) for number in range(4) for one in range(4)]
    data = {"recordings": 24, "classes": 4, "neurons": 100, "clips": (2, 2), "planted": planted, "common": 0.7}
    places = tuple(np.array(planted).T)
    found, false = [], []
    for seed in range(6):
        tested = assessed(seed, **data)
        q = benjamini_hochberg(tested.p_value.ravel()).reshape(4, 100) <= 0.05
        found.append(q[places].mean())
        false.append((q.sum() - q[places].sum()) / max(q.sum(), 1))
        assert neurons_first(tested.p_value)[places].min() < 1 / 1000
        assert np.nanmin(tested.p_highest) == 1 / 100
    assert np.mean(found) > 0.9
    assert np.mean(false) < 0.05 + 3 * np.std(false, ddof=1) / math.sqrt(6)


def test_below_uniform_separates_neurons_that_are_always_active():
    """Their AAPE is ln(classes) to six digits, and which of them are below a cut-off is what selection goes by."""
    rng = np.random.default_rng(0)
    p = (0.995 + 0.004 * rng.random((1, 5, 200))).astype(np.float32)
    q = p.astype(np.longdouble) / p.astype(np.longdouble).sum(axis=1, keepdims=True)
    exact = np.log(np.longdouble(5)) + (q * np.log(q)).sum(axis=1)
    found = np.asarray(_below_uniform(jnp.asarray(p), jnp.asarray(p.sum(axis=1))))
    assert exact.max() < 1e-5
    assert relative_error(found, exact.astype(float)) < 1e-3
