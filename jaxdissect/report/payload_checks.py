"""What the page shows of how sure a selection is: probes, permuted labels, other selectors, layers, the causal map."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxdissect.report.numbers import short
from jaxdissect.report.payload import Frame
from jaxdissect.report.run_contents import Contents

BINS = 40  # of a histogram of permutations, from no pair to the most
NO_CHECKS: Mapping[str, Any] = {"null": [], "agreement": [], "layers": [], "causal": [], "probe": None}
LAYER_COUNTS = ("kept", "neurons", "pairs", "pairs_significant")


def checks_payload(contents: Contents, axes: Frame) -> dict[str, Any]:
    """By kind of evidence, entries of the label sets that have it."""
    made = {"null": _null, "agreement": _agreement, "layers": _layers, "causal": _causal}
    found: dict[str, Any] = {
        name: [
            {"set": number, **entry}
            for number, label_set in enumerate(axes.label_sets)
            if (entry := make(contents, axes, label_set))
        ]
        for name, make in made.items()
    }
    return found | {"probe": class_scores(contents, axes)}


def probe_scores(contents: Contents, label_set: str) -> dict[str, Any]:
    """Mean and deviation over the probes of a label set, by split, and how many probes and test clips there are."""
    table = contents.tables.get("probe/scores")
    own = None if table is None else table[table["label_set"] == label_set]
    if own is None or not len(own):
        return {}
    by_split = own.groupby("split", sort=False)["score"]
    test = own[own["split"] == "test"]
    return {
        "metric": str(own["metric"].iloc[0]).replace("_", " "),
        "probes": len(test),
        "clips": int(test.drop_duplicates("test_fold")["clips"].sum()),
        "mean": by_split.mean().to_dict(),
        "deviation": by_split.std(ddof=0).to_dict(),
    }


def class_scores(contents: Contents, axes: Frame) -> dict[str, Any] | None:
    """Mean score of the probes on the test clips of every class, and how many these are."""
    table = contents.tables.get("probe/class_scores")
    if table is None or not len(table):
        return None
    keys = ["label_set", "class"]
    score = table.groupby(keys)["score"].mean()
    clips = table.drop_duplicates([*keys, "test_fold"]).groupby(keys)["clips"].sum()
    return {
        "score": short([float(score.get(key, np.nan)) for key in axes.classes]),
        "clips": short([float(clips.get(key, np.nan)) for key in axes.classes]),
        "metric": {name: probe_scores(contents, name).get("metric", "score") for name in axes.label_sets},
    }


def _null(contents: Contents, axes: Frame, label_set: str) -> dict[str, Any]:
    """How many pairs permuted labels select by the observed cut-offs, as a histogram, beside those observed."""
    null, table = contents.data.get("permutations"), contents.neurons
    if null is None or table is None or label_set not in null["label_set"].values:
        return {}
    counts = null["pairs"].values[null["label_set"].values.tolist().index(label_set)].astype(float)
    counts = counts[np.isfinite(counts)]
    observed = int((table["label_set"] == label_set).sum())
    if not len(counts):
        return {}
    most = int(max(observed, counts.max(), 1))
    bins, _ = np.histogram(counts, BINS, (0, most))
    return {
        "observed": observed,
        "permutations": len(counts),
        "reached": int((counts >= observed).sum()),
        "highest": int(counts.max()),
        "most": most,
        "bins": short(bins),
    }


def _agreement(contents: Contents, axes: Frame, label_set: str) -> dict[str, Any]:
    """Rank correlation and Jaccard coefficient of every two selectors."""
    table = contents.tables.get("agreement")
    own = None if table is None else table[table["label_set"] == label_set]
    if own is None or not len(own):
        return {}
    names = list(dict.fromkeys([*own["selector_a"], *own["selector_b"]]))
    place = {name: number for number, name in enumerate(names)}
    rows = [place[name] for name in own["selector_a"]], [place[name] for name in own["selector_b"]]
    found: dict[str, Any] = {"selectors": names}
    for name in ("rank_correlation", "jaccard"):
        matrix = np.full((len(names), len(names)), np.nan)
        matrix[rows] = matrix[rows[::-1]] = own[name].to_numpy()
        found[name] = short(matrix)
    return found


def _layers(contents: Contents, axes: Frame, label_set: str) -> dict[str, Any]:
    """Neurons that were kept, those that are specific to a class, and pairs, of every layer."""
    table = contents.tables.get("layers")
    own = None if table is None else table[table["label_set"] == label_set]
    if own is None or not len(own):
        return {}
    return {name: short(own[name].to_numpy()) for name in ("layer", *LAYER_COUNTS) if name in own}


def _causal(contents: Contents, axes: Frame, label_set: str) -> dict[str, Any]:
    """By layer, how strong the estimated effects are: of all classes and neurons, and of class-specific ones."""
    scores = contents.data.get("scores")
    if scores is None or "margin_effect" not in scores:
        return {}
    rows = np.flatnonzero(scores["class_label_set"].values == label_set)
    effect = scores["margin_effect"].values[rows].astype(float)
    if not np.isfinite(effect).any():
        return {}
    specific = _specific(contents.neurons, scores["class"].values[rows].tolist(), label_set, effect.shape)
    own = effect[specific & np.isfinite(effect)]
    return {
        "all": _root_mean_square(effect, np.ones_like(specific)),
        "specific": _root_mean_square(effect, specific),
        "pairs": len(own),
        "helping": int((own < 0).sum()),
        "check": _check(contents.tables.get("causal_map"), label_set),
    }


def _specific(table: pd.DataFrame | None, names: Sequence[str], label_set: str, shape: tuple[int, ...]) -> np.ndarray:
    """Whether a class and a neuron belong together (class, layer, neuron)."""
    found = np.zeros(shape, bool)
    if table is None:
        return found
    place = {name: row for row, name in enumerate(names)}
    own = table[(table["label_set"] == label_set) & table["class"].isin(names)]
    layer, neuron = (own[name].to_numpy(np.int64) for name in ("layer", "neuron"))
    found[own["class"].map(place).to_numpy(np.int64), layer, neuron] = True
    return found


def _root_mean_square(effect: np.ndarray, kept: np.ndarray) -> list[Any]:
    """Of every layer, logits; None where there is nothing."""
    kept = kept & np.isfinite(effect)
    count = kept.sum(axis=(0, 2))
    total = np.where(kept, effect, 0.0) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return short(np.sqrt(total.sum(axis=(0, 2)) / count))


def _check(table: pd.DataFrame | None, label_set: str) -> list[dict[str, Any]]:
    """How well the estimate ranks neurons that were silenced one by one, by layer."""
    if table is None:
        return []
    columns = ("layer", "neurons", "clips", "rank_correlation")
    rows = table[table["label_set"] == label_set][list(columns)].to_numpy(float)
    return [dict(zip(columns, short(row), strict=True)) for row in rows]
