"""Which clips train, stop and judge a probe, and the tables of scores: against loops in numpy and scikit-learn."""

from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, recall_score
from tolerances import assert_within, relative_error

from jaxdissect import InputError, LabelSet, Task
from jaxdissect.probe import evaluation
from jaxdissect.probe.embeddings import Embeddings
from jaxdissect.probe.evaluation import Split, class_scores, evaluate, scored, task_splits
from jaxdissect.probe.linear import EPSILON, Head, Probe, ProbeRule, train_probe

CLIPS, CLASSES, FEATURES = 60, 3, 5
RULE = ProbeRule(5e-2, 16, 30, 5)
SPLIT_NAMES = ("train", "valid", "test")


def make_task(splits, folds=None, members=None):
    """Clips of the classes a, b, c in turn, unless `members` says otherwise."""
    members = tuple((clip % CLASSES,) for clip in range(len(splits))) if members is None else tuple(members)
    names = tuple(f"{clip}.wav" for clip in range(len(splits)))
    folds = (None,) * len(splits) if folds is None else tuple(folds)
    labels = LabelSet("label", tuple("abc"), members, multi_label=any(len(row) > 1 for row in members))
    return Task("tiny", Path("nowhere"), 1.0, names, tuple(splits), folds, (labels,))


def splits_of(task, folds="test", seeds=1, usable=None):
    usable = np.ones(len(task), bool) if usable is None else usable
    return task_splits(task, task.label_sets[0], usable, folds, seeds)


def clips(mask):
    return np.flatnonzero(mask).tolist()


