"""Encoders that a user brings: what goes wrong in the user's own code is told with the line of it.

A factory's encoder is wrapped where it comes in, so every stage calls the user's code through one place: an exception
becomes an `InputError` that names the part of the protocol and the user's line, with the exception as its cause.
"""

import contextlib
import copy
import dataclasses
import importlib
import inspect
import json
import linecache
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float

from jaxdissect.encoder.m2d import M2D
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder, TokenLayout
from jaxdissect.errors import InputError
from jaxdissect.runtime.files import first_line

ATTRIBUTES = ("name", "sample_rate", "module", "variables", "neurons")
PROTOCOL = (*ATTRIBUTES, "front_end", "embed", "token_layout", "settings")
MISSING = object()
LIBRARIES = ("jaxdissect", "jax", "jaxlib", "flax")
INSTALLED = {"site-packages", "dist-packages"}
STANDARD = Path(sysconfig.get_path("stdlib"))


@dataclasses.dataclass(frozen=True)
class UserCode:
    """Calls a user's code.

    Attributes:
      encoder: as `--encoder` names it, package.module:factory.
    """

    encoder: str

    @contextlib.contextmanager
    def part(self, name: str, called: Any = None) -> Iterator[None]:
        """What is raised inside is a mistake in the user's code; an `InputError` is told already.

        Args:
          name: of the part of the protocol, for people.
          called: the function; its place is told where no line of the user's was reached.

        Raises:
          InputError: names the part, the exception and the user's line.
        """
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # whatever somebody else's code raises
            package = self.encoder.partition(":")[0].partition(".")[0]
            place = user_line(error, package) or definition(called)
            raise InputError(
                f"--encoder {self.encoder}: {name} raised {type(error).__name__}: {first_line(error).rstrip('.')}"
                f"{f'; {place}' if place else ''}. See docs/encoders.md."
            ) from error

    def wrong(self, name: str, rule: str, found: str) -> InputError:
        """A part of the protocol that is, or returns, something else than it must."""
        return InputError(f"--encoder {self.encoder}: {name} must {rule}, found {found}. See docs/encoders.md.")


def user_line(error: BaseException, package: str) -> str | None:
    """File, line and source text of the user's code in which an exception was raised; None: in none of it.

    That is the innermost line of the user's package, or else of whatever is neither installed nor Python's own.

    Args:
      error: as it was caught, before JAX has taken frames out.
      package: the user's, e.g. "mine".
    """
    if isinstance(error, SyntaxError) and error.filename:
        return _place(error.filename, error.lineno or 0, error.text or "")
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    names = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames]
    own = [one for one, name in zip(frames, names, strict=True) if name == package]
    apart = [
        one
        for one, name in zip(frames, names, strict=True)
        if name not in LIBRARIES and not _is_installed(one[0].f_code.co_filename)
    ]
    if not (own or apart):
        return None
    frame, line = (own or apart)[-1]
    return _place(frame.f_code.co_filename, line, linecache.getline(frame.f_code.co_filename, line))


def definition(called: Any) -> str | None:
    """Where a function is defined, for what was raised at its call: too many arguments, a missing one."""
    code = getattr(inspect.unwrap(called) if callable(called) else None, "__code__", None)
    return None if code is None else _place(code.co_filename, code.co_firstlineno, f"def {code.co_name}")


def _is_installed(file: str) -> bool:
    path = Path(file)
    return file.startswith("<") or not INSTALLED.isdisjoint(path.parts) or path.is_relative_to(STANDARD)


def _place(file: str, line: int, text: str) -> str:
    return f"{file}, line {line}" + (f": `{text.strip()[:200]}`" if text.strip() else "")


def load_foreign(path: str, dtype: Any) -> Encoder:
    """Call a factory given as "package.module:factory".

    Args:
      path: of the factory; it is called as `factory(dtype=dtype)`.
      dtype: of the computation.

    Raises:
      InputError: the factory cannot be imported, raises, or does not return an encoder.
    """
    code = UserCode(path)
    factory = _factory(code)
    with code.part("the factory", factory):
        encoder = factory(dtype=dtype)
    return guarded(encoder, code)


