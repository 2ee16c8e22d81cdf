"""What dissection needs of an encoder: the `Encoder` protocol that any model can satisfy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Int16, PyTree

from jaxdissect.audio.pcm import samples_as_float
from jaxdissect.encoder.models import Model
from jaxdissect.runtime.sharding import replicate
from jaxdissect.types import Record

Variables: TypeAlias = Any  # arrays in nested mappings, as a Linen module's collections, or in another pytree


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Where the tokens of one call of an encoder's blocks come from.

    Attributes:
      is_patch: True for a patch, False for a class token.
      start, stop: samples that a patch spans, counted from the start of the clip; 0 for a class token.
    """

    is_patch: Bool[np.ndarray, "*token"]
    start: Int[np.ndarray, "*token"]
    stop: Int[np.ndarray, "*token"]


@dataclass(frozen=True)
class Units:
    """A kind of values of an encoder that can be its neurons.

    Attributes:
      neurons: pattern of the paths or tags of the values (see `read_neurons`).
      vectors: whether the values have a last axis of parts, as those of attention heads; a unit's activation is then
        the norm of its vector.
      layer_neurons: path or tag of the values inside one layer, for a `LayeredEncoder`.
    """

    neurons: str
    vectors: bool = False
    layer_neurons: str | None = None


@runtime_checkable
class Encoder(Protocol):
    """PCM -> inputs -> tokens -> embedding, with neurons that a pattern of module paths or tags names.

    Attributes:
      name: name for people to read.
      sample_rate: sampling rate of the PCM that the encoder takes, Hz.
      module: Linen module, NNX module, or function `f(variables, inputs)`.
      variables: variables of the module and whatever else `front_end` needs, a pytree of arrays. Of an NNX module: its
        state.
      neurons: pattern of the paths or tags of the values that are neurons (see `read_neurons`).
    """

    @property
    def name(self) -> str: ...

    @property
    def sample_rate(self) -> int: ...

    @property
    def module(self) -> Model: ...

    @property
    def variables(self) -> Variables: ...

    @property
    def neurons(self) -> str: ...

    def front_end(self, variables: Variables, pcm: Float[Array, "clip sample"]) -> PyTree:
        """PCM -> the module's input; jit-safe.

        Args:
          variables: the attribute `variables`, or its traced copy.
          pcm: samples at `sample_rate`, full scale -1 to 1.
        """
        ...

    def embed(self, output: PyTree) -> Float[Array, "clip feature"]:
        """The module's output -> one embedding per clip; jit-safe.

        Args:
          output: what the module returns for `variables` and the inputs.
        """
        ...

    def token_layout(self, samples: int) -> tuple[TokenLayout, ...]:
        """Origin of a clip's tokens, one entry for each call of a block.

        The arrays have the token axes of the neurons' outputs, without the clip axis.

        Args:
          samples: length of the clip in samples at `sample_rate`.
        """
        ...

    def settings(self) -> Record:
        """Everything that defines the encoder beside its arrays, as JSON values: `{"front_end": ..., ...}`."""
        ...


def named_units(encoder: Encoder) -> Record:
    """Which of an encoder's values are its neurons, as arguments of `read_neurons` and `run_with_gains`.

    Args:
      encoder: its attribute `vectors`, if it has one, says that each unit is a vector, as an attention head is.
    """
    return {"neurons": encoder.neurons, "vectors": getattr(encoder, "vectors", False)}


def named_layer_units(encoder: "LayeredEncoder") -> Record:
    """As `named_units`, for one layer of the encoder."""
    return {"neurons": encoder.layer_neurons, "vectors": getattr(encoder, "vectors", False)}


def variables_on(encoder: Encoder, mesh: Mesh) -> Variables:
    """The encoder's variables on every device of a mesh, in the types that it computes in.

    Args:
      encoder: its attribute `device_variables`, if it has one, takes the place of `variables`.
      mesh: the devices.
    """
    variables: Variables = replicate(getattr(encoder, "device_variables", encoder.variables), mesh)
    return variables


@runtime_checkable
class LayeredEncoder(Encoder, Protocol):
    """An encoder whose layers can be run one by one, so that an ablation resumes behind the first one it touches.

    `enter`, all layers one after the other, and `leave` together give what the module gives.

    Attributes:
      layer: one layer, a model that takes and gives an array (clip, ..., width).
      layer_neurons: path or tag, inside the layer, of the value that is its neurons.
    """

    @property
    def layer(self) -> Model: ...

    @property
    def layer_neurons(self) -> str: ...

    def enter(self, variables: Variables, inputs: PyTree) -> tuple[Float[Array, "clip *axes"], ...]:
        """The module's input -> inputs of the first layer, one array for each call of it; jit-safe.

        Args:
          variables: variables of the encoder.
          inputs: result of `front_end`.
        """
        ...

    def layer_variables(self, variables: Variables) -> Sequence[Variables]:
        """The variables of each layer: mappings, all of one structure.

        Args:
          variables: variables of the encoder.
        """
        ...

    def outgoing_weights(self, layer_variables: Variables) -> Float[Array | np.ndarray, "neuron width"] | None:
        """The kernel behind the neurons: they add `activations @ outgoing_weights` to a layer's output.

        If they add it to a value inside the layer, as before a norm or a scale, the encoder needs the attribute
        `outgoing_module`: the path or tag of this value inside the layer.

        Args:
          layer_variables: variables of one layer.

        Returns:
          The kernel; None for units without one, as attention heads. The layer then runs again under every edit.
        """
        ...

    def leave(self, variables: Variables, states: tuple[Float[Array, "clip *axes"], ...]) -> PyTree:
        """Outputs of the last layer -> the module's output; jit-safe.

        Args:
          variables: variables of the encoder.
          states: outputs of the last layer, one array for each call of the layers.
        """
        ...


def module_input(
    encoder: Encoder, variables: Variables, pcm: Float[Array, "clip sample"] | Int16[Array, "clip sample"]
) -> PyTree:
    """PCM as the loader puts it on the device -> the module's input; jit-safe."""
    with jax.named_scope("front_end"):
        return encoder.front_end(variables, samples_as_float(pcm))


def head_shapes(features: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a task head's arrays: a standardisation of the clip embedding, and a linear layer behind it."""
    return {"mean": (features,), "variance": (features,), "kernel": (features, classes), "bias": (classes,)}
