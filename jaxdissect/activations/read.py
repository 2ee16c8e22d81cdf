"""Reading neurons: activations of any model, reduced over tokens inside the caller's jit."""

import functools
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxdissect.activations.tags import Specs, local_part
from jaxdissect.activations.token_sums import token_sums
from jaxdissect.activations.visit import Site, visit_neurons
from jaxdissect.encoder.models import Model
from jaxdissect.errors import require

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
    model: Model,
    variables: PyTree,
    *inputs: PyTree,
    neurons: str,
    masks: Sequence[Bool[Array | np.ndarray, "clip ..."]] | None = None,
    threshold: float = 0.0,
    vectors: bool = False,
    specs: Specs | None = None,
    **options: Any,
) -> tuple[PyTree, dict[str, Reading]]:
    """Call a model and read its neurons, reduced over tokens.

    Pure: call it inside your own `jit`, `vmap`, `grad` or `shard_map`. The activations are reduced in the same compiled
    program, and inside of scans, so memory does not grow with the depth of the model.

    Args:
      model: a Flax Linen module, a Flax NNX module, or any function.
      variables: what the model is called with first: of a Linen module its variables, of an NNX module its state.
      inputs, options: the rest of the call.
      neurons: pattern of module paths joined by "/", or of tags (see `tag`), with the wildcards of `fnmatch`:
        "blocks_*/mlp/act". The values have the axes (clip, any token axes, neuron).
      masks: tokens to read, shape (clip, the token axes); one mask for each time that the layers run. If tagged layers
        run several times, the number of masks says how often. Default: every token.
      threshold: activation above which a neuron is active.
      vectors: whether the values have one more axis at the end, of parts, as those of attention heads; a unit's
        activation is then the norm of its vector.
      specs: split of each value inside a `shard_map` over devices, by name.

    Returns:
      What the model returns, and a `Reading` for each path and tag, in the order of the program. A reading of several
      layers, as in a scan, has the axes (clip, layer, neuron).

    Raises:
      InputError: nothing matches, a value is no array of clips or has no token, or the masks do not fit.
    """
    # The first array given has the clips in front; without any, the values alone say how many there are.
    arrays = [leaf for leaf in jax.tree.leaves((inputs, options)) if jnp.ndim(leaf)]
    clips = jnp.shape(arrays[0])[:1] if arrays else None

    sizes: dict[tuple[str, int], tuple[int, int]] = {}

    def visit(site: Site, value: Array) -> tuple[Array, Reading]:
        activation = activations_of(value, vectors, site.name)
        _check(site, activation, clips)
        size = math.prod(activation.shape[1:-1]), activation.shape[-1]
        require(
            sizes.setdefault((site.name, site.call), size) == size,
            f"The layers of {site.name!r} differ in their tokens or units, {sizes[site.name, site.call]} and {size}: "
            f"give them different names.",
        )
        with jax.named_scope("counting"):
            return value, reduce_tokens(activation, _mask(site, activation, masks), threshold)

    require(math.isfinite(threshold), f"threshold must be a finite number, got {threshold}.")
    given = masks is None or isinstance(masks, (list, tuple))
    require(given, f"masks must be a list, one mask for each call of the layers, got {type(masks).__name__}.")
    require(masks is None or len(masks) > 0, "masks must have a mask for each call of the layers, got none.")
    for mask in masks or ():
        kind = str(getattr(mask, "dtype", type(mask).__name__))
        require(kind == "bool", f"Masks must be arrays of booleans, True for a token that is read, got {kind}.")
    calls = 1 if masks is None else len(masks)
    output, read = visit_neurons(
        model, variables, *inputs, neurons=neurons, visit=visit, calls=calls, specs=specs, **options
    )
    for name, of_name in read.items():
        _require_masks(name, masks is None or len(of_name) == calls, masks or (), f"there are {len(of_name)} calls")
    return output, OrderedDict((name, _reading(functools.reduce(_merge, calls))) for name, calls in read.items())


def capture_neurons(
    model: Model, variables: PyTree, *inputs: PyTree, neurons: str, vectors: bool = False, **options: Any
) -> list[tuple[Float[Array, "clip *token neuron"], ...]]:
    """The activations of every token; they take much more memory than the result of `read_neurons`.

    Args:
      model, variables, inputs, neurons, vectors, options: as in `read_neurons`.

    Returns:
      For each layer its activations in each call, in the order in which they were computed.

    Raises:
      InputError: nothing matches.
    """

    def visit(site: Site, value: Array) -> tuple[Array, Array]:
        return value, activations_of(value, vectors, site.name)

    read = visit_neurons(model, variables, *inputs, neurons=neurons, visit=visit, **options)[1]
    # (layer, clip, ...) for each call of each name
    return [layer for calls in read.values() for layer in zip(*calls, strict=True)]


