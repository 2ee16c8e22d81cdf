"""The protocol `Objective`, a loss that the training loop can train, and what all objectives begin with."""

from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.encoder.families.vit import ViT, init_vit, split_patches
from jaxdissect.encoder.protocol import Variables
from jaxdissect.training.masking import sin_cos_positions

Params: TypeAlias = Variables  # nested mappings of arrays
Metrics: TypeAlias = dict[str, Float[Array, ""]]


@runtime_checkable
class Objective(Protocol):
    """A loss that trains an encoder.

    Attributes:
      encoder: sizes, front end and precision of the encoder to train; its own parameters are not used.
      ema: fraction of the target encoder that an update keeps, at the first step and at the last; None: no target
        encoder.
    """

    @property
    def encoder(self) -> M2D: ...

    @property
    def ema(self) -> tuple[float, float] | None: ...

    def init(self, key: Array, encoder_params: Params | None = None) -> Params:
        """All parameters to train: `encoder`, those of the ViT, and what the objective adds.

        Args:
          key: random key of the weights.
          encoder_params: parameters that the encoder starts from; by default random ones.
        """
        ...

    def loss(
        self,
        params: Params,
        target: Params,
        pcm: Float[Array, "clip sample"],
        members: Bool[Array, "clip class"],
        key: Array,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Mean loss over the clips, float32, and further metrics; jit-safe.

        Args:
          params: parameters, as `init` gives them.
          target: parameters of the target encoder, the moving average of `params["encoder"]`; empty without one.
          pcm: crops of one length.
          members: classes of each clip, which self-supervision does not look at.
          key: random key of everything that is drawn.
        """
        ...


def spectrogram_patches(encoder: M2D, pcm: Float[Array, "clip sample"]) -> Float[Array, "clip patch pixel"]:
    """PCM -> patches of the normalised log-mel spectrogram."""
    with jax.named_scope("front_end"):
        spectrogram = encoder.front_end(encoder.variables, pcm)
    # Every crop as one chunk: it is at most as long as the encoder's input.
    return split_patches(spectrogram[:, None], encoder.config)[:, 0]


def shown_positions(encoder: M2D, patches: int) -> Int[Array, " patch"]:
    """Positions of a crop's patches on the encoder's full grid; a short crop takes the first time columns."""
    bands, frames = encoder.config.grid
    return jnp.arange(bands * frames).reshape(bands, frames)[:, : patches // bands].reshape(-1)


def initial_encoder(encoder: M2D, key: Array, start: Params | None) -> Params:
    """Parameters of a ViT to be trained: those of `start`, or random ones with sine-cosine positions.

    Args:
      encoder: encoder with the sizes of the ViT.
      key: random key of the weights.
      start: parameters to start from; None: random ones.
    """
    if start is not None:
        return jax.tree.map(jnp.asarray, dict(start))
    positions = sin_cos_positions(encoder.config.grid, encoder.config.width)
    return {**init_vit(encoder.config, key), "pos_embed": jnp.asarray(positions)}


def fixed_positions(params: Params, index: Int[Array, "clip some"]) -> Float[Array, "clip some width"]:
    """Positional embeddings of some patches, which masked training leaves as they are."""
    return jax.lax.stop_gradient(params["pos_embed"])[1:][index]  # entry 0 is the class token's


def encode_patches(
    encoder: M2D, params: Params, patches: Float[Array, "clip some pixel"], index: Int[Array, "clip some"]
) -> Float[Array, "clip _token width"]:
    """Class token and tokens of some patches, which see only each other.

    Args:
      encoder: encoder with the sizes and the precision of the ViT.
      params: parameters of the ViT.
      patches: pixels of the patches.
      index: positions of the patches on the encoder's grid.
    """
    position = fixed_positions(params, index)
    tokens: PyTree = encoder.module.apply({"params": params}, patches, position, method=ViT.encode_patches)
    return tokens


def is_weight(params: Params) -> PyTree:
    """Which parameters weight decay shrinks: kernels, not biases, norms, tokens and positions."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1] == jax.tree_util.DictKey("kernel"), params)
