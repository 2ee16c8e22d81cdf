"""Where and when: the activation of neurons on the time-frequency grid of one clip's patches."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxdissect.activations import capture_neurons
from jaxdissect.encoder.base import Encoder, module_input
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


def activation_grid(
    encoder: Encoder, pcm: Float[np.ndarray, " sample"], layer: int, neurons: Int[np.ndarray, " neuron"]
) -> ActivationGrid:
    """Run a clip and lay a layer's activations out as its patches lie; class tokens are left out.

    Patches of one time span are its bands, in the order in which the encoder has them (M2D: from the lowest up).

    Args:
      encoder: any `Encoder`.
      pcm: the clip, at the encoder's rate.
      layer: number of the layer.
      neurons: numbers within the layer.

    Raises:
      InputError: there is no such layer or neuron, or the time spans do not have equally many patches.
    """

    def run(variables: Any, clips: Any) -> Any:
        inputs = module_input(encoder, variables, clips)
        return capture_neurons(encoder.module, variables, inputs, neurons=encoder.neurons)

    outputs = list(jax.jit(run)(encoder.variables, pcm[None]).values())
    if not 0 <= layer < len(outputs):
        raise InputError(f"There are layers 0 to {len(outputs) - 1}, got {layer}.")
    width = outputs[layer][0].shape[-1]
    if len(neurons) and (min(neurons) < 0 or max(neurons) >= width):
        raise InputError(f"Layer {layer} has neurons 0 to {width - 1}, got {min(neurons)} to {max(neurons)}.")
    layout = encoder.token_layout(len(pcm))
    values = np.concatenate([np.asarray(call[0], np.float32).reshape(-1, width) for call in outputs[layer]])
    is_patch, start, stop = (
        np.concatenate([getattr(tokens, name).ravel() for tokens in layout]) for name in ("is_patch", "start", "stop")
    )
    values, start, stop = values[is_patch], start[is_patch], stop[is_patch]
    begins, first, patches = np.unique(start, return_index=True, return_counts=True)
    if len(set(patches.tolist())) != 1:
        raise InputError(
            f"The time spans of this encoder's patches have {min(patches)} to {max(patches)} patches each."
        )
    order = np.argsort(start, kind="stable")  # by time, and within a span as the encoder has them
    grid = values[order][:, neurons].reshape(len(begins), patches[0], len(neurons))
    return ActivationGrid(grid.transpose(2, 1, 0), begins, stop[first])
