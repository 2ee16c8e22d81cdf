"""The stage `probe`: clip embeddings, files by the letter, what it takes from a run, and a user's mistakes."""

import dataclasses
import json
import os
import re
import shutil
import tempfile
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
import soundfile
from foreign import HOP, IntegerEncoder

from jaxdissect import InputError, ViTConfig, load_task, probing, save_encoder, untrained_m2d
from jaxdissect.audio.decode import read_clip
from jaxdissect.cli import main
from jaxdissect.embeddings import embed_clips
from jaxdissect.probe import EPSILON
from jaxdissect.probing import ProbeOptions, run_probe
from jaxdissect.run import Run
from jaxdissect.tasks.known import task_in_full

CLIPS, SECONDS, SAMPLES = 48, 0.1, 1600
FILES = {"head", "probe.json", "scores.csv", "class_scores.csv"}


@dataclasses.dataclass(frozen=True)
class OtherEncoder(IntegerEncoder):
    """The same settings, other weights, and perhaps a task head of so many classes."""

    head_classes: int = 0

    @cached_property
    def variables(self):
        variables = jax.tree.map(lambda leaf: leaf + 1, IntegerEncoder.variables.func(self))
        if not self.head_classes:
            return variables
        random = np.random.default_rng(5)
        shapes = {"mean": 16, "variance": 16, "kernel": (16, self.head_classes), "bias": self.head_classes}
        return {**variables, "head": {name: random.random(shape).astype(np.float32) for name, shape in shapes.items()}}


def other(dtype):
    """For `--encoder test_probing:other`."""
    return OtherEncoder()


def three_classes(dtype):
    return OtherEncoder(head_classes=3)


def two_classes(dtype):
    return OtherEncoder(head_classes=2)


@dataclasses.dataclass(frozen=True)
class ChangedEncoder(OtherEncoder):
    """With a head of three classes in which something is changed, or embeddings of another shape."""

    head_classes: int = 3
    source: object = "a string, which foreign encoders may have"
    head: tuple = ()
    three_axes: bool = False

    @cached_property
    def variables(self):
        variables = OtherEncoder.variables.func(self)
        head = {name: leaf for name, leaf in (variables["head"] | dict(self.head)).items() if leaf is not None}
        return {**variables, "head": head}

    def embed(self, output):
        return output if self.three_axes else super().embed(output)


def heard_all_but_five(dtype):
    return ChangedEncoder(source={"head": {"label_set": "label", "classes": list("abc"), "test_fold": 5}})


def three_axes(dtype):
    return ChangedEncoder(three_axes=True)


def half_a_head(dtype):
    return ChangedEncoder(head=(("mean", None),))


def head_of_other_features(dtype):
    return ChangedEncoder(head=(("mean", np.zeros(7, np.float32)),))


