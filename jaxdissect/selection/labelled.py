"""Class-specific neurons as labelled arrays and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from jaxdissect.counting.labelled import Activations
from jaxdissect.errors import InputError
from jaxdissect.selection.aape import Selection, SelectionRule, select
from jaxdissect.selection.scores import best_of_each_class

NEURON_COLUMNS = (
    "label_set",
    "class",
    "layer",
    "neuron",
    "probability",
    "aape",
    "aape_normalised",
    "selector",
    "score",
)


@dataclass(frozen=True, eq=False)
class Neurons:
    """Class-specific neurons of every label set.

    Attributes:
      scores: `rate`, `aape`, `aape_normalised`, `kept` (label_set, layer, neuron), and the cut-offs per label set.
      neurons: a row per (class, neuron) that belong together.
      coverage: a row per label set.
      selections: of each label set, of its classes that have a counted token.
    """

    scores: xr.Dataset
    neurons: pd.DataFrame
    coverage: pd.DataFrame
    selections: Mapping[str, Selection]


def select_neurons(
    activations: Activations | xr.Dataset, rule: SelectionRule | None = None, score: xr.DataArray | None = None
) -> Neurons:
    """Choose class-specific neurons in every label set.

    With p[c] the share of tokens of class c at which a neuron is active and q[c] = p[c] / sum of p over the classes,
    its AAPE is -sum of q ln q, in nats: low for a neuron that answers to few classes.

    Source: Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307).

    Classes without a counted token are left out, in words of `skipped_classes` of the result's scores.

    Args:
      activations: what was counted, or its `counts`.
      rule: the preset and its rates; default: the paper's.
      score: another selector's, by its name (class, layer, neuron): every class gets the fraction `rule.keep` of all
        neurons with the highest; AAPE is told beside.

    Raises:
      InputError: a label set has no class with a counted token.
    """
    counts = activations.counts if isinstance(activations, Activations) else activations
    rule = rule or SelectionRule()
    counts = counts.transpose("class", "layer", "neuron", ...)
    label_sets = list(dict.fromkeys(counts["label_set"].values.tolist()))
    chosen: dict[str, Selection] = {}
    rows, skipped = [], []
    for name in label_sets:
        own = counts["label_set"].values == name
        part = counts.isel({"class": np.flatnonzero(own)})
        has_tokens = part["tokens"].values > 0
        skipped += [f"{name}:{label}" for label in part["class"].values[~has_tokens]]
        if not has_tokens.any():
            raise InputError(
                f"The label set {name!r} has no class with a counted token: nothing can be selected. "
                f"See clips.csv for what could not be read."
            )
        part = part.isel({"class": np.flatnonzero(has_tokens)})
        chosen[name] = select(part["active_tokens"].values, part["tokens"].values, rule)
        if score is not None:
            part = part.assign(score=score.isel({"class": np.flatnonzero(own)[has_tokens]}))
            specific = best_of_each_class(part["score"].values, rule.keep)
            chosen[name] = replace(chosen[name], specific=specific, kept=np.logical_or.reduce(specific))
        rows.append(_neuron_rows(name, part, chosen[name], None if score is None else str(score.name)))
    neurons = pd.concat([rows[label_sets.index(name)] for name in sorted(label_sets)], ignore_index=True)
    coverage = pd.DataFrame([_coverage(name, chosen[name]) for name in sorted(label_sets)])
    axes = {name: counts[name] for name in ("layer", "neuron")}
    selector = "aape" if score is None else str(score.name)
    return Neurons(_scores(chosen, axes, rule, selector, skipped), neurons, coverage, chosen)


def _neuron_rows(label_set: str, counts: xr.Dataset, selection: Selection, selector: str | None) -> pd.DataFrame:
    index, layer, neuron = np.nonzero(selection.specific)  # in the order (class, layer, neuron)
    aape = selection.aape[layer, neuron]
    values = (
        label_set,
        counts["class"].values[index],
        counts["layer"].values[layer],
        counts["neuron"].values[neuron],
        selection.probability[index, layer, neuron],
        aape,
        selection.aape_normalised[layer, neuron],
        selector or "aape",
        aape if selector is None else counts["score"].values[index, layer, neuron],
    )
    return pd.DataFrame(dict(zip(NEURON_COLUMNS, values, strict=True)), columns=list(NEURON_COLUMNS))


def _coverage(label_set: str, selection: Selection) -> dict[str, Any]:
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
    chosen: Mapping[str, Selection],
    neuron_axes: Mapping[str, Any],
    rule: SelectionRule,
    selector: str,
    skipped: Sequence[str],
) -> xr.Dataset:
    axes = ("label_set", "layer", "neuron")
    meanings = {
        "rate": "mean over classes of the activation probability",
        "aape": "activation probability entropy, nats; NaN: never fires",
        "aape_normalised": "AAPE / ln(classes); NaN for one class",
        "kept": "by AAPE: among the neurons of lowest; by other selectors: chosen for a class",
    }
    arrays: dict[str, Any] = {
        name: (axes, np.stack([getattr(selection, name) for selection in chosen.values()]), {"long_name": meaning})
        for name, meaning in meanings.items()
    }
    arrays["aape_cutoff"] = (
        "label_set",
        [selection.aape_cutoff for selection in chosen.values()],
        {"long_name": "highest AAPE kept, nats"},
    )
    arrays["rate_cutoff"] = (
        "label_set",
        [selection.rate_cutoff for selection in chosen.values()],
        {"long_name": "a kept neuron's rate exceeds this, or equals it and was placed behind; -1: none was dropped"},
    )
    arrays["probability_bar"] = (
        "label_set",
        [selection.probability_bar for selection in chosen.values()],
        {"long_name": "a kept neuron is specific to the classes whose p exceeds this"},
    )
    coordinates = {"label_set": np.array(list(chosen), object), **neuron_axes}
    return xr.Dataset(arrays, coordinates, {**vars(rule), "selector": selector, "skipped_classes": ", ".join(skipped)})
