"""Matrix products of a JAX function, and the time that calls take on a device.

The products are found in the function's jaxpr, and each is timed alone. Their times add up to a floor under the
function's own time, unless the compiler merges products with their neighbours: a processor that computes bfloat16 in
float32 merges the conversions, so that a product alone takes longer than in the function.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params, primitives
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import PyTree

PRODUCTS = {primitive.name: primitive for primitive in (primitives.dot_general_p, primitives.conv_general_dilated_p)}
# Primitives that run the jaxpr inside them once. Any other, such as a Pallas kernel, may repeat it.
CALLS = ("jit", "closed_call", "remat2", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call", "shard_map")


@dataclass(frozen=True)
class MatrixProduct:
    """One product of two arrays, a `dot_general` or a convolution, with the settings that a program gives it.

    Attributes:
      primitive: name of the primitive in a jaxpr.
      left: shape of the left operand.
      right: shape of the right operand.
      types: types of both operands.
      settings: the primitive's parameters by name: dimension numbers, precision, type of the result and others.
      flop: floating-point operations; a multiplication and an addition are two. Padding counts like data.
    """

    primitive: str
    left: tuple[int, ...]
    right: tuple[int, ...]
    types: tuple[str, str]
    settings: tuple[tuple[str, object], ...]
    flop: int

    def apply(self, left: jax.Array, right: jax.Array) -> jax.Array:
        """The product of two arrays of these shapes and types; jit-safe."""
        return PRODUCTS[self.primitive].bind(left, right, **dict(self.settings))


def matrix_products(function: Callable[..., PyTree], *arguments: PyTree) -> tuple[dict[MatrixProduct, int], list[str]]:
    """Find every matrix product that a function's results depend on, without running the function.

    A product inside a scan counts once for each turn. Shapes inside `shard_map` are those of one device. Of a choice by
    platform the default's products count. Those inside a while loop, another conditional, or a primitive that may
    repeat them are left out with a note.

    Args:
      function: any jit-safe function of pytrees of arrays.
      arguments: the function's arguments, arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      How often each distinct product is computed, in the order of the program, and the notes.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # the compiler, too, drops what no result depends on
    notes: list[str] = []
    return _count(needed, notes), list(dict.fromkeys(notes))


def product_seconds(product: MatrixProduct, device: jax.Device) -> float:
    """Seconds that one product takes alone on a device, the least of five measurements."""
    # Noise, since some devices multiply zeros faster; `resize` repeats it up to the operand's size.
    noise = np.random.default_rng(0).standard_normal(2**18, np.float32)
    sides = zip((product.left, product.right), product.types, strict=True)
    operands = [jax.device_put(np.resize(noise, shape).astype(jnp.dtype(kind)), device) for shape, kind in sides]
    return min(repeated_seconds(partial(jax.jit(product.apply), *operands), 5, 0.02))


def repeated_seconds(call: Callable[[], PyTree], repetitions: int, least: float) -> list[float]:
    """Measure a call several times, without the launching that the device's work hides.

    Args:
      call: launches work on a device and returns the resulting arrays.
      repetitions: number of measurements.
      least: least duration of one measurement, s; a short call is made several times.

    Returns:
      Mean seconds of one call in each measurement, in their order.
    """

    def mean_seconds(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            results = call()
            if jax.default_backend() == "cpu":  # a processor would run several calls at a time
                jax.block_until_ready(results)
        jax.block_until_ready(results)  # an accelerator works in the order of the launches: then all are ready
        return (time.perf_counter() - start) / calls

    jax.block_until_ready(call())  # compiles
    calls = max(1, math.ceil(least / max(mean_seconds(1), 1e-7)))
    return [mean_seconds(calls) for _ in range(repetitions)]


def _count(jaxpr: Jaxpr, notes: list[str]) -> Counter[MatrixProduct]:
    """Count the products of a jaxpr; add to `notes` what is left out."""
    counts: Counter[MatrixProduct] = Counter()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [_count(part, notes) for part in jaxprs_in_params(equation.params)]
        if name in PRODUCTS:
            counts[_product(equation)] += 1
        elif name in CALLS or name == "scan":
            turns = equation.params["length"] if name == "scan" else 1
            counts += Counter({product: turns * times for product, times in inner[0].items()})
        elif name == "cond" and (platforms := equation.params.get("branches_platforms")):
            # A choice by platform: a kernel shows no products, the plain form for all others does.
            counts += inner[platforms.index(None)]
        elif any(inner):
            notes.append(f"Products inside `{name}`, whose number of runs is not known, are left out.")
    return counts


def _product(equation: JaxprEqn) -> MatrixProduct:
    left, right, result = (cast(ShapedArray, variable.aval) for variable in (*equation.invars, *equation.outvars))
    dimensions = equation.params["dimension_numbers"]
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = dimensions
        terms = math.prod(left.shape[axis] for axis in contracted)
    else:  # rhs_spec[0] is the kernel's axis of output channels; every result is a sum over the other axes
        terms = math.prod(right.shape) // max(1, right.shape[dimensions.rhs_spec[0]])
    # A product's key holds all that its time depends on, so that each distinct one is timed once.
    return MatrixProduct(
        equation.primitive.name,
        left.shape,
        right.shape,
        (str(left.dtype), str(right.dtype)),
        tuple(sorted({**equation.params, "out_sharding": None}.items())),  # timed alone, it is on one device
        2 * math.prod(result.shape) * terms,
    )
