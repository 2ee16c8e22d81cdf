"""Where and when: the activation of neurons on the time-frequency grid of a clip's patches."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdissect.activations.read import capture_neurons
from jaxdissect.encoder.protocol import Encoder, Variables, module_input, named_units
from jaxdissect.errors import require


@dataclass(frozen=True, eq=False)
class ActivationGrid:
    """Activations of some neurons of a layer on one clip.

    Attributes:
      activation: activation of every patch; bands from the lowest up, columns in time.
      start, stop: samples that each column spans.
    """

    activation: Float[np.ndarray, "neuron band column"]
    start: Int[np.ndarray, " column"]
    stop: Int[np.ndarray, " column"]


@dataclass(frozen=True, eq=False)
class GridReader:
    """Reads the same neurons, of any layers, on many clips of one length; compiled once for each number of clips.

    Attributes:
      bands: number of patches of one time span.
      start, stop: samples that each column of the grid spans.
    """

    bands: int
    start: Int[np.ndarray, " column"]
    stop: Int[np.ndarray, " column"]
    _read: Callable[[Float[np.ndarray, "clip sample"]], Array]

    def __call__(self, pcm: Float[np.ndarray, "clip sample"]) -> Float[np.ndarray, "clip neuron band column"]:
        """Activations of every patch; bands from the lowest up, columns in time.

        Args:
          pcm: clips at the encoder's rate, full scale -1 to 1.
        """
        return np.array(self._read(pcm))  # a copy, which the caller may change


def grid_reader(encoder: Encoder, samples: int, neurons: Int[np.ndarray, "neuron 2"]) -> GridReader:
    """Read neurons on the grid of the patches; class tokens are left out.

    Patches of one time span are its bands, in the order in which the encoder has them (M2D: from the lowest up).

    Args:
      encoder: any `Encoder`.
      samples: length of a clip, in samples at the encoder's rate.
      neurons: layer, and number within the layer, of each neuron.

    Raises:
      InputError: there is no such layer or neuron, or the time spans do not have equally many patches.
    """

    def outputs(variables: Variables, clips: Array) -> list[tuple[Array, ...]]:
        inputs = module_input(encoder, variables, clips)
        return capture_neurons(encoder.module, variables, inputs, **named_units(encoder))

    shapes = jax.eval_shape(outputs, encoder.variables, jax.ShapeDtypeStruct((1, samples), jnp.float32))
    for layer, number in np.asarray(neurons).tolist():
        require(0 <= layer < len(shapes), f"There are layers 0 to {len(shapes) - 1}, got {layer}.")
        width = shapes[layer][0].shape[-1]
        require(0 <= number < width, f"Layer {layer} has neurons 0 to {width - 1}, got {number}.")
    # Which tokens are patches, and in which order they make a grid (column, band).
    tokens, start, stop = _grid(encoder, samples)
    bands = len(tokens) // len(start)
    rows_of_layer = [np.flatnonzero(neurons[:, 0] == layer) for layer in range(len(shapes))]
    given_order = np.argsort(np.concatenate(rows_of_layer))  # from the order of the layers back to that of `neurons`

    @jax.jit
    def read(variables: Variables, clips: Array) -> Float[Array, "clip neuron band column"]:
        layers = [jnp.zeros((len(clips), len(tokens), 0), jnp.float32)]  # for a choice of no neuron at all
        for calls, rows in zip(outputs(variables, clips), rows_of_layer, strict=True):
            if len(rows):
                # The tokens of all calls and chunks as one axis, in the order of the token layout.
                flat = [call.reshape(len(clips), -1, call.shape[-1])[..., neurons[rows, 1]] for call in calls]
                layers.append(jnp.concatenate(flat, axis=1)[:, tokens].astype(jnp.float32))
        values = jnp.concatenate(layers, axis=-1)[..., given_order]
        return values.reshape(len(clips), len(start), bands, len(neurons)).transpose(0, 3, 2, 1)

    return GridReader(bands, start, stop, lambda pcm: read(encoder.variables, pcm))


def activation_grid(
    encoder: Encoder, pcm: Float[np.ndarray, " sample"], layer: int, neurons: Int[np.ndarray, " neuron"]
) -> ActivationGrid:
    """Run a clip and lay a layer's activations out as its patches lie, as `grid_reader` does for many clips.

    Args:
      encoder: any `Encoder`.
      pcm: samples of the clip at the encoder's rate, full scale -1 to 1.
      layer: number of the layer.
      neurons: numbers of the neurons within the layer.

    Raises:
      InputError: as `grid_reader`.
    """
    # One row (layer, number) for each neuron.
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
    # Columns are the different starts; each must have as many patches, its bands.
    column_start, first, count = np.unique(start[patches], return_index=True, return_counts=True)
    require(
        len(set(count.tolist())) == 1,
        f"The time spans of this encoder's patches have {min(count)} to {max(count)} patches each.",
    )
    by_time = np.argsort(start[patches], kind="stable")  # stable: bands of a span keep their order
    return patches[by_time], column_start, stop[patches][first]
