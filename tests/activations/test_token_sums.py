"""Sums over tokens: the forms for a GPU against the plain one, and that against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdissect.activations import token_sums as forms

INTERPRETED = functools.partial(forms.one_pass, interpret=True)


def whole_numbers(rng, shape, dtype=np.float32):
    """Small ones, which add up exactly in any order."""
    return rng.integers(-9, 9, shape).astype(dtype)


def slow(activation, mask, threshold):
    """The same, clip by clip and neuron by neuron."""
    found = np.zeros((5, len(activation), activation.shape[-1]), np.float32)
    for clip, neuron in np.ndindex(found.shape[1:]):
        values = activation[clip, ..., neuron][mask[clip]]
        above = values[values > threshold]
        largest = values.max() if len(values) else -np.inf
        found[:, clip, neuron] = len(above), values.sum(), (values**2).sum(), (above - threshold).sum(), largest
    return found


@pytest.mark.parametrize("form", [forms.token_sums, forms.in_pairs, INTERPRETED])
@pytest.mark.parametrize("tokens", [(1,), (5,), (32,), (191,), (6, 7)])
@pytest.mark.parametrize("neurons", [3, 128, 200])
def test_token_sums_are_those_of_numpy(form, tokens, neurons):
    rng = np.random.default_rng(0)
    activation, mask = whole_numbers(rng, (3, *tokens, neurons)), rng.random((3, *tokens)) < 0.6
    mask[2] = False
    for chosen in (np.ones_like(mask), mask):
        given = None if chosen.all() else jnp.asarray(chosen)
        found = form(jnp.asarray(activation), given, 1.0)
        np.testing.assert_array_equal(np.stack(found), slow(activation, chosen, 1.0))


@pytest.mark.parametrize("form", [forms.in_pairs, INTERPRETED])
def test_token_sums_treat_nan_and_infinity_as_the_plain_form_does(form):
    rng = np.random.default_rng(0)
    activation = whole_numbers(rng, (4, 40, 5))
    activation[1, 2, 1], activation[2, 0, 2], activation[0, 3, 0] = np.nan, np.inf, np.nan
    mask = rng.random((4, 40)) < 0.7
    mask[0, 3] = False  # a NaN that is not read
    activation, mask = jnp.asarray(activation), jnp.asarray(mask)
    for found, expected in zip(form(activation, mask, 0.0), forms.one_by_one(activation, mask, 0.0), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", [forms.in_pairs, INTERPRETED])
def test_token_sums_compare_bfloat16_with_the_threshold_in_bfloat16(form):
    activation = whole_numbers(np.random.default_rng(0), (2, 33, 130)) / 8
    activation, threshold = jnp.asarray(activation, jnp.bfloat16), 0.3001  # 0.30078 in bfloat16
    with jax.numpy_dtype_promotion("standard"):
        found, expected = form(activation, None, threshold), forms.one_by_one(activation, None, threshold)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[3], expected[3], rtol=1e-6)
    np.testing.assert_array_equal(found[4], expected[4])


def test_token_sums_by_the_kernel_can_be_vmapped():
    activation = jnp.asarray(whole_numbers(np.random.default_rng(0), (2, 3, 20, 130)))
    mapped = jax.vmap(lambda one: INTERPRETED(one, None, 0.0))(activation)
    for found, expected in zip(mapped, forms.one_by_one(activation.reshape(6, 20, 130), None, 0.0), strict=True):
        np.testing.assert_array_equal(found.reshape(6, 130), expected)


def test_token_sums_differentiate_as_the_plain_form():
    activation = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 3)), jnp.float32)
    mask = activation[..., 0] > 0

    def total(form, values, threshold):
        return sum((number * part).sum() for number, part in enumerate(form(values, mask, threshold), start=1))

    found = jax.grad(functools.partial(total, forms.token_sums), argnums=(0, 1))(activation, 0.1)
    expected = jax.grad(functools.partial(total, forms.one_by_one), argnums=(0, 1))(activation, 0.1)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(jnp.abs(found[0]).max()) > 0


def test_token_sums_take_pairs_on_cuda_and_the_plain_form_on_a_cpu(monkeypatch):
    """Lowered for each platform, which needs neither a device nor its plugin."""

    def lowered(platform):
        function = jax.jit(lambda values: forms.token_sums(values, None, 0.0))
        return function.trace(jnp.ones((2, 3, 5))).lower(lowering_platforms=(platform,)).as_text()

    assert [lowered(platform).count("stablehlo.reduce(") for platform in ("cuda", "cpu")] == [3, 5]
    monkeypatch.setattr(forms, "KERNEL", True)
    jax.clear_caches()
    assert "triton" in lowered("cuda")
    assert lowered("cpu").count("stablehlo.reduce(") == 5
