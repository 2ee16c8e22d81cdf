"""Which classes share neurons, within a task, across tasks and across encoders of one shape; and what chance shares.

Source of the coefficient: Jaccard, as in Kawamura et al. (arXiv:2602.15307): |A n B| / |A u B|.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.cluster.hierarchy
from jaxtyping import Bool, Float, Int

RATE_BINS = 5


@dataclass(frozen=True, eq=False)
class Overlap:
    """How much the neuron sets of classes overlap.

    Attributes:
      size_a, size_b: neurons of each class.
      shared: that two classes have in common.
      jaccard: shared / in either; 0 where both have none.
    """

    size_a: Int[np.ndarray, " class_a"]
    size_b: Int[np.ndarray, " class_b"]
    shared: Int[np.ndarray, "class_a class_b"]
    jaccard: Float[np.ndarray, "class_a class_b"]


def overlap(a: Bool[np.ndarray, "class_a *axes"], b: Bool[np.ndarray, "class_b *axes"]) -> Overlap:
    """Overlap of every set of one list with every set of another, over the same neurons."""
    flat_a, flat_b = (sets.reshape(len(sets), -1) for sets in (a, b))
    size_a, size_b = flat_a.sum(axis=1), flat_b.sum(axis=1)
    used = flat_a.any(axis=0) & flat_b.any(axis=0)
    shared = flat_a[:, used].astype(np.int64) @ flat_b[:, used].T.astype(np.int64)
    return Overlap(size_a, size_b, shared, jaccard(shared, size_a[:, None], size_b))


def jaccard(shared: np.ndarray, size_a: np.ndarray, size_b: np.ndarray) -> Float[np.ndarray, "*axes"]:
    """|A n B| / |A u B|; 0 where both sets are empty."""
    either = size_a + size_b - shared
    return np.divide(shared, either, out=np.zeros(np.shape(shared)), where=either > 0)


def cluster(sets: Bool[np.ndarray, "class *axes"]) -> list[int]:
    """Classes in an order in which those that share neurons stand together: average linkage of 1 - Jaccard."""
    if len(sets) < 3:
        return list(range(len(sets)))
    return list(map(int, scipy.cluster.hierarchy.leaves_list(linkage(overlap(sets, sets).jaccard))))


def linkage(similar: Float[np.ndarray, "class class"]) -> Float[np.ndarray, "merge 4"]:
    """Average linkage (UPGMA) of 1 - Jaccard, as SciPy writes it."""
    apart = 1 - similar[np.triu_indices(len(similar), 1)]
    return scipy.cluster.hierarchy.linkage(apart, "average", optimal_ordering=True)


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
