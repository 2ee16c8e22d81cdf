"""How far counts differ that the same command made elsewhere: on another device, in other batches, in another type.

`python -m benchmarks.parity.compare_runs --reference CPU --runs GPU GPU-1 GPU-64 --out FILE.json`, with run
directories that `jaxdissect dissect` made. Compares the counts class by class and neuron by neuron, the top clips, and
the neurons chosen. Expected time: seconds.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
import xarray as xr

from benchmarks.common import table, write_record
from jaxdissect.runtime.run_directory import Run
from jaxdissect.types import Record

PAIR = ["label_set", "class", "layer", "neuron"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs to compare."""

    reference: Path  # run directory
    runs: tuple[Path, ...]  # run directories to compare with the reference
    out: Path | None = None  # the JSON file to write


def compare(run: Path, reference: Path) -> Record:
    """Numbers of differences between a run and the reference, and their sizes."""
    with xr.open_dataset(run / "activations.nc") as ours, xr.open_dataset(reference / "activations.nc") as theirs:
        if not (np.array_equal(ours.tokens, theirs.tokens) and np.array_equal(ours.clips, theirs.clips)):
            raise SystemExit(f"{run} and {reference} did not count the same clips.")
        # Signed integers, since a difference of unsigned ones would wrap around zero.
        difference = np.abs(ours.active_tokens.to_numpy().astype(np.int64) - theirs.active_tokens.to_numpy())
        total = np.abs(ours.total_active_tokens.to_numpy().astype(np.int64) - theirs.total_active_tokens.to_numpy())
        active = int(theirs.total_active_tokens.sum())
        squares = np.abs(ours.sum_squares.to_numpy() - theirs.sum_squares.to_numpy())
        largest_square = theirs.sum_squares.max()
    with xr.open_dataset(run / "scores.nc") as ours, xr.open_dataset(reference / "scores.nc") as theirs:
        kept = [int(scores.kept.sum()) for scores in (ours, theirs)]
        kept_by_both = int((ours.kept.to_numpy() & theirs.kept.to_numpy()).sum())
    with xr.open_dataset(run / "top_clips.nc") as ours, xr.open_dataset(reference / "top_clips.nc") as theirs:
        same_clip = ours["clip"].to_numpy() == theirs["clip"].to_numpy()
        highest = theirs.max_activation.to_numpy()
        error = np.abs(ours.max_activation.to_numpy() - highest).max(where=same_clip, initial=0.0)
    our_pairs, their_pairs = _chosen_pairs(run), _chosen_pairs(reference)
    return {
        "counts": difference.size,
        "differing": int((difference > 0).sum()),
        "largest_difference": int(difference.max()),
        "active_tokens": active,
        "active_tokens_differing_at_least": int(total.sum()),
        "sums_of_squares_largest_relative": float(squares.max() / largest_square),
        "top_clips_that_differ": float(1 - same_clip.mean()),
        "highest_activations_largest_relative": float(error / np.nanmax(highest)),
        "kept": [*kept, kept_by_both],
        "class_neuron_pairs": [len(our_pairs), len(their_pairs), len(our_pairs & their_pairs)],
        "made_with": made_with(run),
    }


def _chosen_pairs(run: Path) -> set[tuple[str, ...]]:
    chosen = pd.read_csv(run / "neurons.csv", dtype=str, keep_default_na=False)  # a class may be called NA
    return set(chosen[PAIR].itertuples(index=False, name=None))


def made_with(run: Path) -> Record:
    """Device, options and versions of a run, without the places of its files."""
    record = Run(run).require("activations")
    versions = {name: record["versions"][name] for name in ("jax", "jaxlib", "flax", "numpy")}
    options = {name: value for name, value in record["options"].items() if name not in ("data", "task")}
    described = {name: record[name] for name in ("device", "task", "encoder", "batch_size")}
    return {**described, "options": options, "versions": versions}


def main(options: Options) -> None:
    """Compare, print a table and write the record."""
    if len({run.name for run in options.runs}) < len(options.runs):
        raise SystemExit("--runs: two folders have the same name, by which the record would know them: rename one.")
    found = {run.name: compare(run, options.reference) for run in options.runs}
    head = (
        "run | counts (class, neuron) | differing | largest difference | active tokens that differ | "
        "highest activations, of the largest | kept neurons: run, reference, both | pairs of class and neuron"
    )
    rows = []
    for name, run in found.items():
        tokens = f"{run['active_tokens_differing_at_least']:,} of {run['active_tokens']:,}"
        highest = f"{run['highest_activations_largest_relative']:.1e}"
        chosen = [", ".join(map(str, run[what])) for what in ("kept", "class_neuron_pairs")]
        counts = [f"{run['counts']:,}", f"{run['differing']:,}", run["largest_difference"]]
        rows.append([name, *counts, tokens, highest, *chosen])
    print(table(head.split(" | "), rows))
    if options.out is not None:
        reference = {"name": options.reference.name, "made_with": made_with(options.reference)}
        write_record(options.out, ("numpy",), reference=reference, found=found)


if __name__ == "__main__":
    main(tyro.cli(Options))
