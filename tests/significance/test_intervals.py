"""Bootstrap intervals, against closed forms and simulation."""

import numpy as np
import pytest
import scipy.stats

from jaxdissect.significance.intervals import auroc_interval, bootstrap_means, bootstrap_ratios


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


def test_auroc_interval_solves_its_equation_and_is_never_a_point():
    """At each end the observation lies 1.96 standard deviations away, by the variance of Hanley and McNeil."""
    auroc = np.array([0.5, 0.7, 0.93, 1.0, 0.0, np.nan])
    low, high = auroc_interval(auroc, 12, 40)
    size = (12 + 40) / 2 - 1
    for end, within in ((low, auroc > 0), (high, auroc < 1)):
        a, own = end[within], auroc[within]
        variance = a * (1 - a) * (1 + size * ((1 - a) / (2 - a) + a / (1 + a))) / (12 * 40)
        np.testing.assert_allclose(np.abs(own - a), 1.959964 * np.sqrt(variance), rtol=1e-6)
    assert low[3] < 0.9
    assert high[3] == 1
    assert low[4] == 0
    assert high[4] > 0.1
    np.testing.assert_allclose(low[:5], 1 - auroc_interval(1 - auroc, 12, 40)[1][:5])  # symmetric
    assert np.isnan(low[5])


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_auroc_interval_covers_the_auroc_of_normal_readings(shift):
    """Ten readings of a class, 40 of the rest, shifted: the true AUROC is Phi(shift / sqrt 2)."""
    rng, truth = np.random.default_rng(3), scipy.stats.norm.cdf(shift / np.sqrt(2))
    own, rest = rng.normal(shift, size=(2000, 10)), rng.normal(size=(2000, 40))
    auroc = (own[:, :, None] > rest[:, None]).mean(axis=(1, 2))
    low, high = auroc_interval(auroc, 10, 40)
    assert 0.93 < ((low <= truth) & (truth <= high)).mean() < 0.99


def test_bootstrap_ratios_cover_the_ratio_and_keep_recordings_together():
    """Rates of recordings vary about 0.4 for the class and 0.2 for the others; 3 clips of each are the same."""
    rng = np.random.default_rng(4)
    inside = np.repeat(np.arange(60) < 20, 3)
    rates = np.where(np.arange(60) < 20, 0.4, 0.2)[:, None] * rng.uniform(0.5, 1.5, size=(60, 400))
    active, recordings = np.repeat(rates, 3, axis=0) * 50, np.repeat(np.arange(60), 3)
    tokens = np.full(180, 50.0)
    low, high = bootstrap_ratios(active, tokens, inside, recordings, 400, 0)
    assert 0.9 < ((low <= 2) & (high >= 2)).mean() < 0.98
    alone = bootstrap_ratios(active, tokens, inside, np.arange(180), 400, 0)
    assert np.mean(high - low) / np.mean(alone[1] - alone[0]) == pytest.approx(np.sqrt(3), rel=0.1)
    silent = active * inside[:, None]
    assert np.isinf(bootstrap_ratios(silent, tokens, inside, recordings, 40, 0)[0]).all()
