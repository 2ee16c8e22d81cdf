"""Ground truth for selectors and significance: neurons that are known to answer to known classes, among noise.

`python -m benchmarks.planted --out benchmarks/results/planted.json`;
`python -m benchmarks.planted_figure` draws what it has written.

1. With no planted pairs, or with labels shuffled over recordings: how often is anything found?
2. With planted pairs: recall and false discovery rate of every selector over strength, clips and classes.
3. The same on an encoder whose planted neurons hear tones in synthesised audio: the whole chain from WAV files on.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.common import table, write_record
from benchmarks.planted_encoder import hear_tones
from benchmarks.planted_null import ENOUGH, measure_null, print_null
from benchmarks.planted_selectors import LEVEL, SELECTORS, TESTED, columns, compare, means, standard_errors
from benchmarks.planted_stores import FOLDS, Design, composition, draw_sums, make_store, streams
from jaxdissect.progress import progress_bar

PLANTED, LAYERS, NEURONS = 3, 4, 128  # of each class; layers and their neurons, on the grid
REPETITIONS = 4  # of each point, at least
PROMISED = 0.95  # recall


@dataclass(frozen=True)
class Options:
    """How much to draw."""

    out: Path | None = None  # the JSON file to write
    runs: int = 400  # of each scenario without discoveries to make
    null_permutations: int = ENOUGH  # in each of those
    permutations: int = 200  # at least, where pairs are planted; more where classes are many (`permutations_for`)
    pairs: int = 180  # to plant at each point of the grid, at least, in `REPETITIONS` or more
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)  # log-odds
    clips_per_class: tuple[int, ...] = (20, 40, 80)
    classes: tuple[int, ...] = (4, 10, 50)
    encoders: int = 4  # at least 2; small encoders with audio of their own
    seed: int = 0
    quick: bool = False  # a smoke test: few runs, a corner of the grid

    def __post_init__(self) -> None:
        if min(self.runs, self.null_permutations, self.permutations, self.pairs, self.encoders - 1) < 1:
            raise SystemExit(
                "--runs, --null-permutations, --permutations and --pairs must be at least 1, --encoders at least 2."
            )
        if any(number < 1 or number % FOLDS for number in self.clips_per_class):
            raise SystemExit(f"--clips-per-class must be multiples of {FOLDS}, the number of folds.")

    def shortened(self) -> "Options":
        """What `quick` leaves of it."""
        if not self.quick:
            return self
        return dataclasses.replace(
            self, runs=10, pairs=1, encoders=2, strengths=(1.0, 3.0), clips_per_class=(20, 40), classes=(4, 10)
        )


def grid_point(options: Options, classes: int, clips_per_class: int, strength: float) -> dict[str, Any]:
    """Repetitions of one design, and their means."""
    design = Design(classes, clips_per_class, LAYERS, NEURONS, PLANTED, strength)
    raw = []
    for number in range(max(REPETITIONS, math.ceil(options.pairs / (classes * PLANTED)))):
        rng, seed = streams(options.seed, 1, classes, clips_per_class, round(100 * strength), number)
        store = make_store(design, rng)
        raw.append(compare(store, draw_sums(store, rng), options.permutations, seed))
    return {
        "classes": classes, "clips_per_class": clips_per_class, "clips": classes * clips_per_class,
        "recordings_per_class": len(np.unique(design.clips()[2])) // classes, "strength": strength,
        **over_repetitions(raw),
    }  # fmt: skip


def over_repetitions(raw: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Means, their standard errors, and what they are of."""
    return {"mean": means(raw), "standard_error": standard_errors(raw), "repetitions": columns(raw)}


def holds_from(grid: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each number of clips the least strength from which on the test finds what is planted, whatever the classes.

    Only pairs of strength and clips from which on recall stays, for more clips and more strength, at what is promised.
    """
    rows = []
    for clips in sorted({point["clips_per_class"] for point in grid}):
        for strength in sorted({point["strength"] for point in grid}):
            beyond = [p for p in grid if p["clips_per_class"] >= clips and p["strength"] >= strength]
            if min(point["mean"][TESTED]["recall"] for point in beyond) >= PROMISED:
                here = [p for p in beyond if p["clips_per_class"] == clips and p["strength"] == strength]
                rows.append(
                    {
                        "clips_per_class": clips,
                        "recordings_per_class": here[0]["recordings_per_class"],
                        "strength": strength,
                        "lowest_recall": min(point["mean"][TESTED]["recall"] for point in here),
                        "highest_fdr": max(point["mean"][TESTED]["false"] for point in here),
                    }
                )
                break
    return rows


def measure(options: Options) -> dict[str, Any]:
    """Everything."""
    null = measure_null(options.runs, options.null_permutations, options.seed)
    grid = measure_grid(options)
    return {"null": null, "grid": grid, "holds_from": holds_from(grid), "encoder": measure_encoders(options)}


def measure_encoders(options: Options) -> dict[str, Any]:
    """Small encoders that hear tones."""
    raw = []
    for number in progress_bar(range(options.encoders), what="Small encoders", unit="encoder"):
        rng, seed = streams(options.seed, 2, number)
        raw.append(compare(*hear_tones(rng), options.permutations, seed))
    return over_repetitions(raw)


def measure_grid(options: Options) -> list[dict[str, Any]]:
    """Every combination of classes, clips and strength."""
    grid = []
    points = list(itertools.product(options.classes, options.clips_per_class, options.strengths))
    with progress_bar(what="Planted pairs", total=sum(a * b for a, b, _ in points), unit="clip") as bar:
        for classes, clips, strength in points:
            grid.append(grid_point(options, classes, clips, strength))
            bar.update(classes * clips)
    return grid


def print_planted(results: Mapping[str, Any]) -> None:
    """Recall / false discovery rate, and from where on the test finds what is planted."""

    def cells(mean: Mapping[str, Any]) -> list[str]:
        return [f"{mean[name]['recall']:.2f} / {mean[name]['false']:.2f}" for name in SELECTORS]

    rows = [
        (point["classes"], point["clips_per_class"], point["strength"], *cells(point["mean"]))
        for point in results["grid"]
    ]
    print("\nRecall / false discovery rate:\n")
    print(table(["classes", "clips per class", "strength", *SELECTORS], rows))
    mean = results["encoder"]["mean"]
    print("\nThe same on a small encoder that hears tones:\n")
    print(table(SELECTORS, [cells(mean)]), "\n")
    for row in results["holds_from"]:
        print(
            f"With {row['clips_per_class']} clips ({row['recordings_per_class']} recordings) of each class, q <= "
            f"{LEVEL} finds at least {row['lowest_recall']:.1%} of the pairs planted with a strength of "
            f"{row['strength']:g} or more; false are at most {row['highest_fdr']:.1%} of what is found."
        )
    if not results["holds_from"]:
        print(f"Nowhere on the grid does q <= {LEVEL} find {PROMISED:.0%} of the planted pairs.")


def main(options: Options) -> None:
    """Measure, print and write down."""
    options, started = options.shortened(), time.perf_counter()
    results = measure(options)
    print_null(results["null"])
    print_planted(results)
    if options.out is not None:
        told = {name: value for name, value in dataclasses.asdict(options).items() if name != "out"}
        seconds = round(time.perf_counter() - started, 1)
        write_record(
            options.out, ("jax", "flax", "numpy", "scipy"), options=told, seconds=seconds, composition=composition(),
            **results,
        )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options))
