"""`jaxdissect reproduce` on a stand-in checkpoint and stand-in data in the published layout."""

import argparse

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch_reference import random_state

from jaxdissect import ViTConfig
from jaxdissect.cli import main
from jaxdissect.selection.neuron_set_files import published_sets
from jaxdissect.selection.published_figures import sharing_rows
from jaxdissect.significance.cautions import INDEPENDENT

CONFIG = ViTConfig(width=64, depth=12, heads=1, mlp=3072)  # narrow, with all the neurons of a ViT-B
NAME = "m2d_vit_base-80x608p16x16-stand-in"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Converted from a checkpoint in M2D's full layout."""
    folder = tmp_path_factory.mktemp("checkpoint")
    content = {"model": random_state(CONFIG), "args": argparse.Namespace(model="m2d_vit_base"), "epoch": 300}
    torch.save(content, folder / "checkpoint-300.pth")
    assert main(["convert", str(folder / "checkpoint-300.pth"), str(folder / "encoder"), "--name", NAME]) == 0
    return folder / "encoder"


@pytest.fixture
def data(tmp_path):
    """Writes a data set in EVAR's layout: short sounds of some classes, `NAME.csv` beside them."""

    def write(task, classes):
        folder, rows = tmp_path / task, ["file_name,label,split"]
        (folder / "wav").mkdir(parents=True)
        for number, (name, split) in enumerate(
            (name, split) for name in classes for split in ("train", "train", "test")
        ):
            rng = np.random.default_rng(number)
            tone = np.sin(np.arange(8000) * (0.05 + 0.1 * (number // 3))) + rng.normal(size=8000) * 0.1
            soundfile.write(folder / "wav" / f"{number}.wav", (tone * 0.3).astype(np.float32), 16000)
            rows.append(f"wav/{number}.wav,{name},{split}")
        (folder / f"{task}.csv").write_text("\n".join(rows) + "\n")
        return folder

    return write


def test_reproduce_puts_published_figures_beside_those_found(encoder, data, tmp_path, capsys):
    task, name = "cremad", "cremad_ang_hap"
    published = published_sets()[name]
    folder = data(task, published["test_clips"])
    options = ["--encoder", str(encoder), "--task", task, "--data", str(folder), "--run", str(tmp_path / "run")]
    assert main(["reproduce", *options, "--controls", "3", "--seeds", "1", "--learning-rate", "0.01"]) == 0
    printed = capsys.readouterr().out
    figures = pd.read_csv(tmp_path / "run" / "reproduction.csv", dtype={"class": str}).fillna({"class": ""})
    assert figures.columns.tolist() == ["figure", "class", "published", "found"]
    assert printed.count(INDEPENDENT) == 1  # file names are not the published ones
    assert printed.count("a recording fills 20% of the unit length of 2.5 s.") == 1
    overall = figures[figures["class"] == ""].set_index("figure")
    assert overall["published"].get("coverage") == 1
    neurons = pd.read_csv(tmp_path / "run" / "coverage.csv")["mean_neurons_per_class"][0]
    assert overall.loc["neurons per class", "found"] == neurons
    assert overall.loc["neurons per class", "published"] == 172.0
    found = pd.read_csv(tmp_path / "run" / "neurons.csv", dtype={"class": str})
    pairs = [
        set(zip(rows["layer"], rows["neuron"], strict=True))
        for rows in (found[found["class"] == own] for own in published["classes"])
    ]
    shared = (pairs[0] & pairs[1]) & {tuple(pair) for pair in published["neurons"]}
    assert overall[overall.index.str.startswith("of them in the published set")]["found"].tolist() == [len(shared)]
    assert overall.loc[f"neurons of {' & '.join(published['classes'])}", "published"] == len(published["neurons"])

    ablation = pd.read_csv(tmp_path / "run" / "ablation.csv").set_index(["intervention", "class"])
    assert set(ablation.index.get_level_values(0)) == {f"@{name}", f"@{name}_control"}
    by_class = figures.set_index(["figure", "class"])
    for own in published["test_clips"]:
        target, control = ablation.loc[f"@{name}", own], ablation.loc[f"@{name}_control", own]
        before = by_class.loc["accuracy before", own]
        assert before["published"] == pytest.approx(published["accuracy"][own] - published["change"][own])
        assert before["found"] == target["accuracy_before"]
        assert by_class.loc["change by ablation", own].tolist() == [published["change"][own], target["change"]]
        assert by_class.loc["change by the control", own]["found"] == control["change"]
        assert by_class.loc["p-value of the margin change", own]["found"] == target["p_value"]
        assert f"\n{own}" in printed
    assert "silenced, published | here" in printed
    sharing = pd.read_csv(tmp_path / "run" / "sharing.csv", dtype={"class_a": str, "class_b": str})
    told = sharing["class_a"].isin(["ANG", "HAP"]) & sharing["class_b"].isin(["ANG", "HAP"])
    row = overall.loc["mean Jaccard, ANG & HAP (published: they share)"]
    assert row["found"] == sharing[told]["jaccard"].item()
    assert "mean Jaccard, DIS & FEA & NEU & SAD (published: they share)" in overall.index
    confusion_agrees(tmp_path / "run", ablation)
    sets = pd.read_csv(tmp_path / "run" / "ablation_sets.csv").groupby("intervention")
    silenced = sets.get_group(f"@{name}")[["layer", "neuron"]].to_numpy().tolist()
    assert silenced == sorted(published["neurons"])
    shifted = sets.get_group(f"@{name}_control")[["layer", "neuron"]].to_numpy().tolist()
    assert shifted == sorted([layer, neuron + 1] for layer, neuron in published["neurons"])


def confusion_agrees(run, ablation):
    """The matrices are made from logits, and the accuracies of the table from hits on the device."""
    matrices = pd.read_csv(run / "confusion.csv", dtype={"class": str, "named": str})
    names = dict.fromkeys(ablation.index.get_level_values(0))
    assert matrices["intervention"].drop_duplicates().tolist() == ["untouched", *names]
    for name in names:
        for intervention, column in (("untouched", "accuracy_before"), (name, "accuracy_after")):
            rows = matrices[matrices["intervention"] == intervention]
            clips = rows.groupby("class")["clips"].sum()
            right = rows[rows["class"] == rows["named"]].set_index("class")["clips"]
            table = ablation.loc[name]
            assert clips.to_dict() == table["clips"].to_dict()
            np.testing.assert_allclose((right / clips)[table.index], table[column], rtol=1e-12)


def test_sharing_rows_are_means_over_the_pairs_of_a_finding():
    def table(label_set, pairs, other="here"):
        columns = ["class_a", "class_b", "jaccard"]
        place = {"run_a": "here", "label_set_a": label_set, "run_b": other, "label_set_b": label_set}
        return pd.DataFrame(pairs, columns=columns).assign(**place)

    def found(*tables):
        return [(figure, share) for figure, _, _, share in sharing_rows(pd.concat(tables))]

    languages = [("German", "English", 0.5), ("French", "Italian", 0.3), ("French", "Russian", 0.1)]
    languages += [("German", "French", 0.2), ("English", "Russian", 0.0)]
    assert found(table("language", languages)) == [
        ("mean Jaccard, German & English (published: they share)", 0.5),
        ("mean Jaccard, French & Italian & Russian (published: they share)", pytest.approx(0.2)),
        ("mean Jaccard, other pairs", 0.1),
    ]
    genders = [("Female", "f", 0.6), ("Male", "m", 0.4), ("Male", "f", 0.1), ("Female", "m", 0.2)]
    octaves = [("3", "3", 0.9), ("3", "4", 0.5), ("3", "6", 0.1), ("5", "4", 0.7)]
    rows = found(table("gender", genders, "vc1"), table("octave", octaves, "surge"))
    assert [share for _, share in rows] == [0.5, pytest.approx(0.15), 0.9, pytest.approx(0.6), 0.1]
    events = [("train", "Wind", 0.4), ("wind", "Train", 0.2), ("coughing", "Bark", 0.3), ("dog", "Cough", 0.1)]
    events += [("dog", "Bark", 0.0), ("toilet_flush", "toilet-flush", 0.7), ("laughing", "Laughter", 0.8)]
    shares = dict(found(table("event", events, "gise51")))
    assert [round(share, 12) for share in shares.values()] == [0.3, 0.2, 0.7, 0.8, 0.0]
    assert list(shares)[-1] == "mean Jaccard, event in gise51: other events (published: low)"
    assert found(table("digit", [("1", "2", 0.5)])) == []


def test_reproduce_compares_runs_and_gives_voxceleb_two_label_sets(data, tmp_path, capsys):
    voxceleb = data("vc1", ["id1", "id2", "id3", "id4"])
    rows = [f"id{number}\tx\t{'mf'[number % 2]}\t{('UK', 'Italy')[number // 3]}\tdev" for number in (1, 2, 3, 4)]
    header = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"
    (voxceleb / "vox1_meta.csv").write_text("\n".join([header, *rows]) + "\n")
    actors, run = data("cremad_gender", ["Female", "Male"]), str(tmp_path / "vc1")
    options = ["--encoder", "m2d_tiny", "--batch-size", "2"]
    assert main(["reproduce", *options, "--task", "vc1", "--data", str(voxceleb), "--run", run]) == 0
    figures = pd.read_csv(tmp_path / "vc1" / "reproduction.csv").set_index("figure")
    coverage = pd.read_csv(tmp_path / "vc1" / "coverage.csv").set_index("label_set")["coverage"]
    assert figures["found"]["gender: coverage"] == coverage["gender"]
    assert figures["found"]["country: coverage"] == coverage["country"]
    assert figures["published"]["country: coverage, supervised encoder"] == pytest.approx(0.486, abs=5e-4)
    options += ["--task", "cremad_gender", "--data", str(actors), "--run", str(tmp_path / "actors"), "--with"]
    assert main(["reproduce", *options, run]) == 0
    assert f"mean Jaccard, gender in {run}: the other gender" in capsys.readouterr().out


def test_reproduce_counts_gise51_by_one_label_a_clip(encoder, data, tmp_path, capsys):
    folder, run = data("gise51", ["Bark", "Wind"]), tmp_path / "run"
    options = ["--encoder", "m2d_tiny", "--task", "gise51", "--data", str(folder), "--run", str(run)]
    assert main(["reproduce", *options]) == 2
    assert "needs unit_seconds" in capsys.readouterr().err
    assert main(["reproduce", *options, "--unit-seconds", "0.5"]) == 0
    assert pd.read_csv(run / "coverage.csv")["classes"].tolist() == [2]
    again = ["reproduce", "--encoder", str(encoder), *options[2:-1], str(tmp_path / "other"), "--unit-seconds", "0.5"]
    capsys.readouterr()
    assert main([*again, "--with", str(run)]) == 2
    message = capsys.readouterr().err
    assert "its encoder has 12 layers of 768 neurons, --encoder" in message
    assert "12 of 3,072: they cannot be compared" in message
    table = folder / "gise51.csv"
    table.write_text(table.read_text().replace("Bark", '"Bark,Wind"', 1))
    assert main(["reproduce", *options, "--unit-seconds", "0.5"]) == 2
    assert "a clip has the labels 'Bark,Wind'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_reproduce_of_a_task_without_a_published_set_has_its_figures_alone(encoder, tmp_path, capsys):
    folder = tmp_path / "ESC-50"
    (folder / "meta").mkdir(parents=True)
    (folder / "audio").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for number in range(10):
        samples = np.random.default_rng(number).normal(size=8000) * 0.1
        soundfile.write(folder / "audio" / f"{number}.wav", samples, 16000)
        rows.append(f"{number}.wav,{number % 5 + 1},{number % 2},{('dog', 'rain')[number % 2]},False,{number},A")
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    options = ["--encoder", str(encoder), "--task", "esc50", "--data", str(folder), "--run", str(tmp_path / "run")]
    assert main(["reproduce", *options]) == 0
    printed = capsys.readouterr().out
    assert "neurons per class" in printed
    assert "37.9" in printed
    assert not (tmp_path / "run" / "ablation.csv").exists()


def test_reproduce_reports_mistakes_before_the_count(data, tmp_path, capsys):
    folder = data("cremad", ["ANG", "HAP"])
    options = ["--task", "cremad", "--run", str(tmp_path / "run"), "--data"]
    assert main(["reproduce", "--encoder", "m2d_tiny", *options, str(folder)]) == 2
    assert "lacks the published classes DIS, FEA, NEU, SAD; it has ANG, HAP" in capsys.readouterr().err
    (tmp_path / "whole").mkdir()
    rows = [f"{number}.wav,{name},test" for number, name in enumerate(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"))]
    (tmp_path / "whole" / "cremad.csv").write_text("file_name,label,split\n" + "\n".join(rows) + "\n")
    assert main(["reproduce", "--encoder", "m2d_tiny", *options, str(tmp_path / "whole")]) == 2
    assert "neurons 0 to 767" in capsys.readouterr().err
    twice = ["--with", str(tmp_path / "other"), str(tmp_path / "run" / ".." / "other")]
    assert main(["reproduce", "--encoder", "m2d_tiny", *options, str(tmp_path / "whole"), *twice]) == 2
    assert "this run is compared already" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
