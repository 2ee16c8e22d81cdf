"""Reading neurons: what chosen modules of any Linen model put out, reduced over tokens inside the caller's jit."""

import itertools
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Bool, Float

from jaxdissect.errors import InputError


@flax.struct.dataclass
class Reading:
    """What neurons did on each clip, reduced over the clip's tokens.

    A pytree, so its fields are typed loosely: transformations fill it with what is no array. What is of each neuron has
    the axes (clip, layer, neuron) after `stack_layers`.

    Attributes:
      tokens: tokens read; int32 (clip).
      active_tokens: tokens at which the activation was above the threshold; exact; int32 (clip, neuron).
      sum, sum_squares: of the activation over the tokens read; float32 (clip, neuron).
      maximum: of the activation over the tokens read, -inf where none was; float32 (clip, neuron).
    """

    tokens: Any
    active_tokens: Any
    sum: Any
    sum_squares: Any
    maximum: Any


def read_neurons(
    module: nn.Module,
    variables: Mapping[str, Any],
    *inputs: Any,
    neurons: str,
    masks: Sequence[Bool[Array, "clip ..."]] | None = None,
    threshold: float = 0.0,
    **options: Any,
) -> tuple[Any, dict[str, Reading]]:
    """Run a Linen module and read the outputs of some of its submodules, reduced over tokens.

    Pure: call it inside your own `jit`, `vmap` or `shard_map`. The activations are reduced in the same compiled
    program, so memory does not grow with the depth of the module.

    Args:
      module, variables, inputs, options: run as `module.apply(variables, *inputs, **options)`.
      neurons: pattern of module paths joined by "/", with the wildcards of `fnmatch`: "blocks_*/mlp/act". The
        output of a module it matches has shape (clip, any token axes, neuron); modules under `nn.scan`, whose
        outputs have the layers in front, cannot be read.
      masks: the tokens to read, shape (clip, the token axes); one mask for each call of a module, since a module
        may be called several times in one pass. Default: every token.
      threshold: a neuron is active where its output is above this.

    Returns:
      What `module.apply` returns, and a `Reading` per module path, in the order in which the modules were called.

    Raises:
      InputError: no module matches, an output is no array of clips or has no token, or the masks do not fit.
    """
    mutable = options.pop("mutable", False)
    if mutable is True:
        raise InputError("mutable=True would keep the activations of every module: name the collections to update.")
    kept = [mutable] if isinstance(mutable, str) else list(mutable or ())
    output, changed, outputs = _capture(module, variables, inputs, options, neurons, kept)
    arrays = [leaf for leaf in jax.tree.leaves((inputs, options)) if jnp.ndim(leaf)]
    clips = jnp.shape(arrays[0])[:1] if arrays else None
    readings = {path: _read(path, calls, clips, masks, threshold) for path, calls in outputs.items()}
    if mutable:
        return (output, {name: changed[name] for name in changed if name in kept}), readings
    return output, readings


def capture_neurons(
    module: nn.Module, variables: Mapping[str, Any], *inputs: Any, neurons: str, **options: Any
) -> dict[str, tuple[Array, ...]]:
    """The activations themselves, of every token; much larger than what `read_neurons` makes of them.

    Args:
      module, variables, inputs, options: run as `module.apply(variables, *inputs, **options)`.
      neurons: pattern of module paths, as in `read_neurons`.

    Returns:
      The outputs (clip, any token axes, neuron) of every call of each module, in the order in which they were called.

    Raises:
      InputError: no module matches.
    """
    return _capture(module, variables, inputs, options, neurons, [])[2]


def _capture(
    module: nn.Module, variables: Mapping[str, Any], inputs: Any, options: Any, neurons: str, kept: list[str]
) -> tuple[Any, Any, dict[str, Any]]:
    """What the module returns, the collections that it changed, and the outputs of the modules that match."""
    called: list[str] = []

    def wanted(submodule: nn.Module, method: str) -> bool:
        if method != "__call__":
            return False
        called.append("/".join(submodule.path))
        return fnmatchcase(called[-1], neurons)

    output, changed = module.apply(
        {name: collection for name, collection in variables.items() if name != "intermediates"},
        *inputs,
        capture_intermediates=wanted,
        mutable=[*kept, "intermediates"],
        **options,
    )
    outputs = {
        "/".join(path[:-1]): calls
        for path, calls in flatten_dict(changed.get("intermediates", {})).items()
        if path[-1] == "__call__" and fnmatchcase("/".join(path[:-1]), neurons)
    }
    if not outputs:
        raise InputError(
            f"No module matches the pattern {neurons!r}; the modules called were: "
            f"{', '.join(sorted(set(called))) or 'none'}."
        )
    return output, changed, {path: outputs[path] for path in sorted(outputs, key=called.index)}


