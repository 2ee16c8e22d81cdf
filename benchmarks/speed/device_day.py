"""All that an accelerator is needed for, in one call of at most eight minutes.

`python -m benchmarks.speed.device_day --out benchmarks/results/device-NAME.json` runs, in this order,

1. `exact`: counts and top clips on the device equal the processor's, and float32 products are no TF32;
2. `bfloat16` and `float32`: `benchmarks.speed.throughput` beside PyTorch, eager and compiled, each at its best batch;
3. `programs`: every program of `benchmarks.speed.programs`, and the counting step without each of its levers.

Each part runs in a process of its own. The file is written whole after each, so that a run that is cut loses only the
part that it was at. On a processor the same call is a rehearsal.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import PyTree

from benchmarks.common import write_record
from benchmarks.speed import programs
from benchmarks.speed.programs import PROGRAMS, WITHOUT, Size
from jaxdissect.activations import read
from jaxdissect.bench.matrix_products import repeated_seconds
from jaxdissect.counting import top_clips
from jaxdissect.encoder.families import attention
from jaxdissect.runtime.files import whole_file
from jaxdissect.runtime.sharding import local_mesh
from jaxdissect.types import Record

Part = Literal["exact", "bfloat16", "float32", "programs"]
PARTS: tuple[Part, ...] = ("exact", "bfloat16", "float32", "programs")
SHARES = {"exact": 0.15, "bfloat16": 0.4, "float32": 0.6}  # most of the time that is left; the last part has the rest
LEAST_SECONDS, REPETITIONS = 0.1, 5  # of a measurement; measurements


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run, and for how long."""

    out: Path  # the JSON file to write
    minutes: float = 8.0  # in all
    parts: tuple[Part, ...] = PARTS
    size: Size = "base"
    batch_sizes: tuple[int, ...] = (64, 256)  # clips a batch, for the comparison with PyTorch
    clips: int = 64  # of a batch, for `programs`
    seconds: float = 6.0  # length of a clip
    inside: bool = False  # this is the process of one part; its result goes to `out`

    def __post_init__(self) -> None:
        if min(self.minutes, self.clips, self.seconds, *self.batch_sizes) <= 0:
            raise SystemExit("--minutes, --clips, --seconds and --batch-sizes must be positive.")


def exact() -> Record:
    """Compare the device with the processor, on the same numbers."""
    rng = np.random.default_rng(0)
    host = jax.devices("cpu")[0]
    activations = rng.normal(size=(16, 191, 512)).astype(np.float32)
    masks = rng.random((16, 191)) < 0.7

    def summed(activation: jax.Array, mask: jax.Array) -> tuple[read.Reading, top_clips.TopClips]:
        reading = read.stack_layers({"layer": read.reduce_tokens(activation, mask, 0.0)})
        clips = jnp.arange(len(activation), dtype=jnp.int32)
        lists = top_clips.no_top_clips(10, 1, activation.shape[-1])
        return reading, top_clips.add_top_clips(lists, reading, clips >= 0, clips)

    (reading, top), (theirs, expected) = (
        jax.device_get(jax.jit(summed)(*jax.device_put((activations, masks), device)))
        for device in (jax.local_devices()[0], host)
    )
    a, b = rng.normal(size=(512, 512)), rng.normal(size=(512, 512))
    product = jnp.matmul(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), precision="highest")
    right = a.astype(np.float32).astype(np.float64) @ b.astype(np.float32).astype(np.float64)
    sides = [jnp.asarray(rng.normal(size=(4, 191, 12, 64)), jnp.bfloat16) for _ in range(3)]
    kernel, plain = (
        np.asarray(jax.jit(f)(*sides), np.float64) for f in (attention.attention, attention.plain_attention)
    )
    return {
        "counts_equal": bool((reading.active_tokens == theirs.active_tokens).all()),
        "maxima_equal": bool((reading.maximum == theirs.maximum).all()),
        "top_clips_equal": all(
            bool((x == y).all()) for x, y in zip(jax.tree.leaves(top), jax.tree.leaves(expected), strict=True)
        ),
        "sums_relative_error": float(np.abs(reading.sum - theirs.sum).max() / np.abs(theirs.sum).max()),
        "float32_product_relative_error": float(np.abs(np.asarray(product) - right).max() / np.abs(right).max()),
        "tf32_would_be_about": 5e-4,
        "bfloat16_attention_largest_difference": float(np.abs(kernel - plain).max()),
    }


