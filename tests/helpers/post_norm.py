"""An encoder of post-norm layers with scales, whose layers can be run one by one: rightly described, or not."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdissect import TokenLayout

LAYERS, WIDTH, HIDDEN, HOP = 3, 8, 12, 400


class Rectifier(nn.Module):
    def __call__(self, x):
        return nn.relu(x)


class Layer(nn.Module):
    """x -> norm(x + scale * (act @ second)), as in wav2vec 2.0's post-norm layers, with a scale of its own."""

    norm: bool = True

    @nn.compact
    def __call__(self, x):
        hidden = Rectifier(name="act")(nn.Dense(HIDDEN, name="first")(x))
        scale = self.param("scale", nn.initializers.normal(1.0), (WIDTH,))
        x = x + nn.Dense(WIDTH, name="second")(hidden) * jnp.expand_dims(scale, range(hidden.ndim - 1))
        return nn.LayerNorm(name="norm")(x) if self.norm else x


class Network(nn.Module):
    norm: bool = True

    @nn.compact
    def __call__(self, x):
        for number in range(LAYERS):
            x = Layer(self.norm, name=f"layer_{number}")(x)
        return x


@dataclasses.dataclass(frozen=True)
class PostNorm:
    """`outgoing` says what the layers' neurons are told to do: add to the layer's output, to `second`'s, or nothing."""

    outgoing: str = ""
    norm: bool = True
    order: tuple[int, ...] = (0, 1, 2)
    params: object = None
    name: str = "post-norm"
    sample_rate: int = 16000
    neurons: str = "layer_*/act"
    layer_neurons: str = "act"

    def __getattr__(self, name):
        if name == "outgoing_module" and self.outgoing == "second":
            return "second"
        raise AttributeError(name)

    @property
    def module(self):
        return Network(self.norm)

    @property
    def layer(self):
        return Layer(self.norm)

    @property
    def variables(self):
        drawn = self.module.init(jax.random.key(0), jnp.zeros((1, 1, WIDTH)))
        return drawn if self.params is None else {"params": self.params}

    def front_end(self, variables, pcm):
        frames = pcm[:, : pcm.shape[1] // HOP * HOP].reshape(len(pcm), -1, WIDTH, HOP // WIDTH)
        return jnp.square(frames).mean(axis=-1) * 100

    def embed(self, output):
        return output.mean(axis=1)

    def token_layout(self, samples):
        start = np.arange(samples // HOP) * HOP
        return (TokenLayout(np.ones(len(start), bool), start, start + HOP),)

    def settings(self):
        return {"front_end": {"hop": HOP}}

    def enter(self, variables, inputs):
        return (inputs,)

    def layer_variables(self, variables):
        return [{"params": variables["params"][f"layer_{number}"]} for number in self.order]

    def outgoing_weights(self, layer_variables):
        return None if self.outgoing == "nothing" else layer_variables["params"]["second"]["kernel"]

    def leave(self, variables, states):
        return states[0]


def right(dtype):
    return PostNorm("second")


def wrong(dtype):
    return PostNorm()
