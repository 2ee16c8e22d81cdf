"""The stages `neurons` and `share` with every clip's counts: what the tables say of chance, and what stops them."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from made_runs import make_run

from jaxdissect import InputError, ViTConfig, load_task, save_encoder, untrained_m2d
from jaxdissect.cli import main
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.runtime.resume import StateFile
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.tables import read_netcdf, write_netcdf
from jaxdissect.significance import assess as certainty
from jaxdissect.significance import permutation
from jaxdissect.significance.assess import CertaintyOptions
from jaxdissect.significance.clips import read_clips
from jaxdissect.significance.p_values import benjamini_hochberg
from jaxdissect.significance.tables import pairs_needed
from jaxdissect.significance.units import find_units
from jaxdissect.stages.activations import run_activations
from jaxdissect.stages.neurons import given_draws, run_neurons
from jaxdissect.stages.share import run_share

FEW = {"permutations": 40, "resamples": 6, "splits": 4}
CLIPS, SECONDS = 36, 0.2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tones of three pitches in two loudnesses, three clips a recording, and two encoders of one shape."""
    path = tmp_path_factory.mktemp("certainty")
    rows, rng = ["file_name,label,loud,src_file,split"], np.random.default_rng(0)
    (path / "data").mkdir()
    for clip in range(CLIPS):
        kind = clip // 3 % 3
        tone = np.sin(np.arange(3200) * (0.2 + 0.3 * kind)) * (0.05 + 0.3 * (clip % 2)) + rng.normal(0, 0.02, 3200)
        soundfile.write(path / "data" / f"{clip}.wav", tone, 16000)
        rows.append(f"{clip}.wav,{'abc'[kind]},{'ny'[clip % 2]},r{clip // 3},train")
    (path / "data" / "task.csv").write_text("\n".join(rows) + "\n")
    for seed, name in enumerate(("one", "other")):
        config = ViTConfig(frames=16, width=64, depth=2, heads=1, mlp=64)
        save_encoder(untrained_m2d(config, seed=seed), path / name)
    wide = ViTConfig(frames=16, width=64, depth=2, heads=1, mlp=96)
    save_encoder(untrained_m2d(wide), path / "wide")
    return path


def count(folder, run, encoder="one", label="label,loud", tokens="sounding", **more):
    return run_activations(
        ActivationsOptions(
            encoder=str(folder / encoder),
            task=str(folder / "data" / "task.csv"),
            run=run,
            label=label,
            unit_seconds=SECONDS,
            batch_size=8,
            tokens=tokens,
            **more,
        )
    )


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("done") / "run"
    count(folder, run, keep_clips=True)
    return run, run_neurons(NeuronsOptions(run=run, preset="lape", keep=0.1, **FEW))


def test_run_neurons_adds_columns_of_certainty(done):
    run, neurons = done
    table = pd.read_csv(run / "neurons.csv")
    assert {"p_value", "q_value", "stability", "reading", "held_out_auroc"} <= set(table.columns)
    assert len(table)
    scores, counts = read_netcdf(run / "scores.nc"), read_netcdf(run / "activations.nc")
    classes = list(zip(counts["label_set"].values, counts["class"].values, strict=True))
    assert list(zip(scores["class_label_set"].values, scores["class"].values, strict=True)) == classes
    for _, row in table.iterrows():
        place = classes.index((row["label_set"], row["class"])), row["layer"], row["neuron"]
        for name in ("p_value", "q_value", "stability"):
            assert row[name] == pytest.approx(scores[name].values[place])
        assert row["probability"] == pytest.approx(scores["probability"].values[place], rel=1e-6)
    for name in ("label", "loud"):
        own = [index for index, (label_set, _) in enumerate(classes) if label_set == name]
        p, q = (scores[kind].values[own] for kind in ("p_value", "q_value"))
        np.testing.assert_array_equal(q, benjamini_hochberg(p.ravel()).reshape(p.shape))
        assert 1 / (1 + FEW["permutations"] * 128) <= np.nanmin(p) < 1 / (1 + FEW["permutations"])
        assert np.nanmax(p) <= 1
    coverage = pd.read_csv(run / "coverage.csv").set_index("label_set")
    for name, row in coverage.iterrows():
        own = table[table["label_set"] == name]
        assert row["pairs"] == len(own)
        assert row["pairs_significant"] == (own["q_value"] <= 0.05).sum()
        assert row["coverage_low"] <= row["coverage_high"]
        assert 0 <= row["false_discovery_rate"] <= 1
    assert coverage.loc["label", "units"] == 12  # three clips of one pitch are one recording
    assert coverage.loc["loud", "units"] == CLIPS  # whose loudness differs
    assert neurons.scores.attrs["permutations"] == FEW["permutations"]
    layers = pd.read_csv(run / "layers.csv").set_index(["label_set", "layer"])
    assert len(layers) == 2 * 2
    for (name, layer), row in layers.iterrows():
        own = table[(table["label_set"] == name) & (table["layer"] == layer)]
        assert row["pairs"] == len(own)
        assert row["neurons"] == own["neuron"].nunique()
        assert row["pairs_significant"] == (own["q_value"] <= 0.05).sum()
        assert row["kept"] == scores["kept"].sel(label_set=name, layer=layer).sum()
    assert layers["pairs"].min() < layers["pairs"].max()
    agreement = pd.read_csv(run / "agreement.csv")
    assert len(agreement) == 2 * 10
    assert agreement["rank_correlation"].between(-1, 1).all()


