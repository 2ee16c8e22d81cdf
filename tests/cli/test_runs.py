"""The command line, end to end on a small encoder: files by the letter, reuse, refusals, exit codes."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from traces import spans

from jaxdissect import InputError, ViTConfig, save_encoder, untrained_m2d
from jaxdissect.cli import main
from jaxdissect.runtime.files import new_folder, whole_file
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.tables import read_netcdf, write_netcdf
from jaxdissect.stages.activations import read_activations

CLIPS = 24
ACTIVATION_FILES = {"activations.nc", "clip_labels.nc", "clips.csv", "run.json", "top_clips.nc"}
NEURON_FILES = {"agreement.csv", "classes.csv", "coverage.csv", "layers.csv", "neurons.csv", "scores.nc"}
STORE_FILES = {"clip_counts.npy", "clip_means.npy", "clip_peaks.npy", "clip_excesses.npy"}
CONFIG = ViTConfig(frames=32, width=64, depth=2, heads=1, mlp=64)


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """Two encoder directories that differ in their weights alone."""
    folder = tmp_path_factory.mktemp("encoders")
    for seed in (0, 1):
        save_encoder(untrained_m2d(CONFIG, seed=seed, name="small"), folder / str(seed))
    return folder


@pytest.fixture
def table(data_folder):
    rows = ["file_name,label,pitch,split"]
    for number in range(CLIPS):
        tone = np.sin(np.arange(8000) * (0.05 + 0.1 * (number % 3))) * 0.3
        data_folder.write(f"{number}.wav", tone + np.random.default_rng(number).normal(size=8000) * 0.01)
        rows.append(f"{number}.wav,{'abc'[number % 3]},{number % 2},{('train', 'train', 'test')[number % 8 // 3]}")
    return data_folder.table("tones.csv", "\n".join(rows) + "\n")


@pytest.fixture
def jaxdissect(encoders, table, tmp_path, capsys):
    """Run a command on the small encoder and the tones; returns (exit code, printed, printed errors)."""

    def run(command="dissect", *options, seed=0, task=table, run="run"):
        arguments = [command]
        if command in ("dissect", "activations"):
            arguments += ["--encoder", str(encoders / str(seed)), "--task", str(task), "--unit-seconds", "0.5"]
            arguments += ["--batch-size", "1"]
            # Most of these tests are about counts, which no clip store changes.
            arguments += [] if {"--keep-clips", "--no-held-out"} & set(options) else ["--no-keep-clips"]
        if command in ("dissect", "neurons") and "--preset" not in options:
            arguments += ["--preset", "aape"]
        capsys.readouterr()
        code = main([*arguments, "--run", str(tmp_path / run), *options])
        return code, *capsys.readouterr()

    run.path = tmp_path / "run"
    return run


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_dissect_writes_the_run_directory(jaxdissect):
    code, printed, _ = jaxdissect("dissect", "--label", "label,pitch", "--keep", "0.1")
    assert code == 0
    assert names(jaxdissect.path) == ACTIVATION_FILES | NEURON_FILES
    assert "Counted 18 clips" in printed
    assert re.search(r"label +3 +\d+ +- +\d", printed)
    stages = json.loads((jaxdissect.path / "run.json").read_text())["stages"]
    assert list(stages) == ["activations", "neurons"]
    for stage in stages.values():
        assert {"options", "fingerprints", "versions", "device", "seconds", "status"} <= set(stage)
        assert set(stage["fingerprints"]) == {"encoder", "task", "front_end"}
        assert all(re.fullmatch("[0-9a-f]{64}", value) for value in stage["fingerprints"].values())
        assert stage["status"] == "done"


def test_files_are_by_the_letter(jaxdissect):
    jaxdissect("dissect", "--label", "label,pitch", "--keep", "0.1")
    counts = read_netcdf(jaxdissect.path / "activations.nc")
    assert dict(counts.sizes) == {"class": 5, "layer": 2, "neuron": 64}
    assert counts["class"].values.tolist() == ["a", "b", "c", "0", "1"]
    assert counts["label_set"].values.tolist() == ["label"] * 3 + ["pitch"] * 2
    for name, dtype in {"active_tokens": "int64", "sum": "float64", "sum_squares": "float64"}.items():
        assert (counts[name].dims, counts[name].dtype) == (("class", "layer", "neuron"), dtype)
        assert (counts[f"total_{name}"].dims, counts[f"total_{name}"].dtype) == (("layer", "neuron"), dtype)
        np.testing.assert_allclose(counts[name].values[:3].sum(axis=0), counts[f"total_{name}"].values, rtol=1e-6)
    for name in ("tokens", "clips"):
        assert (counts[name].dims, counts[name].dtype) == (("class",), "int64")
    np.testing.assert_array_equal(counts["tokens"], counts["clips"] * 22)  # 51 frames: chunks of 32 and 32, 11 each
    assert counts.attrs["tokens"] == "all"
    assert counts.attrs["threshold"] == 0
    top = read_netcdf(jaxdissect.path / "top_clips.nc")
    assert {name: top[name].dims for name in top} == dict.fromkeys(
        ("clip", "active_share", "max_activation"), ("layer", "neuron", "rank")
    )
    scores = read_netcdf(jaxdissect.path / "scores.nc")
    for name in ("rate", "aape", "aape_normalised", "kept"):
        assert scores[name].dims == ("label_set", "layer", "neuron")
    assert scores["kept"].dtype == bool
    assert scores["kept"].sum(("layer", "neuron")).values.tolist() == [13, 13]
    assert pd.read_csv(jaxdissect.path / "clips.csv").columns.tolist() == [
        "clip", "file_name", "split", "fold", "status", "reason", "samples", "label", "pitch",
    ]  # fmt: skip
    assert pd.read_csv(jaxdissect.path / "neurons.csv").columns.tolist() == [
        "label_set", "class", "layer", "neuron", "probability", "aape", "aape_normalised", "selector", "score",
        "ratio",
    ]  # fmt: skip
    assert pd.read_csv(jaxdissect.path / "coverage.csv").columns.tolist() == [
        "label_set", "classes", "covered", "coverage", "kept_neurons", "mean_neurons_per_class",
        "mean_classes_per_neuron", "probability_bar", "median_aape_normalised", "median_ratio",
    ]  # fmt: skip


def test_the_two_stages_alone_give_the_same_files(jaxdissect):
    jaxdissect("dissect", "--keep", "0.1", run="whole")
    assert jaxdissect("activations")[0] == 0
    assert names(jaxdissect.path) == ACTIVATION_FILES
    assert jaxdissect("neurons", "--keep", "0.1")[0] == 0
    for name in ("clips.csv", "neurons.csv", "coverage.csv"):
        assert (jaxdissect.path / name).read_bytes() == (jaxdissect.path.parent / "whole" / name).read_bytes()


def test_counts_are_reused_and_a_moved_run_goes_on(jaxdissect):
    jaxdissect("dissect", "--keep", "0.1")
    before = (jaxdissect.path / "activations.nc").stat().st_mtime_ns
    code, printed, _ = jaxdissect("dissect", "--keep", "0.2")
    assert code == 0
    assert "in the run directory already" in printed
    assert (jaxdissect.path / "activations.nc").stat().st_mtime_ns == before
    assert json.loads((jaxdissect.path / "run.json").read_text())["stages"]["neurons"]["options"]["keep"] == 0.2
    jaxdissect.path.rename(jaxdissect.path.parent / "moved")
    assert jaxdissect("neurons", "--preset", "lape", "--keep", "0.2", run="moved")[0] == 0


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"seed": 1}, "differs in the encoder ("),
        ({"options": ["--split", "test"]}, "differs in --split (train before, test now)"),
        ({"options": ["--tokens", "sounding"]}, "differs in --tokens (all before, sounding now)"),
        ({"options": ["--threshold", "0.5"]}, "differs in --threshold (0.0 before, 0.5 now)"),
        ({"options": ["--label", "pitch"]}, "differs in --label (['label'] before, ['pitch'] now), the task"),
        ({"options": ["--unit-seconds", "0.25"]}, "differs in the task"),
    ],
)
def test_another_runs_directory_is_refused_and_left_as_it_is(jaxdissect, options, found):
    jaxdissect("dissect")
    before = {path.name: path.read_bytes() for path in jaxdissect.path.iterdir()}
    code, _, error = jaxdissect("dissect", *options.get("options", []), seed=options.get("seed", 0))
    assert code == 2
    assert found in error
    assert f"remove {jaxdissect.path} to start afresh" in error
    assert {path.name: path.read_bytes() for path in jaxdissect.path.iterdir()} == before


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"seed": 1}, "encoder_sha256 ("),
        (
            {"options": ["--threshold", "0.5", "--split", "test"]},
            "split (test in the file, train in run.json), threshold (0.5 in the file, 0.0 in run.json)",
        ),
    ],
)
def test_files_of_different_runs_are_refused(jaxdissect, other, found):
    jaxdissect("dissect")
    jaxdissect("dissect", *other.get("options", []), seed=other.get("seed", 0), run="other")
    shutil.copy(jaxdissect.path.parent / "other" / "activations.nc", jaxdissect.path)
    code, _, error = jaxdissect("neurons")
    assert code == 2
    assert f"its files are of different runs, which differ in {found}" in error


@pytest.mark.parametrize("name", ["activations.nc", "clips.csv", "top_clips.nc", "clip_counts.npy"])
def test_counts_of_which_a_file_is_lost_are_counted_again(jaxdissect, name):
    jaxdissect("dissect", "--keep-clips", "--keep", "0.1")
    before = (jaxdissect.path / "clips.csv").read_bytes()
    (jaxdissect.path / name).unlink()
    code, printed, _ = jaxdissect("activations", "--keep-clips")
    assert code == 0
    assert "already" not in printed
    assert names(jaxdissect.path) == ACTIVATION_FILES | STORE_FILES  # and no neurons of the counts before
    assert (jaxdissect.path / "clips.csv").read_bytes() == before


def test_a_run_directory_that_another_process_writes_to(jaxdissect):
    with Run(jaxdissect.path).locked():
        code, _, error = jaxdissect("dissect")
    assert code == 2
    assert f"--run {jaxdissect.path}: another process is writing to it" in error
    assert jaxdissect("dissect")[0] == 0


def test_what_a_killed_run_left_is_cleared_away(jaxdissect):
    jaxdissect.path.mkdir()
    (jaxdissect.path / ".clip_counts.npy-0a1b2c3d").write_bytes(b"0" * 1000)
    assert jaxdissect("activations", "--keep-clips")[0] == 0
    assert names(jaxdissect.path) == ACTIVATION_FILES | STORE_FILES


def test_names_that_the_terminal_cannot_show(jaxdissect, table):
    """The whole command in a process of its own, whose streams know ASCII only and whose reader goes away."""
    table.write_text(table.read_text().replace(",a,", ",\N{DOG FACE},"))
    command = f"{sys.executable} -m jaxdissect dissect --encoder foreign:make --task {table} --unit-seconds 0.5"
    options = f"--preset aape --keep 0.5 --bar 0 --no-keep-clips --run {jaxdissect.path}"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[1] / "helpers")}

    def shell(line):
        return subprocess.run(
            line, shell=True, executable="/bin/bash", capture_output=True, text=True, env=environment, check=False
        )

    shown = shell(f"{command} {options}")
    assert shown.returncode == 0, shown.stderr
    assert r"\U0001f436" in shown.stdout
    gone = shell(f"set -o pipefail; {command} {options} | true")
    assert "Traceback" not in gone.stderr
    assert gone.returncode == 141  # not 0: the stages after the print were not run
    assert shell(f"{command} {options} 2>&-").returncode == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [("activations.nc", "{"), ("run.json", "{"), ("run.json", '{"stages": []}'), ("run.json", "[" * 100_000),
     ("run.json", '{"stages": {"activations": {}}}'),
     ("run.json", '{"stages": {"activations": {"options": [], "fingerprints": {}}}}')],
)  # fmt: skip
def test_a_damaged_run_is_refused(jaxdissect, name, content):
    jaxdissect("dissect")
    (jaxdissect.path / name).write_text(content)
    code, _, error = jaxdissect("neurons")
    assert code == 2
    assert name in error


def test_neurons_without_counts(jaxdissect):
    code, _, error = jaxdissect("neurons")
    assert code == 2
    assert "the stage 'activations' has not been run here: run `jaxdissect activations" in error


def test_too_many_bad_clips_fail_the_run_after_all_is_saved(jaxdissect, data_folder):
    (data_folder.path / "3.wav").write_bytes(b"")
    code, printed, error = jaxdissect("dissect", "--label", "label,pitch")
    assert code == 1
    assert "Not counted: 3.wav: empty file" in printed
    assert "more than 1.0% of the clips could not be read" in error
    assert names(jaxdissect.path) == ACTIVATION_FILES | NEURON_FILES
    clips = pd.read_csv(jaxdissect.path / "clips.csv").set_index("file_name")
    assert clips.loc["3.wav", ["status", "reason"]].tolist() == ["unreadable", "empty file: fetch or copy it again"]
    assert int(read_netcdf(jaxdissect.path / "activations.nc")["total_clips"]) == 17
    assert json.loads((jaxdissect.path / "run.json").read_text())["stages"]["activations"]["status"] != "done"
    code, printed, _ = jaxdissect("dissect", "--label", "label,pitch", "--max-bad-clips", "0.1")
    assert code == 0
    assert "in the run directory already" in printed
    data_folder.write("3.wav", np.random.default_rng(0).normal(size=8000) * 0.1)
    code, printed, _ = jaxdissect("dissect", "--label", "label,pitch")  # mended: counted again
    assert code == 0
    assert "Counted 18 clips" in printed


def test_a_class_without_a_clip_is_left_out_and_named(jaxdissect, table):
    table.write_text(table.read_text() + "99.wav,rare,0,test\n")
    code, printed, _ = jaxdissect("dissect", "--keep", "0.1")
    assert code == 0
    assert "Classes without a counted token were left out: label:rare." in printed
    assert pd.read_csv(jaxdissect.path / "coverage.csv")["classes"].tolist() == [3]


def test_a_task_of_which_nothing_can_be_read(jaxdissect, data_folder):
    for number in range(CLIPS):
        (data_folder.path / f"{number}.wav").unlink()
    code, _, error = jaxdissect("dissect")
    assert code == 1
    assert names(jaxdissect.path) == ACTIVATION_FILES
    assert "more than 1.0% of the clips could not be read" in error
    assert pd.read_csv(jaxdissect.path / "clips.csv")["reason"].tolist() == ["missing"] * 18


def test_the_clip_store(jaxdissect):
    code, _, error = jaxdissect("activations", "--keep-clips")
    assert code == 0
    assert re.search(r"clip_\*.npy will take \d", error)
    assert names(jaxdissect.path) == ACTIVATION_FILES | STORE_FILES
    arrays = {name: np.load(jaxdissect.path / name, mmap_mode="r") for name in STORE_FILES}
    store = arrays.pop("clip_counts.npy")
    assert (store.dtype, store.shape) == (np.uint16, (24, 2, 64))
    assert {(array.dtype, array.shape) for array in arrays.values()} == {(np.dtype(np.float32), (24, 2, 64))}
    counts, table = read_netcdf(jaxdissect.path / "activations.nc"), pd.read_csv(jaxdissect.path / "clips.csv")
    chosen = (table["split"] == "train").to_numpy()
    assert chosen.sum() == 18  # six of the test split are held out: in the store, and in no count
    np.testing.assert_array_equal(store[chosen].sum(axis=0), counts["total_active_tokens"])
    for index, name in enumerate("abc"):
        of_class = chosen & (table["label"] == name).to_numpy()
        np.testing.assert_array_equal(store[of_class].sum(axis=0), counts["active_tokens"][index])
    sums = (arrays["clip_means.npy"][chosen].astype(float) * 22).sum(axis=0)
    np.testing.assert_allclose(sums, counts["total_sum"], rtol=1e-4, atol=1e-3)


def test_dissect_by_default_judges_on_the_test_split(jaxdissect):
    code, printed, _ = jaxdissect("dissect", "--keep-clips", "--preset", "auroc", "--permutations", "40")
    assert code == 0
    assert names(jaxdissect.path) == ACTIVATION_FILES | NEURON_FILES | STORE_FILES | {"permutations.nc"}
    assert re.search(r"^label: 3 of 3 classes have a neuron; .*", printed, re.MULTILINE)
    table, classes = (pd.read_csv(jaxdissect.path / name) for name in ("neurons.csv", "classes.csv"))
    assert (table.groupby("class").size() <= 5).all()
    assert (table["score"] >= 0.7).all()
    assert (table["q_value"] <= 0.05).all()
    assert set(table["reading"]) <= {"mean", "peak", "excess"}
    assert classes["class"].tolist() == ["a", "b", "c"]
    assert classes["neurons"].tolist() == table.groupby("class").size().tolist()
    scores = read_netcdf(jaxdissect.path / "scores.nc")
    assert scores.attrs["preset"] == "auroc"
    assert {"auroc", "auroc_reading", "q_value", "aape"} <= set(scores)
    assert json.loads((jaxdissect.path / "run.json").read_text())["stages"]["neurons"]["options"]["per_class"] == 5


def test_counts_of_a_version_without_held_out_clips_are_read_by_lape_and_refused_by_auroc(jaxdissect):
    """Such a run has every clip's counts, and neither means nor a record of what is held out."""
    assert jaxdissect("activations", "--keep-clips", "--no-held-out")[0] == 0
    for name in STORE_FILES - {"clip_counts.npy"}:
        (jaxdissect.path / name).unlink()
    record = json.loads((jaxdissect.path / "run.json").read_text())
    del record["stages"]["activations"]["options"]["held_out"]
    (jaxdissect.path / "run.json").write_text(json.dumps(record))
    labels = jaxdissect.path / "clip_labels.nc"
    write_netcdf(read_netcdf(labels).drop_vars("held_out"), labels)
    code, printed, _ = jaxdissect("neurons", "--preset", "lape", "--keep", "0.3", "--permutations", "9")
    assert code == 0, printed
    assert pd.read_csv(jaxdissect.path / "coverage.csv")["held_out_by"].tolist() == ["halves"]
    code, _, error = jaxdissect("neurons", "--preset", "auroc")
    assert code == 2
    assert "Means and peaks of the clips were not kept, since an older version has counted" in error


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--label", "colour"], "no label column 'colour'; the table has file_name, label, pitch, split"),
        (["--split", "valid"], "split 'valid': task 'tones' has no such clips (it has test, train)"),
        (["--data", "nowhere"], "data nowhere must be a folder"),
        (["--unit-seconds", "-1"], "--unit-seconds must be a positive number"),
        (["--unit-seconds", "0.01"], "choose a longer unit length"),
        (["--batch-size", "0"], "--batch-size must be a whole number, at least 1"),
        (["--threshold", "nan"], "--threshold must be a finite number"),
        (["--max-bad-clips", "2"], "--max-bad-clips must be a fraction from 0 to 1"),
        (["--keep", "1.5"], "keep must be a fraction from 0 to 1"),
        (["--task", "gtzam"], "neither a known task"),
        (["--encoder", "nowhere"], "nowhere is no encoder directory"),
        (["--encoder", "foreign:nothing"], "neither a directory nor an importable package.module:factory"),
        (["--encoder", "foreign:not_an_encoder"], "it lacks name, "),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(jaxdissect, options, found):
    code, _, error = jaxdissect("dissect", *options)
    assert code == 2
    assert found in error
    assert "Traceback" not in error
    assert not jaxdissect.path.exists()


