"""How a kind of checkpoint becomes an encoder of a family: what a recipe says, and the one way to follow it."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdissect.encoder.convert.layout import Names, State, checked_array, fill_params
from jaxdissect.encoder.convert.settings import Settings
from jaxdissect.encoder.families.linen import LinenEncoder
from jaxdissect.encoder.protocol import Variables, head_shapes
from jaxdissect.errors import InputError, require
from jaxdissect.types import Json

HEAD_EPSILON = 1e-5  # a head adds it to the variance
Head = dict[str, np.ndarray]  # arrays of a task head by name; see `head_shapes`


@dataclass(frozen=True)
class Recipe:
    """How checkpoints of one kind become encoders.

    Attributes:
      encoder: the family.
      config: settings of the model and of its front end -> the family's config; refuses what is not supported.
      names: names of the modules in the state dict (see `fill_params`).
      prefixes: what the encoder's keys may begin with, longest first; "" for a bare encoder.
      anchor: a key that every encoder has, without prefix.
      droppable: pattern of keys, without prefix, that no encoder needs: decoders, quantisers, heads of other tasks.
      prepare: changes of the encoder's state dict that names alone cannot tell, given the config; None: none.
      head: the task head among the keys without the encoder's prefix, which it removes; None: there is none.
    """

    encoder: type[LinenEncoder]
    config: Callable[[Settings, Settings], Any]
    names: Names
    prefixes: tuple[str, ...]
    anchor: str
    droppable: str = r"(?!)"  # nothing
    prepare: Callable[[State, Any], State] | None = None
    head: Callable[[dict[str, np.ndarray], Settings, Any], Head | None] | None = None


def follow_recipe(
    recipe: Recipe, name: str, model: Settings, front_end: Settings, state: State, source: Mapping[str, Json]
) -> LinenEncoder:
    """Make the encoder of a checkpoint; every setting and key is used, known not to matter, or raises.

    Args:
      recipe: how.
      name: name of the encoder, for people and messages.
      model: settings of the model.
      front_end: settings of its front end.
      state: arrays of the checkpoint by key.
      source: origin of the checkpoint, to record.

    Raises:
      InputError: settings or keys are unknown, missing or not supported.
    """
    config = recipe.config(model, front_end)
    model.finish()
    front_end.finish()
    inside, outside = _split(recipe, name, state)
    head = None if recipe.head is None else recipe.head(outside, model, config)
    foreign = sorted(key for key in outside if not re.fullmatch(recipe.droppable, key))
    require(
        not foreign,
        f"{name}: unknown keys {', '.join(foreign[:5])} ({len(foreign)} in all); nothing is converted, because they "
        f"may matter.",
    )
    encoder = recipe.encoder(name, config, {}, source=source)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    prepared = inside if recipe.prepare is None else recipe.prepare(inside, config)
    params = fill_params(name, shapes, prepared, recipe.names)
    variables: Variables = {"params": params}
    if constants := encoder.constants():
        variables["front_end"] = constants
    if head is not None:
        variables["head"] = {
            entry: checked_array(head[entry], shape, f"{name}: {entry} of the head")
            for entry, shape in head_shapes(encoder.features, head["bias"].size).items()
        }
    return dataclasses.replace(encoder, variables=variables)


def _split(recipe: Recipe, name: str, state: State) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The encoder's arrays, without prefix, and all others; what is droppable is in neither."""
    prefix = next((prefix for prefix in recipe.prefixes if f"{prefix}{recipe.anchor}" in state), None)
    if prefix is None:
        raise InputError(
            f"{name}: no key is {recipe.anchor!r} behind one of the prefixes {', '.join(map(repr, recipe.prefixes))}; "
            f"the first keys are {', '.join(sorted(state)[:5])}."
        )
    inside = {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
    inside = {key: array for key, array in inside.items() if not re.fullmatch(recipe.droppable, key)}
    outside = {key: array for key, array in state.items() if not key.startswith(prefix)}
    return inside, outside


def linear_head(kernel: np.ndarray, bias: np.ndarray) -> Head:
    """A head that reads an embedding as it is, in the form of `head_shapes`: no standardisation, then a linear layer.

    Args:
      kernel: weights, (class, feature) as PyTorch has them.
      bias: bias, (class).
    """
    features = kernel.shape[1]
    return {
        "mean": np.zeros(features, np.float32),
        "variance": np.full(features, 1 - HEAD_EPSILON, np.float32),
        "kernel": np.ascontiguousarray(kernel.T, np.float32),
        "bias": np.asarray(bias, np.float32),
    }


def checkpoint_name(path: Path) -> str:
    """Name of an encoder that was given none: the file's without its ending, or the folder's.

    Args:
      path: checkpoint.
    """
    return path.resolve().name if path.is_dir() else path.stem
