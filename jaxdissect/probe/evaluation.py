"""Linear evaluation of a task: which clips train, stop and judge a probe, and its scores."""

import dataclasses
import math
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from jaxdissect.errors import InputError
from jaxdissect.probe.embeddings import Embeddings
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

VALID_SHARE = 0.1
AT_ONCE_BYTES = 2**30  # of standardised embeddings, one copy per probe
COLUMNS = ["label_set", "test_fold", "seed", "split", "clips", "metric", "score"]


@dataclasses.dataclass(frozen=True)
class Split:
    """Which clips of a task train a probe, which stop it, which judge it.

    Attributes:
      test_fold: the fold held out; None where the table has splits.
      seed: of the probe, and of the validation part where the table has none.
      train, valid, test: clips.
    """

    test_fold: int | None
    seed: int
    train: Bool[np.ndarray, " clip"]
    valid: Bool[np.ndarray, " clip"]
    test: Bool[np.ndarray, " clip"]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Probes of one label set.

    Attributes:
      labels: the label set.
      probe: trained heads, stacked along a first axis, one for every split.
      splits: what each was trained, stopped and judged on.
      scores: one row per probe and split, the columns of `scores.csv`.
      class_scores: recall, or average precision, of every class on the test clips.
    """

    labels: LabelSet
    probe: Probe
    splits: tuple[Split, ...]
    scores: pd.DataFrame
    class_scores: pd.DataFrame


def task_splits(
    task: Task, labels: LabelSet, usable: Bool[np.ndarray, " clip"], folds: Literal["test", "all"], seeds: int
) -> tuple[Split, ...]:
    """The splits of a task, one for each fold held out and each seed.

    A table's own validation split stops the training; without one, a tenth of the training clips does, drawn anew for
    every seed as `held_out` does. Clips that are unreadable, or have no class in a label set of one class a
    clip, take no part.

    Raises:
      InputError: there are no clips to train or to test on, or too few classes.
    """
    taking_part = usable & np.array([bool(row) or labels.multi_label for row in labels.members])
    members = labels.table()
    own = np.array([split == "valid" for split in task.splits]) & taking_part
    splits = []
    for test_fold, train, test in _parts(task, folds):
        train, test = train & taking_part, test & taking_part
        _require_enough(task, labels, usable, train, test)
        for seed in range(seeds):
            valid = own if own.any() else held_out(members, train, VALID_SHARE, seed)
            if not members[valid].any():
                raise InputError(
                    f"Task {task.name!r}, label set {labels.name!r}: a probe needs validation clips of some class to "
                    f"stop by: mark some as 'valid' in the table's column 'split', or give a class a second clip."
                )
            splits.append(Split(test_fold, seed, train & ~valid, valid, test))
    return tuple(splits)


def judging_split(task: Task, labels: LabelSet, usable: Bool[np.ndarray, " clip"]) -> Split:
    """The task's own split, for a head that is only to be judged: it needs test clips and no others.

    Raises:
      InputError: there are no clips to test on.
    """
    taking_part = usable & np.array([bool(row) or labels.multi_label for row in labels.members])
    train, valid, test = (np.array([split == name for split in task.splits]) & taking_part for name in SPLITS)
    if not test.any():
        raise InputError(
            f"Task {task.name!r}, label set {labels.name!r}: there are no clips to test on: the table's column 'split' "
            f"or 'fold' says which they are."
        )
    return Split(task.folds[int(np.flatnonzero(test)[0])], 0, train, valid, test)


def _parts(
    task: Task, folds: Literal["test", "all"]
) -> list[tuple[int | None, Bool[np.ndarray, " clip"], Bool[np.ndarray, " clip"]]]:
    """(test fold, training clips, test clips): the task's own split, or every fold against all others."""
    split, fold = np.array(task.splits), np.array(task.folds, object)
    if folds == "all":
        numbers = sorted({number for number in task.folds if number is not None})
        if not numbers:
            raise InputError(f"Task {task.name!r} has no folds: leave --folds all out.")
        return [(number, fold != number, fold == number) for number in numbers]
    test = split == "test"
    return [(fold[test][0] if test.any() else None, split == "train", test)]


