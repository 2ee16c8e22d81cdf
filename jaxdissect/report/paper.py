"""Figures of one run for papers, as SVG and PNG with the data behind each as CSV; they need matplotlib."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from jaxdissect.report.payload import Axes
from jaxdissect.report.payload_results import classes_of, without_gain
from jaxdissect.report.run_contents import Contents
from jaxdissect.runtime.tables import write_csv
from jaxdissect.selection.neuron_sets import ClassName
from jaxdissect.sharing.heatmaps import STYLE, figure_maker, file_name, save_figure, short_name

Figure: TypeAlias = Any  # matplotlib.figure.Figure; matplotlib is an extra
Plot: TypeAlias = Any  # matplotlib.axes.Axes
CELL = 0.16  # side of a cell, inches
MIN_CELLS, MAX_CELLS = 2.0, 24.0  # sides of all cells together, inches
LETTER = 0.08  # width of a letter of a label, inches
ROOM = 1.5  # for ticks, titles and the colour bar, inches
CHANGES = ("margin_change", "ci_low", "ci_high", "control_mean", "control_sd")


def draw_paper_figures(contents: Contents, axes: Axes, folder: Path) -> tuple[Path, ...]:
    """Draw the figures that a run has data for.

    Args:
      contents: files of the run.
      axes: layers, neurons and classes of the run.
      folder: folder of the figures; made if it is not there.

    Returns:
      Paths of the SVG files; a PNG file and a CSV file are beside each.

    Raises:
      InputError: matplotlib is not installed, or a file cannot be written.
    """
    matplotlib, paths = figure_maker(), dict[str, Path]()
    with matplotlib.rc_context(STYLE):
        for name, figure, table in _figures(contents, axes, matplotlib):
            plain = file_name(name, paths)
            paths[plain] = folder / f"{plain}.svg"
            save_figure(figure, paths[plain])
            write_csv(table, paths[plain].with_suffix(".csv"))
    return tuple(paths.values())


def _figures(contents: Contents, axes: Axes, matplotlib: ModuleType) -> Iterator[tuple[str, Figure, pd.DataFrame]]:
    """Name, figure and data of each figure; of each label set those for which there is data.

    Args:
      contents: files of the run.
      axes: layers, neurons and classes of the run.
      matplotlib: the module.
    """
    pairs, ablation = contents.neurons, contents.tables.get("ablation.csv")
    for label_set in axes.label_sets:
        selected = None if pairs is None else pairs[pairs["label_set"] == label_set]
        if selected is not None and len(selected):
            table = layer_table(selected, axes.names_in(label_set), axes.layers)
            yield f"layers-{label_set}", _layers(table, matplotlib), table.reset_index(names="class")
            # Classes of one size stay in the order of the label set.
            size = table.sum(axis=1).sort_values(ascending=False, kind="stable")
            frame = pd.DataFrame({"class": size.index, "neurons": size.to_numpy()})
            figure = _sizes(frame, matplotlib, every_class=contents.counts is not None)
            yield f"neurons-per-class-{label_set}", figure, frame
        changes = None if ablation is None else ablation[ablation["label_set"] == label_set]
        if changes is None or not len(changes):
            continue
        matrix = specificity_table(changes)
        if matrix.size:
            yield f"specificity-{label_set}", _specificity(matrix, matplotlib), matrix.reset_index(names="silenced")
        doses = dose_table(changes, axes.classes)
        if len(doses):
            yield f"dose-response-{label_set}", _doses(doses, matplotlib), doses


def layer_table(pairs: pd.DataFrame, names: list[str], layers: int) -> pd.DataFrame:
    """Number of class-specific neurons: a row per class, a column per layer.

    Args:
      pairs: class and layer of each pair of class and neuron.
      names: classes of the label set, also those without neurons.
      layers: number of layers of the encoder.
    """
    # The crosstab has no row for a class without neurons and no column for a layer without them.
    columns = pd.Index(range(layers))
    counts = pd.crosstab(pairs["class"], pairs["layer"].astype(int)).reindex(index=names, columns=columns, fill_value=0)
    return pd.DataFrame(counts.to_numpy(np.int64), names, [f"layer_{layer}" for layer in columns])


def specificity_table(ablation: pd.DataFrame) -> pd.DataFrame:
    """Margin change at the lowest gain, logits: a row per silenced set, a column per class.

    Args:
      ablation: interventions of one label set, with several gains.
    """
    lowest = ablation[ablation["gain"] == ablation["gain"].min()]
    # Rows and columns in the order of the table.
    rows, columns = (list(dict.fromkeys(lowest[name])) for name in ("intervention", "class"))
    matrix = lowest.pivot_table("margin_change", "intervention", "class", sort=False, dropna=False)
    return matrix.reindex(index=rows, columns=columns).rename(
        index=lambda name: without_gain(name, lowest["gain"].min())
    )


def dose_table(ablation: pd.DataFrame, classes: Sequence[ClassName]) -> pd.DataFrame:
    """Margin change of each set's own class at several gains, logits.

    A set without gain 1, which changes nothing, gets a row for it, so that its curve passes through zero.

    Args:
      ablation: interventions of one label set.
      classes: all classes of the run.

    Returns:
      A row for each set and gain, with the interval of the change and with the controls.
    """
    silenced = [without_gain(name, gain) for name, gain in zip(ablation["intervention"], ablation["gain"], strict=True)]
    own_class = {name: classes_of(name, classes) for name in set(silenced)}
    measured = zip(ablation["label_set"], ablation["class"], strict=True)
    # Kept are sets that are meant for one class, measured on it.
    own = [own_class[name] == (key,) for name, key in zip(silenced, measured, strict=True)]
    doses = ablation.assign(silenced=silenced)[own]
    doses = doses[doses.groupby("silenced")["gain"].transform("nunique") > 1][["silenced", "gain", *CHANGES]]
    with_one = doses[doses["gain"] == 1]["silenced"]
    without_one = [name for name in doses["silenced"].unique() if name not in set(with_one)]
    if without_one:
        untouched = pd.DataFrame({"silenced": without_one, "gain": 1.0, "margin_change": 0.0})
        doses = pd.concat([doses, untouched])
    return doses.sort_values(["silenced", "gain"], kind="stable").reset_index(drop=True)


def _layers(table: pd.DataFrame, matplotlib: ModuleType) -> Figure:
    """A heatmap of layers and classes; classes without neurons are left out."""
    covered = table[table.sum(axis=1) > 0]
    figure, plot = _blank(matplotlib, len(covered), len(covered.columns), covered.index)
    image = plot.imshow(np.ma.masked_equal(covered, 0), cmap="viridis", aspect="auto", vmin=0, interpolation="none")
    image.set_clip_on(False)  # else the SVG has names of clip paths that differ each time
    plot.set_yticks(range(len(covered)), [short_name(name) for name in covered.index])
    plot.set_xticks(range(len(covered.columns)), [str(layer) for layer in range(len(covered.columns))])
    plot.set(xlabel="layer")
    figure.colorbar(image, ax=plot).set_label("class-specific neurons")
    return figure


def _sizes(frame: pd.DataFrame, matplotlib: ModuleType, every_class: bool) -> Figure:
    """Bars of the number of neurons of each class.

    Args:
      frame: classes and their numbers of neurons.
      matplotlib: the module.
      every_class: whether the frame has every class of the label set; only then is the coverage known.
    """
    figure, plot = _blank(matplotlib, len(frame), 20, frame["class"])
    plot.barh(range(len(frame)), frame["neurons"], color="0.35")
    plot.set_yticks(range(len(frame)), [short_name(name) for name in frame["class"]])
    plot.set(xlabel="class-specific neurons", ylim=(len(frame) - 0.4, -0.6))
    if every_class:
        plot.set_title(f"coverage {(frame['neurons'] > 0).mean():.0%}")
    return figure


def _specificity(matrix: pd.DataFrame, matplotlib: ModuleType) -> Figure:
    """A heatmap of silenced sets and measured classes."""
    figure, plot = _blank(matplotlib, len(matrix), len(matrix.columns), [*matrix.index, *matrix.columns])
    most = float(np.nanmax(np.abs(matrix.to_numpy()), initial=0)) or 1.0  # colours are centred on no change
    image = plot.imshow(matrix, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto", interpolation="none")
    image.set_clip_on(False)
    plot.set_yticks(range(len(matrix)), [short_name(name) for name in matrix.index])
    plot.set_xticks(range(len(matrix.columns)), [short_name(name) for name in matrix.columns], rotation=90)
    plot.set(xlabel="measured on", ylabel="silenced")
    figure.colorbar(image, ax=plot).set_label("margin change, logits")
    return figure


def _doses(doses: pd.DataFrame, matplotlib: ModuleType) -> Figure:
    """Curves of margin change against gain, one for each set."""
    figure = matplotlib.figure.Figure((4.5, 3), layout="constrained")
    plot = figure.add_subplot()
    plot.axhline(0, color="0.7", linewidth=0.8)
    sets = list(doses.groupby("silenced", sort=False))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(sets)))
    for (name, points), colour, marker in zip(sets, colours, itertools.cycle("os^Dv*"), strict=False):
        style = {"color": colour, "marker": marker, "markersize": 3.5, "clip_on": False}
        plot.plot(points["gain"], points["margin_change"], label=short_name(str(name)), **style)
    plot.set(xlabel="gain", ylabel="margin change, logits")
    plot.legend(fontsize=6, frameon=False)
    return figure


def _blank(matplotlib: ModuleType, rows: int, columns: int, names: Collection[str]) -> tuple[Figure, Plot]:
    """An empty figure with room for labels.

    Args:
      matplotlib: the module.
      rows: number of cells from top to bottom.
      columns: number of cells from left to right.
      names: labels, of which the longest needs room.
    """
    room = LETTER * max((len(short_name(name)) for name in names), default=0) + ROOM
    # Many classes get smaller cells instead of a sheet that no printer takes.
    width, height = (float(np.clip(CELL * count, MIN_CELLS, MAX_CELLS)) + room for count in (columns, rows))
    figure = matplotlib.figure.Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()
