"""Trained probes as the stage `probe` left them."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.probe.embeddings import embedding_features
from jaxdissect.probe.judge import Judge
from jaxdissect.probe.linear import Head
from jaxdissect.runtime.array_trees import read_arrays
from jaxdissect.runtime.files import require_regular
from jaxdissect.runtime.run_directory import Run
from jaxdissect.tasks.table import LabelSet, Task


def read_judges(run: Run, encoder: Encoder, task: Task, prints: Mapping[str, str]) -> dict[str, Judge]:
    """The probes of a run that were trained for the task's test split, of each label set, all seeds together.

    Args:
      run: that holds `probe/`.
      encoder: that was probed.
      task: that it was probed on, whole.
      prints: fingerprints of the two.

    Raises:
      InputError: nothing was probed here, or on another encoder or task, or not for this test split, or `probe/` is
        damaged.
    """
    run.require("probe")
    run.require_inputs("probe", "a probe", prints)
    described = _description(run)
    remedy = f"run `jaxdissect probe --run {run.path}` again"
    try:
        features, wanted = embedding_features(encoder, task), {}
        for labels in task.label_sets:
            own = described["label_sets"][labels.name]
            if own["classes"] != list(labels.classes) or own["multi_label"] != labels.multi_label:
                raise InputError(f"--run {run.path}: its probe is of other classes of {labels.name!r}: {remedy}.")
            probes, classes = len(own["probes"]), len(labels.classes)
            shapes = {"mean": (features,), "variance": (features,), "kernel": (features, classes), "bias": (classes,)}
            wanted[labels.name] = {
                name: jax.ShapeDtypeStruct((probes, *shape), jnp.float32) for name, shape in shapes.items()
            }
        heads = read_arrays(run.file("probe") / "head", wanted, "probe.json", remedy)
        folds = {name: [probe["test_fold"] for probe in own["probes"]] for name, own in described["label_sets"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{run.file('probe') / 'probe.json'} lacks or misnames an entry ({error}): {remedy}."
        ) from error
    fold = _test_fold(task)
    return {
        labels.name: _judge(run, labels, heads[labels.name], folds[labels.name], fold) for labels in task.label_sets
    }


def _description(run: Run) -> dict[str, Any]:
    file = run.file("probe") / "probe.json"
    require_regular(file)
    try:
        described = json.loads(file.read_text())
        if not isinstance(described["label_sets"], dict):
            raise TypeError("label_sets must be an object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error}): run `jaxdissect probe --run {run.path}` again.") from error
    return described


def _test_fold(task: Task) -> int | None:
    return next((fold for fold, split in zip(task.folds, task.splits, strict=True) if split == "test"), None)


def _judge(run: Run, labels: LabelSet, arrays: Mapping[str, Any], folds: list[int | None], fold: int | None) -> Judge:
    chosen = [number for number, own in enumerate(folds) if own == fold]
    if not chosen:
        raise InputError(
            f"--run {run.path}: no probe of the label set {labels.name!r} was trained without the test clips (fold "
            f"{fold}): run `jaxdissect probe --run {run.path} --test-fold {fold}` first."
        )
    return Judge(
        Head(**{name: np.asarray(leaf)[chosen] for name, leaf in arrays.items()}), labels.table(), labels.multi_label
    )
