"""Encoders whose tokens follow one another in time, one to a frame."""

import numpy as np
from jaxtyping import Array, Float

from jaxdissect.encoder.protocol import TokenLayout


def frames_in_time(tokens: int, hop: int, span: int, samples: int) -> tuple[TokenLayout, ...]:
    """Layout of tokens at equal distances in time.

    Tokens that begin behind the clip's end are the encoder's own padding, and no patches.

    Args:
      tokens: number of tokens.
      hop: samples from the start of a token to that of the next.
      span: samples of a token.
      samples: length of the clip in samples.
    """
    start = np.arange(tokens) * hop
    is_patch = start < samples
    return (TokenLayout(is_patch, np.where(is_patch, start, 0), np.where(is_patch, start + span, 0)),)


def mean_over_tokens(output: tuple[Float[Array, "clip token width"], ...]) -> Float[Array, "clip width"]:
    """Mean of all tokens of an encoder with one call of its blocks."""
    (tokens,) = output
    embedding: Array = tokens.mean(axis=1)
    return embedding
