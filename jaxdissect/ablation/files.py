"""Files of the stage `ablate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from jaxdissect.ablation.results import Ablation
from jaxdissect.ablation.suites import Intervention
from jaxdissect.neuron_set_files import write_evar
from jaxdissect.results import read_netcdf, write_csv, write_netcdf
from jaxdissect.run import Run

CAUSAL = "margin_effect"


def save_ablation(
    place: Run,
    run: Run,
    done: Ablation,
    effects: Mapping[str, Float[np.ndarray, "class layer neuron"]] | None,
    check: pd.DataFrame | None,
    record: dict[str, Any],
) -> None:
    """Write what was ablated.

    Args:
      place: run directory to write to.
      run: that holds the scores, beside which the causal map is put.
      done: tables.
      effects: the causal map of each label set.
      check: of it.
      record: for `run.json`.
    """
    place.reopen("ablate")
    write_csv(done.table, place.file("ablation.csv"))
    write_csv(done.controls, place.file("ablation_controls.csv"))
    write_csv(done.suite, place.file("ablation_suite.csv"))
    write_csv(done.sets, place.file("ablation_sets.csv"))
    if effects is not None:
        scores = read_netcdf(run.file("scores.nc")) if run.file("scores.nc").is_file() else xr.Dataset()
        write_netcdf(with_effects(scores, effects, done.table), place.file("scores.nc"))
    if check is not None:
        write_csv(check, place.file("causal_map.csv"))
    place.finish("ablate", record)


def with_effects(scores: xr.Dataset, effects: Mapping[str, np.ndarray], table: pd.DataFrame) -> xr.Dataset:
    """Scores with the causal map beside them."""
    classes = table.drop_duplicates(["label_set", "class"])
    layers, neurons = next(iter(effects.values())).shape[1:]
    return scores.drop_vars([CAUSAL, "class", "class_label_set"], errors="ignore").assign_coords(
        {
            "layer": scores.get("layer", np.arange(layers)),
            "neuron": scores.get("neuron", np.arange(neurons)),
            "class": ("class", classes["class"].to_numpy(object)),
            "class_label_set": ("class", classes["label_set"].to_numpy(object)),
        }
    ).assign(
        {
            CAUSAL: (
                ("class", "layer", "neuron"),
                np.concatenate([effects[name] for name in dict.fromkeys(classes["label_set"])]),
                {"long_name": "first-order change of the class's mean margin when the neuron falls silent, logits"},
            )
        }
    )  # fmt: skip


def write_sets(folder: Path, chosen: tuple[Intervention, ...]) -> None:
    """Every neuron set with its gain as a configuration of EVAR."""
    for one in chosen:
        write_evar(folder / f"{_file_name(one.name)}.yaml", one.neurons, one.gain)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in " _-.&" else "_" for letter in name).strip()[:100]
