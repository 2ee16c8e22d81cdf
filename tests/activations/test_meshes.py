"""Models that are split over devices: read and changed as they are, with the counts of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdissect import InputError, read_neurons, run_with_gains, stack_layers, tag

LAYERS, WIDTH, HEADS, HIDDEN, CLIPS, TOKENS = 3, 8, 2, 16, 4, 6
KINDS = [AxisType.Auto, AxisType.Explicit]


def draw(*shape, seed=0):
    """Small whole numbers, so that sums are exact in any order."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def mesh_of(kind):
    return jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(kind, kind), devices=jax.devices()[:4])


WEIGHTS = {"in": draw(LAYERS, WIDTH, HIDDEN), "out": draw(LAYERS, HIDDEN, WIDTH, seed=1)}
SPLIT = {"in": P(None, None, "tensor"), "out": P(None, "tensor", None)}  # as Megatron splits an MLP
X = draw(CLIPS, TOKENS, WIDTH, seed=2)
GAINS = np.random.default_rng(3).choice([0.0, 1.0, 2.0], (LAYERS, HIDDEN)).astype(np.float32)


def on(mesh, weights, x):
    weights = {name: jax.device_put(weights[name], NamedSharding(mesh, SPLIT[name])) for name in weights}
    return weights, jax.device_put(x, NamedSharding(mesh, P("data")))


def product(x, weights, spec=None):
    """A product whose sharding is said where the mesh wants to know it."""
    explicit = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    return jnp.matmul(x, weights, out_sharding=spec) if explicit else x @ weights


def scanned(weights, x):
    def layer(x, one):
        hidden = tag(jax.nn.relu(product(x, one["in"], P("data", None, "tensor"))), "neurons")
        return x + product(hidden, one["out"], P("data", None, None)) / 16, None

    return jax.lax.scan(layer, x, weights)[0]


def by_shard_map(mesh, weights, x):
    """The same, with the parts of every device written out."""

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=({"in": SPLIT["in"], "out": SPLIT["out"]}, P("data")), out_specs=P("data")
    )
    def run(weights, x):
        def layer(x, one):
            hidden = tag(jax.nn.relu(x @ one["in"]), "neurons")
            return x + jax.lax.psum(hidden @ one["out"], "tensor") / 16, None

        return jax.lax.scan(layer, x, weights)[0]

    return run(weights, x)


def alone():
    output, readings = read_neurons(scanned, WEIGHTS, X, neurons="neurons", threshold=0.5)
    return output, readings["neurons"]


