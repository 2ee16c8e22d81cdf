"""Counts as labelled arrays: what a pass over a task counted, with the names of classes, layers and neurons."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from jaxdissect.counting.statistics import TopClips
from jaxdissect.counting.stream import Counted, CountOptions, count_clips
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.tasks.table import Task

COUNTS = {
    "active_tokens": "tokens at which the neuron was active",
    "sum": "sum of the activation over tokens",
    "sum_squares": "sum of the squared activation over tokens",
}


@dataclass(frozen=True, eq=False)
class Activations:
    """What a pass over a task has counted, as labelled arrays.

    Attributes:
      counts: `active_tokens`, `sum`, `sum_squares` (class, layer, neuron), `tokens`, `clips` (class), and the same over
        all clips as `total_*`.
      top_clips: `clip`, `active_share`, `max_activation` (layer, neuron, rank).
      clips: one row per clip: status, reason, recorded samples, labels.
      clip_labels: what the counts of single clips are grouped by: `tokens`, `source`, `fold` (clip), and the clip and
        class of every label.
    """

    counts: xr.Dataset
    top_clips: xr.Dataset
    clips: pd.DataFrame
    clip_labels: xr.Dataset

    @property
    def bad_clips(self) -> int:
        """Clips that could not be read and were not counted."""
        return int((self.clips["status"] == "unreadable").sum())


def collect_activations(
    encoder: Encoder,
    task: Task,
    options: CountOptions | None = None,
    attrs: Mapping[str, Any] | None = None,
    **streaming: Any,
) -> Activations:
    """Count how often every neuron of an encoder fires for every class of a task.

    `active_tokens / tokens` is the class-conditional activation probability p, from which neurons are chosen.

    Source: Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307).

    Args:
      encoder: any `Encoder`.
      task: the clips and their classes; `task.only("train")` for the training split.
      options: what is counted.
      attrs: kept with the arrays.
      streaming: `clip_counts`, `devices`, `progress` of `count_clips`.

    Raises:
      InputError: the clips do not suit the encoder.
    """
    return label_activations(count_clips(encoder, task, options, **streaming), task, attrs)


def label_activations(counted: Counted, task: Task, attrs: Mapping[str, Any] | None = None) -> Activations:
    """Put names on what was counted.

    Args:
      counted: from `count_clips`.
      task: that was counted.
      attrs: what was counted and how, kept with the arrays.
    """
    totals, axes = counted.totals, ("class", "layer", "neuron")
    arrays: dict[str, Any] = {}
    for name, meaning in COUNTS.items():
        values = getattr(totals, name)
        arrays[name] = (axes, values[:-1], {"long_name": meaning})
        arrays[f"total_{name}"] = (axes[1:], values[-1], {"long_name": f"{meaning}, all clips together"})
    for name in ("tokens", "clips"):
        arrays[name] = (axes[:1], getattr(totals, name)[:-1], {"long_name": f"{name} counted"})
        arrays[f"total_{name}"] = ((), getattr(totals, name)[-1], {"long_name": f"{name} counted, all together"})
    label_sets, classes = zip(*task.classes, strict=True)
    coordinates: dict[str, Any] = {
        "class": ("class", np.array(classes, object), {"long_name": "class; names may repeat across label sets"}),
        "label_set": ("class", np.array(label_sets, object), {"long_name": "label set of the class"}),
        **_neuron_axes(*totals.active_tokens.shape[1:]),
    }
    return Activations(
        xr.Dataset(arrays, coordinates, dict(attrs or {})),
        xr.Dataset(_top_clips(totals.top), _neuron_axes(*totals.active_tokens.shape[1:]), dict(attrs or {})),
        _clip_table(counted, task),
        _clip_labels(counted, task, dict(attrs or {})),
    )


def _neuron_axes(layers: int, neurons: int) -> dict[str, Any]:
    return {
        "layer": ("layer", np.arange(layers), {"long_name": "Transformer block, counted from 0"}),
        "neuron": ("neuron", np.arange(neurons), {"long_name": "hidden unit of the block's MLP, after GELU"}),
    }


def _top_clips(top: TopClips) -> dict[str, Any]:
    meanings = {
        "clip": (top.clip, "row in clips.csv; -1: fewer clips fire the neuron"),
        "active_share": (top.active_share, "active tokens / tokens of the clip; clips are ranked by it"),
        "max_activation": (top.maximum, "largest activation on the clip; decides between equal shares"),
    }
    axes = ("layer", "neuron", "rank")
    return {
        name: (axes, np.moveaxis(values, 0, -1), {"long_name": meaning}) for name, (values, meaning) in meanings.items()
    }


def _clip_table(counted: Counted, task: Task) -> pd.DataFrame:
    statuses = counted.log.statuses()
    table = {
        "clip": range(len(task)),
        "file_name": task.file_names,
        "split": task.splits,
        "fold": pd.array(task.folds, dtype="Int64"),
        "status": [clip.status for clip in statuses],
        "reason": [clip.reason for clip in statuses],
        "samples": [clip.samples for clip in statuses],
    }
    for labels in task.label_sets:
        table[labels.name] = [",".join(labels.classes[index] for index in row) for row in labels.members]
    return pd.DataFrame(table)


def _clip_labels(counted: Counted, task: Task, attrs: Mapping[str, Any]) -> xr.Dataset:
    label_sets, classes = zip(*task.classes, strict=True)
    folds = np.array([-1 if fold is None else fold for fold in task.folds], np.int64)
    first = np.cumsum([0, *(len(labels.classes) for labels in task.label_sets)])
    pairs = [
        (clip, start + index)
        for start, labels in zip(first, task.label_sets, strict=False)
        for clip, row in enumerate(labels.members)
        for index in row
    ]
    clip, index = np.array(pairs, np.int32).reshape(-1, 2).T
    return xr.Dataset(
        {
            "tokens": ("clip", counted.log.tokens, {"long_name": "tokens counted; 0: the clip was not"}),
            "source": (
                "clip",
                np.array(task.sources, object),
                {"long_name": "recording; its clips are not independent"},
            ),
            "fold": ("clip", folds, {"long_name": "fold; -1: none"}),
            "label_clip": ("label", clip, {"long_name": "clip that has the label"}),
            "label_class": ("label", index, {"long_name": "its number along the axis class"}),
        },
        {"class": ("class", np.array(classes, object)), "label_set": ("class", np.array(label_sets, object))},
        attrs,
    )
