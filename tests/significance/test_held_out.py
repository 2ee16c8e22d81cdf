"""Judging pairs on held-out clips: against scikit-learn and plain sums, on planted neurons, and on shuffled labels."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxdissect.selection.auroc import AurocRule
from jaxdissect.significance.auroc_choice import auroc_scores, sample_pairs
from jaxdissect.significance.clips import Clips
from jaxdissect.significance.held_out import (
    HALVES,
    NAMES,
    NOTHING,
    SHARE,
    TEST_SPLIT,
    Pairs,
    judge,
    judge_label_set,
)

CLIPS, CLASSES, LAYERS, NEURONS = 120, 3, 2, 40
PLANTED = {0: (0, 3, "means"), 1: (1, 7, "peaks"), 2: (0, 11, "excesses")}  # class -> layer, neuron, reading


def made_clips(seed=0, held_out=True, per_recording=2, strength=3.0, labels=None):
    """Noise in which one neuron of each class shows by one reading alone; every other recording is held out."""
    rng = np.random.default_rng(seed)
    label = np.arange(CLIPS) // per_recording % CLASSES if labels is None else labels
    members = label[:, None] == np.arange(CLASSES)
    shape = (CLIPS, LAYERS, NEURONS)
    readings = {name: rng.normal(size=shape).astype(np.float32) for name in ("means", "peaks", "excesses")}
    for kind, (layer, neuron, reading) in PLANTED.items():
        readings[reading][:, layer, neuron] += strength * members[:, kind]
    tokens = np.full(CLIPS, 20)
    counts = rng.integers(0, 21, size=shape).astype(np.uint16)
    recordings = np.arange(CLIPS) // per_recording
    held = (recordings // CLASSES % 2 == 1) & held_out
    return Clips(
        counts,
        tokens,
        members & ~held[:, None],
        [f"r{number}" for number in recordings],
        [-1] * CLIPS,
        **readings,
        held_out=members & held[:, None],
    )


def planted_pairs():
    label = np.array(list(PLANTED))
    layer, neuron = (np.array([PLANTED[kind][place] for kind in PLANTED]) for place in (0, 1))
    return Pairs(label, layer, neuron, np.array([0, 1, 2]))


def test_judge_is_scikit_learns_auroc_and_the_ratio_of_plain_sums():
    clips, pairs = made_clips(), planted_pairs()
    judged = judge(pairs, clips, clips.held_out)
    rows = clips.held_out.any(axis=1)
    for row, (kind, (layer, neuron, reading)) in enumerate(PLANTED.items()):
        own, values = clips.held_out[rows, kind], getattr(clips, reading)[rows, layer, neuron]
        assert judged.auroc[row] == pytest.approx(roc_auc_score(own, values), abs=1e-12)
        active = clips.counts[rows, layer, neuron].astype(float)
        assert judged.ratio[row] == pytest.approx(active[own].mean() / active[~own].mean())
        assert judged.clips[row] == own.sum()
    assert (judged.auroc_low < judged.auroc).all()
    assert (judged.auroc < judged.auroc_high).all()
    assert (judged.ratio_low < judged.ratio).all()
    assert (judged.ratio < judged.ratio_high).all()
    by_share = judge(dataclasses.replace(pairs, reading=np.full(3, SHARE)), clips, clips.held_out)
    own = clips.held_out[rows, 0]
    expected = roc_auc_score(own, clips.counts[rows, 0, 3] / clips.tokens[rows])
    assert by_share.auroc[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("clips_left", "per_recording"), [(3, 1), (8, 8)])
def test_judge_does_not_judge_classes_of_too_few_clips_or_recordings(clips_left, per_recording):
    """Three clips, or eight clips of one recording: said by NaN, and by no number of another class."""
    clips = made_clips(per_recording=per_recording)
    members = clips.held_out.copy()
    members[np.flatnonzero(members[:, 1])[clips_left:]] = False
    judged = judge(planted_pairs(), clips, members)
    assert np.isnan(judged.auroc).tolist() == [False, True, False]
    assert judged.clips[1] == clips_left


def test_judge_label_set_leaves_out_clips_of_recordings_that_chose():
    clips = made_clips()
    sources = list(clips.sources)
    first = np.flatnonzero(clips.held_out[:, 0])[0]
    sources[first] = clips.sources[np.flatnonzero(clips.members[:, 0])[0]]
    held_out = judge_label_set(planted_pairs(), dataclasses.replace(clips, sources=sources), None, 0, 0)
    assert held_out.by == TEST_SPLIT
    assert held_out.left_out == 1
    assert held_out.pairs.clips[0] == clips.held_out[:, 0].sum() - 1
    assert np.isnan(held_out.pairs.ratio_low).all()  # no resamples were asked for


def test_judge_label_set_without_a_split_chooses_on_one_half_and_judges_on_the_other():
    """The planted neurons are chosen by both halves; their judgement is the mean of what the other halves say."""
    clips, rule = made_clips(held_out=False), AurocRule(per_class=1)
    scores = auroc_scores(clips)
    pairs = sample_pairs(scores, rule, np.ones(len(clips.units().stratum), np.int64))
    held_out = judge_label_set(pairs, clips, lambda weights: sample_pairs(scores, rule, weights), 20, 0)
    assert held_out.by == HALVES
    assert len(held_out.aurocs) == 2 * CLASSES
    half = clips.units().half(np.random.default_rng([0, 0, 3]))[clips.units().unit]
    for row, (kind, (layer, neuron, reading)) in enumerate(PLANTED.items()):
        assert (pairs.layer[row], pairs.neuron[row]) == (layer, neuron)
        values, own = getattr(clips, reading)[:, layer, neuron], clips.members[:, kind]
        expected = np.mean([roc_auc_score(own[part], values[part]) for part in (half, ~half)])
        assert held_out.pairs.auroc[row] == pytest.approx(expected, abs=1e-12)
    # Recordings are not cut: both clips of each are in one half.
    assert all(half[0::2] == half[1::2])


def test_judge_label_set_of_a_selection_that_cannot_be_repeated_judges_nothing():
    clips = made_clips(held_out=False)
    held_out = judge_label_set(planted_pairs(), clips, None, 0, 0)
    assert held_out.by == NOTHING
    assert np.isnan(held_out.pairs.auroc).all()
    assert not len(held_out.aurocs)


def test_judge_label_set_of_shuffled_labels_is_at_chance():
    """Labels without any meaning: what a choice by them finds is worth 0.5 on clips that it did not see."""
    found = {TEST_SPLIT: [], HALVES: []}
    for seed in range(12):
        labels = np.repeat(np.random.default_rng(seed).permutation(np.arange(CLIPS // 2) % CLASSES), 2)
        for by in found:
            clips = made_clips(seed, by == TEST_SPLIT, strength=0.0, labels=labels)
            scores, rule = auroc_scores(clips), AurocRule(per_class=5, least=0.0)
            pairs = sample_pairs(scores, rule, np.ones(len(clips.units().stratum), np.int64))
            chosen = [scores.auroc[key] for key in zip(pairs.label, pairs.layer, pairs.neuron, strict=True)]
            assert np.median(chosen) > 0.6  # looks selective on the clips that chose
            held_out = judge_label_set(
                pairs, clips, lambda weights, s=scores, r=rule: sample_pairs(s, r, weights), 0, seed
            )
            assert held_out.by == by
            found[by] += held_out.aurocs.tolist()
    # 180 pairs or more of a standard deviation of about 0.08 each; three standard errors.
    for aurocs in found.values():
        assert abs(np.median(aurocs) - 0.5) < 0.025


def test_names_of_judgements_are_those_of_the_tables():
    from jaxdissect.selection.labelled import CLASS_COLUMNS

    assert {f"held_out_{name}" for name in NAMES} <= set(CLASS_COLUMNS)
