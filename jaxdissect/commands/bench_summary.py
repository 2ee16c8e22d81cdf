"""What `jaxdissect bench` has measured, in words, for a terminal."""

from collections.abc import Iterator

from jaxdissect.bench.device import Measured, SquareProduct
from jaxdissect.bench.stage import BenchResult, Estimate
from jaxdissect.bench.timings import Timing
from jaxdissect.commands.summary import table

STAGES = (
    "The step runs from 16-bit PCM on the device to counts; transfer puts the PCM there, which a run does meanwhile.\n"
    "Counting is the step less front end and encoder, and may be within noise of zero."
)

ABOVE = (
    "Above 100% it is no ceiling: alone, a product pays for what the step's compiler merges with its neighbours, such "
    "as\nconversions of bfloat16 on a processor that computes in float32."
)


def bench_summary(result: BenchResult) -> str:
    """The device's rates, stages and ceilings; decoding; what AudioSet would take and what limits it."""
    options = result.options
    head = (
        f"{result.encoder}: {result.layers} layers of {result.neurons:,} neurons; clips of {options.seconds:g} s at "
        f"{result.sample_rate:,} Hz, {options.classes:,} classes.\n"
        f"One device of {result.device}; {_cores(result.cores)}. Median (min-max) of {options.rounds} interleaved "
        f"round{'s' if options.rounds > 1 else ''}."
    )
    parts = [head, _rates(result), _stages(result), *_notes(result), _decoding(result), _audioset(result)]
    return "\n\n".join(part for part in parts if part)


def _rates(result: BenchResult) -> str:
    """Clips per second of every type and batch size, and its shares; why some do not fit."""
    rows: list[list[str]] = []
    failures = []
    for row in result.rows:
        name = [row.dtype, f"{row.batch_size:,}"]
        if row.measured is None:
            rows.append([*name, "does not fit", *"----"])
            failures.append(f"{row.dtype}, batch {row.batch_size:,}, does not fit: {row.failure}")
            continue
        done = row.measured
        rows.append(
            [
                *name,
                f"{_number(done.clips_per_second)} ({_number(row.batch_size / done.step.most)}-"
                f"{_number(row.batch_size / done.step.least)})",
                _number(done.audio_seconds_per_second),
                _share(done.share_of_ceiling),
                _number(done.flop_per_second / 1e9),
                _share(done.share_of_square),
            ]
        )
    header = ["step", "batch", "clips/s", "audio s/s", "of the ceiling", "GFLOP/s", "of a square product"]
    return "\n".join([table(header, rows), *failures])


def _stages(result: BenchResult) -> str:
    """Milliseconds per batch of every stage."""
    rows = [
        [row.dtype, f"{row.batch_size:,}", *(_milliseconds(one) for one in _times(row.measured))]
        for row in result.rows
        if row.measured is not None
    ]
    if not rows:
        return ""
    return (
        table(["ms per batch", "batch", "step", "transfer", "front end", "encoder", "counting"], rows) + f"\n{STAGES}"
    )


def _times(done: Measured) -> Iterator[Timing]:
    yield from (done.step, done.transfer, done.front_end, done.encoder, done.counting)


def _notes(result: BenchResult) -> Iterator[str]:
    """What the ceiling is, its gaps, the square products, and what more classes cost."""
    measured = [row.measured for row in result.rows if row.measured is not None]
    if measured:
        lines = [
            f"The ceiling: the encoder's matrix products, each measured alone, the best of several; "
            f"{measured[0].ceiling.flop_per_clip / 1e9:,.3g} GFLOP a clip."
        ]
        lines += dict.fromkeys(note for done in measured for note in done.ceiling.notes)
        if any(done.share_of_ceiling is not None and done.share_of_ceiling > 1 for done in measured):
            lines.append(ABOVE)
        launches = [
            one for done in measured for one in done.ceiling.products if one.seconds < 2 * result.launch_seconds
        ]
        if launches:
            lines.append(
                f"{len(launches)} of the products take less than twice the {1e6 * result.launch_seconds:,.0f} us of a "
                f"launch, which hides their true time: the ceilings with them are higher."
            )
        yield "\n".join(lines + [_square(square) for square in result.squares])
    lines = []
    for cost in result.class_costs:
        what = f"{cost.many} classes ({cost.dtype}, batch {cost.batch_size:,})"
        if cost.few_seconds is None or cost.many_seconds is None or cost.ratio is None:
            lines.append(f"{what} could not be measured: {cost.failure}")
        else:
            lines.append(
                f"{what}: {_milliseconds(cost.many_seconds)} ms per batch against {_milliseconds(cost.few_seconds)} ms "
                f"with {cost.few:,}, {cost.ratio:.2f} times as long."
            )
    yield "\n".join(lines)


