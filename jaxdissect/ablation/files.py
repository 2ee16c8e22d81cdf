"""Files of the stage `ablate`."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from jaxdissect.ablation.interventions import Intervention
from jaxdissect.ablation.tables import Ablation
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.tables import read_netcdf, write_csv, write_netcdf
from jaxdissect.selection.neuron_set_files import write_evar

CAUSAL = "margin_effect"


def read_scores(run: Run, probe: str) -> xr.Dataset:
    """The scores of a run, without a causal map that was made with other probes.

    Args:
      run: run directory; it may have none.
      probe: fingerprint of its probes.

    Raises:
      InputError: the file is damaged.
    """
    if not run.file("scores.nc").is_file():
        return xr.Dataset()
    scores = read_netcdf(run.file("scores.nc"))
    if CAUSAL in scores and scores[CAUSAL].attrs.get("probe_sha256") != probe:
        scores = scores.drop_vars([CAUSAL, "class", "class_label_set"], errors="ignore")
    return scores


def save_ablation(place: Run, done: Ablation, scores: xr.Dataset, record: dict[str, Any]) -> None:
    """Write what was ablated, and strike what belongs to other probes.

    Args:
      place: run directory to write to.
      done: tables.
      scores: of `read_scores`.
      record: for `run.json`.
    """
    place.reopen("ablate")
    write_csv(done.table, place.file("ablation.csv"))
    write_csv(done.controls, place.file("ablation_controls.csv"))
    write_csv(done.suite, place.file("ablation_suite.csv"))
    write_csv(done.sets, place.file("ablation_sets.csv"))
    if CAUSAL not in scores:
        place.file("causal_map.csv").unlink(missing_ok=True)
        if scores:
            write_netcdf(scores, place.file("scores.nc"))
    place.finish("ablate", record)


def save_causal_map(
    run: Run,
    scores: xr.Dataset,
    effects: Mapping[str, Float[np.ndarray, "class layer neuron"]],
    check: pd.DataFrame | None,
    table: pd.DataFrame,
    record: dict[str, Any],
) -> None:
    """Put the causal map beside the scores, and its check.

    Args:
      run: run directory.
      scores: of `read_scores`.
      effects: of each label set.
      check: of `check_map`, if it was made.
      table: of the ablation, which names the classes.
      record: for `run.json`.
    """
    write_netcdf(with_effects(scores, effects, table, record["fingerprints"]["probe"]), run.file("scores.nc"))
    if check is None:
        run.file("causal_map.csv").unlink(missing_ok=True)
    else:
        write_csv(check, run.file("causal_map.csv"))
    run.finish("ablate", record)


def with_effects(scores: xr.Dataset, effects: Mapping[str, np.ndarray], table: pd.DataFrame, probe: str) -> xr.Dataset:
    """Scores with the causal map beside them, made with the probes of that fingerprint."""
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
                {
                    "long_name": "first-order change of the class's mean margin when the neuron falls silent, logits",
                    "probe_sha256": probe,
                },
            )
        }
    )  # fmt: skip


def write_sets(folder: Path, chosen: Sequence[Intervention]) -> None:
    """Every neuron set with its gain as a configuration of EVAR; sets whose names look alike in files are numbered."""
    taken: set[str] = set()
    for one in chosen:
        plain = "".join(letter if letter.isalnum() or letter in " _-.&" else "_" for letter in one.name).strip()[:80]
        names = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
        name = next(name for name in names if name.lower() not in taken)
        taken.add(name.lower())
        write_evar(folder / f"{name}.yaml", one.neurons, one.gain)