def _require_enough(
    task: Task,
    labels: LabelSet,
    usable: Bool[np.ndarray, " clip"],
    train: Bool[np.ndarray, " clip"],
    test: Bool[np.ndarray, " clip"],
) -> None:
    where = f"Task {task.name!r}, label set {labels.name!r}:"
    if not train.any() or not test.any():
        left_out = int((~usable).sum())
        reason = "the table's column 'split' or 'fold' says which they are."
        if left_out:
            reason += f" {left_out} of the task's {len(task)} could not be read or embedded"
            reason += ": is --data their folder?" if 2 * left_out > len(task) else "."
        raise InputError(
            f"{where} a probe needs clips to train and to test on, got {train.sum()} and {test.sum()}: {reason}"
        )
    if labels.table()[train].any(axis=0).sum() < 2:
        raise InputError(f"{where} the training clips must be of two classes at least.")


def evaluate(embeddings: Embeddings, labels: LabelSet, splits: tuple[Split, ...], rule: ProbeRule) -> Evaluation:
    """Train a probe for every split, as many at once as fit into memory, and score it.

    Args:
      embeddings: of all clips.
      labels: the label set to learn.
      splits: as of `task_splits`, at least one.
      rule: how a probe is trained.

    Raises:
      InputError: a head became infinite.
    """
    members = labels.table()
    train, valid = (np.stack([getattr(split, name) for split in splits]) for name in ("train", "valid"))
    keys = jax.vmap(jax.random.key)(np.array([split.seed for split in splits], np.uint32))
    together = max(1, AT_ONCE_BYTES // embeddings.values.nbytes)

    @jax.jit
    def train_all(values: Any, members: Any, train: Any, valid: Any, keys: Any) -> Probe:
        def one(split: Any) -> Probe:
            train, valid, key = split
            return train_probe(values, members, train, valid, key, rule, labels.multi_label)

        return jax.lax.map(one, (train, valid, keys), batch_size=min(together, len(splits)))

    probe = jax.device_get(train_all(embeddings.values, members, train, valid, keys))
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(probe.head)):
        raise InputError(f"Label set {labels.name!r}: the probe's weights became infinite: lower --learning-rate.")
    return scored(embeddings, labels, splits, probe)


def scored(embeddings: Embeddings, labels: LabelSet, splits: tuple[Split, ...], probe: Probe) -> Evaluation:
    """The scores of trained heads."""
    members = labels.table()
    metric = "mean_average_precision" if labels.multi_label else "accuracy"
    rows, class_rows = [], []
    for number, split in enumerate(splits):
        head = jax.tree.map(lambda leaf, number=number: leaf[number], probe.head)
        outputs = np.asarray(jax.jit(logits)(head, embeddings.values))
        for name in SPLITS:
            chosen = getattr(split, name)
            found = score(outputs, members, chosen, labels.multi_label)
            rows.append([labels.name, split.test_fold, split.seed, name, int(chosen.sum()), metric, found])
        of_class = class_scores(outputs, members, split.test, labels.multi_label)
        class_rows += [
            [labels.name, name, split.test_fold, split.seed, int(members[split.test, index].sum()), of_class[index]]
            for index, name in enumerate(labels.classes)
        ]
    class_columns = ["label_set", "class", "test_fold", "seed", "clips", "score"]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"test_fold": "Int64"})
    return Evaluation(
        labels, probe, splits, table, pd.DataFrame(class_rows, columns=class_columns).astype({"test_fold": "Int64"})
    )


def score(
    outputs: Float[np.ndarray, "clip class"],
    members: Bool[np.ndarray, "clip class"],
    chosen: Bool[np.ndarray, " clip"],
    multi_label: bool,
) -> float:
    """Accuracy, or mean average precision, on some clips; NaN if there are none."""
    if not chosen.any():
        return math.nan
    if multi_label:
        return float(jax.jit(average_precision)(outputs, members, chosen))
    return float(members[chosen, outputs[chosen].argmax(axis=1)].mean())


def class_scores(
    outputs: Float[np.ndarray, "clip class"],
    members: Bool[np.ndarray, "clip class"],
    chosen: Bool[np.ndarray, " clip"],
    multi_label: bool,
) -> Float[np.ndarray, " class"]:
    """Recall of every class, for multi-label tasks its average precision; NaN without a clip."""
    if multi_label:
        return np.asarray(jax.jit(class_average_precision)(outputs, members, chosen), np.float64)
    first = outputs[chosen].argmax(axis=1)
    own = members[chosen]
    hits = np.array([(first[own[:, index]] == index).sum() for index in range(own.shape[1])])
    return np.where(own.any(axis=0), hits / np.maximum(own.sum(axis=0), 1), np.nan)
