"""What dissection needs of an encoder: the `Encoder` protocol that any model can satisfy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int16

from jaxdissect.audio.pcm import samples_as_float


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Where the tokens of one call of an encoder's blocks come from.

    Attributes:
      is_patch: False for a class token.
      start, stop: the samples that a patch spans, counted from the start of the clip; 0 for a class token.
    """

    is_patch: Bool[np.ndarray, "*token"]
    start: Int[np.ndarray, "*token"]
    stop: Int[np.ndarray, "*token"]


@runtime_checkable
class Encoder(Protocol):
    """PCM -> inputs -> tokens -> embedding, with neurons that can be read by a module-path pattern.

    Attributes:
      name: for people.
      sample_rate: of the PCM it takes, Hz.
      module: a Linen module; `module.apply(variables, inputs)` gives its output.
      variables: the module's variables and whatever else `front_end` needs, a pytree of arrays.
      neurons: pattern of the paths of the modules whose outputs are neurons (see `read_neurons`).
    """

    @property
    def name(self) -> str: ...

    @property
    def sample_rate(self) -> int: ...

    @property
    def module(self) -> nn.Module: ...

    @property
    def variables(self) -> Mapping[str, Any]: ...

    @property
    def neurons(self) -> str: ...

    def front_end(self, variables: Mapping[str, Any], pcm: Float[Array, "clip sample"]) -> Any:
        """PCM -> the module's input; jit-safe.

        Args:
          variables: as the attribute, or traced in its place.
          pcm: at `sample_rate`, full scale -1 to 1.
        """
        ...

    def embed(self, output: Any) -> Float[Array, "clip feature"]:
        """The module's output -> one embedding per clip; jit-safe.

        Args:
          output: what `module.apply(variables, inputs)` gives.
        """
        ...

    def token_layout(self, samples: int) -> tuple[TokenLayout, ...]:
        """Origin of a clip's tokens, one entry for each call of a block.

        The arrays have the token axes of the neurons' outputs, without the clip axis.

        Args:
          samples: length of the clip at `sample_rate`.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """What defines the encoder beside its arrays, as JSON values: `{"front_end": ..., ...}`."""
        ...


@runtime_checkable
class LayeredEncoder(Encoder, Protocol):
    """An encoder whose layers can be run one by one, so that an ablation resumes behind the first one it touches.

    `leave(variables, states)`, where `states` went from `enter` through all layers, is what
    `module.apply(variables, inputs)` gives.

    Attributes:
      layer: one layer, a Linen module that takes and gives an array (clip, ..., width).
      layer_neurons: pattern of the path, inside the layer, of the module whose outputs are its neurons.
    """

    @property
    def layer(self) -> nn.Module: ...

    @property
    def layer_neurons(self) -> str: ...

    def enter(self, variables: Mapping[str, Any], inputs: Any) -> tuple[Float[Array, "clip *axes"], ...]:
        """The module's input -> what the first layer takes, one array for each call of it; jit-safe.

        Args:
          variables: of the encoder.
          inputs: as `front_end` gives them.
        """
        ...

    def layer_variables(self, variables: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The variables of each layer, all of one structure.

        Args:
          variables: of the encoder.
        """
        ...

    def outgoing_weights(self, layer_variables: Mapping[str, Any]) -> Float[Array | np.ndarray, "neuron width"]:
        """The kernel behind the neurons: a layer puts out `activations @ outgoing_weights` plus what is not theirs.

        Args:
          layer_variables: of one layer.
        """
        ...

    def leave(self, variables: Mapping[str, Any], states: tuple[Float[Array, "clip *axes"], ...]) -> Any:
        """What the last layer puts out -> the module's output; jit-safe.

        Args:
          variables: of the encoder.
          states: one array for each call of the layers.
        """
        ...


def module_input(
    encoder: Encoder, variables: Mapping[str, Any], pcm: Float[Array, "clip sample"] | Int16[Array, "clip sample"]
) -> Any:
    """PCM as the loader puts it on the device -> the module's input; jit-safe."""
    return encoder.front_end(variables, samples_as_float(pcm))
