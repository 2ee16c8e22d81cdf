"""One small model in every kind of program: three residual layers with ReLU neurons, from the same weights."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdissect import tag

LAYERS, WIDTH, HIDDEN = 3, 4, 6


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WEIGHTS = {"in": draw(LAYERS, WIDTH, HIDDEN), "out": draw(LAYERS, HIDDEN, WIDTH, seed=1)}
INPUTS = draw(5, 7, WIDTH, seed=2)  # (clip, token, width)


def slow_activations(weights, x):
    """(layer, clip, token, neuron) in NumPy, and the model's output."""
    x, layers = np.asarray(x), []
    for into, out in zip(np.asarray(weights["in"]), np.asarray(weights["out"]), strict=True):
        layers.append(np.maximum(x @ into, 0))
        x = x + layers[-1] @ out
    return np.stack(layers), x.mean(axis=1)


def of_layer(weights, number):
    return jax.tree.map(lambda leaf: leaf[number], weights)


# Plain functions, whose neurons have the tag "neurons".


def layer(x, weights):
    return x + tag(jax.nn.relu(x @ weights["in"]), "neurons") @ weights["out"]


def tokens_unrolled(weights, x):
    for number in range(LAYERS):
        x = layer(x, of_layer(weights, number))
    return x


def unrolled(weights, x):
    return tokens_unrolled(weights, x).mean(axis=1)


def scanned(weights, x):
    return jax.lax.scan(lambda x, one: (layer(x, one), x.sum()), x, weights)[0].mean(axis=1)


def checkpointed(weights, x):
    """As MaxText has it: each layer is computed again for the gradient, but for what is tagged."""
    policy = jax.checkpoint_policies.save_only_these_names("neurons")
    again = jax.checkpoint(layer, policy=policy, prevent_cse=False)
    return jax.lax.scan(jax.jit(lambda x, one: (again(x, one), None)), x, weights, unroll=2)[0].mean(axis=1)


def nested(weights, x):
    """A scan of one turn with three layers, inside a scan of one turn."""

    def turn(x, _):
        return jax.lax.scan(lambda x, _: (tokens_unrolled(weights, x), None), x, None, length=1)[0], None

    return jax.lax.scan(turn, x, None, length=1)[0].mean(axis=1)


def chosen(weights, x):
    """Both sides of a cond have the layers."""
    return jax.lax.cond(x.sum() > 1e9, lambda x: 2 * unrolled(weights, x), lambda x: unrolled(weights, x), x)


def distinct(weights, x):
    """Each layer has a tag of its own."""
    for number in range(LAYERS):
        one = of_layer(weights, number)
        x = x + tag(jax.nn.relu(x @ one["in"]), f"neurons {number}") @ one["out"]
    return x.mean(axis=1)


# Flax Linen, by paths.


class Rectifier(nn.Module):
    def __call__(self, x):
        return nn.relu(x)


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        hidden = Rectifier(name="act")(nn.Dense(HIDDEN, use_bias=False, name="in")(x))
        x = x + nn.Dense(WIDTH, use_bias=False, name="out")(hidden)
        return x, None


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x):
        for number in range(LAYERS):
            x, _ = LinenBlock(name=f"layer_{number}")(x)
        return x.mean(axis=1)


class LinenScanned(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        block = nn.remat(LinenBlock, prevent_cse=False) if self.remat else LinenBlock
        scan = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS)
        return scan(name="layers")(x, None)[0].mean(axis=1)


def linen_variables(weights):
    kernels = [{side: {"kernel": weights[side][n]} for side in ("in", "out")} for n in range(LAYERS)]
    return {"params": {f"layer_{number}": kernel for number, kernel in enumerate(kernels)}}


def scanned_variables(weights):
    return {"params": {"layers": {side: {"kernel": weights[side]} for side in ("in", "out")}}}


# Flax NNX, by paths.


