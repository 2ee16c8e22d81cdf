"""What reading neurons through a function's program costs, beside Flax's own capture and the model alone.

`python -m benchmarks.speed.reading --out benchmarks/results/reading-cpu.json`

Three compiled functions of a ViT take turns: the model alone; the activations that Flax's `capture_intermediates`
returns, with this package's reduction over tokens behind; and `read_neurons`. Recorded are the bytes that the compiler
accounts for, its temporaries, seconds of tracing and compiling, and seconds of every repetition.

Expected time: three minutes.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, PyTree

from benchmarks.common import options_record, table, write_record
from jaxdissect import load_encoder, read_neurons, stack_layers
from jaxdissect.activations.read import reduce_tokens
from jaxdissect.encoder.families.blocks import GELU
from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.types import Record


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes to measure."""

    out: Path | None = None  # the JSON file to write
    encoder: str = "m2d_tiny"
    clips: int = 16
    seconds: float = 5.0  # of a clip
    rounds: int = 15


def functions(encoder: M2D) -> dict[str, Callable[[PyTree, Array], PyTree]]:
    """The three functions of (parameters, spectrogram)."""
    module = encoder.module

    def alone(params: PyTree, spectrogram: Array) -> PyTree:
        return module.apply(params, spectrogram)

    def captured(params: PyTree, spectrogram: Array) -> PyTree:
        def wanted(submodule: object, _: str) -> bool:
            return isinstance(submodule, GELU)

        output, state = module.apply(params, spectrogram, capture_intermediates=wanted, mutable=["intermediates"])
        blocks = [state["intermediates"][f"blocks_{layer}"]["mlp"]["act"] for layer in range(encoder.config.depth)]
        readings = {str(layer): reduce_tokens(block["__call__"][0], None, 0.0) for layer, block in enumerate(blocks)}
        return output, stack_layers(readings)

    def read(params: PyTree, spectrogram: Array) -> PyTree:
        output, readings = read_neurons(module, params, spectrogram, neurons=encoder.neurons)
        return output, stack_layers(readings)

    return {"alone": alone, "captured": captured, "read": read}


def main(options: Options) -> None:
    """Measure, print a table, and write the record."""
    encoder = load_encoder(options.encoder)
    assert isinstance(encoder, M2D)
    frames = encoder.log_mel.frames(round(options.seconds * encoder.sample_rate)) // encoder.config.patch_frames
    frames = min(frames * encoder.config.patch_frames, encoder.config.frames)  # one call of the blocks
    shape = (options.clips, frames, encoder.config.bands)
    spectrogram = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    params = {"params": encoder.variables["params"]}
    programs, rows = {}, dict[str, Record]()
    for name, function in functions(encoder).items():
        started = time.perf_counter()
        lowered = jax.jit(function).lower(params, spectrogram)
        traced = time.perf_counter()
        programs[name] = lowered.compile()
        compiled = time.perf_counter()
        cost: Any = programs[name].cost_analysis()
        memory: Any = programs[name].memory_analysis()
        rows[name] = {
            "bytes": cost["bytes accessed"],
            "operations": cost["flops"],
            "temporaries": memory.temp_size_in_bytes,
            "tracing_s": traced - started,
            "compiling_s": compiled - traced,
            "seconds": [],
        }
    expected, found = (programs[name](params, spectrogram)[1] for name in ("captured", "read"))
    same = all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True))
    for _ in range(options.rounds):
        for name, program in programs.items():  # in turns, so that other work on the machine slows all alike
            started = time.perf_counter()
            jax.block_until_ready(program(params, spectrogram))
            rows[name]["seconds"].append(time.perf_counter() - started)
    medians = {name: statistics.median(row["seconds"]) for name, row in rows.items()}
    cells = [
        [
            name,
            f"{row['bytes'] / 1e6:,.1f}",
            f"{row['temporaries'] / 2**20:,.1f}",
            f"{row['tracing_s']:.2f}",
            f"{row['compiling_s']:.2f}",
            f"{1e3 * medians[name]:,.1f}",
            f"{medians[name] / medians['captured']:.3f}",
        ]
        for name, row in rows.items()
    ]
    print(table(["function", "MB", "temporaries, MiB", "tracing, s", "compiling, s", "ms", "of captured"], cells))
    print(f"Readings are equal to the bit: {same}")
    if options.out is not None:
        packages = ("jax", "jaxlib", "flax")
        write_record(options.out, packages, options=options_record(options, "out"), shape=shape, equal=same, rows=rows)


if __name__ == "__main__":
    main(tyro.cli(Options))
