"""Writing neurons: any model run with its activations changed, inside the caller's jit.

An intervention is data, not a hook: gains and offsets are traced arrays, so one compiled program serves every choice of
neurons, and `vmap` runs many of them at once. `activation -> gain * activation + offset` covers all kinds: gain 0
ablates, 0 to 1 attenuates, above 1 amplifies; gain 0 with the neuron's mean as its offset is mean ablation.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxdissect.activations.read import activations_of
from jaxdissect.activations.tags import Specs, local_part
from jaxdissect.activations.visit import Site, visit_neurons
from jaxdissect.encoder.models import Model
from jaxdissect.errors import require


def edit_neurons(
    model: Model,
    variables: PyTree,
    *inputs: PyTree,
    neurons: str,
    edit: Callable[[Site, Array], Array],
    **options: Any,
) -> PyTree:
    """Call a model with the values of some of its neurons replaced.

    Pure if `edit` is: call it inside your own `jit`, `vmap` or `grad`.

    Args:
      model, variables, inputs, options: parts of the call, as in `read_neurons`.
      neurons: pattern of paths and tags, as in `read_neurons`.
      edit: function called as `edit(site, value)` with each value that the pattern names, (clip, any token axes,
        neuron); its result takes the value's place. `site.layer` is in the order of `read_neurons`.

    Raises:
      InputError: nothing matches.
    """

    def visit(site: Site, value: Array) -> tuple[Array, None]:
        return edit(site, value), None

    return visit_neurons(model, variables, *inputs, neurons=neurons, visit=visit, **options)[0]


def run_with_gains(
    model: Model,
    variables: PyTree,
    *inputs: PyTree,
    neurons: str,
    gains: Float[Array | np.ndarray, "*clip layer neuron"],
    offsets: Float[Array | np.ndarray, "*clip layer neuron"] | None = None,
    vectors: bool = False,
    specs: Specs | None = None,
    **options: Any,
) -> PyTree:
    """Call a model with every neuron's activation `a` replaced by `gain * a + offset`.

    A gain of 0 equals zeroing the neuron's row in the linear layer that reads it. Pure, and traced in `gains` and
    `offsets`: use it inside your own `jit`; `vmap` over `gains` runs many interventions in one pass; the gradient with
    respect to a gain is activation x gradient, summed over tokens.

    Args:
      model, variables, inputs, options: parts of the call, as in `read_neurons`.
      neurons: pattern of paths and tags, as in `read_neurons`.
      gains: factor for every layer, in the order of `read_neurons`, and neuron; 1 leaves alone. With a clip axis in
        front, each clip has its own.
      offsets: summand for every layer and neuron, likewise; 0 leaves alone. Default: none.
      vectors: whether units are vectors, as in `read_neurons`; a gain then multiplies all parts of one, and offsets
        are refused.
      specs: as in `read_neurons`.

    Returns:
      What the model returns.

    Raises:
      InputError: nothing matches, or the axes do not fit: another number of layers, of neurons or of clips.
    """
    gains, offsets = jnp.asarray(gains), None if offsets is None else jnp.asarray(offsets)  # indexed by traced layers
    shape = gains.shape
    require(not jnp.iscomplexobj(gains), "Gains must be real numbers.")
    require(len(shape) in (2, 3), f"Gains must have the axes (layer, neuron) or (clip, layer, neuron), got {shape}.")
    require(offsets is None or not vectors, "Offsets must be left out for units that are vectors: give gains alone.")
    if offsets is not None:
        require(offsets.shape == shape, f"Offsets must have the axes of the gains, {shape}, got {offsets.shape}.")
    *clips, layers, _ = shape

    def require_fit(fits: bool, misfit: str) -> None:
        require(
            fits,
            f"Gains of the shape {shape} do not fit the neurons {neurons!r}: the model has {misfit}. Gains have the "
            f"axes (layer, neuron) or (clip, layer, neuron).",
        )

    def visit(site: Site, value: Array) -> tuple[Array, None]:
        require_fit(site.layers == layers, f"{site.layers} layers")
        units = activations_of(value, vectors, site.name).shape[-1]
        in_front = value.shape[: len(clips)]
        # How the axes (clip, unit) are split over devices: not at all, outside of a `shard_map`.
        split = (None, None) if site.spec is None else (site.spec[0], site.spec[-1])

        def of_layer(values: Array) -> Array:
            here = local_part(values[..., site.layer, :], split[1 - values.ndim :])
            require_fit(here.shape == (*in_front, units), f"a value {value.shape} in {site.name!r}")
            # One axis of length 1 for every token axis and for a vector's parts; and for clips that share a gain.
            ones = [1] * (value.ndim - 2 - vectors)
            return here.reshape(*(in_front or [1]), *ones, units, *[1] * vectors).astype(value.dtype)

        edited = value * of_layer(gains)
        return (edited if offsets is None else edited + of_layer(offsets)), None

    return visit_neurons(model, variables, *inputs, neurons=neurons, visit=visit, specs=specs, **options)[0]


def run_with_patch(
    model: Model,
    variables: PyTree,
    *inputs: PyTree,
    donors: Sequence[PyTree],
    neurons: str,
    patched: Bool[Array | np.ndarray, "layer neuron"],
    vectors: bool = False,
    **options: Any,
) -> PyTree:
    """Call a model with the activations of some neurons taken from another call of it, token by token.

    Pure, and traced in `patched`: `vmap` over it runs many choices at once, with a single pass of the donors.

    Source: activation patching, as of Vig et al., "Investigating Gender Bias in Language Models Using Causal Mediation
    Analysis" (NeurIPS 2020).

    Args:
      model, variables, inputs, options: parts of the call, as in `read_neurons`.
      donors: the inputs of the other call, of the same shapes: clip i gives its activations to clip i.
      neurons: pattern of paths and tags, as in `read_neurons`.
      patched: which neurons take the donor's activations, by layer in the order of `read_neurons`.
      vectors: units are vectors, as in `read_neurons`, of which all parts are taken.

    Returns:
      What the model returns for `inputs`.

    Raises:
      InputError: nothing matches, or the axes do not fit.
    """
    require(isinstance(donors, (list, tuple)), f"donors must be a list of inputs, got {type(donors).__name__}.")
    patched = jnp.asarray(patched, bool)
    named = {"neurons": neurons, **options}
    seen = visit_neurons(model, variables, *donors, visit=lambda _, value: (value, value), **named)[1]
    # Number of each name's first layer.
    first = dict(zip(seen, itertools.accumulate((len(calls[0]) for calls in seen.values()), initial=0), strict=False))

    def visit(site: Site, value: Array) -> tuple[Array, None]:
        donor = seen[site.name][site.call][site.layer - first[site.name]]
        units = activations_of(value, vectors, site.name).shape[-1]
        require(
            donor.shape == value.shape and patched.shape == (site.layers, units),
            f"The donors' values {donor.shape} and those of {site.name!r}, {value.shape}, must have one shape, and "
            f"`patched` must have the axes (layer, neuron) = {(site.layers, units)}, got {patched.shape}.",
        )
        takes = jnp.expand_dims(patched[site.layer], range(value.ndim - 1 - vectors))
        return jnp.where(jnp.expand_dims(takes, -1) if vectors else takes, donor, value), None

    return visit_neurons(model, variables, *inputs, visit=visit, **named)[0]
