"""`jaxdissect bench`: how fast this machine decodes, encodes and counts with an encoder, and what limits it."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from jaxdissect.bench.decode import DecodeRate, decode_rates, task_to_decode
from jaxdissect.bench.device import ClassCost, Row, SquareProduct, Workload, measure_class_cost, measure_rows
from jaxdissect.bench.matrix_products import launch_seconds
from jaxdissect.counting.stream import neuron_shape
from jaxdissect.encoder.directory import DTYPES, load_encoder
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.runtime.files import require_folder, require_regular, whole_file
from jaxdissect.runtime.machine import device, versions
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.tasks.loader import clip_reader
from jaxdissect.tasks.table import LONGEST_SECONDS

AUDIOSET_CLIPS, AUDIOSET_SECONDS = 2_000_000, 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure how fast this machine decodes, encodes and counts, stage by stage, and what limits it.

    Attributes:
      encoder: encoder directory, the name of a shipped encoder, or package.module:factory.
      task: whose first 200 clips to decode, beside synthesised ones: known task (esc50, ...), tfds:NAME, or a CSV in
        EVAR's format.
      data: data folder of the task, as it is or prepared.
      seconds: length of a clip, s; of the task to decode only where it brings none.
      batch_sizes: clips per device and step; each is measured.
      dtypes: of the computation, float32 (float32 products) and bfloat16; each is measured.
      classes: to count.
      rounds: in each of which everything is measured once, in turn.
      out: JSON file to write, which holds every repetition.
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
class DecodeLoad:
    """Decoding AudioSet from one kind of source, scaled by seconds of audio.

    Attributes:
      source: see `DecodeRate`.
      core_hours: of one core.
      clips_per_second: of 10 s, on all cores of this machine, as if they did not hinder each other.
      limit: "decoding" or "the device", whichever is slower; None where no step was measured.
    """

    source: str
    core_hours: float
    clips_per_second: float
    limit: str | None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What AudioSet would take, scaled by seconds of audio from what was measured.

    Attributes:
      clips, clip_seconds: AudioSet's size, 2,000,000 clips of 10 s.
      dtype, batch_size: the fastest that were measured; None where none was, as for the two that follow.
      device_hours: of one device.
      device_clips_per_second: of 10 s, on one device.
      decode: the same of every source that could be decoded.
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
      layers, neurons: of the encoder; neurons of a layer.
      sample_rate: of the encoder, Hz.
      device: all devices of this process in words; one of them was measured.
      platform: its kind, "cpu", "gpu" or "tpu".
      cores: that this process may use.
      versions: of packages.
      launch_seconds: that it takes to launch a program that does next to nothing, s.
      rows: every type of computation with every batch size.
      squares: the device's best rate in every type.
      class_costs: of every type, at its fastest batch size.
      decode: every kind of source.
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


def run_bench(options: BenchOptions) -> BenchResult:
    """Measure on the first device of this process, and on one of its cores; write `out` if it is given.

    A batch size that does not fit is reported in its row, and the others go on.

    Raises:
      InputError: an option, the encoder or the task breaks a rule, or `out` cannot be written.
    """
    _check(options)
    first, sizes = jax.local_devices()[0], options.batch_sizes
    with under_way(f"Loading {options.encoder}"):
        encoders: dict[str, Encoder] = {dtype: load_encoder(options.encoder, dtype) for dtype in options.dtypes}
    encoder = encoders[options.dtypes[0]]
    work = Workload.make(first, options.seconds, encoder.sample_rate, options.classes, max(sizes))
    layers, neurons = neuron_shape(encoder, work.task(1, options.classes))
    task = task_to_decode(options.task, options.data, options.seconds)
    if task is not None:
        clip_reader(task, encoder.sample_rate)  # a mistake is told before it all begins
    decode = decode_rates(encoder.sample_rate, options.seconds, options.rounds, task)
    steps = len(encoders) * (len(sizes) * (options.rounds + 2) + 1 + options.rounds + 1)
    with progress_bar(what=f"Measuring {encoder.name}", total=steps, unit="measurement") as bar:
        rows, squares = measure_rows(encoders, work, sizes, options.rounds, bar.update)
        fastest = [_fastest([row for row in rows if row.dtype == dtype]) for dtype in encoders]
        class_costs = [
            measure_class_cost(encoders[row.dtype], row.dtype, work, row.batch_size, options.rounds, bar.update)
            for row in fastest
            if row is not None
        ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    result = BenchResult(
        options=options,
        encoder=encoder.name,
        layers=layers,
        neurons=neurons,
        sample_rate=encoder.sample_rate,
        device=device(),
        platform=first.platform,
        cores=cores,
        versions=versions(),
        launch_seconds=launch_seconds(first),
        rows=rows,
        squares=squares,
        class_costs=tuple(class_costs),
        decode=decode,
        estimate=estimate(rows, decode, cores),
    )
    if options.out is not None:
        write_result(result, options.out)
    return result


def estimate(rows: Sequence[Row], decode: Sequence[DecodeRate], cores: int) -> Estimate:
    """Scale what was measured to AudioSet, by seconds of audio."""
    total = AUDIOSET_CLIPS * AUDIOSET_SECONDS
    best = _fastest(rows)
    rate = None if best is None or best.measured is None else best.measured.audio_seconds_per_second
    loads = []
    for source in decode:
        if source.audio_seconds_per_second is not None:
            all_cores = cores * source.audio_seconds_per_second
            limit = None if rate is None else "decoding" if all_cores < rate else "the device"
            core_hours = total / source.audio_seconds_per_second / 3600
            loads.append(DecodeLoad(source.source, core_hours, all_cores / AUDIOSET_SECONDS, limit))
    return Estimate(
        clips=AUDIOSET_CLIPS,
        clip_seconds=AUDIOSET_SECONDS,
        dtype=None if best is None else best.dtype,
        batch_size=None if best is None else best.batch_size,
        device_hours=None if rate is None else total / rate / 3600,
        device_clips_per_second=None if rate is None else rate / AUDIOSET_SECONDS,
        decode=tuple(loads),
    )


def write_result(result: BenchResult, out: Path) -> None:
    """Write all that was measured as strict JSON, whole or not at all.

    Raises:
      InputError: the file cannot be written.
    """
    text = json.dumps(dataclasses.asdict(result), indent=1, allow_nan=False, default=str)
    with whole_file(out) as temporary:
        temporary.write_text(text + "\n")


def _fastest(rows: Sequence[Row]) -> Row | None:
    """The row of the highest rate, among those that were measured."""
    return max(
        (row for row in rows if row.measured is not None),
        key=lambda row: row.measured.clips_per_second if row.measured else 0.0,
        default=None,
    )


def _check(options: BenchOptions) -> None:
    if not 0 < options.seconds <= LONGEST_SECONDS:
        raise InputError(
            f"--seconds must be a positive number of seconds, at most {LONGEST_SECONDS:g}, got {options.seconds}."
        )
    for name, values in (("--batch-sizes", options.batch_sizes), ("--dtypes", options.dtypes)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"{name} must be one or more, each given once, got {_listed(values)}.")
    if min(options.batch_sizes) < 1:
        raise InputError(f"--batch-sizes must be at least 1, got {_listed(options.batch_sizes)}.")
    unknown = [dtype for dtype in options.dtypes if dtype not in DTYPES]
    if unknown:
        raise InputError(f"--dtypes must be among {', '.join(DTYPES)}, got {unknown[0]!r}.")
    for name, value in (("--classes", options.classes), ("--rounds", options.rounds)):
        if value < 1:
            raise InputError(f"{name} must be a whole number, at least 1, got {value}.")
    if options.out is not None:
        require_regular(options.out)
        require_folder(options.out.parent)


def _listed(values: Sequence[Any]) -> str:
    return " ".join(map(str, values)) or "nothing"
