"""M2D, Masked Modeling Duo: predict the representation of the masked patches.

Source: Niizumi et al., "Masked Modeling Duo: Learning Representations by Encouraging Both Networks to Model the Input"
(ICASSP 2023), and "Masked Modeling Duo: Towards a Universal Audio Pre-training Framework" (TASLP 2024).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdissect.training.masked_prediction import EPSILON, MaskedPrediction, standardised
from jaxdissect.training.objective import Metrics, Params, encode_patches


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedModelingDuo(MaskedPrediction):
    """The online encoder sees the visible patches, the target encoder the masked ones; a predictor joins them.

    Attributes:
      ema: fraction of the target encoder that an update keeps, at the first step and at the last.
      standardise: standardisation of the targets: "token", over the features of each token, or "batch", each feature
        over all tokens of the part of the batch that is computed at once, which a collapsed encoder cannot satisfy.
    """

    ema: tuple[float, float] = (0.996, 1.0)
    standardise: Literal["token", "batch"] = "token"

    @property
    def outputs(self) -> int:
        """Number of features of a token."""
        return self.encoder.config.width

    def loss(
        self,
        params: Params,
        target: Params,
        pcm: Float[Array, "clip sample"],
        members: Bool[Array, "clip class"],
        key: Array,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Squared distance of the L2-normalised prediction from the L2-normalised target: `2 - 2 cos`, 0 to 4.

        The metric `spread` shows a collapse, see `spread`.
        """
        answers = self.answers(params, pcm, key)
        # The target encoder sees the masked patches alone; its class token is left out.
        tokens = encode_patches(self.encoder, target, answers.patches, answers.position)[:, 1:]
        tokens = jax.lax.stop_gradient(tokens.astype(jnp.float32))
        wanted = unit(standardised(tokens) if self.standardise == "token" else over_batch(tokens))
        loss = jnp.square(unit(answers.predicted) - wanted).sum(axis=-1).mean()
        grid = self.encoder.config.grid
        return loss, {"spread": spread(unit(standardised(tokens)), answers.position, grid[0] * grid[1])}


def spread(
    vectors: Float[Array, "clip token feature"], position: Int[Array, "clip token"], positions: int
) -> Float[Array, ""]:
    """Standard deviation of unit vectors over clips, at the same position of the grid.

    Independent directions have 1. Near 0 the position alone decides, and the encoder no longer listens (not quite 0,
    since clips differ in which positions are seen). A deviation over all positions would not show that, because
    positions always differ. A position that only one clip has does not count.
    """
    # Tokens of all clips in one row, each with its position on the grid; sums by position.
    at, flat = position.reshape(-1), vectors.reshape(-1, vectors.shape[-1])
    count = jax.ops.segment_sum(jnp.ones(at.shape), at, positions)
    mean = jax.ops.segment_sum(flat, at, positions) / jnp.maximum(count, 1)[:, None]
    # Bessel's correction, n / (n - 1): with few clips at a position its mean is drawn towards each.
    unbiased = jnp.where(count > 1, count / jnp.maximum(count - 1, 1), 0.0)
    variance = jnp.square(flat - mean[at]).sum(axis=1) * unbiased[at]
    # Mean over the tokens at positions that several clips have.
    return jnp.sqrt(variance.sum() / jnp.maximum((count[at] > 1).astype(jnp.float32).sum(), 1))


def over_batch(tokens: Float[Array, "clip token feature"]) -> Float[Array, "clip token feature"]:
    """Every feature with mean zero and variance one over all tokens."""
    mean = tokens.mean(axis=(0, 1), keepdims=True)
    return (tokens - mean) / jnp.sqrt(tokens.var(axis=(0, 1), keepdims=True) + EPSILON)


def unit(vectors: Float[Array, "*clip feature"]) -> Float[Array, "*clip feature"]:
    """Vectors of length one."""
    return vectors / jnp.sqrt(jnp.square(vectors).sum(axis=-1, keepdims=True) + EPSILON)
