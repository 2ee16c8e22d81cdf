"""Ground truth for selectors and significance: neurons that are known to answer to known classes, among noise.

`python -m benchmarks.study.planted --out benchmarks/results/planted.json`;
`python -m benchmarks.study.planted_figure` draws what it has written.

1. With no planted pairs, or with labels shuffled over recordings: how often is anything found?
2. With planted pairs: recall and false discovery rate of every selector over strength, clips and classes.
3. The same on an encoder whose planted neurons hear tones in synthesised audio: the whole chain from WAV files on.

Selectors by score are told how many pairs are planted, `aape` and `lape` how many neurons; the test is told nothing.
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
from benchmarks.study.planted_encoder import hear_tones
from benchmarks.study.planted_null import ENOUGH, measure_null, print_null
from benchmarks.study.planted_selectors import LEVEL, SELECTORS, TESTED, columns, compare, means, standard_errors
from benchmarks.study.planted_stores import FOLDS, Design, composition, draw_sums, make_store, streams
from jaxdissect.runtime.progress import progress_bar

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

    From there on: at every point with as many clips or more and as much strength or more.
    """
    rows = []
    for clips in sorted({point["clips_per_class"] for point in grid}):
        for strength in sorted({point["strength"] for point in grid}):
            beyond = [p for p in grid if p["clips_per_class"] >= clips and p["strength"] >= strength]
            found = taken_together(beyond)
            if found["lowest_recall"] >= PROMISED:
                recordings = min(point["recordings_per_class"] for point in beyond)
                what = {"clips_per_class": clips, "recordings_per_class": recordings, "strength": strength}
                rows.append({**what, **found})
                break
    return rows


def taken_together(points: list[dict[str, Any]]) -> dict[str, float]:
    """Of the test at several points: the lowest recall, and what is false among all that it finds at any of them.

    The rate of the worst point is stated beside. As the highest of many means of few repetitions it is too high, by
    about its standard error.
    """
    weakest = min(points, key=lambda point: point["mean"][TESTED]["recall"])
    worst = max(points, key=lambda point: point["mean"][TESTED]["false"])
    raw = [point["repetitions"][TESTED] for point in points]
    pairs, false = (np.concatenate([one[what] for one in raw]) for what in ("pairs", "false"))
    return {
        "points": len(points),
        "lowest_recall": weakest["mean"][TESTED]["recall"],
        "lowest_recall_error": weakest["standard_error"][TESTED]["recall"],
        "false_of_all": float(pairs @ false / max(1, pairs.sum())),
        "highest_false": worst["mean"][TESTED]["false"],
        "highest_false_error": worst["standard_error"][TESTED]["false"],
    }


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
        names = ("lowest_recall", "highest_false")
        recall, false = (f"{row[name]:.1%} (standard error {row[f'{name}_error']:.1%})" for name in names)
        print(
            f"With {row['clips_per_class']} clips ({row['recordings_per_class']} recordings) or more of each class and "
            f"a strength of {row['strength']:g} or more, q <= {LEVEL} finds at least {recall} of what is planted; "
            f"{row['false_of_all']:.1%} of all that it finds is false, {false} at the worst of {row['points']} points."
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
