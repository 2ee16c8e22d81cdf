"""What neuron sets share by chance, given how many of their neurons lie in each layer and range of activation rates."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.selection.overlap import overlap

RATE_BINS = 5  # fifths of the neurons of a layer, by activation rate


def rate_strata(
    rate_a: Float[np.ndarray, "layer neuron"], rate_b: Float[np.ndarray, "layer neuron"], bins: int = RATE_BINS
) -> Int[np.ndarray, "layer neuron"]:
    """Strata of neurons that chance may exchange: one layer, and one range of activation rates in both runs.

    Args:
      rate_a, rate_b: activation rates of the neurons in the two runs.
      bins: number of ranges, each with as many neurons of a layer.
    """

    def ranges(rate: Float[np.ndarray, "layer neuron"]) -> Int[np.ndarray, "layer neuron"]:
        # Sorting the order gives the rank of each neuron in its layer; ties are broken by the neuron.
        rank = rate.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        return rank * bins // rate.shape[1]

    layer = np.arange(len(rate_a))[:, None]
    return (layer * bins + ranges(rate_a)) * bins + ranges(rate_b)


def chance_overlap(
    a: Bool[np.ndarray, "class_a layer neuron"],
    b: Bool[np.ndarray, "class_b layer neuron"],
    strata: Int[np.ndarray, "layer neuron"],
    progress: Callable[[int], object] = lambda classes: None,
) -> tuple[Float[np.ndarray, "class_a class_b"], Float[np.ndarray, "class_a class_b"]]:
    """Neurons that random sets share which have as many neurons in each stratum: expectation and p-value.

    The overlap of two random sets is a sum of independent hypergeometric numbers, one for each stratum, so both are
    exact. The p-value is the probability that it reaches the observed overlap; 1 where a set is empty.

    Args:
      a, b: neuron sets of the classes.
      strata: stratum of every neuron.
      progress: function called with 1 after every class.
    """
    count = np.bincount(strata.ravel())
    in_a, in_b = (np.stack([np.bincount(strata[chosen], minlength=len(count)) for chosen in sets]) for sets in (a, b))
    expected = in_a @ (in_b / np.maximum(count, 1)).T
    observed = overlap(a, b).shared
    p_value = np.ones(observed.shape)
    for row in range(len(observed)):
        for column in np.flatnonzero(observed[row]):
            # The probabilities of 0, 1, ... shared neurons; independent strata are added by convolution.
            chances = np.ones(1)
            for stratum in np.flatnonzero(in_a[row] * in_b[column]):
                numbers = int(in_a[row, stratum]), int(in_b[column, stratum]), int(count[stratum])
                chances = np.convolve(chances, _hypergeometric(*numbers))
            p_value[row, column] = min(1.0, chances[observed[row, column] :].sum())
        progress(1)
    return expected, p_value


def _hypergeometric(a: int, b: int, count: int) -> Float[np.ndarray, " shared"]:
    """Probabilities that random sets of a and b among `count` share 0, 1, ... of them."""
    # Exact whole numbers, rounded once. SciPy's hypergeom rounds more often, and differs by some 1e-15.
    total = math.comb(count, b)
    return np.array([math.comb(a, k) * math.comb(count - a, b - k) / total for k in range(min(a, b) + 1)])
