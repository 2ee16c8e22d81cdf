"""Options of `jaxdissect bench`."""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxdissect.errors import require
from jaxdissect.options.base import Count, Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    """Measure how fast this machine counts and decodes.

    The result is in clips per second, beside the rate that the encoder's matrix products alone allow.

    Examples:
      jaxdissect bench --encoder m2d_tiny
      jaxdissect bench --encoder m2d_tiny --task esc50 --data ESC-50 --out bench.json

    Attributes:
      encoder: encoder directory, name of a shipped encoder, or package.module:factory.
      task: task whose first 200 clips to decode: a known task (esc50, ...), tfds:NAME, or a CSV in EVAR's format.
      data: data folder of the task, as it is or prepared.
      seconds: length of a clip that is counted, s, and of a decoded clip unless its task or prepared data give it.
      batch_sizes: clips per step; each number is measured.
      dtypes: types of the computation, float32 (with float32 products) and bfloat16; each is measured.
      rounds: repetitions of every measurement.
      profile: folder to write a trace of five steps into, of the first type and the last batch size; see
        docs/profile.md.
      out: JSON file to write, with every repetition.

    Raises:
      InputError: an option breaks a rule.
    """

    encoder: str
    task: str | None = None
    data: Path | None = None
    seconds: float = 6.0
    batch_sizes: tuple[Count, ...] = (4, 16, 64)
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    rounds: Count = 5
    profile: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, values in (("--batch-sizes", self.batch_sizes), ("--dtypes", self.dtypes)):
            shown = " ".join(map(str, values)) or "nothing"
            require(0 < len(values) == len(set(values)), f"{option} must be one or more, each given once, got {shown}.")