def test_read_clips_groups_them_as_the_table_says(done, folder):
    run, _ = done
    counts = read_netcdf(run / "activations.nc")
    clips = read_clips(Run(run), counts)
    task = load_task(str(folder / "data" / "task.csv"), label=["label", "loud"], unit_seconds=SECONDS)
    np.testing.assert_array_equal(clips.members, task.members(range(CLIPS)))
    assert clips.sources == [f"r{clip // 3}" for clip in range(CLIPS)]
    np.testing.assert_array_equal(clips.members.T.astype(int) @ clips.tokens, counts["tokens"])
    summed = np.einsum("ck,cln->kln", clips.members.astype(np.int64), np.asarray(clips.counts, np.int64))
    np.testing.assert_array_equal(summed, counts["active_tokens"])
    assert len(find_units(clips.members[:, :3], clips.sources, clips.folds).stratum) == 12


def test_run_neurons_repeats_with_the_same_seed_only(done, tmp_path):
    run, _ = done
    shutil.copytree(run, tmp_path / "copy")
    before = {name: (run / name).read_bytes() for name in ("neurons.csv", "coverage.csv")}
    run_neurons(NeuronsOptions(run=tmp_path / "copy", preset="lape", keep=0.1, **FEW))
    assert {name: (tmp_path / "copy" / name).read_bytes() for name in before} == before
    run_neurons(NeuronsOptions(run=tmp_path / "copy", preset="lape", keep=0.1, seed=1, **FEW))
    assert (tmp_path / "copy" / "neurons.csv").read_bytes() != before["neurons.csv"]


@pytest.mark.parametrize("selector", ["probability", "class_selectivity", "d_prime"])
def test_run_neurons_by_other_selectors_gives_every_class_its_best(done, tmp_path, selector):
    shutil.copytree(done[0], tmp_path / "run")
    neurons = run_neurons(NeuronsOptions(run=tmp_path / "run", selector=selector, keep=0.05, **FEW))
    table = pd.read_csv(tmp_path / "run" / "neurons.csv")
    assert set(table["selector"]) == {selector}
    assert (table.groupby(["label_set", "class"]).size() == round(0.05 * 128)).all()
    scores = read_netcdf(tmp_path / "run" / "scores.nc")
    for index, (label_set, label) in enumerate(
        zip(scores["class_label_set"].values, scores["class"].values, strict=True)
    ):
        own = table[(table["label_set"] == label_set) & (table["class"] == label)]
        best = np.sort(scores[selector].values[index].ravel())[-len(own) :]
        np.testing.assert_allclose(np.sort(own["score"]), best, rtol=1e-6)
    assert neurons.coverage["pairs_by_chance"].isna().all()
    assert table["stability"].isna().all()
    assert table["p_value"].notna().all()


