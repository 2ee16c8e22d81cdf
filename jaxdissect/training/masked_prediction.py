"""What M2D and MSM-MAE have in common: an encoder that sees some patches, and a decoder that predicts the others."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.training.masking import Decoder, chosen, decoder_config, random_mask
from jaxdissect.training.objective import Params, encode_patches, initial_encoder, shown_positions, spectrogram_patches

EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Answers:
    """A decoder's predictions for the masked patches of some crops, and these patches.

    Attributes:
      patches: pixels of the masked patches.
      position: positions of these patches on the encoder's grid.
      predicted: prediction for each.
    """

    patches: Float[Array, "clip masked pixel"]
    position: Int[Array, "clip masked"]
    predicted: Float[Array, "clip masked feature"]


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedPrediction(abc.ABC):
    """Prediction of masked patches from visible ones; a subclass defines what is predicted, and measures the error.

    Attributes:
      encoder: encoder to train.
      mask_ratio: fraction of the patches that is masked.
      decoder_width, decoder_depth: sizes of the narrow Transformer that predicts.
    """

    encoder: M2D
    mask_ratio: float = 0.7
    decoder_width: int = 96
    decoder_depth: int = 4

    @property
    @abc.abstractmethod
    def outputs(self) -> int:
        """Number of features of a prediction."""

    @property
    def decoder(self) -> Decoder:
        """Visible tokens -> predictions."""
        config = decoder_config(self.encoder.config, self.decoder_width, self.decoder_depth)
        return Decoder(config, self.outputs, self.encoder.dtype)

    def init(self, key: Array, encoder_params: Params | None = None) -> Params:
        """Parameters of `encoder` and `decoder`."""
        encoder_key, decoder_key = jax.random.split(key)
        # One clip: a class token and one visible patch, and one masked patch.
        tokens = jnp.zeros((1, 2, self.encoder.config.width), self.encoder.dtype)
        position = jnp.zeros((1, 1), jnp.int32)
        return {
            "encoder": initial_encoder(self.encoder, encoder_key, encoder_params),
            "decoder": self.decoder.init(decoder_key, tokens, position, position)["params"],
        }

    def answers(self, params: Params, pcm: Float[Array, "clip sample"], key: Array) -> Answers:
        """Mask crops at random, and predict what is behind the masks.

        Args:
          params: parameters, as `init` gives them.
          pcm: crops of one length.
          key: random key of the masks.
        """
        patches = spectrogram_patches(self.encoder, pcm)
        # Numbers of patches within the crop; `position` has their places on the encoder's grid.
        visible, masked = random_mask(key, len(patches), patches.shape[1], self.mask_ratio)
        position = shown_positions(self.encoder, patches.shape[1])
        seen, hidden = position[visible], position[masked]
        tokens = encode_patches(self.encoder, params["encoder"], chosen(patches, visible), seen)
        predicted: PyTree = self.decoder.apply({"params": params["decoder"]}, tokens, seen, hidden)
        return Answers(chosen(patches, masked), hidden, predicted.astype(jnp.float32))


def standardised(patches: Float[Array, "*clip feature"]) -> Float[Array, "*clip feature"]:
    """Every patch with mean zero and variance one over its own features."""
    mean = patches.mean(axis=-1, keepdims=True)
    return (patches - mean) / jnp.sqrt(patches.var(axis=-1, keepdims=True) + EPSILON)
