"""Classes, neurons and clips of a run as one JSON object; a page holds only class-specific neurons."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from jaxdissect.errors import InputError
from jaxdissect.report.numbers import packed, short
from jaxdissect.report.run_contents import AAPE_SCORES, Contents
from jaxdissect.report.snippets import Snippets, Wanted, clips_wanted
from jaxdissect.selection.neuron_sets import ClassName
from jaxdissect.tasks.table import CLIP_COLUMNS
from jaxdissect.types import Record

MAX_16_BIT = 4_000_000  # probabilities that a page holds in 16 bits each; more of them take 8 bits each
HELD_OUT = ("held_out_auroc", "held_out_auroc_low", "held_out_auroc_high")
PAIR_VALUES = ("probability", "ratio", "p_value", "q_value", "stability", *HELD_OUT)


@dataclass(frozen=True, eq=False)
class Axes:
    """Label sets, classes and neurons of a page, in the order in which it numbers them.

    Attributes:
      label_sets: names of the label sets.
      classes: label set and name of each class.
      neurons: layer and number of each class-specific neuron.
      layers: number of layers of the encoder.
      width: number of neurons of a layer.
    """

    label_sets: tuple[str, ...]
    classes: tuple[ClassName, ...]
    neurons: Int[np.ndarray, "neuron 2"]
    layers: int
    width: int

    def class_numbers(self, label_sets: Sequence[str], names: Sequence[str]) -> list[int]:
        """Numbers of classes, which are given by label set and name.

        Raises:
          InputError: a class was not counted.
        """
        number = {key: place for place, key in enumerate(self.classes)}
        keys = list(zip(label_sets, names, strict=True))
        foreign = [f"{label_set}:{name}" for label_set, name in keys if (label_set, name) not in number]
        if foreign:
            raise InputError(f"it names a class that was not counted, {foreign[0]}")
        return [number[key] for key in keys]

    def names_in(self, label_set: str) -> list[str]:
        """Names of the classes of a label set."""
        return [name for owner, name in self.classes if owner == label_set]


def axes_of(contents: Contents) -> Axes:
    """The axes of a run, from what was counted, or else from the tables of neurons and of the ablation.

    Without counts, classes without neurons may be unknown, and layers end at the last one that has neurons.

    Args:
      contents: files of the run.

    Raises:
      ValueError: files have other layers, neurons or classes than were counted.
    """
    counts, table = contents.counts, contents.neurons
    neurons = np.zeros((0, 2), np.int64)  # layer and number, sorted by both
    if table is not None and len(table):
        neurons = np.unique(table[["layer", "neuron"]].to_numpy(np.int64), axis=0)
    if counts is not None:
        beside = [contents.data[name] for name in ("top_clips.nc", "scores.nc") if name in contents.data]
        # Values are taken by position below, so that files with other axes would be read without an error.
        xr.align(counts, *beside, join="exact", copy=False)
        names = [counts[name].values.tolist() for name in ("label_set", "class")]
        layers, width = counts.sizes["layer"], counts.sizes["neuron"]
    else:
        tables = [contents.tables[name] for name in ("neurons.csv", "ablation.csv") if name in contents.tables]
        names = [[name for one in tables for name in one[column]] for column in ("label_set", "class")]
        layers, width = (int(highest) + 1 for highest in neurons.max(axis=0, initial=-1))
    classes = dict.fromkeys(zip(*names, strict=True))
    return Axes(tuple(dict.fromkeys(label_set for label_set, _ in classes)), tuple(classes), neurons, layers, width)


def wanted_clips(contents: Contents, axes: Axes) -> Wanted:
    """The top clips of the class-specific neurons.

    Clips of different classes of the first label set come first. Without the files of clips there are none.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.
    """
    top, clips = contents.data.get("top_clips.nc"), contents.tables.get("clips.csv")
    if top is None or clips is None or not len(axes.neurons):
        return Wanted((), axes.neurons, {})
    layer, neuron = axes.neurons.T
    # Numbers of classes by label, for the first label set alone.
    label_set = axes.label_sets[0]
    labels = clips[label_set].tolist() if label_set in clips else [""] * len(clips)
    number = {label: place for place, label in enumerate(dict.fromkeys(labels))}
    return clips_wanted(top["clip"].values[layer, neuron], axes.neurons, [number[label] for label in labels])


def run_payload(contents: Contents, axes: Axes) -> Record:
    """Classes, neurons, and which belong together.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.

    Returns:
      Columns of `classes`, `neurons` and `pairs`; `top` has a row of clips for each neuron.
    """
    return {
        "label_sets": list(axes.label_sets),
        "classes": _classes(contents, axes),
        "layers": axes.layers,
        "width": axes.width,
        "neurons": _neurons(contents, axes),
        "pairs": _pairs(contents, axes),
        "top": _top(contents, axes),
    }


def clips_payload(contents: Contents, axes: Axes, wanted: Wanted, snippets: Snippets | None) -> Record:
    """The clips that the page names, and what of them can be seen and heard; it holds sound and pictures elsewhere.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.
      wanted: clips of the page, in the order in which they are numbered here.
      snippets: clips that can be seen and heard; None if there are none.
    """
    table = contents.tables.get("clips.csv")
    if table is None or not wanted.clips:
        return {"number": []}
    rows = table.iloc[list(wanted.clips)]
    payload: Record = {
        "number": list(wanted.clips),
        "file": rows["file_name"].tolist(),
        "status": rows["status"].tolist(),
        "labels": _labels(rows, axes),
    }
    if snippets is None:
        return payload
    payload |= {
        "audio": [int(clip in snippets.clips) for clip in wanted.clips],
        "seconds": [short(snippets.clips[clip].seconds) if clip in snippets.clips else None for clip in wanted.clips],
        "mime": snippets.form.mime,
        "ending": snippets.form.ending,
        "unit_seconds": snippets.unit_seconds,
        "low_hz": snippets.front_end.f_min,
        "high_hz": snippets.front_end.f_max,
        "left_out": snippets.left_out,
        "unreadable": {str(clip): reason for clip, reason in snippets.unreadable.items()},
    }
    if snippets.grids is not None:
        payload["grids"] = {
            # One grid for each clip and neuron, in the order of the levels.
            "place": [[clip, neuron] for clip, neuron in snippets.grids.place],
            "levels": packed(snippets.grids.levels),
            "highest": short(snippets.grids.highest),
            "start": short(snippets.grids.start),
            "stop": short(snippets.grids.stop),
        }
    return payload


def _classes(contents: Contents, axes: Axes) -> Record:
    """Name and label set of each class, with its counted clips and tokens."""
    classes: Record = {
        "name": [name for _, name in axes.classes],
        "set": [axes.label_sets.index(label_set) for label_set, _ in axes.classes],
    }
    if contents.counts is not None:
        classes |= {name: short(contents.counts[name].values) for name in ("clips", "tokens")}
    return classes


def _neurons(contents: Contents, axes: Axes) -> Record:
    """Where each class-specific neuron is, its scores in every label set, and its class profile.

    The profile of a neuron is the fraction of the tokens of each class at which it is active.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.
    """
    layer, neuron = axes.neurons.T
    neurons: Record = {"layer": short(layer), "neuron": short(neuron)}
    counts = contents.counts
    if "scores.nc" in contents.data:
        # In the order of the page's label sets, whatever the order in the file.
        scores = contents.data["scores.nc"].sel(label_set=list(axes.label_sets))
        for name in ("rate", *AAPE_SCORES):
            if name in scores:
                neurons[name] = short(scores[name].values[:, layer, neuron])  # (label set, neuron)
        neurons |= {name: short(scores[name].values) for name in ("probability_bar", "aape_cutoff")}
    if counts is not None and len(layer):
        active = counts["active_tokens"].values[:, layer, neuron]  # (class, neuron)
        tokens = counts["tokens"].values[:, None]
        fraction = np.divide(active, tokens, out=np.zeros(active.shape), where=tokens > 0)
        # A row per neuron, in whole steps of 1/65535, or of 1/255 where the page would grow too large.
        kind = np.uint8 if fraction.size > MAX_16_BIT else np.uint16
        neurons["profile"] = packed(np.rint(fraction.T * np.iinfo(kind).max).astype(kind))
    return neurons


def _pairs(contents: Contents, axes: Axes) -> Record:
    """A row for each class and neuron that belong together, with what is known of the two.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.

    Raises:
      InputError: a class was not counted.
    """
    table = contents.neurons
    if table is None:
        return {"class": [], "neuron": []}
    # The inverse numbers each pair's neuron by its place among the unique ones, which are `axes.neurons`.
    _, neuron = np.unique(table[["layer", "neuron"]].to_numpy(np.int64), axis=0, return_inverse=True)
    pairs: Record = {
        "class": axes.class_numbers(table["label_set"].tolist(), table["class"].tolist()),
        "neuron": short(neuron.ravel()),
    }
    pairs |= {name: short(table[name].to_numpy()) for name in PAIR_VALUES if name in table}
    if "reading" in table:
        pairs["reading"] = table["reading"].tolist()
    scores = contents.data.get("scores.nc")
    if scores is not None and "margin_effect" in scores and len(table):
        pairs["effect"] = short(_effects(scores, table))
    return pairs


def _effects(scores: xr.Dataset, table: pd.DataFrame) -> Float[np.ndarray, " pair"]:
    """First-order change of the class's margin when the neuron of each pair falls silent, logits.

    Args:
      scores: content of `scores.nc`, with `margin_effect` (class, layer, neuron).
      table: class, layer and neuron of each pair.
    """
    keys = zip(scores["class_label_set"].values.tolist(), scores["class"].values.tolist(), strict=True)
    number = {key: place for place, key in enumerate(keys)}
    row = [number[key] for key in zip(table["label_set"], table["class"], strict=True)]
    layer, neuron = (table[name].to_numpy(np.int64) for name in ("layer", "neuron"))
    return scores["margin_effect"].values[row, layer, neuron].astype(float)


def _top(contents: Contents, axes: Axes) -> Record:
    """Top clips of each class-specific neuron, the best first; -1 where a neuron has fewer."""
    top = contents.data.get("top_clips.nc")
    if top is None or not len(axes.neurons):
        return {}
    layer, neuron = axes.neurons.T
    return {
        "clip": short(top["clip"].values[layer, neuron]),
        "fraction": short(top["active_share"].values[layer, neuron]),
        "peak": short(top["max_activation"].values[layer, neuron].astype(float)),
    }


def _labels(rows: pd.DataFrame, axes: Axes) -> list[list[int]]:
    """Numbers of the classes of each clip.

    Args:
      rows: rows of `clips.csv`; several labels of one clip are joined by commas.
      axes: numbering of classes and neurons.
    """
    # A label of a class that was not counted has no number, and is not shown.
    number = {key: place for place, key in enumerate(axes.classes)}
    labels: list[list[int]] = [[] for _ in range(len(rows))]
    for label_set in axes.label_sets:
        if label_set not in rows or label_set in CLIP_COLUMNS:
            continue
        for of_clip, value in zip(labels, rows[label_set], strict=True):
            # A class's own name may have a comma.
            names = [value] if (label_set, value) in number else value.split(",")
            of_clip += [number[label_set, name] for name in names if (label_set, name) in number]
    return labels
