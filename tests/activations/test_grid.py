"""Activations on the grid of a clip's patches, against a forward pass by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdissect import InputError, ViTConfig, activation_grid, untrained_m2d
from jaxdissect.activations.read import capture_neurons
from jaxdissect.encoder.protocol import module_input

CONFIG = ViTConfig(bands=80, frames=32, patch_bands=16, patch_frames=16, width=64, depth=2, heads=1, mlp=64)


def clip(seconds):
    return np.random.default_rng(0).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.3, 0.75])  # one chunk of 2 columns; two and a last one of one column
def test_activation_grid_lays_patches_where_they_are(seconds):
    encoder, pcm, neurons = untrained_m2d(CONFIG), clip(seconds), np.array([5, 2])
    grid = activation_grid(encoder, pcm, 1, neurons)
    inputs = module_input(encoder, encoder.variables, jnp.asarray(pcm[None]))
    calls = capture_neurons(encoder.module, encoder.variables, inputs, neurons=encoder.neurons)[1]
    columns = []
    for call in calls:  # (clip, chunk, token, neuron) or (clip, token, neuron); patches lie band by band
        for chunk in np.asarray(call[0]).reshape(-1, *call.shape[-2:]):
            patches = chunk[1:][:, neurons]
            columns.append(patches.reshape(5, -1, 2))
    expected = np.concatenate(columns, axis=1).transpose(2, 0, 1)
    np.testing.assert_allclose(grid.activation, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(grid.start, np.arange(grid.activation.shape[2]) * 16 * 160)
    np.testing.assert_array_equal(grid.stop - grid.start, 16 * 160)


def test_activation_grid_refuses_layers_and_neurons_that_are_not_there():
    encoder, pcm = untrained_m2d(CONFIG), clip(0.3)
    with pytest.raises(InputError, match="There are layers 0 to 1, got 2"):
        activation_grid(encoder, pcm, 2, np.array([0]))
    with pytest.raises(InputError, match="Layer 0 has neurons 0 to 63, got 64"):
        activation_grid(encoder, pcm, 0, np.array([3, 64]))