def stack_layers(readings: Mapping[str, Reading]) -> Reading:
    """Readings of equally wide modules as one, with axes (clip, layer, neuron).

    Args:
      readings: by module path, as `read_neurons` returns them; the layers are in their order.

    Raises:
      InputError: modules differ in their number of neurons.
    """
    widths = {path: reading.sum.shape[-1] for path, reading in readings.items()}
    if len(set(widths.values())) != 1:
        raise InputError(f"Layers can only be stacked if they have equally many neurons, got {widths}.")
    parts = list(readings.values())

    def stacked(name: str) -> Array:
        return jnp.stack([getattr(part, name) for part in parts], axis=1)

    return Reading(
        tokens=parts[0].tokens,
        active_tokens=stacked("active_tokens"),
        sum=stacked("sum"),
        sum_squares=stacked("sum_squares"),
        maximum=stacked("maximum"),
    )


def _read(
    path: str, calls: Sequence[Any], clips: tuple[int, ...] | None, masks: Sequence[Array] | None, threshold: float
) -> Reading:
    for call in calls:
        if not hasattr(call, "shape") or call.ndim < 2 or (clips and call.shape[:1] != clips):
            raise InputError(
                f"The output of {path!r} must be an array (clip, any token axes, neuron) of {clips} clips, found "
                f"{getattr(call, 'shape', type(call).__name__)}."
            )
        if not math.prod(call.shape[1:-1]):
            raise InputError(
                f"The output of {path!r} has no token: the clips are too short for the encoder: choose a longer unit "
                f"length."
            )
    if masks is not None and [mask.shape for mask in masks] != [call.shape[:-1] for call in calls]:
        raise InputError(
            f"The masks must have the shapes of the outputs of {path!r} without their last axis, "
            f"{[call.shape[:-1] for call in calls]}, got {[mask.shape for mask in masks]}. "
            f"An encoder's masks come from its token_layout."
        )
    readings = [
        _reduce(call, mask, threshold) for call, mask in zip(calls, masks or itertools.repeat(None), strict=False)
    ]
    total = readings[0]
    for reading in readings[1:]:
        total = Reading(
            tokens=total.tokens + reading.tokens,
            active_tokens=total.active_tokens + reading.active_tokens,
            sum=total.sum + reading.sum,
            sum_squares=total.sum_squares + reading.sum_squares,
            maximum=jnp.maximum(total.maximum, reading.maximum),
        )
    return total


def _reduce(
    activation: Float[Array, "clip *token neuron"], mask: Bool[Array, "clip *token"] | None, threshold: float
) -> Reading:
    tokens = tuple(range(1, activation.ndim - 1))
    per_clip = math.prod(activation.shape[1:-1])
    if per_clip >= 2**24:
        raise InputError(f"A float32 count is exact below 2**24 tokens a clip, got {per_clip}.")
    active = activation > threshold
    activation = activation.astype(jnp.float32)
    if mask is None:
        counted = jnp.full(len(activation), per_clip, jnp.int32)
        kept, highest = activation, activation
    else:
        counted = mask.sum(axis=tokens, dtype=jnp.int32)
        active &= mask[..., None]
        kept = jnp.where(mask[..., None], activation, 0.0)  # not a product, which would keep a NaN
        highest = jnp.where(mask[..., None], activation, -jnp.inf)
    return Reading(
        tokens=counted,
        active_tokens=active.astype(jnp.float32).sum(axis=tokens).astype(jnp.int32),  # 4x an integer sum's speed on CPU
        sum=kept.sum(axis=tokens),
        sum_squares=jnp.square(kept).sum(axis=tokens),
        maximum=highest.max(axis=tokens),
    )