class Tones:
    """Clips of three classes and three places, each class a pattern that a linear layer can tell."""

    def __init__(self, data_folder):
        self.path = data_folder.path
        patterns = np.random.default_rng(0).uniform(-0.4, 0.4, (3, 16))
        self.classes, self.places = np.arange(CLIPS) % 3, np.arange(CLIPS) // 3 % 3
        for clip in range(CLIPS):
            random = np.random.default_rng(clip)
            samples = np.tile(np.repeat(patterns[self.classes[clip]], HOP // 16), SAMPLES // HOP)
            data_folder.write(f"{clip}.wav", samples + random.uniform(-0.4, 0.4, SAMPLES), subtype="FLOAT")
        self.table = self.write("tones.csv")

    def write(self, name, **columns):
        """A table of all clips: columns `label`, `place` and `split`, or those given, as lists or functions of clip."""
        default = {"label": lambda clip: "abc"[self.classes[clip]], "place": lambda clip: "xyz"[self.places[clip]]}
        if "fold" not in columns:
            default["split"] = lambda clip: "test" if clip % 4 == 3 else "train"
        columns = {"file_name": lambda clip: f"{clip}.wav", **default, **columns}
        frame = pd.DataFrame({name: [of(clip) for clip in range(CLIPS)] for name, of in columns.items()})
        frame.to_csv(self.path / name, index=False)
        return self.path / name


@pytest.fixture
def tones(data_folder):
    return Tones(data_folder)


@pytest.fixture
def options(tones, tmp_path):
    """Options of a quick probe of the tones."""

    def make(**changes):
        quick = {"run": tmp_path / "run", "encoder": "foreign:make", "task": str(tones.table), "unit_seconds": SECONDS,
                 "learning_rate": 0.1, "epochs": 4, "batch_size": 1, "seeds": 2}  # fmt: skip
        return ProbeOptions(**quick | changes)

    make.run = tmp_path / "run"
    return make


@pytest.fixture
def jaxdissect(tones, tmp_path, capsys):
    """Run a command; returns (exit code, printed, printed errors). Of `probe`, only what is not given is filled in."""

    def run(command, *options, inputs=True, run="run"):
        arguments = [command, "--run", str(tmp_path / run)]
        if inputs:
            arguments += ["--encoder", "foreign:make", "--task", str(tones.table), "--unit-seconds", str(SECONDS)]
        if command == "probe":
            arguments += ["--epochs", "4", "--seeds", "2", "--learning-rate", "0.1"]
        capsys.readouterr()
        code = main([*arguments, "--batch-size", "1", *options])
        return code, *capsys.readouterr()

    run.path = tmp_path / "run"
    return run


def names(folder):
    return {path.name for path in folder.iterdir()}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def strict_json(path):
    """JSON as its standard has it, which knows no NaN."""

    def refuse(constant):
        raise ValueError(f"{path.name} holds {constant}, which other readers of JSON refuse")

    return json.loads(path.read_text(), parse_constant=refuse)


def load(table, **options):
    return load_task(str(table), unit_seconds=SECONDS, **options)


# --- embeddings


def slow_embedding(encoder, pcm):
    """The mean over the tokens of the last layer's output, in plain numpy."""
    last = encoder.variables["params"]["out_1"]
    return (encoder.slow_activations(pcm)[-1] @ last["kernel"] + last["bias"]).mean(axis=0)


def test_embeddings_equal_a_slow_loop(tones):
    (tones.path / "5.wav").write_bytes(b"no audio")
    (tones.path / "6.wav").unlink()
    soundfile.write(tones.path / "7.wav", np.zeros(SAMPLES), 16000)
    soundfile.write(tones.path / "8.wav", np.full(300, 0.5), 16000)  # short: padded
    encoder, task = IntegerEncoder(), load(tones.table)
    found = embed_clips(encoder, task, batch_size=2)
    assert np.flatnonzero(~found.usable).tolist() == [5, 6]
    assert not found.values[[5, 6]].any()
    assert found.values.dtype == np.float32
    for clip in np.flatnonzero(found.usable):
        pcm = read_clip(task.data, f"{clip}.wav", 16000, SAMPLES).pcm
        np.testing.assert_allclose(found.values[clip], slow_embedding(encoder, pcm), rtol=1e-6)


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (5, 1), (64, 1), (1, 8), (3, 8), (7, 3)])
def test_any_batch_size_and_device_count_gives_the_same_embeddings(tones, batch_size, devices):
    (tones.path / "5.wav").write_bytes(b"no audio")
    encoder, task = IntegerEncoder(), load(tones.table)
    one = embed_clips(encoder, task, 4, devices=jax.devices()[:1])
    other = embed_clips(encoder, task, batch_size, devices=jax.devices()[:devices])
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.usable, other.usable)


def test_a_clip_with_an_infinite_embedding_is_not_usable_and_harms_no_other(tones):
    encoder, task = IntegerEncoder(), load(tones.table)
    before = embed_clips(encoder, task, batch_size=2)
    soundfile.write(tones.path / "5.wav", np.full(SAMPLES, 3e38), 16000, subtype="FLOAT")
    found = embed_clips(encoder, task, batch_size=2)
    assert np.flatnonzero(~found.usable).tolist() == [5]
    assert not found.values[5].any()
    np.testing.assert_array_equal(np.delete(found.values, 5, axis=0), np.delete(before.values, 5, axis=0))


def test_progress_is_told_after_every_batch(tones):
    told = []
    embed_clips(IntegerEncoder(), load(tones.table), 5, devices=jax.devices()[:4], progress=told.append)
    assert told == [20, 40, 48]


