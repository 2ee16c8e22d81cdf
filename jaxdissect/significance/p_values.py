"""Empirical p-values and false discovery rates."""

import numpy as np
from jaxtyping import Float

ROUNDING = 1e-6  # error of a change of float32 margins, relative to the largest


def empirical_p(
    observed: Float[np.ndarray, "*axes"], controls: Float[np.ndarray, "control *axes"]
) -> Float[np.ndarray, "*axes"]:
    """Two-sided p-value of an observation among its controls; never below 1 / (controls + 1).

    `p = (1 + #{k: |c_k - m| >= |t - m|}) / (1 + K)`, with m the mean of the observation and its controls together.
    The observation enters m as a control does, so p is exact if it is exchangeable with its controls. NaN without
    controls, or where a number is not finite.

    Args:
      observed: observation t.
      controls: its K controls c.
    """
    values = np.concatenate([observed[None], controls]).astype(np.float64)
    if not len(controls):
        return np.full(observed.shape, np.nan)
    finite = np.isfinite(values).all(axis=0)
    values = np.where(finite, values, 0.0)
    distance = np.abs(values - values.mean(axis=0))
    # A control with the observation's value counts, though float32 programs of other sizes round it otherwise.
    slack = ROUNDING * np.abs(values).max(axis=0)
    beyond = (distance[1:] >= distance[0] - slack).sum(axis=0)
    return np.where(finite, (1 + beyond) / len(values), np.nan)


def benjamini_hochberg(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """q-values: the false discovery rate at which each test is just rejected; NaN stays NaN and counts as no test.

    Valid under independence and positive dependence.

    Source: Benjamini and Hochberg, "Controlling the False Discovery Rate" (JRSS B 1995).

    Args:
      p_values: p-value of each test.
    """
    # SciPy's false_discovery_control refuses NaN, and computes p * (tests / rank): the last bit of q-values differs.
    q_values = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    adjusted = p_values[order] * len(order) / np.arange(1, len(order) + 1)
    # From the largest p-value down, so that a smaller p-value never has the larger q-value.
    q_values[order] = np.minimum.accumulate(adjusted[::-1])[::-1].clip(max=1)
    return q_values
