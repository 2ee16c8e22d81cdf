"""What the loader costs: a count that is fed from a folder against the same count of PCM that is in memory already.

`python -m benchmarks.speed.loader --data ESC-50 --out benchmarks/results/loader-cpu.json` runs the same counting step
on the same batches, in interleaved rounds: from the files of the data set, from prepared shards, and from arrays in
memory. Expected time: ten minutes.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import tyro
from jaxtyping import Array

from benchmarks.common import median_and_range, options_record, seconds_of, table, write_record
from jaxdissect import CountOptions, load_encoder, load_task, untrained_m2d, vit_config
from jaxdissect.counting.stream import Counter, count_clips
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.options.prepare import PrepareOptions
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.runtime.sharding import shard_clips
from jaxdissect.stages.prepare import run_prepare
from jaxdissect.tasks.loader import Batch, batches, clip_reader
from jaxdissect.tasks.table import Task
from jaxdissect.types import Record

READ_CLIPS, READ_TRIES = 200, 3  # clips that one thread reads, and how often; the best counts


@dataclasses.dataclass(frozen=True)
class Options:
    """Encoders and clips to measure."""

    data: Path  # folder of ESC-50
    out: Path | None = None  # the JSON file to write
    sizes: tuple[str, ...] = ("tiny", "base")  # "tiny": the shipped encoder; others: random weights
    clips: tuple[int, ...] = (400, 48)  # clips to count with each size
    rounds: int = 7  # interleaved; in each everything runs once
    batch_size: int = 16


def count_from_memory(encoder: Encoder, task: Task, batch_size: int, ready: list[Batch]) -> None:
    """Count batches that are in memory; the host waits as `count_clips` does, one batch behind."""
    counter = Counter(encoder, task, CountOptions(batch_size=batch_size), False, None, len(task))
    running: dict[str, Array] | None = None
    for batch in ready:
        started = counter.start(shard_clips(batch.arrays(), counter.mesh))
        if running is not None:
            np.asarray(running["finite"])
        running = started
    counter.totals()  # waits for the last batch


def variants(encoder: Encoder, files: Task, shards: Task, size: int) -> dict[str, Callable[[], object]]:
    """The counts to compare."""
    step = Counter(encoder, files, CountOptions(batch_size=size), False, None, len(files)).clips_per_step
    ready = list(batches(shards, encoder.sample_rate, step))
    options = CountOptions(batch_size=size)
    return {
        "memory": lambda: count_from_memory(encoder, shards, size, ready),
        "shards": lambda: count_clips(encoder, shards, options),
        "files": lambda: count_clips(encoder, files, options),
    }


def reading_rate(task: Task, sample_rate: int) -> float:
    """Clips a second that one thread reads, of files in the system's cache."""
    read = clip_reader(task, sample_rate)
    names = task.file_names[:READ_CLIPS]
    return len(names) / min(seconds_of(lambda: [read(name) for name in names]) for _ in range(READ_TRIES))


def measure(options: Options, folder: Path) -> Iterator[tuple[str, Record]]:
    """Results of all sizes, one after the other."""
    files = load_task("esc50", options.data).only("test")
    shards = load_task("esc50", folder).only("test")
    for size, clips in zip(options.sizes, options.clips, strict=True):
        encoder = load_encoder("m2d_tiny") if size == "tiny" else untrained_m2d(vit_config(size))
        evenly = np.linspace(0, len(files) - 1, clips).astype(int).tolist()
        counts = variants(encoder, files.rows(evenly), shards.rows(evenly), options.batch_size)
        rounds = [
            {name: seconds_of(count) for name, count in counts.items()}
            for _ in progress_bar(range(1 + options.rounds), what=f"{size}, {clips} clips", unit="round")
        ]
        del rounds[0]  # it compiles
        ratios = {name: [one[name] / one["memory"] for one in rounds] for name in ("shards", "files")}
        result = {
            "clips": clips,
            "seconds": rounds,
            "clips_per_second": {name: float(clips / np.median([one[name] for one in rounds])) for name in counts},
            "times_memory": {name: median_and_range(ratio) for name, ratio in ratios.items()},
        }
        yield size, result


def main(options: Options) -> None:
    """Prepare, measure, print and write the record."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared"
        run_prepare(PrepareOptions(task="esc50", data=options.data, out=prepared))
        results = dict(measure(options, prepared))
        reading = {
            "ogg files": reading_rate(load_task("esc50", options.data), 16000),
            "shards": reading_rate(load_task("esc50", prepared), 16000),
        }
    rows = [
        (size, f"{result['clips_per_second']['memory']:.1f}", *map(_ratio, result["times_memory"].values()))
        for size, result in results.items()
    ]
    print(table(("encoder", "clips/s from memory", "time from shards / from memory", "from files / from memory"), rows))
    print(f"One thread reads {', '.join(f'{rate:,.0f} clips/s from {name}' for name, rate in reading.items())}.")
    if options.out is not None:
        write_record(
            options.out,
            ("jax", "numpy", "grain", "array-record"),
            options=options_record(options, "data", "out"),
            devices=jax.local_device_count(),
            results=results,
            read_by_one_thread=reading,
        )


def _ratio(values: list[float]) -> str:
    median, least, most = values
    return f"{median:.3f} ({least:.3f}-{most:.3f})"


if __name__ == "__main__":
    main(tyro.cli(Options))
