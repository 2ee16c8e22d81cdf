"""How far counts differ that the same command made elsewhere: on another device, in other batches, in another type.

`python -m benchmarks.parity.compare_runs --reference CPU --runs GPU GPU-1 GPU-64 --out FILE.json`, with run
directories that `jaxdissect dissect` made. Counts are compared class by class and neuron by neuron, and so are the
neurons chosen.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
import xarray as xr

from benchmarks.common import table, write_record
from jaxdissect.runtime.run_directory import Run

PAIR = ["label_set", "class", "layer", "neuron"]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare."""

    reference: Path  # run directory
    runs: tuple[Path, ...]  # run directories that are held to it
    out: Path | None = None  # the JSON file to write


def compare(run: Path, reference: Path) -> dict[str, Any]:
    """Of one run."""
    with xr.open_dataset(run / "activations.nc") as ours, xr.open_dataset(reference / "activations.nc") as theirs:
        if not (np.array_equal(ours.tokens, theirs.tokens) and np.array_equal(ours.clips, theirs.clips)):
            raise SystemExit(f"{run} and {reference} did not count the same clips.")
        difference = np.abs(ours.active_tokens.to_numpy().astype(np.int64) - theirs.active_tokens.to_numpy())
        total = np.abs(ours.total_active_tokens.to_numpy().astype(np.int64) - theirs.total_active_tokens.to_numpy())
        active = int(theirs.total_active_tokens.sum())
        square_sums = (one.sum_squares.to_numpy() for one in (ours, theirs))
        sums = float(np.abs(np.subtract(*square_sums)).max() / theirs.sum_squares.max())
    with xr.open_dataset(run / "scores.nc") as ours, xr.open_dataset(reference / "scores.nc") as theirs:
        kept, both = int(theirs.kept.sum()), int((ours.kept.to_numpy() & theirs.kept.to_numpy()).sum())
        kept_here = int(ours.kept.sum())
    with xr.open_dataset(run / "top_clips.nc") as ours, xr.open_dataset(reference / "top_clips.nc") as theirs:
        same = ours["clip"].to_numpy() == theirs["clip"].to_numpy()
        highest = theirs.max_activation.to_numpy()
        error = np.abs(ours.max_activation.to_numpy() - highest).max(where=same, initial=0.0) / np.nanmax(highest)
    one, other = (_pairs(folder) for folder in (run, reference))
    return {
        "counts": difference.size,
        "differing": int((difference > 0).sum()),
        "largest_difference": int(difference.max()),
        "active_tokens": active,
        "active_tokens_differing_at_least": int(total.sum()),
        "sums_of_squares_largest_relative": sums,
        "top_clips_that_differ": float(1 - same.mean()),
        "highest_activations_largest_relative": float(error),
        "kept": [kept_here, kept, both],
        "class_neuron_pairs": [len(one), len(other), len(one & other)],
        "made_with": made_with(run),
    }


def _pairs(run: Path) -> set[tuple[str, ...]]:
    table = pd.read_csv(run / "neurons.csv", dtype=str, keep_default_na=False)  # a class may be called NA
    return set(table[PAIR].itertuples(index=False, name=None))


def made_with(run: Path) -> dict[str, Any]:
    """Where and how a run was counted."""
    record = Run(run).require("activations")
    versions = {name: record["versions"][name] for name in ("jax", "jaxlib", "flax", "numpy")}
    options = {name: value for name, value in record["options"].items() if name not in ("data", "task")}
    told = {name: record[name] for name in ("device", "task", "encoder", "batch_size")}
    return {**told, "options": options, "versions": versions}


def main(options: Options) -> None:
    """Compare, print and write down."""
    if len({run.name for run in options.runs}) < len(options.runs):
        raise SystemExit("--runs: results go by the names of the folders, of which two are the same.")
    found = {run.name: compare(run, options.reference) for run in options.runs}
    head = ["run", "counts (class, neuron)", "differing", "largest difference", "active tokens that differ",
            "highest activations, of the largest", "kept neurons: here, there, both",
            "pairs of class and neuron"]  # fmt: skip
    rows = [
        [
            name, f"{one['counts']:,}", f"{one['differing']:,}", one["largest_difference"],
            f"{one['active_tokens_differing_at_least']:,} of {one['active_tokens']:,}",
            f"{one['highest_activations_largest_relative']:.1e}",
            *(", ".join(map(str, one[what])) for what in ("kept", "class_neuron_pairs")),
        ]
        for name, one in found.items()
    ]  # fmt: skip
    print(table(head, rows))
    if options.out is not None:
        reference = {"name": options.reference.name, "made_with": made_with(options.reference)}
        write_record(options.out, ("numpy",), reference=reference, found=found)


if __name__ == "__main__":
    main(tyro.cli(Options))
