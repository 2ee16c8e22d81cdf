"""Encoders that a user brings as "package.module:factory": wrapped, so that mistakes in them name the user's line.

A factory's encoder is wrapped where it comes in, so every stage calls the user's code through one place.
"""

import dataclasses
import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.encoder.models import Model, guarded_model, is_model, knows_its_calls
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder, TokenLayout, Units, Variables
from jaxdissect.encoder.user_code import UserCode, holds_arrays, user_line
from jaxdissect.errors import InputError, require
from jaxdissect.types import Record

# What each attribute of the protocol must be, and the check of it.
ATTRIBUTES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "name": ("be a text", lambda value: isinstance(value, str)),
    "sample_rate": ("be a positive whole number, in Hz", lambda value: isinstance(value, int) and value > 0),
    "module": ("be a Linen module, an NNX module or a function", is_model),
    "variables": ("be arrays, in a mapping or another pytree", holds_arrays),
    "neurons": ("be a text, the pattern of paths or tags", lambda value: isinstance(value, str)),
}
LAYERED = {"layer", "layer_neurons", "enter", "layer_variables", "outgoing_weights", "leave"}
METHODS = ("front_end", "embed", "token_layout", "settings")
ABSENT = object()


def load_foreign(path: str, dtype: DTypeLike) -> Encoder:
    """Call a factory given as "package.module:factory".

    Args:
      path: name of the factory, which is called as `factory(dtype=dtype)`.
      dtype: type of the computation.

    Raises:
      InputError: the factory cannot be imported, raises, or does not return an encoder.
    """
    code = UserCode(path)
    factory = _factory(code)
    with code.part("the factory", factory):
        encoder = factory(dtype=dtype)
    return guarded(encoder, code)


def _factory(code: UserCode) -> Any:
    """The object that the path names; if it cannot be called, calling it is the user's mistake."""
    module, _, name = code.factory.partition(":")
    # Beginning of two messages.
    not_importable = f"{code.factory}: neither a directory nor an importable package.module:factory"
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # importing a user's module can raise anything
        if user_line(error, module.partition(".")[0]) is None:  # the module itself is not there
            raise InputError(f"{not_importable} ({error}).") from error
        with code.part(f"importing {module}"):  # the module is there, and a line of the user's failed
            raise
    require(hasattr(imported, name), f"{not_importable} (module {module!r} has no attribute {name!r}).")
    return getattr(imported, name)


def guarded(encoder: object, code: UserCode) -> Encoder:
    """A user's encoder, wrapped and checked; an `M2D` is returned as it is.

    Args:
      encoder: object that the user's factory returned.
      code: caller of the user's code.

    Raises:
      InputError: the object is no encoder.
    """
    if isinstance(encoder, M2D):
        return encoder
    parts: Record = {}
    missing = []
    for name in (*ATTRIBUTES, *METHODS):
        with code.part(name):
            try:
                parts[name] = getattr(encoder, name)  # once: a property may take long
            except AttributeError:
                if inspect.getattr_static(encoder, name, ABSENT) is not ABSENT:
                    raise  # a property is there, and it failed
                missing.append(name)
    require(not missing, f"{code.factory} must return a jaxdissect Encoder; it lacks {', '.join(missing)}.")
    # From here on the user's properties are not asked again: the wrapper holds what they gave.
    for name, (rule, holds) in ATTRIBUTES.items():
        code.require(holds(parts[name]), name, rule, parts[name])
    attributes = {name: parts[name] for name in ATTRIBUTES} | {"user_encoder": encoder, "user_code": code}
    attributes["vectors"] = bool(getattr(encoder, "vectors", False))
    attributes["module"] = _guarded("module", parts["module"], code)
    with code.part("layer"):  # the check of a protocol asks for every attribute
        layered = encoder if isinstance(encoder, LayeredEncoder) else None
    if layered is None:
        return ForeignEncoder(**attributes)
    layer = _guarded("layer", layered.layer, code)
    return ForeignLayeredEncoder(**attributes, layer=layer, layer_neurons=layered.layer_neurons)


def _guarded(name: str, model: Model, code: UserCode) -> Model:
    """A model whose call explains what it raises."""
    return guarded_model(model, code.wrapped(f"{name}.apply" if isinstance(model, nn.Module) else name))


