"""A user's mistakes with `jaxdissect probe`."""

import tempfile

import pytest
from tones import (
    CLIPS,
    contents,
)

from jaxdissect.probe.embeddings import embed_clips
from jaxdissect.runtime.run_directory import Run
from jaxdissect.stages import probe as probing


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["--seeds", "0"], "--seeds must be a whole number, at least 1, got 0"),
        (["--epochs", "0"], "--epochs must be a whole number, at least 1, got 0"),
        (["--patience", "0"], "--patience must be a whole number, at least 1, got 0"),
        (["--learning-rate", "0"], "--learning-rate must be a positive number"),
        (["--learning-rate", "nan"], "--learning-rate must be a positive number"),
        (["--learning-rate", "inf"], "--learning-rate must be a positive number"),
        (["--probe-batch-size", "0"], "--probe-batch-size must be a whole number, at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size must be"),
        (["--unit-seconds", "-1"], "--unit-seconds must be a positive number"),
        (["--label", "colour"], "no label column 'colour'; the table has file_name, label, place, split"),
        (["--data", "nowhere"], "data nowhere must be a folder"),
        (["--task", "gtzam"], "neither a known task"),
        (["--encoder", "nowhere"], "nowhere is no encoder directory"),
        (["--encoder", "foreign:nothing"], "neither a directory nor an importable package.module:factory"),
        (["--folds", "all"], "has no folds: leave --folds all out"),
        (["--head", "encoder"], "has no task head: leave the option out"),
        (["--head", "encoder", "--encoder", "tones:two_classes"], "of the shape (3,)"),
        (["--head", "encoder", "--layers", "all"], "reads the last layer only: leave --layers all out"),
        (["--layers", "all"], "integers is no LayeredEncoder: add its members as docs/encoders.md shows"),
    ],
)
def test_mistakes_are_answered_before_anything_is_embedded_or_written(jaxdissect, monkeypatch, given, found):
    """Embedding a large task takes hours."""
    embedded = []
    monkeypatch.setattr(
        probing, "embed_clips", lambda *given, **more: embedded.append(1) or embed_clips(*given, **more)
    )
    code, _, error = jaxdissect("probe", *given)
    assert code == 2
    assert found in error
    assert "Traceback" not in error
    assert not embedded
    assert not jaxdissect.path.exists()


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"split": lambda clip: "train"}, "clips to train and to test on, got 48 and 0"),
        ({"split": lambda clip: "test"}, "clips to train and to test on, got 0 and 48"),
        ({"label": lambda clip: "a"}, "must be of two classes at least"),
        ({"label": lambda clip: "ab"[clip % 4 == 3]}, "must be of two classes at least"),
    ],
)
def test_tables_that_no_probe_can_be_trained_on(jaxdissect, tones, monkeypatch, columns, found):
    embedded = []
    monkeypatch.setattr(
        probing, "embed_clips", lambda *given, **more: embedded.append(1) or embed_clips(*given, **more)
    )
    code, _, error = jaxdissect("probe", "--task", str(tones.write("bad.csv", **columns)))
    assert code == 2
    assert found in error
    assert not embedded


def test_a_data_folder_without_the_clips(jaxdissect, tmp_path):
    """The table is right and the folder is not: the message must be about files, not about the column `split`."""
    (tmp_path / "empty").mkdir()
    code, _, error = jaxdissect("probe", "--data", str(tmp_path / "empty"))
    assert code == 2
    assert f"{CLIPS} of the task's {CLIPS} could not be read or embedded: is --data their folder?" in error
    assert not (jaxdissect.path / "probe").exists()


def test_a_run_directory_that_another_process_writes_to(jaxdissect):
    with Run(jaxdissect.path).locked():
        code, _, error = jaxdissect("probe")
    assert code == 2
    assert f"--run {jaxdissect.path}: another process is writing to it" in error


def test_a_run_directory_that_is_a_file(jaxdissect):
    jaxdissect.path.write_text("mine")
    code, _, error = jaxdissect("probe")
    assert code == 2
    assert f"--run {jaxdissect.path} is a file: choose another" in error
    assert jaxdissect.path.read_text() == "mine"


def test_a_read_only_run_directory_is_seen_before_embedding(jaxdissect, monkeypatch):
    jaxdissect("activations")
    before = contents(jaxdissect.path)

    def refuse(*given, **more):
        raise PermissionError(13, "Permission denied")

    def never(*given, **more):
        raise AssertionError("embedded what cannot be written")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # root may write anywhere: no mode would stop it
    monkeypatch.setattr(probing, "embed_clips", never)
    code, _, error = jaxdissect("probe", inputs=False)
    assert code == 2
    assert f"{jaxdissect.path} cannot be written (Permission denied)" in error
    assert contents(jaxdissect.path) == before


def test_what_is_not_ours_is_left_alone(jaxdissect):
    """A file of the user's where the folder `probe` is to be."""
    jaxdissect.path.mkdir()
    (jaxdissect.path / "probe").write_text("mine")
    code, _, error = jaxdissect("probe")
    assert code == 2
    assert str(jaxdissect.path / "probe") in error
    assert (jaxdissect.path / "probe").read_text() == "mine"
