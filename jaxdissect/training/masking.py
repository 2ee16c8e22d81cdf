"""What M2D and MSM-MAE share: random masks, positions, and the narrow Transformer that looks behind the mask."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdissect.encoder.vit import Block, ViTConfig
from jaxdissect.errors import InputError


def random_mask(
    key: Array, clips: int, patches: int, mask_ratio: float
) -> tuple[Int[Array, "clip visible"], Int[Array, "clip masked"]]:
    """Patches drawn without replacement, anew for every clip: those that stay visible and those that are masked.

    Raises:
      InputError: as `visible_patches`.
    """
    order = jnp.argsort(jax.random.uniform(key, (clips, patches)), axis=1)
    visible = visible_patches(patches, mask_ratio)
    return order[:, :visible], order[:, visible:]


def visible_patches(patches: int, mask_ratio: float) -> int:
    """How many of a crop's patches stay visible.

    Raises:
      InputError: none would be visible, or none masked.
    """
    visible = patches - round(patches * mask_ratio)
    if not 0 < visible < patches:
        raise InputError(
            f"--mask-ratio {mask_ratio}: of a crop's {patches} patches at least one must stay visible and one be "
            f"masked, {visible} would be visible: choose another ratio, or longer clips."
        )
    return visible


def chosen(
    items: Float[Array, "clip patch feature"], index: Int[Array, "clip some"]
) -> Float[Array, "clip some feature"]:
    """The items of some patches, each clip's own."""
    return jnp.take_along_axis(items, index[..., None], axis=1)


def sin_cos_positions(grid: tuple[int, int], width: int) -> Float[np.ndarray, "token width"]:
    """Fixed positions on a (bands, frames) grid, one half of the features for each axis; zero for the class token.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022), whose positions M2D takes over.

    Raises:
      InputError: the width is not divisible by 4.
    """
    if width % 4:
        raise InputError(f"Sine and cosine of two axes need a width divisible by 4, got {width}.")
    frequency = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    band, frame = np.meshgrid(*(np.arange(size) for size in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequency for axis in (frame, band)]
    table = np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    return np.concatenate([np.zeros((1, width)), table]).astype(np.float32)


class Decoder(nn.Module):
    """Visible tokens -> something about every masked patch (M2D's predictor, MSM-MAE's decoder).

    A narrower Transformer over the visible tokens and one mask token per masked patch, each with its position. Tokens
    need no order, for attention knows none: the masked ones stand last and are returned as they stand.
    """

    config: ViTConfig
    outputs: int
    dtype: Any = jnp.float32

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
        shown = nn.Dense(config.width, dtype=self.dtype, precision="highest", name="embed")(tokens)
        shown = shown.at[:, 1:].add(position[visible])
        hidden = mask_token.astype(self.dtype)[None, None] + position[masked]
        x = jnp.concatenate([shown, hidden], axis=1)
        for layer in range(config.depth):
            x = Block(config, self.dtype, name=f"blocks_{layer}")(x)
        x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x[:, shown.shape[1] :])
        return nn.Dense(self.outputs, dtype=self.dtype, precision="highest", name="out")(x)


def decoder_config(encoder: ViTConfig, width: int, depth: int) -> ViTConfig:
    """Sizes of a decoder: narrower than its encoder, with heads of 32 features or more."""
    heads = next(heads for heads in range(max(1, width // 32), 0, -1) if width % heads == 0)
    sizes = vars(encoder) | {"width": width, "depth": depth, "heads": heads, "mlp": 4 * width}
    return ViTConfig(**sizes)
