"""`jaxdissect share`: which classes share neurons, in one run and across runs, and how much chance would share."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from jaxdissect.errors import InputError
from jaxdissect.options.share import ShareOptions
from jaxdissect.runtime.run_directory import Run, require_same_run
from jaxdissect.runtime.tables import read_netcdf, write_csv, write_netcdf
from jaxdissect.sharing.share import Sets, Sharing, read_sets, share


def run_share(options: ShareOptions) -> Sharing:
    """Compare, and write `sharing.csv` and `sharing.nc`.

    Raises:
      InputError: a run has no stage `neurons`, or its encoder has other layers or neurons.
    """
    started = time.perf_counter()
    run = Run(options.run)
    _require_different([options.run, *options.with_])
    own = read_sets(run)
    others = [sets for folder in options.with_ for sets in read_sets(Run(folder))]
    for sets in others:
        if sets.rate.shape != own[0].rate.shape:
            raise InputError(
                f"--with {sets.run}: its encoder has {sets.rate.shape[0]} layers of {sets.rate.shape[1]} neurons, that "
                f"of --run {run.path} {own[0].rate.shape[0]} of {own[0].rate.shape[1]}: they cannot be compared."
            )
    sharing = share(own, others, _read_permuted(run, own))
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


def _require_different(folders: Sequence[Path]) -> None:
    places = [folder.resolve() for folder in folders]
    for number, (folder, place) in enumerate(zip(folders, places, strict=True)):
        if place in places[:number]:
            raise InputError(
                f"--with {folder}: this run is compared already: name others. The label sets of --run are compared "
                f"with each other in any case."
            )


def _read_permuted(run: Run, own: Sequence[Sets]) -> dict[str, xr.Dataset]:
    """What permuted labels have shown in each label set, if they were drawn for these neurons."""
    if not run.file("permutations.nc").is_file():
        return {}
    null = read_netcdf(run.file("permutations.nc"))
    require_same_run(run, null.attrs, run.require("activations"))
    label_set = null["class_label_set"].values
    places = {sets.label_set: np.flatnonzero(label_set == sets.label_set) for sets in own}
    return {name: null.isel({"class": at, "class_b": at}) for name, at in places.items()}
