"""The paper's comparison: do self-supervised encoders grow more class-specific neurons than supervised ones?

`python -m benchmarks.ssl_vs_supervised --esc50 ESC-50 --fsdd FSDD --out benchmarks/results/ssl_vs_supervised.json`

For each encoder and task: coverage and neurons per class (AAPE, chosen on the training split), and linear-probe
accuracy on the test split. Tasks that no encoder was trained on come first; ESC-50, on whose folds 1-4 they were, is
in-domain.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro

from benchmarks.common import machine, table, versions
from jaxdissect.demo import untrained_tiny
from jaxdissect.dissect import ActivationsOptions, NeuronsOptions, run_activations, run_neurons
from jaxdissect.embeddings import Embeddings, embed_clips
from jaxdissect.encoder.checkpoint import load_encoder
from jaxdissect.encoder.m2d import M2D
from jaxdissect.files import whole_file
from jaxdissect.linear_evaluation import evaluate, task_splits
from jaxdissect.probe import ProbeRule
from jaxdissect.tasks.known import load_task
from jaxdissect.tasks.table import Task

RATES = (3e-5, 3e-4, 3e-3)  # of the probe: the papers', and two that suit small tasks; chosen on the validation clips

COLUMNS = ("coverage", "kept_neurons", "mean_neurons_per_class", "mean_classes_per_neuron")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare."""

    esc50: Path  # the ESC-50 folder
    fsdd: Path  # the folder with fsdd.csv
    out: Path  # the JSON file to write
    encoders: tuple[str, ...] = ("msm_mae_tiny", "supervised_tiny", "jaxdissect.demo:untrained_tiny")
    seeds: int = 5  # probes per encoder and label set


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A task, the label sets to compare on, and whether an encoder has heard its clips."""

    task: str
    data: Path | None
    label: str
    unit_seconds: float | None
    heard: bool


def comparisons(options: Options) -> list[Comparison]:
    """Unseen tasks first."""
    return [
        Comparison(str(options.fsdd / "fsdd.csv"), options.fsdd, "digit,speaker,accent", 1.0, heard=False),
        Comparison("notes", None, "octave,pitch_class,instrument", None, heard=False),
        Comparison("esc50", options.esc50, "event", None, heard=True),
    ]


def load(chosen: Comparison) -> Task:
    """The whole task."""
    return load_task(chosen.task, chosen.data, chosen.label.split(","), chosen.unit_seconds)


def probe_rows(name: str, embeddings: Embeddings, task: Task, seeds: int) -> list[dict[str, Any]]:
    """Test accuracy of every label set, at the learning rate whose validation score is best, and at the papers'."""
    rows = []
    for labels in task.label_sets:
        splits = task_splits(task, labels, embeddings.usable, "test", seeds)
        done = {rate: evaluate(embeddings, labels, splits, ProbeRule(learning_rate=rate)) for rate in RATES}
        valid = {rate: float(one.probe.valid_score.mean()) for rate, one in done.items()}
        test = {rate: one.scores[one.scores["split"] == "test"]["score"].tolist() for rate, one in done.items()}
        best = max(RATES, key=lambda rate: valid[rate])
        rows.append(
            {
                "encoder": name,
                "task": task.name,
                "label_set": labels.name,
                "test_clips": int(splits[0].test.sum()),
                "learning_rate": best,
                "accuracy": float(np.mean(test[best])),
                "accuracy_sd_over_seeds": float(np.std(test[best])),
                "valid_accuracy_by_rate": valid,
                "test_accuracy_by_rate": test,
            }
        )
    return rows


class Identity(nn.Module):
    """A module that does nothing."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The input."""
        return x


class MelStatistics(M2D):
    """Mean and standard deviation over time of each log-mel band: what needs no encoder."""

    @property
    def module(self) -> Any:
        """Nothing."""
        return Identity()

    def embed(self, output: Any) -> Any:
        """The baseline's features."""
        return jnp.concatenate([output.mean(axis=1), output.std(axis=1)], axis=1)


def compare(options: Options) -> list[dict[str, Any]]:
    """One row per encoder and label set."""
    rows = []
    for chosen in comparisons(options):
        task = load(chosen)
        baseline = embed_clips(MelStatistics(**vars(untrained_tiny(jnp.float32))), task)
        rows += [row | {"heard": chosen.heard} for row in probe_rows("log-mel", baseline, task, options.seeds)]
        for name in options.encoders:
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                run_activations(
                    ActivationsOptions(
                        encoder=name,
                        task=chosen.task,
                        data=chosen.data,
                        label=chosen.label,
                        unit_seconds=chosen.unit_seconds,
                        run=run,
                    )
                )
                coverage = run_neurons(NeuronsOptions(run=run)).coverage.set_index("label_set")
            embeddings = embed_clips(load_encoder(name), task)
            for row in probe_rows(name.rpartition(":")[2], embeddings, task, options.seeds):
                found = coverage.loc[row["label_set"]]
                row |= {"heard": chosen.heard, "classes": int(found["classes"])}
                rows.append(row | {column: float(found[column]) for column in COLUMNS})
    return rows


def main(options: Options) -> None:
    """Compare, print a table and write everything."""
    rows = compare(options)
    frame = pd.DataFrame(rows)
    lines = []
    for (task, label_set), group in frame.groupby(["task", "label_set"], sort=False):
        for row in group.to_dict("records"):
            known = not np.isnan(row["coverage"])
            lines.append(
                [
                    f"{task} {label_set}" + (" (in-domain)" if row["heard"] else ""),
                    row["encoder"],
                    f"{row['coverage']:.0%}" if known else "",
                    f"{row['mean_neurons_per_class']:.1f}" if known else "",
                    f"{row['accuracy']:.1%} +- {row['accuracy_sd_over_seeds']:.1%}",
                ]
            )
    print(table(["task", "encoder", "coverage", "neurons/class", "probe accuracy (sd over seeds)"], lines))
    record = {
        "encoders": list(options.encoders),
        "seeds": options.seeds,
        "machine": machine(),
        "device": jax.devices()[0].device_kind,
        "versions": versions("jax", "flax", "jaxdissect"),
        "rows": rows,
    }
    with whole_file(options.out) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