def test_a_foreign_encoder_comes_in_by_a_factory(jaxdissect):
    code, printed, _ = jaxdissect("dissect", "--encoder", "foreign:make")
    assert code == 0
    assert "24 neurons in 2 layers" in printed


def test_a_full_disk_is_seen_before_counting(jaxdissect, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5))
    code, _, error = jaxdissect("dissect")
    assert code == 2
    assert re.search(r"a file of the run's counts needs .* MB of disk and 0 MB are free: make room or choose", error)
    assert not jaxdissect.path.exists()


def test_a_run_directory_that_is_a_file(jaxdissect):
    jaxdissect.path.write_text("mine")
    code, _, error = jaxdissect("dissect")
    assert code == 2
    assert f"--run {jaxdissect.path} is a file: choose another" in error
    assert jaxdissect.path.read_text() == "mine"


@pytest.mark.parametrize("name", ["activations.nc", "top_clips.nc", "clip_counts.npy", "run.json"])
def test_counts_survive_a_disk_that_fills_up(jaxdissect, monkeypatch, name):
    replace = Path.replace

    def full(path, target):
        if jaxdissect.path in Path(target).parents and Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    code, _, error = jaxdissect("dissect", "--keep", "0.1", "--keep-clips")
    assert code == 2
    assert f"{name} cannot be written (No space left on device)" in error
    rescued = Run(Path(re.search(r"continue with --run (\S+)\.$", error.strip())[1]))
    assert names(rescued.path) == ACTIVATION_FILES | STORE_FILES
    store = np.load(rescued.file("clip_counts.npy"))
    chosen = (read_activations(rescued).clips["split"] == "train").to_numpy()
    np.testing.assert_array_equal(store[chosen].sum(axis=0), read_activations(rescued).counts["total_active_tokens"])
    assert int(read_activations(rescued).counts["total_clips"]) == 18
    assert jaxdissect("neurons", "--keep", "0.1", run=str(rescued.path))[0] == 0
    shutil.rmtree(rescued.path)
    assert jaxdissect("neurons")[0] == 2  # the run directory itself holds no finished stage


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError), whole_file(file) as temporary:
        temporary.write_text("half \ud800")
    assert (file.read_text(), names(tmp_path)) == ("old", {"a.txt"})
    with whole_file(file) as temporary:
        temporary.write_text("new")
    assert (file.read_text(), names(tmp_path)) == ("new", {"a.txt"})
    with pytest.raises(InputError, match="not an empty folder"), new_folder(tmp_path):
        pass


