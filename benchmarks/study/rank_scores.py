"""AUROC and average precision of many neurons and classes at once: selectors to compare with."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata


def rank_scores(
    active_share: Float[np.ndarray, "clip neuron"], members: Bool[np.ndarray, "clip class"]
) -> tuple[Float[np.ndarray, "class neuron"], Float[np.ndarray, "class neuron"]]:
    """AUROC and average precision of each neuron as a detector of each class, one class against the rest.

    AUROC is the probability that a clip of the class has the larger active share than a clip of the rest; ties count
    half. Average precision is the mean, over the clips of the class, of the fraction of its clips among all clips with
    an active share at least as large. Both are defined as in scikit-learn. NaN for a class that has no clip, or all.

    Args:
      active_share: active tokens / tokens of every clip.
      members: classes of every clip.
    """
    clips, size = len(active_share), members.sum(axis=0)
    # Mann and Whitney's U is the sum of the class's ranks less the least that it can be. Ranks are whole or half
    # numbers, so the product is exact. The ranks are made twice, not kept: they take twice the memory of the shares.
    wins = members.T.astype(np.float64) @ rankdata(active_share, axis=0) - (size * (size + 1) / 2)[:, None]
    with np.errstate(invalid="ignore"):  # 0 / 0 for a class that has no clip, or all
        auroc = wins / (size * (clips - size))[:, None]
    precision = np.full(auroc.shape, np.nan)
    at_least = clips + 1 - rankdata(active_share, "min", axis=0)  # clips that have at least the share of each clip
    for index in np.flatnonzero((size > 0) & (size < clips)):
        of_class = members[:, index]
        class_at_least = size[index] + 1 - rankdata(active_share[of_class], "min", axis=0)
        precision[index] = (class_at_least / at_least[of_class]).mean(axis=0)
    return auroc, precision
