"""The order that puts classes which share neurons next to each other."""

import numpy as np
import scipy.cluster.hierarchy
from jaxtyping import Bool, Float

from jaxdissect.selection.overlap import overlap


def cluster(sets: Bool[np.ndarray, "class *axes"]) -> list[int]:
    """Classes in the order of the leaves of their dendrogram: average linkage of 1 - Jaccard.

    Args:
      sets: neuron set of each class.
    """
    if len(sets) < 3:  # nothing to order
        return list(range(len(sets)))
    return list(map(int, scipy.cluster.hierarchy.leaves_list(linkage(overlap(sets, sets).jaccard))))


def linkage(jaccard: Float[np.ndarray, "class class"]) -> Float[np.ndarray, "merge 4"]:
    """Average linkage (UPGMA) of 1 - Jaccard, in SciPy's format.

    Args:
      jaccard: Jaccard coefficients of every two classes.
    """
    distances = 1 - jaccard[np.triu_indices(len(jaccard), 1)]  # the upper triangle, row by row, as SciPy takes it
    return scipy.cluster.hierarchy.linkage(distances, "average", optimal_ordering=True)