def test_a_disk_that_is_full_while_writing_netcdf(tmp_path):
    """A limit on the size of files stands in for a full disk: HDF5 meets a real error of the system."""
    import resource

    import xarray as xr

    from jaxdissect.runtime.tables import write_netcdf

    random = np.random.default_rng(0).integers(0, 2**60, (64, 1024))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"a\.nc cannot be written"):
            write_netcdf(xr.Dataset({"random": (("x", "y"), random)}), tmp_path / "a.nc")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not names(tmp_path)


def test_activations_with_a_profile_counts_the_same(jaxdissect, tmp_path):
    code, *_ = jaxdissect("activations", run="plain")
    profiled, _, errors = jaxdissect("activations", "--profile", str(tmp_path / "trace"), run="profiled")
    assert code == profiled == 0
    assert "nothing was traced" not in errors
    plain, traced = (read_activations(Run(tmp_path / name)).counts for name in ("plain", "profiled"))
    np.testing.assert_array_equal(plain["active_tokens"], traced["active_tokens"])
    assert spans(tmp_path / "trace")
    _, _, errors = jaxdissect("activations", "--profile", str(tmp_path / "again"), run="profiled")  # are counted
    assert "nothing was traced. There were 0 steps" in errors
    assert not list((tmp_path / "again").iterdir())
