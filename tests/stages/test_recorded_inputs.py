"""What a stage takes from the run that it goes on with."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tones import (
    contents,
    strict_json,
)

from jaxdissect.options.probe import ProbeOptions
from jaxdissect.runtime.run_directory import Run
from jaxdissect.stages.inputs import DEFAULTS, given_before, recorded_inputs, stage_inputs
from jaxdissect.tasks.known import task_in_full


def test_encoder_task_and_options_are_those_of_the_counts(jaxdissect, tones):
    """Also from another working folder, and with the run directory moved."""
    table = tones.write("folds.csv", fold=lambda clip: clip // 3 % 3)
    given = ["--task", os.path.relpath(table), "--label", "place,label", "--test-fold", "2", "--multi-label"]
    assert jaxdissect("activations", *given)[0] == 0
    jaxdissect.path.rename(jaxdissect.path.parent / "moved")
    before = Path.cwd()
    os.chdir("/")
    try:
        code, _, error = jaxdissect("probe", "--quiet", inputs=False, run="moved")
    finally:
        os.chdir(before)
    assert (code, error) == (0, "")
    jaxdissect("probe", *given, run="explicit")
    moved, explicit = (jaxdissect.path.parent / run / "probe" for run in ("moved", "explicit"))
    assert (moved / "scores.csv").read_bytes() == (explicit / "scores.csv").read_bytes()
    scores = pd.read_csv(moved / "scores.csv")
    assert scores["label_set"].unique().tolist() == ["place", "label"]
    assert set(scores["test_fold"]) == {2}
    stages = strict_json(jaxdissect.path.parent / "moved" / "run.json")["stages"]
    assert list(stages) == ["activations", "probe"]
    assert stages["probe"]["fingerprints"] == stages["activations"]["fingerprints"]


def test_what_is_given_goes_before_what_the_run_has(jaxdissect, tones):
    """The data have moved, and the task with it; they are the same."""
    jaxdissect("activations")
    shutil.copytree(tones.path, tones.path.parent / "elsewhere")
    shutil.rmtree(tones.path)
    code, _, error = jaxdissect(
        "probe", "--quiet", "--task", str(tones.path.parent / "elsewhere" / "tones.csv"), inputs=False
    )
    assert (code, error) == (0, "")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["--encoder", "tones:other"], "holds counts of another encoder"),
        (["--label", "place"], "holds counts of another task"),
        (["--unit-seconds", "0.05"], "holds counts of another task"),
        (["--encoder", "tones:other", "--label", "place"], "holds counts of another encoder and another task"),
    ],
)
def test_the_counts_of_another_run_are_refused_and_left_as_they_are(jaxdissect, given, found):
    jaxdissect("activations")
    before = contents(jaxdissect.path)
    code, _, error = jaxdissect("probe", *given, inputs=False)
    assert code == 2
    assert found in error
    assert "choose another --run, or give the options that it was" in error
    assert contents(jaxdissect.path) == before


def test_counts_of_another_encoder_do_not_join_a_probe(jaxdissect):
    """The other way round: a run directory is of one encoder and one task, whichever stage came first."""
    jaxdissect("probe")
    code, _, error = jaxdissect("activations", "--encoder", "tones:other")
    assert code == 2
    assert "another" in error
    stages = strict_json(jaxdissect.path / "run.json")["stages"]
    assert len({record["fingerprints"]["encoder"] for record in stages.values()}) == 1


def test_an_encoder_that_is_gone(jaxdissect, tmp_path):
    """Its directory was moved since the count: the message names it, and the new place can be given."""
    jaxdissect("activations")
    record = jaxdissect.path / "run.json"
    record.write_text(record.read_text().replace('"foreign:make"', json.dumps(str(tmp_path / "gone"))))
    code, _, error = jaxdissect("probe", inputs=False)
    assert code == 2
    assert str(tmp_path / "gone") in error
    assert jaxdissect("probe", "--encoder", "foreign:make", inputs=False)[0] == 0


@pytest.mark.parametrize(
    ("given", "found"),
    [([], "--encoder is needed"), (["--encoder", "foreign:make"], "--task is needed")],
)
def test_a_run_without_counts_tells_nothing(jaxdissect, given, found):
    code, _, error = jaxdissect("probe", *given, inputs=False)
    assert code == 2
    assert found in error
    assert not jaxdissect.path.exists()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"stages": []}',
        '{"stages": {"activations": {"options": {}, "fingerprints": {}, "inputs": []}}}',
    ],
)
def test_a_damaged_run_is_refused(jaxdissect, content):
    jaxdissect.path.mkdir()
    (jaxdissect.path / "run.json").write_text(content)
    code, _, error = jaxdissect("probe", inputs=False)
    assert code == 2
    assert "run.json" in error


def test_a_folder_named_like_a_known_task_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "esc50").mkdir()
    assert task_in_full("esc50") == "esc50"
    assert task_in_full("my.csv") == str(tmp_path / "my.csv")


def test_another_tasks_options_are_not_inherited(jaxdissect, tones):
    """A probe of one task, then one of another in the same run directory."""
    assert jaxdissect("probe", "--label", "place", "--data", str(tones.path))[0] == 0
    other = tones.write("other.csv")
    code, _, error = jaxdissect("probe", "--encoder", "foreign:make", "--task", str(other), inputs=False)
    assert code == 2
    assert "needs unit_seconds" in error
    assert jaxdissect("probe", "--task", str(other), "--unit-seconds", "0.1", inputs=False)[0] == 0
    inputs = strict_json(jaxdissect.path / "run.json")["stages"]["probe"]["inputs"]
    assert (inputs["label"], inputs["data"]) == (None, None)


@pytest.mark.parametrize(
    ("name", "value"), [("label", 5), ("unit_seconds", "long"), ("multi_label", "yes"), ("commas", True)]
)
def test_inputs_of_other_types_are_a_damaged_record(jaxdissect, name, value):
    jaxdissect("probe")
    file = jaxdissect.path / "run.json"
    record = strict_json(file)
    record["stages"]["probe"]["inputs"][name] = value
    file.write_text(json.dumps(record))
    code, _, error = jaxdissect("probe", inputs=False)
    assert code == 2
    assert f"cannot be read: a stage's {name} is {value!r}" in error


def recorded(folder, **given):
    """A run directory whose counts were made with some inputs."""
    run = Run(folder / "run")
    run.path.mkdir()
    inputs = recorded_inputs(DEFAULTS | {"encoder": "m2d_tiny", "task": "fsd50k"} | given)
    json.dumps(inputs)
    run.finish("activations", {"options": {}, "fingerprints": {}, "inputs": inputs})
    return run


@pytest.mark.parametrize("before", [None, True, False])
@pytest.mark.parametrize("given", [None, True, False])
def test_stage_inputs_take_multi_label_as_given_else_as_recorded(tmp_path, before, given):
    run = recorded(tmp_path, multi_label=before)
    inputs = stage_inputs(ProbeOptions(run=run.path, multi_label=given), run, "probe")
    assert inputs["multi_label"] is (before if given is None else given)


@pytest.mark.parametrize(("before", "given", "expected"), [
    ("default", None, "default"), (3, None, 3), ("default", 3, 3), (3, 5, 5), (0, None, 0), (3, 0, 0),
])  # fmt: skip
def test_stage_inputs_take_the_test_fold_as_given_else_as_recorded(tmp_path, before, given, expected):
    run = recorded(tmp_path, test_fold=before)
    assert stage_inputs(ProbeOptions(run=run.path, test_fold=given), run, "probe")["test_fold"] == expected


@pytest.mark.parametrize(("multi_label", "test_fold", "expected"), [
    (False, 5, {}), (True, 5, {"multi_label": True}), (False, 4, {"test_fold": 4}),
])  # fmt: skip
def test_given_before_reads_records_that_held_defaults_too(multi_label, test_fold, expected):
    """What records had before --no-multi-label was heard: false and 5 also where nothing was given."""
    assert given_before({"multi_label": multi_label, "test_fold": test_fold, "label": None}) == expected


def test_no_multi_label_against_a_recorded_true_is_another_task(jaxdissect, tones):
    table = tones.write("several.csv", label=lambda clip: ("a", "b", "a,b")[clip % 3])
    assert jaxdissect("activations", "--task", str(table), "--multi-label")[0] == 0
    code, _, error = jaxdissect("probe", "--no-multi-label", inputs=False)
    assert code == 2
    assert "holds counts of another task: choose another --run, or give the options that it was made with" in error
    assert jaxdissect("probe", inputs=False)[0] == 0
    described = strict_json(jaxdissect.path / "probe" / "probe.json")["label_sets"]["label"]
    assert (described["multi_label"], described["classes"]) == (True, ["a", "b"])


def test_multi_label_given_with_counts_that_are_there_is_heard_by_later_stages(jaxdissect):
    """Without a comma in the table the counts are the same, and only the judgement differs."""

    def judged_as(*given):
        assert jaxdissect("activations", *given)[0] == 0
        assert jaxdissect("probe", inputs=False)[0] == 0
        return strict_json(jaxdissect.path / "probe" / "probe.json")["label_sets"]["label"]["multi_label"]

    assert judged_as() is False
    counted = (jaxdissect.path / "activations.nc").stat().st_mtime_ns
    assert judged_as("--multi-label") is True
    before = (jaxdissect.path / "run.json").read_bytes()
    assert jaxdissect("activations")[0] == 0  # which says nothing, so that it stays
    assert (jaxdissect.path / "run.json").read_bytes() == before
    assert judged_as("--no-multi-label") is False
    assert (jaxdissect.path / "activations.nc").stat().st_mtime_ns == counted
