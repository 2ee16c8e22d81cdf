"""The Vision Transformer of M2D in Flax Linen: log-mel spectrogram -> tokens, for any input and patch size.

Source: Niizumi et al., "Masked Modeling Duo" (TASLP 2024): pre-norm ViT, LayerNorm epsilon 1e-6, fused qkv with
bias, exact GELU, class token first.
"""

import functools
from dataclasses import dataclass
from typing import TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdissect.encoder.families.blocks import Block, BlockConfig, Dense
from jaxdissect.encoder.protocol import Variables
from jaxdissect.errors import require

# Width, depth and heads of each named size; the MLP is four times as wide.
SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-6)
# One array for each call of the blocks: all full chunks together, then a shorter last chunk.
Tokens: TypeAlias = tuple[Float[Array, "clip _chunk _token width"], ...]


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a ViT. The defaults are M2D's ViT-B.

    Source: Niizumi et al., "Masked Modeling Duo" (arXiv:2404.06095).

    Attributes:
      bands, frames: size of the input spectrogram; longer inputs are cut into chunks of `frames`.
      patch_bands, patch_frames: size of a patch; patches do not overlap.
      width: number of features of a token.
      depth: number of blocks.
      heads: number of attention heads, a divisor of `width`.
      mlp: number of hidden units of a block's MLP, that is neurons per layer.

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
        require(min(vars(self).values()) >= 1, f"A ViT needs positive sizes, got {self}.")
        require(
            self.width % self.heads == 0,
            f"The width must be a multiple of the heads, got {self.width} and {self.heads}.",
        )
        require(
            self.bands % self.patch_bands == 0 and self.frames >= self.patch_frames,
            f"The bands must be a multiple of the patch's bands, the frames at least the patch's frames, got {self}.",
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches of a full input along each axis: (bands, frames)."""
        return self.bands // self.patch_bands, self.frames // self.patch_frames

    @property
    def block(self) -> BlockConfig:
        """Sizes of a block."""
        return BlockConfig(self.width, self.heads, self.mlp)


def vit_config(size: str = "base", **sizes: int) -> ViTConfig:
    """A ViT of a named size.

    Args:
      size: name of the size, "tiny", "small", "base" or "large"; it sets width, depth, heads and mlp.
      sizes: fields of `ViTConfig` that replace those of the named size.

    Raises:
      InputError: the size is unknown, or the sizes do not fit each other.
    """
    require(size in SIZES, f"Unknown ViT size {size!r}; known: {', '.join(SIZES)}.")
    width, depth, heads = SIZES[size]
    return ViTConfig(**{"width": width, "depth": depth, "heads": heads, "mlp": 4 * width, **sizes})


def chunk_frames(frames: int, config: ViTConfig) -> tuple[int, int]:
    """How a spectrogram is cut: (number of full chunks of `config.frames`, frames of the padded last chunk or 0)."""
    full, rest = divmod(frames, config.frames)
    # Up to a whole number of patches. Where that fills a chunk, the last chunk is a full one.
    padded = min(-(-rest // config.patch_frames) * config.patch_frames, config.frames)
    return (full + 1, 0) if padded == config.frames else (full, padded)


class ViT(nn.Module):
    """Normalised log-mel spectrogram -> tokens.

    The spectrogram is zero-padded on the right until its last chunk is a whole number of patches, and cut into
    chunks of `config.frames`. Full chunks are encoded together, a shorter last chunk by a second call of the same
    blocks, so the module returns one array per call, in time order. Frames past the last whole patch of a full
    chunk are dropped (M2D's 1001-frame models: the last 9).
    """

    config: ViTConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        config = self.config
        bands, frames = config.grid
        self.patch_embed = Dense(config.width, dtype=self.dtype)
        # Learned in float32, whatever the type of the computation.
        self.cls_token = self.param("cls_token", nn.initializers.normal(0.02), (config.width,), jnp.float32)
        self.pos_embed = self.param(
            "pos_embed", nn.initializers.normal(0.02), (1 + bands * frames, config.width), jnp.float32
        )
        self.blocks = [Block(config.block, self.dtype) for _ in range(config.depth)]
        self.norm = LayerNorm(dtype=self.dtype)

    def __call__(self, spectrogram: Float[Array, "clip frame band"]) -> Tokens:
        return self.leave(tuple(self.run_blocks(tokens) for tokens in self.enter(spectrogram)))

    def enter(self, spectrogram: Float[Array, "clip frame band"]) -> Tokens:
        """Inputs of the first block, one array for each call of the blocks."""
        config = self.config
        bands = spectrogram.shape[-1]
        require(bands == config.bands, f"The encoder takes {config.bands} mel bands, got {bands}.")
        full, last = chunk_frames(spectrogram.shape[1], config)
        cut = full * config.frames  # where the full chunks end
        spectrogram = jnp.pad(spectrogram, ((0, 0), (0, max(0, cut + last - spectrogram.shape[1])), (0, 0)))
        tokens = []
        # All full chunks at once, as a second axis of the batch.
        if full:
            chunks = spectrogram[:, :cut].reshape(len(spectrogram), full, config.frames, config.bands)
            tokens.append(self.enter_chunk(chunks))
        if last:
            tokens.append(self.enter_chunk(spectrogram[:, None, cut : cut + last]))
        return tuple(tokens)

    def leave(self, tokens: Tokens) -> Tokens:
        """Outputs of the last block -> the encoder's output."""
        return tuple(self.norm(part) for part in tokens)

    def enter_chunk(self, chunk: Float[Array, "clip chunk frame band"]) -> Float[Array, "clip _chunk _token width"]:
        """One chunk of at most `config.frames` frames -> class token and patches, lowest band first."""
        patches = split_patches(chunk, self.config)
        bands, frames = self.config.grid
        # A short input takes the first time columns of the positional grid; entry 0 is the class token's.
        columns = patches.shape[-2] // bands
        positions = jnp.asarray(self.pos_embed)[1:].reshape(bands, frames, -1)[:, :columns]
        return self.enter_patches(patches, positions.reshape(1, 1, bands * columns, -1))

    def enter_patches(
        self, patches: Float[Array, "*clip patch pixel"], position: Float[Array, "*#clip patch width"]
    ) -> Float[Array, "*clip _token width"]:
        """Patches with their positional embeddings, behind the class token."""
        patches = self.patch_embed(patches.astype(self.dtype))
        class_token = (self.cls_token + self.pos_embed[0]).astype(patches.dtype)
        # One class token for every clip and chunk.
        class_token = jnp.broadcast_to(class_token, (*patches.shape[:-2], 1, patches.shape[-1]))
        return jnp.concatenate([class_token, patches + position.astype(patches.dtype)], axis=-2)

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
    # (clip, chunk, frames, patch_frames, bands, patch_bands) -> (clip, chunk, bands, frames, patch_bands, patch_frames)
    grid = chunk[..., : frames * config.patch_frames, :].reshape(
        *chunk.shape[:2], frames, config.patch_frames, bands, config.patch_bands
    )
    return grid.transpose(0, 1, 4, 2, 5, 3).reshape(*chunk.shape[:2], bands * frames, -1)


def frame_embeddings(tokens: Tokens, config: ViTConfig) -> Float[Array, "clip time feature"]:
    """Drop the class token and put the frequency bands side by side: (grid bands x width) features a time step."""
    parts = []
    for part in tokens:
        clips, chunks, count, width = part.shape
        bands = config.grid[0]
        # (clip, chunk, band, column, feature) -> (clip, chunk, column, band, feature) -> (clip, time, bands x features)
        grid = part[:, :, 1:].reshape(clips, chunks, bands, (count - 1) // bands, width)
        parts.append(grid.transpose(0, 1, 3, 2, 4).reshape(clips, -1, bands * width))
    return jnp.concatenate(parts, axis=1)


def clip_embedding(tokens: Tokens, config: ViTConfig) -> Float[Array, "clip feature"]:
    """Mean of the frame embeddings over time, across chunks."""
    return frame_embeddings(tokens, config).mean(axis=1)


def init_vit(config: ViTConfig, key: Array) -> Variables:
    """Random parameters of a ViT.

    Args:
      config: sizes of the ViT.
      key: random key of the weights.
    """
    one_patch = jnp.zeros((1, config.patch_frames, config.bands))  # parameters do not depend on the length
    params: Variables = ViT(config).init(key, one_patch)["params"]
    return params
