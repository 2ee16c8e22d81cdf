"""What a result should not be read without: the same sentences for a terminal, for programs and in the report."""

import contextlib
import io
import json
import shutil
from itertools import chain

import made_runs
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from jaxdissect.cli import main
from jaxdissect.cli.answer import Answer
from jaxdissect.commands.outcome import Outcome
from jaxdissect.options.base import OutputOptions
from jaxdissect.report.cautions import cautions_of
from jaxdissect.report.run_contents import read_contents
from jaxdissect.runtime.files import json_fingerprint
from jaxdissect.runtime.run_directory import Run, record_attributes
from jaxdissect.runtime.tables import read_netcdf, write_csv, write_netcdf
from jaxdissect.significance.cautions import (
    INDEPENDENT,
    Basis,
    counting_cautions,
    independence_cautions,
    read_basis,
    recording_cautions,
    selection_cautions,
)
from jaxdissect.stages.activations import _renew
from jaxdissect.tasks.table import label_set, make_task

TRAIN = {"options": {"split": "train", "tokens": "all"}, "splits": {"train": 8, "test": 2}, "unit_seconds": 2.0}
AAPE = {"preset": "aape", "selector": "aape", "keep": 0.01, "bar": 0.95, "skipped_classes": ""}


def clips_of(samples, status="short"):
    return pd.DataFrame({"status": status, "samples": np.asarray(samples, float)})


def test_counting_cautions_of_an_ordinary_count():
    assert counting_cautions({**TRAIN, "sample_rate": 100}, clips_of([200, 120])) == []
    assert counting_cautions({}, None) == []  # an old or a damaged record


@pytest.mark.parametrize(
    ("samples", "filled"),
    [([100, 98], "50%"), ([200, 0], None), ([101, 100], None), ([10, 20, 30], "10%")],
)
def test_counting_cautions_of_padding_are_of_the_mean_share(samples, filled):
    told = counting_cautions({**TRAIN, "sample_rate": 100}, clips_of(samples))
    assert len(told) == (filled is not None)
    if filled:
        assert told[0].startswith("More than half of the counted time is padding: on average a recording fills ")
        assert f" fills {filled} of the unit length of 2 s. " in told[0]
        assert all(remedy in told[0] for remedy in ("--tokens sounding", "--unit-seconds"))


def test_counting_cautions_leave_out_what_was_not_counted():
    clips = pd.concat([clips_of([0, 0, 0], "unreadable"), clips_of([200], "ok")])
    assert counting_cautions({**TRAIN, "sample_rate": 100}, clips) == []
    sounding = {**TRAIN, "options": {"split": "train", "tokens": "sounding"}, "sample_rate": 100}
    assert counting_cautions(sounding, clips_of([10])) == []


def test_counting_cautions_of_an_older_record_take_the_unit_from_a_full_clip():
    assert counting_cautions(TRAIN, clips_of([10, 10])) == []  # nothing tells
    told = counting_cautions(TRAIN, pd.concat([clips_of([10] * 9), clips_of([200], "ok")]))
    assert "fills 14%" in told[0]  # (9 x 10 + 200) / 2,000


@pytest.mark.parametrize(
    ("split", "splits", "found"),
    [
        ("train", {"train": 5}, "The task has no test split, so no clip is left"),
        ("all", {"train": 5, "test": 1}, "The test split was counted too (--split all), so no clip is left"),
        ("test", {"train": 5, "test": 1}, "(--split test)"),
        ("valid", {"train": 5, "valid": 1, "test": 1}, None),
        ("all", None, "(--split all)"),
        ("train", None, None),
    ],
)
def test_counting_cautions_of_no_split_beside(split, splits, found):
    record = {"options": {"split": split}} | ({} if splits is None else {"splits": splits})
    told = counting_cautions(record, None)
    assert len(told) == (found is not None)
    assert found is None or found in told[0]


AUROC = {"preset": "auroc", "selector": "auroc", "least": 0.7, "level": 0.05}


def coverage_of(**columns):
    return pd.DataFrame({"label_set": ["a", "b"], "classes": 4, "covered": 2, "kept_neurons": 9, **columns})


