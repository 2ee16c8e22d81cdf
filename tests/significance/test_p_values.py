"""p-values and false discovery rates, against scipy, closed forms and simulation."""

import numpy as np
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from jaxdissect.significance.p_values import benjamini_hochberg, empirical_p


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
