"""Scores beside AAPE by which a neuron is called specific to a class: one number per class and neuron, high is more.

AAPE says how few classes a neuron answers to, but not to which of them. These scores say how well a neuron separates
one class from the others.
"""

import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.runtime.progress import progress_bar
from jaxdissect.selection.aape import TIE_DECIMALS
from jaxdissect.types import Record


def class_selectivity(p: Float[np.ndarray, "class *axes"]) -> Float[np.ndarray, "class *axes"]:
    """Class selectivity `(p[c] - r[c]) / (p[c] + r[c])`, from -1 to 1, with r[c] the mean of p over the other classes.

    NaN for a single class, and where a neuron never fires.

    Source: Morcos et al., "On the importance of single directions for generalization" (ICLR 2018). They take mean
    activations and only the class of the highest; here p is taken, and every class has a score.

    Args:
      p: class-conditional activation probability.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = (p.sum(axis=0) - p) / (len(p) - 1)
        return (p - rest) / (p + rest)


def d_prime(
    total: Float[np.ndarray, "class *axes"],
    squares: Float[np.ndarray, "class *axes"],
    tokens: Int[np.ndarray, " class"],
    all_total: Float[np.ndarray, "*axes"],
    all_squares: Float[np.ndarray, "*axes"],
    all_tokens: int,
) -> Float[np.ndarray, "class *axes"]:
    """Sensitivity index d' of a class against the rest, over the activations of tokens.

    `(mean of the class - mean of the rest) / sqrt((variance of the class + variance of the rest) / 2)`. The rest is
    every counted clip without the class. NaN where there is no rest, or nothing varies.

    Source: Green and Swets, "Signal Detection Theory and Psychophysics" (1966), for unequal variances (d_a).

    Args:
      total: sum of the activation over the tokens of each class.
      squares: sum of the squared activation over the tokens of each class.
      tokens: number of tokens of each class.
      all_total, all_squares, all_tokens: the same three over all clips.
    """
    n = tokens.reshape(-1, *[1] * (total.ndim - 1)).astype(np.float64)  # beside the axes of `total`
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, rest_mean = total / n, (all_total - total) / (all_tokens - n)
        variance = squares / n - mean**2
        rest_variance = (all_squares - squares) / (all_tokens - n) - rest_mean**2
        # Rounding makes the difference of two equal numbers slightly negative, which no variance is.
        deviation = np.sqrt((variance.clip(min=0) + rest_variance.clip(min=0)) / 2)
        score = (mean - rest_mean) / deviation
    return np.where(np.isfinite(score), score, np.nan)


def best_of_each_class(
    score: Float[np.ndarray, "class layer neuron"], keep: float
) -> Bool[np.ndarray, "class layer neuron"]:
    """The neurons with the highest score for every class; a NaN is never chosen.

    Ties are broken by (layer, neuron).

    Args:
      score: score of every class and neuron.
      keep: fraction of all neurons that every class gets.
    """
    flat = score.reshape(len(score), -1)
    # Ascending order of the negative score, with NaN last; the stable sort breaks ties by (layer, neuron).
    ranked = np.where(np.isnan(flat), np.inf, -flat.round(TIE_DECIMALS))
    best = np.argsort(ranked, axis=1, kind="stable")[:, : round(keep * flat.shape[1])]
    chosen = np.zeros(flat.shape, bool)
    np.put_along_axis(chosen, best, np.isfinite(np.take_along_axis(ranked, best, axis=1)), axis=1)
    return chosen.reshape(score.shape)


def agreement(
    scores: Mapping[str, Float[np.ndarray, "class layer neuron"]],
    specific: Mapping[str, Bool[np.ndarray, "class layer neuron"]],
) -> list[Record]:
    """How far selectors agree: a row for every two of them.

    `rank_correlation` is Spearman's correlation of the scores within a class, mean over the classes, of the neurons
    that both selectors can score. `jaccard` is the Jaccard coefficient of the selected pairs of class and neuron.

    Args:
      scores: scores of each selector.
      specific: pairs of class and neuron that each selector chooses.
    """
    from scipy.stats import spearmanr  # a tenth of what every command takes to start

    rows = []
    pairs = list(itertools.combinations(scores, 2))
    for a, b in progress_bar(pairs, what="Comparing selectors", unit="pair"):
        correlations = []
        for of_a, of_b in zip(scores[a], scores[b], strict=True):
            both = np.isfinite(of_a) & np.isfinite(of_b)
            x, y = of_a[both], of_b[both]
            if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:  # else the correlation is undefined or always 1
                correlations.append(float(spearmanr(x, y).statistic))
        shared = int((specific[a] & specific[b]).sum())
        either = int((specific[a] | specific[b]).sum())
        rows.append(
            {
                "selector_a": a,
                "selector_b": b,
                "rank_correlation": float(np.mean(correlations)) if correlations else np.nan,
                "pairs_a": int(specific[a].sum()),
                "pairs_b": int(specific[b].sum()),
                "shared": shared,
                "jaccard": shared / either if either else np.nan,
            }
        )
    return rows
