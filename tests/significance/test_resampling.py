"""Bootstrap and halves: against selections from resampled clips by the slow version, and what they must show."""

import warnings

import numpy as np
import pytest
import slow_method as slow
from recordings import recorded_clips
from tolerances import assert_within

from jaxdissect import SelectionRule
from jaxdissect.significance.resampling import bootstrap, by_aape, split_halves
from jaxdissect.significance.unit_counts import UnitCounts
from jaxdissect.significance.units import find_units

RULE = SelectionRule(keep=0.4, drop_weakest=0.15, bar=0.7)
SEED = 5


def counts_of(clips, sources=None):
    units = find_units(clips.members, sources or clips.sources, clips.folds)
    return UnitCounts(clips.counts, clips.tokens, units)


def bootstrap_of(counts, rule, *draws, **options):
    return bootstrap(counts.units, by_aape(counts, rule), counts.shape, *draws, **options)


def halves_of(counts, rule, *draws, **options):
    return split_halves(counts.units, by_aape(counts, rule), counts.shape, *draws, **options)


def slow_selection(clips, times, rule=RULE):
    """The slow selection from clips that are each there so many times; sets of (layer, neuron) by class, and AAPE."""
    clips_of = [[clip for clip in np.repeat(np.arange(len(times)), times) if row[clip]] for row in clips.members.T]
    there = [one for one, clips_of_one in enumerate(clips_of) if clips_of_one]
    active = np.array([clips.counts[clips_of[one]].astype(int).sum(axis=0) for one in there])
    tokens = np.array([clips.tokens[clips_of[one]].sum() for one in there])
    found = slow.select(
        active, tokens, preset=rule.preset, keep=rule.keep, weakest=rule.drop_weakest, bar_rate=rule.bar
    )
    sets = [set() for _ in clips_of]
    for one, *place in found.specific:
        sets[there[one]].add(tuple(place))
    aape = np.full(clips.counts.shape[1:], np.nan)
    for place, value in found.aape.items():
        aape[place] = np.nan if value is None else float(value)
    return sets, aape


def similar(one, other):
    return len(one & other) / len(one | other) if one | other else 0.0


def percentiles(values, level):
    """Ends of the middle `level` of values, on straight lines between neighbours in rank."""
    found = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        place = share * (len(values) - 1)
        low = int(place)
        ranked = sorted(values)
        following = ranked[min(low + 1, len(ranked) - 1)]
        found.append(ranked[low] + (place - low) * (following - ranked[low]))
    return found


CASES = {
    "recordings of one class": {},
    "several classes a clip": {"several": 0.2, "unlabelled": 0.1},
    "clips of their own classes": {"mixed": 0.5},
}


@pytest.mark.parametrize("case", CASES)
def test_bootstrap_selects_from_every_sample(case):
    clips = recorded_clips(1, recordings=9, neurons=30, **CASES[case])
    counts = counts_of(clips)
    sizes, coverage, jaccard, aape, done = [], [], [], [], []
    for number in range(12):
        weights = counts.units.resampled(np.random.default_rng([SEED, number, 1]))
        times = np.where(counts.units.unit < 0, 0, weights[counts.units.unit])
        sets, entropies = slow_selection(clips, times)
        sizes.append(sum(map(len, sets)) / 3)
        coverage.append(sum(map(bool, sets)) / 3)
        jaccard.append([[similar(a, b) for b in sets] for a in sets])
        aape.append(entropies)
    assert len(set(sizes)) > 3
    found = bootstrap_of(counts, RULE, 12, SEED, 0.8, progress=done.append)
    assert done == list(range(1, 13))
    assert found.neurons_per_class.tolist() == pytest.approx(percentiles(sizes, 0.8), rel=1e-12)
    assert found.coverage.tolist() == pytest.approx(percentiles(coverage, 0.8), rel=1e-12)
    for ends, values in ((found.jaccard, np.array(jaccard)), (found.aape, np.array(aape))):
        expected = np.array([percentiles(values[:, i, j], 0.8) for i, j in np.ndindex(values.shape[1:])])
        expected = expected.T.reshape(2, *values.shape[1:])
        assert_within("interval in float32, absolute", np.abs(ends - expected).max())
        assert (expected[0] < expected[1]).any()


