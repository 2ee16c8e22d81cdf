"""Files of a run: each is missing, damaged, of another run, or read; the report names it with reason and remedy."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from made_runs import make_run

from jaxdissect import InputError
from jaxdissect.report.payload import axes_of
from jaxdissect.report.run_contents import FILES, OPTIONAL, leave_out_misfits, read_contents
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.tables import read_netcdf, write_netcdf

MADE = sorted(set(FILES) - {"clip_labels.nc"})  # files of a run that is made by hand
FINGERPRINTED = ("activations.nc", "top_clips.nc", "scores.nc", "permutations.nc")


def missing(folder):
    """Reason and remedy of what is left out, by its name."""
    return {entry.what: (entry.why, entry.command) for entry in read_contents(folder).missing}


def change_stages(folder, change):
    """Change the stages of `run.json`."""
    record = json.loads((folder / "run.json").read_text())
    change(record["stages"])
    (folder / "run.json").write_text(json.dumps(record))


def test_read_contents_of_a_whole_run_lacks_nothing(run):
    contents = read_contents(run)
    assert contents.missing == ()
    assert {*contents.data, *contents.tables} == set(MADE)
    assert contents.tables["clips.csv"]["samples"].dtype == float
    assert contents.tables["clips.csv"]["reason"][0] == "empty <b>file</b>"


def test_read_contents_keeps_names_as_text(tmp_path):
    contents = read_contents(make_run(tmp_path / "run", ("01", "NaN", "1e3", "dog")))
    for name in ("neurons.csv", "ablation.csv", "probe/class_scores.csv"):
        assert set(contents.tables[name]["class"]) <= {"01", "NaN", "1e3", "dog"}, name
    assert contents.tables["ablation.csv"]["gain"].dtype == float
    assert contents.tables["clips.csv"]["event"].tolist()[:4] == ["01", "01", "NaN", "NaN"]


@pytest.mark.parametrize("name", ["run.json", *MADE])
def test_read_contents_lists_a_missing_file(run, name):
    (run / name).unlink()
    if name in OPTIONAL:
        assert missing(run) == {}
        return
    ((what, (why, remedy)),) = missing(run).items()
    assert (what, why) == (name, "it is not there")
    assert remedy.startswith("jaxdissect ")


@pytest.mark.parametrize("harm", ["garbage", "empty", "folder"])
@pytest.mark.parametrize("name", ["run.json", *MADE])
def test_read_contents_lists_a_damaged_file(run, name, harm):
    path = run / name
    path.unlink()
    if harm == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\x00\xffgarbage,<b>\n1" if harm == "garbage" else b"")
    ((what, (why, remedy)),) = missing(run).items()
    assert what == name
    assert why.startswith("it cannot be used: ")
    assert remedy.startswith("jaxdissect ")
    assert str(run) not in why


@pytest.mark.parametrize("name", FINGERPRINTED)
def test_read_contents_leaves_out_a_file_of_another_run(run, name):
    dataset = read_netcdf(run / name)
    write_netcdf(dataset.assign_attrs(encoder_sha256="1" * 64), run / name)
    ((what, (why, remedy)),) = missing(run).items()
    assert (what, remedy) == (name, f"jaxdissect {FILES[name]} --run run")
    assert "it belongs to another run: encoder_sha256 differ from run.json" in why


def test_read_contents_leaves_out_a_stage_of_another_encoder_or_task(run):
    def change(stages):
        stages["share"]["fingerprints"]["encoder"] = "1" * 64
        stages["ablate"]["fingerprints"]["task"] = "1" * 64

    change_stages(run, change)
    listed = missing(run)
    assert set(listed) == {"share", "ablate"}
    assert listed["share"][0] == "it belongs to another encoder than the stage 'activations'"
    assert listed["ablate"][0] == "it belongs to another task than the stage 'activations'"
    contents = read_contents(run)
    assert "sharing.nc" not in contents.data
    assert "ablation.csv" not in contents.tables


def test_read_contents_leaves_out_a_stage_that_did_not_finish(run):
    change_stages(run, lambda stages: stages.pop("neurons"))
    assert missing(run) == {
        "class-specific neurons": (
            "the stage 'neurons' has not been run, or has not finished",
            "jaxdissect neurons --run run",
        )
    }
    assert read_contents(run).neurons is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_read_contents_does_not_wait_for_a_pipe(run):
    (run / "coverage.csv").unlink()
    os.mkfifo(run / "coverage.csv")
    assert "regular file" in missing(run)["coverage.csv"][0]


def test_read_contents_refuses_a_folder_without_a_run(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"--run .* holds none of the files of a run"):
            read_contents(folder)


def test_leave_out_misfits_finds_every_file_at_fault(run):
    contents = read_contents(run)
    harmful = ("scores.nc", "coverage.csv", "ablation.csv")

    def make(some):
        if any(name in harmful for name in (*some.data, *some.tables)):
            raise KeyError("column")
        return sorted((*some.data, *some.tables))

    fitting, made = leave_out_misfits(contents, make)
    assert made == sorted(set(MADE) - set(harmful))
    assert fitting.stages == contents.stages
    assert [entry.what for entry in fitting.missing] == list(harmful)
    assert {entry.why for entry in fitting.missing} == {"it cannot be used: it lacks 'column'"}


def test_leave_out_misfits_does_not_hide_a_fault_of_its_own(run):
    def make(some):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave_out_misfits(read_contents(run), make)


def test_axes_of_refuses_other_neurons_than_were_counted(run, tmp_path):
    wider = make_run(tmp_path / "wider", ("cat", "dog", "rain", "wind"), width=48)
    shutil.copy(wider / "scores.nc", run / "scores.nc")
    with pytest.raises(ValueError, match="neuron"):
        axes_of(read_contents(run))


def test_axes_of_without_counts_has_the_classes_of_the_tables(run):
    (run / "activations.nc").unlink()
    axes = axes_of(read_contents(run))
    table = pd.read_csv(run / "neurons.csv")
    assert set(axes.names_in("event")) == {"cat", "dog", "rain", "wind"}
    np.testing.assert_array_equal(axes.neurons, np.unique(table[["layer", "neuron"]].to_numpy(), axis=0))
    assert (axes.layers, axes.width) == (table["layer"].max() + 1, table["neuron"].max() + 1)
    assert Run(run).stages()["activations"]["status"] == "done"
