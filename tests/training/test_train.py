"""`jaxdissect train`: what it writes, what it refuses, and that a killed training ends as if it had not been."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import assert_within, relative_error

from jaxdissect import InputError, ViTConfig, load_encoder, save_encoder, untrained_m2d
from jaxdissect.audio.pcm import FULL_SCALE
from jaxdissect.cli import main
from jaxdissect.encoder.directory import fingerprint
from jaxdissect.errors import TrainingError
from jaxdissect.options.train import TrainOptions
from jaxdissect.runtime.files import locked
from jaxdissect.runtime.sharding import local_mesh
from jaxdissect.training import fit as fit_module
from jaxdissect.training.crops import crops, decoded_clips
from jaxdissect.training.setup import batch_parts, crop_samples, encoder_to_train, training_folder
from jaxdissect.training.train import run_train

CONFIG = ViTConfig(frames=32, width=16, depth=1, heads=1, mlp=16)
CLIPS = 12
pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a small encoder to start from."""
    folder = tmp_path_factory.mktemp("small") / "small"
    save_encoder(untrained_m2d(CONFIG, name="small"), folder)
    return folder


@pytest.fixture
def setting(data_folder, tmp_path, small):
    """A small labelled set of 0.5 s clips and a small encoder to start from; returns the options of a training."""
    rng = np.random.default_rng(0)
    rows = ["file_name,label,split"]
    for number in range(CLIPS + 2):
        rate = 400 if number % 2 else 3000
        tone = 0.3 * np.sin(2 * np.pi * rate * np.arange(8000) / 16000) + 0.01 * rng.normal(size=8000)
        data_folder.write(f"{number}.wav", tone)
        rows.append(f"{number}.wav,{'low' if number % 2 else 'high'},{'train' if number < CLIPS else 'test'}")
    table = data_folder.table("set.csv", "\n".join(rows) + "\n")
    return {
        "task": str(table),
        "unit_seconds": 0.5,
        "start_from": small,
        "out": tmp_path / "out",
        "epochs": 2,
        "batch_size": 4,
        "part_size": 2,
        "log_steps": 1,
    }


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Trainings of one device's batch, whatever the tests have."""
    monkeypatch.setattr("jaxdissect.training.train.local_mesh", lambda: local_mesh(jax.devices()[:1]))


def given(setting, objective, **others):
    """What a training is asked for: with a decoder of one block, where there is one."""
    return ({} if objective == "supervised" else {"decoder_depth": 1}) | setting | others


def options_of(setting, objective, **others):
    return TrainOptions(objective=objective, **given(setting, objective, **others))


def arguments(setting, objective, **others):
    found = ["train", "--objective", objective]
    for name, value in given(setting, objective, **others).items():
        found += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return found


@pytest.mark.parametrize("objective", ["m2d", "msm_mae", "supervised"])
def test_run_train_ends_in_an_encoder_that_other_stages_take(setting, objective, tmp_path, capsys):
    assert main(arguments(setting, objective, licence="CC0")) == 0
    printed = capsys.readouterr().out
    assert re.search(r"Trained out: 1 layers of 16 neurons, width 16, on 12 clips of set\.", printed)
    assert re.search(r"6 steps of 4 crops in .* loss [\d.]+ -> [\d.]+", printed)
    folder = setting["out"]
    encoder, before = load_encoder(folder), load_encoder(setting["start_from"])
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), encoder.variables["params"], before.variables["params"])
    assert moved["blocks_0"]["mlp"]["fc1"]["kernel"]
    assert encoder.variables["params"]["pos_embed"].shape == (11, 16)
    assert encoder.name == "out"
    assert encoder.source["start"] == "small"
    assert encoder.source["file"] == f"none: trained by jaxdissect, --objective {objective}"
    assert encoder.source["licence"] == "CC0"
    record = json.loads((folder / "training.json").read_text())
    assert record["options"]["objective"] == objective
    assert record["steps"] == 6
    assert [point["step"] for point in record["curve"]] == [1, 2, 3, 4, 5, 6]
    assert record["data"]["clips"] == CLIPS
    assert len(record["data"]["pcm_sha256"]) == 64
    assert {"hours", "device", "versions", "clips_per_second"} <= set(record)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == ["out"]
    run = ["--run", str(tmp_path / "run"), "--encoder", str(folder), "--task", setting["task"], "--unit-seconds", "0.5"]
    assert main(["dissect", *run]) == 0
    assert ("head" in encoder.variables) == (objective == "supervised")
    if objective == "supervised":
        assert main(["probe", *run, "--head", "encoder"]) == 0


