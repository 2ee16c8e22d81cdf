"""Where and when: the activation of neurons on the time-frequency grid of a clip's patches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxdissect.activations.read import capture_neurons
from jaxdissect.encoder.protocol import Encoder, module_input
from jaxdissect.errors import InputError


@dataclass(frozen=True, eq=False)
class ActivationGrid:
    """Activations of some neurons of a layer on one clip.

    Attributes:
      activation: of every patch; bands from the lowest up, columns in time.
      start, stop: samples that each column spans.
    """

    activation: Float[np.ndarray, "neuron band column"]
    start: Int[np.ndarray, " column"]
    stop: Int[np.ndarray, " column"]


@dataclass(frozen=True, eq=False)
class GridReader:
    """Reads the same neurons, of any layers, on many clips of one length; compiled once for each number of clips.

    Attributes:
      bands: patches of one time span.
      start, stop: samples that each column of the grid spans.
    """

    bands: int
    start: Int[np.ndarray, " column"]
    stop: Int[np.ndarray, " column"]
    _read: Callable[[Any], Any]
    _order: Int[np.ndarray, " neuron"]

    def __call__(self, pcm: Float[np.ndarray, "clip sample"]) -> Float[np.ndarray, "clip neuron band column"]:
        """Activations of every patch; bands from the lowest up, columns in time.

        Args:
          pcm: at the encoder's rate, full scale -1 to 1.
        """
        if not len(self._order):
            return np.zeros((len(pcm), 0, self.bands, len(self.start)), np.float32)
        values = np.asarray(self._read(pcm), np.float32)[..., self._order]
        grid = values.reshape(len(pcm), len(self.start), self.bands, len(self._order))
        return grid.transpose(0, 3, 2, 1)


def grid_reader(encoder: Encoder, samples: int, neurons: Int[np.ndarray, "neuron 2"]) -> GridReader:
    """Read neurons on the grid of the patches; class tokens are left out.

    Patches of one time span are its bands, in the order in which the encoder has them (M2D: from the lowest up).

    Args:
      encoder: any `Encoder`.
      samples: of a clip, at the encoder's rate.
      neurons: layer and number within the layer of each.

    Raises:
      InputError: there is no such layer or neuron, or the time spans do not have equally many patches.
    """

    def outputs(variables: Any, clips: Any) -> list[Any]:
        inputs = module_input(encoder, variables, clips)
        return list(capture_neurons(encoder.module, variables, inputs, neurons=encoder.neurons).values())

    shapes = jax.eval_shape(outputs, encoder.variables, jax.ShapeDtypeStruct((1, samples), jnp.float32))
    for layer, number in np.asarray(neurons).tolist():
        if not 0 <= layer < len(shapes):
            raise InputError(f"There are layers 0 to {len(shapes) - 1}, got {layer}.")
        width = shapes[layer][0].shape[-1]
        if not 0 <= number < width:
            raise InputError(f"Layer {layer} has neurons 0 to {width - 1}, got {number}.")
    tokens, start, stop = _grid(encoder, samples)
    layers = [np.flatnonzero(neurons[:, 0] == layer) for layer in range(len(shapes))]

    def read(variables: Any, clips: Any) -> Any:
        kept = []
        for calls, own in zip(outputs(variables, clips), layers, strict=True):
            if len(own):
                flat = [call.reshape(len(clips), -1, call.shape[-1])[..., neurons[own, 1]] for call in calls]
                kept.append(jnp.concatenate(flat, axis=1)[:, tokens])
        return jnp.concatenate(kept, axis=-1)

    compiled = jax.jit(read)
    order = np.argsort(np.concatenate(layers)) if len(neurons) else np.zeros(0, np.int64)
    return GridReader(len(tokens) // len(start), start, stop, lambda pcm: compiled(encoder.variables, pcm), order)


def activation_grid(
    encoder: Encoder, pcm: Float[np.ndarray, " sample"], layer: int, neurons: Int[np.ndarray, " neuron"]
) -> ActivationGrid:
    """Run a clip and lay a layer's activations out as its patches lie, as `grid_reader` does for many clips.

    Args:
      encoder: any `Encoder`.
      pcm: the clip, at the encoder's rate, full scale -1 to 1.
      layer: number of the layer.
      neurons: numbers within the layer.

    Raises:
      InputError: as `grid_reader`.
    """
    pairs = np.stack([np.full(len(neurons), layer), np.asarray(neurons)], axis=1)
    read = grid_reader(encoder, len(pcm), pairs)
    return ActivationGrid(read(pcm[None])[0], read.start, read.stop)


def _grid(
    encoder: Encoder, samples: int
) -> tuple[Int[np.ndarray, " patch"], Int[np.ndarray, " column"], Int[np.ndarray, " column"]]:
    """Numbers of the patches among all tokens, by time and within a span as the encoder has them; spans of columns."""
    layout = encoder.token_layout(samples)
    is_patch, start, stop = (
        np.concatenate([getattr(tokens, name).ravel() for tokens in layout]) for name in ("is_patch", "start", "stop")
    )
    patches = np.flatnonzero(is_patch)
    begins, first, count = np.unique(start[patches], return_index=True, return_counts=True)
    if len(set(count.tolist())) != 1:
        raise InputError(f"The time spans of this encoder's patches have {min(count)} to {max(count)} patches each.")
    return patches[np.argsort(start[patches], kind="stable")], begins, stop[patches][first]