def folded(test_fold, of=(1, 2, 3, 5)):
    folds = [of[clip // CLASSES % len(of)] for clip in range(CLIPS)]
    return make_task(["test" if fold == test_fold else "train" for fold in folds], folds)


# --- splits


def test_task_splits_take_a_table_with_a_validation_split_as_it_is():
    names = (["train"] * 3 + ["valid", "test"]) * 6
    splits = splits_of(make_task(names), seeds=2)
    assert [(split.test_fold, split.seed) for split in splits] == [(None, 0), (None, 1)]
    for split in splits:
        for name in SPLIT_NAMES:
            assert clips(getattr(split, name)) == [clip for clip, of in enumerate(names) if of == name]


def test_task_splits_validate_on_a_tenth_of_the_training_clips_by_default():
    names = (["train"] * 4 + ["test"]) * 30
    splits = splits_of(make_task(names), seeds=4)
    for split in splits:
        assert clips(split.test) == [clip for clip, of in enumerate(names) if of == "test"]
        assert clips(split.train | split.valid) == [clip for clip, of in enumerate(names) if of == "train"]
        assert not (split.train & split.valid).any()
        assert split.valid.sum() == 12
        assert {clip % CLASSES for clip in clips(split.valid)} == {clip % CLASSES for clip in clips(split.train)}
    assert len({split.valid.tobytes() for split in splits}) == 4
    again = splits_of(make_task(names), seeds=2)
    for one, other in zip(again, splits[:2], strict=True):
        np.testing.assert_array_equal(one.valid, other.valid)


def test_task_splits_hold_out_the_test_fold():
    task = folded(test_fold=3)
    splits = splits_of(task, seeds=2)
    assert [(split.test_fold, split.seed) for split in splits] == [(3, 0), (3, 1)]
    for split in splits:
        assert clips(split.test) == [clip for clip, fold in enumerate(task.folds) if fold == 3]
        assert clips(split.train | split.valid) == [clip for clip, fold in enumerate(task.folds) if fold != 3]


def test_task_splits_hold_out_every_fold_in_turn():
    task = folded(test_fold=3)
    splits = splits_of(task, "all", seeds=2)
    assert [(split.test_fold, split.seed) for split in splits] == [
        (fold, seed) for fold in (1, 2, 3, 5) for seed in (0, 1)
    ]
    for split in splits:
        assert clips(split.test) == [clip for clip, fold in enumerate(task.folds) if fold == split.test_fold]
        assert (split.train | split.valid | split.test).all()
        assert not (split.train & split.valid).any()
    (alone,) = splits_of(task)
    of_all = next(split for split in splits if (split.test_fold, split.seed) == (3, 0))
    for name in SPLIT_NAMES:
        np.testing.assert_array_equal(getattr(alone, name), getattr(of_all, name))


@pytest.mark.parametrize("folds", ["test", "all"])
def test_task_splits_leave_out_clips_that_are_unreadable_or_without_a_class(folds):
    task = folded(test_fold=5)
    members = [() if clip % 10 == 4 else row for clip, row in enumerate(task.label_sets[0].members)]
    task = make_task(task.splits, task.folds, members)
    usable = np.arange(CLIPS) % 10 != 7
    for split in splits_of(task, folds, usable=usable):
        took_part = split.train | split.valid | split.test
        assert clips(took_part) == [clip for clip in range(CLIPS) if clip % 10 not in (4, 7)]


def test_task_splits_of_several_labels_keep_clips_without_a_class():
    """They are negatives of every class."""
    names = (["train"] * 3 + ["valid", "test"]) * 6
    members = [() if clip % 7 == 0 else (0, 1) if clip % 7 == 1 else (clip % CLASSES,) for clip in range(30)]
    (split,) = splits_of(make_task(names, members=members), usable=np.arange(30) != 7)
    assert clips(split.train | split.valid | split.test) == [clip for clip in range(30) if clip != 7]


def test_task_splits_replace_a_validation_split_without_usable_clips():
    names = (["train"] * 3 + ["valid", "test"]) * 6
    usable = np.array([name != "valid" for name in names])
    (split,) = splits_of(make_task(names), usable=usable)
    assert clips(split.train | split.valid) == [clip for clip, of in enumerate(names) if of == "train"]
    assert split.valid.any()


def error_of(task, folds="test", usable=None):
    with pytest.raises(InputError) as error:
        splits_of(task, folds, usable=usable)
    assert "'tiny'" in str(error.value)
    return str(error.value)


def test_task_splits_need_clips_to_train_and_to_test_on():
    assert "clips to train and to test on, got 6 and 0" in error_of(make_task(["train"] * 6))
    assert "clips to train and to test on, got 0 and 6" in error_of(make_task(["test"] * 6))
    assert "clips to train and to test on, got 0 and 6" in error_of(make_task(["test"] * 6, [5] * 6), "all")


def test_task_splits_without_a_usable_file_blame_the_data_folder():
    """The table is all right: the data folder is not, and the message must not send the user to the table."""
    names = ["train"] * 6 + ["test"] * 6
    for usable in (np.zeros(12, bool), np.arange(12) >= 6, np.arange(12) < 6):
        assert "read" in error_of(make_task(names), usable=usable)


def test_task_splits_need_training_clips_of_two_classes():
    members = [(0,)] * 6 + [(1,), (2,)] * 3
    names = ["train"] * 6 + ["test"] * 6
    assert "two classes" in error_of(make_task(names, members=members))


def test_task_splits_refuse_all_folds_of_a_table_without_folds():
    assert "has no folds: leave --folds all out" in error_of(make_task(["train"] * 6 + ["test"] * 6), "all")


@pytest.mark.parametrize(
    ("names", "members"),
    [
        (["train"] * 3 + ["test"] * 3, None),  # one training clip a class: none can be spared
        # several labels a clip, and no validation clip has any
        (["train"] * 3 + ["valid"] + ["test"] * 3, [(0, 1), (1, 2), (0,), (), (0,), (1,), (2,)]),
    ],
)
def test_task_splits_need_something_to_stop_by(names, members):
    """Without a validation score the first weights would be returned, as they were drawn."""
    assert "valid" in error_of(make_task(names, members=members))


# --- scores


def blobs(task, seed=0):
    random = np.random.default_rng(seed)
    members = task.label_sets[0].table()
    centres = random.normal(size=(CLASSES, FEATURES)) * 1.5
    return Embeddings(
        (members @ centres + random.normal(size=(len(task), FEATURES))).astype(np.float32), np.ones(len(task), bool)
    )


def tagged():
    random = np.random.default_rng(3)
    members = [tuple(np.flatnonzero(row)) for row in random.random((CLIPS, CLASSES)) < 0.4]
    task = folded(test_fold=5)
    return make_task(task.splits, task.folds, [tuple(int(index) for index in row) for row in members])


def outputs_by_hand(head, number, embeddings):
    mean, variance, kernel, bias = (
        np.float64(getattr(head, name)[number]) for name in ("mean", "variance", "kernel", "bias")
    )
    return (embeddings - mean) / np.sqrt(variance + EPSILON) @ kernel + bias


@pytest.fixture(scope="module")
def evaluated():
    task = folded(test_fold=5)
    embeddings = blobs(task)
    splits = splits_of(task, "all", seeds=2)
    return task, embeddings, splits, evaluate(embeddings, task.label_sets[0], splits, RULE)


@pytest.fixture(scope="module")
def evaluated_tags():
    task = tagged()
    embeddings = blobs(task)
    splits = splits_of(task, "all", seeds=2)
    return task, embeddings, splits, evaluate(embeddings, task.label_sets[0], splits, RULE)


def test_evaluate_scores_match_a_loop(evaluated):
    task, embeddings, splits, found = evaluated
    of_class = np.array([row[0] for row in task.label_sets[0].members])
    rows = []
    for number, split in enumerate(splits):
        best = outputs_by_hand(found.probe.head, number, embeddings.values).argmax(axis=1)
        for name in SPLIT_NAMES:
            chosen = getattr(split, name)
            hits = (best == of_class)[chosen]
            rows.append(("label", split.test_fold, split.seed, name, chosen.sum(), "accuracy", hits.mean()))
    expected = pd.DataFrame(rows, columns=["label_set", "test_fold", "seed", "split", "clips", "metric", "score"])
    pd.testing.assert_frame_equal(found.scores, expected.astype({"test_fold": "Int64"}), rtol=1e-6)
    assert len(expected) == 4 * 2 * 3
    valid = found.scores[found.scores["split"] == "valid"]["score"]
    np.testing.assert_allclose(valid, found.probe.valid_score, rtol=1e-6)
    assert found.scores[found.scores["split"] == "test"]["score"].mean() > 0.6


def test_evaluate_class_scores_are_recalls(evaluated):
    task, embeddings, splits, found = evaluated
    of_class = np.array([row[0] for row in task.label_sets[0].members])
    table = found.class_scores
    assert table.columns.tolist() == ["label_set", "class", "test_fold", "seed", "clips", "score"]
    assert table["class"].tolist() == list("abc") * len(splits)
    for number, split in enumerate(splits):
        best = outputs_by_hand(found.probe.head, number, embeddings.values).argmax(axis=1)
        rows = table[(table["test_fold"] == split.test_fold) & (table["seed"] == split.seed)]
        expected = recall_score(of_class[split.test], best[split.test], average=None, labels=range(CLASSES))
        assert rows["score"].tolist() == pytest.approx(expected.tolist())
        assert rows["clips"].tolist() == np.bincount(of_class[split.test], minlength=CLASSES).tolist()


def test_evaluate_scores_several_labels_by_average_precision(evaluated_tags):
    task, embeddings, splits, found = evaluated_tags
    members = task.label_sets[0].table()
    assert set(found.scores["metric"]) == {"mean_average_precision"}
    scores, of_classes = iter(found.scores["score"]), iter(found.class_scores["score"])
    for number, split in enumerate(splits):
        outputs = outputs_by_hand(found.probe.head, number, embeddings.values)
        for name in SPLIT_NAMES:
            chosen = getattr(split, name)
            there = members[chosen].any(axis=0)
            expected = average_precision_score(members[chosen][:, there], outputs[chosen][:, there])
            assert next(scores) == pytest.approx(expected, rel=1e-5)
        for index in range(CLASSES):
            expected = average_precision_score(members[split.test, index], outputs[split.test, index])
            assert next(of_classes) == pytest.approx(expected, rel=1e-5)


def test_evaluate_trains_every_probe_on_its_split_and_seed(evaluated):
    task, embeddings, splits, found = evaluated
    train_alone = jax.jit(train_probe, static_argnames=("rule", "multi_label"))
    members = task.label_sets[0].table()
    for number in (0, 3, 7):
        split = splits[number]
        alone = train_alone(embeddings.values, members, split.train, split.valid, jax.random.key(split.seed), RULE)
        assert int(found.probe.best_epoch[number]) == int(alone.best_epoch)
        assert int(found.probe.epochs[number]) == int(alone.epochs)
        for name in ("mean", "variance", "kernel", "bias"):
            error = relative_error(getattr(found.probe.head, name)[number], getattr(alone.head, name))
            assert_within("probes at once against alone, relative", error)


def test_evaluate_is_the_same_however_many_train_at_once(evaluated, monkeypatch):
    """As where the memory holds few copies of the embeddings, and the last group is smaller."""
    task, embeddings, splits, found = evaluated
    monkeypatch.setattr(evaluation, "COPIES_BYTES", 3 * embeddings.values.nbytes)
    few = evaluate(embeddings, task.label_sets[0], splits, RULE)
    np.testing.assert_array_equal(few.probe.best_epoch, found.probe.best_epoch)
    for name in ("mean", "variance", "kernel", "bias"):
        error = relative_error(getattr(few.probe.head, name), getattr(found.probe.head, name))
        assert_within("probes at once against alone, relative", error)
    pd.testing.assert_frame_equal(few.scores, found.scores)


def test_evaluate_ignores_unusable_clips(evaluated):
    task, embeddings, _, _ = evaluated
    usable = np.arange(CLIPS) % 4 != 1
    splits = splits_of(task, "all", seeds=2, usable=usable)
    found = [
        evaluate(
            Embeddings(np.where(usable[:, None], embeddings.values, fill).astype(np.float32), usable),
            task.label_sets[0],
            splits,
            RULE,
        )
        for fill in (0, 1e6)
    ]
    pd.testing.assert_frame_equal(found[0].scores, found[1].scores)
    pd.testing.assert_frame_equal(found[0].class_scores, found[1].class_scores)
    np.testing.assert_array_equal(found[0].probe.head.kernel, found[1].probe.head.kernel)


def test_scored_gives_no_score_to_splits_and_classes_without_clips():
    """`scored` serves encoders' own heads too, which need no validation."""
    task = make_task(["train"] * 4 + ["test"] * 2)
    nobody = np.zeros(6, bool)
    split = Split(None, 0, np.arange(6) < 4, nobody, np.arange(6) >= 4)  # tests the classes b and c
    nought, one = (np.full((1, CLASSES), value, np.float32) for value in (0, 1))
    head = Head(nought, one, np.eye(CLASSES, dtype=np.float32)[None], nought)
    values = np.eye(CLASSES, dtype=np.float32)[[0, 1, 2, 0, 1, 1]]
    found = scored(Embeddings(values, ~nobody), task.label_sets[0], (split,), Probe(head, [-1], [0], [np.nan]))
    assert found.scores["clips"].tolist() == [4, 0, 2]
    np.testing.assert_array_equal(found.scores["score"], [1.0, np.nan, 0.5])
    assert found.scores["test_fold"].isna().all()
    assert found.class_scores["clips"].tolist() == [0, 1, 1]
    np.testing.assert_array_equal(found.class_scores["score"], [np.nan, 1.0, 0.0])


def test_class_scores_of_classes_without_clips_are_nan():
    outputs = np.eye(3, dtype=np.float32)
    members = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], bool)
    for multi_label, expected in ((False, [0.5, 1.0, np.nan]), (True, [5 / 6, 1.0, np.nan])):
        found = class_scores(outputs, members, np.ones(3, bool), multi_label)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert np.isnan(class_scores(outputs, members, np.zeros(3, bool), multi_label)).all()