def stack_layers(readings: Mapping[str, Reading]) -> Reading:
    """Readings of equally wide layers as one, with axes (clip, layer, neuron).

    Args:
      readings: readings by name, as `read_neurons` returns them; the layers are in their order.

    Raises:
      InputError: layers differ in their number of neurons or, outside of a jitted function, of tokens.
    """
    widths = {path: reading.sum.shape[-1] for path, reading in readings.items()}
    require(
        len(set(widths.values())) == 1,
        f"Layers can only be stacked if they have equally many neurons, got {widths}.",
    )
    counted = [reading.tokens for reading in readings.values() if not isinstance(reading.tokens, jax.core.Tracer)]
    require(
        all(np.array_equal(counted[0], tokens) for tokens in counted[1:]),
        "Layers can only be stacked if they have equally many tokens.",
    )
    return jax.tree.map(_along_layers, *readings.values())


def activations_of(value: Array, vectors: bool, name: str) -> Float[Array, "clip *token neuron"]:
    """Activations, from the value that is named: the value itself, or the norms of its vectors.

    Args:
      value: the value; with `vectors` it has a last axis of parts.
      vectors: whether a unit's activation is a vector.
      name: its name, for the message.

    Raises:
      InputError: the value is not real, or has too few axes.
    """
    require(
        value.ndim >= 2 + vectors and jnp.issubdtype(value.dtype, jnp.floating),
        f"The output of {name!r} must be an array of real numbers (clip, any token axes, "
        f"{'unit, part' if vectors else 'neuron'}), found {value.dtype} of shape {value.shape}.",
    )
    if not vectors:
        return value
    squares = jnp.square(value.astype(jnp.float32)).sum(axis=-1)
    is_zero = squares == 0  # where the slope of the root has no number
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squares)))


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


def _check(site: Site, activation: Array, clips: tuple[int, ...] | None) -> None:
    """Refuse activations that are not of clips, or have no token."""
    require(
        site.spec is not None or clips in (None, activation.shape[:1]),
        f"The output of {site.name!r} must be an array (clip, any token axes, neuron) of {clips} clips, found "
        f"{activation.shape}. Under vmap, jaxdissect.tag puts the clips in front, which checkpoint_name does not.",
    )
    require(
        math.prod(activation.shape[1:-1]) > 0,
        f"The output of {site.name!r} has no token: the clips are too short for the encoder: choose a longer unit "
        f"length.",
    )


def _mask(
    site: Site, activation: Array, masks: Sequence[Bool[Array | np.ndarray, "_ ..."]] | None
) -> Bool[Array, "clip *token"] | None:
    """The mask of a call."""
    if masks is None:
        return None
    _require_masks(site.name, site.call < len(masks), masks, f"call {site.call} has the shape {activation.shape[:-1]}")
    mask = jnp.asarray(masks[site.call])
    if site.spec is not None:
        mask = local_part(mask, site.spec[:-1])
    _require_masks(
        site.name, mask.shape == activation.shape[:-1], masks, f"call {site.call} has {activation.shape[:-1]}"
    )
    return mask


def _require_masks(name: str, fits: bool, masks: Sequence[Bool[Array | np.ndarray, "clip ..."]], found: str) -> None:
    require(
        fits,
        f"The masks must have the shapes of the outputs of {name!r} without their last axis: {found}, and the masks "
        f"have {[mask.shape for mask in masks]}. An encoder's masks come from its token_layout.",
    )


def _merge(first: Reading, second: Reading) -> Reading:
    """The reading of the tokens of two calls."""
    added = jax.tree.map(jnp.add, first, second)
    return added.replace(maximum=jnp.maximum(first.maximum, second.maximum))


def _reading(layers: Reading) -> Reading:
    """A reading of (layer, clip, ...) as one of (clip, layer, ...); of a single layer without the axis."""
    if len(layers.sum) == 1:
        return jax.tree.map(lambda leaf: leaf[0], layers)
    moved = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), layers)
    return moved.replace(tokens=layers.tokens[0])  # every layer has the same tokens


def _along_layers(*leaves: Array) -> Array:
    """Leaves of readings, (clip, neuron) or (clip, layer, neuron), along the axis of layers."""
    if leaves[0].ndim == 1:
        return leaves[0]  # every layer has the same tokens
    return jnp.concatenate([leaf[:, None] if leaf.ndim == 2 else leaf for leaf in leaves], axis=1)
