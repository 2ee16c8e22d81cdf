"""Names and axes of a state dict of PyTorch -> parameters of a Linen module: every key used, every parameter filled."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdissect.encoder.protocol import Variables
from jaxdissect.errors import InputError, require

# Name of a module's or parameter's path here, with {} for numbers, to its name there. Several names: their arrays are
# put one behind the other along the outputs.
Names = Mapping[str, str | tuple[str, ...]]
State = Mapping[str, np.ndarray]


def fill_params(name: str, shapes: Variables, state: State, names: Names) -> Variables:
    """Fill every parameter from the state dict.

    Args:
      name: name of the checkpoint, for messages.
      shapes: the parameters, or their shapes and types.
      state: arrays by key.
      names: their names; a path that is not among them has its own name there, with dots.

    Raises:
      InputError: keys are missing or not used, or an array has another shape than the sizes demand, or is not finite.
    """
    targets = flatten_dict(shapes)
    keys = {path: torch_keys(path, names) for path in targets}
    needed = {key for several in keys.values() for key in several}
    missing, unknown = sorted(needed - set(state)), sorted(set(state) - needed)
    require(
        not missing and not unknown,
        f"{name}: the checkpoint's keys are not those that its sizes demand: {len(missing)} missing "
        f"({', '.join(missing[:5]) or '-'}), {len(unknown)} unknown ({', '.join(unknown[:5]) or '-'}).",
    )
    filled = {}
    for path, several in keys.items():
        parts, shape = [np.asarray(state[key]) for key in several], targets[path].shape
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        filled[path] = checked_array(in_flax_order(path[-1], whole, shape), shape, f"{name}: {' + '.join(several)}")
    return unflatten_dict(filled)


def torch_keys(path: Sequence[str], names: Names) -> tuple[str, ...]:
    """The keys in a state dict that make up one parameter.

    Args:
      path: path of the parameter.
      names: names as for `fill_params`.
    """
    numbers = re.findall(r"_(\d+)", "/".join(path))
    pattern = [re.sub(r"_\d+$", "_{}", part) for part in path]
    whole, module, leaf = "/".join(pattern), "/".join(pattern[:-1]), path[-1]
    if whole in names:  # a parameter that has a name of its own
        return _formatted(names[whole], numbers)
    # PyTorch calls a kernel and the scale of a norm "weight".
    leaf = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(leaf, leaf)
    theirs = names.get(module, ".".join(path[:-1]))
    return tuple(f"{key}.{leaf}" if key else leaf for key in _formatted(theirs, numbers))


def _formatted(names: str | tuple[str, ...], numbers: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.format(*numbers) for name in ([names] if isinstance(names, str) else names))


def in_flax_order(leaf: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """PyTorch's order of axes -> Flax's: inputs before outputs, axes of length one dropped.

    Args:
      leaf: name of the parameter.
      array: array of the state dict.
      shape: shape of the parameter.
    """
    if leaf == "kernel" and len(shape) == 2 and array.ndim == 4:
        # A convolution over patches, (out, 1, bands, frames), whose pixels come bands first.
        return array.reshape(len(array), -1).T
    if leaf == "kernel" and array.ndim >= 2:
        return np.moveaxis(array, (0, 1), (-1, -2))  # (out, in, *window) -> (*window, in, out)
    squeezed = tuple(length for length in array.shape if length != 1)
    return array.reshape(shape) if squeezed == tuple(length for length in shape if length != 1) else array


def checked_array(array: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """An array of a checkpoint as contiguous float32, if it has the right shape and is finite.

    Args:
      array: the array.
      shape: shape that it must have.
      name: name for messages.

    Raises:
      InputError: it has another shape, or holds values that are not finite.
    """
    require(array.shape == shape, f"{name} must have the shape {shape} (in Flax's layout), found {array.shape}.")
    require(bool(np.isfinite(array).all()), f"{name} holds values that are not finite: the checkpoint is damaged.")
    return np.ascontiguousarray(array, np.float32)


def fold_weight_norm(state: State) -> dict[str, np.ndarray]:
    """Replace every weight-normed kernel, `g * v / |v|`, by its value; both styles of names.

    The norm is over every axis along which `g` has length one.

    Source: Salimans and Kingma, "Weight Normalization" (arXiv:1602.07868).

    Args:
      state: arrays by key.

    Raises:
      InputError: one part of a kernel is missing.
    """
    folded = dict(state)
    styles = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))
    for length, direction in styles:
        for key in [key for key in state if key.endswith((length, direction))]:
            base = key.removesuffix(length).removesuffix(direction)
            if f"{base}{length}" not in folded and f"{base}{direction}" not in folded:
                continue  # the other part's turn has done both
            g, v = folded.pop(f"{base}{length}", None), folded.pop(f"{base}{direction}", None)
            if g is None or v is None or g.ndim != v.ndim:
                raise InputError(f"{base}: a weight-normed kernel needs both {length} and {direction}.")
            over = tuple(axis for axis, size in enumerate(g.shape) if size == 1)
            exact = v.astype(np.float64)
            norm = np.sqrt(np.square(exact).sum(axis=over, keepdims=True))
            folded[f"{base}.weight"] = (g * exact / norm).astype(np.float32)
    return folded


def fold_batch_norm(state: State, module: str, epsilon: float = 1e-5) -> dict[str, np.ndarray]:
    """Replace a batch norm's statistics, weight and bias by one weight and one bias.

    Args:
      state: arrays by key.
      module: name of the batch norm.
      epsilon: number that it adds to the variance.

    Raises:
      InputError: an array is missing.
    """
    folded = dict(state)
    folded.pop(f"{module}.num_batches_tracked", None)
    parts = [folded.pop(f"{module}.{part}", None) for part in ("running_mean", "running_var", "weight", "bias")]
    if any(part is None for part in parts):
        raise InputError(f"{module}: a batch norm needs running_mean, running_var, weight and bias.")
    mean, variance, weight, bias = (np.asarray(part, np.float64) for part in parts)
    factor = weight / np.sqrt(variance + epsilon)
    folded[f"{module}.weight"] = factor.astype(np.float32)
    folded[f"{module}.bias"] = (bias - mean * factor).astype(np.float32)
    return folded
