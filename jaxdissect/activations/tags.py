"""Values that any JAX function tags: read over tokens, and changed, without a change of the function itself.

A tag is a name that `jax.ad_checkpoint.checkpoint_name` gives to a value: an identity that JAX keeps in the function's
program. So functions that were written for something else can be read, as MaxText's, which tag their MLPs. A small
interpreter goes through the program: into `jit`, `checkpoint` and `scan`, and into both sides of a `cond`. What holds
no wanted tag is left whole, with its custom derivatives and kernels.
"""

import difflib
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxprs_in_params
from jaxtyping import Array, Float, PyTree

from jaxdissect.activations.read import Reading, reduce_tokens
from jaxdissect.errors import InputError, require

# What to do with the n-th value of a tag, counted over the program: `visit(name, n, value) -> value, what was read`.
Visit: TypeAlias = Callable[[str, Array | int, Array], tuple[Array, PyTree]]
Read: TypeAlias = dict[str, list[PyTree]]  # what was read of each tag, each with a leading axis of layers
ONCE = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call")  # primitives that run the program inside them once


def tag(value: Float[Array, "clip *token neuron"], name: str) -> Float[Array, "clip *token neuron"]:
    """Give activations a name by which they can be read and changed; returns them as they are.

    Args:
      value: activations.
      name: the name; layers may share one.
    """
    tagged: Array = checkpoint_name(value, name)
    return tagged


def read_tags(
    function: Callable[..., PyTree], *inputs: PyTree, tags: str, threshold: float = 0.0
) -> tuple[PyTree, dict[str, Reading]]:
    """Call a function and read tagged values, reduced over tokens.

    Pure: call it inside your own `jit`, `vmap` or `grad`.

    Args:
      function: any JAX function.
      inputs: its arguments.
      tags: pattern of the names of tags, with the wildcards of `fnmatch`. The values have axes (clip, any token axes,
        neuron).
      threshold: activation above which a neuron is active.

    Returns:
      What the function returns, and a `Reading` for each tag, with axes (clip, layer, neuron). Layers are the values of
      a tag in the order of the program; a scan has one or more in each turn.

    Raises:
      InputError: no tag matches, or one is where it cannot be read.
    """

    def visit(name: str, _: Array | int, value: Array) -> tuple[Array, Reading]:
        _require_activations(name, value)
        return value, reduce_tokens(value, None, threshold)

    output, read = _visited(function, inputs, tags, visit)
    return output, {name: _layers(name, parts) for name, parts in read.items()}


def run_with_tag_gains(
    function: Callable[..., PyTree], *inputs: PyTree, gains: Mapping[str, Float[Array, "layer neuron"]]
) -> PyTree:
    """Call a function in which tagged values are multiplied by gains; jit-safe, and differentiable in the gains.

    Args:
      function: any JAX function.
      inputs: its arguments.
      gains: for each tag one factor for every neuron of every layer, in the order of `read_tags`; 1 leaves alone.

    Raises:
      InputError: a tag is not there or where it cannot be changed, or its gains have another shape than its values.
    """
    gains = {name: jnp.asarray(values) for name, values in gains.items()}  # a scan's layers are traced numbers

    def visit(name: str, layer: Array | int, value: Array) -> tuple[Array, None]:
        _require_activations(name, value)
        require(
            value.shape[-1] == gains[name].shape[-1],
            f"The gains of tag {name!r} must have {value.shape[-1]} neurons, got {gains[name].shape}.",
        )
        of_layer = jnp.expand_dims(gains[name][layer].astype(value.dtype), range(value.ndim - 1))
        return value * of_layer, None

    program, flat, tree = _program(function, inputs)
    counts = _counts(program.jaxpr)
    for name, values in gains.items():
        _require_tags([name] if name in counts else [], name, counts)
        require(
            values.ndim == 2 and len(values) == counts[name],
            f"The gains of tag {name!r} must have shape ({counts[name]}, neurons), got {values.shape}.",
        )
    outputs, _ = _run(program.jaxpr, program.consts, flat, dict.fromkeys(gains, 0), visit)
    return jax.tree.unflatten(tree, outputs)


def _visited(function: Callable[..., PyTree], inputs: tuple, pattern: str, visit: Visit) -> tuple[PyTree, Read]:
    """The function's result with every matching tag visited, and what was read."""
    program, flat, tree = _program(function, inputs)
    counts = _counts(program.jaxpr)
    wanted = [name for name in counts if fnmatchcase(name, pattern)]
    _require_tags(wanted, pattern, counts)
    outputs, read = _run(program.jaxpr, program.consts, flat, dict.fromkeys(wanted, 0), visit)
    return jax.tree.unflatten(tree, outputs), read


def _program(function: Callable[..., PyTree], inputs: tuple) -> tuple[ClosedJaxpr, list[Array], Any]:
    """The function's program, its flat arguments, and the structure of its result."""
    flat, structure = jax.tree.flatten(inputs)

    def of_leaves(*leaves: Any) -> PyTree:
        return function(*jax.tree.unflatten(structure, leaves))

    program, shapes = jax.make_jaxpr(of_leaves, return_shape=True)(*flat)
    return program, flat, jax.tree.structure(shapes)


def _require_activations(name: str, value: Array) -> None:
    require(
        value.ndim >= 2 and jnp.issubdtype(value.dtype, jnp.floating),
        f"The tag {name!r} must name real numbers with axes (clip, any token axes, neuron), found {value.dtype} of "
        f"shape {value.shape}.",
    )


