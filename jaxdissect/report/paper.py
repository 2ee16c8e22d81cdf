"""Figures for papers of one run, as PNG and SVG with the data behind each as CSV; needs matplotlib."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxdissect.report.payload import Frame
from jaxdissect.report.payload_results import classes_of
from jaxdissect.report.run_contents import Contents
from jaxdissect.runtime.tables import write_csv
from jaxdissect.selection.neuron_sets import ClassName
from jaxdissect.sharing.heatmaps import STYLE, figure_maker, file_name, save_figure, short_name

CELL, LEAST, MOST = 0.16, 2.0, 24.0  # inches


def draw_paper_figures(contents: Contents, axes: Frame, folder: Path) -> tuple[Path, ...]:
    """Draw what there is data for; returns the SVG files, beside which lie `.png` and `.csv`.

    Raises:
      InputError: matplotlib is not installed, or a file cannot be written.
    """
    matplotlib, paths, taken = figure_maker(), [], dict[str, Any]()
    with matplotlib.rc_context(STYLE):
        for name, figure, table in _figures(contents, axes, matplotlib):
            plain = file_name(name, taken)
            taken[plain] = table
            paths.append(folder / f"{plain}.svg")
            save_figure(figure, paths[-1])
            write_csv(table, paths[-1].with_suffix(".csv"))
    return tuple(paths)


def _figures(contents: Contents, axes: Frame, matplotlib: Any) -> Iterator[tuple[str, Any, pd.DataFrame]]:
    """Name, figure and data of each."""
    for label_set in axes.label_sets:
        names = [name for own, name in axes.classes if own == label_set]
        pairs = contents.neurons
        if pairs is not None and len(pairs[pairs["label_set"] == label_set]):
            table = layer_table(pairs[pairs["label_set"] == label_set], names, axes.layers)
            yield f"layers-{label_set}", _layers(table, matplotlib), table.reset_index(names="class")
            size = table.sum(axis=1).sort_values(ascending=False, kind="stable")
            frame = pd.DataFrame({"class": size.index, "neurons": size.to_numpy()})
            figure = _sizes(frame, matplotlib, every_class=contents.counts is not None)
            yield f"neurons-per-class-{label_set}", figure, frame
        ablation = contents.tables.get("ablation")
        if ablation is None:
            continue
        own = ablation[ablation["label_set"] == label_set]
        if len(own):
            matrix = specificity_table(own)
            if matrix.size:
                yield f"specificity-{label_set}", _specificity(matrix, matplotlib), matrix.reset_index(names="silenced")
        doses = dose_table(own, axes.classes)
        if len(doses):
            yield f"dose-response-{label_set}", _doses(doses, matplotlib), doses


def layer_table(pairs: pd.DataFrame, names: list[str], layers: int) -> pd.DataFrame:
    """Class-specific neurons, a row per class and a column per layer."""
    counts = np.zeros((len(names), layers), np.int64)
    place = {name: row for row, name in enumerate(names)}
    np.add.at(counts, (pairs["class"].map(place).to_numpy(), pairs["layer"].to_numpy(np.int64)), 1)
    return pd.DataFrame(counts, names, [f"layer_{layer}" for layer in range(layers)])


def _bases(names: list[str], rows: pd.DataFrame) -> list[str]:
    """Interventions without their gain, which ends their names where a set has several."""
    gain = dict(zip(rows["intervention"], rows["gain"], strict=True))
    return [name.removesuffix(f" x {np.format_float_positional(gain[name], trim='-')}") for name in names]


def specificity_table(ablation: pd.DataFrame) -> pd.DataFrame:
    """Margin change, logits, at the lowest gain: a row per silenced set, a column per class."""
    lowest = ablation[ablation["gain"] == ablation["gain"].min()]
    rows, columns = (list(dict.fromkeys(lowest[name])) for name in ("intervention", "class"))
    matrix = lowest.pivot_table("margin_change", "intervention", "class", sort=False, dropna=False)
    return matrix.reindex(index=rows, columns=columns).rename(index=dict(zip(rows, _bases(rows, lowest), strict=True)))


def dose_table(ablation: pd.DataFrame, classes: Sequence[ClassName]) -> pd.DataFrame:
    """Margin change of the own class of every set that has one and several gains; a gain of 1 changes nothing."""
    own = ablation.assign(silenced=_bases(ablation["intervention"].tolist(), ablation))
    meant = {name: classes_of(name, classes) for name in own["silenced"].unique()}
    keys = zip(own["silenced"], own["label_set"], own["class"], strict=True)
    own = own[[meant[name] == (tuple(key),) for name, *key in keys]]
    own = own[own.groupby("silenced")["gain"].transform("nunique") > 1]
    alone = pd.DataFrame({"silenced": own["silenced"].unique(), "gain": 1.0, "margin_change": 0.0})
    alone = alone[~alone["silenced"].isin(own[own["gain"] == 1]["silenced"])]
    kept = ["silenced", "gain", "margin_change", "ci_low", "ci_high", "control_mean", "control_sd"]
    both = pd.concat([own[kept], alone]) if len(own) else own[kept]
    return both.sort_values(["silenced", "gain"], kind="stable").reset_index(drop=True)


def _layers(table: pd.DataFrame, matplotlib: Any) -> Any:
    covered = table[table.sum(axis=1) > 0]
    figure, axes = _blank(matplotlib, len(covered), len(covered.columns), covered.index)
    image = axes.imshow(np.ma.masked_equal(covered, 0), cmap="viridis", aspect="auto", vmin=0, interpolation="none")
    image.set_clip_on(False)
    axes.set_yticks(range(len(covered)), map(short_name, covered.index))
    axes.set_xticks(range(len(covered.columns)), range(len(covered.columns)))
    axes.set(xlabel="layer")
    figure.colorbar(image, ax=axes).set_label("class-specific neurons")
    return figure


def _sizes(frame: pd.DataFrame, matplotlib: Any, every_class: bool) -> Any:
    """Bars, and the coverage where the frame has every class, not only those that other tables happen to name."""
    figure, axes = _blank(matplotlib, len(frame), 20, frame["class"])
    axes.barh(range(len(frame)), frame["neurons"], color="0.35")
    axes.set_yticks(range(len(frame)), map(short_name, frame["class"]))
    axes.set(xlabel="class-specific neurons", ylim=(len(frame) - 0.4, -0.6))
    if every_class:
        axes.set_title(f"coverage {(frame['neurons'] > 0).mean():.0%}")
    return figure


def _specificity(matrix: pd.DataFrame, matplotlib: Any) -> Any:
    figure, axes = _blank(matplotlib, len(matrix), len(matrix.columns), [*matrix.index, *matrix.columns])
    most = float(np.nanmax(np.abs(matrix.to_numpy()), initial=0)) or 1.0
    image = axes.imshow(matrix, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto", interpolation="none")
    image.set_clip_on(False)
    axes.set_yticks(range(len(matrix)), map(short_name, matrix.index))
    axes.set_xticks(range(len(matrix.columns)), map(short_name, matrix.columns), rotation=90)
    axes.set(xlabel="measured on", ylabel="silenced")
    figure.colorbar(image, ax=axes).set_label("margin change, logits")
    return figure


def _doses(doses: pd.DataFrame, matplotlib: Any) -> Any:
    figure = matplotlib.figure.Figure((4.5, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0, color="0.7", linewidth=0.8)
    sets = list(doses.groupby("silenced", sort=False))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(sets)))
    for (name, own), colour, marker in zip(sets, colours, itertools.cycle("os^Dv*"), strict=False):
        style = {"color": colour, "marker": marker, "markersize": 3.5, "clip_on": False}
        axes.plot(own["gain"], own["margin_change"], label=short_name(str(name)), **style)
    axes.set(xlabel="gain", ylabel="margin change, logits")
    axes.legend(fontsize=6, frameon=False)
    return figure


def _blank(matplotlib: Any, rows: int, columns: int, names: Any) -> tuple[Any, Any]:
    """A figure of so many cells, with room for names."""
    room = 0.08 * max((len(short_name(name)) for name in names), default=0) + 1.5
    size = (float(np.clip(CELL * count, LEAST, MOST)) + room for count in (columns, rows))
    figure = matplotlib.figure.Figure(tuple(size), layout="constrained")
    return figure, figure.add_subplot()
