"""Visits the values of neurons in any model, each with its layer and call."""

import difflib
import functools
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree

from jaxdissect.activations.tags import Number, Specs, joined_values, program_of, visit_program
from jaxdissect.encoder.models import PATH, Model, tagged_model
from jaxdissect.errors import require


@dataclass(frozen=True)
class Site:
    """Where a value of neurons comes from.

    Attributes:
      name: its path or tag.
      layer: number of the layer, counted over all names that match; traced inside a scan.
      layers: number of layers.
      call: number of the call: a model may run its layers several times, as for chunks of a long clip.
      spec: split of the value over devices inside a `shard_map`; None outside of one.
    """

    name: str
    layer: Array | int
    layers: int
    call: int
    spec: PartitionSpec | None


# What to do with a value (clip, any token axes, neuron): returns what takes its place, and what was read.
VisitSite: TypeAlias = Callable[[Site, Array], tuple[Array, PyTree]]


def visit_neurons(
    model: Model,
    variables: PyTree,
    *inputs: PyTree,
    neurons: str,
    visit: VisitSite,
    calls: int = 1,
    specs: Specs | None = None,
    **options: Any,
) -> tuple[PyTree, dict[str, list[PyTree]]]:
    """Call a model, and visit the values of its neurons; pure if `visit` is.

    Args:
      model, variables, inputs, options: parts of the call, as in `apply_model`.
      neurons: pattern of paths and tags, with the wildcards of `fnmatch`.
      visit: function that is called with each value, and whose result takes its place.
      calls: number of times that tagged layers run; for modules it follows from the program.
      specs: split of each value inside a `shard_map` over devices, by name.

    Returns:
      What the model returns; and for each name, in the order of the program, what was read in each call. This has a
      leading axis of layers: of length one for a single module, longer for modules and tags in a scan.

    Raises:
      InputError: no name matches, or one is where it cannot be visited.
    """
    called: list[str] = []
    run = functools.partial(tagged_model(model, neurons, called), **options)
    program = program_of(run, (variables, *inputs))
    sites = {name: found for name, found in program.sites.items() if found.values}  # not in a loop without a turn
    tags = [name for name in sites if fnmatchcase(name.removeprefix(PATH), neurons)]
    require_match(bool(tags), neurons, [*called, *(name for name in sites if not name.startswith(PATH))])
    both = [name for name in tags if PATH + name in tags]
    require(not both, f"{', '.join(both)} names a module and a tag: give the tag another name.")
    layers, widths = dict[str, int](), dict[str, tuple[int, ...]]()
    for name in tags:
        path, found, is_path = name.removeprefix(PATH), sites[name], name.startswith(PATH)
        times = found.places if is_path else calls  # a module that is called again, for another chunk, is one layer
        require(
            found.values % times == 0 and not (is_path and (found.repeated or len(found.each) > 1)),
            f"{path!r} has {found.values} values in {found.places} places of the program. Some may be layers, and "
            f"others repeated calls of a layer. Give each layer a tag of its own.",
        )
        # Under `nn.jit` Flax traces the first of several modules, and takes its program, with its path, for all.
        require(
            not (is_path and isinstance(model, nn.Module)) or called.count(path) >= found.places,
            f"{path!r} stands for {found.places} modules, which nn.jit has given one program: leave nn.jit out, and "
            f"compile the whole model.",
        )
        layers[name] = found.values // times
    first = dict(zip(tags, itertools.accumulate(layers.values(), initial=0), strict=False))

    def visit_value(name: str, number: Number, value: Array, spec: PartitionSpec | None) -> tuple[Array, PyTree]:
        width = widths.setdefault(name, value.shape[-1:])
        require(
            width == value.shape[-1:],
            f"The tag {name!r} names values whose last axes are {width} and {value.shape[-1:]}: tag them differently.",
        )
        layer = first[name] + number.all % layers[name]
        site = Site(name.removeprefix(PATH), layer, sum(layers.values()), number.outer // layers[name], spec)
        return visit(site, value)

    by_tag = {name: specs[name.removeprefix(PATH)] for name in tags if specs and name.removeprefix(PATH) in specs}
    output, read = visit_program(program, tags, visit_value, by_tag)
    # An OrderedDict, for JAX sorts the names of a dict that leaves a jitted function.
    return output, OrderedDict((name.removeprefix(PATH), _calls(read[name], layers[name])) for name in tags)


def require_match(matches: bool, pattern: str, names: Iterable[str]) -> None:
    """Refuse a pattern that no path or tag matches.

    Args:
      matches: whether one does.
      pattern: the pattern.
      names: the paths and tags that there are.

    Raises:
      InputError: none does.
    """
    nearest = sorted(set(names), key=lambda name: (-difflib.SequenceMatcher(None, name, pattern).ratio(), name))
    require(
        matches,
        f"No module or tag matches the pattern {pattern!r}; there are: {', '.join(filter(None, nearest)) or 'none'}."
        + (" A module is found where it is called." if pattern in nearest else ""),
    )


def _calls(parts: Sequence[PyTree], layers: int) -> list[PyTree]:
    """What was read in each place, joined to calls of so many layers."""
    calls, of_call, found = [], list[PyTree](), 0
    for part in parts:
        leaves = jax.tree.leaves(part)
        of_call.append(part)
        found += len(leaves[0]) if leaves else 0
        if found == layers:
            calls.append(joined_values(of_call))
            of_call, found = [], 0
    return calls
