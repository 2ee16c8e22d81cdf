"""The task head that an encoder brought along, as a probe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.probe.embeddings import embedding_features
from jaxdissect.probe.linear import Head, Probe
from jaxdissect.tasks.table import LabelSet, Task

PARTS = ("mean", "variance", "kernel", "bias")


def own_head(encoder: Encoder, task: Task, labels: LabelSet) -> Probe:
    """The encoder's head as if it had been trained for one split.

    Raises:
      InputError: it has none, or one of other classes, features or arrays, or one that was trained on the test clips.
    """
    head = encoder.variables.get("head")
    if head is None:
        raise InputError(f"--head encoder: {encoder.name} has no task head: leave the option out to train one.")
    told = _told(encoder)
    classes, test_fold = told.get("classes"), told.get("test_fold")
    if classes is not None and tuple(classes) != labels.classes:
        raise InputError(
            f"--head encoder: the head of {encoder.name} was trained for the classes {_some(classes)}, the label set "
            f"{labels.name!r} has {_some(labels.classes)}."
        )
    held_out = {fold for fold, split in zip(task.folds, task.splits, strict=True) if split == "test"} - {None}
    if test_fold is not None and held_out - {test_fold}:
        raise InputError(
            f"--head encoder: the head of {encoder.name} was trained on every fold but {test_fold} and has heard the "
            f"clips it would be judged on: give --test-fold {test_fold}."
        )
    features = embedding_features(encoder, task)
    wanted: dict[str, tuple[int, ...]] = {"mean": (features,), "variance": (features,)}
    wanted |= {"kernel": (features, len(labels.classes)), "bias": (len(labels.classes),)}
    found = {name: np.shape(head[name]) if name in head else None for name in PARTS}
    for name in ("bias", *PARTS):
        if found[name] != wanted[name]:
            raise InputError(
                f"--head encoder: the head of {encoder.name} needs an array {name!r} of the shape {wanted[name]} for "
                f"the {len(labels.classes)} classes of the label set {labels.name!r}, found {found[name]}."
            )
    stacked = {name: np.asarray(head[name])[None] for name in PARTS}
    return Probe(Head(**stacked), np.array([-1]), np.array([0]), np.array([np.nan]))


def _told(encoder: Encoder) -> Mapping[str, Any]:
    """What the encoder's source says of its head."""
    source = getattr(encoder, "source", {})
    told = source.get("head", {}) if isinstance(source, Mapping) else {}
    return told if isinstance(told, Mapping) else {}


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
