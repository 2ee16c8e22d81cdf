"""The order in which classes that share neurons stand together."""

import numpy as np
import scipy.cluster.hierarchy
from jaxtyping import Bool, Float

from jaxdissect.selection.overlap import overlap


def cluster(sets: Bool[np.ndarray, "class *axes"]) -> list[int]:
    """Classes in an order in which those that share neurons stand together: average linkage of 1 - Jaccard."""
    if len(sets) < 3:
        return list(range(len(sets)))
    return list(map(int, scipy.cluster.hierarchy.leaves_list(linkage(overlap(sets, sets).jaccard))))


def linkage(similar: Float[np.ndarray, "class class"]) -> Float[np.ndarray, "merge 4"]:
    """Average linkage (UPGMA) of 1 - Jaccard, as SciPy writes it."""
    apart = 1 - similar[np.triu_indices(len(similar), 1)]
    return scipy.cluster.hierarchy.linkage(apart, "average", optimal_ordering=True)
