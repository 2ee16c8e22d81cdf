"""Ranks of units and the test by several readings: against plain sums, and on labels that mean nothing."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from jaxdissect.selection.auroc import centred_ranks
from jaxdissect.significance import unit_counts
from jaxdissect.significance.assess import NOTHING_PASSES
from jaxdissect.significance.permutation import PermutationTest
from jaxdissect.significance.unit_counts import UnitRanks
from jaxdissect.significance.units import find_units

CLIPS, CLASSES, SHAPE = 90, 3, (2, 25)


def made_units(several=False):
    """Recordings of one to three clips in two folds; some clips have no class, and some may have two."""
    rng = np.random.default_rng(0)
    sources = np.repeat(np.arange(CLIPS), rng.integers(1, 4, CLIPS))[:CLIPS]
    label = rng.integers(0, CLASSES, CLIPS)[sources]
    members = label[:, None] == np.arange(CLASSES)
    if several:
        members |= rng.random((CLIPS, CLASSES))[sources] < 0.2
    members[sources % 11 == 5] = False
    return members, find_units(members, sources.tolist(), (sources % 2).tolist())


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("chunk", [2**24, 400])
def test_unit_ranks_are_sums_of_ranks_among_the_clips_of_the_units(several, chunk, monkeypatch):
    monkeypatch.setattr(unit_counts, "CHUNK", chunk)
    members, units = made_units(several)
    values = np.random.default_rng(1).integers(0, 9, size=(CLIPS, *SHAPE)).astype(np.float32)
    ranks = UnitRanks(values, units)
    inside = members.any(axis=1)
    expected = np.zeros((CLIPS, *SHAPE))
    expected[inside] = scipy.stats.rankdata(values[inside], axis=0) - (inside.sum() + 1) / 2
    found = np.concatenate([np.asarray(part) for part in ranks.chunks], axis=1).reshape(-1, *SHAPE)
    np.testing.assert_allclose(found, units.sums(expected), atol=1e-4)
    auroc = ranks.auroc(np.ones((1, len(units.stratum)), np.int64))[0]
    for label in range(CLASSES):
        own = members[inside, label]
        assert auroc[label, 1, 7] == pytest.approx(roc_auc_score(own, values[inside, 1, 7]), abs=1e-6)
    # A sample: the clips of each unit as often as its weight says, ranked among all.
    weights = np.random.default_rng(2).integers(0, 3, len(units.stratum))
    times = weights[units.unit] * inside
    sampled = np.repeat(np.arange(CLIPS), times)
    ranked = centred_ranks(values[inside])[np.cumsum(inside)[sampled] - 1, 0, 3]
    own = members[sampled, 2]
    expected_auroc = 0.5 + (ranked[own].mean() - ranked[~own].mean()) / inside.sum()
    assert ranks.auroc(weights[None])[0, 2, 0, 3] == pytest.approx(expected_auroc, abs=1e-6)


def test_permutation_test_of_several_readings_holds_its_level_and_finds_what_is_planted():
    """Of three independent readings the best is taken, and p stays below its level as often as it may."""
    members, units = made_units()
    rng = np.random.default_rng(5)
    readings = [rng.normal(size=(CLIPS, 2, 1000)).astype(np.float32) for _ in range(3)]
    readings[1][members[:, 2], 0, 5] += 3
    test = PermutationTest([UnitRanks(values, units) for values in readings], NOTHING_PASSES, 0)
    null = test.empty_null()
    test.run(30, null, np.zeros((CLASSES, CLASSES), np.int64))
    assert null.done == 30
    p = test.tested(null).p_value
    single = [PermutationTest([UnitRanks(values, units)], NOTHING_PASSES, 0).statistic for values in readings]
    np.testing.assert_array_equal(test.statistic, np.max(single, axis=0))
    assert p[2, 0, 5] == p.min()
    noise = np.delete(p.reshape(CLASSES, -1), 5, axis=1)
    for level in (0.01, 0.05, 0.2):
        assert 0.6 * level < (noise <= level).mean() < 1.15 * level  # Bonferroni: at most, and not far below
    several, one = null.histogram.sum(axis=(1, 2)), 30 * 2000
    assert (several == one).all()  # each permutation permutes one reading


def test_permutation_test_of_several_readings_resumes_to_the_bit():
    units = made_units()[1]
    rng = np.random.default_rng(6)
    readings = [UnitRanks(rng.normal(size=(CLIPS, *SHAPE)).astype(np.float32), units) for _ in range(2)]
    shared = np.zeros((CLASSES, CLASSES), np.int64)
    test = PermutationTest(readings, NOTHING_PASSES, 1)
    whole, parts = test.empty_null(), test.empty_null()
    test.run(12, whole, shared)
    for upto in (5, 6, 12):
        test.run(upto, parts, shared)
    np.testing.assert_array_equal(whole.histogram, parts.histogram)
    np.testing.assert_array_equal(np.sort(whole.highest), np.sort(parts.highest))