def _factory(code: UserCode) -> Any:
    """What the path names; calling it is the user's code already."""
    module, _, name = code.encoder.partition(":")
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # importing somebody else's module can raise anything
        if user_line(error, module.partition(".")[0]) is not None:
            with code.part(f"importing {module}"):
                raise
        raise _not_importable(code.encoder, error) from error
    try:
        return getattr(imported, name)
    except AttributeError as error:
        raise _not_importable(code.encoder, error) from error


def _not_importable(path: str, error: Exception) -> InputError:
    return InputError(f"{path}: neither a directory nor an importable package.module:factory ({error}).")


def guarded(encoder: Any, code: UserCode) -> Encoder:
    """An encoder whose mistakes are told with the user's line; one of ours is left as it is.

    Raises:
      InputError: it is no encoder.
    """
    if isinstance(encoder, M2D):
        return encoder
    given: dict[str, Any] = {}
    for name in PROTOCOL:
        with code.part(name):  # a property may raise, or take long, so each is asked for once
            given[name] = getattr(encoder, name, MISSING)
            if given[name] is MISSING and inspect.getattr_static(encoder, name, MISSING) is not MISSING:
                getattr(encoder, name)  # a property that raises an AttributeError
    missing = [name for name, value in given.items() if value is MISSING]
    if missing:
        raise InputError(f"{code.encoder} must return a jaxdissect Encoder; it lacks {', '.join(missing)}.")
    given = {name: given[name] for name in ATTRIBUTES}
    _check_attributes(given, code)
    given["module"] = guarded_module(given["module"], "module", code)
    with code.part("layer"):
        layered = isinstance(encoder, LayeredEncoder)
    if layered:
        layer = guarded_module(encoder.layer, "layer", code)
        return ForeignLayeredEncoder(**given, layer=layer, layer_neurons=encoder.layer_neurons, own=encoder, code=code)
    return ForeignEncoder(**given, own=encoder, code=code)


def _check_attributes(given: Mapping[str, Any], code: UserCode) -> None:
    rules = {
        "name": ("be a text", lambda value: isinstance(value, str)),
        "sample_rate": ("be a positive whole number, in Hz", lambda value: isinstance(value, int) and value > 0),
        "module": ("be a Linen module", lambda value: isinstance(value, nn.Module)),
        "variables": (
            "be a mapping whose leaves are arrays",
            lambda value: isinstance(value, Mapping) and arrays(value),
        ),
        "neurons": ("be a text, the pattern of module paths", lambda value: isinstance(value, str)),
    }
    for name, (rule, holds) in rules.items():
        if not holds(given[name]):
            raise code.wrong(name, rule, described(given[name]))


def arrays(value: Any) -> bool:
    """Whether a pytree holds arrays, and beside them nothing but numbers."""
    leaves = jax.tree.leaves(value)
    are_arrays = [hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves]
    return any(are_arrays) and all(
        is_array or isinstance(leaf, (int, float)) for leaf, is_array in zip(leaves, are_arrays, strict=True)
    )


def described(value: Any) -> str:
    """What was found in the place of something, in short."""
    if arrays(value):
        shapes = [leaf for leaf in jax.tree.leaves(value) if hasattr(leaf, "shape")]
        return ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in shapes[:5])
    kind = type(value).__name__
    return f"{kind} {str(value)[:60]!r}" if isinstance(value, (str, int, float)) else kind


def guarded_module(module: nn.Module, name: str, code: UserCode) -> nn.Module:
    """A Linen module whose `apply` tells what its `setup` and `__call__` raise; paths and variables stay as they are.

    Flax works on clones of a module, which do not have this `apply`, so it is only what stages call.
    """
    apply = module.apply

    def told(*given: Any, **options: Any) -> Any:
        with code.part(f"{name}.apply", type(module).__call__):
            return apply(*given, **options)

    copied = copy.copy(module)
    object.__setattr__(copied, "apply", told)
    return copied


