"""Every selector's score of every class and neuron of a run, as labelled arrays, and how far selectors agree."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int, UInt16

from jaxdissect.counting.labelled import counted_classes, label_sets_of
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.selection.aape import Selection, activation_probability
from jaxdissect.selection.scores import agreement, best_of_each_class, class_selectivity, d_prime, rank_scores

SCORES = {
    "probability": "activation probability: active tokens / tokens of the class",
    "class_selectivity": "(p - mean p of the other classes) / (their sum)",
    "d_prime": "difference of the mean activations of class and rest, in standard deviations",
    "auroc": "area under the ROC curve of telling the class's clips by their share of active tokens",
    "average_precision": "average precision of the same",
}
AXES = ("class", "layer", "neuron")
RANKED_AT_ONCE = 2**22  # active shares (clips x neurons) that are ranked together, which bounds the memory


def class_scores(
    counts: xr.Dataset,
    clip_counts: UInt16[np.ndarray, "clip layer neuron"] | None = None,
    clip_tokens: Int[np.ndarray, " clip"] | None = None,
    members: Bool[np.ndarray, "clip class"] | None = None,
) -> xr.Dataset:
    """Scores beside AAPE, within each label set; float32, NaN where a class has no counted token.

    AUROC and average precision need the last three arguments, and are left out without them.

    Args:
      counts: counts of the classes, as in `activations.nc`; some class of each label set has a counted token.
      clip_counts: active tokens of every clip.
      clip_tokens: counted tokens of every clip.
      members: classes of every clip.
    """
    counts = counts.transpose(*AXES, ...)
    names = list(SCORES)[: 3 if clip_counts is None else None]
    scores = {name: np.full(counts["active_tokens"].shape, np.nan, np.float32) for name in names}
    for label_set in label_sets_of(counts):
        classes = counted_classes(counts, label_set)
        part = counts.isel({"class": classes})
        p = activation_probability(part["active_tokens"].values, part["tokens"].values)
        scores["probability"][classes], scores["class_selectivity"][classes] = p, class_selectivity(p)
        # The rest of a class is every counted clip without it, also clips of no class of this label set.
        of_classes = part["sum"].values, part["sum_squares"].values, part["tokens"].values
        of_all = counts["total_sum"].values, counts["total_sum_squares"].values, int(counts["total_tokens"])
        scores["d_prime"][classes] = d_prime(*of_classes, *of_all)
        if clip_counts is not None and clip_tokens is not None and members is not None:
            # Ranked are the clips of the label set alone, for whose classes the scores are.
            clips = np.flatnonzero(members[:, classes].any(axis=1) & (clip_tokens > 0))
            ranked = _rank_scores(clip_counts, clip_tokens, clips, members[np.ix_(clips, classes)])
            scores["auroc"][classes], scores["average_precision"][classes] = ranked
    return xr.Dataset(
        {name: (AXES, values, {"long_name": SCORES[name]}) for name, values in scores.items()},
        {"class": ("class", counts["class"].values), "class_label_set": ("class", counts["label_set"].values)},
    )


def _rank_scores(
    clip_counts: UInt16[np.ndarray, "clip layer neuron"],
    clip_tokens: Int[np.ndarray, " clip"],
    clips: Int[np.ndarray, " ranked"],
    members: Bool[np.ndarray, "ranked class"],
) -> Float[np.ndarray, "2 class layer neuron"]:
    """AUROC and average precision over the clips numbered `clips`, a range of neurons at a time."""
    _, layers, neurons = clip_counts.shape
    scores = np.full((2, members.shape[1], layers, neurons), np.nan, np.float32)
    width = max(1, RANKED_AT_ONCE // len(clips))
    with progress_bar(what="Scoring neurons", total=layers * neurons, unit="neuron") as bar:
        for layer in range(layers):
            for start in range(0, neurons, width):
                chunk = slice(start, start + width)
                # Only these clips and neurons are read from a memory-mapped file; shares are float32, as scores are.
                active_share = clip_counts[clips, layer, chunk] / clip_tokens[clips, None].astype(np.float32)
                scores[:, :, layer, chunk] = rank_scores(active_share.astype(np.float32), members)
                bar.update(active_share.shape[1])
    return scores


def agreement_table(scores: xr.Dataset, selections: Mapping[str, Selection], keep: float) -> pd.DataFrame:
    """How far selectors agree in each label set; a row for every two selectors, `aape` among them.

    Args:
      scores: result of `class_scores`.
      selections: selection by AAPE in each label set.
      keep: fraction of the neurons that the other selectors choose for each class.
    """
    tables = []
    # A class without a counted token has no scores, and is missing from the selections.
    counted = ~np.isnan(scores["probability"].values).all(axis=(1, 2))
    for label_set, selection in selections.items():
        classes = np.flatnonzero((scores["class_label_set"].values == label_set) & counted)
        by_name = {str(name): scores[name].values[classes].astype(np.float64) for name in scores}
        chosen = {name: best_of_each_class(values, keep) for name, values in by_name.items()}
        low_entropy = np.broadcast_to(-selection.aape, selection.specific.shape)  # high is more, as of the others
        rows = agreement({"aape": low_entropy, **by_name}, {"aape": selection.specific, **chosen})
        tables.append(pd.DataFrame([{"label_set": label_set, **row} for row in rows]))
    return pd.concat(tables, ignore_index=True)
