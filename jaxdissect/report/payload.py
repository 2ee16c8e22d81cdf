"""What the page shows of a run, as one JSON object: only what class-specific neurons need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Int

from jaxdissect.report.numbers import packed, short
from jaxdissect.report.run_contents import Contents
from jaxdissect.report.snippets import Snippets, Wanted, clips_wanted
from jaxdissect.tasks.table import CLIP_COLUMNS

MANY = 4_000_000  # probabilities, beyond which a page has no room for the second byte of each


@dataclass(frozen=True, eq=False)
class Frame:
    """The axes that everything on the page is numbered by.

    Attributes:
      label_sets: their names.
      classes: (label set, name) of each.
      neurons: layer and number of every class-specific neuron.
      layers, width: of the encoder.
    """

    label_sets: tuple[str, ...]
    classes: tuple[tuple[str, str], ...]
    neurons: Int[np.ndarray, "neuron 2"]
    layers: int
    width: int

    def class_numbers(self, label_sets: Sequence[str], names: Sequence[str]) -> list[int]:
        """Numbers of classes; -1 for one that is not there."""
        number = {key: place for place, key in enumerate(self.classes)}
        return [number.get(key, -1) for key in zip(label_sets, names, strict=True)]

    @property
    def of_label_set(self) -> list[int]:
        """Number of the label set of every class."""
        return [self.label_sets.index(label_set) for label_set, _ in self.classes]


def frame(contents: Contents) -> Frame:
    """The axes of a run, from what was counted, or else from the tables of neurons and of the ablation."""
    counts, table = contents.counts, contents.neurons
    pairs = np.zeros((0, 2), np.int64)
    if table is not None and len(table):
        pairs = np.unique(table[["layer", "neuron"]].to_numpy(np.int64), axis=0)
    if counts is not None:
        keys = list(zip(counts["label_set"].values.tolist(), counts["class"].values.tolist(), strict=True))
        shape = counts.sizes["layer"], counts.sizes["neuron"]
    else:
        named = [contents.tables[name] for name in ("neurons", "ablation") if name in contents.tables]
        rows = [key for one in named for key in zip(one["label_set"], one["class"], strict=True)]
        keys, shape = list(dict.fromkeys(rows)), tuple(pairs.max(axis=0, initial=-1) + 1)
    classes = tuple((str(label_set), str(name)) for label_set, name in keys)
    return Frame(tuple(dict.fromkeys(name for name, _ in classes)), classes, pairs, int(shape[0]), int(shape[1]))


def wanted_clips(contents: Contents, axes: Frame) -> Wanted:
    """The top clips of the class-specific neurons."""
    top, clips = contents.data.get("top_clips"), contents.tables.get("clips")
    if top is None or clips is None or not len(axes.neurons):
        return Wanted((), axes.neurons, {})
    layer, neuron = axes.neurons.T
    numbers = top["clip"].values[layer, neuron]
    first = axes.label_sets[0]
    labels = clips[first].tolist() if first in clips else [""] * len(clips)
    place = {name: number for number, name in enumerate(dict.fromkeys(labels))}
    return clips_wanted(np.where(numbers < len(clips), numbers, -1), axes.neurons, [place[name] for name in labels])


def run_payload(contents: Contents, axes: Frame) -> dict[str, Any]:
    """Classes and neurons, and which belong together."""
    return {
        "label_sets": list(axes.label_sets),
        "classes": _classes(contents, axes),
        "layers": axes.layers,
        "width": axes.width,
        "neurons": _neurons(contents, axes),
        "pairs": _pairs(contents, axes),
        "top": _top(contents, axes),
    }


def clips_payload(contents: Contents, axes: Frame, wanted: Wanted, snippets: Snippets | None) -> dict[str, Any]:
    """The clips that the page names, and what can be seen and heard of them; sound and pictures stand beside."""
    table = contents.tables.get("clips")
    if table is None or not wanted.clips:
        return {"number": []}
    rows = table.iloc[list(wanted.clips)]
    found: dict[str, Any] = {
        "number": list(wanted.clips),
        "file": rows["file_name"].tolist(),
        "status": rows["status"].tolist(),
        "labels": _labels(rows, axes),
    }
    if snippets is None:
        return found
    found["seconds"] = [
        short(snippets.clips[clip].seconds) if clip in snippets.clips else None for clip in wanted.clips
    ]
    front_end = snippets.front_end
    found |= {
        "audio": [int(clip in snippets.clips) for clip in wanted.clips],
        "mime": snippets.form.mime,
        "ending": snippets.form.ending,
        "unit_seconds": snippets.unit_seconds,
        "low_hz": front_end.f_min,
        "high_hz": front_end.f_max,
        "left_out": snippets.left_out,
        "unreadable": {str(clip): reason for clip, reason in snippets.unreadable.items()},
    }
    if snippets.grids is not None:
        grids = snippets.grids
        found["grids"] = {
            "place": [[clip, neuron] for clip, neuron in grids.place],
            "levels": packed(grids.levels),
            "highest": short(grids.highest),
            "start": short(grids.start),
            "stop": short(grids.stop),
        }
    return found


def _classes(contents: Contents, axes: Frame) -> dict[str, Any]:
    counts = contents.counts
    found: dict[str, Any] = {"name": [name for _, name in axes.classes], "set": axes.of_label_set}
    if counts is not None:
        found |= {name: short(counts[name].values) for name in ("clips", "tokens")}
    return found


def _neurons(contents: Contents, axes: Frame) -> dict[str, Any]:
    """Of every class-specific neuron: where it is, its scores in every label set, and its class profile."""
    layer, neuron = axes.neurons.T
    found: dict[str, Any] = {"layer": short(layer), "neuron": short(neuron)}
    scores, counts = contents.data.get("scores"), contents.counts
    if scores is not None:
        rows = _rows(scores["label_set"].values.tolist(), axes.label_sets)
        for name in ("rate", "aape", "aape_normalised", "aape_low", "aape_high"):
            if name in scores:
                values = scores[name].values[:, layer, neuron]
                found[name] = [short(values[row]) if row is not None else None for row in rows]
        for name in ("probability_bar", "aape_cutoff"):
            values = scores[name].values
            found[name] = [short(float(values[row])) if row is not None else None for row in rows]
    if counts is not None and len(layer):
        active = counts["active_tokens"].values[:, layer, neuron]
        tokens = counts["tokens"].values[:, None]
        share = np.divide(active, tokens, out=np.zeros(active.shape), where=tokens > 0)
        kind = np.uint8 if share.size > MANY else np.uint16
        found["profile"] = packed(np.rint(share.T * np.iinfo(kind).max).astype(kind))
    return found


def _pairs(contents: Contents, axes: Frame) -> dict[str, Any]:
    """A row per class and neuron that belong together, with all that is known of the two."""
    table = contents.neurons
    if table is None:
        return {"class": [], "neuron": []}
    place = {(int(layer), int(neuron)): number for number, (layer, neuron) in enumerate(axes.neurons)}
    keys = list(zip(table["layer"].astype(int), table["neuron"].astype(int), strict=True))
    found: dict[str, Any] = {
        "class": axes.class_numbers(table["label_set"].tolist(), table["class"].tolist()),
        "neuron": [place[key] for key in keys],
    }
    for name in ("probability", "p_value", "q_value", "stability"):
        if name in table:
            found[name] = short(table[name].to_numpy())
    effect = _effects(contents.data.get("scores"), axes, table)
    if effect is not None:
        found["effect"] = short(effect)
    return found


def _effects(scores: xr.Dataset | None, axes: Frame, table: pd.DataFrame) -> np.ndarray | None:
    """First-order change of the class's margin when the neuron falls silent, logits."""
    if scores is None or "margin_effect" not in scores or not len(table):
        return None
    known = {
        key: number
        for number, key in enumerate(
            zip(scores["class_label_set"].values.tolist(), scores["class"].values.tolist(), strict=True)
        )
    }
    rows = np.array([known.get(key, -1) for key in zip(table["label_set"], table["class"], strict=True)])
    if (rows < 0).any():
        return None
    layer, neuron = (table[name].to_numpy(np.int64) for name in ("layer", "neuron"))
    return scores["margin_effect"].values[rows, layer, neuron].astype(float)


def _top(contents: Contents, axes: Frame) -> dict[str, Any]:
    top = contents.data.get("top_clips")
    if top is None or not len(axes.neurons):
        return {}
    layer, neuron = axes.neurons.T
    return {
        "clip": short(top["clip"].values[layer, neuron]),
        "share": short(top["active_share"].values[layer, neuron]),
        "peak": short(top["max_activation"].values[layer, neuron].astype(float)),
    }


def _labels(rows: pd.DataFrame, axes: Frame) -> list[list[int]]:
    """Numbers of the classes of every clip; several labels of one clip are joined by commas."""
    number = {key: place for place, key in enumerate(axes.classes)}
    found: list[list[int]] = [[] for _ in range(len(rows))]
    for label_set in axes.label_sets:
        if label_set not in rows or label_set in CLIP_COLUMNS:
            continue
        for own, value in zip(found, rows[label_set].tolist(), strict=True):
            names = [value] if (label_set, value) in number else value.split(",")
            own += [number[label_set, name] for name in names if (label_set, name) in number]
    return found


def _rows(there: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    known: Mapping[str, int] = {name: row for row, name in enumerate(there)}
    return [known.get(name) for name in wanted]
