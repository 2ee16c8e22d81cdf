"""The probe's arithmetic: against scikit-learn, against a slow float64 training with PyTorch's Adam, and its rules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from tolerances import assert_within, relative_error

from jaxdissect import InputError
from jaxdissect.probe.linear import (
    EPSILON,
    Head,
    ProbeRule,
    accuracy,
    average_precision,
    class_average_precision,
    held_out,
    logits,
    train_probe,
)

FEATURES, CLASSES = 6, 4
SHORT = ProbeRule(1e-2, 16, 8, 8)
PARTIAL = ProbeRule(1e-2, 16, 200, 6)  # of 60 clips, the last batch holds 12
LONG = ProbeRule(1e-2, 64, 100, 20)
logits, accuracy, average_precision, class_average_precision = map(
    jax.jit, (logits, accuracy, average_precision, class_average_precision)
)
train_compiled = jax.jit(train_probe, static_argnames=("rule", "multi_label"))


def blobs(clips, classes=CLASSES, features=FEATURES, distance=1.5, seed=0):
    """Embeddings around one centre per class, each feature on a scale of its own; classes as a table."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, features)) * distance
    of_class = random.integers(0, classes, clips)
    embeddings = (centres[of_class] + random.normal(size=(clips, features))) * 10.0 ** np.linspace(-2, 2, features) + 7
    return embeddings.astype(np.float32), np.eye(classes, dtype=bool)[of_class]


def tags(clips, seed=0):
    """As `blobs`, and every clip may belong to any number of further classes, or to none."""
    embeddings, members = blobs(clips, seed=seed)
    random = np.random.default_rng(seed + 1)
    return embeddings, (members | (random.random(members.shape) < 0.2)) & (random.random((clips, 1)) < 0.95)


def parts(clips, train, valid, seed=0):
    """So many clips to train on and to stop by, drawn anywhere; the rest is for tests."""
    order = np.random.default_rng(seed).permutation(clips)
    masks = np.zeros((2, clips), bool)
    masks[0, order[:train]] = masks[1, order[train : train + valid]] = True
    return masks


# --- scores


