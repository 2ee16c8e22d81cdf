"""Figure of how trainings went, from the `training.json` of encoder directories.

`python -m benchmarks.study.training_curves weights/curves.svg weights/recipes/msm_mae_tiny.json \
    weights/m2d_tiny/training.json weights/supervised_tiny/training.json`
"""

import json
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib import pyplot as plt


def main(
    out: Annotated[Path, tyro.conf.Positional], records: Annotated[tuple[Path, ...], tyro.conf.Positional]
) -> None:
    """Draw loss, and what else was watched, over the epochs of each training.

    Args:
      out: the figure, SVG.
      records: `training.json` files that `jaxdissect train` wrote.
    """
    plt.switch_backend("svg")
    plt.rcParams["svg.hashsalt"] = "jaxdissect"  # the same figure from the same data
    figure, rows = plt.subplots(len(records), 2, figsize=(9, 2.7 * len(records)), squeeze=False)
    for row, file in zip(rows, records, strict=True):
        record = json.loads(file.read_text())
        name_of = file.parent.name if file.stem == "training" else file.stem
        curve = record["curve"]
        epochs = [point["step"] * record["batch_size"] / record["data"]["clips"] for point in curve]
        watched = next((name for name in ("accuracy", "spread") if name in curve[0]), "gradient_norm")
        for axes, name in zip(row, ("loss", watched), strict=True):
            axes.plot(epochs, [point[name] for point in curve], linewidth=0.8)
            axes.set_title(f"{name_of}: {name.replace('_', ' ')}", fontsize=9)
            axes.set_xlabel("epochs")
            axes.set_yscale("log" if name == "gradient_norm" else "linear")
            axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    tyro.cli(main)
