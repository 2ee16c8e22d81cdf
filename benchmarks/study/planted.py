"""Ground truth for selectors and significance: neurons that are known to answer to known classes, among noise.

`python -m benchmarks.study.planted --out benchmarks/results/planted.json --figures docs/figures` measures

1. how often anything is found without planted pairs, or with labels shuffled over recordings;
2. recall and false discovery rate of every selector with planted pairs, over strength, clips and classes;
3. the same on an encoder whose planted neurons hear tones in synthesised audio: the whole chain from WAV files on.

Selectors by score get the number of planted pairs, `aape` and `lape` the number of planted neurons; the permutation
test gets neither. `--record benchmarks/results/planted.json` prints and draws a record instead. Expected time: twenty
minutes; seconds with a record.
"""

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.common import options_record, table, write_record
from benchmarks.study.planted_encoder import hear_tones
from benchmarks.study.planted_figure import write_figure
from benchmarks.study.planted_null import ENOUGH, measure_null, print_null
from benchmarks.study.planted_selectors import LEVEL, SELECTORS, TESTED, columns, compare, means, standard_errors
from benchmarks.study.planted_stores import FOLDS, Design, composition, draw_sums, make_store, streams
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.types import Record

PLANTED, LAYERS, NEURONS = 3, 4, 128  # planted neurons of each class; layers; neurons of a layer, on the grid
REPETITIONS = 4  # of each point, at least
PROMISED_RECALL = 0.95


@dataclass(frozen=True)
class Options:
    """How much to draw, or a record to print."""

    out: Path | None = None  # the JSON file to write
    figures: Path | None = None  # folder of the figure and its data
    record: Path | None = None  # JSON file of an earlier run, which is printed and drawn instead
    runs: int = 400  # of each scenario in which there is nothing to find
    null_permutations: int = ENOUGH  # in each of these runs
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
        """These options, or what `quick` leaves of them."""
        if not self.quick:
            return self
        return dataclasses.replace(
            self, runs=10, pairs=1, encoders=2, strengths=(1.0, 3.0), clips_per_class=(20, 40), classes=(4, 10)
        )


def grid_point(options: Options, classes: int, clips_per_class: int, strength: float) -> Record:
    """Repetitions of one design, and their means."""
    design = Design(classes, clips_per_class, LAYERS, NEURONS, PLANTED, strength)
    raw = []
    for number in range(max(REPETITIONS, math.ceil(options.pairs / (classes * PLANTED)))):
        rng, seed = streams(options.seed, 1, classes, clips_per_class, round(100 * strength), number)
        store = make_store(design, rng)
        raw.append(compare(store, draw_sums(store, rng), options.permutations, seed))
    _, _, recordings = design.clips()
    return {
        "classes": classes,
        "clips_per_class": clips_per_class,
        "clips": classes * clips_per_class,
        "recordings_per_class": len(np.unique(recordings)) // classes,
        "strength": strength,
        **over_repetitions(raw),
    }


def over_repetitions(raw: list[dict[str, dict[str, float]]]) -> Record:
    """Means over repetitions, their standard errors, and the single values."""
    return {"mean": means(raw), "standard_error": standard_errors(raw), "repetitions": columns(raw)}


def holds_from(grid: list[Record]) -> list[Record]:
    """For each number of clips the least strength from which on the test finds what is planted, whatever the classes.

    "From which on" means at every point with as many clips or more and as much strength or more.
    """
    rows = []
    for clips in sorted({point["clips_per_class"] for point in grid}):
        for strength in sorted({point["strength"] for point in grid}):
            beyond = [p for p in grid if p["clips_per_class"] >= clips and p["strength"] >= strength]
            together = taken_together(beyond)
            if together["lowest_recall"] >= PROMISED_RECALL:
                recordings = min(point["recordings_per_class"] for point in beyond)
                point = {"clips_per_class": clips, "recordings_per_class": recordings, "strength": strength}
                rows.append({**point, **together})
                break
    return rows


def taken_together(points: list[Record]) -> dict[str, float]:
    """Lowest recall of the test at several points, and the false discovery rate of all that it finds at any of them.

    The false discovery rate of the worst point is given, too. As the highest of many means of few repetitions it is
    too high, by about its standard error.
    """
    weakest = min(points, key=lambda point: point["mean"][TESTED]["recall"])
    worst = max(points, key=lambda point: point["mean"][TESTED]["false"])
    raw = [point["repetitions"][TESTED] for point in points]
    pairs, false = (np.concatenate([values[name] for values in raw]) for name in ("pairs", "false"))
    return {
        "points": len(points),
        "lowest_recall": weakest["mean"][TESTED]["recall"],
        "lowest_recall_error": weakest["standard_error"][TESTED]["recall"],
        "false_of_all": float(pairs @ false / max(1, pairs.sum())),
        "highest_false": worst["mean"][TESTED]["false"],
        "highest_false_error": worst["standard_error"][TESTED]["false"],
    }


def measure(options: Options) -> Record:
    """The parts of the record."""
    null = measure_null(options.runs, options.null_permutations, options.seed)
    grid = measure_grid(options)
    return {"null": null, "grid": grid, "holds_from": holds_from(grid), "encoder": measure_encoders(options)}


def measure_encoders(options: Options) -> Record:
    """Small encoders that hear tones."""
    raw = []
    for number in progress_bar(range(options.encoders), what="Small encoders", unit="encoder"):
        rng, seed = streams(options.seed, 2, number)
        raw.append(compare(*hear_tones(rng), options.permutations, seed))
    return over_repetitions(raw)


def measure_grid(options: Options) -> list[Record]:
    """Every combination of classes, clips and strength."""
    grid = []
    points = list(itertools.product(options.classes, options.clips_per_class, options.strengths))
    with progress_bar(what="Planted pairs", total=sum(a * b for a, b, _ in points), unit="clip") as bar:
        for classes, clips, strength in points:
            grid.append(grid_point(options, classes, clips, strength))
            bar.update(classes * clips)
    return grid


def print_planted(results: Record) -> None:
    """Print recall / false discovery rate, and from where on the test finds what is planted."""

    def cells(mean: Mapping[str, Mapping[str, float]]) -> list[str]:
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
        print(f"Nowhere on the grid does q <= {LEVEL} find {PROMISED_RECALL:.0%} of the planted pairs.")


def main(options: Options) -> None:
    """Measure or read a record, print it, draw the figure, write the record of what was measured."""
    options, started = options.shortened(), time.perf_counter()
    results = measure(options) if options.record is None else json.loads(options.record.read_text())
    print_null(results["null"])
    print_planted(results)
    if options.figures is not None:
        write_figure(results["grid"], options.figures)
    if options.out is not None and options.record is None:
        write_record(
            options.out,
            ("jax", "flax", "numpy", "scipy"),
            options=options_record(options, "out", "figures", "record"),
            seconds=round(time.perf_counter() - started, 1),
            composition=composition(),
            **results,
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