def test_run_neurons_without_clip_counts_has_no_p_values(folder, tmp_path):
    count(folder, tmp_path / "run", keep_clips=False)
    for nothing in ({}, {"permutations": 0, "resamples": 0, "splits": 0}):
        run_neurons(NeuronsOptions(run=tmp_path / "run", preset="lape", keep=0.1, **nothing))
        assert "p_value" not in pd.read_csv(tmp_path / "run" / "neurons.csv")
    with pytest.raises(InputError, match="--preset auroc needs what every neuron did on every clip"):
        run_neurons(NeuronsOptions(run=tmp_path / "run"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"permutations": 1000}, "--permutations 1000 needs every clip's counts"),
        ({"resamples": 200}, "--resamples 200 needs"),
        ({"splits": 1}, "--splits 1 needs"),
        ({"seed": 0}, "--seed 0 needs"),
        ({"save_minutes": 10.0}, r"--save-minutes 10\.0 needs .* count again with --keep-clips into another --run"),
    ],
)
def test_neurons_options_of_draws_are_refused_without_the_clips_counts(tmp_path, given, told):
    run = make_run(tmp_path / "run", ["a", "b"], ablated=False, shared=False)
    options = NeuronsOptions(run=run, preset="lape", **given)
    before = (run / "run.json").read_bytes()
    with pytest.raises(InputError, match=told):
        run_neurons(options)
    assert (run / "run.json").read_bytes() == before


def test_neurons_options_left_out_are_the_defaults_of_the_draws():
    def certainty(**given):
        return CertaintyOptions(**given_draws(NeuronsOptions(run=Path("r"), **given)))

    assert certainty() == CertaintyOptions()
    assert certainty(splits=7, seed=0) == CertaintyOptions(splits=7)


def damage(run, how):
    path = run / "clip_counts.npy"
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "other clips":
        np.save(path, np.load(path)[:-1])
    elif how == "another run":
        np.save(path, np.load(path) + np.uint16(1))
    elif how == "no array":
        path.write_text("nothing")
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut off", "other clips", "another run", "no array", "missing"])
def test_read_clips_refuses_a_store_of_another_run(done, tmp_path, how, capsys):
    shutil.copytree(done[0], tmp_path / "run")
    damage(tmp_path / "run", how)
    assert main(["neurons", "--run", str(tmp_path / "run")]) == 2
    assert "count again with --keep-clips" in capsys.readouterr().err
    without = ["neurons", "--run", str(tmp_path / "run"), "--preset", "lape", "--permutations", "0"]
    assert main(without) == (0 if how == "missing" else 2)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop", [KeyboardInterrupt, StoppedError])
