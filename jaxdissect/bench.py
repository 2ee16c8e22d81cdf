"""`jaxdissect bench`: how fast this machine counts with an encoder, against what limits it."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int16

from jaxdissect.activations import read_neurons
from jaxdissect.bench_decode import DecodeRate, decode_rates, task_to_decode
from jaxdissect.collect import Counter, CountOptions, neuron_shape
from jaxdissect.encoder.base import Encoder, module_input
from jaxdissect.encoder.checkpoint import DTYPES, load_encoder
from jaxdissect.errors import InputError
from jaxdissect.files import require_folder, whole_file
from jaxdissect.matrix_products import (
    MatrixProduct,
    calls_for,
    launch_seconds,
    matrix_products,
    product_seconds,
    queued_seconds,
)
from jaxdissect.progress import progress_bar
from jaxdissect.run import device, versions
from jaxdissect.sharding import shard_clips
from jaxdissect.tasks.loader import Batch, unit_samples
from jaxdissect.tasks.table import LONGEST_SECONDS, LabelSet, Task
from jaxdissect.timings import Timing

STEP, TRANSFER, FRONT_END, ENCODER = STAGES = ("step", "transfer", "front end", "encoder")
LEAST_SECONDS = 0.1  # of one repetition, which runs a short stage several times
MANY_CLASSES = 527  # AudioSet's
AUDIOSET_CLIPS, AUDIOSET_SECONDS = 2_000_000, 10.0
SQUARE, SQUARE_ON_CPU = 8192, 2048  # side of the product whose rate is the device's best


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure how fast this machine decodes, encodes and counts, stage by stage, and what limits it.

    Attributes:
      encoder: encoder directory, the name of a shipped encoder, or package.module:factory.
      task: whose first clips to decode, beside synthesised ones: known task or a CSV in EVAR's format.
      data: data folder of the task.
      seconds: length of a clip, s. A known task brings its own.
      batch_sizes: clips per device and step to measure.
      dtypes: of the computation, float32 (float32 products) and bfloat16.
      classes: to count.
      rounds: in each of which everything is measured once, in turn.
      out: JSON file to write, with every repetition.
    """

    encoder: str
    task: str | None = None
    data: Path | None = None
    seconds: float = 6.0
    batch_sizes: tuple[int, ...] = (4, 16, 64)
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    classes: int = 50
    rounds: int = 5
    out: Path | None = None


@dataclasses.dataclass(frozen=True)
class ProductTime:
    """A matrix product of the step, measured alone.

    Attributes:
      primitive, left, right, types, settings, flop: see `MatrixProduct`; settings in words.
      times: how often a step computes it.
      seconds: that it takes once, the best of several.
    """

    primitive: str
    left: tuple[int, ...]
    right: tuple[int, ...]
    types: tuple[str, str]
    settings: dict[str, str]
    flop: int
    times: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """The rate of a step that were its encoder's matrix products alone.

    Attributes:
      products: every distinct one.
      flop_per_clip: floating-point operations of all of them, for one clip.
      seconds: of all of them, for a batch; None: there are none, or they could not be measured.
      clips_per_second: the ceiling.
      notes: what was left out, or went wrong.
    """

    products: tuple[ProductTime, ...]
    flop_per_clip: float
    seconds: float | None
    clips_per_second: float | None
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One dtype and batch size on one device; times in s per batch.

    Attributes:
      step: from PCM on the device to counts, as a run does it.
      transfer: of 16-bit PCM from the host to the device.
      front_end, encoder: alone, the encoder on what the front end puts out.
      counting: the step less front end and encoder, round by round; within noise of zero where counting is cheap.
      calls: of each stage in one repetition, whose mean is one value.
      clips_per_second, audio_seconds_per_second: of the median step.
      ceiling: the rate of the matrix products alone.
      share_of_ceiling: clips per second over the ceiling's.
      flop_per_second: of the median step, its encoder's products only.
      share_of_square: that over the rate of a large square product.
    """

    step: Timing
    transfer: Timing
    front_end: Timing
    encoder: Timing
    counting: Timing
    calls: dict[str, int]
    clips_per_second: float
    audio_seconds_per_second: float
    ceiling: Ceiling
    share_of_ceiling: float | None
    flop_per_second: float
    share_of_square: float | None


@dataclasses.dataclass(frozen=True)
class Row:
    """A dtype and batch size; `measured` is None where it does not fit, and `failure` says why."""

    dtype: str
    batch_size: int
    measured: Measured | None
    failure: str = ""


@dataclasses.dataclass(frozen=True)
class SquareProduct:
    """A product of two square matrices of side `size`: the device's best rate; None where it failed."""

    dtype: str
    size: int
    seconds: float | None
    flop_per_second: float | None
    failure: str = ""


@dataclasses.dataclass(frozen=True)
class ClassCost:
    """What more classes cost at a dtype's best batch size: the step in s per batch with `few` and `many` classes.

    `ratio` is the median over the rounds of many to few; None where many classes do not fit.
    """

    dtype: str
    batch_size: int
    few: int
    many: int
    few_seconds: Timing | None
    many_seconds: Timing | None
    ratio: float | None
    failure: str = ""


@dataclasses.dataclass(frozen=True)
class DecodeLoad:
    """Decoding AudioSet from one kind of source, scaled by seconds of audio.

    Attributes:
      source: see `DecodeRate`.
      core_hours: of one core.
      clips_per_second: of 10 s, on all cores of this machine.
      limit: "decoding" or "device", whichever is slower; None: one of them was not measured.
    """

    source: str
    core_hours: float
    clips_per_second: float
    limit: str | None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What AudioSet (2,000,000 clips of 10 s) would take, scaled by seconds of audio; not measured.

    Attributes:
      clips, clip_seconds: AudioSet's.
      dtype, batch_size: the fastest measured; None where none was.
      device_hours: of one device.
      device_clips_per_second: of 10 s, of one device.
      decode: the same of every source.
    """

    clips: int
    clip_seconds: float
    dtype: str | None
    batch_size: int | None
    device_hours: float | None
    device_clips_per_second: float | None
    decode: tuple[DecodeLoad, ...]


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """All that was measured.

    Attributes:
      options: what was asked for.
      encoder: its name.
      layers, neurons: of the encoder, neurons per layer.
      sample_rate: of the encoder, Hz.
      device: all devices of this process in words; one of them was measured.
      platform: of the device, e.g. "cpu".
      cores: processors that this process may use.
      versions: of packages.
      launch_seconds: that launching an empty program takes.
      rows: every dtype and batch size.
      squares: of every dtype.
      class_costs: of every dtype that was measured.
      decode: rates of every kind of source.
      estimate: for AudioSet.
    """

    options: BenchOptions
    encoder: str
    layers: int
    neurons: int
    sample_rate: int
    device: str
    platform: str
    cores: int
    versions: dict[str, str]
    launch_seconds: float
    rows: tuple[Row, ...]
    squares: tuple[SquareProduct, ...]
    class_costs: tuple[ClassCost, ...]
    decode: tuple[DecodeRate, ...]
    estimate: Estimate
