"""wav2vec 2.0 and its descendants: HuBERT, WavLM, data2vec-audio, XLS-R, MMS, MERT. PCM -> frames of 20 ms -> tokens.

They share a convolutional front end on the waveform, a convolution that tells positions, and Transformer blocks; they
differ in norms and in how positions are told. Sources: wav2vec 2.0 (arXiv:2006.11477), HuBERT (arXiv:2106.07447),
XLS-R (arXiv:2111.09296), MMS (arXiv:2305.13516), data2vec (arXiv:2202.03555), WavLM (arXiv:2110.13900), MERT
(arXiv:2306.00107).
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxdissect.encoder.families.blocks import Affine, Block, BlockConfig, Dense, RelativePositions
from jaxdissect.encoder.families.linen import LinenEncoder
from jaxdissect.encoder.families.time_tokens import frames_in_time, mean_over_tokens
from jaxdissect.encoder.protocol import TokenLayout, Variables
from jaxdissect.errors import require

EPSILON = 1e-5  # of the norms in the convolutions
VARIANCE_FLOOR = 1e-7  # added to a clip's variance

States = tuple[Float[Array, "clip _token width"], ...]


@dataclasses.dataclass(frozen=True)
class Wav2Vec2Config:
    """Sizes and settings. The defaults are wav2vec 2.0 base.

    Attributes:
      sample_rate: sampling rate, Hz.
      width, depth, heads, mlp: features of a token, blocks, attention heads, and neurons per layer.
      epsilon: number added to the variance in the norms of the blocks.
      norm_first: whether blocks are pre-norm (`do_stable_layer_norm` in transformers) or post-norm.
      normalise: whether every clip is brought to mean 0 and variance 1, padding included.
      conv_widths, conv_kernels, conv_strides: features, samples and hop of each convolution of the front end.
      conv_norm: "group": the first convolution's features are normed over time; "layer": every convolution has a
        LayerNorm.
      conv_bias: whether the convolutions have a bias.
      feature_norm: whether a LayerNorm comes before the projection to `width`.
      position_kernel, position_groups: tokens that a convolution of the positions sees, and its groups.
      position_depth: number of convolutions of the positions.
      position_norm: "none"; "batch": a batch norm comes before the convolution (HuBERT); "layer": a LayerNorm without
        parameters comes behind each (data2vec).
      buckets, distance: groups of distances and the longest distance of a gated relative position bias (WavLM); 0
        groups: no such bias.

    Raises:
      InputError: the sizes do not fit each other.
    """

    sample_rate: int = 16000
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    epsilon: float = 1e-5
    norm_first: bool = False
    normalise: bool = True
    conv_widths: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_norm: str = "group"
    conv_bias: bool = False
    feature_norm: bool = True
    position_kernel: int = 128
    position_groups: int = 16
    position_depth: int = 1
    position_norm: str = "none"
    buckets: int = 0
    distance: int = 0

    def __post_init__(self) -> None:
        lengths = {len(self.conv_widths), len(self.conv_kernels), len(self.conv_strides)}
        require(len(lengths) == 1 and 0 not in lengths, f"The convolutions need one size of each kind, got {self}.")
        require(
            self.width % self.heads == 0 and self.width % self.position_groups == 0,
            f"The width must be a multiple of the heads and of the position groups, got {self}.",
        )

    @property
    def block(self) -> BlockConfig:
        """Sizes of a block."""
        relative = RelativePositions(self.buckets, self.distance) if self.buckets else None
        return BlockConfig(self.width, self.heads, self.mlp, self.epsilon, self.norm_first, relative=relative)

    @property
    def hop(self) -> int:
        """Samples from the start of a token to that of the next."""
        return math.prod(self.conv_strides)

    @property
    def span(self) -> int:
        """Samples that a token's convolutions see."""
        span = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            span = (span - 1) * stride + kernel
        return span

    def tokens(self, samples: int) -> int:
        """Number of tokens of a clip.

        Args:
          samples: length of the clip.

        Raises:
          InputError: the clip is shorter than one token.
        """
        require(
            samples >= self.span,
            f"The encoder needs {self.span} samples for a token, got {samples}: choose a longer unit length.",
        )
        return (samples - self.span) // self.hop + 1


