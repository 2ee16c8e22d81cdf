"""p-values, false discovery rate and intervals, against scipy, closed forms and simulation."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from jaxdissect.significance.p_values import benjamini_hochberg, bootstrap_means, empirical_p


def test_empirical_p_by_hand():
    controls = np.array([0.0, 1.0, 2.0, 3.0])
    # with 14: mean 4, distances 10 | 4 3 2 1
    assert empirical_p(np.array(14.0), controls) == 1 / 5
    # with 1: mean 1.4, distances 0.4 | 1.4 0.4 0.6 1.6, all at least as far
    assert empirical_p(np.array(1.0), controls) == 1
    # with -4: mean 0.4, distances 4.4 | 0.4 0.6 1.6 2.6
    assert empirical_p(np.array(-4.0), controls) == 1 / 5
    assert np.isnan(empirical_p(np.array(1.0), np.zeros(0)))
    assert np.isnan(empirical_p(np.array(np.inf), controls))
    assert np.isnan(empirical_p(np.array(0.0), np.array([1.0, np.nan])))
    assert empirical_p(np.array(0.1), np.full(9, 0.1)) == 1  # all alike: nothing was found


@given(st.integers(0, 1000), st.integers(1, 60))
def test_empirical_p_does_not_depend_on_shift_scale_sign_and_order(seed, controls):
    rng = np.random.default_rng(seed)
    observed, drawn = rng.integers(-20, 20, 3).astype(float), rng.integers(-20, 20, (controls, 3)).astype(float)
    p = empirical_p(observed, drawn)
    assert (p >= 1 / (controls + 1)).all()
    np.testing.assert_array_equal(p, empirical_p(-observed, -drawn))
    np.testing.assert_array_equal(p, empirical_p(observed, rng.permutation(drawn)))
    np.testing.assert_array_equal(p, empirical_p(4 * observed + 64, 4 * drawn + 64))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 3))
def test_benjamini_hochberg_equals_scipys_and_leaves_nan_alone(p_values, missing):
    found = benjamini_hochberg(np.array(p_values + [np.nan] * missing))
    np.testing.assert_allclose(found[: len(p_values)], scipy.stats.false_discovery_control(p_values), atol=1e-12)
    assert np.isnan(found[len(p_values) :]).all()


def test_bootstrap_means_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    low, high = bootstrap_means(rng.normal(size=(100, 1000)), np.arange(100), 400, 0)
    assert 0.92 < ((low < 0) & (high > 0)).mean() < 0.97
    assert 0.9 < (high - low).mean() / (2 * 1.96 / 10) < 1.05


def test_bootstrap_means_keep_clips_of_one_source_together():
    """Ten clips of a source that all say the same are one observation, not ten."""
    rng = np.random.default_rng(1)
    values, sources = np.repeat(rng.normal(size=(30, 200)), 10, axis=0), np.repeat(np.arange(30), 10)
    widths = [np.diff(bootstrap_means(values, of, 300, 0), axis=0).mean() for of in (sources, np.arange(300))]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(10), rel=0.1)


def test_bootstrap_means_weigh_clips_not_sources():
    """Of two sources, one with three clips of 1 and one with one of 0, a resample's mean is 0, 3/4 or 1."""
    low, high = bootstrap_means(np.array([[1.0], [1.0], [1.0], [0.0]]), np.array([5, 5, 5, 9]), 400, 0, level=0.4)
    assert (low, high) == (0.75 if low else 0.0, 0.75 if high < 1 else 1.0)
    low, high = bootstrap_means(np.array([[1.0], [1.0], [1.0], [0.0]]), np.array([5, 5, 5, 9]), 4000, 0, level=0.4)
    assert (low[0], high[0]) == (0.75, 0.75)
    assert np.isnan(bootstrap_means(np.ones((4, 2)), np.zeros(4, int), 100, 0)).all()
