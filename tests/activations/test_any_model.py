"""One model in every kind of program: readings against NumPy, gains against edited weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from same_model import (
    FUNCTIONS,
    HIDDEN,
    INPUTS,
    KINDS,
    LAYERS,
    WEIGHTS,
    LinenModel,
    NnxModel,
    linen_variables,
    nnx_state,
    programs,
    scanned,
    slow_activations,
)

from jaxdissect import InputError, read_neurons, run_with_gains, run_with_patch, stack_layers
from jaxdissect.encoder.models import apply_model

NEURONS = (LAYERS, HIDDEN)


def edited(gains):
    return {**WEIGHTS, "out": WEIGHTS["out"] * gains[..., None]}


@pytest.fixture(params=[*FUNCTIONS, *KINDS])
def program(request):
    return programs()[request.param]


@pytest.mark.parametrize("outer", [lambda function: function, jax.jit])
def test_read_neurons_of_any_program_reads_what_numpy_does(program, outer):
    model, variables, neurons = program

    given = variables(WEIGHTS)

    def read(x):
        output, readings = read_neurons(model, given, x, neurons=neurons, threshold=0.25)
        return output, stack_layers(readings)

    output, reading = outer(read)(INPUTS)
    activations, expected = slow_activations(WEIGHTS, INPUTS)
    activations = activations.swapaxes(0, 1)  # (clip, layer, token, neuron)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(reading.tokens, [7] * 5)
    np.testing.assert_array_equal(reading.active_tokens, (activations > 0.25).sum(axis=2))
    np.testing.assert_allclose(reading.sum, activations.sum(axis=2), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(reading.sum_squares, (activations**2).sum(axis=2), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(reading.excess, np.maximum(activations - 0.25, 0).sum(axis=2), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(reading.maximum, activations.max(axis=2), rtol=1e-5, atol=1e-5)


def test_run_with_gains_of_any_program_equals_edited_weights(program):
    model, variables, neurons = program
    given = variables(WEIGHTS)
    gains = jnp.asarray(np.random.default_rng(3).choice([0.0, 0.5, 1.0, 2.0], NEURONS), jnp.float32)
    found = jax.jit(lambda gains: run_with_gains(model, given, INPUTS, neurons=neurons, gains=gains))(gains)
    np.testing.assert_allclose(found, slow_activations(edited(gains), INPUTS)[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, apply_model(model, variables(edited(gains)), INPUTS), rtol=1e-5, atol=1e-5)
    assert np.abs(found - apply_model(model, variables(WEIGHTS), INPUTS)).max() > 0.1


def test_run_with_gains_of_any_program_takes_offsets_and_gains_of_each_clip(program):
    model, variables, neurons = program
    given = variables(WEIGHTS)
    rng = np.random.default_rng(5)
    gains, offsets = rng.normal(size=(2, 5, *NEURONS)).astype(np.float32)
    found = run_with_gains(model, given, INPUTS, neurons=neurons, gains=gains, offsets=offsets)
    for clip in range(5):
        x = np.asarray(INPUTS[clip])
        for number in range(LAYERS):
            hidden = np.maximum(x @ WEIGHTS["in"][number], 0) * gains[clip, number] + offsets[clip, number]
            x = x + hidden @ WEIGHTS["out"][number]
        np.testing.assert_allclose(found[clip], x.mean(axis=0), rtol=1e-4, atol=1e-4)


def test_run_with_gains_of_any_program_can_be_differentiated_and_vmapped(program):
    model, variables, neurons = program
    given = variables(WEIGHTS)

    def total(gains):
        return run_with_gains(model, given, INPUTS, neurons=neurons, gains=gains).sum()

    def by_weights(gains):
        x = INPUTS
        for number in range(LAYERS):
            x = x + jax.nn.relu(x @ WEIGHTS["in"][number]) @ edited(gains)["out"][number]
        return x.mean(axis=1).sum()

    gains = jnp.asarray(np.random.default_rng(4).random((2, *NEURONS)), jnp.float32)
    np.testing.assert_allclose(jax.vmap(jax.grad(total))(gains), jax.vmap(jax.grad(by_weights))(gains), rtol=1e-4)


def test_run_with_patch_of_any_program_takes_the_donors_activations(program):
    model, variables, neurons = program
    given, donors = variables(WEIGHTS), INPUTS[::-1]
    patched = np.random.default_rng(7).random((4, *NEURONS)) < 0.4
    run = jax.jit(
        lambda patched: run_with_patch(model, given, INPUTS, donors=[donors], neurons=neurons, patched=patched)
    )
    found = jax.vmap(run)(patched)
    theirs = slow_activations(WEIGHTS, donors)[0]
    for number, takes in enumerate(patched):
        x = INPUTS
        for layer in range(LAYERS):
            hidden = np.where(takes[layer], theirs[layer], np.maximum(x @ WEIGHTS["in"][layer], 0))
            x = x + hidden @ WEIGHTS["out"][layer]
        np.testing.assert_allclose(found[number], x.mean(axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("donors", "patched"), [(INPUTS[:, :4], np.ones(NEURONS, bool)), (INPUTS, np.ones((2, HIDDEN), bool))]
)
def test_run_with_patch_refuses_what_does_not_fit(donors, patched):
    with pytest.raises(InputError, match=r"must have one shape, and `patched` must have the axes .* = \(3, 6\)"):
        run_with_patch(scanned, WEIGHTS, INPUTS, donors=[donors], neurons="neurons", patched=patched)


def test_read_neurons_of_any_program_reads_the_tokens_of_its_mask(program):
    model, variables, neurons = program
    mask = jnp.asarray(np.random.default_rng(6).random(INPUTS.shape[:2]) < 0.6)
    _, readings = read_neurons(model, variables(WEIGHTS), INPUTS, neurons=neurons, masks=[mask])
    activations = np.where(mask[..., None], slow_activations(WEIGHTS, INPUTS)[0], 0)
    np.testing.assert_array_equal(stack_layers(readings).active_tokens, (activations > 0).sum(axis=2).swapaxes(0, 1))
    np.testing.assert_array_equal(stack_layers(readings).tokens, mask.sum(axis=1))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_read_neurons_tells_the_calls_of_a_function_apart_by_its_masks(name):
    """Layers that run twice, on two parts of a clip, are as many layers."""
    function, neurons = FUNCTIONS[name]
    parts = INPUTS[:, :4], INPUTS[:, 4:]

    def in_parts(weights, parts):
        return [function(weights, part) for part in parts]

    masks = [jnp.ones(part.shape[:2], bool) for part in parts]
    if name == "distinct":  # its three tags are two values each
        assert len(read_neurons(in_parts, WEIGHTS, parts, neurons=neurons, masks=masks)[1]) == LAYERS
    reading = stack_layers(read_neurons(in_parts, WEIGHTS, parts, neurons=neurons, masks=masks)[1])
    expected = slow_activations(WEIGHTS, INPUTS)[0]
    np.testing.assert_array_equal(reading.active_tokens, (expected > 0).sum(axis=2).swapaxes(0, 1))


def test_read_neurons_of_nnx_equals_its_own_capture_and_leaves_the_model_alone():
    model = NnxModel(nnx.Rngs(0))
    kinds = [type(module) for _, module in nnx.iter_modules(model)]
    _, readings = read_neurons(model, nnx_state(WEIGHTS, model), INPUTS, neurons="layers/*/act")
    assert [type(module) for _, module in nnx.iter_modules(model)] == kinds
    nnx.update(model, nnx_state(WEIGHTS, model))
    _, captured = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(INPUTS)
    assert list(readings) == [f"layers/{number}/act" for number in range(LAYERS)]
    for number, reading in enumerate(readings.values()):
        (activation,) = jax.tree.leaves(captured["layers"][number]["act"])
        np.testing.assert_array_equal(reading.active_tokens, (activation > 0).sum(axis=1))


def test_read_neurons_of_linen_equals_capture_intermediates():
    model, variables = LinenModel(), linen_variables(WEIGHTS)

    def captured(variables, x):
        _, state = model.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
        return [state["intermediates"][f"layer_{number}"]["act"]["__call__"][0] for number in range(LAYERS)]

    _, readings = read_neurons(model, variables, INPUTS, neurons="layer_*/act")
    for reading, activation in zip(readings.values(), captured(variables, INPUTS), strict=True):
        np.testing.assert_array_equal(reading.active_tokens, (activation > 0).sum(axis=1))
        np.testing.assert_array_equal(reading.maximum, activation.max(axis=1))
