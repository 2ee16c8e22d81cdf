"""Units, and what is drawn of them: against the slow version, and against every outcome of small cases."""

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
import scipy.stats
import slow_significance as slow
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdissect.significance.units import find_units

SOME = 200  # draws of random data sets
MANY = 4000  # draws whose frequencies are compared; by chance a test fails for one seed in a million
LEAST_LIKELY = 1e-6


@st.composite
def labelled(draw):
    """Classes, sources and folds of clips, in any order: recordings of one class, of several, and clips of none."""
    classes, clips = draw(st.integers(1, 4)), draw(st.integers(1, 14))
    one_each = draw(st.booleans())
    rows = []
    for _ in range(clips):
        row = [False] * classes
        if one_each:
            row[draw(st.integers(0, classes - 1))] = True
        elif draw(st.integers(0, 3)):
            row = draw(st.lists(st.booleans(), min_size=classes, max_size=classes))
        rows.append(row)
    sources = draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=clips, max_size=clips))
    folds = draw(st.lists(st.integers(1, 2), min_size=clips, max_size=clips))
    if draw(st.booleans()):  # most recordings then have one class
        first = {}
        for clip, key in enumerate(zip(folds, sources, strict=True)):
            rows[clip] = rows[first.setdefault(key, clip)]
    return np.array(rows), sources, folds


def same_parts(numbers, names):
    """Whether numbers tell apart exactly what names tell apart."""
    pairs = set(zip(np.asarray(numbers).tolist(), names, strict=True))
    return len(pairs) == len({number for number, _ in pairs}) == len({name for _, name in pairs})


def frequencies(outcomes, expected):
    """Probability of so uneven a count of outcomes, whose expected shares are given for every possible one."""
    counts = Counter(outcomes)
    assert set(counts) <= set(expected), "an outcome that cannot be"
    total = sum(expected.values())
    wanted = [float(len(outcomes) * expected[key] / total) for key in sorted(expected)]
    return scipy.stats.chisquare([counts[key] for key in sorted(expected)], wanted).pvalue


# --- units


@settings(max_examples=100, deadline=None)
@given(labelled())
def test_find_units_equals_the_slow_units(clips):
    members, sources, folds = clips
    found, expected = find_units(members, sources, folds), slow.units(members, sources, folds)
    assert found.unit.shape == (len(members),)
    np.testing.assert_array_equal(found.unit == -1, ~members.any(axis=1))
    by_clips = {unit.clips: unit for unit in expected}
    ordered = []
    for unit in range(len(found.stratum)):
        ordered.append(by_clips.pop(frozenset(np.flatnonzero(found.unit == unit).tolist())))
        assert frozenset(np.flatnonzero(found.members[unit]).tolist()) == ordered[-1].classes
    assert not by_clips
    assert same_parts(found.stratum, [unit.stratum for unit in ordered])
    assert same_parts(found.recording, [unit.recording for unit in ordered])
    group = slow.groups(members, sources, folds)
    assert len(found.group) == len(group)
    assert same_parts(found.group[found.recording], [group[unit.recording] for unit in ordered])


def test_find_units_by_hand():
    """Source x in two folds is two recordings; y has clips of two classes; z has one without a class."""
    members = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 0], [0, 0], [0, 1], [1, 1]], bool)
    sources, folds = list("xxxyyzzw"), [1, 1, 2, 1, 1, 2, 2, 2]
    units = find_units(members, sources, folds)
    assert units.unit.tolist() == [0, 0, 1, 2, 3, -1, 4, 5]
    assert units.members.tolist() == members[[0, 2, 3, 4, 6, 7]].tolist()
    assert units.stratum.tolist() == [0, 1, 2, 2, 1, 1]
    assert units.recording.tolist() == [0, 1, 2, 2, 3, 4]
    assert units.group.tolist() == [0, 1, 0, 1, 1]  # the last clip has two classes: groups are folds
    units = find_units(members[:-1], sources[:-1], folds[:-1])
    assert units.group.tolist() == [0, 1, 0, 1]  # fold 1: class 0 and both, each alone; fold 2 class 1


@pytest.mark.parametrize("sources", [[None, None, None, "x"], [True, True, True, "x"]])
def test_find_units_takes_any_source_as_a_name(sources):
    units = find_units(np.array([[1, 0], [0, 1], [1, 0], [0, 1]], bool), sources, [0] * 4)
    assert units.stratum.tolist() == [0, 0, 0, 1]


def test_find_units_leaves_out_clips_of_no_class():
    units = find_units(np.zeros((3, 2), bool), list("aab"), [0, 0, 1])
    assert units.unit.tolist() == [-1, -1, -1]
    assert units.members.shape == (0, 2)
    assert units.sums(np.ones((3, 4, 5), np.uint16)).shape == (0, 4, 5)
    assert units.exchanged(np.random.default_rng(0)).shape == (0, 2)


@settings(max_examples=100, deadline=None)
@given(labelled(), st.integers(0, 1000))
def test_units_sums_equal_the_slow_sums(clips, seed):
    members, sources, folds = clips
    units, expected = find_units(members, sources, folds), slow.units(members, sources, folds)
    values = np.random.default_rng(seed).integers(60_000, 2**16, (len(members), 2, 3)).astype(np.uint16)
    found = units.sums(values)
    assert found.dtype == np.float64
    assert found.shape == (len(expected), 2, 3)
    for unit in expected:
        total = [sum(int(values[clip, a, b]) for clip in unit.clips) for a, b in np.ndindex(2, 3)]
        assert found[units.unit[min(unit.clips)]].ravel().tolist() == total


