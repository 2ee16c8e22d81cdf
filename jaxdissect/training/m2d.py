"""M2D, Masked Modeling Duo: predict the representation of the masked patches.

Source: Niizumi et al., "Masked Modeling Duo: Learning Representations by Encouraging Both Networks to Model the Input"
(ICASSP 2023), and "Masked Modeling Duo: Towards a Universal Audio Pre-training Framework" (TASLP 2024).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxdissect.encoder.m2d import M2D
from jaxdissect.training.masking import Decoder, chosen, decoder_config, random_mask
from jaxdissect.training.msm_mae import EPSILON, standardised
from jaxdissect.training.objective import (
    Metrics,
    Params,
    encode_patches,
    initial_encoder,
    shown_positions,
    spectrogram_patches,
)


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedModelingDuo:
    """The online encoder sees the visible patches, the target encoder the masked ones; a predictor joins them.

    Attributes:
      encoder: to train.
      mask_ratio: share of the patches that is masked.
      decoder_width, decoder_depth: of the predictor.
      ema: how much of the target encoder an update keeps, at the first step and at the last.
      standardise: targets over the features of each token, or each feature over all tokens of the part of the batch
        that is computed at once, which a collapsed encoder cannot satisfy.
    """

    encoder: M2D
    mask_ratio: float = 0.7
    decoder_width: int = 96
    decoder_depth: int = 4
    ema: tuple[float, float] = (0.996, 1.0)
    standardise: Literal["token", "batch"] = "token"

    @property
    def predictor(self) -> Decoder:
        """Visible tokens -> representations of the masked patches."""
        vit = self.encoder.config
        return Decoder(decoder_config(vit, self.decoder_width, self.decoder_depth), vit.width, self.encoder.dtype)

    def init(self, key: Array, encoder_params: Params | None = None) -> Params:
        """Parameters of `encoder` and `predictor`."""
        keys = jax.random.split(key)
        vit = self.encoder.config
        one = jnp.zeros((1, 1), jnp.int32)
        predictor = self.predictor.init(keys[1], jnp.zeros((1, 2, vit.width), self.encoder.dtype), one, one)["params"]
        return {"encoder": initial_encoder(self.encoder, keys[0], encoder_params), "predictor": predictor}

    def loss(
        self,
        params: Params,
        target: Params,
        pcm: Float[Array, "clip sample"],
        members: Bool[Array, "clip class"],
        key: Array,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Squared distance of the L2-normalised prediction from the L2-normalised target: `2 - 2 cos`, 0 to 4.

        The metric `spread` is the standard deviation of the normalised targets over clips and patches, as a share of
        what vectors in all directions would have: 0 once the encoder has collapsed to one answer.
        """
        patches = spectrogram_patches(self.encoder, pcm)
        visible, masked = random_mask(key, len(patches), patches.shape[1], self.mask_ratio)
        position = shown_positions(self.encoder, patches.shape[1])
        tokens = encode_patches(self.encoder, params["encoder"], chosen(patches, visible), position[visible])
        predicted: Any = self.predictor.apply(
            {"params": params["predictor"]}, tokens, position[visible], position[masked]
        )
        wanted = encode_patches(self.encoder, target, chosen(patches, masked), position[masked])[:, 1:]
        raw = jax.lax.stop_gradient(wanted.astype(jnp.float32))
        wanted = unit(standardised(raw) if self.standardise == "token" else over_batch(raw))
        spread = jnp.sqrt(unit(standardised(raw)).var(axis=(0, 1)).sum())
        return jnp.square(unit(predicted.astype(jnp.float32)) - wanted).sum(axis=-1).mean(), {"spread": spread}


def over_batch(tokens: Float[Array, "clip token feature"]) -> Float[Array, "clip token feature"]:
    """Every feature with mean zero and variance one over all tokens."""
    mean = tokens.mean(axis=(0, 1), keepdims=True)
    return (tokens - mean) / jnp.sqrt(tokens.var(axis=(0, 1), keepdims=True) + EPSILON)


def unit(vectors: Float[Array, "*clip feature"]) -> Float[Array, "*clip feature"]:
    """Vectors of length one."""
    return vectors / jnp.sqrt(jnp.square(vectors).sum(axis=-1, keepdims=True) + EPSILON)
