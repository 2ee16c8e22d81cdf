"""The commands around the method: encoders, data sets, speed."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import tyro

from jaxdissect.bench.rates import BenchOptions, run_bench
from jaxdissect.commands.answers import converted, measured, prepared, trained, verified
from jaxdissect.commands.outcome import Outcome, OutputOptions, without_output
from jaxdissect.encoder.convert import convert_checkpoint
from jaxdissect.options.prepare import PrepareOptions
from jaxdissect.runtime.progress import under_way
from jaxdissect.stages.prepare import run_prepare, verify
from jaxdissect.training.options import TrainOptions
from jaxdissect.training.train import run_train


@dataclasses.dataclass(frozen=True)
class ConvertCommand(OutputOptions):
    """Convert a PyTorch checkpoint of M2D into an encoder directory.

    No pickled code is run.

    Examples:
      jaxdissect convert checkpoint-300.pth m2d_base --name m2d_vit_base-80x608p16x16
      jaxdissect convert m2d_vit_base-80x608p16x16-221006-mr7/checkpoint-300.pth m2d_base

    Attributes:
      checkpoint: the .pth file.
      out: encoder directory to make.
      name: carries the sizes: input bands x frames, p, patch bands x frames; a third part p32k means 32 kHz.
        Default: the file's name, or its folder's.
      heads: attention heads. Default: width / 64.
      licence: of the weights, recorded in encoder.json.
    """

    checkpoint: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    name: str | None = None
    heads: int | None = None
    licence: str = "unknown"

    def __call__(self) -> Iterator[Outcome]:
        with under_way(f"Converting {self.checkpoint}"):
            encoder = convert_checkpoint(self.checkpoint, self.out, self.name, self.heads, self.licence)
        yield converted(self.out, encoder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainCommand(OutputOptions, TrainOptions):
    """Train an encoder on a task, self-supervised or supervised.

    On its training split; a training that was stopped goes on by the same command.

    Examples:
      jaxdissect train --objective m2d --task esc50 --data ESC-50 --out mine --size tiny --input 80x208p16x16
      jaxdissect train --objective supervised --task esc50 --data ESC-50 --out mine --start-from m2d_tiny --epochs 50
    """

    def __call__(self) -> Iterator[Outcome]:
        yield trained(self.out, *run_train(without_output(TrainOptions, self)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareCommand(OutputOptions, PrepareOptions):
    """Decode a task's clips once, into shards of 16-bit PCM.

    They take the place of the data folder.

    Examples:
      jaxdissect prepare --task esc50 --data ESC-50 --out ESC-50-16k
      jaxdissect prepare --task esc50 --data ESC-50 --out ESC-50-32k --sample-rate 32000
    """

    def __call__(self) -> Iterator[Outcome]:
        yield prepared(self.out, run_prepare(self))


@dataclasses.dataclass(frozen=True)
class VerifyCommand(OutputOptions):
    """Compare every file of a prepared folder with its SHA-256.

    Shards, lists and tables are read whole.

    Examples:
      jaxdissect verify ESC-50-16k

    Attributes:
      folder: that `jaxdissect prepare` has made.
    """

    folder: tyro.conf.Positional[Path]

    def __call__(self) -> Iterator[Outcome]:
        yield verified(self.folder, verify(self.folder))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchCommand(OutputOptions, BenchOptions):
    """Measure how fast this machine counts and decodes.

    Clips per second, and their share of what the encoder's matrix products alone allow.

    Examples:
      jaxdissect bench --encoder m2d_tiny
      jaxdissect bench --encoder m2d_tiny --task esc50 --data ESC-50 --out bench.json
    """

    def __call__(self) -> Iterator[Outcome]:
        yield measured(self, run_bench(without_output(BenchOptions, self)))