@pytest.mark.parametrize("kind", KINDS)
def test_read_neurons_of_tensor_parallel_weights_counts_as_one_device(kind):
    mesh = mesh_of(kind)
    weights, x = on(mesh, WEIGHTS, X)
    with jax.set_mesh(mesh):
        read = jax.jit(lambda weights, x: read_neurons(scanned, weights, x, neurons="neurons", threshold=0.5))
        output, readings = read(weights, x)
    expected_output, expected = alone()
    np.testing.assert_allclose(output, expected_output, rtol=1e-5, atol=1e-5)
    for found, part in zip(jax.tree.leaves(readings["neurons"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, part, rtol=1e-6)
    np.testing.assert_array_equal(readings["neurons"].active_tokens, expected.active_tokens)
    # Clips and neurons stay where they are: no device gathers the activations.
    assert readings["neurons"].sum.sharding.shard_shape(expected.sum.shape) == (CLIPS // 2, LAYERS, HIDDEN // 2)


@pytest.mark.parametrize("kind", KINDS)
def test_run_with_gains_of_tensor_parallel_weights_equals_edited_weights(kind):
    mesh = mesh_of(kind)
    weights, x = on(mesh, WEIGHTS, X)
    with jax.set_mesh(mesh):
        found = jax.jit(lambda w, x, gains: run_with_gains(scanned, w, x, neurons="neurons", gains=gains))(
            weights, x, jax.device_put(GAINS, NamedSharding(mesh, P(None, "tensor")))
        )
    edited = {**WEIGHTS, "out": WEIGHTS["out"] * GAINS[..., None]}
    np.testing.assert_allclose(found, scanned(edited, X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_read_neurons_and_gains_inside_a_shard_map(kind):
    mesh = mesh_of(kind)
    given, function = on(mesh, WEIGHTS, X), functools.partial(by_shard_map, mesh)
    named = {"neurons": "neurons", "specs": {"neurons": P("data", None, "tensor")}}
    mask = np.random.default_rng(5).random((CLIPS, TOKENS)) < 0.5
    output, readings = jax.jit(lambda *a: read_neurons(function, *a, threshold=0.5, masks=[mask], **named))(*given)
    expected_output, expected = read_neurons(scanned, WEIGHTS, X, neurons="neurons", threshold=0.5, masks=[mask])
    np.testing.assert_allclose(output, expected_output, rtol=1e-5, atol=1e-5)
    for found, part in zip(jax.tree.leaves(readings["neurons"]), jax.tree.leaves(expected["neurons"]), strict=True):
        np.testing.assert_allclose(found, part, rtol=1e-6)

    def total(gains):
        return jnp.square(run_with_gains(function, *given, gains=gains, **named)).sum()

    def edited(gains):
        return jnp.square(scanned({**WEIGHTS, "out": WEIGHTS["out"] * gains[..., None]}, X)).sum()

    np.testing.assert_allclose(jax.jit(total)(GAINS), edited(GAINS), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(GAINS), jax.grad(edited)(jnp.asarray(GAINS)), rtol=1e-4)
    of_clips = np.random.default_rng(6).normal(size=(CLIPS, *GAINS.shape)).astype(np.float32)
    found = run_with_gains(function, *given, gains=of_clips, offsets=of_clips, **named)
    expected = run_with_gains(scanned, WEIGHTS, X, neurons="neurons", gains=of_clips, offsets=of_clips)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_read_neurons_inside_a_shard_map_tells_calls_apart_by_their_masks():
    mesh = mesh_of(AxisType.Auto)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    def halves(weights, x):
        return tag(x[:, :3] @ weights, "h") + tag(x[:, 3:] @ weights, "h")

    masks = [np.arange(3) < count for count in (1, 3)]
    masks = [np.broadcast_to(mask, (CLIPS, 3)) for mask in masks]
    given = {"neurons": "h", "masks": masks, "specs": {"h": P("data", None, None)}}
    reading = read_neurons(halves, WEIGHTS["in"][0], X, **given)[1]["h"]
    kept = np.concatenate(masks, axis=1)[..., None]
    np.testing.assert_array_equal(reading.tokens, [4] * CLIPS)
    np.testing.assert_array_equal(reading.active_tokens, ((X @ WEIGHTS["in"][0] > 0) & kept).sum(axis=1))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (None, "is inside a `shard_map`.*say how the value is split"),
        ({"neurons": P("data", "tensor")}, "must have an entry for each axis"),
        ({"neurons": P("data", "tensor", None)}, "None for tokens"),
    ],
)
def test_read_neurons_inside_a_shard_map_wants_to_know_how_values_are_split(specs, message):
    mesh = mesh_of(AxisType.Auto)
    with pytest.raises(InputError, match=message):
        read_neurons(functools.partial(by_shard_map, mesh), *on(mesh, WEIGHTS, X), neurons="neurons", specs=specs)


class Decoder(nnx.Module):
    """As MaxText has its decoders: layers in one scan, rematerialised, split over devices by constraints."""

    def __init__(self, rngs):
        def layer(rngs):
            return DecoderLayer(rngs)

        self.layers = nnx.split_rngs(splits=LAYERS)(nnx.vmap(layer, in_axes=0))(rngs)
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)

    def __call__(self, x):
        run = nnx.remat(lambda x, layer: layer(x), policy=jax.checkpoint_policies.save_only_these_names("mlpwo"))
        return self.norm(nnx.scan(run, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers))


class DecoderLayer(nnx.Module):
    def __init__(self, rngs):
        split = {"in": nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "tensor"))}
        split["out"] = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("tensor", None))
        self.norm1, self.norm2 = nnx.RMSNorm(WIDTH, rngs=rngs), nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.wi = nnx.Linear(WIDTH, HIDDEN, kernel_init=split["in"], rngs=rngs)
        self.wo = nnx.Linear(HIDDEN, WIDTH, kernel_init=split["out"], rngs=rngs)

    def __call__(self, x):
        x = jax.lax.with_sharding_constraint(x, P("data", None, None))
        x = x + self.attention(self.norm1(x), mask=nnx.make_causal_mask(x[..., 0]))
        hidden = jax.lax.with_sharding_constraint(nnx.silu(self.wi(self.norm2(x))), P("data", None, "tensor"))
        hidden = checkpoint_name(hidden, "mlpwi")
        return x + checkpoint_name(self.wo(hidden), "mlpwo")


def test_a_scanned_rematerialised_sharded_decoder_is_read_and_changed_as_it_is():
    mesh, x = mesh_of(AxisType.Auto), draw(CLIPS, TOKENS, WIDTH, seed=4)
    gains = jnp.asarray(GAINS)
    with jax.set_mesh(mesh):
        model = nnx.jit(lambda: Decoder(nnx.Rngs(0)))()
        state = nnx.state(model)
        spread = jax.device_put(x, NamedSharding(mesh, P("data")))
        output, readings = jax.jit(lambda state, x: read_neurons(model, state, x, neurons="mlpw[i]"))(state, spread)
        found = jax.jit(lambda state, x: run_with_gains(model, state, x, neurons="mlpwi", gains=gains))(state, spread)
        np.testing.assert_allclose(output, nnx.jit(lambda model, x: model(x))(model, spread), rtol=1e-5, atol=1e-5)
        counts = slow_counts(state, x)
        kernel = state["layers"]["wo"]["kernel"]
        kernel.set_value(kernel[...] * gains[..., None])
        expected = jax.jit(lambda state, x: nnx.merge(nnx.graphdef(model), state)(x))(state, spread)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(found) - np.asarray(output)).max() > 0.01
    reading = stack_layers(readings)
    assert reading.sum.shape == (CLIPS, LAYERS, HIDDEN)
    assert (np.asarray(reading.active_tokens) != counts).mean() < 0.002  # but for what rounding turns at zero


def slow_counts(state, x):
    """Active tokens (clip, layer, neuron), one layer after the other."""
    layers, counts = state["layers"], []
    for number in range(LAYERS):
        block = DecoderLayer(nnx.Rngs(0))
        one = jax.tree.map(lambda leaf, number=number: leaf[number], layers)
        nnx.update(block, one)

        def hidden_and_output(block, x):
            x = x + block.attention(block.norm1(x), mask=nnx.make_causal_mask(x[..., 0]))
            hidden = nnx.silu(block.wi(block.norm2(x)))
            return hidden, x + block.wo(hidden)

        hidden, x = hidden_and_output(block, jnp.asarray(x))
        counts.append((np.asarray(hidden) > 0).sum(axis=1))
    return np.stack(counts, axis=1)