def measure_programs(options: Options) -> Iterator[Record]:
    """Seconds and temporaries of every program, and of the counting step without each lever."""
    given = programs.Options("here", size=options.size, clips=options.clips, seconds=options.seconds)
    for dtype in ("bfloat16", "float32"):
        depth = programs.sizes(options.size).depth
        of = programs.given(dataclasses.replace(given, dtype=dtype), depth, local_mesh(jax.local_devices()[:1]))
        for name, lower in (PROGRAMS | WITHOUT).items():
            yield {"program": name, "dtype": dtype, **_timed(lower(of), options.clips)}


def _timed(lowered: jax.stages.Lowered, clips: int) -> Record:
    """Compile, run on noise, and time; or say why not."""
    try:
        began = time.perf_counter()
        compiled = lowered.compile()
        memory: Any = compiled.memory_analysis()
        facts = {"compile_seconds": round(time.perf_counter() - began, 2), "temporary_bytes": memory.temp_size_in_bytes}
        rng, device = np.random.default_rng(0), jax.local_devices()[0]
        held = [jax.device_put(jax.tree.map(partial(_noise, rng), each), device) for each in lowered.in_avals[0]]

        def call() -> PyTree:
            result = compiled(*held)
            for place, given in enumerate(held):
                if any(leaf.is_deleted() for leaf in jax.tree.leaves(given)):  # donated: the result takes its place
                    held[place] = result[0] if isinstance(result[0], type(given)) else result
            return result

        seconds = repeated_seconds(call, REPETITIONS, LEAST_SECONDS)
    except Exception as error:  # compilers and allocators raise many kinds; the other programs may run
        return {"failure": f"{type(error).__name__}: {str(error)[:300]}"}
    return facts | {"seconds": seconds, "clips_per_second": clips / float(np.median(seconds))}


def _noise(rng: np.random.Generator, leaf: jax.ShapeDtypeStruct) -> np.ndarray | jax.Array:
    """Zeros and ones for whole numbers, else small fractions; some devices multiply zeros faster."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    if np.issubdtype(leaf.dtype, np.integer) or leaf.dtype == bool:
        return rng.integers(0, 2, leaf.shape).astype(leaf.dtype)
    return (rng.standard_normal(leaf.shape, np.float32) * np.float32(0.02)).astype(leaf.dtype)


def run_part(part: Part, options: Options) -> None:
    """Run one part in this process, and write its result."""
    if part == "exact":
        write_record(options.out, ("jax", "jaxlib"), result=exact())
    elif part == "programs":
        rows: list[Record] = []
        for row in measure_programs(options):
            rows.append(row)
            write_record(options.out, ("jax", "jaxlib"), result=rows)


def command_of(part: Part, options: Options, out: Path) -> list[str]:
    """The command of a part."""
    sizes = ["--size", options.size, "--seconds", str(options.seconds)]
    if part in ("bfloat16", "float32"):
        module, words = "throughput", ["--dtypes", part, "--pairs", "5", "--memory-depths", "12", "--compile"]
        words += ["--batch-sizes", *map(str, options.batch_sizes)]
    else:
        module, words = "device_day", ["--inside", "--parts", part, "--clips", str(options.clips)]
    return [sys.executable, "-m", f"benchmarks.speed.{module}", "--out", str(out), *sizes, *words]


def run_within(command: list[str], out: Path, seconds: float) -> Record:
    """What a command writes within its time, and how it ended."""
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        ended = "done" if not done.returncode else (done.stderr.strip().splitlines() or ["no message"])[-1]
    except subprocess.TimeoutExpired:
        ended = f"stopped after {seconds:.0f} s"
    written = json.loads(out.read_text()) if out.exists() else None
    return {"ended": ended, "seconds": round(time.perf_counter() - began, 1), "written": written}


def main(options: Options, clock: Callable[[], float] = time.monotonic) -> None:
    """Run the parts one after another, each within its share of the time that is left."""
    if options.inside:
        (part,) = options.parts
        run_part(part, options)
        return
    end, results = clock() + 60 * options.minutes, dict[str, Record]()
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            out = Path(folder) / f"{part}.json"
            left = (end - clock()) * SHARES.get(part, 1.0)
            results[part] = run_within(command_of(part, options, out), out, max(left, 1.0))
            print(f"{part}: {results[part]['ended']}, {results[part]['seconds']} s", flush=True)
            with whole_file(options.out) as temporary:
                temporary.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
