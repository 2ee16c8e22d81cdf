"""Tags: readings and gains through jit, checkpoint, scan and cond, against `read_neurons` and edited weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxdissect import InputError, ViTConfig, read_neurons, stack_layers, untrained_m2d
from jaxdissect.activations.tags import read_tags, run_with_tag_gains, tag
from jaxdissect.encoder.vit import GELU

LAYERS, WIDTH, HIDDEN = 3, 4, 6
NEURONS = (LAYERS, HIDDEN)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


WEIGHTS = {"in": draw(LAYERS, WIDTH, HIDDEN), "out": draw(LAYERS, HIDDEN, WIDTH, seed=1)}
INPUTS = draw(5, 7, WIDTH, seed=2)


def layer(x, weights):
    return x + tag(jax.nn.relu(x @ weights["in"]), "neurons") @ weights["out"]


def unrolled(weights, x):
    for number in range(LAYERS):
        x = layer(x, jax.tree.map(lambda leaf, number=number: leaf[number], weights))
    return x.mean(axis=1)


def scanned(weights, x):
    return jax.lax.scan(lambda x, one: (layer(x, one), x.sum()), x, weights)[0].mean(axis=1)


def backwards(weights, x):
    """The last layer first; its readings stay last."""
    turned = jax.tree.map(lambda leaf: leaf[::-1], weights)
    return jax.lax.scan(lambda x, one: (layer(x, one), None), x, turned, reverse=True)[0].mean(axis=1)


def checkpointed(weights, x):
    """As MaxText has it: each layer is computed again for the gradient, but for what is tagged."""
    policy = jax.checkpoint_policies.save_only_these_names("neurons")
    again = jax.checkpoint(layer, policy=policy, prevent_cse=False)
    return jax.lax.scan(jax.jit(lambda x, one: (again(x, one), None)), x, weights, unroll=2)[0].mean(axis=1)


def two_a_turn(weights, x):
    """A scan of one turn with three layers, inside a scan of one turn."""

    def turn(x, _):
        return jax.lax.scan(lambda x, _: (unrolled_tokens(weights, x), None), x, None, length=1)[0], None

    return jax.lax.scan(turn, x, None, length=1)[0].mean(axis=1)


def unrolled_tokens(weights, x):
    for number in range(LAYERS):
        x = layer(x, jax.tree.map(lambda leaf, number=number: leaf[number], weights))
    return x


def chosen(weights, x):
    """Both sides have the layers."""
    return jax.lax.cond(x.sum() > 1e9, lambda x: 2 * unrolled(weights, x), lambda x: unrolled(weights, x), x)


FORMS = [unrolled, scanned, checkpointed, two_a_turn, chosen, jax.jit(scanned)]


class Relu(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(x)


class Model(nn.Module):
    """The same in Linen, which `read_neurons` reads."""

    @nn.compact
    def __call__(self, x):
        for number in range(LAYERS):
            hidden = nn.Dense(HIDDEN, use_bias=False, name=f"in_{number}")(x)
            x = x + nn.Dense(WIDTH, use_bias=False, name=f"out_{number}")(Relu(name=f"act_{number}")(hidden))
        return x.mean(axis=1)


def expected_reading():
    params = {f"{side}_{n}": {"kernel": WEIGHTS[side][n]} for side in ("in", "out") for n in range(LAYERS)}
    output, readings = read_neurons(Model(), {"params": params}, INPUTS, neurons="act_*", threshold=0.25)
    return output, stack_layers(readings)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("outer", [lambda function: function, jax.jit])
def test_read_tags_gives_what_read_neurons_gives(form, outer):
    output, reading = expected_reading()
    found, read = outer(lambda *args: read_tags(form, *args, tags="neu*", threshold=0.25))(WEIGHTS, INPUTS)
    assert list(read) == ["neurons"]
    np.testing.assert_allclose(found, output, rtol=1e-5)
    np.testing.assert_array_equal(read["neurons"].active_tokens, reading.active_tokens)
    np.testing.assert_array_equal(read["neurons"].tokens, reading.tokens)
    for name in ("sum", "sum_squares", "excess", "maximum"):
        np.testing.assert_allclose(getattr(read["neurons"], name), getattr(reading, name), rtol=1e-5, atol=1e-5)


def test_read_tags_of_a_scan_in_reverse_has_the_layers_of_the_weights():
    _, read = read_tags(backwards, WEIGHTS, INPUTS, tags="neurons")
    _, forwards = read_tags(scanned, WEIGHTS, INPUTS, tags="neurons")
    # The scan begins with the last row of the turned weights, the first layer.
    for part, other in zip(jax.tree.leaves(read["neurons"]), jax.tree.leaves(forwards["neurons"]), strict=True):
        expected = other if other.ndim == 1 else other[:, ::-1]
        np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_run_with_tag_gains_gives_scaled_rows_of_the_second_matrix(form):
    gains = jnp.asarray(np.random.default_rng(3).choice([0.0, 0.5, 1.0, 2.0], NEURONS), jnp.float32)
    edited = {**WEIGHTS, "out": WEIGHTS["out"] * gains[..., None]}
    found = jax.jit(lambda gains: run_with_tag_gains(form, WEIGHTS, INPUTS, gains={"neurons": gains}))(gains)
    np.testing.assert_allclose(found, form(edited, INPUTS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "found"), [(lambda x: x.astype(jnp.int32), "int32"), (lambda x: x.sum(), r"shape \(\)")]
)
def test_run_with_tag_gains_changes_no_whole_numbers_and_no_scalars(function, found):
    """A gain of a half would be none."""
    with pytest.raises(InputError, match=f"must name real numbers.*{found}"):
        run_with_tag_gains(lambda x: checkpoint_name(function(x), "a"), INPUTS, gains={"a": jnp.full((1, WIDTH), 0.5)})


@pytest.mark.parametrize("form", [unrolled, scanned, checkpointed])
def test_run_with_tag_gains_can_be_differentiated_and_vmapped(form):
    def total(gains):
        return run_with_tag_gains(form, WEIGHTS, INPUTS, gains={"neurons": gains}).sum()

    def edited(gains):
        return unrolled({**WEIGHTS, "out": WEIGHTS["out"] * gains[..., None]}, INPUTS).sum()

    gains = jnp.asarray(np.random.default_rng(4).random((2, *NEURONS)), jnp.float32)
    np.testing.assert_allclose(jax.vmap(jax.grad(total))(gains), jax.vmap(jax.grad(edited))(gains), rtol=1e-4)


def test_read_tags_reads_an_nnx_model():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Linear(WIDTH, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

        def __call__(self, x):
            return x + self.second(checkpoint_name(nnx.relu(self.first(x)), "mlpwi"))

    block = Block(nnx.Rngs(0))
    graph, state = nnx.split(block)
    output, read = read_tags(lambda state, x: nnx.merge(graph, state)(x), state, INPUTS, tags="mlpwi")
    np.testing.assert_allclose(output, block(INPUTS), rtol=1e-5)
    hidden = np.asarray(nnx.relu(block.first(INPUTS)))
    np.testing.assert_array_equal(read["mlpwi"].active_tokens[:, 0], (hidden > 0).sum(axis=1))


def test_read_tags_leaves_whole_what_holds_none():
    """A custom derivative, and a function inside jit."""

    @jax.custom_jvp
    def odd(x):
        return x * 2

    odd.defjvp(lambda primals, tangents: (odd(*primals), 7 * tangents[0]))

    def function(x):
        return odd(tag(jax.jit(jnp.sin)(x), "sines"))

    def through(x):
        return read_tags(function, x, tags="sines")[0].sum()

    np.testing.assert_allclose(jax.grad(through)(INPUTS), 7 * jnp.cos(INPUTS), rtol=1e-5)
    program = str(jax.make_jaxpr(lambda x: read_tags(function, x, tags="sines"))(INPUTS))
    assert "custom_jvp_call" in program


def half(x):
    return jax.lax.cond(x.sum() > 0, lambda x: tag(x, "one side"), lambda x: x, x)


def until(x):
    return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: tag(x, "turns") + 1, x)


def two_widths(x):
    return tag(x, "a").sum() + tag(x[..., :2], "a").sum()


@pytest.mark.parametrize(
    ("function", "pattern", "message"),
    [
        (lambda x: tag(x, "mlp_in") + tag(x, "other"), "mlp_im", r"No tag matches 'mlp_im'.*tags: mlp_in, other"),
        (lambda x: x, "*", "the function has the tags: none"),
        (half, "one side", "on one side of a `cond`"),
        (until, "turns", "inside 'while'"),
        (two_widths, "a", "different shapes"),
        (lambda x: checkpoint_name(x.astype(jnp.int32), "whole"), "whole", "must name real numbers.*int32"),
        (lambda x: checkpoint_name(x.sum(), "scalar"), "scalar", "must name real numbers"),
    ],
)
def test_read_tags_says_what_it_cannot_read(function, pattern, message):
    with pytest.raises(InputError, match=message):
        read_tags(function, INPUTS, tags=pattern)


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        ({"neuron": jnp.ones(NEURONS)}, "No tag matches 'neuron'"),
        ({"neurons": jnp.ones((2, HIDDEN))}, r"must have shape \(3, neurons\), got \(2, 6\)"),
        ({"neurons": jnp.ones((LAYERS, 5))}, "must have 6 neurons"),
    ],
)
def test_run_with_tag_gains_says_what_does_not_fit(gains, message):
    with pytest.raises(InputError, match=message):
        run_with_tag_gains(scanned, WEIGHTS, INPUTS, gains=gains)


def of_custom_jvp(x):
    doubled = jax.custom_jvp(lambda x: 2 * tag(x, "inside"))
    doubled.defjvp(lambda primals, tangents: (doubled(*primals), 7 * tangents[0]))
    return doubled(x)


def of_custom_vjp(x):
    doubled = jax.custom_vjp(lambda x: 2 * tag(x, "inside"))
    doubled.defvjp(lambda x: (doubled(x), None), lambda _, slope: (7 * slope,))
    return doubled(x)


@pytest.mark.parametrize("function", [of_custom_jvp, of_custom_vjp])
def test_read_tags_inside_a_custom_derivative_has_the_derivative_of_the_program(function):
    def edited(gain):
        gains = {"inside": jnp.full((1, WIDTH), gain)}
        return run_with_tag_gains(function, INPUTS, gains=gains).sum()

    _, read = read_tags(function, INPUTS, tags="inside")
    np.testing.assert_allclose(read["inside"].sum[:, 0], INPUTS.sum(axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(edited(3.0), 6 * INPUTS.sum(), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(edited)(3.0), 2 * INPUTS.sum(), rtol=1e-5)


def test_read_tags_of_a_vit_is_read_neurons_and_moves_as_many_bytes():
    encoder = untrained_m2d(ViTConfig(frames=64, width=64, depth=3, heads=2, mlp=128))
    params, spectrogram = {"params": encoder.variables["params"]}, draw(2, 64, 80)

    def tagged(params, spectrogram):
        def mark(call, args, options, context):
            output = call(*args, **options)
            return tag(output, "act") if isinstance(context.module, GELU) else output

        with nn.intercept_methods(mark):
            return encoder.module.apply(params, spectrogram)

    def by_path(params, spectrogram):
        return stack_layers(read_neurons(encoder.module, params, spectrogram, neurons=encoder.neurons)[1])

    def by_tag(params, spectrogram):
        return read_tags(tagged, params, spectrogram, tags="act")[1]["act"]

    programs = [jax.jit(function).lower(params, spectrogram).compile() for function in (by_path, by_tag)]
    for expected, found in zip(*(jax.tree.leaves(program(params, spectrogram)) for program in programs), strict=True):
        np.testing.assert_array_equal(found, expected)
    bytes_by_path, bytes_by_tag = (program.cost_analysis()["bytes accessed"] for program in programs)
    assert bytes_by_tag < 1.03 * bytes_by_path
