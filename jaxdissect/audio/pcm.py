"""Samples as numbers in [-1, 1] and as 16-bit integers: one full scale for counting, training, shards and pages."""

from typing import Any, overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int16

FULL_SCALE = 32768  # the integer that stands for 1; the largest one, 32767, is a little less


@overload
def samples_as_float(
    pcm: Float[Array, "*clip sample"] | Int16[Array, "*clip sample"],
) -> Float[Array, "*clip sample"]: ...


@overload
def samples_as_float(
    pcm: Float[np.ndarray, "*clip sample"] | Int16[np.ndarray, "*clip sample"],
) -> Float[np.ndarray, "*clip sample"]: ...


def samples_as_float(pcm: Any) -> Any:
    """Samples in [-1, 1]; 16-bit integers take half the way to the device. Jit-safe.

    Args:
      pcm: samples in [-1, 1], which come back as they are, or 16-bit integers.
    """
    # A division by a power of two is exact, so that integers come back as they were.
    return pcm if jnp.issubdtype(pcm.dtype, jnp.floating) else pcm.astype(jnp.float32) / FULL_SCALE


def samples_as_int16(
    pcm: Float[np.ndarray, "*clip sample"] | Int16[np.ndarray, "*clip sample"],
) -> Int16[np.ndarray, "*clip sample"]:
    """The nearest 16-bit integers, those at the ends for what lies beyond.

    Args:
      pcm: samples in [-1, 1], or 16-bit integers, which come back as they are.
    """
    if pcm.dtype == np.int16:
        return pcm
    return np.clip(np.rint(pcm * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
