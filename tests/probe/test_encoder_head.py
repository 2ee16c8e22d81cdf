"""`--head encoder`: the head that an encoder brought along."""

import dataclasses
import re

import jax
import numpy as np
import pandas as pd
import pytest
from tones import (
    CLIPS,
    SAMPLES,
    load,
    restored,
    slow_embedding,
    strict_json,
    three_classes,
)

from jaxdissect import InputError, ViTConfig, save_encoder, untrained_m2d
from jaxdissect.audio.decode import read_clip
from jaxdissect.commands.probe import probe_results, probe_summary
from jaxdissect.probe.linear import EPSILON
from jaxdissect.stages.probe import ProbeResult, run_probe


def test_own_head_is_scored(options, tones):
    (evaluation,) = run_probe(options(encoder="tones:three_classes", head="encoder", seeds=3)).evaluations
    encoder, task = three_classes(None), load(tones.table)
    head = encoder.variables["head"]
    values = np.stack(
        [slow_embedding(encoder, read_clip(task.data, name, 16000, SAMPLES).pcm) for name in task.file_names]
    )
    scaled = (values - head["mean"]) / np.sqrt(head["variance"] + EPSILON)
    right = (scaled @ head["kernel"] + head["bias"]).argmax(axis=1) == tones.classes
    test = evaluation.scores[evaluation.scores["split"] == "test"]
    assert test["score"].item() == pytest.approx(right[np.arange(CLIPS) % 4 == 3].mean())
    described = strict_json(options.run / "probe" / "probe.json")
    assert len(described["label_sets"]["label"]["probes"]) == 1
    assert described["options"]["head"] == "encoder"
    for name, leaf in restored(options.run / "probe")["label"].items():
        np.testing.assert_array_equal(leaf, head[name][None])


def test_own_head_scores_as_when_it_was_trained(options, tones, tmp_path):
    """Out of a run, into an encoder directory, and through `--head encoder`."""
    encoder = untrained_m2d(ViTConfig(frames=16, width=64, depth=1, heads=1, mlp=64))
    save_encoder(encoder, tmp_path / "bare")
    run_probe(options(encoder=str(tmp_path / "bare"), seeds=1))
    head = jax.tree.map(lambda leaf: leaf[0], restored(options.run / "probe")["label"])
    save_encoder(dataclasses.replace(encoder, variables={**encoder.variables, "head": head}), tmp_path / "headed")
    own = options(encoder=str(tmp_path / "headed"), seeds=1, head="encoder", run=tmp_path / "own")
    run_probe(own)
    for name in ("scores.csv", "class_scores.csv"):
        trained, found = (pd.read_csv(run / "probe" / name) for run in (options.run, own.run))
        if "split" in trained:  # the head has had no validation clips, and so all others were for training
            assert found.set_index("split")["clips"].to_dict() == {"train": 36, "valid": 0, "test": 12}
            trained, found = (table[table["split"] == "test"] for table in (trained, found))
        pd.testing.assert_frame_equal(trained, found)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["--head", "encoder"], "--head encoder: integers has no task head: leave the option out to train one"),
        (
            ["--head", "encoder", "--encoder", "tones:two_classes"],
            "array 'bias' of the shape (3,) for the 3 classes of the label set 'label', found (2,)",
        ),
    ],
)
def test_own_head_must_fit(jaxdissect, given, found):
    code, _, error = jaxdissect("probe", *given)
    assert code == 2
    assert found in error
    assert not (jaxdissect.path / "probe").exists()


def test_own_head_needs_no_clips_to_train_on(options, tones):
    table = tones.write("judge.csv", split=lambda clip: "test")
    (evaluation,) = run_probe(options(task=str(table), encoder="tones:three_classes", head="encoder")).evaluations
    assert evaluation.scores.set_index("split")["clips"].to_dict() == {"train": 0, "valid": 0, "test": CLIPS}
    printed = probe_summary(probe_results(ProbeResult((evaluation,), {}, CLIPS, 0.01)))
    assert re.search(r"label +3 +accuracy +- +- +\d", printed)


def test_own_head_is_not_judged_on_what_it_was_trained_on(options, tones):
    table = tones.write("folds.csv", fold=lambda clip: clip // 3 % 4 + 2)
    given = options(task=str(table), encoder="tones:heard_all_but_five", head="encoder")
    run_probe(given)
    with pytest.raises(InputError, match=r"was trained on every fold but 5 .* give --test-fold 5"):
        run_probe(dataclasses.replace(given, test_fold=4, run=given.run.with_name("four")))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("three_axes", r"must have the axes \(clip, feature\); those of 2 clips have the shape \(2, \d+, \d+\)"),
        ("half_a_head", r"needs an array 'mean' of the shape \(16,\) .* found None"),
        ("head_of_other_features", r"needs an array 'mean' of the shape \(16,\) .* found \(7,\)"),
    ],
)
def test_own_head_of_foreign_encoders_that_break_the_rules(options, encoder, message):
    with pytest.raises(InputError, match=message):
        run_probe(options(encoder=f"tones:{encoder}", head="encoder"))
