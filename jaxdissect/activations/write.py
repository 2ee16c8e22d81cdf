"""Writing neurons: any Linen module run with the outputs of chosen submodules changed, inside the caller's jit.

An intervention is data, not a hook: gains and offsets are traced arrays, so one compiled program serves every choice of
neurons, and `vmap` runs many of them at once. `activation -> gain * activation + offset` covers all kinds: gain 0
ablates, 0 to 1 attenuates, above 1 amplifies; gain 0 with the neuron's mean as its offset is mean ablation.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxdissect.errors import InputError


def edit_neurons(
    module: nn.Module,
    variables: Mapping[str, Any],
    *inputs: Any,
    neurons: str,
    edit: Callable[[int, Array], Array],
    **options: Any,
) -> tuple[Any, int]:
    """Run a Linen module with the outputs of some of its submodules replaced.

    Pure if `edit` is: call it inside your own `jit`, `vmap` or `grad`. (An interceptor entered around a function that
    is compiled already would silently do nothing.)

    Args:
      module, variables, inputs, options: run as `module.apply(variables, *inputs, **options)`.
      neurons: pattern of module paths, as of `read_neurons`.
      edit: called as `edit(layer, activation)` with the output (clip, any token axes, neuron) of a module that the
        pattern matches; what it returns goes on in its place. Layers are counted in the order in which their modules
        are first called, as `read_neurons` lists them.

    Returns:
      What `module.apply` returns, and the number of layers.

    Raises:
      InputError: no module matches.
    """
    called: list[str] = []
    layers: dict[str, int] = {}

    def intercept(run: Callable, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = run(*args, **kwargs)
        if context.method_name != "__call__":
            return output
        called.append("/".join(context.module.path))
        if not fnmatchcase(called[-1], neurons):
            return output
        return edit(layers.setdefault(called[-1], len(layers)), output)

    with nn.intercept_methods(intercept):
        output = module.apply(variables, *inputs, **options)
    if not layers:
        raise InputError(
            f"No module matches the pattern {neurons!r}; the modules called were: "
            f"{', '.join(sorted(set(called))) or 'none'}."
        )
    return output, len(layers)


def run_with_gains(
    module: nn.Module,
    variables: Mapping[str, Any],
    *inputs: Any,
    neurons: str,
    gains: Float[Array, "*clip layer neuron"],
    offsets: Float[Array, "*clip layer neuron"] | None = None,
    **options: Any,
) -> Any:
    """Run any Linen module with every neuron's activation `a` replaced by `gain * a + offset`.

    A gain of 0 equals zeroing the neuron's row in the linear layer that reads it. Pure, and traced in `gains` and
    `offsets`: use it inside your own `jit`; `vmap` over `gains` runs many interventions in one pass; the gradient with
    respect to a gain is activation x gradient, summed over tokens.

    Args:
      module, variables, inputs, options: run as `module.apply(variables, *inputs, **options)`.
      neurons: pattern of module paths, as of `read_neurons`; outputs have the axes (clip, any token axes, neuron).
      gains: for every layer, counted in the order of calls, and neuron; 1 leaves alone. With a clip axis in front, each
        clip has its own.
      offsets: likewise, added; 0 leaves alone. Default: none.

    Returns:
      What `module.apply` returns.

    Raises:
      InputError: no module matches, or the axes do not fit: another number of layers (as under `nn.scan`, where all
        layers are one module), of neurons or of clips.
    """

    def edit(layer: int, activation: Array) -> Array:
        if layer >= gains.shape[-2]:
            raise _misfit(neurons, gains.shape, f"more than {gains.shape[-2]} layers")
        edited = activation * _of_layer(gains, layer, activation, neurons)
        return edited if offsets is None else edited + _of_layer(offsets, layer, activation, neurons)

    if gains.ndim not in (2, 3):
        raise InputError(f"Gains must have the axes (layer, neuron) or (clip, layer, neuron), got {gains.shape}.")
    if offsets is not None and offsets.shape != gains.shape:
        raise InputError(f"Offsets must have the axes of the gains, {gains.shape}, got {offsets.shape}.")
    output, layers = edit_neurons(module, variables, *inputs, neurons=neurons, edit=edit, **options)
    if layers != gains.shape[-2]:
        raise _misfit(neurons, gains.shape, f"{layers} layers")
    return output


def _of_layer(values: Array, layer: int, activation: Array, neurons: str) -> Array:
    """One layer's gains or offsets, shaped to fit its activation (clip, any token axes, neuron)."""
    own = values[..., layer, :]
    if own.shape[-1] != activation.shape[-1] or (own.ndim == 2 and len(own) != len(activation)):
        raise _misfit(neurons, values.shape, f"an output {activation.shape} in layer {layer}")
    if own.ndim == 2:
        own = own.reshape(len(own), *[1] * (activation.ndim - 2), own.shape[-1])
    else:
        own = own.reshape(*[1] * (activation.ndim - 1), own.shape[-1])
    return own.astype(activation.dtype)


def _misfit(neurons: str, shape: tuple[int, ...], found: str) -> InputError:
    return InputError(
        f"Gains of the shape {shape} do not fit the neurons {neurons!r}: the module has {found}. Gains have the axes "
        f"(layer, neuron) or (clip, layer, neuron)."
    )
