"""How fast one device counts: the step of a run and its stages, against its matrix products measured alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int16

from jaxdissect.activations.read import read_neurons
from jaxdissect.bench.matrix_products import MatrixProduct, MatrixProducts, matrix_products, product_seconds
from jaxdissect.bench.timings import Failure, Rounds, Timing, attempt
from jaxdissect.counting.stream import Counter, CountOptions
from jaxdissect.encoder.protocol import Encoder, module_input
from jaxdissect.runtime.sharding import shard_clips
from jaxdissect.tasks.loader import Batch, unit_samples
from jaxdissect.tasks.table import LabelSet, Task

STEP, TRANSFER, FRONT_END, ENCODER = "step", "transfer", "front_end", "encoder"
LEAST_SECONDS = 0.1  # of one repetition, which runs a short stage several times
MANY_CLASSES = 527  # AudioSet's
SQUARE, SQUARE_ON_CPU = 8192, 2048  # side of the product whose rate is taken for the device's best


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Ceiling:
    """The rate of a step that consisted of its encoder's matrix products alone.

    Attributes:
      products: every distinct one.
      flop_per_clip: floating-point operations of all of them, for one clip.
      seconds: of all of them, for a batch; None: there are none, or they could not be measured.
      clips_per_second: the ceiling.
      notes: what was left out or assumed, or went wrong.
    """

    products: tuple[ProductTime, ...]
    flop_per_clip: float
    seconds: float | None
    clips_per_second: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SquareProduct:
    """A product of two square matrices of side `size`: the device's best rate; None where it failed."""

    dtype: str
    size: int
    seconds: float | None
    flop_per_second: float | None
    failure: str = ""


