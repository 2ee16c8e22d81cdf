"""What every unit of a label set has counted, on the device, and its sums over classes under any weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from jaxdissect.errors import InputError
from jaxdissect.significance.units import Units

CHUNK = 2**24  # numbers of units x neurons that are worked on together
MOST_TOKENS = 2**24  # up to which a sum of whole numbers is exact in float32


class UnitCounts:
    """Active tokens of units.

    Attributes:
      units: of the clips.
      tokens: counted in each unit.
      shape: (layers, neurons).
      chunks: active tokens (unit, neuron) of some neurons each, on the device.
    """

    def __init__(
        self, clip_counts: Integer[np.ndarray, "clip layer neuron"], clip_tokens: Int[np.ndarray, " clip"], units: Units
    ) -> None:
        """Add up the clips of every unit.

        Args:
          clip_counts: active tokens of every clip; may be memory-mapped.
          clip_tokens: counted tokens of every clip.
          units: of the clips.

        Raises:
          InputError: a class may have too many tokens for exact sums.
        """
        self.units, self.shape, self.tokens = units, clip_counts.shape[1:], units.sums(clip_tokens)
        largest = int(units.members.sum(axis=0).max(initial=0))  # as many units as any class has after an exchange
        most = np.sort(self.tokens)[len(self.tokens) - largest :].sum()
        if most >= MOST_TOKENS:
            raise InputError(
                f"Permutations add up fewer than {MOST_TOKENS:,} tokens of a class, which may come to {most:,.0f} "
                f"here: count fewer clips, or do without (--permutations 0)."
            )
        by_clip = clip_counts.reshape(len(clip_counts), -1)
        width = max(1, CHUNK // max(1, len(self.tokens)))
        self.chunks = [
            jnp.asarray(units.sums(by_clip[:, at : at + width]), jnp.float32)
            for at in range(0, by_clip.shape[1], width)
        ]

    def of_classes(
        self, weights: Float[np.ndarray, "draw class unit"] | Int[np.ndarray, "draw class unit"]
    ) -> tuple[Int[np.ndarray, "draw class layer neuron"], Int[np.ndarray, "draw class"]]:
        """Active tokens and tokens of classes in which every unit counts so many times.

        Exact below 2**24 tokens in a class, which a bootstrap sample can exceed; above, to float32's rounding.
        """
        on_device = jnp.asarray(weights, jnp.float32)
        active = np.concatenate([np.asarray(_sums(on_device, chunk)) for chunk in self.chunks], axis=2)
        return active.astype(np.int64).reshape(*active.shape[:2], *self.shape), (weights @ self.tokens).astype(np.int64)


@jax.jit
def _sums(
    weights: Float[Array, "draw class unit"], counts: Float[Array, "unit neuron"]
) -> Float[Array, "draw class neuron"]:
    return partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)("dcu,un->dcn", weights, counts)
