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


class IntegerMLP(nn.Module):
    """Frames of 16 numbers -> two layers of 12 neurons, with a first token that sums all frames."""

    @nn.compact
    def __call__(self, x):
        x = jnp.concatenate([x.sum(axis=1, keepdims=True), x], axis=1)
        for layer in range(2):
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


def make(dtype):
    """A factory as `--encoder foreign:make` calls it."""
    return IntegerEncoder(dtype=dtype)


def not_an_encoder(dtype):
    return dtype