@pytest.mark.parametrize(
    ("coverage", "rule", "found"),
    [
        ({}, {}, None),
        ({"covered": [0, 2]}, {}, "No class of a has a neuron: the neurons of lowest AAPE fire too seldom to"),
        ({"covered": 0}, {"selector": "d_prime"}, "No class of a, b has a neuron. Take --preset auroc"),
        (
            {"covered": [0, 2]},
            AUROC,
            "No class of a has a neuron: no neuron tells a class from the others with an AUROC of 0.7 and q <= 0.05",
        ),
        ({"covered": [0, 2], "kept_neurons": [0, 9]}, AUROC, "No class of a has a neuron: no neuron tells a class"),
        ({"probability_bar": [0.96, 0.9]}, {}, "a: a neuron must be active at more than 96.0% of a class's tokens"),
        ({"probability_bar": 0.99}, AUROC, None),
        (
            {"median_aape_normalised": [0.9, 0.9995], "median_ratio": 1.03},
            {},
            "b: the chosen neurons fire almost alike for all classes: their median AAPE is 0.9995 of the highest "
            "possible, and they fire 1.03 times as often for their class as for the others. Take --preset auroc.",
        ),
        (
            {"held_out_auroc": [0.567, 0.8], "held_out_by": "test split", "classes_judged": 2},
            {},
            "a: on clips that they were not chosen by, the neurons hardly tell their class from the others: their "
            "median AUROC is 0.57, and 0.5 is chance. Do not name them after their classes. Take --preset auroc.",
        ),
        ({"held_out_auroc": 0.6, "held_out_by": "halves", "classes_judged": 2}, {}, None),
        (
            {"held_out_by": "test split", "classes_judged": [1, 2]},
            {},
            "a: the neurons of 1 of 2 classes were not judged on held-out clips. It takes 4 clips of 2 recordings",
        ),
        ({"held_out_by": ["nothing", "halves"], "classes_judged": 2}, {}, "a: the neurons were judged on no clips"),
        ({"held_out_left_out": [0, 7]}, {}, "b: 7 held-out clips were left out, because clips of the same recordings"),
        ({"covered": [0, 2], "kept_neurons": [0, 9]}, {}, "No neuron was kept for a: --keep 0.01 rounds to no neuron"),
        ({}, {"skipped_classes": "a:dog"}, "Classes without a counted token were left out: a:dog."),
        ({"classes_untested": [3, 0]}, {}, "a: 3 of 4 classes were not tested. They have fewer than two recordings"),
        ({"fixed_clips": [0.5, 0.75]}, {}, "b: the labels of 75% of the clips could not be exchanged"),
    ],
)
def test_selection_cautions(coverage, rule, found):
    told = selection_cautions(coverage_of(**coverage), AAPE | rule)
    assert len(told) == (found is not None)
    assert found is None or told[0].startswith(found)


NAMES = [f"{source}-{cut}.wav" for source in range(20) for cut in range(9)]


def basis_of(names, sources, **record):
    clips = pd.DataFrame({"file_name": names, "status": "ok", "samples": 1.0})
    return Basis(record, clips, sources)


def test_recording_cautions_without_recordings():
    told = recording_cautions(basis_of(NAMES, NAMES, recordings={"from": ""}), classes=3)
    assert told[0] == INDEPENDENT
    assert "180 clips have 20 beginnings, and 9 of them begin with '0'" in told[1]
    assert recording_cautions(basis_of(NAMES, NAMES, recordings={"from": ""}), classes=20) == [INDEPENDENT]


def test_recording_cautions_where_the_table_tells():
    sources = [name.split("-")[0] for name in NAMES]
    assert recording_cautions(basis_of(NAMES, sources, recordings={"from": "src_file"})) == []
    assert recording_cautions(basis_of(NAMES, sources, recordings={"from": "file_name"})) == []
    told = recording_cautions(basis_of(NAMES, [*sources[:-2], *NAMES[-2:]], recordings={"from": "file_name"}))
    assert len(told) == 1
    assert told[0].startswith("2 of 180 file names do not follow the task's naming; the first is '19-7.wav'")