@dataclass(frozen=True, eq=False)
class ForeignEncoder:
    """An `Encoder` of a user's; what its parts return is checked.

    Attributes:
      name, sample_rate, module, variables, neurons: attributes of the protocol `Encoder`.
      vectors: whether units are vectors, as attention heads are.
      user_encoder: the user's encoder.
      user_code: caller of the user's code.
    """

    name: str
    sample_rate: int
    module: Model
    variables: Variables
    neurons: str
    vectors: bool
    user_encoder: Encoder
    user_code: UserCode

    def with_units(self, units: Units) -> "ForeignEncoder":
        """The encoder with other values as its neurons.

        Args:
          units: the values.
        """
        if (units.neurons, units.vectors) == (self.neurons, self.vectors):  # its own
            return self
        chosen = dataclasses.replace(self, neurons=units.neurons, vectors=units.vectors)
        if not isinstance(chosen, ForeignLayeredEncoder):
            return chosen
        if units.layer_neurons is None:  # then their place inside a layer is unknown
            fields = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(ForeignEncoder)}
            return ForeignEncoder(**fields)
        return dataclasses.replace(chosen, layer_neurons=units.layer_neurons, adds=False)

    def _call(self, name: str, *arguments: object) -> Any:
        method = getattr(self.user_encoder, name)
        with self.user_code.part(name, method):
            return method(*arguments)

    def front_end(self, variables: Variables, pcm: Float[Array, "clip sample"]) -> PyTree:
        """The user's `front_end`, checked: some array has the clips in front."""
        inputs = self._call("front_end", variables, pcm)
        # Some leaf must have the clips in front; others may be constants.
        with_clips = [np.shape(leaf)[:1] == pcm.shape[:1] for leaf in jax.tree.leaves(inputs)]
        rule = f"return arrays with the clips in front ({pcm.shape[0]} here)"
        self.user_code.require(holds_arrays(inputs) and any(with_clips), "front_end", rule, inputs)
        return inputs

    def embed(self, output: PyTree) -> PyTree:
        """The user's `embed`; `embedding_features` checks its axes."""
        return self._call("embed", output)

    def token_layout(self, samples: int) -> tuple[TokenLayout, ...]:
        """The user's `token_layout`, checked."""
        layout = self._call("token_layout", samples)
        are_layouts = isinstance(layout, (tuple, list)) and all(isinstance(tokens, TokenLayout) for tokens in layout)
        rule = "return a tuple with a TokenLayout for each time that the layers run"
        self.user_code.require(are_layouts, "token_layout", rule, layout)
        runs_once = len(layout) == 1 or knows_its_calls(self.module)
        rule = "have one entry: a function's layers run once, so give parts of a clip an axis of the tokens"
        self.user_code.require(runs_once, "token_layout", rule, f"{len(layout)} entries")
        for tokens in layout:
            fields = [tokens.is_patch, tokens.start, tokens.stop]
            kinds = "".join(np.asarray(field).dtype.kind for field in fields)  # b: booleans; i, u: whole numbers
            fits = kinds[0] == "b" and set(kinds[1:]) <= {"i", "u"} and len({np.shape(field) for field in fields}) == 1
            rule = "give is_patch as booleans, and start and stop as whole numbers, all of one shape"
            self.user_code.require(fits, "token_layout", rule, *fields)
        return tuple(layout)

    def settings(self) -> Record:
        """The user's `settings`, checked: JSON can hold them."""
        settings = self._call("settings")
        self.user_code.require(isinstance(settings, dict), "settings", "return a dict", settings)
        try:  # the fingerprint is taken of them as JSON
            json.dumps(settings, sort_keys=True)
        except (TypeError, ValueError) as error:
            self.user_code.require(False, "settings", f"return JSON values ({error})", settings)
        return settings

    def __getattr__(self, name: str) -> object:
        """Any other attribute of the user's encoder."""
        if name in LAYERED and not isinstance(self, ForeignLayeredEncoder):
            raise AttributeError(name)  # its layers do not know the neurons that were chosen
        # Through __dict__: before the fields are set, as in copy.copy, self.user_encoder would recurse.
        return getattr(self.__dict__["user_encoder"], name)


@dataclass(frozen=True, eq=False, kw_only=True)
class ForeignLayeredEncoder(ForeignEncoder):
    """A `LayeredEncoder` of a user's; what its parts return is checked.

    Attributes:
      layer, layer_neurons: attributes of the protocol `LayeredEncoder`.
      adds: whether `outgoing_weights` holds for the neurons; not so for units that were chosen by name.
    """

    layer: Model
    layer_neurons: str
    adds: bool = True

    def enter(self, variables: Variables, inputs: PyTree) -> tuple[Float[Array, "clip *axes"], ...]:
        """The user's `enter`, checked."""
        states = self._call("enter", variables, inputs)
        are_arrays = isinstance(states, tuple) and holds_arrays(states)
        self.user_code.require(are_arrays, "enter", "return a tuple, an array for each call of a layer", states)
        return states

    def layer_variables(self, variables: Variables) -> Sequence[Variables]:
        """The user's `layer_variables`, checked."""
        layers = self._call("layer_variables", variables)
        are_variables = isinstance(layers, (tuple, list)) and all(map(holds_arrays, layers))
        rule = "return a list with the variables of each layer, arrays in a pytree"
        self.user_code.require(are_variables, "layer_variables", rule, layers)
        return layers

    def outgoing_weights(self, layer_variables: Variables) -> Float[Array | np.ndarray, "neuron width"] | None:
        """The user's `outgoing_weights`, checked; None for units that it does not hold for."""
        weights = self._call("outgoing_weights", layer_variables) if self.adds else None
        is_matrix = weights is None or len(getattr(weights, "shape", ())) == 2
        self.user_code.require(is_matrix, "outgoing_weights", "return an array (neuron, width) or None", weights)
        return weights

    def leave(self, variables: Variables, states: tuple[Float[Array, "clip *axes"], ...]) -> PyTree:
        """The user's `leave`."""
        return self._call("leave", variables, states)