def test_assess_resumes_permutations_that_were_stopped(done, tmp_path, monkeypatch, stop):
    """Ctrl-C and a kill between two batches of the second label set; the tables are those of the run in one go."""
    shutil.copytree(done[0], tmp_path / "run")
    options = NeuronsOptions(run=tmp_path / "run", preset="lape", keep=0.1, save_minutes=1e-9, **FEW)
    step, done_batches = permutation._step, []
    monkeypatch.setattr(permutation, "AT_ONCE", 7 * 128 * 3)  # 7 permutations of three classes, 10 of two

    def counting_step(members, *rest):
        if len(done_batches) == 9 and stop:
            raise stop
        done_batches.append(len(members))
        return step(members, *rest)

    monkeypatch.setattr(permutation, "_step", counting_step)
    with pytest.raises(stop):
        run_neurons(options)
    assert done_batches == [7] * 5 + [5] + [10] * 3
    states = sorted((tmp_path / "run" / "state" / "neurons").iterdir())
    assert len(states) == 2
    other = dataclasses.replace(options, seed=5)
    with pytest.raises(stop):
        run_neurons(other)
    done_batches.clear()
    stop = None
    run_neurons(options)
    assert done_batches == [10], "of the second label set, 30 of 40 were done"
    assert not (tmp_path / "run" / "state").exists()
    for name in ("neurons.csv", "coverage.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (done[0] / name).read_bytes()
    scores, expected = (read_netcdf(path / "scores.nc") for path in (tmp_path / "run", done[0]))
    for name in ("p_value", "p_highest", "q_value", "stability", "aape_low"):
        np.testing.assert_array_equal(scores[name], expected[name])


def test_assess_refuses_a_damaged_state_of_permutations(done, tmp_path, monkeypatch):
    shutil.copytree(done[0], tmp_path / "run")
    options = NeuronsOptions(run=tmp_path / "run", preset="lape", keep=0.1, **FEW)
    stop_after_permutations(options, monkeypatch)
    (state,) = (tmp_path / "run" / "state" / "neurons").iterdir()
    state.write_bytes(state.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"cannot be read as the state of a permutation test .*remove it to start"):
        run_neurons(options)


def test_run_neurons_says_when_permutations_are_too_few_for_a_pair(done, tmp_path, capsys):
    shutil.copytree(done[0], tmp_path / "run")
    few = ["--resamples", "0", "--splits", "0", "--preset", "lape"]
    for permutations, told in ((1, True), (200, False)):
        assert main(["neurons", "--run", str(tmp_path / "run"), "--permutations", str(permutations), *few]) == 0
        assert ("draw more (--permutations)" in capsys.readouterr().out) == told
    coverage = pd.read_csv(tmp_path / "run" / "coverage.csv").set_index("label_set")
    tested = read_netcdf(tmp_path / "run" / "scores.nc")["p_value"].values
    assert np.isfinite(tested[:3]).sum() / (1 + 200 * 128) / 0.05 <= coverage.loc["label", "pairs_needed"]
    assert coverage.loc["label", "pairs_needed"] <= 8 * 3 / (200 * 0.05) + 1


def test_run_share_within_a_run_and_with_others(done, folder, tmp_path, capsys):
    shutil.copytree(done[0], tmp_path / "run")
    count(folder, tmp_path / "other", "other", label="label")
    run_neurons(NeuronsOptions(run=tmp_path / "other", preset="lape", keep=0.1))
    count(folder, tmp_path / "wide", "wide", label="label")
    run_neurons(NeuronsOptions(run=tmp_path / "wide", preset="lape", keep=0.1))
    assert main(["share", "--run", str(tmp_path / "run"), "--with", str(tmp_path / "other")]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'other'} belongs to another encoder" in printed
    table = pd.read_csv(tmp_path / "run" / "sharing.csv")
    assert table.columns[:13].tolist() == (
        [
            "run_a",
            "label_set_a",
            "class_a",
            "run_b",
            "label_set_b",
            "class_b",
            "size_a",
            "size_b",
            "shared",
            "jaccard",
            "expected_shared",
            "p_value",
            "q_value",
        ]
    )
    assert len(table) == 3 + 1 + 6 + 3 * 3 + 2 * 3  # within both label sets, between them, and with the other run
    neurons = {
        name: pd.read_csv(tmp_path / name / "neurons.csv", dtype=str).groupby(["label_set", "class"])
        for name in ("run", "other")
    }

    def found(run, label_set, label):
        groups = neurons[run.rpartition("/")[2]]
        if (label_set, label) not in groups.groups:
            return set()
        return set(map(tuple, groups.get_group((label_set, label))[["layer", "neuron"]].values.tolist()))

    for _, row in table.iterrows():
        a, b = (found(row[f"run_{side}"], row[f"label_set_{side}"], row[f"class_{side}"]) for side in "ab")
        assert (row["size_a"], row["size_b"], row["shared"]) == (len(a), len(b), len(a & b))
        assert row["jaccard"] == pytest.approx(len(a & b) / len(a | b) if a | b else 0)
        assert np.isnan(row["p_value"]) == (not a or not b)
    within = table[(table["label_set_a"] == table["label_set_b"]) & (table["run_a"] == table["run_b"])]
    assert set(within["null"]) == {"permuted labels"}
    assert set(table.drop(within.index)["null"]) == {"layer and rate"}
    matrices = read_netcdf(tmp_path / "run" / "sharing.nc")
    assert matrices["jaccard"].shape == (5, 8)
    own = matrices["jaccard"].values[:, :5]
    np.testing.assert_array_equal(own, own.T)
    with pytest.raises(InputError, match=r"its encoder has 2 layers of 96 neurons, that of --run .* 2 of 64"):
        run_share(ShareOptions(run=tmp_path / "run", with_=(tmp_path / "wide",)))
    with pytest.raises(InputError, match="the stage 'neurons' has not been run here"):
        run_share(ShareOptions(run=tmp_path / "run", with_=(tmp_path / "nowhere",)))


def test_run_neurons_does_not_test_classes_of_one_recording(folder, tmp_path, capsys):
    rows = (folder / "data" / "task.csv").read_text().splitlines()
    rows = [rows[0], *(",".join([*row.split(",")[:3], f"of-{row.split(',')[1]}", "train"]) for row in rows[1:])]
    (folder / "data" / "few.csv").write_text("\n".join(rows) + "\n")
    options = ActivationsOptions(
        encoder=str(folder / "one"),
        task=str(folder / "data" / "few.csv"),
        run=tmp_path / "run",
        unit_seconds=SECONDS,
        keep_clips=True,
        batch_size=8,
    )
    run_activations(options)
    assert main(["neurons", "--run", str(tmp_path / "run"), "--preset", "lape", "--keep", "0.1"]) == 0
    assert "label: 3 of 3 classes were not tested. They have fewer than two recordings" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "run" / "neurons.csv")
    assert len(table)
    assert table["p_value"].isna().all()


