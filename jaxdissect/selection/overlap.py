"""The overlap of neuron sets.

Source of the coefficient: Jaccard, as in Kawamura et al. (arXiv:2602.15307): |A n B| / |A u B|.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


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
