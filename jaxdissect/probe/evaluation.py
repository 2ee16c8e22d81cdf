"""Linear evaluation of a task: which clips train, stop and judge a probe, and its scores."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Key

from jaxdissect.errors import InputError, require
from jaxdissect.probe.embeddings import Embeddings, LayerEmbeddings
from jaxdissect.probe.linear import (
    Probe,
    ProbeRule,
    average_precision,
    class_average_precision,
    held_out,
    logits,
    train_probe,
)
from jaxdissect.tasks.table import SPLITS, LabelSet, Task

VALID_FRACTION = 0.1  # of the training clips, where the table has no validation split
COPIES_BYTES = 2**30  # of standardised embeddings, one copy for each probe that is trained at once
COLUMNS = ["label_set", "test_fold", "seed", "split", "clips", "metric", "score"]
LAYER_COLUMNS = ["label_set", "depth", *COLUMNS[1:]]
ClipMask: TypeAlias = Bool[np.ndarray, " clip"]
Members: TypeAlias = Bool[np.ndarray, "clip class"]
Outputs: TypeAlias = Float[np.ndarray, "clip class"]
CLASS_COLUMNS = ["label_set", "class", "test_fold", "seed", "clips", "score"]


@dataclasses.dataclass(frozen=True)
class Split:
    """Which clips of a task train a probe, which stop it, which judge it.

    Attributes:
      test_fold: fold held out; None where the table has splits.
      seed: seed of the probe, and of the validation part where the table has none.
      train, valid, test: clips of each part.
    """

    test_fold: int | None
    seed: int
    train: ClipMask
    valid: ClipMask
    test: ClipMask


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Probes of one label set.

    Attributes:
      labels: label set that was learned.
      probe: trained heads, stacked along a first axis, one for every split.
      splits: clips that each was trained, stopped and judged on.
      scores: one row per probe and split, the columns of `scores.csv`.
      class_scores: recall, or average precision, of every class on the test clips.
    """

    labels: LabelSet
    probe: Probe
    splits: tuple[Split, ...]
    scores: pd.DataFrame
    class_scores: pd.DataFrame


def task_splits(
    task: Task, labels: LabelSet, usable: ClipMask, folds: Literal["test", "all"], seeds: int
) -> tuple[Split, ...]:
    """The splits of a task, one for each fold held out and each seed.

    A table's own validation split stops the training; without one, a tenth of the training clips does, drawn anew for
    every seed as `held_out` does. Clips that are unreadable, or have no class in a label set of one class a
    clip, take no part.

    Raises:
      InputError: there are no clips to train or to test on, or too few classes.
    """
    taking_part, members = _taking_part(labels, usable), labels.table()
    own_valid = _in_split(task, "valid") & taking_part
    splits = []
    # Folds outside and seeds inside: the order of the rows in scores.csv.
    for test_fold, train, test in _parts(task, folds):
        train, test = train & taking_part, test & taking_part
        _require_enough(task, labels, usable, train, test)
        for seed in range(seeds):
            # Without a validation split of its own, a table's training clips serve, other ones for each seed.
            valid = own_valid if own_valid.any() else held_out(members, train, VALID_FRACTION, seed)
            require(
                bool(members[valid].any()),
                f"{_where(task, labels)} a probe needs validation clips of some class to stop by: mark some as "
                f"'valid' in the table's column 'split', or give a class a second clip.",
            )
            splits.append(Split(test_fold, seed, train & ~valid, valid, test))
    return tuple(splits)


def judging_split(task: Task, labels: LabelSet, usable: ClipMask) -> Split:
    """The task's own split, for a head that is only to be judged: it needs test clips and no others.

    Raises:
      InputError: there are no clips to test on.
    """
    train, valid, test = (_in_split(task, name) & _taking_part(labels, usable) for name in SPLITS)
    require(
        bool(test.any()),
        f"{_where(task, labels)} there are no clips to test on: the table's column 'split' or 'fold' says which they "
        f"are.",
    )
    return Split(task.folds[int(np.flatnonzero(test)[0])], 0, train, valid, test)


