"""What neurons did, reduced over tokens: in plain JAX, in a form that a GPU is fast at, and by a kernel."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

# Number of active tokens, sum, sum of squares, sum of excesses, maximum; float32 (clip, neuron).
Sums: TypeAlias = tuple[Array, ...]
KERNEL = False  # whether CUDA takes the kernel: no device has timed it yet
TOKENS, NEURONS = 32, 128  # of a block of the kernel


@jax.custom_jvp
def token_sums(
    activation: Float[Array, "clip *token neuron"],
    mask: Bool[Array, "clip *token"] | None,
    threshold: float | Float[Array, ""],
) -> Sums:
    """Reduce activations over the tokens of each clip; jit-safe, and may be differentiated and vmapped.

    Args:
      activation: activations of every token.
      mask: tokens to take; None: all.
      threshold: activation above which a neuron is active.

    Returns:
      The number of active tokens, the sum, the sum of squares, the sum of what exceeds the threshold, and the maximum,
      -inf where no token is taken.
    """
    on_cuda = one_pass if KERNEL else in_pairs
    return jax.lax.platform_dependent(activation, mask, threshold, default=one_by_one, cuda=on_cuda)


@token_sums.defjvp
def _token_sums_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Sums, Sums]:
    # JAX cannot differentiate a reduction of two arrays at once, nor the kernel.
    return jax.jvp(one_by_one, primals, tangents)


def one_by_one(activation: Array, mask: Array | None, threshold: float | Array) -> Sums:
    """`token_sums` in plain JAX; the others are compared with it."""
    *summed, highest = _to_reduce(activation, mask, threshold)
    axes = _token_axes(activation)
    return *(value.sum(axis=axes) for value in summed), highest.max(axis=axes)


def in_pairs(activation: Array, mask: Array | None, threshold: float | Array) -> Sums:
    """`token_sums`, two sums in one reduction.

    On a GPU, XLA writes the operand of a single reduction out transposed, so that tokens are neighbours in memory. It
    did so for every layer's activations, which was five times the traffic of the encoder itself. Pairs stay in place.
    """
    active, summed, squares, excess, highest = _to_reduce(activation, mask, threshold)
    axes = _token_axes(activation)

    def both(add: Callable[[Array, Array], Array], other: Callable[[Array, Array], Array]) -> Any:
        return lambda left, right: (add(left[0], right[0]), other(left[1], right[1]))

    def pair(a: Array, b: Array, starts: tuple[float, float], combine: Any) -> list[Array]:
        return list(jax.lax.reduce((a, b), tuple(map(jnp.float32, starts)), combine, axes))

    sums = pair(active, summed, (0, 0), both(jnp.add, jnp.add)) + pair(squares, excess, (0, 0), both(jnp.add, jnp.add))
    # The maximum needs a second one; the minimum is at most as large, so that the larger of both is the maximum.
    ends = pair(highest, highest, (-math.inf, math.inf), both(jnp.maximum, jnp.minimum))
    return *sums, jnp.maximum(*ends)


def one_pass(activation: Array, mask: Array | None, threshold: float | Array, interpret: bool = False) -> Sums:
    """`token_sums` by a Triton kernel, which reads every activation once.

    Args:
      activation, mask, threshold: as in `token_sums`.
      interpret: whether to run the kernel as plain JAX, on any platform.
    """
    from jax.experimental.pallas import triton  # not every build of JAX has it

    flat = activation.reshape(len(activation), -1, activation.shape[-1])
    clips, tokens, neurons = flat.shape
    taken = jnp.ones((clips, tokens), jnp.int8) if mask is None else mask.reshape(clips, tokens).astype(jnp.int8)
    # The threshold in the type of the activations, which they are compared in, and in float32.
    limits = jnp.stack([jnp.asarray(threshold, flat.dtype).astype(jnp.float32), jnp.asarray(threshold, jnp.float32)])
    blocks = -(-neurons // NEURONS)
    flat = jnp.pad(flat, ((0, 0), (0, 0), (0, blocks * NEURONS - neurons)))
    place = pl.BlockSpec((None, NEURONS), lambda clip, block: (clip, block))
    results = pl.pallas_call(
        _one_pass_kernel,
        out_shape=[jax.ShapeDtypeStruct((clips, blocks * NEURONS), jnp.float32)] * 5,
        grid=(clips, blocks),
        in_specs=[
            pl.BlockSpec((None, tokens, NEURONS), lambda clip, block: (clip, 0, block)),
            pl.BlockSpec((None, tokens), lambda clip, block: (clip, 0)),
            pl.BlockSpec((2,), lambda clip, block: (0,)),
        ],
        out_specs=[place] * 5,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
    )(flat, taken, limits)
    return tuple(result[:, :neurons] for result in results)


def _one_pass_kernel(activations: Any, mask: Any, limits: Any, *results: Any) -> None:
    """One clip and `NEURONS` neurons, a block of tokens at a time."""
    tokens = len(mask)
    block = min(TOKENS, 2 ** (tokens.bit_length() - 1))  # Triton takes powers of two
    limit, threshold = limits[0], limits[1]

    def add(step: Array, so_far: Sums) -> Sums:
        # The last block begins early enough to be a whole one; what it shares with the block before is left out.
        start = jnp.minimum(step * block, tokens - block)
        rows = pl.ds(start, block)
        taken = ((mask[rows] != 0) & (start + jnp.arange(block) >= step * block))[:, None]
        values = activations[rows, :].astype(jnp.float32)
        active = taken & (values > limit)
        summed = jnp.where(taken, values, 0.0)
        parts = (active.astype(jnp.float32), summed, jnp.square(summed), jnp.where(active, values - threshold, 0.0))
        highest = jnp.where(taken, values, -jnp.inf).max(axis=0)
        return *(a + b.sum(axis=0) for a, b in zip(so_far, parts, strict=False)), jnp.maximum(so_far[-1], highest)

    nothing = jnp.zeros(NEURONS, jnp.float32)
    start = (*(nothing for _ in range(4)), nothing - jnp.inf)
    for result, total in zip(results, jax.lax.fori_loop(0, -(-tokens // block), add, start), strict=True):
        result[:] = total


def _token_axes(activation: Array) -> tuple[int, ...]:
    return tuple(range(1, activation.ndim - 1))


def _to_reduce(activation: Array, mask: Array | None, threshold: float | Array) -> tuple[Array, ...]:
    """The arrays to reduce: active (0 or 1), activation, its square, excess, and the activation for the maximum."""
    active = activation > threshold
    activation = activation.astype(jnp.float32)
    summed = highest = activation
    if mask is not None:
        active &= mask[..., None]
        summed = jnp.where(mask[..., None], activation, 0.0)  # not a product, which would keep a NaN
        highest = jnp.where(mask[..., None], activation, -jnp.inf)
    excess = jnp.where(active, activation - threshold, 0.0)
    # A float32 sum is four times as fast as an integer sum on a CPU, and exact below 2**24.
    return active.astype(jnp.float32), summed, jnp.square(summed), excess, highest
