"""Models of any kind as functions in which a pattern's values are tagged.

| model | names that a pattern can match |
|---|---|
| Flax Linen module, also under `nn.scan` | outputs of submodules, by their paths: "blocks_3/mlp/act" |
| Flax NNX module | the same: "layers/3/act" |
| any function `f(variables, *inputs)` | its tags (`jaxdissect.tag`); modules may have tags beside their paths |
"""

import copy
import functools
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PyTree

from jaxdissect.errors import require
from jaxdissect.types import Record

Model: TypeAlias = nn.Module | nnx.Module | Callable[..., PyTree]
PATH = "path of a module: "  # beginning of the tag that a module's output gets


def apply_model(model: Model, variables: PyTree, *inputs: PyTree, **options: Any) -> PyTree:
    """Call a model.

    Args:
      model: a Linen module, an NNX module or a function.
      variables: its variables: of a Linen module the collections, of an NNX module its state; a function's first
        argument.
      inputs, options: what the model is called with.

    Raises:
      InputError: the model is none of these.
    """
    return _callable(model)(variables, *inputs, **options)


def tagged_model(model: Model, neurons: str, called: list[str]) -> Callable[..., PyTree]:
    """The model as a function `f(variables, *inputs, **options)` in which the outputs of modules that match are tagged.

    Args:
      model: the model.
      neurons: pattern of paths.
      called: list to which tracing adds the paths of all modules that can match.
    """
    if isinstance(model, nn.Module):
        return _tagged_linen(model, neurons, called)
    if isinstance(model, nnx.Module):
        return _tagged_nnx(model, neurons, called)
    return _callable(model)


def tag(value: Float[Array, "... neuron"], name: str) -> Float[Array, "... neuron"]:
    """Give activations a name by which they can be read and changed; returns them as they are.

    It is JAX's `checkpoint_name`. Under `vmap` it also puts the axes that are mapped in front, so that activations of
    single clips and tokens have the axes (clip, token, neuron).

    Args:
      value: activations (clip, any token axes, neuron); under `vmap` without the mapped axes.
      name: the name; layers may share one.
    """
    # JAX keeps a mapped axis anywhere, as the last of `weights @ x`. A new axis brings it to the front.
    in_front = jnp.squeeze(jnp.expand_dims(value, 0), 0)
    tagged: Array = checkpoint_name(in_front, name)
    return tagged


def is_model(value: object) -> bool:
    """Whether something can be called as a model: a Linen module, an NNX module or a function."""
    return isinstance(value, (nn.Module, nnx.Module)) or callable(value)


def knows_its_calls(model: Model) -> bool:
    """Whether a second run of a model's layers can be told from further layers, as by the paths of modules."""
    return isinstance(model, (nn.Module, nnx.Module))


def guarded_model(model: Model, decorate: Callable[[Callable[..., PyTree]], Callable[..., PyTree]]) -> Model:
    """A model whose call is decorated; its paths, tags and variables stay.

    Args:
      model: the model.
      decorate: decorator of the function that is called.
    """
    if isinstance(model, nn.Module):
        # Flax works on clones of a module, which do not have this `apply`: only the outermost call is decorated.
        linen = copy.copy(model)
        apply = decorate(functools.update_wrapper(functools.partial(model.apply), type(model).__call__))
        object.__setattr__(linen, "apply", apply)  # past Flax, whose modules are frozen
        return linen
    if isinstance(model, nnx.Module):
        guarded = nnx.clone(model)
        kind: Any = type(model)
        guarded.__class__ = _with_call(kind, decorate(kind.__call__))
        return guarded
    return decorate(model)


def _callable(model: Model) -> Callable[..., PyTree]:
    """The model as a function of its variables and inputs."""
    if isinstance(model, nn.Module):
        return model.apply
    if isinstance(model, nnx.Module):
        graph, _ = nnx.split(model)
        return lambda state, *inputs, **options: nnx.merge(graph, state)(*inputs, **options)
    require(
        callable(model),
        f"A model must be a Flax Linen module, a Flax NNX module or a function of (variables, *inputs) with tags, "
        f"got {type(model).__name__}.",
    )
    return model


def _tagged_linen(module: nn.Module, neurons: str, called: list[str]) -> Callable[..., PyTree]:
    running: list[str] = []

    def intercept(run: Callable, args: tuple, kwargs: Record, context: nn.module.InterceptorContext) -> PyTree:
        path = "/".join(context.module.path)
        # The outermost call is the module's: a subclass may call `super().__call__`, and modules may share a scope.
        if context.method_name != "__call__" or path in running:
            return run(*args, **kwargs)
        running.append(path)
        try:
            output = run(*args, **kwargs)
        finally:
            running.remove(path)
        called.append(path)
        return _tag_output(output, path) if fnmatchcase(path, neurons) else output

    def run(*args: PyTree, **options: Any) -> PyTree:
        # Entered inside the function that is traced: around one that is compiled already it would do nothing.
        with nn.intercept_methods(intercept):
            return module.apply(*args, **options)

    return run


def _tagged_nnx(model: nnx.Module, neurons: str, called: list[str]) -> Callable[..., PyTree]:
    copied = nnx.clone(model)
    for path, module in list(nnx.iter_modules(copied)):
        name = "/".join(map(str, path))
        called.append(name)
        if fnmatchcase(name, neurons) and callable(module):
            # The class, and not the object, since transformations of NNX take modules apart and make them anew.
            module.__class__ = _tagging(type(module), name)
    return _callable(copied)


@functools.cache  # one class for each name, so that programs that were compiled for it serve again
def _tagging(kind: type[nnx.Module], path: str) -> type[nnx.Module]:
    """A class of NNX modules whose call tags its output."""

    def call(self: nnx.Module, *args: Any, **options: Any) -> PyTree:
        return _tag_output(kind.__call__(self, *args, **options), path)

    return _with_call(kind, call)


def _with_call(kind: Any, call: Callable[..., PyTree]) -> Any:
    """A class of NNX modules with another `__call__`."""
    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


def _tag_output(output: PyTree, path: str) -> PyTree:
    require(
        hasattr(output, "shape"),
        f"The output of {path!r} must be an array (clip, any token axes, neuron), found {type(output).__name__}.",
    )
    return tag(output, PATH + path)
