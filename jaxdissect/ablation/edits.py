"""Edits and chunks: what one pass of the encoder changes, and which passes run together on a device."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class Edit:
    """Neurons that are changed in one pass of the encoder: `activation -> gain * activation + offset`.

    An intervention is one edit, and each of its controls is another.

    Attributes:
      layer, neuron: layer and index of each changed neuron; there is at least one.
      gain: factor that all of them share.
      offset: summand of each neuron; 0, or its mean activation for mean ablation.
    """

    layer: Int[np.ndarray, " changed"]
    neuron: Int[np.ndarray, " changed"]
    gain: float
    offset: Float[np.ndarray, " changed"]

    @property
    def first_layer(self) -> int:
        """The first layer that is changed; the layers before it put out the same as in the untouched pass."""
        return int(self.layer.min())


@dataclass(frozen=True)
class Chunk:
    """Edits with the same first layer, which run together as one batch of edits.

    Attributes:
      numbers: position of each edit in the list that was planned.
      edits: the edits.
      rows: length of the batch of edits; rows behind the last edit are padding, which changes nothing.
    """

    numbers: Sequence[int]
    edits: Sequence[Edit]
    rows: int

    @property
    def first_layer(self) -> int:
        """The layer in which the edits begin."""
        return self.edits[0].first_layer

    def changes(self, layer: int) -> bool:
        """Whether any of the edits changes a neuron of the layer."""
        return any((edit.layer == layer).any() for edit in self.edits)

    def sparse(self, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The changed neurons of one layer, to add their change to the layer's untouched output.

        Returns:
          neuron, gain - 1 and offset, each (edit, changed). The axis `changed` is padded to a power of two, so that few
          programs are compiled; padding names neuron 0 and adds 0 to it.
        """
        changed = max(int((edit.layer == layer).sum()) for edit in self.edits)
        # Rows have different numbers of neurons, so each is filled from the left.
        neuron = np.zeros((self.rows, _power_of_two(changed)), np.int32)
        scale, offset = np.zeros((2, *neuron.shape), np.float32)
        for row, edit in enumerate(self.edits):
            in_layer = edit.layer == layer
            columns = slice(0, int(in_layer.sum()))
            neuron[row, columns] = edit.neuron[in_layer]
            scale[row, columns] = edit.gain - 1
            offset[row, columns] = edit.offset[in_layer]
        return neuron, scale, offset

    def dense(self, layer: int, neurons: int) -> tuple[np.ndarray, np.ndarray]:
        """Gain and offset of every neuron of one layer, to run the layer with them; each (edit, neuron)."""
        # Gain 1 and offset 0 leave a neuron alone, and so the padding rows.
        gain, offset = np.ones((self.rows, neurons), np.float32), np.zeros((self.rows, neurons), np.float32)
        for row, edit in enumerate(self.edits):
            in_layer = edit.layer == layer
            gain[row, edit.neuron[in_layer]] = edit.gain
            offset[row, edit.neuron[in_layer]] = edit.offset[in_layer]
        return gain, offset


def plan(edits: Sequence[Edit], at_once: int) -> list[Chunk]:
    """Group edits into chunks, in the order of their first layers.

    Args:
      edits: edits in any order.
      at_once: largest number of edits in a chunk. A smaller chunk is padded to a power of two, so that few programs are
        compiled.
    """
    numbers_by_layer: dict[int, list[int]] = defaultdict(list)
    for number, edit in enumerate(edits):
        numbers_by_layer[edit.first_layer].append(number)
    chunks = []
    for _, numbers in sorted(numbers_by_layer.items()):
        for start in range(0, len(numbers), at_once):
            part = numbers[start : start + at_once]
            chunks.append(Chunk(part, [edits[number] for number in part], min(at_once, _power_of_two(len(part)))))
    return chunks


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below a number."""
    return 1 << (number - 1).bit_length()
