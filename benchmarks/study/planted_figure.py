"""Figure of recall and false discovery rate of every selector, for `benchmarks.study.planted`."""

import math
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study.planted_selectors import LEVEL, TESTED
from jaxdissect.runtime.tables import write_csv
from jaxdissect.types import Record

# Name of a selector in the legend; colour (Okabe and Ito's, safe for the colour-blind), marker and dashes of its line.
LINES = {
    TESTED: (f"permutation test, q <= {LEVEL}", "black", "o", "-"),
    "aape": ("AAPE (preset aape)", "#CC79A7", "s", "-"),
    "lape": ("AAPE (preset lape)", "#D55E00", "D", "--"),
    "probability": ("activation probability", "#7F7F7F", "x", ":"),
    "class_selectivity": ("class selectivity", "#E69F00", "v", "-."),
    "d_prime": ("d'", "#009E73", "^", "--"),
    "preset auroc": ("preset auroc (default)", "#882255", "*", "-"),
    "auroc": ("AUROC", "#0072B2", "P", "-"),
    "average_precision": ("average precision", "#56B4E9", "*", "-."),
}
RATES = {"recall": "recall", "false_discovery_rate": "false discovery rate"}
NOTE = (
    "All but the permutation test and preset auroc know how much is planted. "
    "Where nothing is found, no false discovery rate is drawn.\n"
    "Bars: standard error of the permutation test over repetitions."
)


def rates(grid: list[Record]) -> pd.DataFrame:
    """A row for each point of the grid and selector; no false discovery rate where nothing is ever found."""
    rows = [
        {
            **{name: point[name] for name in ("classes", "clips_per_class", "strength")},
            "selector": selector,
            "recall": mean["recall"],
            "recall_error": point["standard_error"][selector]["recall"],
            "false_discovery_rate": mean["false"] if mean["pairs"] else math.nan,
            "false_discovery_rate_error": point["standard_error"][selector]["false"] if mean["pairs"] else math.nan,
        }
        for point in grid
        for selector, mean in point["mean"].items()
    ]
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> Figure:
    """A column of panels for each number of classes, at the middle number of clips per class."""
    clips, classes, strengths = (sorted(table[name].unique()) for name in ("clips_per_class", "classes", "strength"))
    middle = clips[len(clips) // 2]
    figure, panels = plt.subplots(
        2, len(classes), figsize=(9, 5.4), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    # The panels share their axes, so these are the limits and ticks of all.
    panels[0, 0].set(ylim=(-0.04, 1.04), xticks=strengths, xticklabels=[f"{strength:g}" for strength in strengths])
    for row, (rate, name) in zip(panels, RATES.items(), strict=True):
        row[0].set_ylabel(name)
        for axes, number in zip(row, classes, strict=True):
            draw_panel(axes, table[table["classes"] == number], rate, middle)
    for (top, bottom), number in zip(panels.T, classes, strict=True):
        top.set_title(f"{number} classes, {middle} clips each", fontsize=10)
        bottom.set_xlabel("planted strength, log-odds")
        bottom.axhline(LEVEL, color="black", linewidth=0.7, linestyle=":", label=f"nominal rate, {LEVEL}")
    draw_legend(figure, panels[1, 0], f"permutation test, {clips[0]} to {clips[-1]} clips each")
    return figure


def draw_panel(axes: Axes, table: pd.DataFrame, rate: str, clips: int) -> None:
    """One rate of every selector at a number of clips per class; a band spans the test's rates at any number."""
    tested = table[table["selector"] == TESTED].groupby("strength")[rate]
    axes.fill_between(tested.min().index, tested.min(), tested.max(), color="0.87", linewidth=0, label="band")
    for selector, (label, colour, marker, dashes) in LINES.items():
        line = table[(table["selector"] == selector) & (table["clips_per_class"] == clips)].sort_values("strength")
        width, order = (2.6, 3) if selector == TESTED else (1.2, 4)
        axes.plot(
            line["strength"],
            line[rate],
            color=colour,
            marker=marker,
            linestyle=dashes,
            label=label,
            linewidth=width,
            markersize=6,
            markerfacecolor=colour if selector == TESTED else "none",
            zorder=order,
            clip_on=False,
        )
        if selector == TESTED:
            axes.errorbar(line["strength"], line[rate], line[f"{rate}_error"], color=colour, fmt="none", capsize=3)
    axes.grid(alpha=0.3)


def draw_legend(figure: Figure, axes: Axes, band: str) -> None:
    """Draw the legend below the panels, first the entries that belong to the test."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    handles[band] = handles.pop("band")
    first = [LINES[TESTED][0], band, f"nominal rate, {LEVEL}"]
    names = first + [name for name in handles if name not in first]
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=4,
        fontsize=8.5,
        frameon=False,
        title=NOTE,
        title_fontsize=8.5,
    )


def write_figure(grid: list[Record], folder: Path) -> None:
    """Write `planted.svg` and, with the data for all numbers of clips, `planted.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    plt.switch_backend("svg")
    plt.rcParams["svg.hashsalt"] = "jaxdissect"  # the same data give the same file
    points = rates(grid)
    write_csv(points, folder / "planted.csv")
    draw(points).savefig(folder / "planted.svg", metadata={"Date": None})
