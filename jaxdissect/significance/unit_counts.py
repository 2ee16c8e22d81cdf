"""Active tokens of every unit of a label set, on the device, and their sums over classes under any weights."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from jaxdissect.errors import require
from jaxdissect.significance.units import Units

CHUNK = 2**24  # counts (units x neurons) in one array on the device
MOST_TOKENS = 2**24  # up to which a sum of whole numbers is exact in float32


class UnitCounts:
    """Active tokens of units.

    Attributes:
      units: units of the clips.
      tokens: tokens counted in each unit.
      shape: layers, and neurons per layer.
      chunks: active tokens (unit, neuron) of a range of neurons each, on the device.
    """

    def __init__(
        self, clip_counts: Integer[np.ndarray, "clip layer neuron"], clip_tokens: Int[np.ndarray, " clip"], units: Units
    ) -> None:
        """Add up the clips of every unit.

        Args:
          clip_counts: active tokens of every clip; may be memory-mapped.
          clip_tokens: counted tokens of every clip.
          units: units of the clips.

        Raises:
          InputError: a class may have too many tokens for exact sums.
        """
        self.units, self.shape, self.tokens = units, clip_counts.shape[1:], units.sums(clip_tokens)
        # After an exchange a class has as many units as before, but perhaps the longest ones.
        largest = int(units.members.sum(axis=0).max(initial=0))
        most = np.sort(self.tokens)[len(self.tokens) - largest :].sum()
        require(
            bool(most < MOST_TOKENS),
            f"Permutations add up fewer than {MOST_TOKENS:,} tokens of a class, which may come to {most:,.0f} here: "
            f"count fewer clips, or ask for no permutations (`permutations` 0).",
        )
        by_clip = clip_counts.reshape(len(clip_counts), -1)
        width = max(1, CHUNK // max(1, len(self.tokens)))
        starts = range(0, by_clip.shape[1], width)
        self.chunks = [jnp.asarray(units.sums(by_clip[:, at : at + width]), jnp.float32) for at in starts]

    def of_classes(
        self, weights: Float[np.ndarray, "draw class unit"] | Int[np.ndarray, "draw class unit"]
    ) -> tuple[Int[np.ndarray, "draw class layer neuron"], Int[np.ndarray, "draw class"]]:
        """Active tokens, and tokens, of classes in which every unit counts as often as its weight says.

        Sums are exact below 2**24 tokens in a class. A bootstrap sample can exceed that; its sums are then rounded to
        float32.

        Args:
          weights: how often each unit counts for each class.
        """
        on_device = jnp.asarray(weights, jnp.float32)
        active = np.concatenate([np.asarray(_sums(on_device, chunk)) for chunk in self.chunks], axis=2)
        return active.astype(np.int64).reshape(*active.shape[:2], *self.shape), (weights @ self.tokens).astype(np.int64)


@jax.jit
def _sums(
    weights: Float[Array, "draw class unit"], counts: Float[Array, "unit neuron"]
) -> Float[Array, "draw class neuron"]:
    # Whole numbers: exact in float32 at the highest precision, and in no other, on an accelerator.
    return jnp.einsum("dcu,un->dcn", weights, counts, precision=jax.lax.Precision.HIGHEST)
