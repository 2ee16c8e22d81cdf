"""Checks the causal map: its estimates against silencing single neurons one by one."""

import dataclasses
from collections.abc import Mapping
from typing import Unpack

import numpy as np
import pandas as pd
from jaxtyping import Float

from jaxdissect.ablation.causal_map import MAP_BATCH_SIZE, causal_map
from jaxdissect.ablation.edits import Edit
from jaxdissect.ablation.stream import Running, judge_edits
from jaxdissect.ablation.verdicts import class_means
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.probe.judge import Judge
from jaxdissect.tasks.table import Task

CHECK_CLIPS = 64  # clips on which single neurons are silenced one by one


def check_map(
    encoder: Encoder,
    task: Task,
    judges: Mapping[str, Judge],
    shape: tuple[int, int],
    per_layer: int,
    clips: int = CHECK_CLIPS,
    **running: Unpack[Running],
) -> pd.DataFrame:
    """How well the causal map ranks single neurons, by what silencing them does to margins.

    Both are measured on the same clips, spread evenly over the task's. Of each layer, neurons are spread evenly over
    the ranks of the root mean square estimate, so that strong and weak ones take part alike.

    Args:
      encoder, task, judges, shape: as of `causal_map`.
      per_layer: neurons of each layer, at least 2.
      clips: largest number of clips.
      running: how edits are run.

    Returns:
      per label set and layer: `neurons` silenced, `clips`, `rank_correlation` (Spearman) of estimate and exact change
      over (neuron, class) pairs, their standard deviations `exact_sd` and `estimate_sd` in logits.
    """
    # As many clips, evenly spaced over the task's order; rounding may give one twice.
    chosen = np.unique(np.linspace(0, len(task) - 1, min(clips, len(task))).round().astype(int))
    task = task.rows(chosen.tolist())
    judges = {name: dataclasses.replace(judge, members=judge.members[chosen]) for name, judge in judges.items()}
    batch_size = min(MAP_BATCH_SIZE, running.get("batch_size", MAP_BATCH_SIZE))
    estimate = causal_map(encoder, task, judges, shape, batch_size, running.get("devices"))
    by_strength = np.argsort(_strength(estimate), axis=1, kind="stable")  # (layer, rank)
    ranks = np.linspace(0, shape[1] - 1, min(per_layer, shape[1])).round().astype(int)
    neurons = by_strength[:, ranks]  # (layer, neurons silenced)
    edits = [
        Edit(np.array([layer]), np.array([neuron]), 0.0, np.zeros(1))
        for layer in range(shape[0])
        for neuron in neurons[layer]
    ]
    judged = judge_edits(encoder, task, judges, edits, shape, **running)
    rows = []
    for name, judge in judges.items():
        _, before = class_means(judged.before[name], judge, judged.usable)
        _, after = class_means(judged.after[name], judge, judged.usable)
        change = (after - before).reshape(*neurons.shape, -1)  # (layer, neuron, class)
        for layer in range(shape[0]):
            # (neuron, class) pairs in one row; the estimate is (class, neuron), hence transposed.
            exact, guess = change[layer].ravel(), estimate[name][:, layer, neurons[layer]].T.ravel()
            rows.append(
                {
                    "label_set": name,
                    "layer": layer,
                    "neurons": len(ranks),
                    "clips": len(task),
                    "rank_correlation": spearman(exact, guess),
                    "exact_sd": np.nanstd(exact),
                    "estimate_sd": np.nanstd(guess),
                }
            )
    return pd.DataFrame(rows)


def spearman(first: Float[np.ndarray, " pair"], second: Float[np.ndarray, " pair"]) -> float:
    """Rank correlation of the pairs without NaN; NaN where either side is constant."""
    # Spearman's correlation is Pearson's of the ranks; equal values share their mean rank.
    ranks = pd.DataFrame({"first": first, "second": second}).dropna().rank()
    if len(ranks) < 2 or (ranks.std() == 0).any():
        return float("nan")
    return float(np.corrcoef(ranks["first"], ranks["second"])[0, 1])


def _strength(estimate: Mapping[str, Float[np.ndarray, "class layer neuron"]]) -> Float[np.ndarray, "layer neuron"]:
    """Root mean square estimate over all classes that have a clip."""
    classes = np.concatenate(list(estimate.values()))
    return np.sqrt(np.nanmean(np.square(classes), axis=0))
