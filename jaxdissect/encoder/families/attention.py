"""Attention of every token to every token of its clip, by a library kernel where there is one."""

import jax
import jax.numpy as jnp
from jax.extend.backend import get_backend
from jaxtyping import Array, Float

MOST_FEATURES, AMPERE = 128, 8.0  # features of a head; compute capability


def attention(
    query: Float[Array, "*clip token head feature"],
    key: Float[Array, "*clip token head feature"],
    value: Float[Array, "*clip token head feature"],
    bias: Float[Array, "*#clip #head #token token"] | None = None,
) -> Float[Array, "*clip token head feature"]:
    """`softmax(query @ key / sqrt(feature) + bias) @ value` for every head; the softmax is computed in float32.

    In bfloat16 on an NVIDIA GPU, cuDNN computes it and never writes the scores, which were half of the encoder's
    memory traffic. It has no float32 products, and takes heads of up to 128 features, in eights.

    Args:
      query, key, value: what every token asks, offers and hands over.
      bias: number added to the score of every pair of tokens; None: no bias.
    """
    features = query.shape[-1]
    if query.dtype != jnp.bfloat16 or features > MOST_FEATURES or features % 8 or not has_cudnn():
        return plain_attention(query, key, value, bias)
    # A program for several platforms, as one that is exported, takes the kernel on its own alone.
    parts = (query, key, value) if bias is None else (query, key, value, bias)
    return jax.lax.platform_dependent(*parts, cuda=_cudnn_attention, default=plain_attention)


def plain_attention(
    query: Float[Array, "*clip token head feature"],
    key: Float[Array, "*clip token head feature"],
    value: Float[Array, "*clip token head feature"],
    bias: Float[Array, "*#clip #head #token token"] | None = None,
) -> Float[Array, "*clip token head feature"]:
    """`attention` as matrix products; arguments as there."""
    query, key, value = (jnp.swapaxes(part, -3, -2) for part in (query, key, value))  # (clip, head, token, feature)
    scores = jnp.matmul(query * query.shape[-1] ** -0.5, jnp.swapaxes(key, -1, -2), precision="highest")
    scores = scores.astype(jnp.float32)  # the softmax is computed in float32 under bfloat16, too
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    # Softmax with its division after the product: the result is tokens x head wide, not tokens x tokens.
    total = weights.sum(axis=-1, keepdims=True)
    mixed = jnp.matmul(weights.astype(value.dtype), value, precision="highest") / total.astype(value.dtype)
    return jnp.swapaxes(mixed, -3, -2)


def has_cudnn() -> bool:
    """Whether programs are made for NVIDIA GPUs of Ampere or later; JAX does not start there without cuDNN."""
    if "cuda" not in get_backend().platform_version:
        return False
    return float(jax.local_devices()[0].compute_capability) >= AMPERE


def _cudnn_attention(query: Array, key: Array, value: Array, bias: Array | None = None) -> Array:
    # cuDNN takes a single axis of clips.
    flat_query, flat_key, flat_value = (part.reshape(-1, *part.shape[-3:]) for part in (query, key, value))
    if bias is not None:
        bias = bias.reshape(-1, *bias.shape[-3:]).astype(query.dtype)
    mixed = jax.nn.dot_product_attention(flat_query, flat_key, flat_value, bias, implementation="cudnn")
    return mixed.reshape(query.shape)
