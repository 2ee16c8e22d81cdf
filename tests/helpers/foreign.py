"""An encoder that is not ours, with exact arithmetic: small integers in float32, so any batch gives the same bits."""

from dataclasses import dataclass, field
from functools import cached_property

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdissect import TokenLayout

HOP = 400
STEPS = 8


class Rectifier(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(x)


def with_sum(x):
    return jnp.concatenate([x.sum(axis=1, keepdims=True), x], axis=1)


class IntegerMLP(nn.Module):
    """Frames of 16 numbers -> layers of 12 neurons, with a first token that sums all frames."""

    layers: int = 2

    @nn.compact
    def __call__(self, x):
        x = with_sum(x)
        for layer in range(self.layers):
            hidden = Rectifier(name=f"act_{layer}")(nn.Dense(12, precision="highest", name=f"in_{layer}")(x))
            x = nn.Dense(16, precision="highest", name=f"out_{layer}")(hidden)
        return x


@dataclass(frozen=True)
class IntegerEncoder:
    name: str = "integers"
    sample_rate: int = 16000
    neurons: str = "act_*"
    dtype: object = None
    traces: list = field(default_factory=list)

    @property
    def module(self):
        return IntegerMLP()

    @cached_property
    def variables(self):
        random = np.random.default_rng(0)

        def dense(rows, columns):
            return {
                "kernel": random.integers(-2, 3, (rows, columns)).astype(np.float32),
                "bias": random.integers(-9, 2, columns).astype(np.float32),
            }

        return {
            "params": {
                f"{name}_{layer}": dense(*shape)
                for layer in range(2)
                for name, shape in (("in", (16, 12)), ("out", (12, 16)))
            }
        }

    def front_end(self, variables, pcm):
        """The sums of 25 samples, each a whole number of eighths."""
        self.traces.append(pcm.shape)
        frames = pcm.shape[1] // HOP
        steps = jnp.round(pcm[:, : frames * HOP] * STEPS).reshape(len(pcm), frames, 16, -1)
        return steps.sum(axis=-1)

    def embed(self, output):
        return output.mean(axis=1)

    def token_layout(self, samples):
        frames = samples // HOP
        start = np.concatenate([[0], np.arange(frames) * HOP])
        stop = np.concatenate([[0], np.arange(1, frames + 1) * HOP])
        return (TokenLayout(np.arange(frames + 1) > 0, start, stop),)

    def settings(self):
        return {"hop": HOP, "front_end": {"steps": STEPS}}

    def slow_activations(self, pcm):
        """[(token, neuron), ...] per layer of one clip, in plain numpy."""
        frames = len(pcm) // HOP
        x = np.round(pcm[: frames * HOP].astype(np.float32) * STEPS).reshape(frames, 16, -1).sum(axis=-1)
        x = np.concatenate([x.sum(axis=0, keepdims=True), x])
        params, layers = self.variables["params"], []
        for layer in range(2):
            hidden = np.maximum(x @ params[f"in_{layer}"]["kernel"] + params[f"in_{layer}"]["bias"], 0)
            layers.append(hidden)
            x = hidden @ params[f"out_{layer}"]["kernel"] + params[f"out_{layer}"]["bias"]
        return layers


class IntegerLayer(nn.Module):
    """One layer of `IntegerMLP`."""

    @nn.compact
    def __call__(self, x):
        hidden = Rectifier(name="act")(nn.Dense(12, precision="highest", name="in")(x))
        return nn.Dense(16, precision="highest", name="out")(hidden)


@dataclass(frozen=True)
class LayeredIntegerEncoder(IntegerEncoder):
    """An `IntegerEncoder` whose layers can be run one by one, and perhaps fewer of them."""

    layers: int = 2
    layer_neurons: str = "act"

    @property
    def module(self):
        return IntegerMLP(self.layers)

    @property
    def layer(self):
        return IntegerLayer()

    def enter(self, variables, inputs):
        return (with_sum(inputs),)

    def layer_variables(self, variables):
        params = variables["params"]
        return [{"params": {part: params[f"{part}_{n}"] for part in ("in", "out")}} for n in range(self.layers)]

    def outgoing_weights(self, layer_variables):
        return layer_variables["params"]["out"]["kernel"]

    def leave(self, variables, states):
        return states[0]


def make(dtype):
    """A factory as `--encoder foreign:make` calls it."""
    return IntegerEncoder(dtype=dtype)


def layered(dtype):
    return LayeredIntegerEncoder()


def of_one_layer(dtype):
    return LayeredIntegerEncoder(layers=1)


def of_no_layer(dtype):
    return LayeredIntegerEncoder(layers=0)


def not_an_encoder(dtype):
    return dtype