def test_the_encoder_compiles_once(tones):
    encoder = IntegerEncoder()
    embed_clips(encoder, load(tones.table), 5, devices=jax.devices()[:4])
    assert encoder.traces == [(2, SAMPLES), (20, SAMPLES)]  # the first only for the shape of an embedding


# --- files


def restored(folder):
    """The heads as arrays, on one device wherever they were saved."""
    with ocp.StandardCheckpointer() as checkpointer:
        path = (folder / "head").absolute()
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            dict(checkpointer.metadata(path).item_metadata.tree),
        )
        return jax.tree.map(np.asarray, checkpointer.restore(path, target))


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
    left_out = re.findall(r"Left out: (\d+)\.wav: .*missing", printed)
    assert left_out == [str(clip) for clip in range(0, CLIPS, 2)][:10]
    assert "... and 14 more, see probe.json" in printed
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


# --- what it takes from a run


def test_encoder_task_and_options_are_those_of_the_counts(jaxdissect, tones):
    """Also from another working folder, and with the run directory moved."""
    table = tones.write("folds.csv", fold=lambda clip: clip // 3 % 3)
    given = ["--task", os.path.relpath(table), "--label", "place,label", "--test-fold", "2", "--multi-label"]
    assert jaxdissect("activations", *given)[0] == 0
    jaxdissect.path.rename(jaxdissect.path.parent / "moved")
    before = Path.cwd()
    os.chdir("/")
    try:
        code, _, error = jaxdissect("probe", inputs=False, run="moved")
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
    code, _, error = jaxdissect("probe", "--task", str(tones.path.parent / "elsewhere" / "tones.csv"), inputs=False)
    assert (code, error) == (0, "")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["--encoder", "test_probing:other"], "holds counts of another encoder"),
        (["--label", "place"], "holds counts of another task"),
        (["--unit-seconds", "0.05"], "holds counts of another task"),
        (["--encoder", "test_probing:other", "--label", "place"], "holds counts of another encoder and another task"),
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
    code, _, error = jaxdissect("activations", "--encoder", "test_probing:other")
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


# --- an encoder's own head


def test_the_own_head_of_an_encoder_is_scored(options, tones):
    (evaluation,) = run_probe(options(encoder="test_probing:three_classes", head="encoder", seeds=3)).evaluations
    encoder, task = three_classes(None), load(tones.table)
    head = encoder.variables["head"]
    values = np.stack([slow_embedding(encoder, read_clip(task.data, name, 16000, SAMPLES).pcm)
                       for name in task.file_names])  # fmt: skip
    scaled = (values - head["mean"]) / np.sqrt(head["variance"] + EPSILON)
    right = (scaled @ head["kernel"] + head["bias"]).argmax(axis=1) == tones.classes
    test = evaluation.scores[evaluation.scores["split"] == "test"]
    assert test["score"].item() == pytest.approx(right[np.arange(CLIPS) % 4 == 3].mean())
    described = strict_json(options.run / "probe" / "probe.json")
    assert len(described["label_sets"]["label"]["probes"]) == 1
    assert described["options"]["head"] == "encoder"
    for name, leaf in restored(options.run / "probe")["label"].items():
        np.testing.assert_array_equal(leaf, head[name][None])


def test_a_trained_head_put_into_the_encoder_scores_the_same(options, tones, tmp_path):
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
        (["--head", "encoder", "--encoder", "test_probing:two_classes"],
         "array 'bias' of the shape (3,) for the 3 classes of the label set 'label', found (2,)"),
    ],
)  # fmt: skip
def test_heads_that_do_not_fit(jaxdissect, given, found):
    code, _, error = jaxdissect("probe", *given)
    assert code == 2
    assert found in error
    assert not (jaxdissect.path / "probe").exists()


