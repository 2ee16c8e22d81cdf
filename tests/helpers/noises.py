"""Clips of noise, a small random ViT and random probes: what tests of ablation share."""

import shutil

import numpy as np
import pytest
import soundfile

from jaxdissect import Head, Judge, ViTConfig, load_task, save_encoder, untrained_m2d
from jaxdissect.cli import main

CONFIG = ViTConfig(bands=80, frames=48, patch_bands=40, patch_frames=16, width=32, depth=3, heads=2, mlp=64)
SHAPE = (CONFIG.depth, CONFIG.mlp)
CLIPS, SECONDS = 7, 0.9  # 91 frames: a chunk of 48, and one of 43 padded to 48 or cut
FEATURES, CLASSES = 64, 3
SMALL = ViTConfig(bands=16, frames=16, patch_bands=8, patch_frames=4, width=32, depth=2, heads=2, mlp=48)
TONES, TONE_SECONDS = 48, 0.1


def random_judge(features, members, *, probes=2, multi_label=False, seed=0):
    rng = np.random.default_rng(seed)
    classes = members.shape[1]

    def normal(*shape):
        return rng.normal(size=(probes, *shape)).astype(np.float32)

    variance = np.abs(normal(features)) + 0.5
    return Judge(Head(normal(features) / 9, variance, normal(features, classes), normal(classes)), members, multi_label)


def clip_samples(clip):
    return (np.random.default_rng(clip).normal(size=int(16000 * SECONDS)) * 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def encoder():
    from torch_reference import encoder_of, random_state  # PyTorch takes seconds, also where only tests are handed out

    return encoder_of(random_state(CONFIG, seed=4), CONFIG)


@pytest.fixture
def task(data_folder):
    for clip in range(CLIPS):
        data_folder.write(f"{clip}.wav", clip_samples(clip), subtype="FLOAT")
    rows = "".join(f"{clip}.wav,{'abc'[clip % 3]},{clip % 2},test\n" for clip in range(CLIPS))
    table = data_folder.table("t.csv", "file_name,label,parity,split\n" + rows)
    return load_task(str(table), label=("label", "parity"), unit_seconds=SECONDS)


@pytest.fixture(scope="session")
def dissected(tmp_path_factory):
    """A run directory with counts, neurons and probes of a small random encoder."""
    folder = tmp_path_factory.mktemp("ablate")
    save_encoder(untrained_m2d(SMALL, seed=3, name="small"), folder / "encoder")
    (folder / "data").mkdir()
    rows = ["file_name,label,place,split,src_file"]
    for clip in range(TONES):
        rng = np.random.default_rng(clip)
        tone = np.sin(np.arange(1600) * (0.1 + 0.25 * (clip % 3))) * 0.3 + rng.normal(size=1600) * 0.05
        soundfile.write(folder / "data" / f"{clip}.wav", tone.astype(np.float32), 16000)
        split = "test" if clip % 4 == 3 else "train"
        rows.append(f"{clip}.wav,{'abc'[clip % 3]},{'xyc'[clip // 3 % 3]},{split},{clip // 2}")
    (folder / "data" / "t.csv").write_text("\n".join(rows) + "\n")
    task = ["--task", str(folder / "data" / "t.csv"), "--unit-seconds", str(TONE_SECONDS), "--label", "label,place"]
    run = ["--run", str(folder / "run")]
    counting = ["--encoder", str(folder / "encoder"), *task, "--preset", "lape", "--keep", "0.3", "--bar", "0.5"]
    assert main(["dissect", *counting, *run, "--batch-size", "2", "--no-keep-clips"]) == 0
    assert main(["probe", *run, "--epochs", "20", "--learning-rate", "0.03", "--seeds", "2", "--batch-size", "2"]) == 0
    return folder


@pytest.fixture
def ablate(dissected, tmp_path, capsys, shared_programs):
    """Run `ablate` on a copy of the run; returns (exit code, printed, printed errors)."""
    shutil.copytree(dissected / "run", tmp_path / "run")

    def run(*options, command="ablate"):
        capsys.readouterr()
        code = main([command, "--run", str(tmp_path / "run"), *options])
        return code, *capsys.readouterr()

    run.path = tmp_path / "run"
    return run
