"""Reading neurons: outputs of chosen modules of any Linen model, reduced over tokens inside the caller's jit."""

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Bool, Float, PyTree

from jaxdissect.activations.token_sums import token_sums
from jaxdissect.encoder.protocol import Variables
from jaxdissect.errors import require
from jaxdissect.types import Record

EXACT_FLOAT32 = 2**24  # every whole number up to this is a float32


@flax.struct.dataclass
class Reading:
    """What neurons did on each clip, reduced over the clip's tokens.

    A pytree, so its fields are typed loosely: transformations fill it with what is no array. After `stack_layers` the
    fields of neurons have the axes (clip, layer, neuron).

    Attributes:
      tokens: number of tokens read; int32 (clip).
      active_tokens: number of tokens at which the activation was above the threshold; exact; int32 (clip, neuron).
      sum, sum_squares: sum of the activation, and of its square, over the tokens read; float32 (clip, neuron).
      excess: sum over the tokens read of what the activation exceeds the threshold by, 0 where it does not; float32
        (clip, neuron).
      maximum: largest activation of the tokens read, -inf where none was; float32 (clip, neuron).
    """

    tokens: PyTree
    active_tokens: PyTree
    sum: PyTree
    sum_squares: PyTree
    excess: PyTree
    maximum: PyTree


def read_neurons(
    module: nn.Module,
    variables: Variables,
    *inputs: PyTree,
    neurons: str,
    masks: Sequence[Bool[Array, "clip ..."]] | None = None,
    threshold: float = 0.0,
    **options: Any,
) -> tuple[PyTree, dict[str, Reading]]:
    """Run a Linen module and read the outputs of some of its submodules, reduced over tokens.

    Pure: call it inside your own `jit`, `vmap` or `shard_map`. The activations are reduced in the same compiled
    program, so memory does not grow with the depth of the module.

    Args:
      module, variables, inputs, options: parts of the call `module.apply(variables, *inputs, **options)`.
      neurons: pattern of module paths joined by "/", with the wildcards of `fnmatch`: "blocks_*/mlp/act". The
        output of a module it matches has shape (clip, any token axes, neuron); modules under `nn.scan`, whose
        outputs have the layers in front, cannot be read.
      masks: tokens to read, shape (clip, the token axes); one mask for each call of a module, since a module
        may be called several times in one pass. Default: every token.
      threshold: activation above which a neuron is active.

    Returns:
      What `module.apply` returns, and a `Reading` per module path, in the order in which the modules were called.

    Raises:
      InputError: no module matches, an output is no array of clips or has no token, or the masks do not fit.
    """
    mutable = options.pop("mutable", False)
    require(mutable is not True, "mutable=True would keep every module's activations: name the collections to update.")
    kept = [mutable] if isinstance(mutable, str) else list(mutable or ())
    output, changed, outputs = _capture(module, variables, inputs, options, neurons, kept)
    # The first array given has the clips in front; without any, the outputs alone say how many there are.
    arrays = [leaf for leaf in jax.tree.leaves((inputs, options)) if jnp.ndim(leaf)]
    clips = jnp.shape(arrays[0])[:1] if arrays else None
    readings = {}
    for path, calls in outputs.items():
        _check(path, calls, clips, masks)
        of_calls = zip(calls, masks or itertools.repeat(None), strict=False)
        with jax.named_scope("counting"):
            readings[path] = functools.reduce(_merge, [reduce_tokens(call, mask, threshold) for call, mask in of_calls])
    if mutable:
        return (output, {name: changed[name] for name in changed if name in kept}), readings
    return output, readings


def capture_neurons(
    module: nn.Module, variables: Variables, *inputs: PyTree, neurons: str, **options: Any
) -> dict[str, tuple[Array, ...]]:
    """The activations themselves, of every token; much larger than what `read_neurons` makes of them.

    Args:
      module, variables, inputs, options: parts of the call `module.apply(variables, *inputs, **options)`.
      neurons: pattern of module paths, as in `read_neurons`.

    Returns:
      The outputs (clip, any token axes, neuron) of every call of each module, in the order in which they were called.

    Raises:
      InputError: no module matches.
    """
    return _capture(module, variables, inputs, options, neurons, [])[2]


