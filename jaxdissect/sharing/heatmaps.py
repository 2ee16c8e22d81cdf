"""Figures for papers, as SVG and PNG with the data behind them as CSV; needs the extra `figures` (matplotlib)."""

import itertools
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import scipy.cluster.hierarchy
import xarray as xr
from jaxtyping import Bool, Float, Int

from jaxdissect.errors import InputError
from jaxdissect.runtime.files import whole_file
from jaxdissect.runtime.tables import write_csv
from jaxdissect.sharing.clusters import linkage
from jaxdissect.sharing.share import Sharing
from jaxdissect.significance.assess import LEVEL

CLASS_INCHES, TREE_INCHES, BAR_INCHES = 0.16, 0.7, 0.12  # a row or column; a dendrogram; the colour bar
LEAST_INCHES, MOST_INCHES = 1.6, 24.0  # sides of a heatmap
LETTER_INCHES = 0.08  # width of a letter of a class name, at most
DPI = 200  # of PNG files
STYLE = {"svg.hashsalt": "jaxdissect", "text.parse_math": False, "font.size": 8}  # the same data give the same file


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Classes by classes, in the order in which they are drawn.

    Attributes:
      jaccard: Jaccard coefficients, with the classes' names.
      marked: pairs of classes to draw a dot on.
      trees: linkage of the rows, and of the columns, in SciPy's format, whose leaves have this order; None: not
        clustered.
      titles: titles of rows and columns.
    """

    jaccard: pd.DataFrame
    marked: Bool[np.ndarray, "row column"]
    trees: tuple[Float[np.ndarray, "_ 4"] | None, Float[np.ndarray, "_ 4"] | None]
    titles: tuple[str, str]

    @property
    def highest(self) -> float:
        """End of the colour scale: the largest coefficient, which is 1 within a label set; 1 if all are 0."""
        return float(self.jaccard.to_numpy().max()) or 1.0


def sharing_heatmaps(sharing: Sharing) -> dict[str, Heatmap]:
    """The Jaccard coefficients of every two label sets, by names for files.

    Label sets of the run are clustered by the neurons that their classes share. Label sets of other runs keep their
    order, and so do those that they are compared with. Classes without neurons are left out. A dot marks two classes
    that share more than their sizes and the breadth of their neurons explain (q <= 0.05).

    Args:
      sharing: result of `share`.
    """
    matrices, heatmaps = sharing.matrices, dict[str, Heatmap]()
    jaccard, marked = matrices["jaccard"].values, matrices["q_by_breadth"].values <= LEVEL
    row_names, column_names = matrices["class_a"].values, matrices["class_b"].values
    own, everything = _label_sets(matrices, "a"), _label_sets(matrices, "b")
    # Two classes have one possible order: a dendrogram needs three.
    trees = {key: linkage(jaccard[np.ix_(at, at)]) if len(at) > 2 else None for key, at in own.items()}
    for number, (a, rows) in enumerate(own.items()):
        # The label sets of the run come first among all, so each two of them meet once.
        for b, columns in list(everything.items())[number:]:
            if not len(rows) or not len(columns):
                continue
            both = (trees[a], trees[b]) if b in own else (None, None)
            row, column = (_in_order(at, tree) for at, tree in zip((rows, columns), both, strict=True))
            block = np.ix_(row, column)
            frame = pd.DataFrame(jaccard[block], row_names[row], column_names[column])
            run = "" if b in own else f" of {Path(b[0]).name}"
            name = file_name(f"sharing-{a[1]}" if a == b else f"sharing-{a[1]}-{b[1]}{run}", heatmaps)
            heatmaps[name] = Heatmap(frame, marked[block], both, (a[1], b[1] + run))
    return heatmaps


def draw_sharing(sharing: Sharing, folder: Path) -> list[Path]:
    """Draw `sharing_heatmaps` with dendrograms; returns the SVG files, beside which there are `.png` and `.csv`.

    Args:
      sharing: result of `share`.
      folder: folder of the files.

    Raises:
      InputError: matplotlib is not installed, or a file cannot be written.
    """
    paths = []
    for name, heatmap in sharing_heatmaps(sharing).items():
        paths.append(folder / f"{name}.svg")
        with figure_maker().rc_context(STYLE):
            save_figure(draw_heatmap(heatmap), paths[-1])
        write_csv(heatmap.jaccard.rename_axis(index="class").reset_index(), paths[-1].with_suffix(".csv"))
    return paths


def draw_heatmap(heatmap: Heatmap) -> Any:
    """A matplotlib figure: heatmap, dendrograms to the left and above, colour bar.

    Args:
      heatmap: numbers to draw.
    """
    shape = heatmap.jaccard.shape
    height, width = (float(np.clip(CLASS_INCHES * classes, LEAST_INCHES, MOST_INCHES)) for classes in shape)
    left, top = (TREE_INCHES if tree is not None else 0.01 for tree in heatmap.trees)
    names = [[short_name(name) for name in axis] for axis in (heatmap.jaccard.index, heatmap.jaccard.columns)]
    right, below = (LETTER_INCHES * max(map(len, axis)) for axis in names)  # room for the names
    size = width + left + right + 1.5, height + top + below + 0.8
    figure = figure_maker().figure.Figure(size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    grid = figure.add_gridspec(2, 3, width_ratios=(left, width, BAR_INCHES), height_ratios=(top, height))
    axes = figure.add_subplot(grid[1, 1])
    image = axes.imshow(
        heatmap.jaccard, cmap="viridis", vmin=0, vmax=heatmap.highest, aspect="auto", interpolation="none"
    )
    image.set_clip_on(False)  # a clip path gets another name in every SVG: the same data would not give the same file
    row, column = np.nonzero(heatmap.marked)  # matplotlib's x is the column
    axes.plot(
        column, row, "o", color="white", markeredgecolor="black", markeredgewidth=0.5, markersize=3, clip_on=False
    )
    axes.set_xticks(range(shape[1]), names[1], rotation=90)
    axes.set_yticks(range(shape[0]), names[0])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set(xlabel=heatmap.titles[1], ylabel=heatmap.titles[0])
    for place, tree, horizontal in ((grid[1, 0], heatmap.trees[0], True), (grid[0, 1], heatmap.trees[1], False)):
        if tree is not None:
            _draw_tree(figure.add_subplot(place), tree, horizontal)
    bar = figure.colorbar(image, cax=figure.add_subplot(grid[1, 2]))
    bar.set_label("Jaccard coefficient")
    if heatmap.marked.any():
        figure.supxlabel("dots: more than sizes and breadth explain", fontsize=7, x=0.02, ha="left")
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as SVG, and as PNG beside it, each whole or not at all.

    Args:
      figure: matplotlib figure.
      path: SVG file.

    Raises:
      InputError: a file cannot be written.
    """
    for file, more in ((path, {"metadata": {"Date": None}}), (path.with_suffix(".png"), {"dpi": DPI})):
        with whole_file(file) as temporary:
            figure.savefig(temporary, format=file.suffix[1:], **more)


