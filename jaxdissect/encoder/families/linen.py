"""What the encoders of all families share: a Linen module with blocks `blocks_N`, run whole or block by block."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdissect.encoder.families.blocks import Block
from jaxdissect.encoder.protocol import TokenLayout, Units, Variables
from jaxdissect.errors import require
from jaxdissect.types import Json, Record

UNITS = {
    "mlp": Units("blocks_*/mlp/act", layer_neurons="mlp/act"),
    "heads": Units("blocks_*/attn/heads", vectors=True, layer_neurons="attn/heads"),
    "residual": Units("blocks_*/residual", layer_neurons="residual"),
}
Linen = TypeVar("Linen", bound="LinenEncoder")


@dataclasses.dataclass(frozen=True, eq=False)
class LinenEncoder(ABC):
    """An `Encoder` and `LayeredEncoder` around a Linen module made of `Block`s.

    Each family adds how PCM enters, where its tokens lie, and how clips are embedded. An encoder without variables
    serves to make them: see `init`, `constants` and `constant_shapes`.

    Attributes:
      name: name for people to read.
      config: sizes and settings, a dataclass of the family.
      variables: `params` of the module; `front_end`, the constants of the front end, if it has any; `head`, if the
        checkpoint had a task head (see `head_shapes`).
      dtype: type of the computation; float32 means float32 products.
      source: file name, SHA-256 and licence of what the encoder was converted from.
      kind: kind of its neurons: "mlp", the hidden units of the MLPs; "heads", the attention heads' outputs before
        their projection; or "residual", the features of each block's output.
      network: class of the module, called as `network(config, dtype)`; it has the methods `enter` and `leave`.
      units: kinds of neurons by name.
      family: name of the family, as in `encoder.json`.
      config_type: class of `config`.

    Raises:
      InputError: there is no such kind.
    """

    name: str
    config: Any
    variables: Variables
    dtype: DTypeLike = jnp.float32
    source: Mapping[str, Json] = dataclasses.field(default_factory=dict)
    kind: str = "mlp"

    network: ClassVar[Any]
    units: ClassVar[Mapping[str, Units]] = UNITS
    family: ClassVar[str]
    config_type: ClassVar[type]

    def __post_init__(self) -> None:
        require(self.kind in self.units, f"units must be one of {', '.join(self.units)}, got {self.kind!r}.")

    @property
    def neurons(self) -> str:
        """Pattern of the paths of the neurons' values."""
        return self.units[self.kind].neurons

    @property
    def layer_neurons(self) -> str:
        """Path of the neurons' value inside a block."""
        return self.units[self.kind].layer_neurons or ""

    @property
    def vectors(self) -> bool:
        """Whether a neuron's value is a vector."""
        return self.units[self.kind].vectors

    @property
    def module(self) -> Any:
        """The Linen module, computing in `dtype`."""
        return self.network(self.config, self.dtype)

    @property
    def device_variables(self) -> Variables:
        """`variables`, with the kernels in `dtype`: every step would cast them otherwise."""

        def cast(path: tuple[Any, ...], leaf: Array | np.ndarray) -> Array | np.ndarray:
            return leaf.astype(self.dtype) if path[-1].key == "kernel" else leaf

        return {**self.variables, "params": jax.tree_util.tree_map_with_path(cast, self.variables["params"])}

    @property
    def layer(self) -> Block:
        """One block, computing in `dtype`."""
        return Block(self.config.block, self.dtype)

    @property
    def features(self) -> int:
        """Number of features of a clip embedding."""
        width: int = self.config.width
        return width

    @property
    def outgoing_module(self) -> str:
        """Path, inside a block, of the module to whose output the neurons add: the MLP, where a norm comes behind."""
        return "" if self.config.block.norm_first else "mlp"

    @abstractmethod
    def front_end(self, variables: Variables, pcm: Float[Array, "clip sample"]) -> Float[Array, "clip ..."]:
        """PCM -> the module's input; jit-safe.

        Args:
          variables: variables of the encoder.
          pcm: samples at `sample_rate`, full scale -1 to 1.
        """

    @abstractmethod
    def embed(self, output: tuple[Float[Array, "clip ..."], ...]) -> Float[Array, "clip feature"]:
        """The module's output -> one embedding per clip; jit-safe.

        Args:
          output: what the module returns, one array for each call of the blocks.
        """

    @abstractmethod
    def token_layout(self, samples: int) -> tuple[TokenLayout, ...]:
        """Origin of a clip's tokens, one entry for each call of the blocks.

        Args:
          samples: length of the clip in samples at `sample_rate`.
        """

    @abstractmethod
    def example(self) -> Float[Array, "1 *axes"]:
        """A short input of the module, zeros; its parameters do not depend on the length."""

    def constants(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Constants of the front end, by name."""
        return {}

    def constant_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of `constants`, without computing them."""
        return {}

    def init(self, key: Array) -> Variables:
        """Random parameters of the module.

        Args:
          key: random key of the weights.
        """
        params: Variables = self.module.init(key, self.example())["params"]
        return params

    def layer_variables(self, variables: Variables) -> Sequence[Variables]:
        """The parameters of each block."""
        return [{"params": variables["params"][f"blocks_{layer}"]} for layer in range(self.config.depth)]

    def outgoing_weights(self, layer_variables: Variables) -> Float[Array | np.ndarray, "neuron width"] | None:
        """Kernel of the second linear layer of a block's MLP; None for other neurons than those of the MLP."""
        return layer_variables["params"]["mlp"]["fc2"]["kernel"] if self.kind == "mlp" else None

    def enter(self, variables: Variables, inputs: Float[Array, "clip ..."]) -> tuple[Float[Array, "clip ..."], ...]:
        """The module's input -> inputs of the first block."""
        states: Any = self.module.apply({"params": variables["params"]}, inputs, method="enter")
        return states

    def leave(
        self, variables: Variables, states: tuple[Float[Array, "clip ..."], ...]
    ) -> tuple[Float[Array, "clip ..."], ...]:
        """Outputs of the last block -> the module's output."""
        output: Any = self.module.apply({"params": variables["params"]}, states, method="leave")
        return output

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the PCM that the encoder takes, Hz."""
        rate: int = self.config.sample_rate
        return rate

    def settings(self) -> Record:
        """Name of the family, and its sizes and settings."""
        return {"family": self.family, "config": dataclasses.asdict(self.config)}


def with_random_weights(encoder: Linen, seed: int) -> Linen:
    """An encoder with seeded random weights, and without a task head.

    Args:
      encoder: encoder whose sizes and front end are kept.
      seed: seed of the weights.
    """
    variables: Variables = {"params": jax.jit(encoder.init)(jax.random.key(seed))}
    if constants := encoder.constants():
        variables["front_end"] = constants
    return dataclasses.replace(encoder, variables=variables)
