"""Figure of recall and false discovery rate of every selector, from the record of `benchmarks.study.planted`.

`python -m benchmarks.study.planted_figure --record benchmarks/results/planted.json --out docs/figures`;
the data behind it, and those for other numbers of clips, are written beside it.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study.planted_selectors import LEVEL, TESTED
from jaxdissect.runtime.tables import write_csv

# What a reader calls a selector; colour (Okabe and Ito's, safe for the colour-blind), marker and dashes of its line.
LINES = {
    TESTED: (f"permutation test, q <= {LEVEL}", "black", "o", "-"),
    "aape": ("AAPE (preset aape)", "#CC79A7", "s", "-"),
    "lape": ("AAPE (preset lape)", "#D55E00", "D", "--"),
    "probability": ("activation probability", "#7F7F7F", "x", ":"),
    "class_selectivity": ("class selectivity", "#E69F00", "v", "-."),
    "d_prime": ("d'", "#009E73", "^", "--"),
    "auroc": ("AUROC", "#0072B2", "P", "-"),
    "average_precision": ("average precision", "#56B4E9", "*", "-."),
}
RATES = {"recall": "recall", "false_discovery_rate": "false discovery rate"}
NOTE = (
    "All but the permutation test are told how much is planted. "
    "Where nothing is found, no false discovery rate is drawn.\n"
    "Bars: standard error of the permutation test over repetitions."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to draw."""

    record: Path  # the JSON file of `benchmarks.study.planted`
    out: Path  # folder of the figure


def rates(grid: list[dict[str, Any]]) -> pd.DataFrame:
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
    panels[0, 0].set(ylim=(-0.04, 1.04), xticks=strengths, xticklabels=[f"{one:g}" for one in strengths])  # of all
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
    """One rate of every selector at a number of clips per class; a band has the test's at any."""
    tested = table[table["selector"] == TESTED].groupby("strength")[rate]
    axes.fill_between(tested.min().index, tested.min(), tested.max(), color="0.87", linewidth=0, label="band")
    for selector, (label, colour, marker, dashes) in LINES.items():
        line = table[(table["selector"] == selector) & (table["clips_per_class"] == clips)].sort_values("strength")
        width, size, order = (2.6, 6, 3) if selector == TESTED else (1.2, 6, 4)
        axes.plot(
            line["strength"], line[rate], color=colour, marker=marker, linestyle=dashes, label=label, linewidth=width,
            markersize=size, markerfacecolor=colour if selector == TESTED else "none", zorder=order, clip_on=False,
        )  # fmt: skip
        if selector == TESTED:
            axes.errorbar(line["strength"], line[rate], line[f"{rate}_error"], color=colour, fmt="none", capsize=3)
    axes.grid(alpha=0.3)


def draw_legend(figure: Figure, axes: Axes, band: str) -> None:
    """Below the panels: first the test with what belongs to it."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    handles[band] = handles.pop("band")
    own = [LINES[TESTED][0], band, f"nominal rate, {LEVEL}"]
    names = own + [name for name in handles if name not in own]
    figure.legend(
        [handles[name] for name in names], names, loc="outside lower center", ncols=4, fontsize=8.5, frameon=False,
        title=NOTE, title_fontsize=8.5,
    )  # fmt: skip


def main(options: Options) -> None:
    """Draw it."""
    options.out.mkdir(parents=True, exist_ok=True)
    plt.switch_backend("svg")
    plt.rcParams["svg.hashsalt"] = "jaxdissect"  # the same data give the same file
    table = rates(json.loads(options.record.read_text())["grid"])
    write_csv(table, options.out / "planted.csv")
    draw(table).savefig(options.out / "planted.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(tyro.cli(Options))
