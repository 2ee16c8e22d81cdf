"""The matrix products of any JAX function: found in its jaxpr, and each timed alone on the device.

Their times added up are a floor under the function's own time, and a ceiling over its rate, as far as the compiler does
not merge products with their neighbours. Where it does, as with the conversions of bfloat16 on a processor that
computes in float32, a product alone takes longer than in the function.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Var, primitives

from jaxdissect.bench.timings import best_seconds

PRODUCTS = {one.name: one for one in (primitives.dot_general_p, primitives.conv_general_dilated_p)}
CALLS = {  # primitives that run the jaxpr in them once, and return what it returns
    "jit", "pjit", "closed_call", "core_call", "core_closed_call", "checkpoint", "remat", "remat2", "custom_jvp_call",
    "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_vmap_call", "shard_map",
}  # fmt: skip


@dataclass(frozen=True)
class MatrixProduct:
    """One product of two arrays, a `dot_general` or a convolution, as a program asks for it.

    Attributes:
      primitive: its name in a jaxpr.
      left, right: shapes of the operands.
      types: of the operands.
      settings: the primitive's parameters (dimension numbers, precision, type of the result, ...) by name.
      flop: floating-point operations; a multiplication and an addition are two. Padding counts like data.
    """

    primitive: str
    left: tuple[int, ...]
    right: tuple[int, ...]
    types: tuple[str, str]
    settings: tuple[tuple[str, Any], ...]
    flop: int

    def apply(self, left: Any, right: Any) -> Any:
        """The product of two arrays of these shapes and types; jit-safe."""
        return PRODUCTS[self.primitive].bind(left, right, **dict(self.settings))


@dataclass(frozen=True)
class MatrixProducts:
    """The products of a program.

    Attributes:
      counts: how often each distinct product is computed, in the order of the program.
      notes: what was left out or assumed, in words.
    """

    counts: Mapping[MatrixProduct, int]
    notes: tuple[str, ...] = ()

    @property
    def flop(self) -> int:
        """Floating-point operations of all of them."""
        return sum(times * product.flop for product, times in self.counts.items())


def matrix_products(function: Callable[..., Any], *arguments: Any) -> MatrixProducts:
    """Find every matrix product that a function's results depend on, without running it.

    Scans count as often as they turn, a conditional as its dearest branch; inside `shard_map` shapes are those of one
    device. What is inside a while loop, or another primitive that may repeat it, is left out with a note.

    Args:
      function: of pytrees of arrays; traced, so it must be jit-safe.
      arguments: its arguments, arrays or `jax.ShapeDtypeStruct`s.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    found, notes = _collect(jaxpr, [True] * len(jaxpr.outvars))
    return MatrixProducts(dict(reversed(found.items())), tuple(dict.fromkeys(reversed(notes))))


def product_seconds(product: MatrixProduct, device: jax.Device) -> float:
    """Seconds that one product takes alone on a device, on noise: the best of several, see `best_seconds`."""
    operands = (
        jax.device_put(_noise(shape, kind), device)
        for shape, kind in zip((product.left, product.right), product.types, strict=True)
    )
    return best_seconds(partial(jax.jit(product.apply), *operands))


def launch_seconds(device: jax.Device) -> float:
    """Seconds to launch a program that does next to nothing: no product can be measured as faster than this."""
    return best_seconds(partial(jax.jit(lambda x: x + 1), jax.device_put(np.float32(0), device)))


def _collect(jaxpr: Jaxpr, wanted: Sequence[bool]) -> tuple[Counter[MatrixProduct], list[str]]:
    """Products on which the wanted results depend, and notes; both last things first."""
    found: Counter[MatrixProduct] = Counter()
    notes: list[str] = []
    needed = {var for var, want in zip(jaxpr.outvars, wanted, strict=True) if want and isinstance(var, Var)}
    for equation in reversed(jaxpr.eqns):
        used = [var in needed for var in equation.outvars]
        if not any(used) and not equation.effects:
            continue
        needed.update(var for var in equation.invars if isinstance(var, Var))
        if equation.primitive.name in PRODUCTS:
            found[_product(equation)] += 1
            continue
        counts, remarks = _inside(equation, used)
        for product, times in counts.items():
            found[product] += times
        notes += remarks
    return found, notes


def _inside(equation: Any, used: list[bool]) -> tuple[Mapping[MatrixProduct, int], list[str]]:
    """Products of the jaxprs that a primitive holds, and notes."""
    name, inner = equation.primitive.name, list(_jaxprs(equation.params))
    if not inner:
        return {}, []
    if name in CALLS:
        return _collect(inner[0], used)
    if name == "cond":
        branches = [_collect(branch, used) for branch in inner]
        found, notes = max(branches, key=lambda branch: MatrixProducts(branch[0]).flop)
        alike = all(counts == found for counts, _ in branches)
        return found, notes if alike else [*notes, "A conditional is counted as its dearest branch."]
    if name == "scan":
        carried, turns = equation.params["num_carry"], equation.params["length"]
        found, notes = _collect(inner[0], [True] * carried + used[carried:])
        return {product: turns * times for product, times in found.items() if turns}, notes
    parts = [_collect(one, [True] * len(one.outvars)) for one in inner]
    if not any(counts or notes for counts, notes in parts):
        return {}, []
    why = "whose number of turns is not known" if name == "while" else "which may repeat them"
    return {}, [f"Products inside `{name}`, {why}, are left out."]


def _jaxprs(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, Jaxpr | ClosedJaxpr):
                yield part.jaxpr if isinstance(part, ClosedJaxpr) else part


def _product(equation: Any) -> MatrixProduct:
    left, right = (var.aval for var in equation.invars)
    results = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        each = math.prod(left.shape[axis] for axis in contracted)
    else:  # a kernel holds what one channel of the result is made of
        each = math.prod(right.shape) // max(1, right.shape[equation.params["dimension_numbers"].rhs_spec[0]])
    settings = {**equation.params, "out_sharding": None}  # alone it is on one device
    return MatrixProduct(
        equation.primitive.name,
        tuple(left.shape),
        tuple(right.shape),
        (str(left.dtype), str(right.dtype)),
        tuple(sorted(settings.items())),
        2 * results * each,
    )


def _noise(shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Normal noise; of zeros, some devices make shorter work."""
    values = np.random.default_rng(0).standard_normal(2**18, np.float32)
    return np.resize(values, shape).astype(jnp.dtype(kind))
