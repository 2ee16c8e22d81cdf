"""Which tokens of a clip count: all, without the class token, or only patches that sound."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdissect.encoder.protocol import TokenLayout

TOKENS = ("all", "patches", "sounding")
SOUNDING_DB = 60.0  # how far below the loudest span of a clip a span may lie, and still sound


def token_masks(
    layout: Sequence[TokenLayout], kind: str, pcm: Float[Array, "clip sample"], samples: Int[Array, " clip"]
) -> list[Bool[Array, "clip *token"]] | None:
    """Which tokens count, one mask per call of the encoder's blocks; None for all. Jit-safe.

    Args:
      layout: origin of the tokens.
      kind: kind of tokens that count: "all"; "patches", all but the class token; "sounding", the patches whose time
        span lies inside the recording and whose mean power is within 60 dB of the loudest such span of the clip.
      pcm: samples of the clips, padded to one length.
      samples: number of recorded samples of each clip.
    """
    if kind == "all":
        return None
    patches = [jnp.broadcast_to(tokens.is_patch, (len(pcm), *tokens.is_patch.shape)) for tokens in layout]
    if kind == "patches":
        return patches
    # The power is taken once for each span of time: all bands of a span have the same.
    span_of_token = [np.stack([tokens.start, tokens.stop], axis=-1).reshape(-1, 2) for tokens in layout]
    spans, span_numbers = np.unique(np.concatenate(span_of_token), axis=0, return_inverse=True)
    sounds = _sounding(spans, pcm, samples)
    ends = np.cumsum([len(tokens) for tokens in span_of_token])[:-1]
    return [
        patch & sounds[:, numbers].reshape(patch.shape)
        for patch, numbers in zip(patches, np.split(span_numbers, ends), strict=True)
    ]


def _sounding(
    spans: Int[np.ndarray, "span 2"], pcm: Float[Array, "clip sample"], samples: Int[Array, " clip"]
) -> Bool[Array, "clip span"]:
    """Whether each span of samples lies inside the recording and is loud enough."""
    start, stop = spans[:, 0], spans[:, 1]
    length = stop - start  # zero for a class token
    # Samples of every span, as many as the longest has; those behind its end or the clip's count as zero.
    index = start[:, None] + np.arange(length.max())
    within = index < stop[:, None]
    picked = pcm.at[:, index].get(mode="fill", fill_value=0.0)  # (clip, span, sample)
    energy = jnp.square(jnp.where(within[None], picked, 0.0)).sum(axis=-1)
    power = energy / np.maximum(length, 1)[None].astype(np.float32)
    # A silent clip has no loudest span: `power > 0` keeps its spans from being as loud as nothing.
    inside = stop[None] <= samples[:, None]
    loudest = jnp.max(jnp.where(inside, power, 0.0), axis=1, keepdims=True)
    return inside & (power > 0) & (power >= loudest * 10 ** (-SOUNDING_DB / 10))