@pytest.mark.parametrize("case", CASES)
def test_split_halves_selects_from_each_half(case):
    clips = recorded_clips(2, recordings=9, neurons=30, **CASES[case])
    counts = counts_of(clips)
    selected, jaccard, done = np.zeros((3, *clips.counts.shape[1:])), [], []
    for number in range(8):
        half = counts.units.half(np.random.default_rng([SEED, number, 2]))
        in_half = np.where(counts.units.unit < 0, False, half[counts.units.unit])
        labelled = counts.units.unit >= 0
        pairs = []
        for part in (in_half & labelled, ~in_half & labelled):
            sets, _ = slow_selection(clips, part.astype(int))
            pairs.append({(one, *place) for one, places in enumerate(sets) for place in places})
            for pair in pairs[-1]:
                selected[pair] += 1 / 16
        jaccard.append(similar(*pairs))
    found = halves_of(counts, RULE, 8, SEED, progress=done.append)
    assert done == list(range(1, 9))
    np.testing.assert_allclose(found.selected, selected, atol=1e-12)
    assert found.jaccard == pytest.approx(np.mean(jaccard), rel=1e-12)
    assert 0 < found.jaccard < 1
    assert {0 < share < 1 for share in selected.ravel()} == {True, False}


def test_split_halves_where_a_class_is_missing_from_a_half():
    """Class 2 has one recording: it is in one half of every split, and its neurons are selected in half of them."""
    clips = recorded_clips(3, folds=1, recordings=9, clips=(2, 2), classes=2, neurons=20)
    clips.members = np.concatenate([clips.members, np.zeros((len(clips.members), 1), bool)], axis=1)
    clips.members[-2:] = [False, False, True]
    clips.counts[:, 0, 0] = 0
    clips.counts[-2:, 0, 0] = clips.tokens[-2:]
    found = halves_of(counts_of(clips), RULE, 20, 0)
    assert found.selected[2, 0, 0] == 0.5
    assert found.selected.max() <= 1
    assert (found.selected[2] <= 0.5).all()


def test_bootstrap_of_a_neuron_that_never_fires_has_no_interval_and_no_warning():
    clips = recorded_clips(3, recordings=6)
    clips.counts[:, 0, 1] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap_of(counts_of(clips), RULE, 5, 0)
    assert np.isnan(found.aape[:, 0, 1]).all()
    assert np.isfinite(found.aape).sum() == found.aape.size - 2


@pytest.mark.parametrize("classes", [1, 2])
def test_bootstrap_and_split_halves_of_one_recording(classes):
    """Of one class, or of clips of two: one half is empty, and nothing is selected from it."""
    clips = recorded_clips(3, folds=1, recordings=1, clips=(4, 4), classes=classes)
    clips.members[:] = np.eye(classes, dtype=bool)[np.arange(4) % classes]
    counts = counts_of(clips)
    assert len(counts.units.group) == 1
    found = bootstrap_of(counts, RULE, 3, 0)
    np.testing.assert_array_equal(found.aape[0], found.aape[1])
    halves = halves_of(counts, RULE, 4, 0)
    assert np.isnan(halves.jaccard)
    assert set(halves.selected.ravel().tolist()) <= {0.0, 0.5}


def test_split_halves_without_a_split_knows_nothing():
    clips = recorded_clips(3)
    found = halves_of(counts_of(clips), RULE, 0, 0)
    assert np.isnan(found.jaccard)
    assert not found.selected.any()


def test_split_halves_finds_planted_pairs_stable_and_chance_not():
    """Of 40 neurons 4 are driven by one class each, and 4 are kept: always these. Of noise, a few of 40 agree."""
    rule = SelectionRule(keep=0.1, drop_weakest=0.05, bar=0.9)
    planted = [(0, 3), (1, 11), (2, 22), (0, 37)]
    data = {"neurons": 40, "recordings": 24, "clips": (1, 2), "tokens": (30, 41), "common": 0.3}
    found = halves_of(counts_of(recorded_clips(0, planted=planted, **data)), rule, 20, 0)
    of_planted = found.selected[tuple(np.array([(one, *divmod(neuron, 20)) for one, neuron in planted]).T)]
    assert (of_planted == 1).all()
    assert found.jaccard > 0.9
    noise = halves_of(counts_of(recorded_clips(0, **data)), rule, 40, 0)
    assert noise.jaccard < 0.5
    assert noise.selected.max() < 1


def test_bootstrap_intervals_are_of_recordings_not_of_clips():
    """Six clips of each recording that are much alike: taken as independent, intervals are far too narrow."""
    clips = recorded_clips(4, recordings=12, clips=(6, 6), neurons=40, tokens=(40, 41))
    own, independent = (
        np.diff(bootstrap_of(counts_of(clips, sources), RULE, 60, 0).aape, axis=0).mean()
        for sources in (None, list(range(len(clips.sources))))
    )
    assert own > 1.5 * independent
