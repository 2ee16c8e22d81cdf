"""The Transformer block of every family, in Flax Linen: attention and an MLP, with norms before or behind them.

Only outputs of modules can be read. So GELU is a module of its own, `mlp/act`. The heads' outputs and a block's output
pass through modules that only name them, `attn/heads` and `residual`.
"""

import functools
import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxdissect.encoder.families.attention import attention

Dense = functools.partial(nn.Dense, precision="highest")  # float32 products on accelerators, too
MASKED = -1e9  # added to the score of a token that nobody may attend to
GATES = 8  # outputs of the gate of a relative position bias: two gates, each the sum of four


@dataclass(frozen=True)
class RelativePositions:
    """A bias on attention scores by the distance between two tokens, gated by what the token that asks holds.

    Source: Chi et al., "XLM-E" (arXiv:2106.16138), as in WavLM (arXiv:2110.13900) and BEATs (arXiv:2212.09058).

    Attributes:
      buckets: number of groups of distances, half of them for each direction.
      distance: number of tokens from which on all distances share a group.
      gated_by: input of the gate: "inputs" of the attention (WavLM), or its "queries" (BEATs); "nothing": no gate.
    """

    buckets: int
    distance: int
    gated_by: str = "inputs"


@dataclass(frozen=True)
class BlockConfig:
    """Sizes and order of a Transformer block.

    Attributes:
      width: number of features of a token.
      heads: number of attention heads, a divisor of `width`.
      mlp: number of hidden units of the MLP, that is neurons per layer.
      epsilon: number added to the variance in the norms.
      norm_first: whether the norms come before attention and MLP (pre-norm), or behind the sums (post-norm).
      alpha: factor on what bypasses attention and MLP (DeepNorm, arXiv:2203.00555).
      relative: relative positions; None: attention knows no positions.
    """

    width: int
    heads: int
    mlp: int
    epsilon: float = 1e-6
    norm_first: bool = True
    alpha: float = 1.0
    relative: RelativePositions | None = None


class GELU(nn.Module):
    """Exact GELU; its output is the activation of the neurons."""

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.nn.gelu(x, approximate=False)


class Named(nn.Module):
    """Returns its input, which can then be read by the module's path."""

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return x