def stack_layers(readings: Mapping[str, Reading]) -> Reading:
    """Readings of equally wide modules as one, with axes (clip, layer, neuron).

    Args:
      readings: readings by module path, as `read_neurons` returns them; the layers are in their order.

    Raises:
      InputError: modules differ in their number of neurons.
    """
    widths = {path: reading.sum.shape[-1] for path, reading in readings.items()}
    require(
        len(set(widths.values())) == 1,
        f"Layers can only be stacked if they have equally many neurons, got {widths}.",
    )
    layers = list(readings.values())
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *layers)
    return stacked.replace(tokens=layers[0].tokens)  # every layer has the same tokens


def require_match(matches: bool, pattern: str, called: Iterable[str]) -> None:
    """Refuse a pattern of module paths that no called module matches.

    Raises:
      InputError: no module matches.
    """
    require(
        matches,
        f"No module matches the pattern {pattern!r}; the modules called were: "
        f"{', '.join(sorted(set(called))) or 'none'}.",
    )


def _capture(
    module: nn.Module, variables: Variables, inputs: tuple, options: Record, neurons: str, kept: list[str]
) -> tuple[PyTree, Variables, dict[str, tuple[Array, ...]]]:
    """The module's result, the collections that it changed, and the outputs of the modules that match."""
    called: list[str] = []

    def matches(submodule: nn.Module, method: str) -> bool:
        if method != "__call__":
            return False
        called.append("/".join(submodule.path))
        return fnmatchcase(called[-1], neurons)

    # Intermediates that the caller hands in would be returned beside those of this pass.
    variables = {name: collection for name, collection in variables.items() if name != "intermediates"}
    recorded = [*kept, "intermediates"]
    # Only the outputs wanted are kept, so that the compiler can drop all others.
    output, changed = module.apply(variables, *inputs, capture_intermediates=matches, mutable=recorded, **options)
    # Modules may also `sow` into the collection: only outputs of `__call__` are wanted.
    outputs = {
        "/".join(path[:-1]): calls
        for path, calls in flatten_dict(changed.get("intermediates", {})).items()
        if path[-1] == "__call__" and fnmatchcase("/".join(path[:-1]), neurons)
    }
    require_match(bool(outputs), neurons, called)
    # Flax sorts by name, so that relu_10 comes before relu_2; the layers are in the order of the calls.
    return output, changed, {path: outputs[path] for path in sorted(outputs, key=called.index)}


def _check(
    path: str, calls: Sequence[PyTree], clips: tuple[int, ...] | None, masks: Sequence[Bool[Array, "clip ..."]] | None
) -> None:
    """Refuse outputs that are no activations of clips, and masks that do not fit them."""
    for call in calls:
        shape = getattr(call, "shape", None)
        require(
            shape is not None and len(shape) >= 2 and clips in (None, shape[:1]),
            f"The output of {path!r} must be an array (clip, any token axes, neuron) of {clips} clips, found "
            f"{type(call).__name__ if shape is None else shape}.",
        )
        require(
            math.prod(call.shape[1:-1]) > 0,
            f"The output of {path!r} has no token: the clips are too short for the encoder: choose a longer unit "
            f"length.",
        )
    shapes = [call.shape[:-1] for call in calls]
    given = shapes if masks is None else [mask.shape for mask in masks]
    require(
        given == shapes,
        f"The masks must have the shapes of the outputs of {path!r} without their last axis, {shapes}, got {given}. "
        f"An encoder's masks come from its token_layout.",
    )


def reduce_tokens(
    activation: Float[Array, "clip *token neuron"], mask: Bool[Array, "clip *token"] | None, threshold: float
) -> Reading:
    """One call's activations, reduced over the tokens of its mask; None: over all."""
    token_axes = tuple(range(1, activation.ndim - 1))
    per_clip = math.prod(activation.shape[1:-1])
    require(per_clip < EXACT_FLOAT32, f"A float32 count is exact below 2**24 tokens a clip, got {per_clip}.")
    if mask is None:
        tokens = jnp.full(len(activation), per_clip, jnp.int32)
    else:
        tokens = mask.sum(axis=token_axes, dtype=jnp.int32)
    active, total, squares, excess, maximum = token_sums(activation, mask, threshold)
    return Reading(tokens, active.astype(jnp.int32), total, squares, excess, maximum)


def _merge(first: Reading, second: Reading) -> Reading:
    """The reading of the tokens of two calls."""
    added = jax.tree.map(jnp.add, first, second)
    return added.replace(maximum=jnp.maximum(first.maximum, second.maximum))
