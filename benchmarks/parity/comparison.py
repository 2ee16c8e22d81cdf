"""How far two computations of the same neurons differ: relative errors, and neurons active on one side only."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks.common import table
from benchmarks.parity.tracers import Trace


@dataclasses.dataclass
class Error:
    """Difference of two arrays, gathered over batches.

    Attributes:
      largest_difference: largest absolute difference.
      largest: largest absolute value of the reference.
      squared_difference: sum of the squared differences.
      squared: sum of the reference's squares.
    """

    largest_difference: float = 0.0
    largest: float = 0.0
    squared_difference: float = 0.0
    squared: float = 0.0

    def add(self, ours: np.ndarray, reference: np.ndarray) -> None:
        """Add a batch."""
        # In float64, so that the comparison adds no rounding of its own.
        difference = np.abs(ours - reference, dtype=np.float64)
        self.largest_difference = max(self.largest_difference, float(difference.max()))
        self.largest = max(self.largest, float(np.abs(reference).max()))
        self.squared_difference += float(np.square(difference).sum())
        self.squared += float(np.square(reference, dtype=np.float64).sum())

    @staticmethod
    def joined(parts: Sequence["Error"]) -> "Error":
        """The error of several arrays as if they were one."""
        return Error(
            max(part.largest_difference for part in parts),
            max(part.largest for part in parts),
            sum(part.squared_difference for part in parts),
            sum(part.squared for part in parts),
        )

    @property
    def relative_to_largest(self) -> float:
        """Largest difference / largest value."""
        return self.largest_difference / self.largest

    @property
    def relative_to_rms(self) -> float:
        """Root mean square of the difference / of the values."""
        return (self.squared_difference / self.squared) ** 0.5

    @property
    def text(self) -> str:
        """Both relative errors in words."""
        return f"{self.relative_to_largest:.1e} of the largest, {self.relative_to_rms:.1e} of the RMS"


@dataclasses.dataclass
class LayerDifference:
    """How far the neurons of one layer, or of several, differ.

    Attributes:
      before: error of the pre-activations.
      after: error of the activations.
      pairs: number of neuron-token pairs.
      differing: pairs that are active on one side only.
      largest_differing: largest pre-activation among those.
    """

    before: Error = dataclasses.field(default_factory=Error)
    after: Error = dataclasses.field(default_factory=Error)
    pairs: int = 0
    differing: int = 0
    largest_differing: float = 0.0

    def add(self, ours: Trace, reference: Trace, layer: int) -> None:
        """Add a layer of a batch."""
        self.before.add(ours.before[layer], reference.before[layer])
        self.after.add(ours.after[layer], reference.after[layer])
        differs = (ours.after[layer] > 0) != (reference.after[layer] > 0)
        self.pairs += differs.size
        self.differing += int(differs.sum())
        # How far from zero a pair was that differs: rounding can move only a pre-activation of nearly zero.
        magnitude = np.maximum(np.abs(ours.before[layer]), np.abs(reference.before[layer]))
        self.largest_differing = max(self.largest_differing, float(magnitude.max(where=differs, initial=0.0)))

    def row(self, name: object) -> list[object]:
        """The cells below `HEAD`."""
        return [
            name,
            f"{self.after.relative_to_largest:.1e}",
            f"{self.after.relative_to_rms:.1e}",
            f"{self.pairs:,}",
            self.differing,
            f"{self.differing / self.pairs:.1e}",
            f"{self.largest_differing:.1e}" if self.differing else "-",
            f"{self.before.largest_difference:.1e}",
        ]


HEAD = [
    "layer",
    "activation, of the largest",
    "activation, of the RMS",
    "pairs",
    "differing",
    "share",
    "largest pre-activation among them",
    "largest error of a pre-activation",
]


@dataclasses.dataclass
class Comparison:
    """Our side against a reference, gathered over batches.

    Attributes:
      output: error of the final tokens.
      layers: difference of the neurons, layer by layer.
      log_mel: error of the spectrograms.
      counts: number of counts of active tokens that were compared.
      differing_counts: counts that differ.
    """

    output: Error
    layers: list[LayerDifference]
    log_mel: Error
    counts: int = 0
    differing_counts: int = 0

    @staticmethod
    def empty(depth: int) -> "Comparison":
        """A comparison of an encoder of so many layers before the first batch."""
        return Comparison(Error(), [LayerDifference() for _ in range(depth)], Error())

    def add(self, ours: Trace, reference: Trace) -> None:
        """Add a batch."""
        self.output.add(ours.output, reference.output)
        for number, layer in enumerate(self.layers):
            layer.add(ours, reference, number)

    def add_counts(self, ours: np.ndarray, reference: np.ndarray) -> None:
        """Add a batch's active tokens, (clip, layer, neuron)."""
        self.counts += ours.size
        self.differing_counts += int((ours != reference).sum())

    @property
    def total(self) -> LayerDifference:
        """All layers together."""
        return LayerDifference(
            Error.joined([layer.before for layer in self.layers]),
            Error.joined([layer.after for layer in self.layers]),
            sum(layer.pairs for layer in self.layers),
            sum(layer.differing for layer in self.layers),
            max(layer.largest_differing for layer in self.layers),
        )

    def table(self) -> str:
        """One row per layer, and one for all."""
        rows = [layer.row(number) for number, layer in enumerate(self.layers)]
        return table(HEAD, [*rows, self.total.row("all")])
