"""Class-specific neurons as labelled arrays and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

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


# Columns of the table of classes. Those of held-out clips are NaN until the neurons were judged.
CLASS_COLUMNS = (
    "label_set",
    "class",
    "neurons",
    "layer",
    "neuron",
    "reading",
    "held_out_auroc",
    "held_out_auroc_low",
    "held_out_auroc_high",
    "held_out_ratio",
    "held_out_ratio_low",
    "held_out_ratio_high",
    "held_out_clips",
)


@dataclass(frozen=True, eq=False)
class Neurons:
    """Class-specific neurons of every label set.

    Attributes:
      scores: `rate`, `aape`, `aape_normalised`, `kept` (label_set, layer, neuron), and the cut-offs of each label set.
      neurons: table with a row for every class and neuron that belong together.
      coverage: table with a row for every label set.
      classes: table with a row for every class that has a counted token: its neurons, and the best of them.
      selections: selection in each label set, over its classes that have a counted token.
    """

    scores: xr.Dataset
    neurons: pd.DataFrame
    coverage: pd.DataFrame
    classes: pd.DataFrame
    selections: Mapping[str, Selection]


def select_neurons(
    activations: Activations | xr.Dataset,
    rule: SelectionRule | None = None,
    score: xr.DataArray | None = None,
    specific: Mapping[str, Bool[np.ndarray, "class layer neuron"]] | None = None,
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
      specific: pairs that were chosen by the score already, of the counted classes of every label set.

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
            chosen = best_of_each_class(score_values, rule.keep) if specific is None else specific[name]
            selection = replace(selection, specific=chosen, kept=np.logical_or.reduce(chosen))
        selections[name] = selection
        rows[name] = _neuron_rows(name, part, selection, selector, score_values)
    names = sorted(selections)  # tables are sorted by label set; arrays keep the order of the task
    pairs = pd.concat([rows[name] for name in names], ignore_index=True)
    of_sets = [(name, label) for name in names for label in counts["class"].values[counted_classes(counts, name)]]
    return Neurons(
        _scores(counts, selections, rule, selector, skipped),
        pairs,
        pd.DataFrame([_coverage(name, selections[name], rows[name]) for name in names]),
        class_table(pairs, pd.DataFrame(of_sets, columns=["label_set", "class"])),
        selections,
    )


def class_table(pairs: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """A row for every class: how many neurons it has, and the one that does best on held-out clips.

    Of a class that was not judged it is the neuron of the best score.

    Args:
      pairs: table of the pairs, with or without held-out columns.
      classes: the classes, by the columns `label_set` and `class`.
    """
    keys = ["label_set", "class"]
    table = pairs.reindex(columns=list(dict.fromkeys([*pairs, *CLASS_COLUMNS])))
    # A low AAPE is the better one, and a high score of any other selector.
    best = table.assign(rank=table["score"].where(table["selector"] != "aape", -table["score"]))
    best = best.sort_values(["held_out_auroc", "rank"], ascending=False, kind="stable", na_position="last")
    sizes = pairs.groupby(keys).size().rename("neurons").reset_index()
    joined = classes[keys].merge(sizes, on=keys, how="left")
    joined = joined.merge(best.drop_duplicates(keys).drop(columns="neurons"), on=keys, how="left")
    joined["neurons"] = joined["neurons"].fillna(0).astype(int)
    for column in ("layer", "neuron", "held_out_clips"):
        joined[column] = joined[column].astype("Int64")  # nullable: a class may have no neuron
    return joined[list(CLASS_COLUMNS)]


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
            "ratio": _ratio_to_others(counts)[pairs],
        }
    )


def _ratio_to_others(counts: xr.Dataset) -> Float[np.ndarray, "class layer neuron"]:
    """p(class) / p(others), where the others are the tokens of all other classes together; inf, or NaN, where p is 0.

    Args:
      counts: counts of the classes of one label set.
    """
    active, tokens = counts["active_tokens"].values, counts["tokens"].values[:, None, None].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (active / tokens) / ((active.sum(axis=0) - active) / (tokens.sum() - tokens))


def _coverage(label_set: str, selection: Selection, rows: pd.DataFrame) -> Record:
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
        "probability_bar": selection.probability_bar,
        "median_aape_normalised": float(rows["aape_normalised"].median()) if pairs else np.nan,
        "median_ratio": float(rows["ratio"].median()) if pairs else np.nan,
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
