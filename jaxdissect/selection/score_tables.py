"""Every selector's score of every class and neuron of a run, as labelled arrays."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Int, UInt16

from jaxdissect.runtime.progress import progress_bar
from jaxdissect.selection.aape import activation_probability
from jaxdissect.selection.scores import agreement, best_of_each_class, class_selectivity, d_prime, rank_scores

MEANINGS = {
    "probability": "activation probability: active tokens / tokens of the class",
    "class_selectivity": "(p - mean p of the other classes) / (their sum)",
    "d_prime": "difference of the mean activations of class and rest, in standard deviations",
    "auroc": "area under the ROC curve of telling the class's clips by their share of active tokens",
    "average_precision": "average precision of the same",
}
AXES = ("class", "layer", "neuron")
AT_ONCE = 2**22  # of clips x neurons


def class_scores(
    counts: xr.Dataset,
    clip_counts: UInt16[np.ndarray, "clip layer neuron"] | None = None,
    clip_tokens: Int[np.ndarray, " clip"] | None = None,
    members: Bool[np.ndarray, "clip class"] | None = None,
) -> xr.Dataset:
    """Scores beside AAPE, each label set by itself; float32, NaN where a class has no counted token.

    Args:
      counts: of classes, as in `activations.nc`.
      clip_counts, clip_tokens, members: of every clip, for the scores that need them; all or none.
    """
    counts = counts.transpose(*AXES, ...)
    names = list(MEANINGS)[: 3 if clip_counts is None else None]
    found = {name: np.full(counts["active_tokens"].shape, np.nan, np.float32) for name in names}
    for label_set in dict.fromkeys(counts["label_set"].values.tolist()):
        own = np.flatnonzero((counts["label_set"].values == label_set) & (counts["tokens"].values > 0))
        if not len(own):
            continue
        part = counts.isel({"class": own})
        p = activation_probability(part["active_tokens"].values, part["tokens"].values)
        found["probability"][own], found["class_selectivity"][own] = p, class_selectivity(p)
        found["d_prime"][own] = d_prime(
            part["sum"].values, part["sum_squares"].values, part["tokens"].values,
            counts["total_sum"].values, counts["total_sum_squares"].values, int(counts["total_tokens"]),
        )  # fmt: skip
        if clip_counts is not None and clip_tokens is not None and members is not None:
            clips = np.flatnonzero(members[:, own].any(axis=1) & (clip_tokens > 0))
            scores = _rank_scores(clip_counts, clip_tokens, clips, members[np.ix_(clips, own)])
            for name, values in zip(("auroc", "average_precision"), scores, strict=True):
                found[name][own] = values
    return xr.Dataset(
        {name: (AXES, values, {"long_name": MEANINGS[name]}) for name, values in found.items()},
        {"class": ("class", counts["class"].values), "class_label_set": ("class", counts["label_set"].values)},
    )


def _rank_scores(
    clip_counts: UInt16[np.ndarray, "clip layer neuron"],
    clip_tokens: Int[np.ndarray, " clip"],
    clips: Int[np.ndarray, " some"],
    members: Bool[np.ndarray, "some class"],
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision (class, layer, neuron) of some clips, some neurons at a time."""
    _, layers, neurons = clip_counts.shape
    found = np.full((2, members.shape[1], layers, neurons), np.nan, np.float32)
    width = max(1, AT_ONCE // len(clips))
    with progress_bar(what="Scoring neurons", total=layers * neurons, unit="neuron") as bar:
        for layer in range(layers):
            for at in range(0, neurons, width):
                some = slice(at, at + width)
                shares = clip_counts[clips, layer, some] / clip_tokens[clips, None].astype(np.float32)
                found[:, :, layer, some] = rank_scores(shares.astype(np.float32), members)
                bar.update(shares.shape[1])
    return found[0], found[1]


def agreement_table(
    scores: xr.Dataset,
    aape: Mapping[str, np.ndarray],
    specific: Mapping[str, np.ndarray],
    label_set: xr.DataArray,
    keep: float,
) -> pd.DataFrame:
    """How far selectors agree in each label set.

    Args:
      scores: of `class_scores`.
      aape: AAPE of every neuron, by label set.
      specific: pairs that AAPE has selected, by label set, of its classes with a counted token.
      label_set: of each class.
      keep: fraction of the neurons that the other selectors choose for each class.
    """
    tables = []
    for name, values in aape.items():
        own = np.flatnonzero((label_set.values == name) & ~np.isnan(scores["probability"].values).all(axis=(1, 2)))
        by_name = {str(kind): scores[kind].values[own].astype(np.float64) for kind in scores}
        chosen = {kind: best_of_each_class(one, keep) for kind, one in by_name.items()}
        low_entropy = np.broadcast_to(-values, (len(own), *values.shape))
        rows = agreement({"aape": low_entropy, **by_name}, {"aape": specific[name], **chosen})
        tables.append(pd.DataFrame(rows).assign(label_set=name))
    found = pd.concat(tables, ignore_index=True)
    return found[["label_set", *(column for column in found if column != "label_set")]]
