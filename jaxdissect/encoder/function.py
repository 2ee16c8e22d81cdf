"""Any function or module as an `Encoder`, without a class of one's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxdissect.encoder.models import Model
from jaxdissect.encoder.protocol import TokenLayout, Units
from jaxdissect.types import Record


def take_pcm(variables: PyTree, pcm: Float[Array, "clip sample"]) -> Float[Array, "clip sample"]:
    """The front end of a model that takes PCM itself.

    Args:
      variables: not used.
      pcm: samples of the clips.
    """
    del variables
    return pcm


def mean_over_tokens(output: Float[Array, "clip *token feature"]) -> Float[Array, "clip feature"]:
    """The embedding of a model that puts out tokens.

    Args:
      output: what the model puts out.
    """
    embedding: Array = output.mean(axis=tuple(range(1, output.ndim - 1)))
    return embedding


@dataclass(frozen=True, eq=False)
class FunctionEncoder:
    """A function, its parameters and its tags as an `Encoder`; or a Linen or NNX module, by its paths.

    Its tokens lie one after the other in time, with tokens of no time, as a class token, in front.

    Attributes:
      name: name for people to read.
      sample_rate: sampling rate of the PCM that it takes, Hz.
      module: function `f(variables, inputs)`, NNX module or Linen module.
      variables: variables of the module, a pytree of arrays; `nnx.state(model)` of an NNX module.
      neurons: pattern of tags or paths (see `read_neurons`).
      hop: samples from the start of a token to that of the next.
      front_end: PCM -> the module's input, `front_end(variables, pcm)`; default: PCM itself.
      embed: the module's output -> one embedding per clip; default: the mean over all tokens.
      tokens: how many tokens in time a clip of so many samples has; default: one for every whole hop.
      class_tokens: number of tokens in front that are no part of the clip.
      vectors: whether units are vectors, as attention heads are.
      units: other kinds of units by name, for `--units`.
      constants: whatever else defines the encoder, as JSON values: sizes of the front end, files.
    """

    name: str
    sample_rate: int
    module: Model
    variables: PyTree
    neurons: str
    hop: int
    front_end: Callable[[PyTree, Array], PyTree] = take_pcm
    embed: Callable[[PyTree], Array] = mean_over_tokens
    tokens: Callable[[int], int] | None = None
    class_tokens: int = 0
    vectors: bool = False
    units: Mapping[str, Units] = field(default_factory=dict)
    constants: Record = field(default_factory=dict)

    def token_layout(self, samples: int) -> tuple[TokenLayout, ...]:
        """Tokens one hop long, one after the other; those of no time in front.

        Args:
          samples: length of the clip in samples.
        """
        count = samples // self.hop if self.tokens is None else self.tokens(samples)
        start = np.arange(count) * self.hop
        spans = (np.concatenate([np.zeros(self.class_tokens, int), side]) for side in (start, start + self.hop))
        return (TokenLayout(np.arange(self.class_tokens + count) >= self.class_tokens, *spans),)

    def settings(self) -> Record:
        """Hop and constants; the source of the functions is part of the encoder's fingerprint."""
        return {"front_end": {"hop": self.hop, "class_tokens": self.class_tokens, **self.constants}}
