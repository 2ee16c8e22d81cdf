"""Intervals of means, ratios and AUROCs over clips, by recording."""

import numpy as np
from jaxtyping import Bool, Float, Int


def bootstrap_means(
    values: Float[np.ndarray, "clip column"],
    sources: Int[np.ndarray, " clip"],
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """Percentile interval of each column's mean over clips; returns its low and high ends.

    Sources are resampled, so the clips of one source stay together. All columns see the same draws. NaN where there
    are fewer than two sources.

    Args:
      values: numbers of each clip, such as changes of margin.
      sources: number of each clip's source.
      resamples: number of draws, each of as many sources as there are, with replacement.
      seed: seed of the draws.
      level: intended coverage. With few sources it is missed: percentile intervals are too narrow then.
    """
    numbers, source = np.unique(sources, return_inverse=True)
    if len(numbers) < 2:
        nothing = np.full(values.shape[1], np.nan)
        return nothing, nothing
    total, clips = np.zeros((len(numbers), values.shape[1])), np.bincount(source)
    np.add.at(total, source, values)  # sums over the clips of every source
    weights = np.random.default_rng(seed).multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), resamples)
    # A source weighs as many clips as it has, so each mean is over clips and not over sources.
    means = weights @ total / (weights @ clips)[:, None]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def auroc_interval(
    auroc: Float[np.ndarray, "*axes"], positives: int, negatives: int, z: float = 1.959964
) -> tuple[Float[np.ndarray, "*axes"], Float[np.ndarray, "*axes"]]:
    """Score interval of an AUROC from so many independent observations; returns its low and high ends.

    It is the set of all AUROCs A with `|A - auroc| <= z sd(A)`, where the variance is that of Hanley and McNeil with
    both sample sizes replaced by their mean in two of its terms. It never has the length 0, not even for an AUROC of 1.

    Source: Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2"
    (Statistics in Medicine 2006), method 5.

    Args:
      auroc: observed AUROC.
      positives, negatives: independent observations of the class and of the rest: recordings, not clips.
      z: quantile of the normal distribution; default: for 95%.
    """

    def inside(candidate: np.ndarray) -> np.ndarray:
        mean_size = (positives + negatives) / 2 - 1
        rest = 1 - candidate
        spread = 1 + mean_size * (rest / (2 - candidate) + candidate / (1 + candidate))
        return np.abs(candidate - auroc) <= z * np.sqrt(candidate * rest * spread / (positives * negatives))

    ends = []
    for limit in (0.0, 1.0):
        near, far = np.array(auroc, np.float64), np.full(np.shape(auroc), limit)
        for _ in range(50):  # bisection between the observation, which is inside, and the limit
            middle = (near + far) / 2
            within = inside(middle)
            near, far = np.where(within, middle, near), np.where(within, far, middle)
        ends.append(np.where(np.isnan(auroc), np.nan, near))
    return ends[0], ends[1]


def bootstrap_ratios(
    active: Float[np.ndarray, "clip pair"],
    tokens: Float[np.ndarray, " clip"],
    inside: Bool[np.ndarray, " clip"],
    recordings: Int[np.ndarray, " clip"],
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, " pair"], Float[np.ndarray, " pair"]]:
    """Percentile interval of p(class) / p(others); returns its low and high ends, inf where p(others) is 0.

    Recordings are resampled, those of the class and those of the others apart, so that neither runs out.

    Args:
      active: active tokens of every clip and neuron.
      tokens: counted tokens of every clip.
      inside: clips of the class; all others are the others.
      recordings: number of every clip's recording.
      resamples: number of draws.
      seed: seed of the draws.
      level: intended coverage.
    """
    rng = np.random.default_rng(seed)
    rates = []
    for part in (inside, ~inside):
        source = np.unique(recordings[part], return_inverse=True)[1]
        number = source.max() + 1
        fired, heard = np.zeros((number, active.shape[1])), np.bincount(source, weights=tokens[part])
        np.add.at(fired, source, active[part])
        weights = rng.multinomial(number, np.full(number, 1 / number), resamples).astype(np.float64)
        rates.append(weights @ fired / (weights @ heard)[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = rates[0] / rates[1]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=0, method="closest_observation")
    return low, high
