"""Figures of ablations: the specificity matrix of a suite, and the dose-response of one neuron set.

`python -m benchmarks.study.ablation_figures --matrix RUN --dose RUN --out docs/figures`;
the data behind each is written beside it.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from matplotlib import pyplot as plt

from jaxdissect.runtime.tables import write_csv


@dataclasses.dataclass(frozen=True)
class Options:
    """What to draw."""

    matrix: Path  # run directory with a suite of classes at gain 0
    dose: Path  # run directory with one neuron set at many gains
    out: Path  # folder of the figures


def specificity(table: pd.DataFrame) -> pd.DataFrame:
    """Margin change of each measured class (column) under each intervention (row), both in the same order."""
    wide = table.pivot_table(index="intervention", columns="class", values="margin_change")
    own = [name for name in wide.index if name in wide.columns]
    others = [name for name in wide.columns if name not in own]
    return wide.loc[own, own + others]


def draw_matrix(table: pd.DataFrame, path: Path) -> None:
    """A heatmap: what silencing the neurons of a row's class does to the margin of a column's class, logits."""
    wide = specificity(table)
    write_csv(wide.reset_index(), path.with_suffix(".csv"))
    bound = float(np.abs(wide.to_numpy()).max())
    figure, axes = plt.subplots(figsize=(11, 6.5), layout="constrained")
    image = axes.imshow(wide, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    axes.set_xticks(range(wide.shape[1]), list(wide.columns), rotation=90, fontsize=7)
    axes.set_yticks(range(wide.shape[0]), list(wide.index), fontsize=7)
    axes.set(xlabel="class measured", ylabel="neurons silenced")
    figure.colorbar(image, label="change of the class's mean margin, logits")
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def draw_dose(table: pd.DataFrame, controls: pd.DataFrame, path: Path) -> None:
    """Margin change of the set's own class over the gain, with its interval, and the range of the controls."""
    own = table[table["intervention"].str.rsplit(" x ", n=1).str[0] == table["class"]].sort_values("gain")
    drawn = controls.merge(own[["intervention", "class"]]).groupby("intervention")["margin_change"]
    data = own.set_index("intervention").assign(control_least=drawn.min(), control_most=drawn.max())
    columns = ["class", "gain", "margin_change", "ci_low", "ci_high", "control_mean", "control_least", "control_most"]
    write_csv(data[columns], path.with_suffix(".csv"))
    figure, axes = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    axes.fill_between(data["gain"], data["control_least"], data["control_most"], color="0.8", label="controls, range")
    errors = np.stack([data["margin_change"] - data["ci_low"], data["ci_high"] - data["margin_change"]])
    axes.errorbar(
        data["gain"], data["margin_change"], errors, fmt="o-", capsize=3, label="its own neurons, 95% interval"
    )
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.axvline(1, color="0.5", linewidth=0.8)
    axes.set(xlabel="gain on the neurons", ylabel=f"change of the margin of {data['class'].iloc[0]}, logits")
    axes.legend(fontsize=8)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def main(options: Options) -> None:
    """Draw both."""
    options.out.mkdir(parents=True, exist_ok=True)
    plt.switch_backend("svg")
    plt.rcParams["svg.hashsalt"] = "jaxdissect"  # the same data give the same file
    draw_matrix(pd.read_csv(options.matrix / "ablation.csv"), options.out / "specificity")
    table, controls = (pd.read_csv(options.dose / name) for name in ("ablation.csv", "ablation_controls.csv"))
    draw_dose(table, controls, options.out / "dose")


if __name__ == "__main__":
    main(tyro.cli(Options))
