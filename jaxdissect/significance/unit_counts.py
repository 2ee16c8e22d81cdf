"""Active tokens, or ranks, of every unit of a label set, on the device, and their sums over classes."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from jaxdissect.errors import require
from jaxdissect.selection.auroc import auroc_of_sums, centred_ranks
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
        tokens = units.sums(clip_tokens)
        # After an exchange a class has as many units as before, but perhaps the longest ones.
        largest = int(units.members.sum(axis=0).max(initial=0))
        most = np.sort(tokens)[len(tokens) - largest :].sum()
        require(
            bool(most < MOST_TOKENS),
            f"Permutations add up fewer than {MOST_TOKENS:,} tokens of a class, which may come to {most:,.0f} here: "
            f"count fewer clips, or ask for no permutations (`permutations` 0).",
        )
        self._fill(clip_counts, tokens, units, lambda columns: columns)

    def _fill(
        self,
        values: np.ndarray,
        tokens: Float[np.ndarray, " unit"],
        units: Units,
        transform: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        """Add up transformed values of the clips of every unit, a range of neurons at a time."""
        self.units, self.shape, self.tokens = units, values.shape[1:], tokens
        by_clip = values.reshape(len(values), -1)
        width = max(1, CHUNK // max(1, len(tokens)))
        starts = range(0, by_clip.shape[1], width)
        self.chunks = [jnp.asarray(units.sums(transform(by_clip[:, at : at + width])), jnp.float32) for at in starts]

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


class UnitRanks(UnitCounts):
    """Sums of the centred ranks of every unit's clips, in place of active tokens; `tokens` is the number of clips.

    They add up to 0 over all units.
    """

    def __init__(self, values: Float[np.ndarray, "clip layer neuron"], units: Units) -> None:
        """Rank the clips of the units, neuron by neuron, and add up.

        Args:
          values: reading of every clip; may be memory-mapped. Clips of no unit are not ranked.
          units: units of the clips.
        """
        ranked = units.unit >= 0

        def ranks(columns: np.ndarray) -> np.ndarray:
            result = np.zeros(columns.shape, np.float32)
            # NumPy sorts outside of the interpreter's lock.
            with ThreadPoolExecutor() as pool:
                parts = np.array_split(columns[ranked], 4 * (os.cpu_count() or 1), axis=1)
                result[ranked] = np.concatenate(list(pool.map(centred_ranks, parts)), axis=1)
            return result

        self._fill(values, units.sums(np.ones(len(units.unit))), units, ranks)

    def auroc(self, weights: Int[np.ndarray, "draw unit"]) -> Float[np.ndarray, "draw class layer neuron"]:
        """AUROC of every class in samples of the units; the ranks stay those among all of them.

        Args:
          weights: how often each unit counts in each sample.
        """
        # Every class, and as a last one all units together.
        members = np.concatenate([self.units.members, np.ones((len(self.tokens), 1), bool)], axis=1)
        weighted = members.T[None] * weights[:, None, :].astype(np.float64)
        on_device = jnp.asarray(weighted, jnp.float32)
        sums = np.concatenate([np.asarray(_sums(on_device, chunk)) for chunk in self.chunks], axis=2).astype(np.float64)
        clips = weighted @ self.tokens
        auroc = auroc_of_sums(sums[:, :-1], clips[:, :-1], int(self.tokens.sum()), sums[:, -1:], clips[:, -1:])
        return auroc.reshape(*auroc.shape[:2], *self.shape)


def best_readings(
    readings: Sequence[UnitRanks], weights: Int[np.ndarray, "draw unit"]
) -> tuple[Float[np.ndarray, "draw class layer neuron"], Int[np.ndarray, "draw class layer neuron"]]:
    """The highest AUROC of every pair among its readings in samples of the units, and the number of that reading.

    Args:
      readings: ranks of the units by each reading.
      weights: how often each unit counts in each sample.
    """
    aurocs = np.stack([ranks.auroc(weights) for ranks in readings])
    best = np.where(np.isnan(aurocs), -np.inf, aurocs).argmax(axis=0)
    return np.take_along_axis(aurocs, best[None], axis=0)[0], best.astype(np.int8)


@jax.jit
def _sums(
    weights: Float[Array, "draw class unit"], counts: Float[Array, "unit neuron"]
) -> Float[Array, "draw class neuron"]:
    # Whole numbers: exact in float32 at the highest precision, and in no other, on an accelerator.
    return jnp.einsum("dcu,un->dcn", weights, counts, precision=jax.lax.Precision.HIGHEST)
