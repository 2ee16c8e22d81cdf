"""False discoveries of preset `auroc`: real activations under shuffled labels.

`python -m benchmarks.study.shuffled --runs runs/fsdd runs/esc50 --out benchmarks/results/shuffled.json` takes runs of
`jaxdissect dissect` with a test split. In each repetition it exchanges the labels of whole recordings among the clips
that choose, and among the clips that judge. It then chooses by the rule of preset `auroc`, with its permutations, and
counts repetitions in which any pair is found. It also judges the five neurons of each class with the highest AUROC,
whether significant or not: their held-out AUROC is near 0.5. Expected time: half an hour.
"""

import copy
import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Bool
from scipy.stats import binomtest

from benchmarks.common import table, write_record
from jaxdissect.counting.labelled import counted_classes, label_sets_of
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.selection.auroc import AurocRule, best_neurons
from jaxdissect.significance.assess import CertaintyOptions, assess_auroc
from jaxdissect.significance.auroc_choice import AurocScores, auroc_scores
from jaxdissect.significance.clips import Clips, read_clips
from jaxdissect.significance.held_out import Pairs, judge
from jaxdissect.significance.unit_counts import UnitRanks, best_readings
from jaxdissect.types import Record

EVERYTHING = AurocRule(least=0, level=1)  # five neurons of every class, whatever they are worth


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs whose labels are shuffled."""

    runs: tuple[Path, ...]  # run directories with every clip's counts
    out: Path  # the JSON file to write
    repetitions: int = 200
    permutations: int = 1000  # in each repetition
    every: int = 4  # of the neurons of a layer, one of so many takes part
    seed: int = 0


def thinned(clips: Clips, every: int) -> Clips:
    """The same clips with some of the neurons, in memory."""
    some = (slice(None), slice(None), slice(None, None, every))
    means, peaks, excesses = (np.ascontiguousarray(values[some]) for values in clips.readings())
    counts = np.ascontiguousarray(clips.counts[some])
    return dataclasses.replace(clips, counts=counts, means=means, peaks=peaks, excesses=excesses)


def relabelled(ranks: UnitRanks, members: np.ndarray) -> UnitRanks:
    """The same ranks with other classes of the units; ranks know nothing of labels."""
    result = copy.copy(ranks)
    result.units = dataclasses.replace(ranks.units, members=members)
    return result


def repetition(clips: Clips, scores: AurocScores, options: Options, number: int) -> Record:
    """Pairs found under one exchange of the labels, and the held-out AUROC of the best, significant or not."""
    rng = np.random.default_rng([options.seed, number])
    members = scores.readings[0].units.exchanged(rng)
    readings = tuple(relabelled(ranks, members) for ranks in scores.readings)
    auroc, reading = (values[0] for values in best_readings(readings, np.ones((1, len(members)), np.int64)))
    drawn = CertaintyOptions(options.permutations, 0, 0, seed=options.seed + number)
    found, certainty = assess_auroc(readings, auroc, AurocRule(), drawn)
    judging = dataclasses.replace(clips, members=held_out_classes(clips)).units()
    exchanged = judging.exchanged(rng)[judging.unit] & (judging.unit >= 0)[:, None]
    judged = judge(Pairs.of(best_neurons(auroc, EVERYTHING), reading), clips, exchanged, resamples=0)
    return {
        "found": int(found.sum()),
        "significant": int((certainty.q_value <= AurocRule.level).sum()),
        "held_out_auroc": float(np.nanmedian(judged.auroc)),
    }


def held_out_classes(clips: Clips) -> Bool[np.ndarray, "clip class"]:
    """Classes of the clips that judge."""
    if clips.held_out is None or not clips.held_out.any():
        raise SystemExit("The run holds no clips out: run `jaxdissect dissect` on a task with a test split.")
    return clips.held_out


def measure(folder: Path, options: Options) -> dict[str, Record]:
    """All repetitions of every label set of a run."""
    run = Run(folder)
    counts = read_netcdf(run.file("activations.nc"))
    clips = read_clips(run, counts)
    if clips is None:
        raise SystemExit(f"{folder} kept no clips: run `jaxdissect dissect` on a task with a test split.")
    result = {}
    for name in label_sets_of(counts):
        of_set = thinned(clips.of_classes(counted_classes(counts, name)), options.every)
        once = partial(repetition, of_set, auroc_scores(of_set), options)
        raw = [
            once(number)
            for number in progress_bar(range(options.repetitions), what=f"{folder.name} {name}", unit="run")
        ]
        any_found, any_significant = (sum(row[column] > 0 for row in raw) for column in ("found", "significant"))
        interval = binomtest(any_found, len(raw)).proportion_ci()
        result[name] = {
            "repetitions": len(raw),
            "any_found": any_found / len(raw),
            "any_found_95": [interval.low, interval.high],
            "any_significant": any_significant / len(raw),
            "held_out_auroc": float(np.median([row["held_out_auroc"] for row in raw])),
            "held_out_auroc_range": [
                min(row["held_out_auroc"] for row in raw),
                max(row["held_out_auroc"] for row in raw),
            ],
            "raw": raw,
        }
    return result


def main() -> None:
    """Shuffle, choose and judge."""
    options = tyro.cli(Options, description=__doc__)
    results = {folder.name: measure(folder, options) for folder in options.runs}
    head = ["run", "label set", "any found", "95%", "any q <= 0.05", "held-out AUROC", "range"]
    rows = [
        [
            folder,
            name,
            f"{row['any_found']:.1%}",
            "-".join(f"{end:.1%}" for end in row["any_found_95"]),
            f"{row['any_significant']:.1%}",
            f"{row['held_out_auroc']:.3f}",
            "-".join(f"{end:.3f}" for end in row["held_out_auroc_range"]),
        ]
        for folder, sets in results.items()
        for name, row in sets.items()
    ]
    print(table(head, rows))
    drawn = {"permutations": options.permutations, "every": options.every, "seed": options.seed}
    write_record(options.out, ("jax", "numpy", "scipy"), options=drawn, results=results)


if __name__ == "__main__":
    main()