def test_certainty_options_refuse_negative_numbers(done):
    with pytest.raises(InputError, match="permutations must be a whole number, at least 0, got -1"):
        run_neurons(dataclasses.replace(NeuronsOptions(run=done[0]), permutations=-1))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--keep-clips", "--permutations", "-1"), "permutations must be"),
        (("--no-keep-clips",), "--preset auroc needs what every neuron did on every clip"),
    ],
)
def test_dissect_tells_a_mistake_before_it_counts(folder, tmp_path, capsys, options, found):
    task = str(folder / "data" / "task.csv")
    code = main(["dissect", "--encoder", "m2d_tiny", "--task", task, "--run", str(tmp_path / "run"), *options])
    assert code == 2
    assert found in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_run_share_does_not_compare_other_selectors_with_permuted_labels(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "run")
    neurons = run_neurons(NeuronsOptions(run=tmp_path / "run", selector="probability", keep=0.05, **FEW))
    assert set(run_share(ShareOptions(run=tmp_path / "run")).table["null"]) == {"layer and rate"}
    null = read_netcdf(tmp_path / "run" / "permutations.nc")
    assert "pairs" not in null
    assert null["highest"].shape == (2, FEW["permutations"])
    assert {name: neurons.scores.attrs[name] for name in ("permutations", "resamples", "splits")} == {
        "permutations": FEW["permutations"],
        "resamples": 0,
        "splits": 0,
    }


def test_assess_draws_intervals_and_stability_independently(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "run")
    one, other = "coverage_low", "split_half_jaccard"
    for name, column, missing in (("splits", one, other), ("resamples", other, one)):
        options = NeuronsOptions(run=tmp_path / "run", preset="lape", keep=0.1, **FEW | {name: 0})
        coverage = run_neurons(options).coverage
        assert coverage[column].notna().any()
        assert coverage[missing].isna().all()
        record = Run(tmp_path / "run").require("neurons")["options"]
        assert {key: record[key] for key in FEW} == FEW | {name: 0}


def stop_after_permutations(options, monkeypatch):
    def stop(*_, **__):
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(certainty, "bootstrap", stop)
        with pytest.raises(StoppedError):
            run_neurons(options)


def test_assess_does_not_resume_permutations_of_other_counts(done, tmp_path, monkeypatch):
    """Stopped after its permutations; then the counts become others, of the same clips, encoder and options."""
    shutil.copytree(done[0], tmp_path / "run")
    options = NeuronsOptions(run=tmp_path / "run", preset="lape", keep=0.1, **FEW)

    stop_after_permutations(options, monkeypatch)
    assert list((tmp_path / "run" / "state" / "neurons").iterdir())
    counts = read_netcdf(tmp_path / "run" / "activations.nc")
    write_netcdf(counts.assign_attrs(recounted=1), tmp_path / "run" / "activations.nc")
    read = []
    monkeypatch.setattr(StateFile, "read", lambda file, parse: read.append(file.path.exists()))
    run_neurons(options)
    assert read == [False, False]


def test_assess_does_not_use_more_permutations_than_asked_for(done, tmp_path, monkeypatch):
    shutil.copytree(done[0], tmp_path / "run")
    options = NeuronsOptions(run=tmp_path / "run", preset="lape", keep=0.1, **FEW)

    stop_after_permutations(options, monkeypatch)
    fewer = dataclasses.replace(options, permutations=10)
    run_neurons(fewer)
    assert read_netcdf(tmp_path / "run" / "permutations.nc").sizes["permutation"] == 10


def test_recordings_are_those_that_the_table_tells_now(folder, tmp_path):
    """The column is added after counting: counts stay, units and everything built on them do not."""
    shutil.copytree(folder / "data", tmp_path / "data")
    table = tmp_path / "data" / "task.csv"
    rows = table.read_text()
    columns = [row.split(",") for row in rows.splitlines()]
    table.write_text("\n".join(",".join([*row[:3], row[4]]) for row in columns) + "\n")
    options = ActivationsOptions(
        encoder=str(folder / "one"),
        task=str(table),
        run=tmp_path / "run",
        label="label",
        unit_seconds=SECONDS,
        batch_size=8,
        keep_clips=True,
    )
    neurons = NeuronsOptions(run=tmp_path / "run", preset="lape", keep=0.1, **FEW)
    run_activations(options)
    assert run_neurons(neurons).coverage["units"].tolist() == [CLIPS]
    table.write_text(rows)
    assert run_activations(options).reused
    assert "neurons" not in Run(tmp_path / "run").stages()
    assert run_neurons(neurons).coverage["units"].tolist() == [12]
    assert run_activations(options).reused
    assert "neurons" in Run(tmp_path / "run").stages()