@dataclass(frozen=True)
class Measured:
    """One type of computation and batch size on one device; times in s per batch.

    Attributes:
      step: from PCM on the device to counts, as a run does it.
      transfer: of 16-bit PCM from the host to the device.
      front_end, encoder: alone, the encoder on what the front end puts out.
      counting: the step less front end and encoder, round by round: an estimate, which may be within noise of zero.
      calls: of each stage in one repetition, whose value is their mean.
      clips_per_second, audio_seconds_per_second: of the median step.
      ceiling: the rate of the matrix products alone.
      share_of_ceiling: clips per second over the ceiling's; above 1 where the compiler merges products with what
        stands around them, see `matrix_products`.
      flop_per_second: of the median step, only the products of its encoder.
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


@dataclass(frozen=True)
class Row:
    """A type of computation and a batch size; `measured` is None where it does not fit, and `failure` says why."""

    dtype: str
    batch_size: int
    measured: Measured | None
    failure: str = ""


@dataclass(frozen=True)
class ClassCost:
    """What more classes cost: the step in s per batch with `few` and with `many` classes, in turn.

    `ratio` is the median over the rounds of many to few; None where it does not fit, and `failure` says why.
    """

    dtype: str
    batch_size: int
    few: int
    many: int
    few_seconds: Timing | None
    many_seconds: Timing | None
    ratio: float | None
    failure: str = ""


@dataclass(frozen=True, eq=False)
class Workload:
    """Synthetic clips for one device.

    Attributes:
      device: to measure.
      seconds: length of a clip, s.
      sample_rate: Hz.
      classes: a clip is of a random one.
      pcm: of the largest batch.
    """

    device: jax.Device
    seconds: float
    sample_rate: int
    classes: int
    pcm: Int16[np.ndarray, "clip sample"]

    @staticmethod
    def make(device: jax.Device, seconds: float, sample_rate: int, classes: int, clips: int) -> "Workload":
        """Noise."""
        shape = (clips, round(seconds * sample_rate))
        pcm = np.random.default_rng(0).integers(-8000, 8000, shape, np.int16)
        return Workload(device, seconds, sample_rate, classes, pcm)

    def task(self, clips: int, classes: int) -> Task:
        """So many clips of random classes."""
        names = tuple(map(str, range(clips)))
        members = np.random.default_rng(1).integers(classes, size=(clips, 1)).tolist()
        labels = LabelSet("class", tuple(map(str, range(classes))), tuple(map(tuple, members)))
        return Task("noise", Path(), self.seconds, names, ("train",) * clips, (None,) * clips, (labels,))

    def counter(self, encoder: Encoder, clips: int, classes: int) -> tuple[Counter, dict[str, jax.Array]]:
        """What counts in a run, and a batch for it on the device."""
        task, numbers = self.task(clips, classes), np.arange(clips, dtype=np.int32)
        counter = Counter(encoder, task, CountOptions(batch_size=clips), False, [self.device], clips)
        members = np.append(task.members(range(clips)), np.ones((clips, 1), bool), axis=1)
        samples = np.full(clips, unit_samples(task, self.sample_rate), np.int32)
        batch = Batch(self.pcm[:clips], samples, numbers, members, ())
        return counter, shard_clips(batch.arrays(), counter.mesh)


def measure_rows(
    encoders: Mapping[str, Encoder],
    work: Workload,
    batch_sizes: Sequence[int],
    rounds: int,
    tick: Callable[[], object],
) -> tuple[tuple[Row, ...], tuple[SquareProduct, ...]]:
    """Time every type and batch size, all in turn in every round, and then their matrix products.

    Args:
      encoders: by type of computation.
      work: the clips.
      batch_sizes: clips per step.
      rounds: in each of which everything is measured once.
      tick: called `len(encoders) x (len(batch_sizes) x (rounds + 2) + 1)` times.
    """
    timed: dict[tuple[str, int], Rounds | Failure] = {}
    for dtype, encoder in encoders.items():
        for size in batch_sizes:
            timed[dtype, size] = attempt(partial(_stages, encoder, work, size))
            tick()
    for _ in range(rounds):
        for case, running in timed.items():
            failure = attempt(running.measure) if isinstance(running, Rounds) else None
            if failure is not None:
                timed[case] = failure
            tick()
    for running in timed.values():
        if isinstance(running, Rounds):
            running.release()  # the products need room, too
    squares = {dtype: _square(dtype, work.device, tick) for dtype in encoders}
    known: dict[MatrixProduct, float] = {}
    rows = []
    for (dtype, size), done in timed.items():
        if isinstance(done, Failure):
            rows.append(Row(dtype, size, None, done.reason))
        else:
            ceiling = measure_ceiling(encoders[dtype], work, size, known)
            rows.append(Row(dtype, size, _measured(done, size, work.seconds, ceiling, squares[dtype])))
        tick()
    return tuple(rows), tuple(squares.values())


def measure_class_cost(
    encoder: Encoder, dtype: str, work: Workload, clips: int, rounds: int, tick: Callable[[], object]
) -> ClassCost:
    """Time the step with the workload's classes and with those of AudioSet; calls `tick` `rounds + 1` times."""

    def begin() -> Rounds:
        counters = {name: work.counter(encoder, clips, classes) for name, classes in sizes.items()}
        return Rounds({name: partial(one.start, batch) for name, (one, batch) in counters.items()}, LEAST_SECONDS)

    sizes = {"few": work.classes, "many": MANY_CLASSES}
    timed: Rounds | Failure = attempt(begin)
    tick()
    for _ in range(rounds):
        failure = attempt(timed.measure) if isinstance(timed, Rounds) else None
        timed = failure or timed
        tick()
    if isinstance(timed, Failure):
        return ClassCost(dtype, clips, work.classes, MANY_CLASSES, None, None, None, timed.reason)
    few, many = timed.seconds["few"], timed.seconds["many"]
    ratio = float(np.median(np.divide(many, few)))
    return ClassCost(dtype, clips, work.classes, MANY_CLASSES, Timing.of(few), Timing.of(many), ratio)