def test_run_train_supervised_learns_the_labels(setting, tmp_path, capsys):
    options = options_of(setting, "supervised", epochs=60, mixup=0.0, learning_rate=5e-3)
    _, record = run_train(options)
    assert record["curve"][-1]["loss"] < 0.3 < record["curve"][0]["loss"]
    run = ["--run", str(tmp_path / "run"), "--encoder", str(setting["out"]), "--task", setting["task"]]
    assert main(["probe", *run, "--unit-seconds", "0.5", "--head", "encoder"]) == 0
    assert re.search(r"label +2 +accuracy .* 100\.0% \+- 0\.0 +2 +1\b", capsys.readouterr().out)


def test_run_train_killed_and_resumed_ends_with_the_same_bits(setting, tmp_path):
    """SIGKILL after one of the steps; then the parameters are those of an unbroken training."""
    slow = {"epochs": 5, "save_minutes": 0.0, "log_steps": 3}  # 15 steps

    def start(out):
        command = [sys.executable, "-m", "jaxdissect", *arguments(setting | slow, "m2d", out=out)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    whole = start(tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read().decode()
    whole.stderr.close()
    states = tmp_path / "killed.training" / "checkpoints"
    process = start(tmp_path / "killed")
    while process.poll() is None and newest(states) < 3:
        time.sleep(0.002)
    assert process.poll() is None, f"it was over before the kill: {process.stderr.read().decode()}"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    killed_at = newest(states)
    last = start(tmp_path / "killed")
    assert last.wait() == 0, last.stderr.read().decode()
    last.stderr.close()
    assert 3 <= killed_at < 15
    one, other = (load_encoder(tmp_path / name) for name in ("whole", "killed"))
    assert fingerprint(one) == fingerprint(other)
    curves = [json.loads((tmp_path / name / "training.json").read_text())["curve"] for name in ("whole", "killed")]
    assert curves[0] == curves[1]


def newest(states):
    """The last step that is wholly saved; 0 before the first."""
    return max((int(path.name) for path in states.glob("[0-9]*") if path.name.isdigit()), default=0)


def test_run_train_self_supervised_needs_no_labels(setting, data_folder):
    plain = data_folder.table("plain.csv", "file_name,split\n" + "".join(f"{n}.wav,train\n" for n in range(CLIPS)))
    _, record = run_train(options_of(setting, "msm_mae", task=str(plain)))
    assert record["data"]["clips"] == CLIPS


def test_run_train_supervised_leaves_out_clips_without_a_label(setting, data_folder):
    lines = [f"{n}.wav,{'' if n < 3 else n % 2},train\n" for n in range(CLIPS)]
    table = data_folder.table("partly.csv", "file_name,label,split\n" + "".join(lines))
    _, record = run_train(options_of(setting, "supervised", task=str(table)))
    assert record["data"]["clips"] == CLIPS - 3


def test_run_train_learns_several_labels_by_binary_cross_entropy(setting, data_folder):
    lines = [f'{n}.wav,"{"a,b" if n % 2 else "b"}",train\n' for n in range(CLIPS)]
    table = data_folder.table("several.csv", "file_name,label,split\n" + "".join(lines))
    options = options_of(setting, "supervised", task=str(table), multi_label=True, mixup=0.0)
    _, record = run_train(options)
    assert record["curve"][0]["loss"] == pytest.approx(np.log(2), rel=0.05)  # every class at one half: the head is zero


@pytest.mark.parametrize("batch", [64, 1])
def test_with_norm_stats_are_those_of_the_crops(setting, tmp_path, monkeypatch, batch):
    monkeypatch.setattr("jaxdissect.training.train.NORM_BATCH", batch)
    options = options_of(setting, "msm_mae", start_from=None, input="80x32p16x16", size="tiny")
    from jaxdissect.tasks.known import load_task
    from jaxdissect.training.fit import Feed
    from jaxdissect.training.train import _with_norm_stats

    encoder = encoder_to_train(options)
    task = load_task(setting["task"], None, None, 0.5).only("train")
    clips = decoded_clips(task, 16000, tmp_path / "state")
    samples = crop_samples(encoder, task)
    found = _with_norm_stats(encoder, clips, Feed(samples, 2, 2))
    plain = {**encoder.variables, "front_end": {**encoder.variables["front_end"], "norm_stats": jnp.array([0.0, 1.0])}}
    pcm = np.concatenate([crops(clips, 0, step, batch, samples).pcm for step in range(-(-CLIPS // batch))])
    values = np.asarray(encoder.front_end(plain, jnp.asarray(pcm.astype(np.float32) / FULL_SCALE)), np.float64)
    np.testing.assert_allclose(found.variables["front_end"]["norm_stats"], [values.mean(), values.std()], rtol=1e-5)


def test_save_encoder_in_float16_halves_the_size_and_computes_in_float32(tmp_path):
    encoder = untrained_m2d(dataclasses.replace(CONFIG, width=128, mlp=512))
    for storage in ("float32", "float16"):
        save_encoder(encoder, tmp_path / storage, storage)
    sizes = [
        sum(file.stat().st_size for file in (tmp_path / name).rglob("*") if file.is_file())
        for name in ("float32", "float16")
    ]
    assert sizes[1] < 0.7 * sizes[0]
    loaded = load_encoder(tmp_path / "float16")
    for one, other in zip(
        jax.tree.leaves(loaded.variables["params"]), jax.tree.leaves(encoder.variables["params"]), strict=True
    ):
        assert one.dtype == jnp.float32
        np.testing.assert_array_equal(one, np.asarray(other).astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(
        loaded.variables["front_end"]["mel_filters"], encoder.variables["front_end"]["mel_filters"]
    )
    with pytest.raises(InputError, match="storage must be one of float32, float16, got 'int8'"):
        save_encoder(encoder, tmp_path / "int8", "int8")


def test_save_encoder_in_float16_refuses_parameters_that_are_too_large(tmp_path):
    encoder = untrained_m2d(CONFIG)
    params = jax.tree.map(lambda leaf: leaf * 1e6, encoder.variables["params"])
    large = dataclasses.replace(encoder, variables={**encoder.variables, "params": params})
    with pytest.raises(InputError, match="storage 'float16' cannot hold parameters as large as this encoder's"):
        save_encoder(large, tmp_path / "large", "float16")
    assert not (tmp_path / "large").exists()
    save_encoder(large, tmp_path / "large")


# What is refused


@pytest.mark.parametrize(
    ("objective", "change", "message"),
    [
        ("m2d", {"epochs": 0}, "--epochs must be a whole number, at least 1, got 0"),
        ("m2d", {"batch_size": 0}, "--batch-size must be a whole number, at least 1, got 0"),
        ("m2d", {"part_size": 3}, "--part-size must divide --batch-size 4, got 3"),
        ("m2d", {"mask_ratio": 1.0}, "--mask-ratio must be a fraction between 0 and 1, got 1.0"),
        ("m2d", {"mask_ratio": 0.01}, "--mask-ratio 0.01: of a crop's 10 patches at least one must stay visible"),
        ("m2d", {"ema": (0.9, 1.1)}, "--ema must be a fraction from 0 to 1, got 1.1"),
        ("supervised", {"mixup": -1.0}, "--mixup must be 0 or a positive number"),
        ("m2d", {"mixup": 0.5}, "--mixup is not an option of --objective m2d"),
        ("m2d", {"standardise_patches": ()}, "--standardise-patches is not an option of --objective m2d"),
        ("m2d", {"no_standardise_patches": ()}, "--standardise-patches is not an option of --objective m2d"),
        ("m2d", {"multi_label": ()}, "--multi-label: --objective m2d looks at no labels: leave it out"),
        ("msm_mae", {"no_multi_label": ()}, "--multi-label: --objective msm_mae looks at no labels"),
        ("msm_mae", {"label": ""}, "--label: --objective msm_mae looks at no labels"),
        ("supervised", {"label": " ,"}, "--label must name a label set, got ' ,'"),
        ("supervised", {"label": "label,split"}, "--label: a training learns one label set, got label, split"),
        ("m2d", {"test_fold": 5}, "test_fold 5: the column 'split' of"),
        ("supervised", {"mask_ratio": 0.7}, "--mask-ratio is not an option of --objective supervised"),
        ("m2d", {"label": "label"}, "--label: --objective m2d looks at no labels"),
        ("m2d", {"learning_rate": -1.0}, "--learning-rate must be a positive number"),
        ("m2d", {"learning_rate": math.nan}, "--learning-rate must be a positive number"),
        ("m2d", {"weight_decay": -0.1}, "--weight-decay must be 0 or a positive number"),
        ("m2d", {"warm_up": 1.0}, "--warm-up must be a fraction of the steps from 0 to below 1, got 1.0"),
        ("m2d", {"warm_up": -0.1}, "--warm-up must be a fraction of the steps from 0 to below 1, got -0.1"),
        ("m2d", {"batch_size": 32, "part_size": 16}, "12 clips to train on are fewer than the 32 of a step"),
        ("m2d", {"unit_seconds": 0.05}, "shorter than one patch of the encoder"),
        ("m2d", {"task": "nothing.csv"}, "nothing.csv is missing"),
        ("m2d", {"start_from": "nowhere"}, "nowhere is no encoder directory"),
        ("m2d", {"decoder_width": 6}, "--decoder-width must be a multiple of 4, got 6"),
        ("m2d", {"size": "small"}, "of other sizes than --size and --input say: width (16 there, 384 given"),
        ("m2d", {"seed": -1}, "--seed must be a whole number, at least 0, got -1"),
        ("m2d", {"seed": 2**32}, r"--seed must be below 2\*\*32"),
        ("m2d", {"part_size": 1}, "--objective m2d compares the clips of a part: --part-size must be 2 at least"),
        ("m2d", {"out": "x" * 300}, "File name too long"),
        ("m2d", {"out": "."}, "--out . is the folder you are in"),
        ("m2d", {"max_bad_clips": 2.0}, "--max-bad-clips must be a fraction from 0 to 1, got 2.0"),
        ("m2d", {"decoder_width": 0}, "--decoder-width must be a whole number, at least 1, got 0"),
    ],
)
def test_train_command_refuses_mistakes_before_anything_is_trained(setting, objective, change, message, capsys):
    assert main(arguments(setting, objective, **change)) == 2
    assert re.search(message.replace("(", r"\("), capsys.readouterr().err)
    assert not setting["out"].exists()


def test_run_train_writes_over_nothing(setting, tmp_path, capsys):
    setting["out"].mkdir()
    (setting["out"] / "precious").write_text("data")
    assert main(arguments(setting, "m2d")) == 2
    assert "exists already" in capsys.readouterr().err
    assert (setting["out"] / "precious").read_text() == "data"


def test_run_train_is_not_resumed_with_other_options(setting, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("jaxdissect.training.train.save_encoder", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_train(options_of(setting, "m2d"))
    assert main(arguments(setting, "m2d", learning_rate=5e-4, epochs=9)) == 2
    printed = capsys.readouterr().err
    assert "begun with other options: --epochs (2 before, 9 now), --learning-rate (0.001 before, 0.0005 now)" in printed
    assert "to start afresh" in printed
    assert main(arguments(setting, "m2d", save_minutes=1.0)) == 0  # this one may change


def test_run_train_that_is_refused_leaves_nothing_in_the_way(setting, data_folder, capsys):
    assert main(arguments(setting, "msm_mae", batch_size=32, part_size=16)) == 2
    assert "lower --batch-size" in capsys.readouterr().err
    other = data_folder.table("other.csv", "file_name,split\n" + "".join(f"{n}.wav,train\n" for n in range(4, CLIPS)))
    assert main(arguments(setting, "msm_mae", task=other)) == 0  # another task, another batch size
    assert json.loads((setting["out"] / "training.json").read_text())["data"]["clips"] == CLIPS - 4


def stopped(*_args, **_options):
    raise KeyboardInterrupt


def test_run_train_neither_takes_nor_empties_a_foreign_folder(setting, capsys):
    folder = setting["out"].with_name("out.training")
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "precious").write_text("data")
    assert main(arguments(setting, "m2d")) == 2
    assert "holds 'sub', which is no part of a state: choose another --out" in capsys.readouterr().err
    assert (folder / "sub" / "precious").read_text() == "data"


def test_run_train_sweeps_what_a_killed_process_left_half_written(setting):
    folder = setting["out"].with_name("out.training")
    (folder / ".last_good-0123abcd" / "params").mkdir(parents=True)
    (folder / ".pcm.npy-0123abcd").write_text("half")
    (folder / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir(parents=True)
    assert main(arguments(setting, "msm_mae")) == 0
    assert not folder.exists()


def test_run_train_refuses_a_training_that_is_done(setting, capsys):
    assert main(arguments(setting, "msm_mae")) == 0
    (setting["out"].with_name("out.training") / "checkpoints" / "6").mkdir(parents=True)  # killed before it was removed
    assert main(arguments(setting, "msm_mae")) == 2
    assert re.search(r"its training is done\. .*out\.training, which was left over", capsys.readouterr().err)


def test_run_train_takes_a_default_that_is_written_out_as_the_same(setting, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("jaxdissect.training.train.save_encoder", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_train(options_of(setting, "m2d"))
    _, record = run_train(options_of(setting, "m2d", mask_ratio=0.7, decoder_width=96))
    assert (record["options"]["mask_ratio"], record["options"]["ema"]) == (0.7, [0.996, 1.0])
    assert "mixup" not in record["options"]


def test_run_train_from_scratch_is_resumed_with_the_same_norm_stats(setting, monkeypatch, capsys):
    """Interrupted by a signal and started again; then other norm_stats would be printed."""
    start = untrained_m2d(CONFIG)
    monkeypatch.setattr("jaxdissect.training.train.encoder_to_train", lambda options: start)
    scratch = setting | {"start_from": None, "save_minutes": 0.0}
    whole, record = run_train(options_of(scratch, "msm_mae", out=setting["out"].with_name("whole")))
    options, real = options_of(scratch, "msm_mae"), fit_module._finite

    def interrupted(*given):
        fit_module._finite = real  # monkeypatch puts it back too
        os.kill(os.getpid(), signal.SIGINT)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "_finite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_train(options)
    began = training_folder(options) / "training.json"
    described = json.loads(began.read_text())
    began.write_text(json.dumps(described | {"began": described["began"] | {"norm_stats": [0.0, 1.0]}}))
    with pytest.raises(InputError, match=r"whose spectrograms were normalised by \[0.0, 1.0\], computed here as \[-"):
        run_train(options)
    began.write_text(json.dumps(described | {"began": described["began"] | {"versions": {}}}))
    resumed, again = run_train(options)
    assert "begun with other versions" in capsys.readouterr().err
    assert fingerprint(whole) == fingerprint(resumed)
    assert record["curve"] == again["curve"]


def test_run_train_waits_for_no_other_training_in_its_place(setting, capsys):
    with locked(setting["out"].with_name("out.training"), "--out"):
        assert main(arguments(setting, "m2d")) == 2
    assert "another process is writing to it" in capsys.readouterr().err


def test_run_train_leaves_out_unreadable_clips_or_refuses(setting, data_folder, capsys):
    (data_folder.path / "3.wav").write_bytes(b"no audio")
    assert main(arguments(setting, "msm_mae")) == 2
    printed = capsys.readouterr().err
    assert "1 of 12 clips cannot be read, more than --max-bad-clips 0.01; the first is 3.wav" in printed
    assert main(arguments(setting, "msm_mae", max_bad_clips=0.1)) == 0
    assert "left out: 3.wav" in capsys.readouterr().err
    record = json.loads((setting["out"] / "training.json").read_text())
    assert (record["data"]["clips"], list(record["data"]["unreadable"])) == (11, ["3.wav"])


def test_run_train_that_blows_up_says_so_and_keeps_its_last_state(setting, capsys):
    assert main(arguments(setting, "msm_mae", learning_rate=1e30, warm_up=0.5, save_minutes=0.0)) == 1
    printed = capsys.readouterr().err
    assert re.search(r"Training stopped: the (loss|gradient norm) of step 3 is (nan|inf)", printed)
    assert re.search(r"The last good state, of step 1, is kept in .*, its encoder in .*last_good: start from", printed)
    state = setting["out"].with_name("out.training")
    assert {path.name for path in (state / "checkpoints").iterdir()} == {"1"}
    assert not setting["out"].exists()
    with pytest.raises(TrainingError, match="step 3"):  # and again, from there
        run_train(options_of(setting, "msm_mae", learning_rate=1e30, warm_up=0.5, save_minutes=0.0))
    calm = setting["out"].with_name("calm")
    run_train(options_of(setting, "msm_mae", start_from=state / "last_good", out=calm))


def test_run_train_that_blows_up_at_once_has_no_good_state(setting, capsys):
    assert main(arguments(setting, "msm_mae", learning_rate=1e30, warm_up=0.0, save_minutes=0.0)) == 1
    assert "No good state had been saved yet: begin again with other options." in capsys.readouterr().err
    assert main(arguments(setting, "msm_mae", learning_rate=1e-3)) == 0  # which are taken at once


def test_run_train_refuses_silence(data_folder, tmp_path, capsys):
    for number in range(4):
        data_folder.write(f"{number}.wav", np.zeros(8000))
    table = data_folder.table("t.csv", "file_name,split\n" + "".join(f"{n}.wav,train\n" for n in range(4)))
    options = ["--unit-seconds", "0.5", "--size", "tiny", "--input", "80x32p16x16", "--batch-size", "2"]
    assert main(["train", "--objective", "m2d", "--task", str(table), "--out", str(tmp_path / "o"), *options]) == 2
    assert "are all clips silent?" in capsys.readouterr().err


def test_encoder_to_train_from_scratch_has_the_sizes_given():
    encoder = encoder_to_train(
        TrainOptions(objective="m2d", task="notes", out=Path("o"), size="small", input="64x100p16x4p32k")
    )
    assert (encoder.config.width, encoder.config.bands, encoder.config.frames) == (384, 64, 100)
    assert (encoder.config.patch_bands, encoder.config.patch_frames, encoder.sample_rate) == (16, 4, 32000)
    with pytest.raises(InputError, match="carries no sizes"):
        encoder_to_train(TrainOptions(objective="m2d", task="notes", out=Path("o"), input="80"))


def test_batch_parts_of_several_sizes():
    def parts(batch_size):
        return batch_parts(TrainOptions(objective="msm_mae", task="notes", out=Path("o"), batch_size=batch_size))

    assert [parts(size) for size in (64, 24, 7, 1)] == [(4, 16), (2, 12), (1, 7), (1, 1)]
    with pytest.raises(InputError, match="--batch-size 34 falls into parts of 2 only: choose a multiple of 16"):
        parts(34)


def test_run_train_is_the_same_on_any_number_of_devices(setting, monkeypatch):
    """The same crops a step and a part, on one device and on two."""
    losses = []
    for devices, batch_size in ((1, 4), (2, 2)):
        monkeypatch.setattr("jaxdissect.training.train.local_mesh", lambda n=devices: local_mesh(jax.devices()[:n]))
        out = setting["out"].with_name(f"on {devices}")
        _, record = run_train(options_of(setting, "msm_mae", out=out, batch_size=batch_size, learning_rate=1e-4))
        assert record["batch_size"] == 4
        losses.append([point["loss"] for point in record["curve"]])
    assert_within("losses on several devices, relative", relative_error(*losses))
