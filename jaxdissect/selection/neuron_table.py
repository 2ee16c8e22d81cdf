"""The table of class-specific neurons, `neurons.csv`."""

import pandas as pd

from jaxdissect.errors import InputError
from jaxdissect.runtime.run_directory import Run
from jaxdissect.selection.neuron_sets import ClassName, Pair


def read_specific(run: Run, classes: tuple[ClassName, ...]) -> dict[ClassName, list[Pair]]:
    """The class-specific neurons of every class of a run, from `neurons.csv`.

    Args:
      run: run directory with the stage `neurons`.
      classes: classes to list, also those that have no neuron.

    Raises:
      InputError: no neurons were chosen, or the table is damaged.
    """
    run.require("neurons")
    path = run.file("neurons.csv")
    specific: dict[ClassName, list[Pair]] = {key: [] for key in classes}
    columns = ["label_set", "class", "layer", "neuron"]
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype={"label_set": str, "class": str})
        for label_set, name, layer, neuron in table[columns].itertuples(index=False):
            specific[label_set, name].append((int(layer), int(neuron)))  # KeyError: a class that is not listed
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): run `jaxdissect neurons --run {run.path}` again."
        ) from error
    return specific
