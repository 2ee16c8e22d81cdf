"""`jaxdissect bench`: measure how fast this machine counts and decodes."""

from collections.abc import Iterator

from jaxdissect.bench.rates import run_bench
from jaxdissect.commands.outcome import Outcome, table
from jaxdissect.options.bench import BenchOptions
from jaxdissect.types import Record

CEILING = "The ceiling: the encoder's matrix products, each measured alone, the best of several;"
ABOVE_CEILING = (
    "Above 100% it is no ceiling: alone, a product pays for its launch and for what the compiler merges with its\n"
    "neighbours in the step, such as conversions of bfloat16 on a processor that computes in float32."
)


def run(options: BenchOptions) -> Iterator[Outcome]:
    """Measure; the results are those that `--out` writes."""
    result = run_bench(options)
    files = () if options.out is None else (options.out,)
    yield Outcome(stage="bench", results=result, summary=bench_summary(result), files=files)


def bench_summary(result: Record) -> str:
    """Clips per second of every type and batch size beside the matrix products, and decoding.

    Args:
      result: JSON object that `run_bench` returned.
    """
    rounds = result["options"]["rounds"]
    head = (
        f"{result['encoder']}: {result['layers']} layers of {result['neurons']:,} neurons; clips of "
        f"{result['options']['seconds']:g} s at {result['sample_rate']:,} Hz.\n"
        f"One device of {result['device']}. Median (min-max) of {rounds} round{'s' if rounds > 1 else ''}."
    )
    cells = [_step_cells(row) for row in result["rows"]]
    steps = table(["step", "batch", "clips/s", "audio s/s", "of the ceiling", "GFLOP/s"], cells)
    return "\n\n".join([head, "\n".join([steps, *_notes(result)]), "\n".join(_decoding(result))]).rstrip()


def _step_cells(row: Record) -> list[str]:
    name, measured = [row["dtype"], f"{row['batch_size']:,}"], row["measured"]
    if measured is None:
        return [*name, "does not fit", *"---"]
    share = measured["share_of_ceiling"]
    return [
        *name,
        _rate(measured["step"], row["batch_size"]),
        _number(measured["audio_seconds_per_second"]),
        "-" if share is None else f"{share:.0%}",
        _number(measured["flop_per_second"] / 1e9),
    ]


def _notes(result: Record) -> Iterator[str]:
    """Failures; what the ceiling is, what it leaves out, and whether it is one."""
    for row in result["rows"]:
        if row["failure"]:
            yield f"{row['dtype']}, batch {row['batch_size']:,}, does not fit: {row['failure']}"
    measured = [row["measured"] for row in result["rows"] if row["measured"]]
    if measured:
        yield f"{CEILING} {measured[0]['ceiling']['flop_per_clip'] / 1e9:,.3g} GFLOP a clip."
        yield from dict.fromkeys(note for one in measured for note in one["ceiling"]["notes"])
    if any((one["share_of_ceiling"] or 0) > 1 for one in measured):
        yield ABOVE_CEILING


def _decoding(result: Record) -> Iterator[str]:
    """How fast one core decodes, and how many cores the fastest step needs."""
    decode = result["decode"]
    if decode is None:
        return
    clip_seconds, audio_rate = decode["audio_seconds"] / decode["clips"], decode["audio_seconds_per_second"]
    yield (
        f"{decode['source']}: one core decodes {_rate(decode['seconds'], 1)} clips/s of {clip_seconds:.3g} s, "
        f"{_number(audio_rate)} s of audio a second."
    )
    if decode["unreadable"]:
        count = f"{decode['unreadable']:,} of {decode['clips'] + decode['unreadable']:,} clips"
        yield f"{decode['source']}: {count} cannot be read and were left out."
    steps = [row["measured"]["audio_seconds_per_second"] for row in result["rows"] if row["measured"]]
    if steps:
        cores = _number(max(steps) / audio_rate)
        yield f"The fastest step takes what {cores} such cores decode; this process may use {result['cores']:,}."


def _rate(timing: Record, clips: int) -> str:
    """Clips per second: median (least-most)."""
    median, least, most = (_number(clips / timing[name]) for name in ("median", "most", "least"))
    return f"{median} ({least}-{most})"


def _number(value: float) -> str:
    """Three digits, or all of a larger number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