# --- mistakes


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["--seeds", "0"], "--seeds must be positive, got 0"),
        (["--epochs", "0"], "--epochs must be positive, got 0"),
        (["--patience", "0"], "--patience must be positive, got 0"),
        (["--learning-rate", "0"], "--learning-rate must be"),
        (["--learning-rate", "nan"], "--learning-rate must be"),
        (["--learning-rate", "inf"], "--learning-rate must be"),
        (["--probe-batch-size", "0"], "--probe-batch-size must be positive, got 0"),
        (["--batch-size", "0"], "--batch-size must be"),
        (["--unit-seconds", "-1"], "--unit-seconds must be a positive number"),
        (["--label", "colour"], "no label column 'colour'; the table has file_name, label, place, split"),
        (["--data", "nowhere"], "--data nowhere: the data folder is missing"),
        (["--task", "gtzam"], "neither a known task"),
        (["--encoder", "nowhere"], "nowhere is no encoder directory"),
        (["--encoder", "foreign:nothing"], "neither a directory nor an importable package.module:factory"),
        (["--folds", "all"], "has no folds: leave --folds all out"),
        (["--head", "encoder"], "has no task head: leave the option out"),
        (["--head", "encoder", "--encoder", "test_probing:two_classes"], "of the shape (3,)"),
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


@pytest.mark.parametrize("given", [["--head", "mine"], ["--folds", "5"], ["--seeds", "many"]])
def test_the_parser_exits_with_2(jaxdissect, given):
    with pytest.raises(SystemExit) as stop:
        jaxdissect("probe", *given)
    assert stop.value.code == 2


# --- several label sets, other tasks, foreign heads


def test_one_label_set_that_fails_does_not_take_the_others_with_it(jaxdissect, tones):
    """The only clips of `rare` to test on cannot be read, which shows after embedding."""
    table = tones.write("rare.csv", rare=lambda clip: "ab"[clip % 2] if clip % 4 != 3 or clip == 3 else "")
    (tones.path / "3.wav").unlink()
    code, _, error = jaxdissect("probe", "--task", str(table), "--label", "label,rare", "--max-bad-clips", "0.5")
    assert code == 2
    assert "label set 'rare'" in error
    assert "The probes of label were saved." in error
    assert set(pd.read_csv(jaxdissect.path / "probe" / "scores.csv")["label_set"]) == {"label"}


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
    assert "a table needs --unit-seconds" in error
    assert jaxdissect("probe", "--task", str(other), "--unit-seconds", "0.1", inputs=False)[0] == 0
    inputs = strict_json(jaxdissect.path / "run.json")["stages"]["probe"]["inputs"]
    assert (inputs["label"], inputs["data"]) == (None, None)


@pytest.mark.parametrize(("name", "value"), [("label", 5), ("unit_seconds", "long"), ("multi_label", "yes")])
def test_inputs_of_other_types_are_a_damaged_record(jaxdissect, name, value):
    jaxdissect("probe")
    file = jaxdissect.path / "run.json"
    record = strict_json(file)
    record["stages"]["probe"]["inputs"][name] = value
    file.write_text(json.dumps(record))
    code, _, error = jaxdissect("probe", inputs=False)
    assert code == 2
    assert f"cannot be read: a stage's {name} is {value!r}" in error


def test_all_folds_need_no_test_fold(options, tones):
    table = tones.write("three.csv", fold=lambda clip: clip % 3 + 1)
    (evaluation,) = run_probe(options(task=str(table), folds="all", seeds=1)).evaluations
    assert sorted(set(evaluation.scores["test_fold"])) == [1, 2, 3]


def test_an_own_head_needs_no_clips_to_train_on(options, tones):
    table = tones.write("judge.csv", split=lambda clip: "test")
    (evaluation,) = run_probe(
        options(task=str(table), encoder="test_probing:three_classes", head="encoder")
    ).evaluations
    assert evaluation.scores.set_index("split")["clips"].to_dict() == {"train": 0, "valid": 0, "test": CLIPS}


def test_an_own_head_is_not_judged_on_what_it_was_trained_on(options, tones):
    table = tones.write("folds.csv", fold=lambda clip: clip // 3 % 4 + 2)
    given = options(task=str(table), encoder="test_probing:heard_all_but_five", head="encoder")
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
def test_foreign_encoders_that_break_the_rules(options, encoder, message):
    with pytest.raises(InputError, match=message):
        run_probe(options(encoder=f"test_probing:{encoder}", head="encoder"))


def test_what_a_killed_save_has_left_is_swept(options):
    run_probe(options())
    for name in (".probe-dead", "..probe-dead-beef"):
        (options.run / name).mkdir()
    run_probe(options())
    assert names(options.run) == {"run.json", "probe"}
