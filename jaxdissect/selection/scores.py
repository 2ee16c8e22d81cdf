"""Scores beside AAPE by which a neuron is called specific to a class: one number per class and neuron, high is more.

AAPE says how few classes a neuron answers to, and nothing of which; these say how well it tells one class from the
rest. All but the last two come from the same pass; those need every clip's counts (`--keep-clips`).
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.runtime.progress import progress_bar
from jaxdissect.selection.aape import TIE_DIGITS

SELECTORS = ("aape", "probability", "class_selectivity", "d_prime", "auroc", "average_precision")
FROM_CLIPS = ("auroc", "average_precision")


def class_selectivity(p: Float[np.ndarray, "class *axes"]) -> Float[np.ndarray, "class *axes"]:
    """`(p[c] - r[c]) / (p[c] + r[c])` with r[c] the mean of p over the other classes; from -1 to 1.

    Source: Morcos et al., "On the importance of single directions for generalization" (ICLR 2018), who take the class
    of the highest mean activation; here activation probabilities, and every class. NaN for one class, or where a neuron
    never fires.
    """
    others = len(p) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = (p.sum(axis=0) - p) / others
        return (p - rest) / (p + rest)


def d_prime(
    total: Float[np.ndarray, "class *axes"],
    squares: Float[np.ndarray, "class *axes"],
    tokens: Int[np.ndarray, " class"],
    all_total: Float[np.ndarray, "*axes"],
    all_squares: Float[np.ndarray, "*axes"],
    all_tokens: int,
) -> Float[np.ndarray, "class *axes"]:
    """`(mean of the class - mean of the rest) / sqrt((variance of the class + variance of the rest) / 2)`, over tokens.

    Source: Green and Swets, "Signal Detection Theory and Psychophysics" (1966), for unequal variances (d_a). The rest
    is every counted clip that is not of the class. NaN where there is no rest, or nothing varies.

    Args:
      total, squares, tokens: sums of the activation and of its square over the tokens of each class, and their number.
      all_total, all_squares, all_tokens: the same over all clips.
    """
    n = tokens.reshape(-1, *[1] * (total.ndim - 1)).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, rest = total / n, (all_total - total) / (all_tokens - n)
        variance = squares / n - mean**2
        of_rest = (all_squares - squares) / (all_tokens - n) - rest**2
        spread = np.sqrt((variance.clip(min=0) + of_rest.clip(min=0)) / 2)
        found = (mean - rest) / spread
    return np.where(np.isfinite(found), found, np.nan)


def rank_scores(
    shares: Float[np.ndarray, "clip neuron"], members: Bool[np.ndarray, "clip class"]
) -> tuple[Float[np.ndarray, "class neuron"], Float[np.ndarray, "class neuron"]]:
    """Area under the ROC curve, and average precision, of telling a class's clips by the share of active tokens.

    Both one class against the rest. AUROC is the probability that a clip of the class has the larger share than one of
    the rest, ties counted half; average precision is the mean over the class's clips of the share of its clips among
    all that score no lower (scikit-learn's definitions). NaN for a class that has no clip, or all.

    Args:
      shares: active tokens / tokens of every clip.
      members: classes of every clip.
    """
    clips = len(shares)
    above, as_high = _places(shares)
    auroc = np.full((members.shape[1], shares.shape[1]), np.nan)
    precision = auroc.copy()
    for index, chosen in enumerate(members.T):
        own = int(chosen.sum())
        if not 0 < own < clips:
            continue
        of_class = _places(shares[chosen])
        beaten = clips - (above[chosen] + as_high[chosen]) / 2 - (own - (of_class[0] + of_class[1]) / 2)
        auroc[index] = beaten.sum(axis=0) / (own * (clips - own))
        precision[index] = (of_class[1] / as_high[chosen]).mean(axis=0)
    return auroc, precision


def _places(
    shares: Float[np.ndarray, "clip neuron"],
) -> tuple[Int[np.ndarray, "clip neuron"], Int[np.ndarray, "clip neuron"]]:
    """How many clips have a larger share than each clip, and how many have one at least as large."""
    order = np.argsort(-shares, axis=0)
    falling = np.take_along_axis(shares, order, axis=0)
    number = np.arange(len(shares), dtype=np.int32)[:, None]
    new = np.ones(shares.shape, bool)
    new[1:] = falling[1:] != falling[:-1]
    above = np.maximum.accumulate(np.where(new, number, 0), axis=0)
    last = np.ones(shares.shape, bool)
    last[:-1] = new[1:]
    as_high = np.minimum.accumulate(np.where(last, number + 1, len(shares))[::-1], axis=0)[::-1]
    found = np.empty((2, *shares.shape), np.int32)
    for values, sorted_values in zip(found, (above, as_high), strict=True):
        np.put_along_axis(values, order, sorted_values.astype(np.int32), axis=0)
    return found[0], found[1]


def best_of_each_class(
    score: Float[np.ndarray, "class layer neuron"], keep: float
) -> Bool[np.ndarray, "class layer neuron"]:
    """The fraction `keep` of all neurons with the highest score, for every class; ties go by (layer, neuron).

    A NaN is never chosen.
    """
    flat = score.reshape(len(score), -1)
    ranked = np.where(np.isnan(flat), np.inf, -flat.round(TIE_DIGITS))
    best = np.argsort(ranked, axis=1, kind="stable")[:, : round(keep * flat.shape[1])]
    chosen = np.zeros(flat.shape, bool)
    np.put_along_axis(chosen, best, np.isfinite(np.take_along_axis(ranked, best, axis=1)), axis=1)
    return chosen.reshape(score.shape)


def agreement(
    scores: Mapping[str, Float[np.ndarray, "class layer neuron"]],
    specific: Mapping[str, Bool[np.ndarray, "class layer neuron"]],
) -> list[dict[str, Any]]:
    """How far selectors agree, a row for every two: over the pairs of class and neuron that both can score.

    `rank_correlation` is Spearman's, of the scores within each class, mean over classes; `jaccard` that of the selected
    pairs.
    """
    from scipy.stats import spearmanr  # a tenth of what every command takes to start

    rows = []
    pairs = list(itertools.combinations(scores, 2))
    for one, other in progress_bar(pairs, what="Comparing selectors", unit="pair"):
        found = []
        for a, b in zip(scores[one], scores[other], strict=True):
            both = np.isfinite(a) & np.isfinite(b)
            if both.sum() > 2 and np.ptp(a[both]) > 0 and np.ptp(b[both]) > 0:
                found.append(float(spearmanr(a[both], b[both]).statistic))
        shared = int((specific[one] & specific[other]).sum())
        either = int((specific[one] | specific[other]).sum())
        rows.append(
            {
                "selector_a": one,
                "selector_b": other,
                "rank_correlation": float(np.mean(found)) if found else np.nan,
                "pairs_a": int(specific[one].sum()),
                "pairs_b": int(specific[other].sum()),
                "shared": shared,
                "jaccard": shared / either if either else np.nan,
            }
        )
    return rows
