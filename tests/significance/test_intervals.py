"""Bootstrap intervals, against closed forms and simulation."""

import numpy as np
import pytest

from jaxdissect.significance.intervals import bootstrap_means


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
