"""What M2D and MSM-MAE share: an encoder that sees some patches, and a decoder that answers for the others."""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdissect.encoder.m2d import M2D
from jaxdissect.training.masking import Decoder, chosen, decoder_config, random_mask
from jaxdissect.training.objective import Params, encode_patches, initial_encoder, shown_positions, spectrogram_patches

EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a decoder says of the masked patches of some crops, and what is true of them.

    Attributes:
      patches: pixels of the masked patches.
      position: where on the encoder's grid they stand.
      predicted: of each.
    """

    patches: Float[Array, "clip masked pixel"]
    position: Int[Array, "clip masked"]
    predicted: Float[Array, "clip masked feature"]


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedPrediction(abc.ABC):
    """Prediction of masked patches from visible ones; a subclass says what is predicted, and measures the error.

    Attributes:
      encoder: to train.
      mask_ratio: share of the patches that is masked.
      decoder_width, decoder_depth: of the narrow Transformer that answers.
    """

    encoder: M2D
    mask_ratio: float = 0.7
    decoder_width: int = 96
    decoder_depth: int = 4

    @property
    @abc.abstractmethod
    def outputs(self) -> int:
        """Features of an answer."""

    @property
    def decoder(self) -> Decoder:
        """Visible tokens -> answers."""
        config = decoder_config(self.encoder.config, self.decoder_width, self.decoder_depth)
        return Decoder(config, self.outputs, self.encoder.dtype)

    def init(self, key: Array, encoder_params: Params | None = None) -> Params:
        """Parameters of `encoder` and `decoder`."""
        encoder_key, decoder_key = jax.random.split(key)
        tokens = jnp.zeros((1, 2, self.encoder.config.width), self.encoder.dtype)
        one = jnp.zeros((1, 1), jnp.int32)
        return {
            "encoder": initial_encoder(self.encoder, encoder_key, encoder_params),
            "decoder": self.decoder.init(decoder_key, tokens, one, one)["params"],
        }

    def answers(self, params: Params, pcm: Float[Array, "clip sample"], key: Array) -> Answers:
        """Mask crops at random, and predict what is behind the masks."""
        patches = spectrogram_patches(self.encoder, pcm)
        visible, masked = random_mask(key, len(patches), patches.shape[1], self.mask_ratio)
        position = shown_positions(self.encoder, patches.shape[1])
        tokens = encode_patches(self.encoder, params["encoder"], chosen(patches, visible), position[visible])
        predicted: Any = self.decoder.apply({"params": params["decoder"]}, tokens, position[visible], position[masked])
        return Answers(chosen(patches, masked), position[masked], predicted.astype(jnp.float32))


def standardised(patches: Float[Array, "*clip feature"]) -> Float[Array, "*clip feature"]:
    """Every patch with mean zero and variance one over its own features."""
    mean = patches.mean(axis=-1, keepdims=True)
    return (patches - mean) / jnp.sqrt(patches.var(axis=-1, keepdims=True) + EPSILON)
