"""Reading neurons, on a Linen model that is not ours and on shapes that are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linen_models import CalledTwice, Rectifier, TwoLayers

from jaxdissect import InputError, read_neurons, stack_layers, tag


def slow_activations(variables, x, widths):
    """Layer outputs of `TwoLayers` in plain numpy."""
    outputs = []
    for number in range(len(widths)):
        dense = variables["params"][f"Dense_{number}"]
        x = np.maximum(x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]), 0)
        outputs.append(x)
    return outputs


@pytest.fixture(scope="module")
def mlp():
    module = TwoLayers()
    x = jax.random.normal(jax.random.key(0), (4, 6, 8))
    return module, module.init(jax.random.key(1), x), x


def test_read_neurons_counts_a_foreign_model_as_numpy_does(mlp):
    module, variables, x = mlp
    output, readings = jax.jit(lambda v, x: read_neurons(module, v, x, neurons="relu_*"))(variables, x)
    np.testing.assert_array_equal(output, module.apply(variables, x))
    assert list(readings) == ["relu_0", "relu_1"]
    for reading, activation in zip(
        readings.values(), slow_activations(variables, np.asarray(x), module.widths), strict=True
    ):
        np.testing.assert_array_equal(reading.tokens, [6] * 4)
        np.testing.assert_array_equal(reading.active_tokens, (activation > 0).sum(axis=1))
        np.testing.assert_allclose(reading.sum, activation.sum(axis=1), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(reading.sum_squares, (activation**2).sum(axis=1), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(reading.maximum, activation.max(axis=1), rtol=1e-5, atol=1e-5)


def test_read_neurons_threshold_is_exclusive():
    _, reading = read_neurons(Rectifier(), {}, jnp.array([[[0.5], [0.25], [0.75]]]), neurons="*", threshold=0.5)
    assert reading[""].active_tokens.tolist() == [[1]]


def test_read_neurons_masks_leave_tokens_out_even_if_they_are_nan():
    activation = jnp.array([[[1.0, -1.0], [jnp.nan, jnp.nan], [2.0, -3.0]]])
    mask = jnp.array([[True, False, True]])
    _, reading = read_neurons(nn.Dropout(0.0, deterministic=True), {}, activation, neurons="*", masks=[mask])
    reading = reading[""]
    assert reading.tokens.tolist() == [2]
    assert reading.active_tokens.tolist() == [[2, 0]]
    assert reading.sum.tolist() == [[3.0, -4.0]]
    assert reading.sum_squares.tolist() == [[5.0, 10.0]]
    assert reading.maximum.tolist() == [[2.0, -1.0]]


def test_read_neurons_counts_nothing_of_a_clip_without_a_token():
    _, reading = read_neurons(
        Rectifier(), {}, jnp.ones((2, 3, 1)), neurons="*", masks=[jnp.array([[False] * 3, [True] * 3])]
    )
    assert reading[""].tokens.tolist() == [0, 3]
    assert reading[""].active_tokens.tolist() == [[0], [3]]
    assert reading[""].maximum.tolist() == [[-np.inf], [1.0]]


def test_read_neurons_adds_up_several_calls_of_one_module():
    parts = [jax.random.normal(jax.random.key(n), (3, tokens, 4)) for n, tokens in enumerate((5, 2))]
    _, twice = read_neurons(CalledTwice(), {}, parts, neurons="act")
    _, once = read_neurons(Rectifier(), {}, jnp.concatenate(parts, axis=1), neurons="*")
    for one, two in zip(jax.tree.leaves(once[""]), jax.tree.leaves(twice["act"]), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_array_equal(once[""].active_tokens, twice["act"].active_tokens)


def test_read_neurons_of_a_model_without_tokens_has_one_per_clip():
    _, reading = read_neurons(Rectifier(), {}, jnp.array([[1.0, -1.0], [2.0, 3.0]]), neurons="*")
    assert reading[""].tokens.tolist() == [1, 1]
    assert reading[""].active_tokens.tolist() == [[1, 0], [1, 1]]


def test_read_neurons_can_be_vmapped(mlp):
    module, variables, x = mlp
    stacked = jax.vmap(lambda x: read_neurons(module, variables, x, neurons="relu_0")[1]["relu_0"])(x[None] * 1.0)
    single = read_neurons(module, variables, x, neurons="relu_0")[1]["relu_0"]
    np.testing.assert_array_equal(stacked.active_tokens[0], single.active_tokens)


def test_read_neurons_can_be_differentiated(mlp):
    """Though the reductions of a GPU cannot: the derivative is that of the plain sums."""
    model, variables, x = mlp

    def squares(x):
        _, readings = read_neurons(model, variables, x, neurons="relu_*")
        return sum(reading.sum_squares.sum() for reading in readings.values())

    step = 1e-2 * jnp.sign(x)
    slope = float(jnp.vdot(jax.grad(squares)(x), step))
    assert slope == pytest.approx(float(squares(x + step / 2) - squares(x - step / 2)), rel=2e-2)


def test_stack_layers_keeps_the_order_of_calls():
    module = TwoLayers(widths=(4,) * 12)  # "relu_10" sorts before "relu_2"
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    variables = module.init(jax.random.key(1), x)
    _, readings = read_neurons(module, variables, x, neurons="relu_*")
    assert list(readings) == [f"relu_{layer}" for layer in range(12)]
    stacked = stack_layers(readings)
    assert stacked.active_tokens.shape == (2, 12, 4)
    np.testing.assert_array_equal(stacked.active_tokens[:, 10], readings["relu_10"].active_tokens)


def test_stack_layers_refuses_layers_of_unequal_width(mlp):
    module, variables, x = mlp
    with pytest.raises(InputError, match=r"relu_0.*5.*relu_1.*7"):
        stack_layers(read_neurons(module, variables, x, neurons="relu_*")[1])


def test_read_neurons_names_the_modules_if_none_matches(mlp):
    module, variables, x = mlp
    with pytest.raises(InputError, match=r"'blocks_\*'; there are: relu_0, relu_1, Dense_0, "):
        read_neurons(module, variables, x, neurons="blocks_*")


def test_read_neurons_refuses_masks_of_another_shape(mlp):
    module, variables, x = mlp
    with pytest.raises(InputError, match=r"\(4, 6\).*\(4, 5\)"):
        read_neurons(module, variables, x, neurons="relu_*", masks=[jnp.ones((4, 5), bool)])


def test_read_neurons_of_vectors_reads_their_norms_and_has_a_slope_at_zero():
    def heads(x):
        return tag(x, "heads")

    def total(x):
        return read_neurons(heads, x, neurons="heads", vectors=True)[1]["heads"].sum.sum()

    x = np.random.default_rng(0).normal(size=(3, 5, 2, 4)).astype(np.float32)  # (clip, token, head, part)
    _, readings = read_neurons(heads, x, neurons="heads", vectors=True, threshold=2.0)
    norms = np.linalg.norm(x, axis=-1)
    np.testing.assert_array_equal(readings["heads"].active_tokens, (norms > 2).sum(axis=1))
    np.testing.assert_allclose(readings["heads"].sum, norms.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(x)), x / norms[..., None], rtol=1e-5)
    np.testing.assert_array_equal(jax.grad(total)(jnp.zeros_like(x)), 0)
    nothing = read_neurons(heads, np.full_like(x, np.nan), neurons="heads", vectors=True)[1]["heads"]
    assert np.isnan(nothing.sum).all()  # no number stays none
