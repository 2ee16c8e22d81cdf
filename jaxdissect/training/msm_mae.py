"""MSM-MAE: reconstruct the masked patches of a spectrogram.

Source: Niizumi et al., "Masked Spectrogram Modeling using Masked Autoencoders for Learning General-purpose Audio
Representation" (PMLR 166, 2022), after He et al. (CVPR 2022).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxdissect.encoder.m2d import M2D
from jaxdissect.training.masking import Decoder, chosen, decoder_config, random_mask
from jaxdissect.training.objective import (
    Metrics,
    Params,
    encode_patches,
    initial_encoder,
    shown_positions,
    spectrogram_patches,
)

EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class MSMMAE:
    """The encoder sees the visible patches; a decoder predicts the pixels of the masked ones.

    Attributes:
      encoder: to train.
      mask_ratio: share of the patches that is masked.
      decoder_width, decoder_depth: of the decoder.
      standardise_patches: predict every patch less its own mean and over its own deviation.
    """

    encoder: M2D
    mask_ratio: float = 0.7
    decoder_width: int = 96
    decoder_depth: int = 4
    standardise_patches: bool = False

    ema = None

    @property
    def decoder(self) -> Decoder:
        """Tokens -> pixels."""
        vit = self.encoder.config
        config = decoder_config(vit, self.decoder_width, self.decoder_depth)
        return Decoder(config, vit.patch_bands * vit.patch_frames, self.encoder.dtype)

    def init(self, key: Array, encoder_params: Params | None = None) -> Params:
        """Parameters of `encoder` and `decoder`."""
        keys = jax.random.split(key)
        vit = self.encoder.config
        one = jnp.zeros((1, 1), jnp.int32)
        decoder = self.decoder.init(keys[1], jnp.zeros((1, 2, vit.width), self.encoder.dtype), one, one)["params"]
        return {"encoder": initial_encoder(self.encoder, keys[0], encoder_params), "decoder": decoder}

    def loss(
        self,
        params: Params,
        target: Params,
        pcm: Float[Array, "clip sample"],
        members: Bool[Array, "clip class"],
        key: Array,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Mean squared error over the pixels of the masked patches."""
        patches = spectrogram_patches(self.encoder, pcm)
        visible, masked = random_mask(key, len(patches), patches.shape[1], self.mask_ratio)
        position = shown_positions(self.encoder, patches.shape[1])
        tokens = encode_patches(self.encoder, params["encoder"], chosen(patches, visible), position[visible])
        predicted: Any = self.decoder.apply({"params": params["decoder"]}, tokens, position[visible], position[masked])
        wanted = chosen(patches, masked)
        if self.standardise_patches:
            wanted = standardised(wanted)
        return jnp.square(predicted.astype(jnp.float32) - wanted).mean(), {}


def standardised(patches: Float[Array, "*clip feature"]) -> Float[Array, "*clip feature"]:
    """Every patch with mean zero and variance one over its own features."""
    mean = patches.mean(axis=-1, keepdims=True)
    return (patches - mean) / jnp.sqrt(patches.var(axis=-1, keepdims=True) + EPSILON)
