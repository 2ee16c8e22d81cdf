"""Any function or module as an `Encoder`, without a new class."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxdissect.encoder.models import Model
from jaxdissect.encoder.protocol import TokenLayout, Units
from jaxdissect.errors import require
from jaxdissect.types import Record


@dataclass(frozen=True, eq=False)
class FunctionEncoder:
    """An `Encoder` made of a function with tags, a Linen module or an NNX module.

    Its tokens follow one another in time. Tokens that belong to no time, as a class token, are in front.

    Attributes:
      name: name for people to read.
      sample_rate: sampling rate of the PCM that it takes, Hz.
      module: function `f(variables, inputs)`, NNX module or Linen module.
      variables: variables of the module, a pytree of arrays; `nnx.state(model)` of an NNX module.
      neurons: pattern of tags or paths (see `read_neurons`).
      hop: samples from the start of a token to that of the next.
      prepare: PCM -> the module's input, called as `prepare(variables, pcm)`; default: PCM itself.
      pool: the module's output -> one embedding per clip; default: the mean over all tokens, class tokens too.
      tokens: number of tokens in time, called as `tokens(samples)`; default: one for every whole hop.
      class_tokens: number of tokens in front that belong to no time.
      vectors: whether units are vectors, as attention heads are.
      units: other kinds of units by name, for `--units`.
      constants: whatever else defines the encoder, as JSON values, such as sizes of the front end or names of files.

    Raises:
      InputError: `hop` is not positive, or `class_tokens` is negative.
    """

    name: str
    sample_rate: int
    module: Model
    variables: PyTree
    neurons: str
    hop: int
    prepare: Callable[[PyTree, Float[Array, "clip sample"]], PyTree] | None = None
    pool: Callable[[PyTree], Float[Array, "clip feature"]] | None = None
    tokens: Callable[[int], int] | None = None
    class_tokens: int = 0
    vectors: bool = False
    units: Mapping[str, Units] = field(default_factory=dict)
    constants: Record = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.hop >= 1 and self.class_tokens >= 0, "hop must be positive, and class_tokens not negative.")

    def front_end(self, variables: PyTree, pcm: Float[Array, "clip sample"]) -> PyTree:
        """PCM -> the module's input.

        Args:
          variables: variables of the encoder.
          pcm: samples at `sample_rate`, full scale -1 to 1.
        """
        return pcm if self.prepare is None else self.prepare(variables, pcm)

    def embed(self, output: PyTree) -> Float[Array, "clip feature"]:
        """The module's output -> one embedding per clip.

        Args:
          output: what the module returns; without `pool` an array (clip, any token axes, feature).
        """
        if self.pool is not None:
            return self.pool(output)
        embedding: Array = output.mean(axis=tuple(range(1, output.ndim - 1)))
        return embedding

    def token_layout(self, samples: int) -> tuple[TokenLayout, ...]:
        """Tokens one hop long, one after the other; class tokens in front.

        Args:
          samples: length of the clip in samples at `sample_rate`.
        """
        count = samples // self.hop if self.tokens is None else self.tokens(samples)
        start = np.arange(count) * self.hop
        spans = (np.concatenate([np.zeros(self.class_tokens, int), side]) for side in (start, start + self.hop))
        return (TokenLayout(np.arange(self.class_tokens + count) >= self.class_tokens, *spans),)

    def settings(self) -> Record:
        """Hop and constants; the source of the functions is part of the encoder's fingerprint."""
        return {"front_end": {**self.constants, "hop": self.hop, "class_tokens": self.class_tokens}}
