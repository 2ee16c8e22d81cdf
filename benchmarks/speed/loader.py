"""What the loader costs: a run that is fed from a folder against the same run on PCM that is in memory already.

`python -m benchmarks.speed.loader --data ESC-50 --out benchmarks/results/loader-cpu.json`. The same counting step,
the same batches; once from the files of the data set, once from prepared shards, once from arrays in memory.
Interleaved rounds.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from benchmarks.common import table, write_record
from jaxdissect import CountOptions, load_encoder, load_task, untrained_m2d, vit_config
from jaxdissect.counting.stream import Counter, count_clips
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.runtime.sharding import shard_clips
from jaxdissect.stages.prepare import PrepareOptions, run_prepare
from jaxdissect.tasks.loader import Batch, batches, clip_reader
from jaxdissect.tasks.table import Task


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    data: Path  # folder of ESC-50
    out: Path | None = None  # the JSON file to write
    sizes: tuple[str, ...] = ("tiny", "base")  # "tiny": the shipped encoder; others: random weights
    clips: tuple[int, ...] = (400, 48)  # counted with each size
    rounds: int = 7  # interleaved; in each everything runs once
    batch_size: int = 16


def from_memory(encoder: Encoder, task: Task, batch_size: int, ready: list[Batch]) -> None:
    """Count batches that lie in memory; the host waits as `count_clips` does, one batch behind."""
    counter = Counter(encoder, task, CountOptions(batch_size=batch_size), False, None, len(task))
    running: Any = None
    for batch in ready:
        started = counter.start(shard_clips(batch.arrays(), counter.mesh))
        if running is not None:
            np.asarray(running["finite"])
        running = started
    np.asarray(running["finite"])
    counter.totals()


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def variants(encoder: Encoder, files: Task, shards: Task, size: int) -> dict[str, Callable[[], Any]]:
    """The runs that are compared."""
    step = Counter(encoder, files, CountOptions(batch_size=size), False, None, len(files)).clips_per_step
    ready = list(batches(shards, encoder.sample_rate, step))
    count = CountOptions(batch_size=size)
    return {
        "memory": lambda: from_memory(encoder, shards, size, ready),
        "shards": lambda: count_clips(encoder, shards, count),
        "files": lambda: count_clips(encoder, files, count),
    }


def reading(task: Task, sample_rate: int) -> float:
    """Clips a second that one thread reads, of files in the system's cache."""
    read = clip_reader(task, sample_rate)
    names = task.file_names[:200]
    return len(names) / min(seconds(lambda: [read(name) for name in names]) for _ in range(3))


def measure(options: Options, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """All sizes, one after the other."""
    whole = load_task("esc50", options.data).only("test")
    prepared = load_task("esc50", folder).only("test")
    for size, clips in zip(options.sizes, options.clips, strict=True):
        encoder = load_encoder("m2d_tiny") if size == "tiny" else untrained_m2d(vit_config(size))
        chosen = np.linspace(0, len(whole) - 1, clips).astype(int).tolist()
        runs = variants(encoder, whole.rows(chosen), prepared.rows(chosen), options.batch_size)
        rounds = []
        for number in progress_bar(range(1 + options.rounds), what=f"{size}, {clips} clips", unit="round"):
            one = {name: seconds(run) for name, run in runs.items()}
            if number:  # the first compiles
                rounds.append(one)
        ratios = {name: np.array([one[name] / one["memory"] for one in rounds]) for name in ("shards", "files")}
        rates = {name: float(clips / np.median([one[name] for one in rounds])) for name in runs}
        yield (
            size,
            {
                "clips": clips,
                "seconds": rounds,
                "clips_per_second": rates,
                "times_memory": {
                    name: [float(np.median(r)), float(r.min()), float(r.max())] for name, r in ratios.items()
                },
            },
        )


def main(options: Options) -> None:
    """Prepare, measure, print and write down."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "prepared"
        run_prepare(PrepareOptions(task="esc50", data=options.data, out=out))
        results = dict(measure(options, out))
        read = {
            "ogg files": reading(load_task("esc50", options.data), 16000),
            "shards": reading(load_task("esc50", out), 16000),
        }
    rows = [
        (size, f"{found['clips_per_second']['memory']:.1f}", *map(_ratio, found["times_memory"].values()))
        for size, found in results.items()
    ]
    print(table(("encoder", "clips/s from memory", "time from shards / from memory", "from files / from memory"), rows))
    print(f"One thread reads {', '.join(f'{rate:,.0f} clips/s from {name}' for name, rate in read.items())}.")
    if options.out is not None:
        told = {name: value for name, value in dataclasses.asdict(options).items() if name not in ("data", "out")}
        write_record(
            options.out, ("jax", "numpy", "grain", "array-record"), options=told,
            devices=jax.local_device_count(), results=results, read_by_one_thread=read,
        )  # fmt: skip


def _ratio(found: list[float]) -> str:
    return f"{found[0]:.3f} ({found[1]:.3f}-{found[2]:.3f})"


if __name__ == "__main__":
    main(tyro.cli(Options))
