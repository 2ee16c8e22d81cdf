"""The Vision Transformer of M2D in Flax Linen: log-mel spectrogram -> tokens, for any input and patch size.

Source: Niizumi et al., "Masked Modeling Duo" (TASLP 2024): pre-norm ViT, LayerNorm epsilon 1e-6, fused qkv with
bias, exact GELU, class token first. GELU is a module of its own (`blocks_N/mlp/act`), because
`capture_intermediates` reads the outputs of modules: that output is the neurons.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdissect.errors import InputError

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a ViT. The defaults are M2D's ViT-B.

    Source: Niizumi et al., "Masked Modeling Duo" (arXiv:2404.06095).

    Attributes:
      bands, frames: input spectrogram; longer inputs are cut into chunks of `frames`.
      patch_bands, patch_frames: one patch; patches do not overlap.
      width: features of a token.
      depth: blocks.
      heads: attention heads, a divisor of `width`.
      mlp: hidden units of a block's MLP, that is neurons per layer.

    Raises:
      InputError: a size is not positive, or the sizes do not fit each other.
    """

    bands: int = 80
    frames: int = 608
    patch_bands: int = 16
    patch_frames: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1:
            raise InputError(f"A ViT needs positive sizes, got {self}.")
        if self.width % self.heads:
            raise InputError(f"The width must be a multiple of the heads, got {self.width} and {self.heads}.")
        if self.bands % self.patch_bands or self.frames < self.patch_frames:
            raise InputError(
                f"The bands must be a multiple of the patch's bands and the frames at least the "
                f"patch's frames, got {self}."
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of a full input: (bands, frames)."""
        return self.bands // self.patch_bands, self.frames // self.patch_frames


def vit_config(size: str = "base", **sizes: int) -> ViTConfig:
    """A ViT of a named size.

    Args:
      size: "tiny", "small", "base" or "large"; it sets width, depth, heads and mlp.
      sizes: fields of `ViTConfig` to set instead.

    Raises:
      InputError: the size is unknown, or the sizes do not fit each other.
    """
    if size not in SIZES:
        raise InputError(f"Unknown ViT size {size!r}; known: {', '.join(SIZES)}.")
    width, depth, heads = SIZES[size]
    return ViTConfig(**{"width": width, "depth": depth, "heads": heads, "mlp": 4 * width, **sizes})


def chunk_frames(frames: int, config: ViTConfig) -> tuple[int, int]:
    """How a spectrogram is cut: (number of full chunks of `config.frames`, frames of the padded last chunk or 0)."""
    full, rest = divmod(frames, config.frames)
    padded = min(-(-rest // config.patch_frames) * config.patch_frames, config.frames)
    return (full + 1, 0) if padded == config.frames else (full, padded)


class GELU(nn.Module):
    """Exact GELU; its output is the activation of the neurons."""

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.nn.gelu(x, approximate=False)


class MLP(nn.Module):
    config: ViTConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*clip token width"]) -> Float[Array, "*clip token width"]:
        hidden = nn.Dense(self.config.mlp, dtype=self.dtype, precision="highest", name="fc1")(x)
        return nn.Dense(self.config.width, dtype=self.dtype, precision="highest", name="fc2")(GELU(name="act")(hidden))


class Attention(nn.Module):
    config: ViTConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*clip token width"]) -> Float[Array, "*clip token width"]:
        width, heads = self.config.width, self.config.heads
        qkv = nn.Dense(3 * width, dtype=self.dtype, precision="highest", name="qkv")(x)
        query, key, value = (
            jnp.swapaxes(part.reshape(*part.shape[:-1], heads, width // heads), -3, -2)
            for part in jnp.split(qkv, 3, axis=-1)
        )
        scores = jnp.matmul(query * (width // heads) ** -0.5, jnp.swapaxes(key, -1, -2), precision="highest")
        scores = scores.astype(jnp.float32)
        weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
        # Softmax with its division after the product: the result is tokens x head wide, not tokens x tokens.
        total = weights.sum(axis=-1, keepdims=True)
        mixed = jnp.matmul(weights.astype(value.dtype), value, precision="highest") / total.astype(value.dtype)
        mixed = jnp.swapaxes(mixed, -3, -2)
        return nn.Dense(width, dtype=self.dtype, precision="highest", name="proj")(mixed.reshape(x.shape))


class Block(nn.Module):
    config: ViTConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*clip token width"]) -> Float[Array, "*clip token width"]:
        normed = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm1")(x)
        x = x + Attention(self.config, self.dtype, name="attn")(normed)
        normed = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm2")(x)
        return x + MLP(self.config, self.dtype, name="mlp")(normed)


class ViT(nn.Module):
    """Normalised log-mel spectrogram -> tokens.

    The spectrogram is zero-padded on the right until its last chunk is a whole number of patches, and cut into
    chunks of `config.frames`. Full chunks are encoded together, a shorter last chunk by a second call of the same
    blocks, so the module returns one array per call, in time order. Frames past the last whole patch of a full
    chunk are dropped (M2D's 1001-frame models: the last 9).
    """

    config: ViTConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config = self.config
        bands, frames = config.grid
        self.patch_embed = nn.Dense(config.width, dtype=self.dtype, precision="highest")
        self.cls_token = self.param("cls_token", nn.initializers.normal(0.02), (config.width,), jnp.float32)
        self.pos_embed = self.param(
            "pos_embed", nn.initializers.normal(0.02), (1 + bands * frames, config.width), jnp.float32
        )
        self.blocks = [Block(config, self.dtype) for _ in range(config.depth)]
        self.norm = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)

    def __call__(
        self, spectrogram: Float[Array, "clip frame band"]
    ) -> tuple[Float[Array, "clip _chunk _token width"], ...]:
        return self.leave(tuple(self.run_blocks(tokens) for tokens in self.enter(spectrogram)))

    def enter(
        self, spectrogram: Float[Array, "clip frame band"]
    ) -> tuple[Float[Array, "clip _chunk _token width"], ...]:
        """What the first block takes, one array for each call of the blocks."""
        config = self.config
        if spectrogram.shape[-1] != config.bands:
            raise InputError(f"The encoder takes {config.bands} mel bands, got {spectrogram.shape[-1]}.")
        full, last = chunk_frames(spectrogram.shape[1], config)
        cut = full * config.frames
        spectrogram = jnp.pad(spectrogram, ((0, 0), (0, max(0, cut + last - spectrogram.shape[1])), (0, 0)))
        tokens = []
        if full:
            chunks = spectrogram[:, :cut].reshape(len(spectrogram), full, config.frames, config.bands)
            tokens.append(self.enter_chunk(chunks))
        if last:
            tokens.append(self.enter_chunk(spectrogram[:, None, cut : cut + last]))
        return tuple(tokens)

    def leave(
        self, tokens: tuple[Float[Array, "clip _chunk _token width"], ...]
    ) -> tuple[Float[Array, "clip _chunk _token width"], ...]:
        """What the last block puts out -> the encoder's output."""
        return tuple(self.norm(part) for part in tokens)

    def enter_chunk(self, chunk: Float[Array, "clip chunk frame band"]) -> Float[Array, "clip _chunk _token width"]:
        """One chunk of at most `config.frames` frames -> class token and patches, lowest band first."""
        patches = split_patches(chunk, self.config)
        bands, frames = self.config.grid
        shown = patches.shape[-2] // bands  # a short input takes the first time columns of the grid
        grid = jnp.asarray(self.pos_embed)[1:].reshape(bands, frames, -1)[:, :shown].reshape(1, 1, bands * shown, -1)
        return self.enter_patches(patches, grid)

    def enter_patches(
        self, patches: Float[Array, "*clip patch pixel"], position: Float[Array, "*#clip patch width"]
    ) -> Float[Array, "*clip _token width"]:
        """Patches with their positional embeddings, behind the class token."""
        patches = self.patch_embed(patches.astype(self.dtype))
        first = (self.cls_token + self.pos_embed[0]).astype(patches.dtype)
        first = jnp.broadcast_to(first, (*patches.shape[:-2], 1, patches.shape[-1]))
        return jnp.concatenate([first, patches + position.astype(patches.dtype)], axis=-2)

    def run_blocks(self, tokens: Float[Array, "*clip token width"]) -> Float[Array, "*clip token width"]:
        """All blocks, one after the other."""
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def encode_patches(
        self, patches: Float[Array, "*clip patch pixel"], position: Float[Array, "*#clip patch width"]
    ) -> Float[Array, "*clip _token width"]:
        """Any patches with their positional embeddings -> class token and patches, in the order given."""
        return self.norm(self.run_blocks(self.enter_patches(patches, position)))


def split_patches(
    chunk: Float[Array, "clip chunk frame band"], config: ViTConfig
) -> Float[Array, "clip chunk patch pixel"]:
    """Non-overlapping patches, frequency-major; a patch is flattened bands first."""
    bands, frames = config.grid[0], chunk.shape[-2] // config.patch_frames
    grid = chunk[..., : frames * config.patch_frames, :].reshape(
        *chunk.shape[:2], frames, config.patch_frames, bands, config.patch_bands
    )
    return grid.transpose(0, 1, 4, 2, 5, 3).reshape(*chunk.shape[:2], bands * frames, -1)


def frame_embeddings(
    tokens: tuple[Float[Array, "clip _chunk _token width"], ...], config: ViTConfig
) -> Float[Array, "clip time feature"]:
    """Drop the class token and put the frequency bands side by side: (grid bands x width) features a time step."""
    parts = []
    for part in tokens:
        clips, chunks, count, width = part.shape
        bands = config.grid[0]
        grid = part[:, :, 1:].reshape(clips, chunks, bands, (count - 1) // bands, width)
        parts.append(grid.transpose(0, 1, 3, 2, 4).reshape(clips, -1, bands * width))
    return jnp.concatenate(parts, axis=1)


def clip_embedding(
    tokens: tuple[Float[Array, "clip _chunk _token width"], ...], config: ViTConfig
) -> Float[Array, "clip feature"]:
    """Mean of the frame embeddings over time, across chunks."""
    return frame_embeddings(tokens, config).mean(axis=1)
