"""The stage `probe`: files by the letter, and what is left out."""

import re
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
from foreign import IntegerEncoder
from tones import (
    CLIPS,
    FILES,
    contents,
    load,
    names,
    restored,
    strict_json,
)

from jaxdissect import InputError
from jaxdissect.probe.embeddings import embed_clips
from jaxdissect.probe.linear import EPSILON
from jaxdissect.stages.probe import run_probe


def test_the_files_are_by_the_letter(options, tones):
    evaluations = run_probe(options(label="label,place")).evaluations
    folder = options.run / "probe"
    assert names(options.run) == {"run.json", "probe"}
    assert names(folder) == FILES
    scores = pd.read_csv(folder / "scores.csv")
    assert scores.columns.tolist() == ["label_set", "test_fold", "seed", "split", "clips", "metric", "score"]
    assert scores["label_set"].tolist() == ["label"] * 6 + ["place"] * 6
    assert scores["test_fold"].isna().all()
    assert scores["seed"].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert scores["split"].tolist() == ["train", "valid", "test"] * 4
    assert scores["clips"].tolist() == [32, 4, 12] * 4
    assert set(scores["metric"]) == {"accuracy"}
    assert scores["score"].between(0, 1).all()
    classes = pd.read_csv(folder / "class_scores.csv")
    assert classes.columns.tolist() == ["label_set", "class", "test_fold", "seed", "clips", "score"]
    assert classes["class"].tolist() == list("abcabcxyzxyz")
    assert classes["clips"].tolist() == [4] * 12
    for done, table in zip(evaluations, ("label", "place"), strict=True):
        assert done.scores["score"].tolist() == pytest.approx(scores[scores["label_set"] == table]["score"].tolist())
    described = strict_json(folder / "probe.json")
    assert described["label_sets"]["label"]["classes"] == ["a", "b", "c"]
    assert described["label_sets"]["place"]["classes"] == ["x", "y", "z"]
    for labels in described["label_sets"].values():
        assert labels["multi_label"] is False
        assert [(probe["test_fold"], probe["seed"]) for probe in labels["probes"]] == [(None, 0), (None, 1)]
        assert all(probe["best_epoch"] < probe["epochs"] <= 4 for probe in labels["probes"])
    record = strict_json(options.run / "run.json")["stages"]["probe"]
    assert record["options"] == {
        "learning_rate": 0.1, "batch_size": 200, "epochs": 4, "patience": 20, "head": "trained", "folds": "test",
        "seeds": 2, "dtype": "float32",
    }  # fmt: skip
    for key in ("options", "fingerprints", "task", "encoder", "unusable_clips"):
        assert described[key] == record[key]
    assert {"versions", "device", "seconds", "status"} <= set(record)
    assert (record["status"], record["unusable_clips"]) == ("done", {})
    assert all(re.fullmatch("[0-9a-f]{64}", record["fingerprints"][name]) for name in ("encoder", "task", "front_end"))