class Convolution(nn.Module):
    """A convolution of the front end: (clip, time, feature) -> fewer times; with its norm, and GELU."""

    config: Wav2Vec2Config
    number: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "clip time feature"]) -> Float[Array, "clip time2 feature2"]:
        config, number = self.config, self.number
        x = nn.Conv(
            config.conv_widths[number],
            (config.conv_kernels[number],),
            (config.conv_strides[number],),
            padding="VALID",
            use_bias=config.conv_bias,
            dtype=self.dtype,
            precision="highest",
            name="conv",
        )(x)
        if config.conv_norm == "layer":
            x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x)
        elif number == 0:
            x = NormOverTime(self.dtype, name="norm")(x)
        return jax.nn.gelu(x, approximate=False)


class NormOverTime(nn.Module):
    """Every feature of a clip with mean 0 and variance 1 over time, then scaled and shifted."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "clip time feature"]) -> Float[Array, "clip time feature"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        exact = x.astype(jnp.float32)
        centred = exact - exact.mean(axis=1, keepdims=True)
        factor = jax.lax.rsqrt(jnp.square(centred).mean(axis=1, keepdims=True) + EPSILON) * scale[None, None]
        return (centred * factor + bias[None, None]).astype(self.dtype)


class Positions(nn.Module):
    """What tells tokens their positions: grouped convolutions over time, each with GELU."""

    config: Wav2Vec2Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "clip token width"]) -> Float[Array, "clip token width"]:
        config = self.config
        # As many tokens leave as enter; an even kernel sees one token more of the past than of the future.
        padding = (config.position_kernel // 2, (config.position_kernel - 1) // 2)
        if config.position_norm == "batch":
            x = Affine(self.dtype, name="norm")(x)
        for number in range(config.position_depth):
            x = nn.Conv(
                config.width,
                (config.position_kernel,),
                padding=[padding],
                feature_group_count=config.position_groups,
                dtype=self.dtype,
                precision="highest",
                name=f"convs_{number}",
            )(x)
            if config.position_norm == "layer":
                x = nn.LayerNorm(epsilon=EPSILON, use_scale=False, use_bias=False, dtype=self.dtype)(x)
            x = jax.nn.gelu(x, approximate=False)
        return x


class Wav2Vec2Network(nn.Module):
    """PCM -> tokens. A mask is True for the tokens of the recording, False for padding."""

    config: Wav2Vec2Config
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        config, dtype = self.config, self.dtype
        self.convs = [Convolution(config, number, dtype) for number in range(len(config.conv_widths))]
        if config.feature_norm:
            self.feature_norm = nn.LayerNorm(epsilon=config.epsilon, dtype=dtype)
        self.feature_projection = Dense(config.width, dtype=dtype)
        self.positions = Positions(config, dtype)
        self.blocks = [Block(config.block, dtype) for _ in range(config.depth)]
        self.norm = nn.LayerNorm(epsilon=config.epsilon, dtype=dtype)

    def __call__(self, pcm: Float[Array, "clip sample"], mask: Bool[Array, "clip token"] | None = None) -> States:
        (tokens,) = self.enter(pcm, mask)
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.leave((tokens,))

    def enter(self, pcm: Float[Array, "clip sample"], mask: Bool[Array, "clip token"] | None = None) -> States:
        x = pcm.astype(self.dtype)[..., None]
        for conv in self.convs:
            x = conv(x)
        if self.config.feature_norm:
            x = self.feature_norm(x)
        x = self.feature_projection(x)
        if mask is not None:
            x = jnp.where(mask[..., None], x, 0)
        x = x + self.positions(x)
        return (x if self.config.norm_first else self.norm(x),)

    def leave(self, states: States) -> States:
        return (self.norm(states[0]),) if self.config.norm_first else states


class Wav2Vec2(LinenEncoder):
    """An encoder of the wav2vec 2.0 kind: an `Encoder`, and a `LayeredEncoder`."""

    network = Wav2Vec2Network
    family = "wav2vec2"
    config_type = Wav2Vec2Config

    def example(self) -> Float[Array, "1 sample"]:
        """Samples of one token, zeros."""
        return jnp.zeros((1, self.config.span))

    def front_end(self, variables: Variables, pcm: Float[Array, "clip sample"]) -> Float[Array, "clip sample"]:
        """PCM -> PCM, each clip normalised if the encoder was trained so."""
        self.config.tokens(pcm.shape[-1])  # refuses clips that are too short
        if not self.config.normalise:
            return pcm
        centred = pcm - pcm.mean(axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + VARIANCE_FLOOR)

    def embed(self, output: States) -> Float[Array, "clip width"]:
        """Mean of all tokens."""
        return mean_over_tokens(output)

    def token_layout(self, samples: int) -> tuple[TokenLayout, ...]:
        """One token every `hop` samples; it spans the samples that its convolutions see."""
        return frames_in_time(self.config.tokens(samples), self.config.hop, self.config.span, samples)
