"""Linear probes at several learning rates, the best of which the validation clips choose.

`python -m benchmarks.study.probes --esc50 ESC-50 --encoders DIR ...` says which of several trainings to keep: it probes
encoders on fold 4 of ESC-50, with probes trained on folds 1-3, and leaves fold 5 alone. Expected time: five minutes
an encoder.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.common import table
from jaxdissect.demo import untrained_tiny
from jaxdissect.encoder.directory import load_encoder
from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.probe.embeddings import Embeddings, embed_clips
from jaxdissect.probe.evaluation import evaluate, task_splits
from jaxdissect.probe.linear import ProbeRule
from jaxdissect.tasks.known import load_task
from jaxdissect.tasks.table import Task
from jaxdissect.types import Record

PAPER_RATE = 3e-5
RATES = (PAPER_RATE, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TEST_FOLD, VALIDATION_FOLD = 5, 4


@dataclasses.dataclass(frozen=True)
class Options:
    """Encoders to compare on the validation fold."""

    esc50: Path  # the ESC-50 folder
    encoders: tuple[str, ...]
    seeds: int = 3


class MelStatistics(M2D):
    """A baseline without an encoder: mean and standard deviation over time of each log-mel band."""

    @property
    def module(self) -> Any:
        """A module that leaves the spectrogram as it is."""
        return Identity()

    def embed(self, output: Any) -> jax.Array:
        """The baseline's features."""
        return jnp.concatenate([output.mean(axis=1), output.std(axis=1)], axis=1)


class Identity(nn.Module):
    """A module that does nothing."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The input."""
        return x


def mel_statistics() -> MelStatistics:
    """The baseline on the front end of the shipped encoders."""
    return MelStatistics(**vars(untrained_tiny(jnp.float32)))


def probe_rows(name: str, embeddings: Embeddings, task: Task, seeds: int) -> list[Record]:
    """One row per label set: test accuracy at the rate whose validation score is best, and at every other.

    `standard_error` is the binomial one, of a test set of so many clips; seeds are no sample of clips.

    Args:
      name: name of the encoder.
      embeddings: of the task's clips.
      task: the clips and their classes.
      seeds: number of probes at each rate.
    """
    rows = []
    for labels in task.label_sets:
        splits = task_splits(task, labels, embeddings.usable, "test", seeds)
        probes = {rate: evaluate(embeddings, labels, splits, ProbeRule(learning_rate=rate)) for rate in RATES}
        valid = {rate: float(probe.probe.valid_score.mean()) for rate, probe in probes.items()}
        test = {rate: probe.scores[probe.scores["split"] == "test"]["score"].tolist() for rate, probe in probes.items()}
        best = max(RATES, key=lambda rate: valid[rate])
        accuracy, clips = float(np.mean(test[best])), int(splits[0].test.sum())
        row = {
            "encoder": name,
            "task": task.name,
            "label_set": labels.name,
            "test_clips": clips,
            "accuracy": accuracy,
            "standard_error": math.sqrt(accuracy * (1 - accuracy) / clips),
            "accuracy_sd_over_seeds": float(np.std(test[best])),
            "accuracy_at_the_papers_rate": float(np.mean(test[PAPER_RATE])),
            "learning_rate": best,
            "at_the_edge_of_the_rates": best in (RATES[0], RATES[-1]),
            "valid_accuracy_by_rate": valid,
            "test_accuracy_by_rate": test,
        }
        rows.append(row)
    return rows


def main(options: Options) -> None:
    """Print the accuracies on the validation fold."""
    task = load_task("esc50", options.esc50, ["event"], test_fold=VALIDATION_FOLD)
    task = task.rows([clip for clip, fold in enumerate(task.folds) if fold != TEST_FOLD])
    encoders: dict[str, Encoder] = {"log-mel": mel_statistics()}
    encoders |= {name: load_encoder(name) for name in options.encoders}
    lines = []
    for name, encoder in encoders.items():
        (row,) = probe_rows(name, embed_clips(encoder, task), task, options.seeds)
        by_rate = [np.mean(accuracies) for accuracies in row["test_accuracy_by_rate"].values()]
        lines.append([name, *(f"{accuracy:.1%}" for accuracy in (row["accuracy"], *by_rate))])
    print(table(["encoder", "rate best on validation clips", *map(str, RATES)], lines))


if __name__ == "__main__":
    main(tyro.cli(Options))
