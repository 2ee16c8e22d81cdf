"""Writing neurons: gains equal edited weights, on a foreign Linen model and on the ViT against transformers'."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from linen_models import CalledTwice, TwoLayers, with_rows
from tolerances import assert_within, relative_error
from torch_reference import encoder_of, random_state, reference_model

from jaxdissect import InputError, ViTConfig, read_neurons, run_with_gains
from jaxdissect.activations.write import edit_neurons

CONFIG = ViTConfig(bands=32, frames=48, patch_bands=16, patch_frames=16, width=64, depth=3, heads=4, mlp=96)
WIDE = TwoLayers(widths=(6, 6))


def arrays(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.fixture(scope="module")
def vit():
    state = random_state(CONFIG)
    return state, encoder_of(state, CONFIG), arrays(3, CONFIG.frames, CONFIG.bands, seed=1)


@pytest.fixture(scope="module")
def mlp():
    x = arrays(4, 5, 8)
    return WIDE.init(jax.random.key(1), x), x


@pytest.mark.parametrize("gain", [0.0, 0.3, 1.0, 2.5, -1.0])
def test_run_with_gains_equals_scaling_the_rows_of_the_second_matrix(vit, gain):
    _, encoder, x = vit
    chosen = np.random.default_rng(2).random((CONFIG.depth, CONFIG.mlp)) < 0.2
    gains = jnp.where(chosen, gain, 1.0).astype(jnp.float32)
    params = {"params": encoder.variables["params"]}
    (found,) = jax.jit(lambda g: run_with_gains(encoder.module, params, x, neurons=encoder.neurons, gains=g))(gains)
    (wanted,) = encoder.module.apply({"params": with_rows(encoder.variables["params"], gains)}, x)
    assert_within("gains against scaled rows, relative", relative_error(found, wanted))
    (untouched,) = encoder.module.apply(params, x)
    if gain == 1.0:
        assert_within("gains against scaled rows, relative", relative_error(found, untouched))
    else:
        assert relative_error(found, untouched) > 0.01


@pytest.mark.parametrize("gain", [0.0, 2.0])
def test_run_with_gains_of_the_vit_equals_transformers_under_hooks(vit, gain):
    state, encoder, x = vit
    chosen = np.random.default_rng(3).random((CONFIG.depth, CONFIG.mlp)) < 0.3
    gains = np.where(chosen, gain, 1.0).astype(np.float32)
    model = reference_model(state, CONFIG, CONFIG.frames)
    for layer, row in zip(model.layers, torch.from_numpy(gains), strict=True):
        layer.mlp.activation_fn.register_forward_hook(lambda _module, _inputs, output, row=row: output * row)
    with torch.no_grad():
        wanted = model(torch.from_numpy(np.array(x)).mT[:, None].contiguous()).last_hidden_state.numpy()
    params = {"params": encoder.variables["params"]}
    (found,) = run_with_gains(encoder.module, params, x, neurons=encoder.neurons, gains=jnp.asarray(gains))
    assert_within("tokens under gains against torch, relative", relative_error(found[:, 0], wanted))


def test_run_with_gains_of_zero_puts_the_offset_in_place(mlp):
    variables, x = mlp
    gains, offsets = jnp.ones((2, 6)).at[:, 2].set(0), jnp.zeros((2, 6)).at[:, 2].set(0.75)
    seen = {}

    def see(site, activation):
        seen[site.layer] = activation
        return activation

    edit_neurons(WIDE, variables, x, neurons="relu_*", edit=see)
    found = run_with_gains(WIDE, variables, x, neurons="relu_*", gains=gains, offsets=offsets)
    params = jax.tree.map(np.asarray, variables["params"])
    hidden = np.array(seen[0])
    hidden[..., 2] = 0.75
    hidden = np.maximum(hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"], 0)
    hidden[..., 2] = 0.75
    np.testing.assert_allclose(found, hidden @ params["Dense_2"]["kernel"] + params["Dense_2"]["bias"], atol=1e-6)


def test_run_with_gains_takes_gains_for_every_clip(mlp):
    variables, x = mlp
    gains = arrays(4, 2, 6, seed=5)
    found = run_with_gains(WIDE, variables, x, neurons="relu_*", gains=gains)
    for clip in range(4):
        alone = run_with_gains(WIDE, variables, x[clip : clip + 1], neurons="relu_*", gains=gains[clip])
        np.testing.assert_allclose(found[clip], alone[0], rtol=1e-6, atol=1e-6)


def test_run_with_gains_under_vmap_equals_one_at_a_time_and_compiles_once(mlp):
    variables, x = mlp
    many = arrays(5, 2, 6, seed=6)
    traces = []

    @jax.jit
    def run(gains):
        traces.append(1)
        return jax.vmap(lambda g: run_with_gains(WIDE, variables, x, neurons="relu_*", gains=g))(gains)

    found = run(many)
    for number, gains in enumerate(many):
        one = run_with_gains(WIDE, variables, x, neurons="relu_*", gains=gains)
        np.testing.assert_allclose(found[number], one, rtol=1e-6, atol=1e-6)
    run(many + 1)
    assert len(traces) == 1


def test_run_with_gains_has_activation_times_gradient_as_gradient(mlp):
    variables, x = mlp

    def total(gains):
        return jnp.square(run_with_gains(WIDE, variables, x, neurons="relu_*", gains=gains)).sum()

    first, second, last = (jax.tree.map(np.asarray, variables["params"][f"Dense_{layer}"]) for layer in range(3))
    hidden = np.maximum(np.asarray(x) @ first["kernel"] + first["bias"], 0)
    deeper = np.maximum(hidden @ second["kernel"] + second["bias"], 0)
    behind = 2 * (deeper @ last["kernel"] + last["bias"]) @ last["kernel"].T
    before = (behind * (deeper > 0)) @ second["kernel"].T
    wanted = np.stack([(hidden * before).sum(axis=(0, 1)), (deeper * behind).sum(axis=(0, 1))])
    found = jax.grad(total)(jnp.ones((2, 6)))
    assert_within("activation x gradient by hand, relative", relative_error(found, wanted))


def test_run_with_gains_takes_a_module_called_twice_as_one_layer():
    parts = [arrays(2, 3, 4), arrays(2, 5, 4, seed=1)]
    gains = jnp.array([[0.0, 1.0, 2.0, 1.0]])
    found = run_with_gains(CalledTwice(), {}, parts, neurons="act", gains=gains)
    for out, part in zip(found, parts, strict=True):
        np.testing.assert_array_equal(out, np.maximum(part, 0) * np.asarray(gains[0]))


def test_run_with_gains_numbers_layers_as_read_neurons_lists_them():
    class Backwards(nn.Module):
        @nn.compact
        def __call__(self, x):
            for name in ("c", "a", "b"):
                x = Relu(name=name)(nn.Dense(4, name=f"in_{name}")(x))
            return x

    class Relu(nn.Module):
        def __call__(self, x):
            return nn.relu(x)

    x = arrays(2, 3, 4)
    variables = Backwards().init(jax.random.key(0), x)
    _, readings = read_neurons(Backwards(), variables, x, neurons="?")
    assert list(readings) == ["c", "a", "b"]
    offsets = jnp.arange(3.0)[:, None] * jnp.ones((3, 4)) * 100
    seen = []
    edit_neurons(Backwards(), variables, x, neurons="?", edit=lambda site, a: seen.append(site.layer) or a)
    assert seen == [0, 1, 2]
    out = run_with_gains(Backwards(), variables, x, neurons="?", gains=jnp.zeros((3, 4)), offsets=offsets)
    np.testing.assert_array_equal(out, 200.0)


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        (jnp.ones((1, 6)), "the model has 2 layers"),
        (jnp.ones((3, 6)), "the model has 2 layers"),
        (jnp.ones((2, 5)), r"a value \(4, 5, 6\) in 'relu_0'"),
        (jnp.ones((3, 2, 6)), r"a value \(4, 5, 6\) in 'relu_0'"),
        (jnp.ones(6), r"\(layer, neuron\) or \(clip, layer, neuron\), got \(6,\)"),
    ],
)
def test_run_with_gains_refuses_gains_that_do_not_fit(mlp, gains, message):
    variables, x = mlp
    with pytest.raises(InputError, match=message):
        run_with_gains.__wrapped__(WIDE, variables, x, neurons="relu_*", gains=gains)


def test_run_with_gains_refuses_other_offsets_and_patterns_without_a_match(mlp):
    variables, x = mlp
    with pytest.raises(InputError, match="Offsets must have the axes of the gains"):
        run_with_gains.__wrapped__(
            WIDE, variables, x, neurons="relu_*", gains=jnp.ones((2, 6)), offsets=jnp.ones((1, 6))
        )
    with pytest.raises(InputError, match="No module or tag matches the pattern 'gelu_"):
        run_with_gains(WIDE, variables, x, neurons="gelu_*", gains=jnp.ones((2, 6)))
