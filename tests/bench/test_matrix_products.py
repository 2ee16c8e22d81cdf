"""Matrix products of a program: found wherever they are, by closed forms and the compiler's own count."""

import dataclasses
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdissect import ViTConfig, untrained_m2d
from jaxdissect.bench.matrix_products import matrix_products, product_seconds, repeated_seconds
from jaxdissect.bench.rates import step_products
from jaxdissect.encoder.protocol import module_input

VIT = ViTConfig(bands=80, frames=48, patch_bands=40, patch_frames=16, width=32, depth=3, heads=2, mlp=64)


def total_flop(products):
    return sum(times * product.flop for product, times in products.items())


def shapes(products):
    return Counter({(one.left, one.right): times for one, times in products.items()})


def vit_products(config, clips, frames):
    """By the equations of the model: `frames` frames are whole chunks, and the rest one shorter chunk."""
    bins, wide, head = 201, config.width, config.width // config.heads
    found = Counter({((clips, frames, bins), (bins, config.bands)): 1})
    full, rest = divmod(frames, config.frames)
    for chunks, length in ((full, config.frames), (1, 16 * math.ceil(rest / 16))):
        patches = config.bands // config.patch_bands * length // config.patch_frames
        tokens, rows = patches + 1, (clips, chunks)
        found[(*rows, patches, 640), (640, wide)] += 1
        for inner, outer in ((wide, 3 * wide), (wide, wide), (wide, 64), (64, wide)):
            found[(*rows, tokens, inner), (inner, outer)] += config.depth
        heads = (*rows, config.heads)
        found[(*heads, tokens, head), (*heads, head, tokens)] += config.depth
        found[(*heads, tokens, tokens), (*heads, tokens, head)] += config.depth
    return found


def as_xla_has_them(products):
    """Axes of length one may be gone."""
    return Counter({tuple(tuple(n for n in shape if n > 1) for shape in sides): n for sides, n in products.items()})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_matrix_products_of_a_vit_are_those_of_its_equations(dtype):
    encoder = dataclasses.replace(untrained_m2d(VIT), dtype=dtype)
    pcm = jax.ShapeDtypeStruct((5, 160 * 122), jnp.int16)  # 123 frames: two chunks of 48, and 27 padded to 32

    def whole(variables, pcm):
        return encoder.module.apply(variables, module_input(encoder, variables, pcm))

    with jax.numpy_dtype_promotion("standard"):  # Flax's layers mix types
        products, notes = matrix_products(whole, encoder.variables, pcm)
    expected = vit_products(VIT, 5, 123)
    assert as_xla_has_them(shapes(products)) == as_xla_has_them(expected)
    assert not notes
    flop = sum(2 * math.prod(left) * right[-1] * times for (left, right), times in expected.items())
    assert total_flop(products) == flop
    types = {one.types for one in products if 201 not in one.right}
    assert types == {(jnp.dtype(dtype).name,) * 2}
    assert all("HIGHEST" in str(dict(one.settings)["precision"]) for one in products)


def test_step_products_leave_out_what_follows_the_last_neurons():
    products, _ = step_products(untrained_m2d(VIT), 160 * 122 / 16000, 5)
    whole = vit_products(VIT, 5, 123)
    for left, right in whole:
        whole[left, right] -= right == (64, 32)  # the last layer's way back to the stream
    assert as_xla_has_them(shapes(products)) == as_xla_has_them(whole)


def test_matrix_products_are_found_wherever_they_are():
    @jax.custom_jvp
    def product(x, y):
        return x @ y

    product.defjvp(lambda primals, tangents: (product(*primals), tangents[0]))

    def turn(carry, row):
        return jax.jit(product)(carry, carry), row @ carry  # the second result is dropped below

    def function(x, rows):
        x = jax.checkpoint(jnp.matmul)(x, x)
        x, _ = lax.scan(lambda x, _: (lax.scan(turn, x, rows)[0], None), x, None, length=2)
        _ = rows @ x  # no result depends on it
        return lax.fori_loop(0, 3, lambda _, x: x @ x, x)

    products, notes = matrix_products(function, jnp.ones((4, 4)), jnp.ones((5, 4)))
    # One in the checkpoint, twice five turns of one, three in the loop.
    assert shapes(products) == {((4, 4), (4, 4)): 1 + 2 * 5 + 3}
    assert not notes


