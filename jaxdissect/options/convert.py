"""Options of `jaxdissect convert`."""

import dataclasses
from pathlib import Path

import tyro

from jaxdissect.options.base import Count, Options


@dataclasses.dataclass(frozen=True)
class ConvertOptions(Options):
    """Convert a PyTorch checkpoint into an encoder directory.

    M2D and the families of docs/zoo.md are known. No pickled code is run.

    Examples:
      jaxdissect convert hf:facebook/hubert-base-ls960 hubert_base
      jaxdissect convert wav2vec2-base/ wav2vec2_base
      jaxdissect convert checkpoint-300.pth m2d_base --name m2d_vit_base-80x608p16x16
      jaxdissect convert m2d_vit_base-80x608p16x16-221006-mr7/checkpoint-300.pth m2d_base

    Attributes:
      checkpoint: folder of Hugging Face, hf:OWNER/NAME or hf:OWNER/NAME@REVISION to download one, or a file of M2D.
      out: encoder directory to make.
      name: name of the encoder. For M2D it carries the sizes: input bands x frames, p, patch bands x frames; a third
        part p32k means 32 kHz. Default: the file's name, or its folder's.
      heads: number of attention heads of an M2D. Default: width / 64.
      licence: licence of the weights, recorded in encoder.json. Default: that of the folder's README.md, or unknown.
    """

    checkpoint: tyro.conf.Positional[str]
    out: tyro.conf.Positional[Path]
    name: str | None = None
    heads: Count | None = None
    licence: str | None = None