class Affine(nn.Module):
    """Every feature scaled and shifted: a batch norm whose statistics are frozen."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*axes feature"]) -> Float[Array, "*axes feature"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        along_last = (1,) * (x.ndim - 1) + (-1,)
        return (x * scale.reshape(along_last) + bias.reshape(along_last)).astype(self.dtype)


class MLP(nn.Module):
    config: BlockConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*clip token width"]) -> Float[Array, "*clip token width"]:
        hidden = Dense(self.config.mlp, dtype=self.dtype, name="fc1")(x)
        return Dense(self.config.width, dtype=self.dtype, name="fc2")(GELU(name="act")(hidden))


class QKV(nn.Module):
    """Queries, keys and values: a dense layer, whose outputs they are in this order along the last axis."""

    config: BlockConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*clip token width"]) -> tuple[Float[Array, "*clip token width"], ...]:
        width = self.config.width
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (width, 3 * width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (3 * width,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # On a GPU the three parts of one product would be copied apart, which costs more than to read x three times.
        return jax.lax.platform_dependent(x, kernel, bias, cuda=_three_products, default=_one_product)


def _one_product(x: Array, kernel: Array, bias: Array) -> tuple[Array, ...]:
    return tuple(jnp.split(_affine(x, kernel, bias), 3, axis=-1))


def _three_products(x: Array, kernel: Array, bias: Array) -> tuple[Array, ...]:
    parts = zip(jnp.split(kernel, 3, axis=-1), jnp.split(bias, 3), strict=True)
    # XLA would merge products that share an operand; behind a barrier they share none.
    apart = ((*jax.lax.optimization_barrier((x, part)), of_part) for part, of_part in parts)
    return tuple(_affine(*of_part) for of_part in apart)


def _affine(x: Array, kernel: Array, bias: Array) -> Array:
    return jnp.matmul(x, kernel, precision="highest") + jnp.expand_dims(bias, range(x.ndim - 1))


class RelativeBias(nn.Module):
    """The bias on attention scores of `RelativePositions`."""

    config: BlockConfig
    positions: RelativePositions
    dtype: DTypeLike

    @nn.compact
    def __call__(self, gate_input: Float[Array, "*clip token head feature"]) -> Float[Array, "*#clip head token token"]:
        tokens, heads, table = gate_input.shape[-3], self.config.heads, self.positions
        embedding = self.param("embedding", nn.initializers.normal(0.02), (table.buckets, heads), jnp.float32)
        bias = jnp.moveaxis(jnp.asarray(embedding)[position_buckets(tokens, table)], -1, 0)  # (head, token, token)
        if table.gated_by == "nothing":
            return bias
        constant = self.param("constant", nn.initializers.ones, (heads,), jnp.float32)
        gates = Dense(GATES, dtype=self.dtype, name="gate")(gate_input)
        # Two gates for each head of each token: (..., token, head, 2).
        gates = jax.nn.sigmoid(gates.reshape(*gates.shape[:-1], 2, GATES // 2).sum(axis=-1).astype(jnp.float32))
        gate = gates[..., 0] * (gates[..., 1] * constant.reshape((1,) * (gates.ndim - 2) + (-1,)) - 1.0) + 2.0
        gate = jnp.swapaxes(gate, -1, -2)[..., None]  # (..., head, token that asks, 1)
        return gate * bias.reshape((1,) * (gate.ndim - 3) + bias.shape)


def position_buckets(tokens: int, table: RelativePositions) -> Int[np.ndarray, "token token"]:
    """The group of the distance from each token that asks (first axis) to each that answers.

    A half of the groups is for tokens ahead. Of each half, one half holds one distance each; in the other they grow
    with the logarithm of the distance.

    Args:
      tokens: number of tokens.
      table: numbers of groups and of distances.
    """
    half, exact = table.buckets // 2, table.buckets // 4
    ahead = np.arange(tokens)[None] - np.arange(tokens)[:, None]
    distance = np.abs(ahead)
    # In float32, as PyTorch computes it: a distance at an edge falls into the same group.
    log = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    grown = log / np.float32(math.log(table.distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + grown.astype(np.int64), half - 1)
    return np.where(ahead > 0, half, 0) + np.where(distance < exact, distance, far)


class Attention(nn.Module):
    config: BlockConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "*clip token width"], mask: Bool[Array, "*clip token"] | None = None
    ) -> Float[Array, "*clip token width"]:
        config = self.config

        def heads_apart(part: Array) -> Array:  # (clip, token, heads x features) -> (clip, token, head, feature)
            return part.reshape(*part.shape[:-1], config.heads, config.width // config.heads)

        query, key, value = map(heads_apart, QKV(config, self.dtype, name="qkv")(x))
        bias = None
        if config.relative is not None:
            gate_input = query if config.relative.gated_by == "queries" else heads_apart(x)
            bias = RelativeBias(config, config.relative, self.dtype, name="relative")(gate_input)
        if mask is not None:
            hidden = jnp.where(mask, 0.0, MASKED)[..., None, None, :]  # (clip, head, token that asks, token)
            bias = hidden if bias is None else bias + hidden
        mixed = Named(name="heads")(attention(query, key, value, bias))
        return Dense(config.width, dtype=self.dtype, name="proj")(mixed.reshape(x.shape))  # heads beside each other


class Block(nn.Module):
    """One Transformer block; a mask is True for the tokens that may be attended to."""

    config: BlockConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "*clip token width"], mask: Bool[Array, "*clip token"] | None = None
    ) -> Float[Array, "*clip token width"]:
        config, dtype = self.config, self.dtype
        norm1 = nn.LayerNorm(epsilon=config.epsilon, dtype=dtype, name="norm1")
        norm2 = nn.LayerNorm(epsilon=config.epsilon, dtype=dtype, name="norm2")
        attend, mlp = Attention(config, dtype, name="attn"), MLP(config, dtype, name="mlp")
        if config.norm_first:
            x = x + attend(norm1(x), mask)
            x = x + mlp(norm2(x))
        else:
            x = norm1(config.alpha * x + attend(x, mask))
            x = norm2(config.alpha * x + mlp(x))
        return Named(name="residual")(x)
