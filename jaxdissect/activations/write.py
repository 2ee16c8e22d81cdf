"""Writing neurons: any Linen module run with the outputs of chosen submodules changed, inside the caller's jit.

An intervention is data, not a hook: gains and offsets are traced arrays, so one compiled program serves every choice of
neurons, and `vmap` runs many of them at once. `activation -> gain * activation + offset` covers all kinds: gain 0
ablates, 0 to 1 attenuates, above 1 amplifies; gain 0 with the neuron's mean as its offset is mean ablation.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, PyTree

from jaxdissect.activations.read import require_match
from jaxdissect.encoder.protocol import Variables
from jaxdissect.errors import require
from jaxdissect.types import Record


def edit_neurons(
    module: nn.Module,
    variables: Variables,
    *inputs: PyTree,
    neurons: str,
    edit: Callable[[int, Array], Array],
    **options: Any,
) -> tuple[PyTree, int]:
    """Run a Linen module with the outputs of some of its submodules replaced.

    Pure if `edit` is: call it inside your own `jit`, `vmap` or `grad`. (An interceptor entered around a function that
    is compiled already would silently do nothing.)

    Args:
      module, variables, inputs, options: parts of the call `module.apply(variables, *inputs, **options)`.
      neurons: pattern of module paths, as in `read_neurons`.
      edit: function called as `edit(layer, activation)` with the output (clip, any token axes, neuron) of a module that
        the pattern matches; its result takes the output's place. Layers are counted in the order in which their
        modules are first called, as `read_neurons` lists them.

    Returns:
      What `module.apply` returns, and the number of layers.

    Raises:
      InputError: no module matches.
    """
    called: list[str] = []
    layers: dict[str, int] = {}

    def intercept(run: Callable, args: tuple, kwargs: Record, context: nn.module.InterceptorContext) -> PyTree:
        output = run(*args, **kwargs)
        if context.method_name != "__call__":
            return output
        called.append("/".join(context.module.path))
        if not fnmatchcase(called[-1], neurons):
            return output
        # A module called again, for another chunk, keeps the number of its first call.
        return edit(layers.setdefault(called[-1], len(layers)), output)

    with nn.intercept_methods(intercept):
        output = module.apply(variables, *inputs, **options)
    require_match(bool(layers), neurons, called)
    return output, len(layers)


def run_with_gains(
    module: nn.Module,
    variables: Variables,
    *inputs: PyTree,
    neurons: str,
    gains: Float[Array, "*clip layer neuron"],
    offsets: Float[Array, "*clip layer neuron"] | None = None,
    **options: Any,
) -> PyTree:
    """Run any Linen module with every neuron's activation `a` replaced by `gain * a + offset`.

    A gain of 0 equals zeroing the neuron's row in the linear layer that reads it. Pure, and traced in `gains` and
    `offsets`: use it inside your own `jit`; `vmap` over `gains` runs many interventions in one pass; the gradient with
    respect to a gain is activation x gradient, summed over tokens.

    Args:
      module, variables, inputs, options: parts of the call `module.apply(variables, *inputs, **options)`.
      neurons: pattern of module paths, as in `read_neurons`; outputs have the axes (clip, any token axes, neuron).
      gains: factor for every layer, counted in the order of calls, and neuron; 1 leaves alone. With a clip axis in
        front, each clip has its own.
      offsets: summand for every layer and neuron, likewise; 0 leaves alone. Default: none.

    Returns:
      What `module.apply` returns.

    Raises:
      InputError: no module matches, or the axes do not fit: another number of layers (as under `nn.scan`, where all
        layers are one module), of neurons or of clips.
    """
    shape = gains.shape
    require(len(shape) in (2, 3), f"Gains must have the axes (layer, neuron) or (clip, layer, neuron), got {shape}.")
    if offsets is not None:
        require(offsets.shape == shape, f"Offsets must have the axes of the gains, {shape}, got {offsets.shape}.")
    *clips, layers, width = shape

    def require_fit(fits: bool, misfit: str) -> None:
        require(
            fits,
            f"Gains of the shape {shape} do not fit the neurons {neurons!r}: the module has {misfit}. Gains have the "
            f"axes (layer, neuron) or (clip, layer, neuron).",
        )

    def edit(layer: int, activation: Array) -> Array:
        require_fit(layer < layers, f"more than {layers} layers")
        in_front = (len(activation),) if clips else ()
        fits = (*in_front, activation.shape[-1]) == (*clips, width)
        require_fit(fits, f"an output {activation.shape} in layer {layer}")

        def of_layer(values: Array) -> Array:
            # One axis of length 1 for every token axis, and for the clips where all have the same values.
            broadcast = (*(clips or [1]), *[1] * (activation.ndim - 2), width)
            return values[..., layer, :].reshape(broadcast).astype(activation.dtype)

        edited = activation * of_layer(gains)
        return edited if offsets is None else edited + of_layer(offsets)

    output, called_layers = edit_neurons(module, variables, *inputs, neurons=neurons, edit=edit, **options)
    require_fit(called_layers == layers, f"{called_layers} layers")
    return output
