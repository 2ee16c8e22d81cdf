"""Confusion matrices: which class the probes name for the clips of every class, before and under interventions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from jaxdissect.ablation.interventions import Intervention
from jaxdissect.ablation.stream import Running, judge_edits
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import require
from jaxdissect.probe.judge import Judge
from jaxdissect.tasks.table import Task

UNTOUCHED = "untouched"  # name of the encoder without an intervention in the table


def confusion(
    encoder: Encoder,
    task: Task,
    judges: Mapping[str, Judge],
    chosen: Sequence[Intervention],
    shape: tuple[int, int],
    means: Float[np.ndarray, "layer neuron"] | None = None,
    **running: Unpack[Running],
) -> pd.DataFrame:
    """Count how often the probes name each class for the clips of each class.

    Args:
      encoder: any `Encoder`.
      task: the clips; each has one class.
      judges: probes of every label set of the task.
      chosen: interventions; their controls are not run.
      shape: layers, and neurons per layer, of the encoder.
      means: mean activation of every neuron over the training tokens, for mode "mean".
      running: how edits are run, as in `ablate`.

    Returns:
      a row per label set, intervention (the first is "untouched"), class and named class: `clips`, the mean over the
      probes. Clips with a logit that is not finite, or that cannot be read, are left out.

    Raises:
      InputError: a label set is multi-label.
    """
    for name, judge in judges.items():
        require(not judge.multi_label, f"The label set {name!r} is multi-label, and has no confusion matrix.")
    # As if multi-label, judges give the logits of every probe in place of margins.
    scoring = {name: dataclasses.replace(judge, multi_label=True) for name, judge in judges.items()}
    edits = [intervention.edits(means)[0] for intervention in chosen]
    judged = judge_edits(encoder, task, scoring, edits, shape, **running)
    tables = []
    for labels in task.label_sets:
        for name, scores in zip(
            (UNTOUCHED, *(intervention.name for intervention in chosen)),
            judged.verdicts[labels.name].scores,
            strict=True,
        ):
            counts = _counts(scores, judges[labels.name].members & judged.usable[:, None])
            classes = np.array(labels.classes, object)
            columns = {
                "label_set": labels.name,
                "intervention": name,
                "class": np.repeat(classes, len(classes)),
                "named": np.tile(classes, len(classes)),
                "clips": counts.ravel(),
            }
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _counts(
    scores: Float[np.ndarray, "clip probe class"], members: Bool[np.ndarray, "clip class"]
) -> Float[np.ndarray, "class named"]:
    """Clips of each class that are named as each class, mean over the probes."""
    finite = np.isfinite(scores).all(axis=(1, 2))
    named = scores[finite].argmax(axis=2)  # (clip, probe)
    shares = (named[:, :, None] == np.arange(scores.shape[2])).mean(axis=1)
    return members[finite].T.astype(np.float64) @ shares