def _require_tags(found: Sequence[str], pattern: str, counts: Mapping[str, int]) -> None:
    nearest = sorted(counts, key=lambda name: -difflib.SequenceMatcher(None, name, pattern).ratio())
    require(bool(found), f"No tag matches {pattern!r}; the function has the tags: {', '.join(nearest) or 'none'}.")


def _counts(jaxpr: Jaxpr) -> dict[str, int]:
    """How many values of each tag a program has; of a loop those of all turns."""
    counts: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        counts.update(_counts_of(equation))
    return dict(counts)


def _counts_of(equation: JaxprEqn) -> dict[str, int]:
    if equation.primitive.name == "name":
        return {equation.params["name"]: 1}
    parts = [_counts(part) for part in jaxprs_in_params(equation.params)]
    turns = equation.params["length"] if equation.primitive.name == "scan" else 1
    # Of the sides of a cond one runs; custom derivatives hold their program once as a jaxpr.
    return {name: turns * max(part.get(name, 0) for part in parts) for part in parts for name in part}


def _run(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], first: dict[str, Array | int], visit: Visit
) -> tuple[list[Any], Read]:
    """Run a program, visiting its tags; `first` has the wanted tags with the number of each one's next value."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read: Read = {}
    for equation in jaxpr.eqns:
        operands = [one.val if isinstance(one, Literal) else values[one] for one in equation.invars]
        inside = {name: number for name, number in _counts_of(equation).items() if number and name in first}
        if inside:
            results, found = _enter(equation, operands, first, inside, visit)
            for name, parts in found.items():
                read.setdefault(name, []).extend(parts)
            first = first | {name: first[name] + number for name, number in inside.items()}
        else:
            bound = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
            results = bound if equation.primitive.multiple_results else [bound]
        values |= zip(equation.outvars, results, strict=True)
    return [one.val if isinstance(one, Literal) else values[one] for one in jaxpr.outvars], read


def _enter(
    equation: JaxprEqn, operands: list[Any], first: dict[str, Array | int], inside: dict[str, int], visit: Visit
) -> tuple[list[Any], Read]:
    """Run an equation that holds wanted tags."""
    name, params = equation.primitive.name, equation.params
    if name == "name":
        value, read = visit(params["name"], first[params["name"]], operands[0])
        return [value], {params["name"]: [jax.tree.map(lambda leaf: leaf[None], read)]}
    if name in ONCE:
        inner = params["jaxpr"] if name == "jit" else params["call_jaxpr"]
        return _run(inner.jaxpr, inner.consts, operands, first, visit)
    if name in ("remat2", "checkpoint"):
        again = functools.partial(_run, params["jaxpr"], (), first=first, visit=visit)
        kept = {"prevent_cse": params["prevent_cse"], "policy": params["policy"]}
        return jax.checkpoint(lambda *args: again(args), **kept)(*operands)
    if name == "scan":
        return _scan(params, operands, first, inside, visit)
    if name == "cond" and params.get("branches_platforms") is None:
        return _cond(params, operands, first, inside, visit)
    shown = ", ".join(map(repr, sorted(inside)))
    raise InputError(f"The tag {shown} is inside {name!r}, which cannot be entered: tag the value outside of it.")


def _scan(
    params: dict[str, Any], operands: list[Any], first: dict[str, Array | int], inside: dict[str, int], visit: Visit
) -> tuple[list[Any], Read]:
    """A scan, whose turns have layers of their own."""
    body, length, reverse = params["jaxpr"], params["length"], params["reverse"]
    consts, carried = params["num_consts"], params["num_consts"] + params["num_carry"]

    def turn(carry: list[Any], row: tuple[Array, list[Any]]) -> tuple[list[Any], tuple[list[Any], Read]]:
        number, xs = row
        of_turn = first | {name: first[name] + number * (inside[name] // length) for name in inside}
        outputs, read = _run(body.jaxpr, body.consts, [*operands[:consts], *carry, *xs], of_turn, visit)
        joined = {name: [_joined(parts)] for name, parts in read.items()}
        return outputs[: params["num_carry"]], (outputs[params["num_carry"] :], joined)

    rows = jnp.arange(length), operands[carried:]
    options = {"length": length, "reverse": reverse, "unroll": params["unroll"]}
    carry, (outputs, read) = jax.lax.scan(turn, operands[consts:carried], rows, **options)
    # (turn, layer of the turn, ...) -> (layer, ...)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), read)
    return [*carry, *outputs], flat


def _cond(
    params: dict[str, Any], operands: list[Any], first: dict[str, Array | int], inside: dict[str, int], visit: Visit
) -> tuple[list[Any], Read]:
    """A cond, each side of which must have the same tags."""
    for branch in params["branches"]:
        here = _counts(branch.jaxpr)
        lacking = [name for name, number in inside.items() if here.get(name, 0) != number]
        require(
            not lacking,
            f"The tag {', '.join(map(repr, lacking))} is on one side of a `cond` and not, or less often, on another: "
            f"tag the value behind it.",
        )
    index, *args = operands
    sides = [
        lambda *args, branch=branch: _run(branch.jaxpr, branch.consts, args, first, visit)
        for branch in params["branches"]
    ]
    return jax.lax.switch(index, sides, *args)


def _joined(parts: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _layers(name: str, parts: Sequence[Reading]) -> Reading:
    """Readings of (layer, clip, neuron) as one of (clip, layer, neuron)."""
    widths = {part.sum.shape[1:] for part in parts}
    require(len(widths) == 1, f"The tag {name!r} names values of different shapes (clip, neuron): {sorted(widths)}.")
    joined = _joined(parts)
    moved = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), joined)
    return moved.replace(tokens=joined.tokens[0])  # every layer has the same tokens