def _square(square: SquareProduct) -> str:
    what = f"A square product, {square.size:,} x {square.size:,} in {square.dtype}"
    if square.flop_per_second is None:
        return f"{what}, could not be measured: {square.failure}"
    return f"{what}: {_number(square.flop_per_second / 1e9)} GFLOP/s."


def _decoding(result: BenchResult) -> str:
    """What one core decodes, by source, and what AudioSet would take."""
    loads = {load.source: load for load in result.estimate.decode}
    rows, remarks = [], []
    for rate in result.decode:
        time, audio = rate.seconds, rate.audio_seconds_per_second
        if time is None or audio is None:
            remarks.append(f"{rate.source} could not be decoded: {rate.failure}")
            continue
        load = loads[rate.source]
        clips = f"{_number(1 / time.median)} ({_number(1 / time.most)}-{_number(1 / time.least)})"
        cells = [rate.source, f"{rate.audio_seconds / rate.clips:.3g}", clips, _number(audio)]
        rows.append([*cells, f"{load.core_hours:,.1f}", _number(load.clips_per_second), load.limit or "-"])
        if rate.unreadable:
            clips = f"{rate.unreadable:,} of {rate.clips + rate.unreadable:,} clips"
            remarks.append(f"{rate.source}: {clips} cannot be read and were left out.")
    header = [
        "decoding on one core", "clip, s", "clips/s", "audio s/s", "AudioSet, core-hours",
        f"{_cores(result.cores)}, 10-s clips/s", "the limit is",
    ]  # fmt: skip
    return "\n".join([table(header, rows), *remarks])


def _audioset(result: BenchResult) -> str:
    """Device-hours, and whether the device or decoding is the limit."""
    found: Estimate = result.estimate
    what = f"AudioSet ({found.clips:,} clips of {found.clip_seconds:g} s; scaled by seconds of audio, not measured)"
    if found.device_hours is None or found.device_clips_per_second is None:
        return f"{what}: no step was measured."
    lines = [
        f"{what}:",
        f"{found.device_hours:,.1f} device-hours of one device, {found.dtype}, batch {found.batch_size:,}.",
    ]
    taken = _number(found.device_clips_per_second)
    decode = f"{_cores(result.cores)} {'decode' if result.cores > 1 else 'decodes'}"
    own = found.decode[:1] if result.options.task else ()  # the task's files come first
    slowest_first = sorted(found.decode, key=lambda load: load.clips_per_second)
    lines += [
        f"From {load.source}, {decode} {_number(load.clips_per_second)} clips/s, the device takes {taken}: the limit "
        f"is {load.limit}."
        for load in dict.fromkeys((*own, *slowest_first[:1], *slowest_first[-1:]))
    ]
    if result.platform == "cpu":
        lines.append("Here the device is the processor itself: what decodes is taken from it.")
    return "\n".join(lines)


def _cores(cores: int) -> str:
    return f"{cores:,} core{'s' if cores > 1 else ''}"


def _milliseconds(timing: Timing) -> str:
    low, high = (_number(1000 * seconds) for seconds in (timing.least, timing.most))
    return f"{_number(1000 * timing.median)} ({low}-{high})"


def _number(value: float) -> str:
    """Three digits, or all of a larger number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