def test_the_head_is_restored_and_gives_the_scores(options, tones):
    """By hand from what lies on the disk: heads and tables."""
    table = tones.write("folds.csv", fold=lambda clip: clip // 3 % 4 + 2)
    run_probe(options(task=str(table), folds="all"))
    head = restored(options.run / "probe")["label"]
    shapes = {"mean": (8, 16), "variance": (8, 16), "kernel": (8, 16, 3), "bias": (8, 3)}
    assert {name: leaf.shape for name, leaf in head.items()} == shapes
    probes = strict_json(options.run / "probe" / "probe.json")["label_sets"]["label"]["probes"]
    assert [(probe["test_fold"], probe["seed"]) for probe in probes] == [(f, s) for f in (2, 3, 4, 5) for s in (0, 1)]
    scores = pd.read_csv(options.run / "probe" / "scores.csv").set_index(["test_fold", "seed", "split"])
    task = load(table)
    values = embed_clips(IntegerEncoder(), task).values.astype(np.float64)
    for number, probe in enumerate(probes):
        scaled = (values - head["mean"][number]) / np.sqrt(head["variance"][number] + EPSILON)
        best = (scaled @ head["kernel"][number] + head["bias"][number]).argmax(axis=1)
        test = np.array(task.folds) == probe["test_fold"]
        row = scores.loc[probe["test_fold"], probe["seed"], "test"]
        assert row["clips"] == 12
        assert row["score"] == pytest.approx((best == tones.classes)[test].mean(), rel=1e-6)
        assert probe["valid_score"] == pytest.approx(scores.loc[probe["test_fold"], probe["seed"], "valid"]["score"])
    assert scores.loc[:, :, "test"]["score"].mean() > 0.8


def test_a_multi_label_task(options, tones):
    table = tones.write("tags.csv", label=lambda clip: "abc"[clip % 3] + (",d" if clip % 5 == 0 else ""))
    run_probe(options(task=str(table), multi_label=True))
    scores = pd.read_csv(options.run / "probe" / "scores.csv")
    assert set(scores["metric"]) == {"mean_average_precision"}
    described = strict_json(options.run / "probe" / "probe.json")["label_sets"]["label"]
    assert (described["classes"], described["multi_label"]) == (["a", "b", "c", "d"], True)


@pytest.mark.parametrize("name", ["a/b", "a.b", "étiquette 1", "params"])
def test_label_sets_of_odd_names(options, tones, name):
    table = tones.write("odd.csv", **{name: lambda clip: "uvw"[clip % 3]})
    run_probe(options(task=str(table), label=f"label,{name}"))
    heads = restored(options.run / "probe")
    assert set(heads) == {"label", name}
    assert heads[name]["kernel"].shape == (2, 16, 3)


def test_a_second_probe_takes_the_place_of_the_first(options):
    run_probe(options(label="label,place"))
    first = contents(options.run / "probe")
    run_probe(options(label="label,place"))
    second = contents(options.run / "probe")
    for name in ("scores.csv", "class_scores.csv"):
        assert first[Path(name)] == second[Path(name)]
    run_probe(options(label="place"))
    assert names(options.run) == {"run.json", "probe"}
    assert names(options.run / "probe") == FILES
    assert set(restored(options.run / "probe")) == {"place"}
    assert set(pd.read_csv(options.run / "probe" / "scores.csv")["label_set"]) == {"place"}


def test_unreadable_clips_are_left_out_and_counted(options, tones):
    (tones.path / "3.wav").unlink()  # of the test split
    (tones.path / "4.wav").write_bytes(b"no audio")
    result = run_probe(options())
    assert strict_json(options.run / "run.json")["stages"]["probe"]["unusable_clips"] == result.unusable
    assert result.too_many_bad
    assert list(result.unusable) == ["3.wav", "4.wav"]
    assert "missing" in result.unusable["3.wav"]
    scores = pd.read_csv(options.run / "probe" / "scores.csv")
    assert scores.groupby("seed")["clips"].sum().tolist() == [46, 46]
    assert set(scores[scores["split"] == "test"]["clips"]) == {11}


def test_the_command_tells_of_clips_that_were_left_out(jaxdissect, tones):
    """A score on the half of the clips that could be read must not look like any other."""
    for clip in range(0, CLIPS, 2):
        (tones.path / f"{clip}.wav").unlink()
    code, printed, error = jaxdissect("probe", "--max-bad-clips", "0.4")
    assert code == 1
    assert "accuracy" in printed
    every_second = "Left out: 24 files, all for the same reason: missing; the first is 0.wav, see probe.json."
    assert every_second in printed.splitlines()
    assert "more than 40.0% of the clips could not be read (--max-bad-clips 0.4)" in error
    assert jaxdissect("probe", "--max-bad-clips", "0.5")[0] == 0


def test_the_command_prints_the_scores(jaxdissect):
    code, printed, _ = jaxdissect("probe")
    assert code == 0
    assert re.search(r"label +3 +accuracy +\d+\.\d% +\d+\.\d% +\d+\.\d% \+- \d+\.\d +12 +2", printed)
    assert f"Written to {jaxdissect.path / 'probe'}" in printed


def test_a_save_that_fails_leaves_no_half_of_a_probe(options, monkeypatch):
    run_probe(options())

    def full(*_given, **_more):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")  # as tensorstore has it

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", full)
    with pytest.raises(
        InputError, match=r"run/probe cannot be written \(RESOURCE_EXHAUSTED: .* Nor could what was probed"
    ):
        run_probe(options())
    left = names(options.run)
    stages = strict_json(options.run / "run.json")["stages"]
    assert left - {"probe"} == {"run.json"}
    assert ("probe" in stages) == ("probe" in left)
    monkeypatch.undo()
    run_probe(options())
    assert names(options.run / "probe") == FILES


def test_one_label_set_that_fails_does_not_take_the_others_with_it(jaxdissect, tones):
    """The only clips of `rare` to test on cannot be read, which shows after embedding."""
    table = tones.write("rare.csv", rare=lambda clip: "ab"[clip % 2] if clip % 4 != 3 or clip == 3 else "")
    (tones.path / "3.wav").unlink()
    code, _, error = jaxdissect("probe", "--task", str(table), "--label", "label,rare", "--max-bad-clips", "0.5")
    assert code == 2
    assert "label set 'rare'" in error
    assert "The probes of label were saved." in error
    assert set(pd.read_csv(jaxdissect.path / "probe" / "scores.csv")["label_set"]) == {"label"}


def test_all_folds_need_no_test_fold(options, tones):
    table = tones.write("three.csv", fold=lambda clip: clip % 3 + 1)
    (evaluation,) = run_probe(options(task=str(table), folds="all", seeds=1)).evaluations
    assert sorted(set(evaluation.scores["test_fold"])) == [1, 2, 3]
    run_probe(options(task=str(table), folds="all", seeds=1))  # and again, in the same run directory
    with pytest.raises(InputError, match=r"test_fold 5: .* has the folds \[1, 2, 3\]"):
        run_probe(options(task=str(table), seeds=1))  # which asks for one fold, and there is no default one
    (one,) = run_probe(options(task=str(table), seeds=1, test_fold=2)).evaluations
    assert set(one.scores["test_fold"]) == {2}


def test_what_a_killed_save_has_left_is_swept(options):
    run_probe(options())
    for name in (".probe-dead", ".probe-beef"):
        (options.run / name).mkdir()
    run_probe(options())
    assert names(options.run) == {"run.json", "probe"}
