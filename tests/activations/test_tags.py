"""Tags: where they can be read and changed, where not, and what reading them costs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from same_model import HIDDEN, INPUTS, LAYERS, WEIGHTS, WIDTH, Rectifier, draw, layer, scanned, unrolled

from jaxdissect import InputError, ViTConfig, read_neurons, run_with_gains, stack_layers, tag, untrained_m2d
from jaxdissect.activations.read import reduce_tokens
from jaxdissect.encoder import models
from jaxdissect.encoder.families.blocks import GELU


def backwards(weights, x):
    """A scan in reverse, over turned weights: the first turn has the last row, which is the first layer."""
    turned = jax.tree.map(lambda leaf: leaf[::-1], weights)
    return jax.lax.scan(lambda x, one: (layer(x, one), None), x, turned, reverse=True)[0].mean(axis=1)


def test_read_neurons_of_a_scan_in_reverse_has_the_layers_in_the_order_of_the_rows():
    _, read = read_neurons(backwards, WEIGHTS, INPUTS, neurons="neurons")
    _, forwards = read_neurons(scanned, WEIGHTS, INPUTS, neurons="neurons")
    for part, other in zip(jax.tree.leaves(read["neurons"]), jax.tree.leaves(forwards["neurons"]), strict=True):
        np.testing.assert_allclose(part, other if other.ndim == 1 else other[:, ::-1], rtol=1e-5, atol=1e-5)


def test_read_neurons_leaves_whole_what_holds_none():
    """A custom derivative, and a function inside jit."""

    @jax.custom_jvp
    def odd(x):
        return x * 2

    odd.defjvp(lambda primals, tangents: (odd(*primals), 7 * tangents[0]))

    def function(x):
        return odd(tag(jax.jit(jnp.sin)(x), "sines"))

    def through(x):
        return read_neurons(function, x, neurons="sines")[0].sum()

    np.testing.assert_allclose(jax.grad(through)(INPUTS), 7 * jnp.cos(INPUTS), rtol=1e-5)
    program = str(jax.make_jaxpr(lambda x: read_neurons(function, x, neurons="sines"))(INPUTS))
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
        (
            lambda x: tag(x, "mlp_in") + tag(x, "other"),
            "mlp_im",
            "'mlp_im'; there are: mlp_in, other",
        ),
        (lambda x: x, "*", "there are: none"),
        (half, "one side", "equally often on every side of a `cond`"),
        (until, "turns", "inside 'while'"),
        (two_widths, "a", r"last axes are \(4,\) and \(2,\)"),
        (lambda x: checkpoint_name(x.astype(jnp.int32), "whole"), "whole", "must be an array of real numbers.*int32"),
        (lambda x: checkpoint_name(x.sum(), "scalar"), "scalar", "must be an array of real numbers"),
    ],
)
def test_read_neurons_says_what_it_cannot_read(function, pattern, message):
    with pytest.raises(InputError, match=message):
        read_neurons(function, INPUTS, neurons=pattern)


def of_custom_jvp(x):
    doubled = jax.custom_jvp(lambda x: 2 * tag(x, "inside"))
    doubled.defjvp(lambda primals, tangents: (doubled(*primals), 7 * tangents[0]))
    return doubled(x)


def of_custom_vjp(x):
    doubled = jax.custom_vjp(lambda x: 2 * tag(x, "inside"))
    doubled.defvjp(lambda x: (doubled(x), None), lambda _, slope: (7 * slope,))
    return doubled(x)


@pytest.mark.parametrize("function", [of_custom_jvp, of_custom_vjp])
def test_run_with_gains_inside_a_custom_derivative_has_the_derivative_of_the_program(function):
    def edited(gain):
        return run_with_gains(function, INPUTS, neurons="inside", gains=jnp.full((1, WIDTH), gain)).sum()

    _, read = read_neurons(function, INPUTS, neurons="inside")
    np.testing.assert_allclose(read["inside"].sum, INPUTS.sum(axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(edited(3.0), 6 * INPUTS.sum(), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(edited)(3.0), 2 * INPUTS.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "found"), [(lambda x: x.astype(jnp.int32), "int32"), (lambda x: x.sum(), r"shape \(\)")]
)
def test_run_with_gains_changes_no_whole_numbers_and_no_scalars(function, found):
    """A gain of a half would be none."""
    gains = jnp.full((1, WIDTH), 0.5)
    with pytest.raises(InputError, match=f"must be an array of real numbers.*{found}"):
        run_with_gains(lambda x: checkpoint_name(function(x), "a"), INPUTS, neurons="a", gains=gains)


@pytest.mark.parametrize(
    ("neurons", "gains", "message"),
    [
        ("neuron", jnp.ones((LAYERS, HIDDEN)), "No module or tag matches the pattern 'neuron'; there are: neurons"),
        ("neurons", jnp.ones((2, HIDDEN)), "the model has 3 layers"),
        ("neurons", jnp.ones((LAYERS, 5)), r"a value \(5, 7, 6\) in 'neurons'"),
    ],
)
@pytest.mark.parametrize("function", [unrolled, scanned])
def test_run_with_gains_on_tags_says_what_does_not_fit(function, neurons, gains, message):
    with pytest.raises(InputError, match=message):
        run_with_gains(function, WEIGHTS, INPUTS, neurons=neurons, gains=gains)


def test_read_neurons_refuses_layers_that_cannot_be_told_from_calls():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            act = Act(name="act")
            return act(act(x)), None

    class Act(nn.Module):
        def __call__(self, x):
            return nn.relu(x)

    stack = nn.scan(Twice, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()
    with pytest.raises(InputError, match=r"'act' has 6 values in 2 places of the program\. Some may be layers"):
        read_neurons(stack, {}, jnp.asarray(INPUTS), None, neurons="act")


class Rectified(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(WIDTH, name="out")(Rectifier(name="act")(nn.Dense(HIDDEN, name="in")(x)))


class Twins(nn.Module):
    kind: type

    @nn.compact
    def __call__(self, x):
        return self.kind(name="b")(self.kind(name="a")(x))


def test_read_neurons_reads_modules_under_remat_and_refuses_those_that_nn_jit_has_made_one():
    x = jnp.asarray(INPUTS)
    remat, jitted = Twins(nn.remat(Rectified)), Twins(nn.jit(Rectified))
    variables = remat.init(jax.random.key(0), x)
    plain = read_neurons(Twins(Rectified), variables, x, neurons="?/act")[1]
    for path, reading in read_neurons(remat, variables, x, neurons="?/act")[1].items():
        np.testing.assert_array_equal(reading.active_tokens, plain[path].active_tokens)
    with pytest.raises(InputError, match=r"'a/act' stands for 2 modules, which nn\.jit has given one program"):
        read_neurons(jitted, variables, x, neurons="?/act")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"masks": [np.ones(INPUTS.shape[:2], int)]}, "Masks must be arrays of booleans.*got int64"),
        ({"masks": [np.ones(INPUTS.shape[:2], np.float32)]}, "Masks must be arrays of booleans.*got float32"),
        ({"masks": [[[True] * 7] * 5]}, "Masks must be arrays of booleans.*got list"),
        ({"masks": []}, "masks must have a mask for each call of the layers, got none"),
        ({"masks": np.ones(INPUTS.shape[:2], bool)}, "masks must be a list, one mask for each call"),
        ({"threshold": float("nan")}, "threshold must be a finite number, got nan"),
        ({"masks": [np.ones(INPUTS.shape[:2], bool)] * 2}, "3 values in 1 places"),
    ],
)
def test_read_neurons_refuses_what_would_be_miscounted(asked, message):
    with pytest.raises(InputError, match=message):
        read_neurons.__wrapped__(scanned, WEIGHTS, INPUTS, neurons="neurons", **asked)


class Doubled(nn.Dense):
    """A module that calls the call of its class: both have one path."""

    @nn.compact
    def __call__(self, x):
        return 2 * super().__call__(x)


def test_read_neurons_of_a_subclass_that_calls_its_parent_reads_its_output_once():
    model, x = Doubled(HIDDEN), jnp.asarray(INPUTS)
    variables = model.init(jax.random.key(0), x)
    output, readings = read_neurons(model, variables, x, neurons="*")
    np.testing.assert_array_equal(readings[""].tokens, [7] * 5)
    np.testing.assert_allclose(readings[""].sum, output.sum(axis=1), rtol=1e-5, atol=1e-5)
    halved = run_with_gains(model, variables, x, neurons="*", gains=jnp.full((1, HIDDEN), 0.5))
    np.testing.assert_allclose(halved, output / 2, rtol=1e-6)


def test_read_neurons_keeps_the_order_of_layers_through_jit():
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            for number in range(12):
                x = nn.Dense(WIDTH, name=f"b_{number}")(x)
            return x

    x = jnp.asarray(INPUTS)
    variables = Deep().init(jax.random.key(0), x)
    _, readings = jax.jit(lambda variables, x: read_neurons(Deep(), variables, x, neurons="b_*"))(variables, x)
    assert list(readings) == [f"b_{number}" for number in range(12)]


def pooled(x):
    """Layers of 8 and of 4 tokens."""
    x = tag(x, "h").reshape(len(x), 4, -1, WIDTH).mean(axis=2)
    return tag(x, "h")


def test_read_neurons_refuses_layers_of_different_tokens():
    x = jnp.asarray(draw(5, 8, WIDTH))
    with pytest.raises(InputError, match=r"The layers of 'h' differ in their tokens or units, \(8, 4\) and \(4, 4\)"):
        read_neurons(pooled, x, neurons="h")
    readings = [read_neurons(lambda x: tag(x, "h"), part, neurons="h")[1]["h"] for part in (x, x[:, :4])]
    with pytest.raises(InputError, match="only be stacked if they have equally many tokens"):
        stack_layers(dict(zip("ab", readings, strict=True)))


def test_read_neurons_refuses_a_module_that_is_called_alone_and_in_a_loop():
    """Of its four values it cannot be told which are layers."""

    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            act = Rectifier(name="act")
            return nn.scan(lambda module, x, _: (module(x), None), length=3)(act, act(x), None)[0]

    for run in (
        lambda: read_neurons(Mixed(), {}, jnp.asarray(INPUTS), neurons="act"),
        lambda: run_with_gains(Mixed(), {}, jnp.asarray(INPUTS), neurons="act", gains=jnp.ones((2, WIDTH))),
    ):
        with pytest.raises(InputError, match="'act' has 4 values in 2 places"):
            run()


def test_read_neurons_refuses_a_name_of_a_module_and_of_a_tag():
    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            return tag(Rectifier(name="act")(x), "act")

    with pytest.raises(InputError, match="act names a module and a tag: give the tag another name"):
        read_neurons(Both(), {}, jnp.asarray(INPUTS), neurons="act")


def test_run_with_gains_refuses_complex_gains():
    with pytest.raises(InputError, match="Gains must be real numbers"):
        run_with_gains.__wrapped__(unrolled, WEIGHTS, INPUTS, neurons="neurons", gains=1j * np.ones((LAYERS, HIDDEN)))


def test_read_neurons_of_a_loop_without_a_turn_has_no_neurons():
    def none(x):
        return jax.lax.scan(lambda x, _: (tag(x, "turns"), None), x, None, length=0)[0]

    with pytest.raises(InputError, match="No module or tag matches the pattern 'turns'; there are: none"):
        read_neurons(none, INPUTS, neurons="turns")


@pytest.mark.parametrize("model", [3, {"params": WEIGHTS}, "mine"])
def test_apply_model_says_what_a_model_must_be(model):
    with pytest.raises(InputError, match=f"Linen module, a Flax NNX module or a function.*got {type(model).__name__}"):
        models._callable.__wrapped__(model)


def test_read_neurons_of_a_vit_moves_as_many_bytes_as_flax_alone_needs():
    """Against Flax's own `capture_intermediates`, with the same reduction behind it."""
    encoder = untrained_m2d(ViTConfig(frames=64, width=64, depth=3, heads=2, mlp=128))
    params, spectrogram = {"params": encoder.variables["params"]}, draw(2, 64, 80)

    def by_capture(params, spectrogram):
        wanted = lambda module, _: isinstance(module, GELU)  # noqa: E731
        _, state = encoder.module.apply(params, spectrogram, capture_intermediates=wanted, mutable=["intermediates"])
        blocks = [state["intermediates"][f"blocks_{number}"]["mlp"]["act"]["__call__"][0] for number in range(3)]
        return stack_layers({str(number): reduce_tokens(block, None, 0.0) for number, block in enumerate(blocks)})

    def by_path(params, spectrogram):
        return stack_layers(read_neurons(encoder.module, params, spectrogram, neurons=encoder.neurons)[1])

    programs = [jax.jit(function).lower(params, spectrogram).compile() for function in (by_capture, by_path)]
    for expected, found in zip(*(jax.tree.leaves(program(params, spectrogram)) for program in programs), strict=True):
        np.testing.assert_array_equal(found, expected)
    captured, read = (program.cost_analysis()["bytes accessed"] for program in programs)
    assert read < 1.03 * captured
