"""The task head that an encoder brought along, as a probe."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdissect.encoder.protocol import Encoder, head_shapes
from jaxdissect.errors import InputError, require
from jaxdissect.probe.embeddings import embedding_features
from jaxdissect.probe.linear import Head, Probe
from jaxdissect.tasks.table import LabelSet, Task
from jaxdissect.types import Json


def own_head(encoder: Encoder, task: Task, labels: LabelSet) -> Probe:
    """The encoder's own head as if it had been trained for one split.

    Raises:
      InputError: it has none, or one of other classes, features or arrays, or one that was trained on the test clips.
    """
    head = encoder.variables.get("head") if isinstance(encoder.variables, Mapping) else None
    if head is None:
        raise InputError(f"--head encoder: {encoder.name} has no task head: leave the option out to train one.")
    origin = _origin(encoder)
    classes, test_fold = origin.get("classes"), origin.get("test_fold")
    if classes is not None and tuple(classes) != labels.classes:
        raise InputError(
            f"--head encoder: the head of {encoder.name} was trained for the classes {_first(classes)}, the label set "
            f"{labels.name!r} has {_first(labels.classes)}."
        )
    # The fold that the task holds out; a table without folds has None there.
    held_out = {fold for fold, split in zip(task.folds, task.splits, strict=True) if split == "test"} - {None}
    require(
        test_fold is None or held_out <= {test_fold},
        f"--head encoder: the head of {encoder.name} was trained on every fold but {test_fold} and has heard the "
        f"clips it would be judged on: give --test-fold {test_fold}.",
    )
    shapes = head_shapes(embedding_features(encoder, task), len(labels.classes))
    # The bias first: its shape shows another number of classes in the plainest way.
    for name in ("bias", *shapes):
        shape = np.shape(head[name]) if name in head else None
        require(
            shape == shapes[name],
            f"--head encoder: the head of {encoder.name} needs an array {name!r} of the shape {shapes[name]} for the "
            f"{len(labels.classes)} classes of the label set {labels.name!r}, found {shape}.",
        )
    # One probe along the first axis; it has no epochs, and no validation score.
    stacked = {name: np.asarray(head[name])[None] for name in shapes}
    return Probe(Head(**stacked), np.array([-1]), np.array([0]), np.array([np.nan]))


def _origin(encoder: Encoder) -> Mapping[str, Json]:
    """What the encoder's source records of its head; encoders of a user's need not have a source."""
    source = getattr(encoder, "source", {})
    origin = source.get("head", {}) if isinstance(source, Mapping) else {}
    return origin if isinstance(origin, Mapping) else {}


def _first(classes: Sequence[str]) -> str:
    return ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
