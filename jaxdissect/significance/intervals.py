"""Bootstrap intervals of means over clips, by recording."""

import numpy as np
from jaxtyping import Float, Int


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