def test_recording_cautions_of_an_older_record_compare_names_and_sources():
    assert recording_cautions(basis_of(NAMES, NAMES))[0] == INDEPENDENT
    assert recording_cautions(basis_of(NAMES, ["x"] * len(NAMES))) == []
    assert recording_cautions(Basis({}, None, None)) == [INDEPENDENT]


def test_independence_cautions():
    assert (independence_cautions(""), independence_cautions("src_file")) == ([INDEPENDENT], [])


def noise_run(folder, recordings=None):
    """A run of 20 recordings of nine clips each, of four classes, whose neurons know recordings and no class."""
    rng, run = np.random.default_rng(3), Run(folder)
    folder.mkdir()
    recording = np.repeat(np.arange(20), 9)
    names = [f"{source}-{cut}.wav" for source in range(20) for cut in range(9)]
    label = rng.permutation(np.arange(20) % 4)[recording]
    rates = rng.beta(1, 3, (20, 2, 30))
    counts = rng.binomial(50, rates[recording]).astype(np.uint16)
    by_class = np.stack([counts[label == number].sum(axis=0, dtype=np.int64) for number in range(4)])
    sources = names if recordings is None else [f"r{source}" for source in recording]
    record = {
        "options": {"label": ["label"], "split": "train", "tokens": "all", "keep_clips": True},
        "fingerprints": made_runs.PRINTS,
        "task": "noise",
        "encoder": "made",
        "unit_seconds": 1.0,
        "keep": 0.1,
        "sample_rate": 100,
        "splits": {"train": 180, "test": 20},
        "recordings": {"from": recordings or "", "sha256": json_fingerprint(sources)},
        "inputs": {},
    }
    axes, attributes = ("class", "layer", "neuron"), record_attributes(record)
    classes = {"class": np.array(list("wxyz"), object), "label_set": ("class", np.array(["label"] * 4, object))}
    arrays = {
        "active_tokens": (axes, by_class),
        "sum": (axes, by_class.astype(float)),
        "sum_squares": (axes, by_class.astype(float)),
        "tokens": ("class", 50 * np.bincount(label)),
        "clips": ("class", np.bincount(label)),
        "total_active_tokens": (axes[1:], by_class.sum(axis=0)),
        "total_sum": (axes[1:], by_class.sum(axis=0).astype(float)),
        "total_sum_squares": (axes[1:], by_class.sum(axis=0).astype(float)),
        "total_tokens": ((), 50 * 180),
        "total_clips": ((), 180),
    }
    axis_values = {"layer": np.arange(2), "neuron": np.arange(30)}
    write_netcdf(xr.Dataset(arrays, classes | axis_values, attributes), run.file("activations.nc"))
    of_clips = {
        "tokens": ("clip", np.full(180, 50, np.int32)),
        "source": ("clip", np.array(sources, object)),
        "fold": ("clip", np.full(180, -1)),
        "label_clip": ("label", np.arange(180, dtype=np.int32)),
        "label_class": ("label", label.astype(np.int32)),
    }
    write_netcdf(xr.Dataset(of_clips, classes, attributes), run.file("clip_labels.nc"))
    np.save(run.file("clip_counts.npy"), counts)
    clips = pd.DataFrame(
        {
            "clip": range(180),
            "file_name": names,
            "split": "train",
            "fold": "",
            "status": "short",
            "reason": "",
            "samples": 40,
            "label": np.array(list("wxyz"))[label],
        }
    )
    write_csv(clips, run.file("clips.csv"))
    run.finish("activations", record)
    return folder


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """The stage `neurons` on noise, by what tells of recordings: folder, results of the label set, warnings, stderr."""
    found = {}
    options = ["--preset", "lape", "--bar", "0.5", "--permutations", "200", "--resamples", "4", "--splits", "2"]
    for recordings in (None, "src_file"):
        folder = noise_run(tmp_path_factory.mktemp("noise") / "run", recordings)
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            assert main(["neurons", "--run", str(folder), *options, "--json"]) == 0
        answer = json.loads(out.getvalue())
        row = answer["results"]["neurons"]["label_sets"][0]
        found[recordings] = folder, row, answer["warnings"], err.getvalue().splitlines()
    return found