def step_products(encoder: Encoder, samples: int, clips: int) -> MatrixProducts:
    """The matrix products of front end and module that the counts depend on; what follows the last neurons is not run.

    Args:
      encoder: any `Encoder`.
      samples: of a clip.
      clips: in a batch.
    """

    def read(variables: Any, pcm: Any) -> Any:
        return read_neurons(
            encoder.module, variables, module_input(encoder, variables, pcm), neurons=encoder.neurons
        )[1]  # fmt: skip

    return matrix_products(read, encoder.variables, jax.ShapeDtypeStruct((clips, samples), jnp.int16))


def measure_ceiling(
    encoder: Encoder, work: Workload, clips: int, known: dict[MatrixProduct, float] | None = None
) -> Ceiling:
    """Time the matrix products of a step one by one.

    Args:
      encoder: any `Encoder`.
      work: gives the device and the length of a clip.
      clips: in a batch.
      known: seconds of products that were measured before, to which these are added.
    """
    known = {} if known is None else known

    def measure() -> None:
        for product in found.counts:
            if product not in known:
                known[product] = product_seconds(product, work.device)

    found = step_products(encoder, work.pcm.shape[1], clips)
    failure = attempt(measure)
    notes = found.notes if failure is None else (*found.notes, f"A product could not be measured: {failure.reason}")
    products = tuple(
        ProductTime(
            one.primitive, one.left, one.right, one.types,
            {name: str(value) for name, value in one.settings if value is not None}, one.flop, times, known[one],
        )
        for one, times in found.counts.items()
        if one in known
    )  # fmt: skip
    seconds = sum(one.times * one.seconds for one in products) if failure is None else 0.0
    rate = clips / seconds if seconds else None
    return Ceiling(products, found.flop / clips, seconds or None, rate, notes)


def _stages(encoder: Encoder, work: Workload, clips: int) -> Rounds:
    """The step and its stages, compiled."""
    counter, batch = work.counter(encoder, clips, work.classes)
    front_end = jax.jit(partial(module_input, encoder))
    module = jax.jit(lambda variables, inputs: encoder.module.apply(variables, inputs))
    inputs = front_end(counter.variables, batch["pcm"])
    pcm = work.pcm[:clips]
    stages: dict[str, Callable[[], Any]] = {
        STEP: partial(counter.start, batch),
        TRANSFER: lambda: jax.block_until_ready(shard_clips(pcm, counter.mesh)),
        FRONT_END: partial(front_end, counter.variables, batch["pcm"]),
        ENCODER: partial(module, counter.variables, inputs),
    }
    return Rounds(stages, LEAST_SECONDS)


def _square(dtype: str, device: jax.Device, tick: Callable[[], object]) -> SquareProduct:
    size = SQUARE_ON_CPU if device.platform == "cpu" else SQUARE
    side = jax.ShapeDtypeStruct((size, size), jnp.dtype(dtype))
    (product,) = matrix_products(partial(jnp.matmul, precision="highest"), side, side).counts
    seconds = attempt(partial(product_seconds, product, device))
    tick()
    if isinstance(seconds, Failure):
        return SquareProduct(dtype, size, None, None, seconds.reason)
    return SquareProduct(dtype, size, seconds, product.flop / seconds)


def _measured(done: Rounds, clips: int, clip_seconds: float, ceiling: Ceiling, square: SquareProduct) -> Measured:
    seconds = done.seconds
    counting = np.subtract(seconds[STEP], np.add(seconds[FRONT_END], seconds[ENCODER])).tolist()
    step = Timing.of(seconds[STEP])
    rate = clips / step.median
    flop = rate * ceiling.flop_per_clip
    return Measured(
        step=step,
        transfer=Timing.of(seconds[TRANSFER]),
        front_end=Timing.of(seconds[FRONT_END]),
        encoder=Timing.of(seconds[ENCODER]),
        counting=Timing.of(counting),
        calls=done.calls,
        clips_per_second=rate,
        audio_seconds_per_second=rate * clip_seconds,
        ceiling=ceiling,
        share_of_ceiling=ceiling.clips_per_second and rate / ceiling.clips_per_second,
        flop_per_second=flop,
        share_of_square=square.flop_per_second and flop / square.flop_per_second,
    )