def _taking_part(labels: LabelSet, usable: ClipMask) -> ClipMask:
    """Usable clips that have a class; of several labels a clip, clips without one are negatives of every class."""
    return usable & np.array([bool(row) or labels.multi_label for row in labels.members])


def _in_split(task: Task, name: str) -> ClipMask:
    return np.array([split == name for split in task.splits])


def _where(task: Task, labels: LabelSet) -> str:
    return f"Task {task.name!r}, label set {labels.name!r}:"


def _parts(task: Task, folds: Literal["test", "all"]) -> list[tuple[int | None, ClipMask, ClipMask]]:
    """(test fold, training clips, test clips): the task's own split, or every fold against all others."""
    fold = np.array(task.folds, object)
    if folds == "all":
        numbers = sorted({number for number in task.folds if number is not None})
        require(bool(numbers), f"Task {task.name!r} has no folds: leave --folds all out.")
        return [(number, fold != number, fold == number) for number in numbers]
    test = _in_split(task, "test")
    return [(fold[test][0] if test.any() else None, _in_split(task, "train"), test)]


def _require_enough(task: Task, labels: LabelSet, usable: ClipMask, train: ClipMask, test: ClipMask) -> None:
    if not train.any() or not test.any():
        left_out = int((~usable).sum())
        reason = "the table's column 'split' or 'fold' says which they are."
        if left_out:
            reason += f" {left_out} of the task's {len(task)} could not be read or embedded"
            # So many files are rarely damaged: the folder is likely another one.
            reason += ": is --data their folder?" if 2 * left_out > len(task) else "."
        raise InputError(
            f"{_where(task, labels)} a probe needs clips to train and to test on, got {train.sum()} and {test.sum()}: "
            f"{reason}"
        )
    classes = labels.table()[train].any(axis=0).sum()
    require(int(classes) >= 2, f"{_where(task, labels)} the training clips must be of two classes at least.")


