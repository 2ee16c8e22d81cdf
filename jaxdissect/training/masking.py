"""Parts of M2D and MSM-MAE: random masks, positions, and the narrow Transformer that looks behind the mask."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxdissect.encoder.families.blocks import Block, Dense
from jaxdissect.encoder.families.vit import LayerNorm, ViTConfig
from jaxdissect.errors import require


def random_mask(
    key: Array, clips: int, patches: int, mask_ratio: float
) -> tuple[Int[Array, "clip visible"], Int[Array, "clip masked"]]:
    """Patches drawn without replacement, anew for every clip: those that stay visible and those that are masked.

    Args:
      key: random key of the draws.
      clips: number of clips.
      patches: number of patches of a clip.
      mask_ratio: fraction of the patches that is masked.

    Raises:
      InputError: as `visible_patches`.
    """
    # The order of independent draws is a random permutation.
    order = jnp.argsort(jax.random.uniform(key, (clips, patches)), axis=1)
    visible = visible_patches(patches, mask_ratio)
    return order[:, :visible], order[:, visible:]


def visible_patches(patches: int, mask_ratio: float) -> int:
    """Number of a crop's patches that stay visible.

    Args:
      patches: number of patches of the crop.
      mask_ratio: fraction of them that is masked.

    Raises:
      InputError: none would be visible, or none masked.
    """
    visible = patches - round(patches * mask_ratio)
    require(
        0 < visible < patches,
        f"--mask-ratio {mask_ratio}: of a crop's {patches} patches at least one must stay visible and one be masked, "
        f"{visible} would be visible: choose another ratio, or longer clips.",
    )
    return visible


def chosen(
    items: Float[Array, "clip patch feature"], index: Int[Array, "clip some"]
) -> Float[Array, "clip some feature"]:
    """The items of some patches; every clip has patches of its own.

    Args:
      items: items of all patches.
      index: numbers of the patches wanted, for each clip.
    """
    return jnp.take_along_axis(items, index[..., None], axis=1)


def sin_cos_positions(grid: tuple[int, int], width: int) -> Float[np.ndarray, "token width"]:
    """Fixed positions on a (bands, frames) grid, one half of the features for each axis; zero for the class token.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022), whose positions M2D takes over.

    Args:
      grid: number of patches along each axis.
      width: number of features of a position.

    Raises:
      InputError: the width is not divisible by 4.
    """
    require(width % 4 == 0, f"Sine and cosine of two axes need a width divisible by 4, got {width}.")
    frequency = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    # Time first, as in the original, though patches are frequency-major.
    band, frame = np.meshgrid(*(np.arange(size) for size in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequency for axis in (frame, band)]
    table = np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    return np.concatenate([np.zeros((1, width)), table]).astype(np.float32)


class Decoder(nn.Module):
    """Visible tokens -> something about every masked patch (M2D's predictor, MSM-MAE's decoder).

    A narrower Transformer over the visible tokens and one mask token per masked patch, each with its position. Tokens
    need no order, since attention has none: the masked ones come last and are returned in this order.
    """

    config: ViTConfig
    outputs: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "clip _token width"],
        visible: Int[Array, "clip visible"],
        masked: Int[Array, "clip masked"],
    ) -> Float[Array, "clip masked {self.outputs}"]:
        config = self.config
        position = jnp.asarray(sin_cos_positions(config.grid, config.width), self.dtype)[1:]
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (config.width,), jnp.float32)
        shown = Dense(config.width, dtype=self.dtype, name="embed")(tokens)
        shown = shown.at[:, 1:].add(position[visible])  # the class token has no position
        hidden = mask_token.astype(self.dtype)[None, None] + position[masked]
        x = jnp.concatenate([shown, hidden], axis=1)
        for layer in range(config.depth):
            x = Block(config.block, self.dtype, name=f"blocks_{layer}")(x)
        x = LayerNorm(dtype=self.dtype, name="norm")(x[:, shown.shape[1] :])
        return Dense(self.outputs, dtype=self.dtype, name="out")(x)


def decoder_config(encoder: ViTConfig, width: int, depth: int) -> ViTConfig:
    """Sizes of a decoder: narrower than its encoder, with heads of 32 features or more.

    Args:
      encoder: sizes of the encoder, whose grid the decoder has too.
      width: number of features of a token in the decoder.
      depth: number of its blocks.
    """
    # As many heads as divide the width; 96 has three of 32.
    heads = next(heads for heads in range(max(1, width // 32), 0, -1) if width % heads == 0)
    sizes = vars(encoder) | {"width": width, "depth": depth, "heads": heads, "mlp": 4 * width}
    return ViTConfig(**sizes)
