"""Class-specific neurons as labelled arrays and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from jaxdissect.counting.labelled import Activations, counted_classes, label_sets_of
from jaxdissect.errors import require
from jaxdissect.selection.aape import Selection, SelectionRule, select
from jaxdissect.selection.scores import best_of_each_class
from jaxdissect.types import Record

# Variables of `scores.nc` and attributes of a `Selection`; the cut-offs have the axis label_set alone.
SELECTION_VARIABLES = {
    "rate": "mean over classes of the activation probability",
    "aape": "activation probability entropy, nats; NaN: never fires",
    "aape_normalised": "AAPE / ln(classes); NaN for one class",
    "kept": "by AAPE: among the neurons of lowest; by other selectors: chosen for a class",
    "aape_cutoff": "highest AAPE kept, nats",
    "rate_cutoff": "a kept neuron's rate exceeds this, or equals it and was placed behind; -1: none was dropped",
    "probability_bar": "a kept neuron is specific to the classes whose p exceeds this",
}


@dataclass(frozen=True, eq=False)
class Neurons:
    """Class-specific neurons of every label set.

    Attributes:
      scores: `rate`, `aape`, `aape_normalised`, `kept` (label_set, layer, neuron), and the cut-offs of each label set.
      neurons: table with a row for every class and neuron that belong together.
      coverage: table with a row for every label set.
      selections: selection in each label set, over its classes that have a counted token.
    """

    scores: xr.Dataset
    neurons: pd.DataFrame
    coverage: pd.DataFrame
    selections: Mapping[str, Selection]


def select_neurons(
    activations: Activations | xr.Dataset, rule: SelectionRule | None = None, score: xr.DataArray | None = None
) -> Neurons:
    """Choose class-specific neurons in every label set.

    With p[c] the fraction of tokens of class c at which a neuron is active and q[c] = p[c] / sum of p over the classes,
    its AAPE is -sum of q ln q, in nats: low for a neuron that answers to few classes.

    Source: Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307).

    Classes without a counted token are left out, and named by the attribute `skipped_classes` of the result's scores.

    Args:
      activations: result of `collect_activations`, or its `counts`.
      rule: preset and fractions; default: the paper's.
      score: another selector's score (class, layer, neuron), under that selector's name: every class gets the fraction
        `rule.keep` of all neurons with the highest score. AAPE is reported beside it.

    Raises:
      InputError: a label set has no class with a counted token.
    """
    counts = activations.counts if isinstance(activations, Activations) else activations
    counts = counts.transpose("class", "layer", "neuron", ...)  # of a caller's dataset any order is accepted
    rule = rule or SelectionRule()
    selector = "aape" if score is None else str(score.name)
    selections: dict[str, Selection] = {}
    rows, skipped = {}, []
    for name in label_sets_of(counts):
        classes = counted_classes(counts, name)
        without_token = (counts["label_set"].values == name) & (counts["tokens"].values == 0)
        skipped += [f"{name}:{label}" for label in counts["class"].values[without_token]]
        require(
            len(classes) > 0,
            f"The label set {name!r} has no class with a counted token: nothing can be selected. See clips.csv for "
            f"what could not be read.",
        )
        part = counts.isel({"class": classes})
        selection = select(part["active_tokens"].values, part["tokens"].values, rule)
        # AAPE has no class: every class of a neuron has the same score.
        score_values = np.broadcast_to(selection.aape, selection.specific.shape)
        if score is not None:
            # The scores of AAPE stay; the neurons are those with the highest score of every class.
            score_values = score.transpose("class", "layer", "neuron").values[classes]
            specific = best_of_each_class(score_values, rule.keep)
            selection = replace(selection, specific=specific, kept=np.logical_or.reduce(specific))
        selections[name] = selection
        rows[name] = _neuron_rows(name, part, selection, selector, score_values)
    names = sorted(selections)  # tables are sorted by label set; arrays keep the order of the task
    return Neurons(
        _scores(counts, selections, rule, selector, skipped),
        pd.concat([rows[name] for name in names], ignore_index=True),
        pd.DataFrame([_coverage(name, selections[name]) for name in names]),
        selections,
    )


def _neuron_rows(
    label_set: str,
    counts: xr.Dataset,
    selection: Selection,
    selector: str,
    score: Float[np.ndarray, "class layer neuron"],
) -> pd.DataFrame:
    """Rows of `neurons.csv` in the order (class, layer, neuron)."""
    # Layers and neurons by their coordinates, not by their places: a dataset may hold a part of them.
    pairs = np.nonzero(selection.specific)
    label, layer, neuron = pairs
    return pd.DataFrame(
        {
            "label_set": label_set,
            "class": counts["class"].values[label],
            "layer": counts["layer"].values[layer],
            "neuron": counts["neuron"].values[neuron],
            "probability": selection.probability[pairs],
            "aape": selection.aape[layer, neuron],
            "aape_normalised": selection.aape_normalised[layer, neuron],
            "selector": selector,
            "score": score[pairs],
        }
    )


def _coverage(label_set: str, selection: Selection) -> Record:
    """A row of `coverage.csv`."""
    # Classes are those with a counted token: classes that were left out are not uncovered.
    classes, pairs, kept = len(selection.specific), int(selection.specific.sum()), int(selection.kept.sum())
    covered = int(selection.specific.any(axis=(1, 2)).sum())
    return {
        "label_set": label_set,
        "classes": classes,
        "covered": covered,
        "coverage": covered / classes,
        "kept_neurons": kept,
        "mean_neurons_per_class": pairs / classes,
        "mean_classes_per_neuron": pairs / kept if kept else np.nan,
    }


def _scores(
    counts: xr.Dataset,
    selections: Mapping[str, Selection],
    rule: SelectionRule,
    selector: str,
    skipped: Sequence[str],
) -> xr.Dataset:
    """The dataset of `scores.nc`, with the rule among its attributes."""
    axes = ("label_set", "layer", "neuron")
    # With the label set as their first axis, neurons' scores have all three axes, and cut-offs only that one.
    arrays = {}
    for name, meaning in SELECTION_VARIABLES.items():
        values = np.stack([getattr(selection, name) for selection in selections.values()])
        arrays[name] = (axes[: values.ndim], values, {"long_name": meaning})
    coordinates = {
        "label_set": np.array(list(selections), object),
        "layer": counts["layer"],
        "neuron": counts["neuron"],
    }
    return xr.Dataset(arrays, coordinates, {**vars(rule), "selector": selector, "skipped_classes": ", ".join(skipped)})
