"""Counts and neurons as labelled arrays and tables, in open formats: netCDF4 and CSV."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from jaxdissect.collect import Counted, CountOptions, count_clips
from jaxdissect.encoder.base import Encoder
from jaxdissect.errors import InputError
from jaxdissect.files import whole_file
from jaxdissect.selection import Selection, SelectionRule, select
from jaxdissect.selectors import best_of_each_class
from jaxdissect.statistics import TopClips
from jaxdissect.tasks.table import Task

COUNTS = {
    "active_tokens": "tokens at which the neuron was active",
    "sum": "sum of the activation over tokens",
    "sum_squares": "sum of the squared activation over tokens",
}
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


def write_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """Write a dataset as netCDF4, whole or not at all; large arrays are compressed.

    The file is made in memory, because HDF5 crashes the process when the disk fills up under it.
    """
    encoding = {name: {"zlib": True, "complevel": 1} for name, array in dataset.items() if array.size > 1024}
    content = dataset.to_netcdf(engine="h5netcdf", encoding=encoding)
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def read_netcdf(path: Path) -> xr.Dataset:
    """Read a netCDF file into memory.

    Raises:
      InputError: it is missing or damaged.
    """
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return dataset.load()
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: run the stage that writes it first.") from error
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}): run the stage that writes it again.") from error


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, whole or not at all."""
    with whole_file(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


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