def test_matrix_products_leave_out_what_runs_an_unknown_number_of_times_with_a_note():
    def function(x):
        x = lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, x)
        return lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x) @ x

    products, notes = matrix_products(function, jnp.ones((4, 4)))
    assert shapes(products) == {((4, 4), (4, 4)): 1}
    assert notes == [
        f"Products inside `{name}`, whose number of runs is not known, are left out." for name in ("cond", "while")
    ]
    _, notes = matrix_products(lambda x: lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x), jnp.ones(4))
    assert not notes


def test_matrix_products_of_a_choice_by_platform_are_the_default_ones():
    def function(x):
        return lax.platform_dependent(x, cuda=lambda x: x + 1, default=lambda x: x @ x)

    products, notes = matrix_products(function, jnp.ones((4, 4)))
    assert shapes(products) == {((4, 4), (4, 4)): 1}
    assert not notes


def test_matrix_products_inside_shard_map_are_those_of_one_device():
    mesh = jax.make_mesh((8,), ("clip",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("clip")
    mapped = jax.shard_map(lambda x, y: x @ y, mesh=mesh, in_specs=(spec, jax.P()), out_specs=spec)
    products, _ = matrix_products(mapped, jnp.ones((16, 4)), jnp.ones((4, 3)))
    assert shapes(products) == {((2, 4), (4, 3)): 1}


def test_matrix_product_of_a_convolution_is_of_its_patches():
    def function(x, kernel):
        return lax.conv_general_dilated(x, kernel, (2,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))

    x, kernel = jnp.ones((3, 20, 4)), jnp.ones((5, 4, 6))
    products, _ = matrix_products(function, x, kernel)
    assert total_flop(products) == 2 * 3 * 8 * (5 * 4) * 6
    (product,) = products
    np.testing.assert_array_equal(product.apply(x, kernel), function(x, kernel))


@pytest.mark.parametrize("axes", [(), (3,)], ids=["matrices", "batches"])
def test_matrix_products_flop_is_that_of_the_compiler(axes):
    def chain(a, b, c):
        return jnp.matmul(jnp.matmul(a, b, precision="highest"), c, precision="highest")

    operands = [jnp.ones((*axes, *shape)) for shape in ((8, 16), (16, 24), (24, 4))]
    products, _ = matrix_products(chain, *operands)
    assert total_flop(products) == jax.jit(chain).lower(*operands).cost_analysis()["flops"]


def test_product_seconds_measures_the_product_with_its_settings():
    operands = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((2, 3, 4), (2, 5, 4))]
    dimensions = (((2,), (2,)), ((0,), (0,)))

    def function(left, right):
        return lax.dot_general(left, right, dimensions, precision="highest", preferred_element_type=jnp.float32)

    ((product,), _) = matrix_products(function, *operands)
    left, right = (jnp.arange(math.prod(one.shape), dtype=one.dtype).reshape(one.shape) for one in operands)
    np.testing.assert_array_equal(product.apply(left, right), function(left, right))
    assert product.apply(left, right).dtype == jnp.float32
    assert product_seconds(product, jax.local_devices()[0]) > 0


def test_repeated_seconds_waits_for_every_call():
    class Result:
        waited = 0

        def block_until_ready(self):
            Result.waited += 1

    seconds = repeated_seconds(Result, 3, 0.0)
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert Result.waited >= 1 + 1 + 3  # to compile, to choose the number of calls, and in each repetition
