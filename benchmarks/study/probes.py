"""Linear probes at several learning rates, the best of which the validation clips choose."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdissect.demo import untrained_tiny
from jaxdissect.encoder.m2d import M2D
from jaxdissect.probe.embeddings import Embeddings
from jaxdissect.probe.evaluation import evaluate, task_splits
from jaxdissect.probe.linear import ProbeRule
from jaxdissect.tasks.table import Task

PAPER_RATE = 3e-5
RATES = (PAPER_RATE, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


class MelStatistics(M2D):
    """Mean and standard deviation over time of each log-mel band: what needs no encoder."""

    @property
    def module(self) -> Any:
        """The spectrogram as it is."""
        return Identity()

    def embed(self, output: Any) -> Any:
        """The baseline's features."""
        return jnp.concatenate([output.mean(axis=1), output.std(axis=1)], axis=1)


class Identity(nn.Module):
    """A module that does nothing."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The input."""
        return x


def mel_statistics() -> MelStatistics:
    """The baseline on the front end of the shipped encoders."""
    return MelStatistics(**vars(untrained_tiny(jnp.float32)))


def probe_rows(name: str, embeddings: Embeddings, task: Task, seeds: int) -> list[dict[str, Any]]:
    """One row per label set: test accuracy at the rate whose validation score is best, and at every other.

    `standard_error` is the binomial one, of a test set of so many clips; seeds are no sample of clips.
    """
    rows = []
    for labels in task.label_sets:
        splits = task_splits(task, labels, embeddings.usable, "test", seeds)
        done = {rate: evaluate(embeddings, labels, splits, ProbeRule(learning_rate=rate)) for rate in RATES}
        valid = {rate: float(one.probe.valid_score.mean()) for rate, one in done.items()}
        test = {rate: one.scores[one.scores["split"] == "test"]["score"].tolist() for rate, one in done.items()}
        best = max(RATES, key=lambda rate: valid[rate])
        accuracy, clips = float(np.mean(test[best])), int(splits[0].test.sum())
        rows.append(
            {
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
        )
    return rows
