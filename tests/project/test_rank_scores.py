"""Rank scores of the benchmarks, against scikit-learn, scipy and a case worked out on paper."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.study.rank_scores import rank_scores


@st.composite
def scored(draw):
    clips, classes = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    share = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0])
    shares = draw(arrays.arrays(np.float32, (clips, 3), elements=share.map(np.float32).map(float)))
    return shares.astype(np.float32), draw(arrays.arrays(bool, (clips, classes)))


@settings(max_examples=80, deadline=None)
@given(scored())
def test_rank_scores_are_scikit_learns_with_ties_and_several_classes(case):
    shares, members = case
    found = rank_scores(shares, members)
    for one, neuron in np.ndindex(found[0].shape):
        own = members[:, one]
        if own.all() or not own.any():
            assert np.isnan(found[0][one, neuron])
            assert np.isnan(found[1][one, neuron])
            continue
        assert found[0][one, neuron] == pytest.approx(roc_auc_score(own, shares[:, neuron]), abs=1e-12)
        assert found[1][one, neuron] == pytest.approx(average_precision_score(own, shares[:, neuron]), abs=1e-12)


def test_rank_scores_of_many_clips_are_scikit_learns_and_mann_whitneys():
    rng = np.random.default_rng(0)
    tokens = rng.integers(100, 160, 900)
    shares = (rng.binomial(tokens[:, None], rng.uniform(0.01, 0.3, 4), (900, 4)) / tokens[:, None]).astype(np.float32)
    members = rng.random((900, 3)) < [0.02, 0.3, 0.5]
    shares[members[:, 1], 2] += np.float32(0.05)
    assert len(np.unique(shares[:, 0])) < 700
    auroc, precision = rank_scores(shares, members)
    for one, neuron in np.ndindex(3, 4):
        own, values = members[:, one], shares[:, neuron]
        u = scipy.stats.mannwhitneyu(values[own], values[~own]).statistic
        assert auroc[one, neuron] == pytest.approx(u / (own.sum() * (~own).sum()), rel=1e-12)
        assert auroc[one, neuron] == pytest.approx(roc_auc_score(own, values), rel=1e-12)
        assert precision[one, neuron] == pytest.approx(average_precision_score(own, values), rel=1e-12)
    assert auroc[1, 2] > 0.7
    order = rng.permutation(900)
    for a, b in zip(rank_scores(shares[order], members[order]), (auroc, precision), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    opposite = rank_scores(-shares, members)[0]
    np.testing.assert_allclose(opposite, 1 - auroc, atol=1e-12)


def test_rank_scores_by_hand():
    """Shares 3 2 2 1, of class at 2 (one of two), 1: beats half + 0 of (3, 2); precision 1/3 and 2/4."""
    auroc, precision = rank_scores(np.array([[3.0], [2.0], [2.0], [1.0]]), np.array([[False], [True], [False], [True]]))
    assert auroc.item() == 0.5 / 4
    assert precision.item() == pytest.approx((1 / 3 + 2 / 4) / 2)
    auroc, precision = rank_scores(np.zeros((5, 1)), np.arange(5)[:, None] < 2)
    assert auroc.item() == 0.5
    assert precision.item() == pytest.approx(0.4)