def figure_maker() -> ModuleType:
    """Matplotlib, which comes with the extra `figures`.

    Raises:
      InputError: it is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        raise InputError("Figures need matplotlib: pip install 'jaxdissect[figures]'.") from error
    return matplotlib


def file_name(name: str, taken: Container[str]) -> str:
    """A name that any file system accepts.

    Args:
      name: any text.
      taken: names of other files, of which the result is none.
    """
    plain = re.sub(r"[^\w]+", "-", name)[:100].strip("-")
    numbers = (f"{plain}-{number}" for number in itertools.count(2))
    return plain if plain not in taken else next(numbered for numbered in numbers if numbered not in taken)


def _label_sets(matrices: xr.Dataset, side: str) -> dict[tuple[str, str], Int[np.ndarray, " class"]]:
    """Places, along an axis, of the classes with neurons of every (run, label set)."""
    places: dict[tuple[str, str], list[int]] = {}
    keys = zip(matrices[f"run_{side}"].values.tolist(), matrices[f"label_set_{side}"].values.tolist(), strict=True)
    for place, (key, size) in enumerate(zip(keys, matrices[f"size_{side}"].values, strict=True)):
        places.setdefault(key, []).extend([place] if size else [])
    return {key: np.array(of_set, np.int64) for key, of_set in places.items()}


def _in_order(places: Int[np.ndarray, " class"], tree: np.ndarray | None) -> Int[np.ndarray, " class"]:
    """Places in the order of the leaves of a dendrogram; without one they keep their order."""
    return places if tree is None else places[scipy.cluster.hierarchy.leaves_list(tree)]


def _draw_tree(axes: Any, tree: np.ndarray, horizontal: bool) -> None:
    """A dendrogram whose leaves are at the heatmap's cells; SciPy has them at 5, 15, 25, ..."""
    drawn = scipy.cluster.hierarchy.dendrogram(tree, no_plot=True)
    for along, height in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        line = np.array(along) / 10 - 0.5, np.array(height)
        axes.plot(*(line[::-1] if horizontal else line), color="0.3", linewidth=0.7, clip_on=False)
    leaves = len(tree) + 1  # a linkage has a row for every merge of two clusters
    if horizontal:
        axes.set(ylim=(leaves - 0.5, -0.5), xlim=(1.02, 0))
    else:
        axes.set(xlim=(-0.5, leaves - 0.5), ylim=(0, 1.02))
    axes.axis("off")


def short_name(name: str, most: int = 40) -> str:
    """A class name for a figure, cut to a length.

    Args:
      name: name of the class.
      most: letters at most.
    """
    return name if len(name) <= most else f"{name[: most - 1]}…"
