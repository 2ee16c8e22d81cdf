"""Evidence for a selection as JSON values: permuted labels, other selectors, layers, the causal map, probes."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from jaxdissect.report.numbers import short
from jaxdissect.report.payload import Axes
from jaxdissect.report.run_contents import Contents
from jaxdissect.tasks.table import SPLITS
from jaxdissect.types import Record

NULL_BINS = 40  # bins of the histogram of permutations, from no pair to the most pairs
LAYER_COLUMNS = ("layer", "kept", "neurons", "pairs", "pairs_significant")
MAP_COLUMNS = ("layer", "neurons", "clips", "rank_correlation")


@dataclass(frozen=True)
class ProbeScores:
    """Scores of the probes of a label set.

    Attributes:
      metric: name of the score.
      probes: number of probes.
      clips: number of test clips.
      mean: mean score over the probes, by split.
      deviation: standard deviation over the probes, by split.
    """

    metric: str
    probes: int
    clips: int
    mean: Mapping[Hashable, float]
    deviation: Mapping[Hashable, float]


def evidence_payload(contents: Contents, axes: Axes) -> Record:
    """For each kind of evidence, an entry for each label set that has it.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.

    Returns:
      Lists of entries `null`, `agreement`, `layers`, `depths` and `causal`; scores of classes as `probe`, None without
      probes.
    """
    kinds = {"null": _null, "agreement": _agreement, "layers": _layers, "depths": _depths, "causal": _causal}
    payload: Record = {
        kind: [
            {"set": number, **entry}
            for number, label_set in enumerate(axes.label_sets)
            if (entry := entry_of(contents, label_set))
        ]
        for kind, entry_of in kinds.items()
    }
    return payload | {"probe": _class_scores(contents, axes)}


def probe_scores(contents: Contents, label_set: str) -> ProbeScores | None:
    """Scores of the probes of a label set; None if it was not probed.

    Args:
      contents: files of the run.
      label_set: name of the label set.
    """
    table = _rows(contents, "probe/scores.csv", label_set)
    return None if table is None else _probe_scores(table)


def _probe_scores(table: pd.DataFrame) -> ProbeScores | None:
    """Scores of some probes of a label set, by their rows; None without test clips."""
    test = table[table["split"] == "test"]
    if not len(test):
        return None
    by_split = table.groupby("split", sort=False)["score"]
    return ProbeScores(
        str(table["metric"].iloc[0]).replace("_", " "),
        len(test),
        int(test.drop_duplicates("test_fold")["clips"].sum()),  # every seed has the same test clips
        by_split.mean().to_dict(),
        by_split.std(ddof=0).to_dict(),
    )


def _rows(contents: Contents, name: str, label_set: str) -> pd.DataFrame | None:
    """The rows of a table for a label set; None if there are none.

    Args:
      contents: files of the run.
      name: file name of the table.
      label_set: name of the label set.
    """
    table = contents.tables.get(name)
    rows = None if table is None else table[table["label_set"] == label_set]
    return None if rows is None or rows.empty else rows


def _class_scores(contents: Contents, axes: Axes) -> Record | None:
    """Mean score of the probes on the test clips of each class, and the number of these clips.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.

    Returns:
      Columns in the order of the page's classes, None for a class without test clips; None without probes.
    """
    table = contents.tables.get("probe/class_scores.csv")
    if table is None or not len(table):
        return None
    keys = ["label_set", "class"]
    score = table.groupby(keys)["score"].mean()
    clips = table.drop_duplicates([*keys, "test_fold"]).groupby(keys)["clips"].sum()
    # Metrics differ: accuracy, or average precision for several labels a clip.
    scores = {label_set: probe_scores(contents, label_set) for label_set in axes.label_sets}
    return {
        "score": short([float(score.get(key, np.nan)) for key in axes.classes]),
        "clips": short([float(clips.get(key, np.nan)) for key in axes.classes]),
        "metric": {label_set: "score" if probes is None else probes.metric for label_set, probes in scores.items()},
    }


def _null(contents: Contents, label_set: str) -> Record:
    """Number of pairs of class and neuron that permuted labels select by the same cut-offs, beside the observed number.

    Args:
      contents: files of the run.
      label_set: name of the label set.

    Returns:
      A histogram of the permutations, and how many of them reach the observed number. Empty without permutations.
    """
    null, pairs = contents.data.get("permutations.nc"), _rows(contents, "neurons.csv", label_set)
    # Of a selection that is not by AAPE there are no pairs that permuted labels could select.
    if null is None or "pairs" not in null or contents.neurons is None or label_set not in null["label_set"].values:
        return {}
    counts = null["pairs"].sel(label_set=label_set).values.astype(float)
    counts = counts[np.isfinite(counts)]
    if not len(counts):
        return {}
    observed = 0 if pairs is None else len(pairs)
    most = int(max(observed, counts.max(), 1))
    # The observed number lies inside the histogram, also where no permutation comes near it.
    bins, _ = np.histogram(counts, NULL_BINS, (0, most))
    return {
        "observed": observed,
        "permutations": len(counts),
        "reached": int((counts >= observed).sum()),
        "highest": int(counts.max()),
        "most": most,
        "bins": short(bins),
    }


def _agreement(contents: Contents, label_set: str) -> Record:
    """Agreement of every two selectors on a label set.

    Args:
      contents: files of the run.
      label_set: name of the label set.

    Returns:
      Symmetric matrices of Spearman's rank correlation of scores, and of Jaccard coefficients of the selected pairs.
    """
    rows = _rows(contents, "agreement.csv", label_set)
    if rows is None:
        return {}
    names = list(dict.fromkeys([*rows["selector_a"], *rows["selector_b"]]))
    place = tuple([names.index(name) for name in rows[column]] for column in ("selector_a", "selector_b"))
    entry: Record = {"selectors": names}
    for measure in ("rank_correlation", "jaccard"):
        matrix = np.full((len(names), len(names)), np.nan)
        # `place` is (rows, columns) of the pairs; the table has each pair once, so its transpose is filled, too.
        matrix[place] = matrix[place[::-1]] = rows[measure].to_numpy()
        entry[measure] = short(matrix)
    return entry


def _layers(contents: Contents, label_set: str) -> Record:
    """Columns of `layers.csv`: kept neurons, class-specific neurons, and pairs of each layer."""
    rows = _rows(contents, "layers.csv", label_set)
    return {} if rows is None else {name: short(rows[name].to_numpy()) for name in LAYER_COLUMNS if name in rows}


def _depths(contents: Contents, label_set: str) -> Record:
    """Scores of the probes after every number of layers, from 0.

    Args:
      contents: files of the run.
      label_set: name of the label set.

    Returns:
      Mean scores by split, and the deviation of the test scores, each with a number for every depth. Empty if only the
      last layer was probed.

    Raises:
      ValueError: a depth is missing.
    """
    table = _rows(contents, "probe_layers.csv", label_set)
    if table is None:
        return {}
    by_depth = {depth: _probe_scores(rows) for depth, rows in table.groupby("depth")}
    scores = [of_depth for of_depth in by_depth.values() if of_depth is not None]
    # The page numbers the scores by their places.
    if list(by_depth) != list(range(len(scores))):
        raise ValueError("it does not have test scores of every depth from 0")
    columns = {split: short([of_depth.mean.get(split, np.nan) for of_depth in scores]) for split in SPLITS}
    deviation = short([of_depth.deviation["test"] for of_depth in scores])
    last = scores[-1]
    return {**columns, "deviation": deviation, "metric": last.metric, "probes": last.probes, "clips": last.clips}


def _causal(contents: Contents, label_set: str) -> Record:
    """How strong the estimated effects of a label set are in each layer.

    Args:
      contents: files of the run.
      label_set: name of the label set.

    Returns:
      Root mean square of the effects of all pairs of class and neuron, and of the selected pairs. Number of selected
      pairs whose neuron helps its class. Rank correlations with neurons that were silenced one by one. Empty without a
      causal map.
    """
    scores = contents.data.get("scores.nc")
    if scores is None or "margin_effect" not in scores:
        return {}
    classes = np.flatnonzero(scores["class_label_set"].values == label_set)
    effect = scores["margin_effect"].values[classes].astype(float)
    if not np.isfinite(effect).any():  # the ablation was of other label sets
        return {}
    selected = np.zeros(effect.shape, bool)  # (class, layer, neuron)
    pairs = _rows(contents, "neurons.csv", label_set)
    if pairs is not None:
        number = {name: row for row, name in enumerate(scores["class"].values[classes].tolist())}
        layer, neuron = (pairs[name].to_numpy(np.int64) for name in ("layer", "neuron"))
        selected[[number[name] for name in pairs["class"]], layer, neuron] = True
    effects = effect[selected & np.isfinite(effect)]
    check = _rows(contents, "causal_map.csv", label_set)
    return {
        "all": short(_root_mean_square(effect, np.ones_like(selected))),
        "specific": short(_root_mean_square(effect, selected)),
        "pairs": len(effects),
        "helping": int((effects < 0).sum()),
        "check": []
        if check is None
        else [dict(zip(MAP_COLUMNS, short(row), strict=True)) for row in check[list(MAP_COLUMNS)].to_numpy()],
    }


def _root_mean_square(
    effect: Float[np.ndarray, "class layer neuron"], chosen: Bool[np.ndarray, "class layer neuron"]
) -> Float[np.ndarray, " layer"]:
    """Root mean square of the chosen effects of each layer, logits.

    Args:
      effect: estimated change of the margin; NaN where it is unknown.
      chosen: pairs of class and neuron that count.

    Returns:
      NaN for a layer without a chosen effect.
    """
    chosen = chosen & np.isfinite(effect)
    squares = np.where(chosen, effect, 0.0) ** 2
    with np.errstate(invalid="ignore"):  # 0 / 0
        return np.sqrt(squares.sum(axis=(0, 2)) / chosen.sum(axis=(0, 2)))
