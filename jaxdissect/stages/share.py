"""The stage `share`: which classes share neurons, within a run and across runs, and how much chance would share."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from jaxdissect.errors import require
from jaxdissect.options.share import ShareOptions
from jaxdissect.runtime.run_directory import Run, require_same_run
from jaxdissect.runtime.tables import read_netcdf, write_csv, write_netcdf
from jaxdissect.sharing.share import Sets, Sharing, read_sets, share


def run_share(options: ShareOptions) -> Sharing:
    """Compare neuron sets, and write `sharing.csv` and `sharing.nc`.

    Args:
      options: options of the stage.

    Raises:
      InputError: a run has no stage `neurons`, or its encoder has other layers or neurons.
    """
    started = time.perf_counter()
    run = Run(options.run)
    require_different([options.run, *options.with_])
    sets_here = read_sets(run)
    sets_of_others = [sets for folder in options.with_ for sets in read_sets(Run(folder))]
    layers, neurons = sets_here[0].rate.shape
    for sets in sets_of_others:
        require(
            sets.rate.shape == (layers, neurons),
            f"--with {sets.run}: its encoder has {sets.rate.shape[0]} layers of {sets.rate.shape[1]} neurons, that of "
            f"--run {run.path} {layers} of {neurons}: they cannot be compared.",
        )
    sharing = share(sets_here, sets_of_others, _read_permuted(run, sets_here))
    with run.locked():
        run.reopen("share")
        write_csv(sharing.table, run.file("sharing.csv"))
        write_netcdf(sharing.matrices, run.file("sharing.nc"))
        record = {
            "options": {"with": [str(folder) for folder in options.with_]},
            "fingerprints": run.require("neurons")["fingerprints"],
            "other_encoders": list(sharing.other_encoders),
            "seconds": round(time.perf_counter() - started, 3),
            "status": "done",
        }
        run.finish("share", record)
    return sharing


def require_different(folders: Sequence[Path]) -> None:
    """Refuse a run that is named twice.

    Raises:
      InputError: names the folder.
    """
    places = [folder.resolve() for folder in folders]
    for number, (folder, place) in enumerate(zip(folders, places, strict=True)):
        require(
            place not in places[:number],
            f"--with {folder}: this run is compared already: name other runs. The label sets of --run are compared "
            f"with each other in any case.",
        )


def _read_permuted(run: Run, label_sets: Sequence[Sets]) -> dict[str, xr.Dataset]:
    """For every label set, what its classes share under permuted labels; empty where none were drawn."""
    if not run.file("permutations.nc").is_file():
        return {}
    null = read_netcdf(run.file("permutations.nc"))
    require_same_run(run, null.attrs, run.require("activations"))
    label_set = null["class_label_set"].values
    rows = {sets.label_set: np.flatnonzero(label_set == sets.label_set) for sets in label_sets}
    return {name: null.isel({"class": classes, "class_b": classes}) for name, classes in rows.items()}
