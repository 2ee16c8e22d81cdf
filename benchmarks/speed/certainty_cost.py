"""What certainty costs: permutations, other selectors, every clip's counts.

`python -m benchmarks.speed.certainty_cost --data ESC-50 --out benchmarks/results/certainty-cost-cpu.json`

1. Permutations of 2,000 clips of 50 classes with 9,216 and 36,864 neurons, each with the selection: seconds and peak
   memory, the same in NumPy (BLAS), and the matrix products alone.
2. Counting ESC-50 with and without every clip's counts, interleaved; and the other selectors' scores.

Expected time: fifteen minutes.
"""

import dataclasses
import multiprocessing
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.common import seconds_of, table, write_record
from jaxdissect.bench.matrix_products import matrix_products, product_seconds
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.runtime.machine import peak_memory
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.selection.aape import SelectionRule, select
from jaxdissect.selection.score_tables import class_scores
from jaxdissect.significance.permutation import AT_ONCE, CutOffs, PermutationTest
from jaxdissect.significance.unit_counts import UnitCounts, _sums
from jaxdissect.significance.units import find_units
from jaxdissect.stages.activations import run_activations
from jaxdissect.types import Record

CLIPS, CLASSES, FOLDS, TOKENS = 2000, 50, 5, 160  # of ESC-50; tokens of a clip
LAYERS = 12


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes to measure."""

    data: Path  # folder of ESC-50
    out: Path | None = None  # the JSON file to write
    encoder: str = "m2d_tiny"
    neurons: tuple[int, ...] = (9216, 36864)
    permutations: tuple[int, ...] = (1000, 200)  # of each number of neurons
    in_numpy: int = 20  # permutations of the peer
    rounds: int = 5  # of counting with and without every clip's counts


def draw_counts(neurons: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts (clip, layer, neuron) of independent neurons of very different rates, tokens and classes of the clips."""
    rng = np.random.default_rng(0)
    rate = 1 / (1 + np.exp(-rng.normal(-2, 1.5, (LAYERS, neurons // LAYERS))))
    counts = np.stack([rng.binomial(TOKENS, rate).astype(np.uint16) for _ in range(CLIPS)])
    members = np.eye(CLASSES, dtype=bool)[np.arange(CLIPS) % CLASSES]
    return counts, np.full(CLIPS, TOKENS), members


def permute(neurons: int, permutations: int, in_numpy: int) -> Record:
    """Time and memory of one number of neurons, in a process of its own."""
    counts, tokens, members = draw_counts(neurons)
    folds = (np.arange(CLIPS) // CLASSES % FOLDS).tolist()
    # In float32, so that BLAS adds them up; sums stay below 2^24 and so are exact.
    active = np.tensordot(members.T.astype(np.float32), counts.astype(np.float32), 1).astype(np.int64)
    chosen = select(active, members.T.astype(np.int64) @ tokens, SelectionRule("lape", 0.02))
    cut = CutOffs(chosen.aape_cutoff, chosen.rate_cutoff, chosen.probability_bar)
    started = time.perf_counter()
    units = UnitCounts(counts, tokens, find_units(members, list(range(CLIPS)), folds))
    test, shared = PermutationTest([units], cut, 0), np.zeros((CLASSES, CLASSES), np.int64)
    prepared = time.perf_counter() - started
    null = test.empty_null()
    seconds = seconds_of(lambda: test.run(permutations, null, shared))
    test.tested(null)
    return {
        "neurons": neurons,
        "permutations": permutations,
        "prepare_seconds": prepared,
        "seconds": seconds,
        "seconds_per_1000": 1000 * seconds / permutations,
        "peak_memory_mb": peak_memory() / 1e6,
        "products_seconds_per_1000": products_per_1000(units),
        "numpy_seconds_per_1000": numpy_per_1000(units, test, cut, in_numpy),
    }


def products_per_1000(units: UnitCounts) -> float:
    """Seconds that the sums over classes take alone in 1,000 permutations."""
    members = jnp.zeros((AT_ONCE // (CLASSES * units.chunks[0].shape[1]) or 1, CLASSES, len(units.tokens)))
    seconds = 0.0
    for chunk in units.chunks:
        products, _ = matrix_products(_sums, members, chunk)
        seconds += sum(count * product_seconds(product, chunk.device) for product, count in products.items())
    return 1000 * seconds / len(members)


def numpy_per_1000(units: UnitCounts, test: PermutationTest, cut: CutOffs, permutations: int) -> float:
    """The same permutations with NumPy, one at a time: sums by BLAS, statistics, histogram, AAPE, the cut-offs."""
    counts = np.concatenate([np.asarray(chunk) for chunk in units.chunks], axis=1)
    tokens, bins = units.tokens.astype(np.float32), np.linspace(0, 64, 4097)
    rate = (counts.sum(axis=0) / tokens.sum()).astype(np.float32)
    mean, scale = (np.concatenate([np.asarray(chunk[place]) for chunk in test.readings[0]], axis=1) for place in (2, 3))

    def permute_once(number: int) -> None:
        members = units.units.exchanged(np.random.default_rng([0, number])).T.astype(np.float32)
        active, class_tokens = members @ counts, (members @ tokens)[:, None]
        z = (active - class_tokens * rate - mean) * scale
        for row in z:
            np.histogram(row, bins)
        p = active / class_tokens
        q = p / np.maximum(p.sum(axis=0), 1e-30)
        aape = -(q * np.log(np.maximum(q, 1e-30))).sum(axis=0)
        passing = (p > cut.probability) & (aape <= cut.aape) & (p.mean(axis=0) > cut.rate)
        passing.astype(np.float32) @ passing.T.astype(np.float32)

    return 1000 * sum(seconds_of(partial(permute_once, number)) for number in range(permutations)) / permutations


def count(options: Options) -> Record:
    """Counting with and without every clip's counts, and the scores of other selectors from one pass."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            for keep in (True, False) if number % 2 else (False, True):
                run = Path(folder) / f"{keep}"
                shutil.rmtree(run, ignore_errors=True)
                counting = ActivationsOptions(
                    encoder=options.encoder, task="esc50", data=options.data, run=run, keep_clips=keep, split="all"
                )
                seconds[keep].append(seconds_of(partial(run_activations, counting)))
        counts = read_netcdf(run / "activations.nc")
        scoring = [seconds_of(lambda: class_scores(counts)) for _ in range(options.rounds)]
    kept, plain = seconds[True][1:], seconds[False][1:]  # the first compiles
    ratios = [with_clips / without for with_clips, without in zip(kept, plain, strict=True)]
    return {
        "clips": int(counts["total_clips"]),
        "with_clips_seconds": kept,
        "without_seconds": plain,
        "with_over_without": ratios,
        "median_ratio": statistics.median(ratios),
        "scores_seconds": scoring,
        "scores_over_counting": statistics.median(scoring) / statistics.median(plain),
    }


def main(options: Options) -> None:
    """Measure, print and write the record."""
    context, sizes = multiprocessing.get_context("spawn"), []
    for neurons, permutations in zip(options.neurons, options.permutations, strict=True):
        with context.Pool(1) as pool:
            sizes.append(pool.apply(permute, (neurons, permutations, options.in_numpy)))
    counting = count(options)
    print(table(list(sizes[0]), [[f"{value:,.4g}" for value in size.values()] for size in sizes]))
    print({name: value for name, value in counting.items() if not isinstance(value, list)})
    if options.out is not None:
        shape = {"clips": CLIPS, "classes": CLASSES, "folds": FOLDS, "tokens": TOKENS}
        write_record(options.out, ("jax", "numpy"), shape=shape, permutations=sizes, counting=counting)


if __name__ == "__main__":
    main(tyro.cli(Options))
