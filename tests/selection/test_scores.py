"""Scores beside AAPE, against scikit-learn, scipy, tokens one by one, and cases worked out on paper."""

import math
import statistics
import warnings
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tolerances import assert_within, relative_error

from jaxdissect.selection.scores import agreement, best_of_each_class, class_selectivity, d_prime

# --- class selectivity


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.int64, st.tuples(st.integers(1, 5), st.just(2), st.integers(1, 4)), elements=st.integers(0, 9)))
def test_class_selectivity_is_that_of_fractions(tenths):
    found = class_selectivity(tenths / 9)
    for one, layer, neuron in np.ndindex(tenths.shape):
        value, rest = Fraction(int(tenths[one, layer, neuron]), 9), np.delete(tenths[:, layer, neuron], one)
        if not len(rest) or not tenths[:, layer, neuron].any():
            assert np.isnan(found[one, layer, neuron])
            continue
        mean = Fraction(int(rest.sum()), 9 * len(rest))
        expected = float((value - mean) / (value + mean))
        assert found[one, layer, neuron] == pytest.approx(expected, abs=1e-12)
        assert -1 - 1e-12 <= found[one, layer, neuron] <= 1 + 1e-12


def test_class_selectivity_by_hand():
    found = class_selectivity(np.array([[0.3, 0.2, 0.0], [0.1, 0.2, 0.0], [0.1, 0.2, 0.5]]))
    np.testing.assert_allclose(found, [[0.5, 0, -1], [-1 / 3, 0, -1], [-1 / 3, 0, 1]], atol=1e-12)


# --- d'


def sums(values, chosen):
    return values[chosen].sum(axis=0), np.square(values[chosen]).sum(axis=0), int(np.count_nonzero(chosen))


def test_d_prime_is_that_of_the_tokens():
    """Two classes that have tokens in common, one that has none of its own, and tokens of no class."""
    rng = np.random.default_rng(0)
    values = rng.normal(3, [[1.0, 0.01], [30, 2]], (60, 2, 2))
    values[:, 1, 1] = 7.0
    of = np.zeros((3, 60), bool)
    of[0, :20], of[1, 10:50], of[2, :] = True, True, True
    parts = [sums(values, row) for row in of]
    total, squares, tokens = (np.array(part) for part in zip(*parts, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = d_prime(total, squares, tokens, *sums(values, np.ones(60, bool)))
    assert np.isnan(found[2]).all()
    for one, layer, neuron in np.ndindex(2, 2, 2):
        own, rest = values[of[one], layer, neuron].tolist(), values[~of[one], layer, neuron].tolist()
        spread = math.sqrt((statistics.pvariance(own) + statistics.pvariance(rest)) / 2)
        if not spread:
            assert np.isnan(found[one, layer, neuron])
            continue
        expected = (statistics.fmean(own) - statistics.fmean(rest)) / spread
        assert abs(expected) > 0.01
        assert found[one, layer, neuron] == pytest.approx(expected, rel=1e-6)


def test_d_prime_of_two_normal_distributions():
    """Means 2 and 0.5, deviations 3 and 1: 1.5 / sqrt(5). Of 200,000 tokens each it is known to 0.004."""
    rng = np.random.default_rng(1)
    one, other = rng.normal(2, 3, 200_000), rng.normal(0.5, 1, 200_000)
    values = np.concatenate([one, other])[:, None]
    found = d_prime(
        *(np.array(part)[None] for part in sums(values, np.arange(400_000) < 200_000)),
        *sums(values, np.ones(400_000, bool)),
    )
    assert found.item() == pytest.approx(1.5 / math.sqrt(5), abs=0.015)


# --- the best of each class


@settings(max_examples=150, deadline=None)
@given(
    arrays.arrays(
        np.float64,
        st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 6)),
        elements=st.sampled_from([math.nan, -1.0, 0.0, 0.1, 0.1 + 1e-14, 0.5]),
    ),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]),
)
def test_best_of_each_class_equals_a_loop(score, keep):
    found = best_of_each_class(score, keep)
    for values, chosen in zip(score, found, strict=True):
        flat = values.ravel().tolist()
        ranked = sorted((-round(value, 12), place) for place, value in enumerate(flat) if not math.isnan(value))
        expected = sorted(place for _, place in ranked[: round(keep * len(flat))])
        assert np.flatnonzero(chosen).tolist() == expected


def test_best_of_each_class_may_be_the_lowest_score_but_not_nan():
    score = np.array([[[np.nan, -np.inf, -2.0, np.nan]]])
    assert best_of_each_class(score, 1.0).ravel().tolist()[0::3] == [False, False]
    assert best_of_each_class(score, 0.25).ravel().tolist() == [False, False, True, False]


# --- agreement


def test_agreement_is_spearmans_within_classes():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 9, (4, 2, 15)).astype(float)
    b = a + rng.normal(0, 3, a.shape)
    b[0, :, :4] = np.nan
    a[2] = 5.0  # says nothing of class 2
    a[3, 0], a[3, 1, :13] = np.nan, np.nan  # two are left of class 3
    chosen = {"a": rng.random(a.shape) < 0.3, "b": rng.random(a.shape) < 0.3, "c": np.zeros(a.shape, bool)}
    rows = agreement({"a": a, "b": b, "c": -b}, chosen)
    assert [(row["selector_a"], row["selector_b"]) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    first, opposite, own = rows
    usable = [(a[0, :, 4:], b[0, :, 4:]), (a[1], b[1])]
    expected = np.mean([scipy.stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in usable])
    assert 0.2 < expected < 0.95
    assert_within("rank correlation against scipy's, relative", relative_error(first["rank_correlation"], expected))
    assert opposite["rank_correlation"] == pytest.approx(-expected)
    assert own["rank_correlation"] == pytest.approx(-1)
    sets = {name: set(map(tuple, np.argwhere(mask))) for name, mask in chosen.items()}
    assert (first["pairs_a"], first["pairs_b"]) == (len(sets["a"]), len(sets["b"]))
    assert first["shared"] == len(sets["a"] & sets["b"]) > 0
    assert first["jaccard"] == len(sets["a"] & sets["b"]) / len(sets["a"] | sets["b"])
    assert opposite["jaccard"] == 0
    nothing = agreement({"a": a[2:], "c": b[2:]}, {"a": chosen["c"][2:], "c": chosen["c"][2:]})
    assert np.isnan(nothing[0]["rank_correlation"])
    assert np.isnan(nothing[0]["jaccard"])
