"""Samples as numbers in [-1, 1] and as 16-bit integers: one full scale for counting, training, shards and pages."""

from typing import overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int16

FULL_SCALE = 32768  # the integer of full scale, 1.0; the largest 16-bit integer, 32767, is a little less


@overload
def samples_as_float(
    pcm: Float[Array, "*clip sample"] | Int16[Array, "*clip sample"],
) -> Float[Array, "*clip sample"]: ...


@overload
def samples_as_float(
    pcm: Float[np.ndarray, "*clip sample"] | Int16[np.ndarray, "*clip sample"],
) -> Float[np.ndarray, "*clip sample"]: ...


def samples_as_float(pcm: Array | np.ndarray) -> Array | np.ndarray:
    """Samples in [-1, 1]; 16-bit integers take half the way to the device. Jit-safe.

    Args:
      pcm: samples in [-1, 1], which are returned as they are, or 16-bit integers.
    """
    # A division by a power of two is exact, so that the integers can be had back.
    return pcm if jnp.issubdtype(pcm.dtype, jnp.floating) else pcm.astype(jnp.float32) / FULL_SCALE


def samples_as_int16(
    pcm: Float[np.ndarray, "*clip sample"] | Int16[np.ndarray, "*clip sample"],
) -> Int16[np.ndarray, "*clip sample"]:
    """The nearest 16-bit integers; samples outside the range become its ends.

    Args:
      pcm: samples in [-1, 1], or 16-bit integers, which are returned as they are.
    """
    if pcm.dtype == np.int16:
        return pcm
    return np.clip(np.rint(pcm * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