@pytest.mark.parametrize("levels", [None, 30, 3, 1])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_average_precision_is_scikit_learns(levels, share):
    """`levels`: how many scores there are, so that nearly all clips are ties, or all."""
    random = np.random.default_rng(0)
    clips, classes = 200, 9
    scores = random.normal(size=(clips, classes)).astype(np.float32)
    if levels is not None:
        scores = (random.integers(0, levels, scores.shape) - levels // 2).astype(np.float32)
    members = random.random(scores.shape) < share
    members[:, 4] = False
    for chosen in (np.ones(clips, bool), random.random(clips) < 0.4):
        found = np.asarray(class_average_precision(jnp.asarray(scores), jnp.asarray(members), jnp.asarray(chosen)))
        expected = np.array(
            [
                average_precision_score(members[chosen, index], scores[chosen, index])
                if members[chosen, index].any()
                else np.nan
                for index in range(classes)
            ]
        )
        assert np.isnan(expected[4])
        np.testing.assert_allclose(found, expected, rtol=2e-6)
        mean = average_precision(jnp.asarray(scores), jnp.asarray(members), jnp.asarray(chosen))
        assert float(mean) == pytest.approx(np.nanmean(expected), rel=2e-6)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_average_precision_of_few_clips_is_scikit_learns(data):
    """All orders, ties, negative zeros and masks of five clips."""
    values = st.sampled_from([-1e30, -1.0, -0.0, 0.0, 1.0, 1e30])
    scores = np.array(data.draw(st.lists(values, min_size=5, max_size=5)), np.float32)
    positive, chosen = (np.array(data.draw(st.lists(st.booleans(), min_size=5, max_size=5))) for _ in range(2))
    found = class_average_precision(jnp.asarray(scores[:, None]), jnp.asarray(positive[:, None]), jnp.asarray(chosen))
    if not (positive & chosen).any():
        assert np.isnan(found[0])
        return
    assert float(found[0]) == pytest.approx(average_precision_score(positive[chosen], scores[chosen]), rel=2e-6)


def test_average_precision_without_any_positive_clip_is_nan():
    scores, nobody = jnp.ones((3, 2)), jnp.zeros((3, 2), bool)
    assert np.isnan(average_precision(scores, nobody, jnp.ones(3, bool)))
    assert np.isnan(average_precision(scores, ~nobody, jnp.zeros(3, bool)))


def test_accuracy_equals_a_loop():
    random = np.random.default_rng(0)
    scores = random.normal(size=(50, 5)).astype(np.float32)
    members = np.eye(5, dtype=bool)[random.integers(0, 5, 50)] | (random.random((50, 5)) < 0.1)
    for chosen in (np.ones(50, bool), random.random(50) < 0.3, np.arange(50) == 7):
        hits = [bool(members[clip, np.argmax(scores[clip])]) for clip in range(50) if chosen[clip]]
        assert float(accuracy(scores, members, chosen)) == pytest.approx(sum(hits) / len(hits), rel=1e-6)


def test_average_precision_of_many_clips_is_scikit_learns():
    """Few positives among 20,000 clips: rounding adds up here."""
    random = np.random.default_rng(0)
    scores = random.normal(size=(20_000, 1)).astype(np.float32)
    members = random.random(scores.shape) < 0.001
    found = class_average_precision(scores, members, np.ones(20_000, bool))
    assert float(found[0]) == pytest.approx(average_precision_score(members, scores), rel=1e-5)


# --- the head


def test_logits_are_the_formula():
    random = np.random.default_rng(0)
    head = Head(*(random.normal(size=shape).astype(np.float32) for shape in (6, 6, (6, 4), 4)))
    head = dataclasses.replace(head, variance=head.variance**2)
    embeddings = random.normal(size=(9, 6)).astype(np.float32) * 5
    wide = jax.tree.map(np.float64, head)
    expected = (embeddings - wide.mean) / np.sqrt(wide.variance + 1e-5) @ wide.kernel + wide.bias
    assert_within("probe's logits against float64, relative", relative_error(logits(head, embeddings), expected))


def test_logits_are_those_of_pytorchs_layers():
    """The head of EVAR: BatchNorm1d without weights, then Linear."""
    random = np.random.default_rng(1)
    mean, kernel, bias = (random.normal(size=shape).astype(np.float32) for shape in (6, (6, 4), 4))
    variance, embeddings = random.random(6).astype(np.float32) * 1e-4, random.normal(size=(9, 6)).astype(np.float32)
    norm, linear = torch.nn.BatchNorm1d(6, affine=False).eval(), torch.nn.Linear(6, 4)
    norm.running_mean, norm.running_var = torch.tensor(mean), torch.tensor(variance)
    linear.weight.data, linear.bias.data = torch.tensor(kernel.T.copy()), torch.tensor(bias)
    expected = linear(norm(torch.tensor(embeddings))).detach().numpy()
    found = logits(Head(mean, variance, kernel, bias), embeddings)
    assert_within("probe's logits against torch, relative", relative_error(found, expected))
    assert norm.eps == EPSILON


def test_train_probe_with_constant_features_has_finite_logits():
    embeddings, members = blobs(60)
    embeddings[:, 1], embeddings[:, 4] = 3.25, 0
    train, valid = parts(60, 30, 12)
    probe = train_compiled(embeddings, members, train, valid, jax.random.key(0), SHORT, multi_label=False)
    assert np.asarray(probe.head.variance)[[1, 4]].tolist() == [0, 0]
    assert np.isfinite(logits(probe.head, embeddings)).all()
    embeddings[~train, 1] = 4  # not constant on other clips
    assert np.isfinite(logits(probe.head, embeddings)).all()


# --- training


def slow_probe(embeddings, members, train, valid, key, rule, multi_label):
    """One probe in float64 with PyTorch's Linear, losses and Adam; of the package, only its random draws."""
    wide = embeddings.astype(np.float64)
    mean, variance = wide[train].mean(axis=0), wide[train].var(axis=0)
    rows = torch.tensor((wide - mean) / np.sqrt(variance + 1e-5))
    wanted = torch.tensor(members.astype(np.float64))
    features, classes = embeddings.shape[1], members.shape[1]
    init_key, order_key = jax.random.split(key)
    bound = 1 / features**0.5
    drawn = np.array(jax.random.uniform(init_key, (features + 1, classes), minval=-bound, maxval=bound), np.float64)
    linear = torch.nn.Linear(features, classes, dtype=torch.float64)
    linear.weight.data, linear.bias.data = torch.tensor(drawn[:-1].T.copy()), torch.tensor(drawn[-1])
    adam = torch.optim.Adam(linear.parameters(), lr=rule.learning_rate)
    best_score, best_epoch, best, without = -1.0, None, None, 0
    for epoch in range(rule.epochs):
        draws = np.asarray(jax.random.uniform(jax.random.fold_in(order_key, epoch), (len(rows),)))
        order = sorted(np.flatnonzero(train).tolist(), key=lambda clip: draws[clip])
        for first in range(0, len(order), rule.batch_size):
            batch = order[first : first + rule.batch_size]
            adam.zero_grad()
            if multi_label:
                loss = torch.nn.functional.binary_cross_entropy_with_logits(linear(rows[batch]), wanted[batch])
            else:
                loss = torch.nn.functional.cross_entropy(linear(rows[batch]), wanted[batch].argmax(dim=1))
            loss.backward()
            adam.step()
        outputs = linear(rows[valid]).detach().numpy()
        if multi_label:
            there = members[valid].any(axis=0)
            score = average_precision_score(members[valid][:, there], outputs[:, there], average="macro")
        else:
            score = members[valid][np.arange(len(outputs)), outputs.argmax(axis=1)].mean()
        if score > best_score + 1e-9:
            best_score, best_epoch, without = score, epoch, 0
            best = linear.weight.detach().numpy().T.copy(), linear.bias.detach().numpy().copy()
        else:
            without += 1
        if without == rule.patience:
            break
    return Head(mean, variance, *best), best_epoch, epoch + 1, best_score


@pytest.mark.parametrize(
    ("rule", "train", "stops", "multi_label"),
    [
        (PARTIAL, 60, "patience", False),
        (PARTIAL, 48, "patience", True),  # three whole batches
        (ProbeRule(1e-2, 7, 5, 20), 8, "epochs", True),  # the last batch holds one clip
        (ProbeRule(), 60, None, False),  # one batch, larger than the training set
    ],
)
def test_train_probe_matches_a_slow_training(rule, train, stops, multi_label):
    embeddings, members = (tags if multi_label else blobs)(110)
    train, valid = parts(110, train, 30)
    key = jax.random.key(3)
    probe = train_compiled(embeddings, members, train, valid, key, rule, multi_label=multi_label)
    head, best_epoch, epochs, valid_score = slow_probe(embeddings, members, train, valid, key, rule, multi_label)
    assert (int(probe.best_epoch), int(probe.epochs)) == (best_epoch, epochs)
    assert float(probe.valid_score) == pytest.approx(valid_score, rel=1e-5)
    for name in ("mean", "variance", "kernel", "bias"):
        error = relative_error(getattr(probe.head, name), getattr(head, name))
        assert_within("probe against float64 and torch's Adam, relative", error)
    assert epochs == rule.epochs if stops == "epochs" else epochs < rule.epochs if stops else True
    assert valid_score > 0.3


def test_train_probe_stops_after_patience_and_returns_the_best_epoch():
    """Validation labels that contradict the training labels: what is learned soon makes the score worse."""
    embeddings, members = blobs(120, distance=1.0)
    train, valid = parts(120, 60, 30)
    members = np.where(valid[:, None], np.roll(members, 1, axis=1), members)
    rule = ProbeRule(3e-3, 16, 40, 5)
    probe = train_compiled(embeddings, members, train, valid, jax.random.key(1), rule)
    assert int(probe.best_epoch) > 0
    assert int(probe.epochs) == int(probe.best_epoch) + 1 + 5 < 40
    found = accuracy(logits(probe.head, embeddings), members, valid)
    assert float(found) == float(probe.valid_score)
    until_best = dataclasses.replace(rule, epochs=int(probe.best_epoch) + 1)
    short = train_compiled(embeddings, members, train, valid, jax.random.key(1), until_best)
    assert int(short.epochs) == until_best.epochs
    for a, b in zip(jax.tree.leaves(short.head), jax.tree.leaves(probe.head), strict=True):
        np.testing.assert_array_equal(a, b)


def test_train_probe_under_vmap_trains_each_as_alone():
    """Splits of different sizes, which stop at different epochs. One label a clip: see test_linear_evaluation.py."""
    embeddings, members = tags(110)
    sizes = [(60, 20), (9, 5), (25, 60), (60, 20)]
    masks = np.stack([parts(110, *size, seed=number) for number, size in enumerate(sizes)])
    keys = jax.vmap(jax.random.key)(np.arange(4, dtype=np.uint32))

    @jax.jit
    def together(embeddings, members, train, valid, keys):
        return jax.vmap(lambda *split: train_probe(embeddings, members, *split, PARTIAL, True))(train, valid, keys)

    found = together(embeddings, members, masks[:, 0], masks[:, 1], keys)
    assert len(set(np.asarray(found.epochs).tolist())) > 1
    assert len({str(kernel) for kernel in np.asarray(found.head.kernel)}) == 4
    for number in range(4):
        alone = train_compiled(embeddings, members, *masks[number], keys[number], PARTIAL, multi_label=True)
        one = jax.tree.map(lambda leaf, number=number: leaf[number], found)
        assert (int(one.best_epoch), int(one.epochs)) == (int(alone.best_epoch), int(alone.epochs))
        assert float(one.valid_score) == pytest.approx(float(alone.valid_score), rel=1e-6)
        for name in ("mean", "variance", "kernel", "bias"):
            error = relative_error(getattr(one.head, name), getattr(alone.head, name))
            assert_within("probes at once against alone, relative", error)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("scale", [1e3, 1e18, 3e38])
def test_train_probe_ignores_other_clips(scale, multi_label):
    """Neither their embeddings, however wild (any float32 that is finite is usable), nor their classes."""
    embeddings, members = (tags if multi_label else blobs)(60)
    train, valid = parts(60, 30, 12)
    other = ~(train | valid)
    random = np.random.default_rng(0)
    expected = train_compiled(embeddings, members, train, valid, jax.random.key(0), SHORT, multi_label=multi_label)
    embeddings, members = embeddings.copy(), members.copy()
    embeddings[other] = random.uniform(-1, 1, (other.sum(), FEATURES)) * scale
    members[other] = random.random((other.sum(), CLASSES)) < 0.5
    found = train_compiled(embeddings, members, train, valid, jax.random.key(0), SHORT, multi_label=multi_label)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_train_probe_uses_validation_clips_for_the_epoch_alone():
    """They take part neither in the standardisation nor in the gradient."""
    embeddings, members = blobs(60)
    train, valid = parts(60, 30, 12)
    rule = ProbeRule(1e-2, 16, 1, 1)
    expected = train_compiled(embeddings, members, train, valid, jax.random.key(0), rule)
    embeddings[valid] += 100
    found = train_compiled(embeddings, members, train, valid, jax.random.key(0), rule)
    for a, b in zip(jax.tree.leaves(found.head), jax.tree.leaves(expected.head), strict=True):
        np.testing.assert_array_equal(a, b)


def test_train_probe_with_another_key_is_another_probe():
    embeddings, members = blobs(60)
    train, valid = parts(60, 30, 12)
    rule = ProbeRule(1e-2, 16, 1, 1)
    one, same, other = (
        train_compiled(embeddings, members, train, valid, jax.random.key(seed), rule) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.head.kernel, same.head.kernel)
    assert not np.array_equal(one.head.kernel, other.head.kernel)


@pytest.mark.parametrize(("distance", "least"), [(5.0, 0.99), (0.8, 0.6)])
def test_train_probe_is_as_good_as_logistic_regression(distance, least):
    """Blobs that lie apart, and blobs that overlap."""
    embeddings, members = blobs(900, distance=distance)
    train, valid = parts(900, 300, 100)
    test, of_class = ~(train | valid), members.argmax(axis=1)
    probe = train_compiled(embeddings, members, train, valid, jax.random.key(0), LONG)
    found = float(accuracy(logits(probe.head, embeddings), members, test))
    scaled = (embeddings - embeddings[train].mean(axis=0)) / embeddings[train].std(axis=0)
    reference = LogisticRegression(max_iter=1000).fit(scaled[train], of_class[train])
    assert found == pytest.approx(reference.score(scaled[test], of_class[test]), abs=0.03)
    assert found > least


def test_train_probe_on_shuffled_labels_is_at_chance():
    embeddings, members = blobs(900, distance=3)
    members = members[np.random.default_rng(1).permutation(900)]
    train, valid = parts(900, 300, 100)
    test = ~(train | valid)
    probe = train_compiled(embeddings, members, train, valid, jax.random.key(0), LONG)
    found = float(accuracy(logits(probe.head, embeddings), members, test))
    chance, deviation = 1 / CLASSES, (3 / 16 / test.sum()) ** 0.5
    assert abs(found - chance) < 4 * deviation


# --- rules


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "A probe's epochs must be positive, got 0"),
        ({"patience": -1}, "A probe's patience must be positive, got -1"),
        ({"batch_size": 0}, "A probe's batch_size must be positive, got 0"),
        ({"learning_rate": 0.0}, "A probe's learning_rate must be .*positive.*, got 0.0"),
        ({"learning_rate": float("nan")}, "A probe's learning_rate must be .*positive.*, got nan"),
        ({"learning_rate": float("inf")}, "A probe's learning_rate must be .*positive.*, got inf"),
    ],
)
def test_probe_rule_refuses_bad_numbers(options, message):
    """The message names the option of `jaxdissect probe`, where --batch-size is the encoder's."""
    with pytest.raises(InputError, match=message):
        ProbeRule(**options)