def test_run_neurons_leaves_silent_clips_out(folder, tmp_path):
    """With sounding tokens a silent clip has none; its recording is of one unit less."""
    shutil.copytree(folder / "data", tmp_path / "data")
    for clip in (0, 1, 2, 5):
        soundfile.write(tmp_path / "data" / f"{clip}.wav", np.zeros(3200), 16000)
    run_activations(
        ActivationsOptions(
            encoder=str(folder / "one"),
            task=str(tmp_path / "data" / "task.csv"),
            run=tmp_path / "run",
            label="label",
            unit_seconds=SECONDS,
            batch_size=8,
            keep_clips=True,
            tokens="sounding",
        )
    )
    counts = read_netcdf(tmp_path / "run" / "activations.nc")
    clips = read_clips(Run(tmp_path / "run"), counts)
    assert np.flatnonzero(clips.tokens == 0).tolist() == [0, 1, 2, 5]
    assert not clips.members[[0, 1, 2, 5]].any()
    assert clips.members.sum() == CLIPS - 4
    neurons = run_neurons(NeuronsOptions(run=tmp_path / "run", preset="lape", keep=0.1, **FEW))
    assert neurons.coverage["units"].tolist() == [11]


def test_run_share_does_not_mix_files_of_other_runs_and_selections(done, folder, tmp_path):
    count(folder, tmp_path / "other", "other", keep_clips=True)
    run_neurons(NeuronsOptions(run=tmp_path / "other", preset="lape", keep=0.1, **FEW))
    for name in ("scores.nc", "permutations.nc"):
        shutil.copytree(done[0], tmp_path / name)
        shutil.copy(tmp_path / "other" / name, tmp_path / name / name)
        with pytest.raises(InputError, match=r"its files are of different runs, which differ in encoder_sha256"):
            run_share(ShareOptions(run=tmp_path / name))
    shutil.copytree(done[0], tmp_path / "mixed")
    shutil.copy(tmp_path / "other" / "neurons.csv", tmp_path / "mixed" / "neurons.csv")
    with pytest.raises(InputError, match=r"neurons.csv and scores.nc are of different selections"):
        run_share(ShareOptions(run=tmp_path / "mixed"))


def test_run_share_compares_a_run_with_others_once(done, tmp_path, capsys):
    shutil.copytree(done[0], tmp_path / "run")
    shutil.copytree(done[0], tmp_path / "copy")
    run, copy = tmp_path / "run", tmp_path / "copy"
    for others in ((run,), (run.parent / "." / "run",), (copy, copy)):
        with pytest.raises(InputError, match="this run is compared already"):
            run_share(ShareOptions(run=run, with_=others))
    assert main(["share", "--run", str(run), "--with", str(copy), "--with", str(copy)]) == 2
    assert "--with was given twice" in capsys.readouterr().err


def test_run_neurons_names_classes_of_scores_without_clip_counts_too(folder, tmp_path):
    count(folder, tmp_path / "run", keep_clips=False)
    run_neurons(NeuronsOptions(run=tmp_path / "run", preset="lape"))
    scores, counts = (read_netcdf(tmp_path / "run" / name) for name in ("scores.nc", "activations.nc"))
    assert scores["class"].values.tolist() == counts["class"].values.tolist()
    assert scores["class_label_set"].values.tolist() == counts["label_set"].values.tolist()


def test_pairs_needed_are_the_fewest_that_permutations_can_show():
    """Of ten tests nine have lowest p-values of 0.04 and one of 0.02: six at 0.04 make 10 / 6 x 0.04 > 0.05."""
    lowest = np.array([0.02] + [0.04] * 9 + [np.nan])[:, None, None]
    tested = permutation.Tested(*(np.full(lowest.shape, np.nan),) * 3, lowest)
    assert pairs_needed(tested) == 8  # 0.04 x 10 / 8 = 0.05
    assert pairs_needed(dataclasses.replace(tested, lowest=np.where(lowest < 0.03, 0.004, lowest))) == 1
    assert np.isnan(pairs_needed(dataclasses.replace(tested, lowest=lowest + 0.9)))
    assert np.isnan(pairs_needed(dataclasses.replace(tested, lowest=np.full_like(lowest, np.nan))))
