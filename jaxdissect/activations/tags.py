"""Tags: named values of any JAX function, which are read and changed without a change of the function itself.

A tag is a name that `jax.ad_checkpoint.checkpoint_name` gives to a value: an identity that JAX keeps in the function's
program, its jaxpr. So existing functions can be read, such as MaxText's, which tag their MLPs. The program is run
again, operation by operation, inside the caller's own transformations. A part that holds a wanted tag is entered:
`jit`, `checkpoint`, `scan`, `shard_map`, every side of a `cond`, and custom derivatives. A part without one runs as it
is, with its derivatives and kernels.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxprs_in_params
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree

from jaxdissect.errors import InputError, require

# What was read of each tag: an entry for each place of it in the program, whose leaves have a leading axis of values.
Read: TypeAlias = dict[str, list[PyTree]]
Specs: TypeAlias = Mapping[str, PartitionSpec]
ONCE = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call")  # primitives that run the program inside them once


@dataclass(frozen=True)
class Sites:
    """Where a program has values of one tag.

    Attributes:
      places: number of times that the tag occurs in the program.
      values: number of its values when the program runs; a place in a loop has one in each turn.
      repeated: whether several places are in one loop.
      each: the numbers of values that single places have.
    """

    places: int
    values: int
    repeated: bool
    each: frozenset[int]


@dataclass(frozen=True)
class Number:
    """The number of values of a tag that came before a value.

    Attributes:
      outer: values before the outermost loop that holds the value; without a loop those before the value.
      all: all values before; traced inside a loop.
    """

    outer: int
    all: Array | int


Numbers: TypeAlias = Mapping[str, Number]  # by tag
# What to do with a value of a tag: `visit(name, number, value, spec) -> value, what was read`. The spec says how the
# value is split over devices, inside a `shard_map`; it is None outside of one.
Visit: TypeAlias = Callable[[str, Number, Array, PartitionSpec | None], tuple[Array, PyTree]]


@dataclass(frozen=True, eq=False)
class Program:
    """The program of a function, for inputs of given shapes.

    Attributes:
      closed: the program.
      inputs: its flat inputs.
      output: structure of the function's result.
      sites: where each tag is, in the order of the program.
    """

    closed: ClosedJaxpr
    inputs: Sequence[Any]
    output: Any
    sites: Mapping[str, Sites]


def program_of(function: Callable[..., PyTree], inputs: PyTree) -> Program:
    """Trace a function.

    Args:
      function: any JAX function.
      inputs: its arguments; what is no array in them, as a number or a function, is a constant of the program.
    """
    leaves, structure = jax.tree.flatten(inputs)
    traced = [isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves]

    def of_arrays(*arrays: Array) -> PyTree:
        rest = iter(arrays)
        given = [next(rest) if is_traced else leaf for leaf, is_traced in zip(leaves, traced, strict=True)]
        return function(*jax.tree.unflatten(structure, given))

    arrays = [jnp.asarray(leaf) for leaf, is_traced in zip(leaves, traced, strict=True) if is_traced]
    closed, shapes = jax.make_jaxpr(of_arrays, return_shape=True)(*arrays)
    return Program(closed, arrays, jax.tree.structure(shapes), _sites(closed.jaxpr))


def visit_program(
    program: Program, names: Collection[str], visit: Visit, specs: Specs | None = None
) -> tuple[PyTree, Read]:
    """Run a program, visiting tagged values; pure if `visit` is.

    Args:
      program: the program.
      names: tags to visit.
      visit: function that is called with each value of them, and whose result takes its place.
      specs: how the value of a tag inside a `shard_map` is split over devices.

    Returns:
      The function's result, and what was read of each tag.

    Raises:
      InputError: a tag is where it cannot be visited.
    """
    walk = _Walk(visit, specs or {})
    outputs, read = walk.run(
        program.closed.jaxpr, program.closed.consts, program.inputs, dict.fromkeys(names, Number(0, 0))
    )
    return jax.tree.unflatten(program.output, outputs), read


def _sites(jaxpr: Jaxpr) -> dict[str, Sites]:
    sites: dict[str, Sites] = {}
    for equation in jaxpr.eqns:
        for name, found in _sites_of(equation).items():
            before = sites.get(name, Sites(0, 0, False, frozenset()))
            places, values = before.places + found.places, before.values + found.values
            sites[name] = Sites(places, values, before.repeated or found.repeated, before.each | found.each)
    return sites


def _sites_of(equation: JaxprEqn) -> dict[str, Sites]:
    if equation.primitive.name == "name":
        return {equation.params["name"]: Sites(1, 1, False, frozenset([1]))}
    # Of the sides of a cond one runs; custom derivatives hold their program once as a jaxpr.
    sites: dict[str, Sites] = {}
    for part in jaxprs_in_params(equation.params):
        for name, found in _sites(part).items():
            sites[name] = max(found, sites.get(name, found), key=lambda one: one.values)
    if equation.primitive.name != "scan":
        return sites
    turns = equation.params["length"]
    in_turns = {}
    for name, found in sites.items():
        each = frozenset(turns * values for values in found.each)
        in_turns[name] = Sites(found.places, turns * found.values, found.repeated or found.places > 1, each)
    return in_turns


@dataclass(frozen=True)
class _Walk:
    """One run through a program; see `visit_program` for its attributes."""

    visit: Visit
    specs: Specs

    def run(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], before: Numbers) -> tuple[list[Any], Read]:
        """Run a program or a part of it; `before` has the wanted tags with the number of each one's next value."""
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
        read: Read = {}
        for equation in jaxpr.eqns:
            operands = [one.val if isinstance(one, Literal) else values[one] for one in equation.invars]
            inside = {name: found for name, found in _sites_of(equation).items() if found.values and name in before}
            with _context(equation):
                if inside:
                    results, found_here = self.enter(equation, operands, before, inside)
                    for name, parts in found_here.items():
                        read.setdefault(name, []).extend(parts)
                    before = {**before, **{name: _after(before[name], found.values) for name, found in inside.items()}}
                else:
                    bound = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
                    results = bound if equation.primitive.multiple_results else [bound]
            values |= zip(equation.outvars, results, strict=True)
        return [one.val if isinstance(one, Literal) else values[one] for one in jaxpr.outvars], read

    def enter(
        self, equation: JaxprEqn, operands: list[Any], before: Numbers, inside: Mapping[str, Sites]
    ) -> tuple[list[Any], Read]:
        """Run an equation that holds wanted tags."""
        name, params = equation.primitive.name, equation.params
        if name == "name":
            tag, spec = params["name"], self.specs.get(params["name"])
            require(
                spec is None or (len(spec) == operands[0].ndim and not any(spec[1:-1])),
                f"The spec of tag {tag!r} must have an entry for each axis (clip, any token axes, neuron), None for "
                f"tokens, got {spec} for the shape {operands[0].shape}.",
            )
            value, read = self.visit(tag, before[tag], operands[0], spec)
            return [value], {tag: [jax.tree.map(lambda leaf: leaf[None], read)]}
        if name in ONCE:
            inner = params["jaxpr"] if name == "jit" else params["call_jaxpr"]
            return self.run(inner.jaxpr, inner.consts, operands, before)
        if name in ("remat2", "checkpoint"):
            again = functools.partial(self.run, params["jaxpr"], (), before=before)
            kept = {"prevent_cse": params["prevent_cse"], "policy": params["policy"]}
            return jax.checkpoint(lambda *args: again(args), **kept)(*operands)
        if name == "scan":
            return self.scan(params, operands, before, inside)
        if name == "shard_map":
            return self.shard_map(params, operands, before, inside)
        if name == "cond" and params.get("branches_platforms") is None:
            return self.cond(params, operands, before, inside)
        shown = ", ".join(map(repr, sorted(inside)))
        raise InputError(f"The tag {shown} is inside {name!r}, which cannot be entered: tag the value outside of it.")

    def scan(
        self, params: dict[str, Any], operands: list[Any], before: Numbers, inside: Mapping[str, Sites]
    ) -> tuple[list[Any], Read]:
        """A scan, whose turns have values of their own."""
        body, length = params["jaxpr"], params["length"]
        consts, carried = params["num_consts"], params["num_consts"] + params["num_carry"]

        def turn(carry: list[Any], row: tuple[Array, list[Any]]) -> tuple[list[Any], tuple[list[Any], Read]]:
            number, xs = row
            in_turn = dict(before)
            for name, found in inside.items():
                begins = before[name].all + number * (found.values // length)
                in_turn[name] = Number(before[name].outer, begins)
            outputs, read = self.run(body.jaxpr, body.consts, [*operands[:consts], *carry, *xs], in_turn)
            joined = {name: [joined_values(parts)] for name, parts in read.items()}
            return outputs[: params["num_carry"]], (outputs[params["num_carry"] :], joined)

        rows = jnp.arange(length), operands[carried:]
        options = {"length": length, "reverse": params["reverse"], "unroll": params["unroll"]}
        carry, (outputs, read) = jax.lax.scan(turn, operands[consts:carried], rows, **options)
        # (turn, value of the turn, ...) -> (value, ...)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), read)
        return [*carry, *outputs], flat

    def cond(
        self, params: dict[str, Any], operands: list[Any], before: Numbers, inside: Mapping[str, Sites]
    ) -> tuple[list[Any], Read]:
        """A cond, each side of which must have the same tags."""
        for branch in params["branches"]:
            here = _sites(branch.jaxpr)
            lacking = [name for name, found in inside.items() if here.get(name) != found]
            require(
                not lacking,
                f"The tag {', '.join(map(repr, lacking))} must occur equally often on every side of a `cond`: tag the "
                f"value behind the `cond`.",
            )
        index, *args = operands
        sides = [
            lambda *args, branch=branch: self.run(branch.jaxpr, branch.consts, args, before)
            for branch in params["branches"]
        ]
        return jax.lax.switch(index, sides, *args)

    def shard_map(
        self, params: dict[str, Any], operands: list[Any], before: Numbers, inside: Mapping[str, Sites]
    ) -> tuple[list[Any], Read]:
        """A shard_map, inside which every device has a part of each value."""
        for name in inside:
            require(
                name in self.specs,
                f"The tag {name!r} is inside a `shard_map`, where it is a part of a value: say how the value is split "
                f"over devices, as specs={{{name!r}: PartitionSpec('data', None, 'model')}}.",
            )
        # Traced numbers of layers go in as arguments: a body cannot hold what is traced outside of it.
        numbers = {name: before[name].all for name in inside if not isinstance(before[name].all, int)}
        read_specs: Read = {}

        def body(numbers: Mapping[str, Array | int], *args: Any) -> tuple[list[Any], Read]:
            here = {name: Number(before[name].outer, numbers.get(name, before[name].all)) for name in inside}
            outputs, read = self.run(params["jaxpr"], (), args, here)
            for name, parts in read.items():
                layout = functools.partial(_spec_of, self.specs[name])
                read_specs[name] = [jax.tree.map(layout, part) for part in parts]
            return outputs, read

        # The name of this parameter depends on the version of JAX.
        manual = params["newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"]
        options = {"mesh": params["mesh"], "axis_names": set(manual), "check_vma": params["check_vma"]}
        options["in_specs"] = (PartitionSpec(), *params["in_specs"])
        # The first pass only finds out what the visits read.
        probe = jax.shard_map(lambda *args: (body(*args), ())[1], out_specs=(), **options)
        jax.eval_shape(probe, numbers, *operands)
        out_specs = (list(params["out_specs"]), read_specs)
        return jax.shard_map(body, out_specs=out_specs, **options)(numbers, *operands)


def joined_values(parts: Sequence[PyTree]) -> PyTree:
    """What was read in several places, along the leading axis of values."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def local_part(values: Array, spec: Sequence[Any]) -> Array:
    """The part of an array that a device has inside a `shard_map`.

    Args:
      values: the whole array.
      spec: for each axis the mesh axes that it is split over, or None; as the entries of a PartitionSpec.
    """
    for axis, mesh_axes in enumerate(spec):
        if mesh_axes is not None:
            size = values.shape[axis] // jax.lax.axis_size(mesh_axes)
            values = jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(mesh_axes) * size, size, axis)
    return values


def _spec_of(spec: PartitionSpec, leaf: Array) -> PartitionSpec:
    """The layout of what was read of a value that is split as `spec` says."""
    axes = leaf.ndim - 1  # behind that of the values
    if axes == len(spec):
        return PartitionSpec(None, *spec)
    return PartitionSpec(None, spec[0]) if axes == 1 else PartitionSpec(None, spec[0], spec[-1])


def _after(number: Number, values: int) -> Number:
    """The number behind so many more values."""
    outer = number.outer + values if isinstance(number.all, int) else number.outer
    return Number(outer, number.all + values)


@contextlib.contextmanager
def _context(equation: JaxprEqn) -> Iterator[None]:
    """What the operation was traced under: its mesh and configuration, and its name in profiles."""
    scope = str(equation.source_info.name_stack)
    with equation.ctx.manager, jax.named_scope(scope) if scope else contextlib.nullcontext():
        yield