# --- the validation part


@st.composite
def one_class_tables(draw):
    """Classes of some clips, one each, of which some are for training; small classes and tiny tables abound."""
    classes = draw(st.integers(1, 5))
    of_class = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=40)))
    train = np.array(draw(st.lists(st.booleans(), min_size=len(of_class), max_size=len(of_class))))
    return np.eye(classes, dtype=bool)[of_class], train


@settings(max_examples=150, deadline=None)
@given(one_class_tables(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.integers(0, 3))
def test_held_out_of_one_class_a_clip(table, share, seed):
    members, train = table
    valid = held_out(members, train, share, seed)
    assert not (valid & ~train).any()
    clips, held = members[train].sum(axis=0), members[valid].sum(axis=0)
    assert held[clips > 1].all()
    assert (clips - held)[clips > 0].all()  # so a class with one clip stays in training
    wanted = max(1, round(share * train.sum()))
    assert valid.sum() == min(max(wanted, (clips > 1).sum()), (clips - 1)[clips > 0].sum())
    np.testing.assert_array_equal(held_out(members, train, share, seed), valid)


@st.composite
def many_class_tables(draw):
    classes, clips = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    rows = st.lists(st.integers(0, classes - 1), max_size=3, unique=True)
    members = np.zeros((clips, classes), bool)
    for clip in range(clips):
        members[clip, draw(rows)] = True
    return members, np.array(draw(st.lists(st.booleans(), min_size=clips, max_size=clips)))


@settings(max_examples=150, deadline=None)
@given(many_class_tables(), st.sampled_from([0.1, 0.5]), st.integers(0, 3))
def test_held_out_of_several_classes_a_clip(table, share, seed):
    """No class leaves the training part, and no class that one more clip could bring in is missing from validation."""
    members, train = table
    valid = held_out(members, train, share, seed)
    assert not (valid & ~train).any()
    left, held = members[train & ~valid].sum(axis=0), members[valid].sum(axis=0)
    assert left[members[train].any(axis=0)].all()
    for clip in np.flatnonzero(train & ~valid):
        could_go = (left[members[clip]] > 1).all()
        assert not (could_go and (held[members[clip]] == 0).any())
        assert not (could_go and valid.sum() < max(1, round(share * train.sum())))


def test_held_out_has_the_size_asked_for():
    members = np.eye(10, dtype=bool)[np.arange(1000) % 10]
    train = np.arange(1000) % 5 > 0
    for share in (0.1, 0.25):
        for seed in range(3):
            assert held_out(members, train, share, seed).sum() == 800 * share


def test_held_out_differs_between_seeds_and_is_drawn_evenly():
    members, train = np.eye(2, dtype=bool)[np.arange(40) % 2], np.arange(40) < 30
    drawn = np.stack([held_out(members, train, 0.2, seed) for seed in range(300)])
    assert len({row.tobytes() for row in drawn}) > 290
    often = drawn.mean(axis=0)
    assert not often[30:].any()
    assert np.abs(often[:30] - 0.2).max() < 5 * (0.2 * 0.8 / 300) ** 0.5


def test_held_out_takes_a_clip_that_all_its_classes_can_spare():
    members = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]], bool)
    for seed in range(20):
        valid = held_out(members, np.ones(6, bool), 0.5, seed)
        assert not valid[0]  # the only clip of the second class
        assert valid.sum() == 3
        assert members[valid].any(axis=0).tolist() == [True, False, True]


def test_held_out_takes_nothing_of_classes_with_one_clip_each():
    for members in (np.eye(3, dtype=bool), np.ones((1, 3), bool)):
        assert not held_out(members, np.ones(len(members), bool), 0.1, 0).any()
