"""Every selector's score of every class and neuron of a run, as labelled arrays, and how far selectors agree."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from jaxdissect.counting.labelled import counted_classes, label_sets_of
from jaxdissect.selection.aape import Selection, activation_probability
from jaxdissect.selection.scores import agreement, best_of_each_class, class_selectivity, d_prime

SCORES = {
    "probability": "activation probability: active tokens / tokens of the class",
    "class_selectivity": "(p - mean p of the other classes) / (their sum)",
    "d_prime": "difference of the mean activations of class and rest, in standard deviations",
}
AXES = ("class", "layer", "neuron")


def class_scores(counts: xr.Dataset) -> xr.Dataset:
    """Scores beside AAPE, within each label set; float32, NaN where a class has no counted token.

    Args:
      counts: counts of the classes, as in `activations.nc`; some class of each label set has a counted token.
    """
    counts = counts.transpose(*AXES, ...)
    scores = {name: np.full(counts["active_tokens"].shape, np.nan, np.float32) for name in SCORES}
    for label_set in label_sets_of(counts):
        classes = counted_classes(counts, label_set)
        part = counts.isel({"class": classes})
        p = activation_probability(part["active_tokens"].values, part["tokens"].values)
        scores["probability"][classes], scores["class_selectivity"][classes] = p, class_selectivity(p)
        # The rest of a class is every counted clip without it, also clips of no class of this label set.
        of_classes = part["sum"].values, part["sum_squares"].values, part["tokens"].values
        of_all = counts["total_sum"].values, counts["total_sum_squares"].values, int(counts["total_tokens"])
        scores["d_prime"][classes] = d_prime(*of_classes, *of_all)
    return xr.Dataset(
        {name: (AXES, values, {"long_name": SCORES[name]}) for name, values in scores.items()},
        {"class": ("class", counts["class"].values), "class_label_set": ("class", counts["label_set"].values)},
    )


def agreement_table(scores: xr.Dataset, selections: Mapping[str, Selection], keep: float) -> pd.DataFrame:
    """How far selectors agree in each label set; a row for every two selectors, `aape` among them.

    Args:
      scores: result of `class_scores`, with or without the variable `auroc`.
      selections: selection by AAPE in each label set.
      keep: fraction of the neurons that the other selectors choose for each class.
    """
    tables = []
    # A class without a counted token has no scores, and is missing from the selections.
    counted = ~np.isnan(scores["probability"].values).all(axis=(1, 2))
    for label_set, selection in selections.items():
        classes = np.flatnonzero((scores["class_label_set"].values == label_set) & counted)
        by_name = {
            name: scores[name].values[classes].astype(np.float64) for name in (*SCORES, "auroc") if name in scores
        }
        chosen = {name: best_of_each_class(values, keep) for name, values in by_name.items()}
        low_entropy = np.broadcast_to(-selection.aape, selection.specific.shape)  # high is more, as of the others
        rows = agreement({"aape": low_entropy, **by_name}, {"aape": selection.specific, **chosen})
        tables.append(pd.DataFrame([{"label_set": label_set, **row} for row in rows]))
    return pd.concat(tables, ignore_index=True)