def test_neurons_find_effects_in_noise_only_where_clips_are_taken_as_independent(chosen):
    """Recordings differ, classes do not: the warning is what a program has to go by."""
    _, row, warnings, _ = chosen[None]
    assert row["all_pairs_significant"] > 20  # of 240
    assert INDEPENDENT in warnings
    assert any("180 clips have 20 beginnings" in sentence for sentence in warnings)
    _, row, warnings, _ = chosen["src_file"]
    assert row["all_pairs_significant"] == 0
    assert not any("independent" in sentence or "beginnings" in sentence for sentence in warnings)


def test_warnings_of_neurons_are_told_once_on_stderr_too(chosen):
    for _, _, warnings, told in chosen.values():
        assert [line for line in told if line.startswith("jaxdissect: ")] == [
            f"jaxdissect: {text}" for text in warnings
        ]


def test_report_and_json_warn_of_the_same(chosen, tmp_path, capsys):
    folder, _, warnings, _ = chosen[None]
    assert any("40% of the unit length of 1 s" in sentence for sentence in warnings)
    assert set(warnings) <= set(chain.from_iterable(cautions_of(read_contents(folder)).values()))
    copied = shutil.copytree(folder, tmp_path / "run")
    assert main(["neurons", "--run", str(copied), "--preset", "lape", "--permutations", "0", "--json"]) == 0
    assert not any("independent" in text for text in json.loads(capsys.readouterr().out)["warnings"])


def test_share_by_permuted_labels_warns_where_clips_are_taken_as_independent(chosen, capsys):
    for recordings, (folder, *_) in chosen.items():
        assert main(["share", "--run", str(folder), "--json"]) == 0
        assert (INDEPENDENT in json.loads(capsys.readouterr().out)["warnings"]) == (recordings is None)


def test_read_basis_of_a_damaged_run_leaves_out_what_cannot_be_read(tmp_path):
    folder = noise_run(tmp_path / "run")
    (folder / "clips.csv").write_text("clip\n1\n")
    (folder / "clip_labels.nc").write_bytes(b"no netCDF")
    basis = read_basis(Run(folder))
    assert (basis.clips, basis.sources, basis.record["task"]) == (None, None, "noise")


def renewed(folder, sources):
    """What a repeated count makes of a run whose table groups clips by `sources`; returns the stages that are left."""
    run = Run(folder)
    record = run.stages()["activations"]
    for stage in ("neurons", "share", "ablate", "probe"):
        run.finish(stage, {"options": {}, "fingerprints": made_runs.PRINTS})
    names = pd.read_csv(folder / "clips.csv")["file_name"].tolist()
    labels = [label_set("label", [["w"]] * len(names))]
    splits, folds = ["train"] * len(names), [None] * len(names)
    task = make_task("noise", folder, 1.0, names, splits, folds, labels, recordings=sources)
    now = {**record, "recordings": {"from": task.recordings_from, "sha256": json_fingerprint(task.sources)}}
    _renew(run, now, read_netcdf(run.file("clip_labels.nc")), task)
    assert run.stages()["activations"] == now
    assert read_netcdf(run.file("clip_labels.nc"))["source"].values.tolist() == list(task.sources)
    return set(run.stages())


def test_renew_strikes_what_was_made_of_clips_grouped_otherwise(tmp_path):
    folder = noise_run(tmp_path / "run")
    by_nine = [str(clip // 9) for clip in range(180)]
    assert renewed(folder, by_nine) == {"activations", "probe"}
    assert renewed(folder, by_nine) == {"activations", "probe", "neurons", "share", "ablate"}
    assert renewed(folder, None) == {"activations", "probe"}


def test_answer_tells_a_warning_once(capsys):
    answer = Answer("dissect", None, OutputOptions())
    first = Outcome("activations", {}, "counted", warnings=("twice",))
    assert answer.print_outcomes([first, Outcome("neurons", {}, "chosen", warnings=("twice", "once"))]) == 0
    assert capsys.readouterr().out == "counted\ntwice\nchosen\nonce\n"
    assert json.loads(answer.to_json(0, None, []))["warnings"] == ["twice", "once"]
