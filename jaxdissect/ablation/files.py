"""Files of the stage `ablate`: tables, the causal map beside the scores, and neuron sets for EVAR."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from jaxdissect.ablation.interventions import Intervention
from jaxdissect.ablation.tables import Ablation
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.tables import read_netcdf, write_csv, write_netcdf
from jaxdissect.selection.neuron_set_files import write_evar
from jaxdissect.types import Record

CAUSAL = "margin_effect"  # variable of scores.nc that holds the causal map
CAUSAL_PARTS = (CAUSAL, "class", "class_label_set")  # with its coordinates


def read_scores(run: Run, probe: str) -> xr.Dataset:
    """The scores of a run, without a causal map that was made with other probes.

    Args:
      run: run directory; it may have no scores.
      probe: fingerprint of the run's probes.

    Raises:
      InputError: the file is damaged.
    """
    if not run.file("scores.nc").is_file():
        return xr.Dataset()
    scores = read_netcdf(run.file("scores.nc"))
    if CAUSAL in scores and scores[CAUSAL].attrs.get("probe_sha256") != probe:
        scores = scores.drop_vars(CAUSAL_PARTS, errors="ignore")
    return scores


def save_ablation(place: Run, ablation: Ablation, scores: xr.Dataset, record: Record) -> None:
    """Write the tables, and remove what belongs to other probes.

    Args:
      place: run directory to write to.
      ablation: the tables.
      scores: scores from `read_scores`.
      record: record of the stage for `run.json`.
    """
    place.reopen("ablate")  # a crash must not leave new tables under the old record
    write_csv(ablation.table, place.file("ablation.csv"))
    write_csv(ablation.controls, place.file("ablation_controls.csv"))
    write_csv(ablation.suite, place.file("ablation_suite.csv"))
    write_csv(ablation.sets, place.file("ablation_sets.csv"))
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
    record: Record,
) -> None:
    """Write the causal map beside the scores, and its check.

    Args:
      run: run directory.
      scores: scores from `read_scores`.
      effects: causal map of each label set.
      check: table from `check_map`, if the map was checked.
      table: table of the ablation, which names the classes.
      record: record of the stage for `run.json`.
    """
    write_netcdf(with_effects(scores, effects, table, record["fingerprints"]["probe"]), run.file("scores.nc"))
    if check is None:
        run.file("causal_map.csv").unlink(missing_ok=True)
    else:
        write_csv(check, run.file("causal_map.csv"))
    run.finish("ablate", record)


def with_effects(
    scores: xr.Dataset,
    effects: Mapping[str, Float[np.ndarray, "class layer neuron"]],
    table: pd.DataFrame,
    probe: str,
) -> xr.Dataset:
    """Scores with a causal map beside them.

    Args:
      scores: scores, perhaps with an older causal map, which is replaced.
      effects: causal map of each label set.
      table: table of the ablation, which names the classes.
      probe: fingerprint of the probes that the map was made with.
    """
    classes = table.drop_duplicates(["label_set", "class"])
    layers, neurons = next(iter(effects.values())).shape[1:]
    coordinates = {
        "layer": scores.get("layer", np.arange(layers)),
        "neuron": scores.get("neuron", np.arange(neurons)),
        "class": ("class", classes["class"].to_numpy(object)),
        "class_label_set": ("class", classes["label_set"].to_numpy(object)),
    }
    values = np.concatenate([effects[name] for name in dict.fromkeys(classes["label_set"])])
    attributes = {
        "long_name": "first-order change of the class's mean margin when the neuron falls silent, logits",
        "probe_sha256": probe,
    }
    # An older map may be of other classes, so its coordinates go with it.
    without = scores.drop_vars(CAUSAL_PARTS, errors="ignore")
    return without.assign_coords(coordinates).assign({CAUSAL: (("class", "layer", "neuron"), values, attributes)})


def write_sets(folder: Path, interventions: Sequence[Intervention]) -> None:
    """Write every neuron set with its gain as a configuration of EVAR.

    Args:
      folder: folder to write to.
      interventions: interventions, whose names become file names; names that look alike in files are numbered.
    """
    # Names of sets hold characters that not every file system allows; replaced, two names may become one.
    used: set[str] = set()
    for intervention in interventions:
        letters = (letter if letter.isalnum() or letter in " _-.&" else "_" for letter in intervention.name)
        plain = "".join(letters).strip()[:80]
        names = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
        name = next(name for name in names if name.lower() not in used)  # some file systems ignore case
        used.add(name.lower())
        write_evar(folder / f"{name}.yaml", intervention.neurons, intervention.gain)
