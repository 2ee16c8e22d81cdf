"""Trained probes as the stage `probe` left them."""

import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxdissect.encoder.protocol import Encoder, head_shapes
from jaxdissect.errors import InputError, require
from jaxdissect.probe.embeddings import embedding_features
from jaxdissect.probe.judge import Judge
from jaxdissect.probe.linear import Head
from jaxdissect.runtime.array_trees import read_arrays
from jaxdissect.runtime.files import require_regular
from jaxdissect.runtime.run_directory import Run
from jaxdissect.tasks.table import Task
from jaxdissect.types import Record


def read_judges(run: Run, encoder: Encoder, task: Task, prints: Mapping[str, str]) -> dict[str, Judge]:
    """The probes of a run that were trained for the task's test split, of each label set, all seeds together.

    Args:
      run: run directory that holds `probe/`.
      encoder: encoder that was probed.
      task: task that it was probed on, whole.
      prints: fingerprints of the two.

    Raises:
      InputError: nothing was probed here, or on another encoder or task, or not for this test split, or `probe/` is
        damaged.
    """
    run.require("probe")
    run.require_inputs("probe", "a probe", prints)
    again = f"run `jaxdissect probe --run {run.path}` again"
    described = _description(run, again)
    # The fold held out; None where the table has splits.
    test_fold = next((fold for fold, split in zip(task.folds, task.splits, strict=True) if split == "test"), None)
    try:
        features = embedding_features(encoder, task)
        targets, chosen = {}, {}
        for labels in task.label_sets:
            record = described[labels.name]
            require(
                record["classes"] == list(labels.classes) and record["multi_label"] == labels.multi_label,
                f"--run {run.path}: its probe is of other classes of {labels.name!r}: {again}.",
            )
            shapes = head_shapes(features, len(labels.classes))
            # What probe.json says of each probe, in the order of that axis.
            folds = [probe["test_fold"] for probe in record["probes"]]
            targets[labels.name] = {
                name: jax.ShapeDtypeStruct((len(folds), *shape), jnp.float32) for name, shape in shapes.items()
            }
            chosen[labels.name] = [number for number, fold in enumerate(folds) if fold == test_fold]
        # All probes of all label sets are one tree of arrays, the probes along the first axis.
        heads = read_arrays(run.file("probe") / "head", targets, "probe.json", again)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{run.file('probe') / 'probe.json'} lacks or misnames an entry ({error}): {again}."
        ) from error
    judges = {}
    for labels in task.label_sets:
        probes = chosen[labels.name]
        require(
            bool(probes),
            f"--run {run.path}: no probe of the label set {labels.name!r} was trained without the test clips (fold "
            f"{test_fold}): run `jaxdissect probe --run {run.path} --test-fold {test_fold}` first.",
        )
        arrays = {name: np.asarray(array)[probes] for name, array in heads[labels.name].items()}
        judges[labels.name] = Judge(Head(**arrays), labels.table(), labels.multi_label)
    return judges


def _description(run: Run, again: str) -> Record:
    """What `probe.json` says of each label set."""
    file = run.file("probe") / "probe.json"
    require_regular(file)
    try:
        label_sets: Record = json.loads(file.read_text())["label_sets"]
        if not isinstance(label_sets, dict):
            raise TypeError("label_sets must be an object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error}): {again}.") from error
    return label_sets
