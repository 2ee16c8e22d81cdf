"""Small Linen models, and parameters with scaled rows."""

import flax.linen as nn
import jax


class Rectifier(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(x)


class TwoLayers(nn.Module):
    """Somebody else's model: an MLP over the last axis, with another number of units in each layer."""

    widths: tuple[int, ...] = (5, 7)

    @nn.compact
    def __call__(self, x):
        for number, width in enumerate(self.widths):
            x = Rectifier(name=f"relu_{number}")(nn.Dense(width)(x))
        return nn.Dense(3)(x)


class CalledTwice(nn.Module):
    """One module called on two inputs of different length, as an encoder is called on chunks."""

    @nn.compact
    def __call__(self, parts):
        act = Rectifier(name="act")
        return [act(part) for part in parts]


def with_rows(params, gains):
    """Parameters whose linear layer behind each neuron has that neuron's row multiplied by its gain."""
    params = jax.tree.map(lambda leaf: leaf, params)
    for layer, gain in enumerate(gains):
        dense = params[f"blocks_{layer}"]["mlp"]["fc2"]
        dense["kernel"] = dense["kernel"] * gain[:, None]
    return params
