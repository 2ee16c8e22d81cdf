"""Options of `jaxdissect convert`."""

import dataclasses
from pathlib import Path

import tyro

from jaxdissect.options.base import Count, Options


@dataclasses.dataclass(frozen=True)
class ConvertOptions(Options):
    """Convert a PyTorch checkpoint of M2D into an encoder directory.

    No pickled code is run.

    Examples:
      jaxdissect convert checkpoint-300.pth m2d_base --name m2d_vit_base-80x608p16x16
      jaxdissect convert m2d_vit_base-80x608p16x16-221006-mr7/checkpoint-300.pth m2d_base

    Attributes:
      checkpoint: checkpoint, a .pth file.
      out: encoder directory to make.
      name: name that carries the sizes: input bands x frames, p, patch bands x frames; a third part p32k means 32 kHz.
        Default: the file's name, or its folder's.
      heads: number of attention heads. Default: width / 64.
      licence: licence of the weights, recorded in encoder.json.
    """

    checkpoint: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    name: str | None = None
    heads: Count | None = None
    licence: str = "unknown"