# --- exchange


@settings(max_examples=100, deadline=None)
@given(labelled(), st.integers(0, SOME))
def test_units_exchanged_keeps_labels_together_and_in_their_stratum(clips, seed):
    units = find_units(*clips)
    found = units.exchanged(np.random.default_rng(seed))
    for stratum in set(units.stratum.tolist()):
        inside = units.stratum == stratum
        assert sorted(found[inside].tolist()) == sorted(units.members[inside].tolist())


def test_units_exchanged_draws_every_exchange_equally_often():
    """Three recordings of a fold, one of two classes, and one recording of three clips, two of them alike."""
    members = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 1]], bool)
    units = find_units(members, list("abcddd"), [0] * 6)
    assert units.stratum.tolist() == [0, 0, 0, 1, 1, 1]
    rng, kinds = np.random.default_rng(0), (members @ [1, 2, 4]).tolist()
    found = [tuple((units.exchanged(rng) @ [1, 2, 4]).tolist()) for _ in range(MANY)]
    possible = itertools.product(itertools.permutations(kinds[:3]), itertools.permutations(kinds[3:]))
    expected = Counter(first + second for first, second in possible)
    assert len(expected) == 6 * 3
    assert frequencies(found, expected) > LEAST_LIKELY


# --- bootstrap and halves


def per_recording(units, values):
    """One value of each recording; all of its units must have the same."""
    found = [set(values[units.recording == number].tolist()) for number in range(len(units.group))]
    assert all(len(one) == 1 for one in found)
    return [one.pop() for one in found]


@settings(max_examples=100, deadline=None)
@given(labelled(), st.integers(0, SOME))
def test_units_resampled_and_half_keep_recordings_whole_and_in_their_groups(clips, seed):
    members, sources, folds = clips
    units, groups = find_units(*clips), slow.groups(*clips)
    name = {}
    for unit in slow.units(members, sources, folds):
        name[int(units.recording[units.unit[min(unit.clips)]])] = groups[unit.recording]
    drawn = per_recording(units, units.resampled(np.random.default_rng(seed)))
    half = per_recording(units, units.half(np.random.default_rng(seed)))
    inside = defaultdict(list)
    for recording, group in name.items():
        inside[group].append(recording)
    assert sum(map(len, inside.values())) == len(drawn)
    for recordings in inside.values():
        assert sum(drawn[one] for one in recordings) == len(recordings)
        assert abs(2 * sum(half[one] for one in recordings) - len(recordings)) <= 1


def test_units_resampled_and_half_draw_every_outcome_as_often_as_they_should():
    """Groups of three and four recordings, mixed up, and one of a single recording of two clips."""
    members = np.eye(3, dtype=bool)[[0, 1, 1, 0, 1, 0, 1, 2, 2]]
    units = find_units(members, list("abcdefghh"), [0] * 9)
    three, four = [0, 3, 5], [1, 2, 4, 6]
    assert same_parts(units.group, [(0, int(row.argmax())) for row in members[:8]])
    rng = np.random.default_rng(1)
    drawn = np.array([per_recording(units, units.resampled(rng)) for _ in range(MANY)])
    assert (drawn[:, 7] == 1).all()
    for group in (three, four):
        size = range(len(group))
        samples = itertools.product(size, repeat=len(group))
        expected = Counter(tuple(sample.count(one) for one in size) for sample in samples)
        assert frequencies(list(map(tuple, drawn[:, group].tolist())), expected) > LEAST_LIKELY
    halves = np.array([per_recording(units, units.half(rng)) for _ in range(MANY)])
    of_three = {way: 1 for way in itertools.product([False, True], repeat=3) if 1 <= sum(way) <= 2}
    of_four = {way: 1 for way in itertools.product([False, True], repeat=4) if sum(way) == 2}
    together = {a + b + (c,): 1 for a in of_three for b in of_four for c in (False, True)}
    assert len(together) == 6 * 6 * 2
    found = [tuple(row) for row in halves[:, [*three, *four, 7]].tolist()]
    assert frequencies(found, together) > LEAST_LIKELY


def test_units_fixed_clips_have_a_stratum_without_another_class():
    """Recordings of two clips of two classes can be exchanged; one of three clips, and the only single one, cannot."""
    labels = [0, 0, 1, 1, 2, 2, 2, 0]
    units = find_units(np.eye(3, dtype=bool)[labels], list("aabbcccd"), [0] * 8)
    assert units.fixed.tolist() == [False] * 4 + [True] * 4
    alike = find_units(np.eye(3, dtype=bool)[[0, 0, 0]], list("abc"), [0] * 3)
    assert alike.fixed.all()
    within = find_units(np.eye(3, dtype=bool)[[0, 1, 2]], list("aab"), [0] * 3)  # a recording of two classes
    assert within.fixed.tolist() == [False, False, True]
    without = find_units(np.zeros((2, 3), bool), list("ab"), [0] * 2)
    assert not without.fixed.any()
