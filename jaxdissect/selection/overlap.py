"""The overlap of neuron sets: shared neurons and Jaccard coefficients."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class Overlap:
    """How much the neuron sets of classes overlap.

    Attributes:
      size_a, size_b: number of neurons of each class.
      shared: number of neurons that two classes have in common.
      jaccard: Jaccard coefficient of two classes; 0 where both have no neuron.
    """

    size_a: Int[np.ndarray, " class_a"]
    size_b: Int[np.ndarray, " class_b"]
    shared: Int[np.ndarray, "class_a class_b"]
    jaccard: Float[np.ndarray, "class_a class_b"]


def overlap(a: Bool[np.ndarray, "class_a *axes"], b: Bool[np.ndarray, "class_b *axes"]) -> Overlap:
    """Overlap of every set of one list with every set of another list.

    Args:
      a, b: neuron sets of the classes, as masks over the same neurons.
    """
    flat_a, flat_b = (sets.reshape(len(sets), -1) for sets in (a, b))
    size_a, size_b = flat_a.sum(axis=1), flat_b.sum(axis=1)
    used = flat_a.any(axis=0) & flat_b.any(axis=0)  # few of all neurons: the product below is of these alone
    shared = flat_a[:, used].astype(np.int64) @ flat_b[:, used].T.astype(np.int64)
    return Overlap(size_a, size_b, shared, jaccard(shared, size_a[:, None], size_b))


def jaccard(
    shared: Int[np.ndarray, "*axes"], size_a: Int[np.ndarray, "..."], size_b: Int[np.ndarray, "..."]
) -> Float[np.ndarray, "*axes"]:
    """Jaccard coefficient `|A n B| / |A u B|` of two sets; 0 where both sets are empty.

    Source: as in Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307).

    Args:
      shared: number of neurons that both sets have.
      size_a, size_b: sizes of the sets, broadcast against `shared`.
    """
    either = size_a + size_b - shared  # |A u B|; where it is 0 the division is left out
    return np.divide(shared, either, out=np.zeros(np.shape(shared)), where=either > 0)