def evaluate(embeddings: Embeddings, labels: LabelSet, splits: tuple[Split, ...], rule: ProbeRule) -> Evaluation:
    """Train a probe for every split, as many at once as fit into memory, and score it.

    Args:
      embeddings: embeddings of all clips.
      labels: label set to learn.
      splits: splits as of `task_splits`, at least one.
      rule: how a probe is trained.

    Raises:
      InputError: a head became infinite.
    """
    # One row for each split.
    train, valid = (np.stack([getattr(split, name) for split in splits]) for name in ("train", "valid"))
    keys = jax.vmap(jax.random.key)(np.array([split.seed for split in splits], np.uint32))
    together = min(max(1, COPIES_BYTES // embeddings.values.nbytes), len(splits))
    options = {"rule": rule, "multi_label": labels.multi_label, "together": together}
    probe = jax.device_get(_train_all(embeddings.values, labels.table(), train, valid, keys, **options))
    # A learning rate that is far too high; scores would be those of NaN.
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(probe.head)):
        raise InputError(f"Label set {labels.name!r}: the probe's weights became infinite: lower --learning-rate.")
    return scored(embeddings, labels, splits, probe)


# Jitted here and not where it is called: the probes of all layers share one program.
@functools.partial(jax.jit, static_argnames=("rule", "multi_label", "together"))
def _train_all(
    values: Float[Array, "clip feature"],
    members: Bool[Array, "clip class"],
    train: Bool[Array, "split clip"],
    valid: Bool[Array, "split clip"],
    keys: Key[Array, " split"],
    *,
    rule: ProbeRule,
    multi_label: bool,
    together: int,
) -> Probe:
    def train_split(split: tuple[Array, Array, Array]) -> Probe:
        return train_probe(values, members, *split, rule, multi_label)

    # A map over batches of splits: a vmap within a batch, one batch after the other.
    return jax.lax.map(train_split, (train, valid, keys), batch_size=together)


def layer_scores(
    embeddings: LayerEmbeddings,
    evaluation: Evaluation,
    rule: ProbeRule,
    progress: Callable[[], object] = lambda: None,
) -> pd.DataFrame:
    """Scores of probes after every layer, each trained and judged on the same clips as those of the last layer.

    Args:
      embeddings: embeddings of all clips after every layer.
      evaluation: evaluation of a label set on the last of these embeddings.
      rule: how a probe is trained.
      progress: function called after each depth.

    Returns:
      The rows of `evaluation.scores` at every depth, with the column `depth` behind `label_set`.

    Raises:
      InputError: a head became infinite.
    """
    tables = []
    last = embeddings.values.shape[1] - 1
    for depth in range(last + 1):
        of_depth = evaluation
        if depth < last:
            of_depth = evaluate(embeddings.at(depth), evaluation.labels, evaluation.splits, rule)
        tables.append(of_depth.scores.assign(depth=depth))
        progress()
    return pd.concat(tables)[LAYER_COLUMNS]


def scored(embeddings: Embeddings, labels: LabelSet, splits: tuple[Split, ...], probe: Probe) -> Evaluation:
    """The scores of trained heads."""
    members = labels.table()
    metric = "mean_average_precision" if labels.multi_label else "accuracy"
    rows, class_rows = [], []
    for number, split in enumerate(splits):
        # The head of this split, out of the stack.
        head = jax.tree.map(lambda leaf, number=number: leaf[number], probe.head)
        outputs = np.asarray(jax.jit(logits)(head, embeddings.values))
        for name in SPLITS:
            chosen = getattr(split, name)
            value = score(outputs, members, chosen, labels.multi_label)
            rows.append([labels.name, split.test_fold, split.seed, name, int(chosen.sum()), metric, value])
        of_classes = class_scores(outputs, members, split.test, labels.multi_label)
        clips = members[split.test].sum(axis=0)
        for name, count, value in zip(labels.classes, clips.tolist(), of_classes, strict=True):
            class_rows.append([labels.name, name, split.test_fold, split.seed, count, value])
    # Int64 holds a missing fold as well.
    scores, of_class = (
        pd.DataFrame(table, columns=columns).astype({"test_fold": "Int64"})
        for table, columns in ((rows, COLUMNS), (class_rows, CLASS_COLUMNS))
    )
    return Evaluation(labels, probe, splits, scores, of_class)


def score(
    outputs: Float[np.ndarray, "clip class"],
    members: Bool[np.ndarray, "clip class"],
    chosen: ClipMask,
    multi_label: bool,
) -> float:
    """Accuracy, or mean average precision, on some clips; NaN if there are none.

    Args:
      outputs: outputs of a head for all clips.
      members: classes of all clips.
      chosen: clips to score.
      multi_label: whether to take the mean average precision.
    """
    if not chosen.any():
        return math.nan
    if multi_label:
        return float(jax.jit(average_precision)(outputs, members, chosen))
    return float(members[chosen, outputs[chosen].argmax(axis=1)].mean())


def class_scores(
    outputs: Float[np.ndarray, "clip class"],
    members: Bool[np.ndarray, "clip class"],
    chosen: ClipMask,
    multi_label: bool,
) -> Float[np.ndarray, " class"]:
    """Recall of every class, for multi-label tasks its average precision; NaN without a clip.

    Args:
      outputs: outputs of a head for all clips.
      members: classes of all clips.
      chosen: clips to score.
      multi_label: whether to take the average precision.
    """
    if multi_label:
        return np.asarray(jax.jit(class_average_precision)(outputs, members, chosen), np.float64)
    best, members = outputs[chosen].argmax(axis=1), members[chosen]
    # Hits of a class: its clips whose highest output is that of the class.
    hits = (members & (best[:, None] == np.arange(members.shape[1]))).sum(axis=0)
    return np.where(members.any(axis=0), hits / np.maximum(members.sum(axis=0), 1), np.nan)
