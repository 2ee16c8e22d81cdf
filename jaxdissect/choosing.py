"""The stage `neurons` of a run: from what was counted to class-specific neurons."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from jaxdissect.errors import InputError
from jaxdissect.files import cannot_write
from jaxdissect.results import Neurons, read_netcdf, select_neurons, write_csv, write_netcdf
from jaxdissect.run import Run, require_same_run
from jaxdissect.selection import SelectionRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronsOptions:
    """Choose the class-specific neurons of what was counted.

    Attributes:
      run: run directory that holds the counts.
      preset: aape, the audio paper's filters; lape, those of the language paper.
      keep: fraction of all neurons to keep. Default: the task's, 0.01, and 0.02 for esc50 and gise51.
      drop_weakest: fraction of neurons of the weakest activation rate that preset aape drops.
      bar: a kept neuron is specific to the classes whose probability exceeds this quantile of all probabilities.
      selector: score by which neurons are chosen; aape is the only one so far.
    """

    run: Path
    preset: Literal["aape", "lape"] = "aape"
    keep: float | None = None
    drop_weakest: float = 0.05
    bar: float = 0.95
    selector: Literal["aape"] = "aape"

    def rule(self, task_keep: float) -> SelectionRule:
        """The checked rule; `task_keep` serves where `keep` is not given."""
        keep = task_keep if self.keep is None else self.keep
        return SelectionRule(self.preset, keep, self.drop_weakest, self.bar)


def run_neurons(options: NeuronsOptions) -> Neurons:
    """Select, and write `scores.nc`, `neurons.csv` and `coverage.csv`.

    Raises:
      InputError: nothing was counted in this run directory, or its files are of different runs.
    """
    run = Run(options.run)
    counted = run.require("activations")
    rule = options.rule(counted.get("keep", SelectionRule.keep))
    started = time.perf_counter()
    counts = read_netcdf(run.file("activations.nc"))
    require_same_run(run, counts.attrs, counted)
    neurons = select_neurons(counts, rule)
    with run.locked():
        beside = _scores_of_classes(run, counted)
        forget_neurons(run)
        write_netcdf(neurons.scores.merge(beside), run.file("scores.nc"))
        write_csv(neurons.neurons, run.file("neurons.csv"))
        write_csv(neurons.coverage, run.file("coverage.csv"))
        record = {
            "options": dataclasses.asdict(rule) | {"selector": options.selector},
            "fingerprints": counted["fingerprints"],
            "seconds": round(time.perf_counter() - started, 3),
            "status": "done",
        }
        run.finish("neurons", record)
    return neurons


def _scores_of_classes(run: Run, counted: Mapping[str, Any]) -> xr.Dataset:
    """What the stage `ablate` has put into `scores.nc`, which does not depend on the neurons that are chosen."""
    ablated = run.stages().get("ablate", {}).get("fingerprints", {})
    if any(ablated.get(name) != value for name, value in counted["fingerprints"].items()):
        return xr.Dataset()
    try:
        scores = read_netcdf(run.file("scores.nc"))
    except InputError:
        return xr.Dataset()
    return scores[[name for name in scores if "class" in scores[name].dims]].drop_attrs(deep=False)


def forget_neurons(run: Run) -> None:
    """Strike the stage `neurons` and remove its files, before others take their place."""
    run.reopen("neurons")
    for name in ("scores.nc", "neurons.csv", "coverage.csv"):
        try:
            run.file(name).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(run.file(name), error) from error
