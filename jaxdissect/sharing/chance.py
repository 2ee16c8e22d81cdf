"""What sets of neurons share by chance, given how many of them lie in each layer and range of activation rates."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.selection.overlap import overlap

RATE_BINS = 5


def rate_strata(
    rate_a: Float[np.ndarray, "layer neuron"], rate_b: Float[np.ndarray, "layer neuron"], bins: int = RATE_BINS
) -> Int[np.ndarray, "layer neuron"]:
    """Neurons that chance may exchange: of one layer, and of one fifth of its activation rates in both runs."""

    def fifths(rate: Float[np.ndarray, "layer neuron"]) -> Int[np.ndarray, "layer neuron"]:
        place = rate.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        return place * bins // rate.shape[1]

    layer = np.arange(len(rate_a))[:, None]
    return (layer * bins + fifths(rate_a)) * bins + fifths(rate_b)


def chance_overlap(
    a: Bool[np.ndarray, "class_a layer neuron"],
    b: Bool[np.ndarray, "class_b layer neuron"],
    strata: Int[np.ndarray, "layer neuron"],
    progress: Callable[[int], object] = lambda classes: None,
) -> tuple[Float[np.ndarray, "class_a class_b"], Float[np.ndarray, "class_a class_b"]]:
    """What random sets share that have as many neurons in each stratum as the sets found: expectation and p-value.

    Exact: the overlap of two random sets is a sum of independent hypergeometric numbers, one a stratum; p is the
    probability that it reaches what was found. 1 where a set is empty. `progress` is called with 1 after every class.
    """
    count = np.bincount(strata.ravel())
    in_a, in_b = (np.stack([np.bincount(strata[chosen], minlength=len(count)) for chosen in sets]) for sets in (a, b))
    expected = in_a @ (in_b / np.maximum(count, 1)).T
    found = overlap(a, b).shared
    p_value = np.ones(found.shape)
    for row in range(len(found)):
        for column in np.flatnonzero(found[row]):
            chances = np.ones(1)
            for stratum in np.flatnonzero(in_a[row] * in_b[column]):
                numbers = int(in_a[row, stratum]), int(in_b[column, stratum]), int(count[stratum])
                chances = np.convolve(chances, _hypergeometric(*numbers))
            p_value[row, column] = min(1.0, chances[found[row, column] :].sum())
        progress(1)
    return expected, p_value


def _hypergeometric(a: int, b: int, count: int) -> Float[np.ndarray, " shared"]:
    """Probabilities that random sets of a and b among `count` share 0, 1, ... of them."""
    total = math.comb(count, b)
    return np.array([math.comb(a, k) * math.comb(count - a, b - k) / total for k in range(min(a, b) + 1)])