@dataclasses.dataclass(frozen=True, eq=False)
class ForeignEncoder:
    """An `Encoder` of a user's.

    Attributes:
      name, sample_rate, module, variables, neurons: as the protocol has them.
      own: the user's encoder.
      code: by which it is called.
    """

    name: str
    sample_rate: int
    module: nn.Module
    variables: Mapping[str, Any]
    neurons: str
    own: Any
    code: UserCode

    def front_end(self, variables: Mapping[str, Any], pcm: Float[Array, "clip sample"]) -> Any:
        """The user's, checked."""
        with self.code.part("front_end", self.own.front_end):
            inputs = self.own.front_end(variables, pcm)
        if not arrays(inputs) or all(np.shape(leaf)[:1] != pcm.shape[:1] for leaf in jax.tree.leaves(inputs)):
            rule = f"return arrays with the clips in front ({pcm.shape[0]} here)"
            raise self.code.wrong("front_end", rule, described(inputs))
        return inputs

    def embed(self, output: Any) -> Any:
        """The user's; `embedding_features` checks its axes."""
        with self.code.part("embed", self.own.embed):
            return self.own.embed(output)

    def token_layout(self, samples: int) -> tuple[TokenLayout, ...]:
        """The user's, checked."""
        with self.code.part("token_layout", self.own.token_layout):
            layout = self.own.token_layout(samples)
        if not isinstance(layout, (tuple, list)) or not all(isinstance(tokens, TokenLayout) for tokens in layout):
            rule = "return a tuple with a TokenLayout for each call of a neuron module"
            raise self.code.wrong("token_layout", rule, described(layout))
        for tokens in layout:
            kinds = [np.asarray(values).dtype.kind for values in (tokens.is_patch, tokens.start, tokens.stop)]
            shapes = [np.shape(values) for values in (tokens.is_patch, tokens.start, tokens.stop)]
            if kinds[0] != "b" or not set(kinds[1:]) <= {"i", "u"} or len(set(shapes)) > 1:
                rule = "give is_patch as booleans, and start and stop as whole numbers, all of one shape"
                found = ", ".join(map(described, (tokens.is_patch, tokens.start, tokens.stop)))
                raise self.code.wrong("token_layout", rule, found)
        return tuple(layout)

    def settings(self) -> dict[str, Any]:
        """The user's, checked."""
        with self.code.part("settings", self.own.settings):
            settings = self.own.settings()
        try:
            json.dumps(settings, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise self.code.wrong("settings", "return JSON values", f"what JSON cannot hold ({error})") from error
        if not isinstance(settings, dict):
            raise self.code.wrong("settings", "return a dict", described(settings))
        return settings

    def __getattr__(self, name: str) -> Any:
        """Whatever else the user's encoder has."""
        return getattr(self.__dict__["own"], name)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ForeignLayeredEncoder(ForeignEncoder):
    """A `LayeredEncoder` of a user's.

    Attributes:
      layer, layer_neurons: as the protocol has them.
    """

    layer: nn.Module
    layer_neurons: str

    def enter(self, variables: Mapping[str, Any], inputs: Any) -> tuple[Float[Array, "clip *axes"], ...]:
        """The user's, checked."""
        with self.code.part("enter", self.own.enter):
            states = self.own.enter(variables, inputs)
        if not isinstance(states, tuple) or not arrays(states):
            raise self.code.wrong("enter", "return a tuple, an array for each call of a layer", described(states))
        return states

    def layer_variables(self, variables: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The user's, checked."""
        with self.code.part("layer_variables", self.own.layer_variables):
            layers = self.own.layer_variables(variables)
        if not isinstance(layers, (tuple, list)) or not all(isinstance(layer, Mapping) for layer in layers):
            raise self.code.wrong("layer_variables", "return a list, the variables of each layer", described(layers))
        return layers

    def outgoing_weights(self, layer_variables: Mapping[str, Any]) -> Any:
        """The user's, checked."""
        with self.code.part("outgoing_weights", self.own.outgoing_weights):
            weights = self.own.outgoing_weights(layer_variables)
        if len(getattr(weights, "shape", ())) != 2:
            raise self.code.wrong("outgoing_weights", "return an array (neuron, width)", described(weights))
        return weights

    def leave(self, variables: Mapping[str, Any], states: tuple[Float[Array, "clip *axes"], ...]) -> Any:
        """The user's."""
        with self.code.part("leave", self.own.leave):
            return self.own.leave(variables, states)
