"""What an objective is to the training loop, and what all objectives begin with."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdissect.encoder.m2d import M2D
from jaxdissect.encoder.vit import ViT, split_patches
from jaxdissect.training.masking import sin_cos_positions

Params = Mapping[str, Any]
Metrics = dict[str, Float[Array, ""]]


@runtime_checkable
class Objective(Protocol):
    """A loss that trains an encoder.

    Attributes:
      encoder: sizes, front end and precision of the encoder to train; its own parameters are not used.
      ema: how much of the target encoder an update keeps, at the first step and at the last; None: no target encoder.
    """

    @property
    def encoder(self) -> M2D: ...

    @property
    def ema(self) -> tuple[float, float] | None: ...

    def init(self, key: Array, encoder_params: Params | None = None) -> Params:
        """All that is trained: `encoder`, the ViT's parameters, and what the objective adds.

        Args:
          key: of the random weights.
          encoder_params: where the encoder starts; by default at random.
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
        """Mean over the clips, float32, and what else to watch; jit-safe.

        Args:
          params: as of `init`.
          target: parameters of the target encoder, the moving average of `params["encoder"]`; empty without one.
          pcm: crops of one length.
          members: classes of each clip, which self-supervision does not look at.
          key: of all that is drawn.
        """
        ...


def spectrogram_patches(encoder: M2D, pcm: Float[Array, "clip sample"]) -> Float[Array, "clip patch pixel"]:
    """PCM -> patches of the normalised log-mel spectrogram."""
    spectrogram = encoder.front_end(encoder.variables, pcm)
    return split_patches(spectrogram[:, None], encoder.config)[:, 0]


def shown_positions(encoder: M2D, patches: int) -> Int[Array, " patch"]:
    """Where on the encoder's full grid the patches of a crop stand; a short crop takes the first time columns."""
    bands, frames = encoder.config.grid
    return jnp.arange(bands * frames).reshape(bands, frames)[:, : patches // bands].reshape(-1)


def initial_encoder(encoder: M2D, key: Array, start: Params | None) -> Params:
    """Parameters of a ViT to be trained: those of `start`, or random ones with sine-cosine positions."""
    if start is not None:
        return jax.tree.map(jnp.asarray, dict(start))
    config = encoder.config
    dummy = jnp.zeros((1, config.patch_frames, config.bands))
    params = dict(ViT(config).init(key, dummy)["params"])
    return params | {"pos_embed": jnp.asarray(sin_cos_positions(config.grid, config.width))}


def fixed_positions(params: Params, index: Int[Array, "clip some"]) -> Float[Array, "clip some width"]:
    """Positional embeddings of some patches, which masked training leaves as they are."""
    return jax.lax.stop_gradient(params["pos_embed"])[1:][index]


def encode_patches(
    encoder: M2D, params: Params, patches: Float[Array, "clip some pixel"], index: Int[Array, "clip some"]
) -> Float[Array, "clip _token width"]:
    """Class token and tokens of some patches, which see only each other."""
    position = fixed_positions(params, index)
    tokens: Any = encoder.module.apply({"params": params}, patches, position, method=ViT.encode_patches)
    return tokens


def is_weight(params: Params) -> Any:
    """Which parameters weight decay shrinks: kernels, not biases, norms, tokens and positions."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1] == jax.tree_util.DictKey("kernel"), params)
