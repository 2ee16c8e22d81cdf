"""The stage `ablate` on the command line: files by the letter, figures against each other, users' mistakes."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from made_runs import ABLATION_HEADER
from noises import TONE_SECONDS, TONES

from jaxdissect import AblationOptions, make_interventions, neuron_set
from jaxdissect.ablation import files
from jaxdissect.cli import main
from jaxdissect.errors import InputError
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.stages import ablate as stage
from jaxdissect.stages import ablation_jobs
from jaxdissect.stages.ablation_plan import neuron_means

FILES = {"ablation.csv", "ablation_controls.csv", "ablation_suite.csv", "ablation_sets.csv"}


def table(ablate, name="ablation.csv"):
    return pd.read_csv(
        ablate.path / name, keep_default_na=False, na_values=[""], dtype={"class": str, "intervention": str}
    )


def test_ablate_writes_files_to_the_letter(ablate):
    code, printed, errors = ablate("--controls", "5", "--map-sample", "3")
    assert code == 0, errors
    assert {path.name for path in ablate.path.iterdir()} >= FILES | {"causal_map.csv", "scores.nc"}
    result = table(ablate)
    assert ",".join(result.columns) == ABLATION_HEADER
    controls = table(ablate, "ablation_controls.csv")
    assert controls.columns.tolist() == ["intervention", "control", "class", "change", "margin_change"]
    neurons = pd.read_csv(ablate.path / "neurons.csv").groupby(["label_set", "class"]).size()
    sets = table(ablate, "ablation_sets.csv").groupby("intervention").size()
    for (label_set, name), size in neurons.items():
        intervention = f"{label_set}:{name}" if name == "c" else name  # a class of both label sets
        assert sets[intervention] == size
        rows = result[result["intervention"] == intervention]
        assert rows["neurons"].tolist() == [size] * 6
        assert rows["class"].tolist() == list("abccxy")
    assert set(result["mode"]) == {"gain"}
    assert set(result["gain"]) == {0}
    assert set(result["controls"]) == {5}
    assert set(controls["class"]) == {"a", "b", "label:c", "x", "y", "place:c"}
    assert len(controls) == len(result) * 5
    record = json.loads((ablate.path / "run.json").read_text())["stages"]["ablate"]
    assert {"options", "fingerprints", "versions", "device", "seconds", "status"} <= set(record)
    assert record["options"]["match"] == "activity"
    assert record["unusable_clips"] == {}
    assert "All interventions together" in printed
    assert "Causal map, label: rank correlation with 6 neurons silenced one by one on 12 clips" in printed


def test_ablate_tables_agree_with_each_other_and_with_the_probe(ablate):
    ablate("--controls", "7", "--no-causal-map")
    result, controls = table(ablate), table(ablate, "ablation_controls.csv")
    probe = pd.read_csv(ablate.path / "probe" / "class_scores.csv").groupby(["label_set", "class"])
    for key in ("accuracy", "margin"):
        change = "change" if key == "accuracy" else "margin_change"
        np.testing.assert_allclose(result[f"{key}_after"] - result[f"{key}_before"], result[change], atol=1e-9)
    np.testing.assert_allclose(result["change"] * result["clips"], result["change_clips"], atol=1e-9)
    for (label_set, name), rows in result.groupby(["label_set", "class"]):
        assert rows["accuracy_before"].to_numpy() == pytest.approx(probe["score"].mean()[label_set, name])
        assert set(rows["clips"]) == {probe["clips"].first()[label_set, name]}
    for _, row in result.iterrows():
        name = f"{row['label_set']}:{row['class']}" if row["class"] == "c" else row["class"]
        own = controls[(controls["intervention"] == row["intervention"]) & (controls["class"] == name)]["margin_change"]
        assert len(own) == 7
        assert row["control_mean"] == pytest.approx(own.mean())
        assert row["control_sd"] == pytest.approx(own.std())
        middle = (own.sum() + row["margin_change"]) / 8
        beyond = (np.abs(own - middle) >= abs(row["margin_change"] - middle) * (1 - 1e-9)).sum()
        assert row["p_value"] == pytest.approx((1 + beyond) / 8)
        assert row["ci_low"] <= row["margin_change"] <= row["ci_high"]
    suite = table(ablate, "ablation_suite.csv")
    assert suite["contrast"].tolist() == ["own classes", "other classes", "own - other"] * 2
    own = result[
        (result["label_set"] == "label") & (result["intervention"].str.replace("label:", "") == result["class"])
    ]
    assert suite["margin_change"][0] == pytest.approx(own["margin_change"].mean())
    assert suite["control_mean"][0] == pytest.approx(own["control_mean"].mean())


def test_ablate_effects_grow_with_the_distance_of_the_gain_from_one(ablate):
    code, _, _ = ablate("--neurons", "a", "--gain", "0", "0.5", "1", "3", "--controls", "3", "--no-causal-map")
    assert code == 0
    result = table(ablate)
    assert result["intervention"].drop_duplicates().tolist() == ["a x 0", "a x 0.5", "a x 1", "a x 3"]
    size = result.groupby("gain")["margin_change"].apply(lambda change: np.abs(change).mean())
    assert size[1] < 1e-5 < size[0.5] < size[0]
    controls = table(ablate, "ablation_controls.csv")
    assert np.abs(controls[controls["intervention"] == "a x 1"]["margin_change"]).max() < 1e-5


def test_ablate_mode_mean_uses_the_training_means(ablate, dissected):
    assert ablate("--neurons", "a", "--mode", "mean", "--controls", "0", "--no-causal-map")[0] == 0
    result = table(ablate)
    assert (set(result["mode"]), set(result["gain"])) == ({"mean"}, {0})
    assert result["p_value"].isna().all()
    assert result["control_mean"].isna().all()
    counts = read_netcdf(dissected / "run" / "activations.nc")
    means = counts["total_sum"].values / float(counts["total_tokens"])
    np.testing.assert_array_equal(neuron_means(Run(ablate.path), (2, 48)), means)


def test_ablate_suites_expressions_and_files(ablate, tmp_path):
    code, printed, errors = ablate(
        "--suite", "classes", "pairs", "--controls", "2", "--match", "layer", "--no-causal-map", "--evar",
        str(tmp_path / "evar"),
    )  # fmt: skip
    assert code == 0, errors
    neurons = pd.read_csv(ablate.path / "neurons.csv")
    sets = {
        key: set(zip(rows["layer"], rows["neuron"], strict=True))
        for key, rows in neurons.groupby(["label_set", "class"])
    }
    shared = sets["label", "a"] & sets["label", "b"]
    result = table(ablate, "ablation_sets.csv")
    if shared:
        rows = result[result["intervention"] == "a & b"]
        assert set(zip(rows["layer"], rows["neuron"], strict=True)) == shared
    else:
        assert "Left out, without a neuron" in printed
    written = yaml.safe_load((tmp_path / "evar" / "a.yaml").read_text())
    assert {tuple(pair) for pair in written["int_neurons"]} == sets["label", "a"]
    again = ablate("--neurons", f"@{tmp_path / 'evar' / 'a.yaml'}", "a", "--controls", "0", "--no-causal-map")
    assert again[0] == 0
    twice = table(ablate)
    halves = [rows["margin_change"].to_numpy() for _, rows in twice.groupby("intervention")]
    np.testing.assert_allclose(halves[0], halves[1], atol=1e-6)


def test_ablate_match_shift_has_one_control(ablate):
    code, _, errors = ablate("--neurons", "a", "--match", "shift", "--no-causal-map")
    assert code == 0, errors
    assert set(table(ablate)["controls"]) == {1}


def test_ablate_seed_changes_controls_only(ablate):
    ablate("--neurons", "a", "--controls", "4", "--no-causal-map")
    first = table(ablate)
    ablate("--neurons", "a", "--controls", "4", "--no-causal-map", "--batch-size", "3", "--at-once", "2")
    again = table(ablate)
    ablate("--neurons", "a", "--controls", "4", "--no-causal-map", "--seed", "1")
    other = table(ablate)
    for column in ("margin_change", "control_mean"):
        np.testing.assert_allclose(first[column], again[column], atol=2e-5)
    np.testing.assert_allclose(first["margin_change"], other["margin_change"], atol=2e-5)
    assert not np.allclose(first["control_mean"], other["control_mean"], atol=1e-4)


def test_ablate_causal_map_is_kept_beside_aape_after_a_new_selection(ablate):
    ablate("--neurons", "a", "--controls", "0", "--map-sample", "0")
    scores = read_netcdf(ablate.path / "scores.nc")
    assert scores["margin_effect"].dims == ("class", "layer", "neuron")
    assert scores["class"].values.tolist() == list("abccxy")
    assert scores["class_label_set"].values.tolist() == ["label"] * 3 + ["place"] * 3
    assert scores["aape"].dims == ("label_set", "layer", "neuron")
    assert np.isfinite(scores["margin_effect"]).all()
    assert not (ablate.path / "causal_map.csv").exists()
    assert ablate("--preset", "lape", "--keep", "0.1", command="neurons")[0] == 0
    after = read_netcdf(ablate.path / "scores.nc")
    np.testing.assert_array_equal(after["margin_effect"], scores["margin_effect"])
    assert after.attrs["keep"] == 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--neurons", "q"], "there is no class 'q'"),
        (["--neurons", "a - a"], "'a - a' is empty"),
        (["--neurons", "a", "a"], "'a' is given twice"),
        (["--neurons", "@cremad_ang_hap"], "the encoder has layers 0 to 1 of neurons 0 to 47"),
        (["--neurons", "@nothing"], "is neither a file"),
        (["--neurons", "@nothing.yaml"], "nothing.yaml cannot be read as YAML"),
        (["--neurons", "a", "--controls", "-1"], "--controls must be a whole number, at least 0"),
        (["--neurons", "a", "--gain", "nan"], "--gain must be a finite number"),
        (["--neurons", "a", "--gain", "inf"], "--gain must be a finite number"),
        (["--neurons", "a", "--gain", "0", "0"], "--gain needs numbers that differ"),
        (["--neurons", "a", "--gain", "0", "--mode", "mean"], "leave --gain out"),
        (["--neurons", "a", "--resamples", "0"], "--resamples must be a whole number, at least 1"),
        (["--neurons", "a", "--seed", "-1"], "--seed must be a whole number, at least 0"),
        (["--neurons", "a", "--batch-size", "0"], "--batch-size must be a whole number, at least 1"),
        (["--neurons", "a", "--at-once", "0"], "--at-once must be a whole number, at least 1"),
        (["--neurons", "a", "--map-sample", "1"], "--map-sample must be 0 or at least 2"),
        (["--neurons", "a", "--max-bad-clips", "2"], "--max-bad-clips must be a fraction"),
        (["--neurons", "a", "--evar", "x", "--mode", "mean"], "leave --evar or --mode mean out"),
        (["--data", "nowhere"], "data nowhere must be a folder"),
    ],
)
def test_ablate_refuses_mistakes_before_anything_runs(ablate, monkeypatch, given, message):
    def never(*_given, **_more):
        raise AssertionError("something long began")

    monkeypatch.setattr(stage, "causal_map", never)
    for name in ("judge_suite", "measure_activity"):
        monkeypatch.setattr(ablation_jobs, name, never)
    code, _, error = ablate(*given)
    assert code == 2
    assert message in error
    assert "Traceback" not in error
    assert not (ablate.path / "ablation.csv").exists()


def test_ablate_refuses_a_control_pool_too_small_before_the_suite_runs(ablate, monkeypatch, tmp_path):
    monkeypatch.setattr(ablation_jobs, "measure_activity", lambda *_given, **_more: pytest.fail("began"))
    (tmp_path / "most.csv").write_text("layer,neuron\n" + "".join(f"0,{neuron}\n" for neuron in range(40)))
    code, _, error = ablate("--neurons", f"@{tmp_path / 'most.csv'}", "--controls", "5")
    assert code == 2
    assert "is too small" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: shutil.rmtree(run / "probe"), "probe.json cannot be read"),
        (lambda run: edit_json(run / "run.json", lambda r: r["stages"].pop("probe")), "'probe' has not been run here"),
        (lambda run: edit_json(run / "run.json", lambda r: r["stages"].pop("neurons")), "'neurons' has not been run"),
        (
            lambda run: edit_json(run / "run.json", lambda r: r["stages"]["probe"]["fingerprints"].update(encoder="x")),
            "holds a probe of another encoder",
        ),
        (
            lambda run: edit_json(run / "run.json", lambda r: r["stages"]["probe"]["fingerprints"].update(task="x")),
            "holds a probe of another task",
        ),
        (lambda run: (run / "neurons.csv").write_text("a,b\n1,2\n"), "neurons.csv cannot be read"),
        (lambda run: (run / "neurons.csv").unlink(), "neurons.csv cannot be read"),
        (lambda run: (run / "probe" / "probe.json").write_text("{}"), "probe.json cannot be read"),
        (
            lambda run: edit_json(run / "probe" / "probe.json", lambda p: p["label_sets"]["label"].pop("classes")),
            "probe.json lacks or misnames an entry",
        ),
        (
            lambda run: edit_json(run / "probe" / "probe.json", lambda p: p["label_sets"]["label"]["probes"].pop()),
            "does not hold the arrays that probe.json describes",
        ),
        (
            lambda run: edit_json(
                run / "probe" / "probe.json",
                lambda p: [q.update(test_fold=3) for q in p["label_sets"]["label"]["probes"]],
            ),
            "no probe of the label set 'label' was trained without the test clips",
        ),
    ],
)
def test_ablate_refuses_run_directories_that_do_not_fit(ablate, change, message):
    change(ablate.path)
    code, _, error = ablate("--controls", "2")
    assert code == 2
    assert message in error
    assert "Traceback" not in error


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_ablate_refuses_a_class_without_test_clips(dissected, tmp_path, capsys):
    """Class `only` has training clips alone."""
    lines = (dissected / "data" / "t.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join([lines[0], lines[1].replace(",a,", ",only,"), *lines[2:]]) + "\n")
    options = [
        "--encoder",
        str(dissected / "encoder"),
        "--task",
        str(tmp_path / "t.csv"),
        "--unit-seconds",
        str(TONE_SECONDS),
    ]
    options += ["--data", str(dissected / "data"), "--run", str(tmp_path / "run"), "--batch-size", "2"]
    assert main(["dissect", *options, "--preset", "lape", "--keep", "0.3"]) == 0
    assert main(["probe", "--run", str(tmp_path / "run"), "--epochs", "2", "--seeds", "1"]) == 0
    capsys.readouterr()
    assert main(["ablate", "--run", str(tmp_path / "run"), "--controls", "2"]) == 2
    assert (
        "1 of the 4 classes of the label set 'label' have no clip in the test split, 'only' first"
        in capsys.readouterr().err
    )


def test_ablate_leaves_out_unreadable_test_clips_and_fails_at_its_end(ablate, dissected, tmp_path):
    shutil.copytree(dissected / "data", tmp_path / "data")
    (tmp_path / "data" / "3.wav").write_bytes(b"no audio")
    code, printed, error = ablate(
        "--data", str(tmp_path / "data"), "--neurons", "a", "--controls", "2", "--no-causal-map"
    )
    assert code == 1
    assert "Left out: 3.wav: cannot be decoded" in printed
    assert "--max-bad-clips" in error
    assert table(ablate)["clips"].sum() == 22
    for clip in range(3, TONES, 4):
        (tmp_path / "data" / f"{clip}.wav").unlink()
    code, _, error = ablate("--data", str(tmp_path / "data"), "--neurons", "a", "--controls", "2")
    assert code == 2
    assert "none of the 12 test clips can be used" in error


def test_ablate_warns_of_neurons_chosen_on_the_test_clips(ablate):
    edit_json(ablate.path / "run.json", lambda run: run["stages"]["activations"]["options"].update(split="all"))
    _, printed, _ = ablate("--neurons", "a", "--controls", "2", "--no-causal-map")
    assert "Caution: the neurons were chosen on clips that they are judged on" in printed


def test_ablate_matches_by_layer_for_an_encoder_without_outgoing_weights(jaxdissect):
    """The foreign encoder of the tests, through all stages."""
    assert jaxdissect("dissect", "--preset", "lape", "--keep", "0.2", "--bar", "0.5")[0] == 0
    assert jaxdissect("probe", inputs=False)[0] == 0
    code, _, error = jaxdissect("ablate", "--controls", "3", inputs=False)
    assert code == 2
    assert "it is no LayeredEncoder): use --match layer" in error
    code, printed, error = jaxdissect(
        "ablate", "--controls", "3", "--match", "layer", "--map-sample", "2", inputs=False
    )
    assert code == 0, error
    assert "All interventions together" in printed


def test_dissect_continues_with_ablate(dissected, tmp_path, capsys):
    options = [
        "--encoder",
        str(dissected / "encoder"),
        "--task",
        str(dissected / "data" / "t.csv"),
        "--batch-size",
        "2",
    ]
    options += ["--unit-seconds", str(TONE_SECONDS), "--preset", "lape", "--keep", "0.3", "--bar", "0.5"]
    assert main(["dissect", *options, "--run", str(tmp_path / "run"), "--ablate", "--controls", "2"]) == 0
    assert "All interventions together" in capsys.readouterr().out
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert list(stages) == ["activations", "neurons", "probe", "ablate"]


def test_ablate_saves_tables_before_the_causal_map_begins(ablate, monkeypatch):
    def interrupted(*_given, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "causal_map", interrupted)
    assert ablate("--neurons", "a", "--controls", "2")[0] == 130
    assert len(table(ablate)) == 6
    assert "ablate" in json.loads((ablate.path / "run.json").read_text())["stages"]


def test_ablate_removes_a_causal_map_of_other_probes(ablate):
    assert ablate("--neurons", "a", "--controls", "0", "--map-sample", "2")[0] == 0
    assert ablate("--neurons", "b", "--controls", "0", "--no-causal-map")[0] == 0
    assert "margin_effect" in read_netcdf(ablate.path / "scores.nc")
    assert (ablate.path / "causal_map.csv").exists()
    assert ablate("--epochs", "3", "--seeds", "1", "--batch-size", "2", command="probe")[0] == 0
    assert ablate("--neurons", "b", "--controls", "0", "--no-causal-map")[0] == 0
    scores = read_netcdf(ablate.path / "scores.nc")
    assert "margin_effect" not in scores
    assert "aape" in scores
    assert not (ablate.path / "causal_map.csv").exists()


def test_ablate_refuses_damaged_scores_before_anything_runs(ablate, monkeypatch):
    monkeypatch.setattr(ablation_jobs, "measure_activity", lambda *_given, **_more: pytest.fail("began"))
    (ablate.path / "scores.nc").write_bytes(b"no netCDF")
    code, _, error = ablate("--neurons", "a")
    assert code == 2
    assert "scores.nc cannot be read" in error


def test_ablate_takes_files_and_classes_in_one_expression(ablate, tmp_path):
    neurons = pd.read_csv(ablate.path / "neurons.csv", dtype={"class": str})
    own = neurons[(neurons["label_set"] == "label") & (neurons["class"] == "a")]
    (tmp_path / "a.csv").write_text("layer,neuron\n0,47\n" + f"{own['layer'].iloc[0]},{own['neuron'].iloc[0]}\n")
    assert ablate("--neurons", f"@{tmp_path / 'a.csv'} - a", "--controls", "0", "--no-causal-map")[0] == 0
    left = table(ablate, "ablation_sets.csv")[["layer", "neuron"]].to_numpy().tolist()
    assert left == [[0, 47]]


def test_write_sets_numbers_names_that_look_alike_in_files(tmp_path):
    sets = [neuron_set(name, [(0, number)]) for number, name in enumerate(("a/b", "a|b", "A_b"))]
    chosen = make_interventions(sets, (2, 48), AblationOptions(controls=0, match="layer"))
    files.write_sets(tmp_path, chosen)
    result = {path.name: yaml.safe_load(path.read_text())["int_neurons"] for path in tmp_path.iterdir()}
    assert result == {"a_b.yaml": [[0, 0]], "a_b-2.yaml": [[0, 1]], "A_b-3.yaml": [[0, 2]]}


def test_ablate_loses_nothing_on_a_full_disk(ablate, monkeypatch):
    written = files.write_csv

    def full(table, path):
        if path.parent == ablate.path:
            raise InputError(f"{path} cannot be written (No space left on device): make room.")
        written(table, path)

    monkeypatch.setattr(files, "write_csv", full)
    code, _, error = ablate("--neurons", "a", "--controls", "2")
    assert code == 2
    assert "Nothing is lost: what was ablated is kept in" in error


def test_ablate_without_controls_measures_no_activity(ablate, monkeypatch):
    def fail(*given, **more):
        raise AssertionError

    monkeypatch.setattr(ablation_jobs, "measure_activity", fail)
    assert ablate("--neurons", "a", "--controls", "0", "--no-causal-map")[0] == 0
