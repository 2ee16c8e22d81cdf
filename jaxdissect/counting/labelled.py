"""Counts as labelled arrays: what a pass over a task counted, with the names of classes, layers and neurons."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Int

from jaxdissect.counting.stream import Counted, CountOptions, count_clips
from jaxdissect.counting.top_clips import TopClips
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.tasks.table import Task

NEURON_COUNTS = {  # variables of `activations.nc` with the axes (class, layer, neuron)
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
      clips: table with a row for every clip: status, reason, recorded samples, labels.
      clip_labels: groups of single clips: `tokens`, `source`, `fold`, `held_out` (clip), and the clip and class of
        every label.
    """

    counts: xr.Dataset
    top_clips: xr.Dataset
    clips: pd.DataFrame
    clip_labels: xr.Dataset

    @property
    def bad_clips(self) -> int:
        """Number of clips that could not be read and were not counted."""
        return int((self.clips["status"] == "unreadable").sum())


def label_sets_of(counts: xr.Dataset) -> list[str]:
    """Names of the label sets, in the order of their classes.

    Args:
      counts: `counts` of some `Activations`.
    """
    return list(dict.fromkeys(counts["label_set"].values.tolist()))


def counted_classes(counts: xr.Dataset, label_set: str) -> Int[np.ndarray, " class"]:
    """Places, along the axis class, of a label set's classes that have a counted token.

    Args:
      counts: `counts` of some `Activations`.
      label_set: name of the label set.
    """
    return np.flatnonzero((counts["label_set"].values == label_set) & (counts["tokens"].values > 0))


def collect_activations(
    encoder: Encoder,
    task: Task,
    options: CountOptions | None = None,
    attrs: Mapping[str, object] | None = None,
    **streaming: Any,
) -> Activations:
    """Count how often every neuron of an encoder fires for every class of a task.

    `active_tokens / tokens` is the class-conditional activation probability p, from which neurons are chosen.

    Source: Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307).

    Args:
      encoder: any `Encoder`.
      task: clips and their classes; `task.only("train")` for the training split.
      options: which tokens count, and from which activation on a neuron is active.
      attrs: attributes of the arrays.
      streaming: `store`, `chooses`, `devices`, `progress` of `count_clips`.

    Raises:
      InputError: the clips do not suit the encoder.
    """
    counted = count_clips(encoder, task, options, **streaming)
    return label_activations(counted, task, attrs, streaming.get("chooses"))


def label_activations(
    counted: Counted,
    task: Task,
    attrs: Mapping[str, object] | None = None,
    chooses: Bool[np.ndarray, " clip"] | None = None,
) -> Activations:
    """Put names on what was counted.

    Args:
      counted: result of `count_clips`.
      task: task that was counted.
      attrs: attributes of the arrays: what was counted and how.
      chooses: clips that were counted for their classes; None: all.
    """
    totals, axes = counted.totals, ("class", "layer", "neuron")
    attributes = dict(attrs or {})
    arrays: dict[str, tuple[object, ...]] = {}
    # The last row of each total is all clips together.
    for name, meaning in NEURON_COUNTS.items():
        values = getattr(totals, name)
        arrays[name] = (axes, values[:-1], {"long_name": meaning})
        arrays[f"total_{name}"] = (axes[1:], values[-1], {"long_name": f"{meaning}, all clips together"})
    for name in ("tokens", "clips"):
        values = getattr(totals, name)
        arrays[name] = ("class", values[:-1], {"long_name": f"{name} counted"})
        arrays[f"total_{name}"] = ((), values[-1], {"long_name": f"{name} counted, all together"})
    label_sets, classes = (np.array(names, object) for names in zip(*task.classes, strict=True))
    _, layers, neurons = totals.active_tokens.shape
    neuron_axes = {
        "layer": ("layer", np.arange(layers), {"long_name": "Transformer block, counted from 0"}),
        "neuron": ("neuron", np.arange(neurons), {"long_name": "hidden unit of the block's MLP, after GELU"}),
    }
    class_axis = {
        "class": ("class", classes, {"long_name": "class; names may repeat across label sets"}),
        "label_set": ("class", label_sets, {"long_name": "label set of the class"}),
    }
    # The same axis without descriptions, for the labels of clips.
    label_axis = {"class": ("class", classes), "label_set": ("class", label_sets)}
    return Activations(
        xr.Dataset(arrays, class_axis | neuron_axes, attributes),
        xr.Dataset(_top_clips(totals.top), neuron_axes, attributes),
        _clip_table(counted, task),
        xr.Dataset(_clip_labels(counted, task, chooses), label_axis, attributes),
    )


def _top_clips(top: TopClips) -> dict[str, tuple[object, ...]]:
    """Variables of `top_clips.nc`, with the rank as their last axis."""
    variables = {
        "clip": (top.clip, "row in clips.csv; -1: fewer clips fire the neuron"),
        "active_share": (top.active_share, "active tokens / tokens of the clip; clips are ranked by it"),
        "max_activation": (top.maximum, "largest activation on the clip; decides between equal shares"),
    }
    # The accumulator has the rank first, so that a rank is one contiguous array.
    axes = ("layer", "neuron", "rank")
    return {name: (axes, np.moveaxis(a, 0, -1), {"long_name": meaning}) for name, (a, meaning) in variables.items()}


def _clip_table(counted: Counted, task: Task) -> pd.DataFrame:
    """The table of `clips.csv`, with a column for each label set."""
    statuses = counted.log.statuses()
    table = {
        "clip": range(len(task)),
        "file_name": task.file_names,
        "split": task.splits,
        "fold": pd.array(task.folds, dtype="Int64"),  # nullable: a table may have no folds
        "status": [clip.status for clip in statuses],
        "reason": [clip.reason for clip in statuses],
        "samples": [clip.samples for clip in statuses],
    }
    for labels in task.label_sets:
        # A clip may have several classes of a label set, or none.
        table[labels.name] = [",".join(labels.classes[index] for index in row) for row in labels.members]
    return pd.DataFrame(table)


def _clip_labels(
    counted: Counted, task: Task, chooses: Bool[np.ndarray, " clip"] | None
) -> dict[str, tuple[object, ...]]:
    """Variables of `clip_labels.nc`: per clip, and for every label its clip and its class."""
    # Classes of all label sets lie on one axis: those of a label set begin where the set before it ends.
    starts = np.cumsum([0, *(len(labels.classes) for labels in task.label_sets)])
    labels_of_clips = [
        (clip, start + index)
        for start, labels in zip(starts, task.label_sets, strict=False)
        for clip, row in enumerate(labels.members)
        for index in row
    ]
    clip, label = np.array(labels_of_clips, np.int32).reshape(-1, 2).T  # reshaped, for there may be no label at all
    sources = np.array(task.sources, object)
    held_out = np.zeros(len(task), bool) if chooses is None else ~chooses
    folds = np.array([-1 if fold is None else fold for fold in task.folds], np.int64)
    return {
        "tokens": ("clip", counted.log.tokens, {"long_name": "tokens counted; 0: the clip was not"}),
        "source": ("clip", sources, {"long_name": "recording; its clips are not independent"}),
        "fold": ("clip", folds, {"long_name": "fold; -1: none"}),
        "held_out": ("clip", held_out.astype(np.int8), {"long_name": "1: not counted; neurons are judged on it"}),
        "label_clip": ("label", clip, {"long_name": "clip that has the label"}),
        "label_class": ("label", label, {"long_name": "its number along the axis class"}),
    }