class NnxRectifier(nnx.Module):
    def __call__(self, x):
        return nnx.relu(x)


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.into = nnx.Linear(WIDTH, HIDDEN, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(HIDDEN, WIDTH, use_bias=False, rngs=rngs)
        self.act = NnxRectifier()

    def __call__(self, x):
        return x + self.out(self.act(self.into(x)))


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([NnxBlock(rngs) for _ in range(LAYERS)])

    def __call__(self, x):
        for block in self.layers:
            x = block(x)
        return x.mean(axis=1)


class NnxScanned(nnx.Module):
    """As MaxText has it: the layers' weights lie in one module, and a scan runs through them."""

    def __init__(self, rngs):
        self.layers = nnx.split_rngs(splits=LAYERS)(nnx.vmap(NnxBlock, in_axes=0))(rngs)

    def __call__(self, x):
        run = nnx.scan(nnx.remat(lambda x, block: block(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return run(x, self.layers).mean(axis=1)


def nnx_state(weights, model):
    """A state of the model with these weights."""
    state = nnx.state(model)
    if isinstance(model, NnxScanned):
        state["layers"]["into"]["kernel"].set_value(weights["in"])
        state["layers"]["out"]["kernel"].set_value(weights["out"])
        return state
    for number in range(LAYERS):
        state["layers"][number]["into"]["kernel"].set_value(weights["in"][number])
        state["layers"][number]["out"]["kernel"].set_value(weights["out"][number])
    return state


# Equinox, by tags: modules take single clips.


class EqxBlock(eqx.Module):
    """Linear layers of Equinox take one token, `weight @ x`: mapped, the neurons' axis comes first."""

    into: eqx.nn.Linear
    out: eqx.nn.Linear
    activation: object = jax.nn.relu  # a leaf that is no array

    def __call__(self, x):
        return jax.vmap(lambda token: token + self.out(tag(self.activation(self.into(token)), "neurons")))(x)


class EqxModel(eqx.Module):
    blocks: list

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x.mean(axis=0)


def eqx_model(weights):
    def linear(kernel):
        layer = eqx.nn.Linear(*kernel.shape, use_bias=False, key=jax.random.key(0))
        return eqx.tree_at(lambda layer: layer.weight, layer, jnp.asarray(kernel.T))

    pairs = zip(np.asarray(weights["in"]), np.asarray(weights["out"]), strict=True)
    return EqxModel([EqxBlock(linear(into), linear(out)) for into, out in pairs])


def run_eqx(model, x):
    return jax.vmap(model)(x)


KINDS = ("linen", "linen scanned", "linen scanned, rematerialised", "nnx", "nnx scanned", "equinox")
FUNCTIONS = {
    "unrolled": (unrolled, "neurons"),
    "scanned": (scanned, "neu*"),
    "checkpointed": (checkpointed, "neurons"),
    "nested": (nested, "neurons"),
    "chosen": (chosen, "neurons"),
    "distinct": (distinct, "neurons *"),
    "jitted": (jax.jit(scanned), "neurons"),
}


@functools.cache
def programs():
    """By kind: model, function that makes its variables of weights, and pattern of its neurons."""
    nnx_model, nnx_scanned = NnxModel(nnx.Rngs(0)), NnxScanned(nnx.Rngs(0))
    return {
        **{name: (function, lambda weights: weights, pattern) for name, (function, pattern) in FUNCTIONS.items()},
        "linen": (LinenModel(), linen_variables, "layer_*/act"),
        "linen scanned": (LinenScanned(), scanned_variables, "layers/act"),
        "linen scanned, rematerialised": (LinenScanned(remat=True), scanned_variables, "layers/act"),
        "nnx": (nnx_model, lambda weights: nnx_state(weights, nnx_model), "layers/*/act"),
        "nnx scanned": (nnx_scanned, lambda weights: nnx_state(weights, nnx_scanned), "layers/act"),
        "equinox": (run_eqx, eqx_model, "neurons"),
    }
