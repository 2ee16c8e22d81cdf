"""The whole chain: a checkpoint in the official layout and files, to counts per class, against nnAudio and hooks."""

import argparse

import numpy as np
import pytest
import soundfile
import torch
from nnAudio.features import MelSpectrogram
from tolerances import TOLERANCES
from torch_reference import random_state, reference_chunks

from jaxdissect import ViTConfig, load_task
from jaxdissect.cli import main
from jaxdissect.runtime.tables import read_netcdf

CONFIG = ViTConfig(frames=208, width=64, depth=3, heads=1, mlp=192)
RATE = 16000
SECONDS = 2.5  # 251 frames: a full chunk of 208 and a short one
CLIPS = 12


@pytest.fixture
def checkpoint(tmp_path):
    """`{'model': ..., 'args': Namespace}` with decoder and target-network keys beside; its folder carries the sizes."""
    state = random_state(CONFIG) | {"norm_stats": torch.tensor([-6.5, 3.9])}
    beside = {"mask_token": torch.zeros(1, 1, 64), "decoder_embed.weight": torch.ones(8, 64),
              "target_blocks.0.norm1.weight": torch.ones(64)}  # fmt: skip
    folder = tmp_path / "m2d_vit_tiny-80x208p16x16-230000"
    folder.mkdir()
    content = {"model": state | beside, "args": argparse.Namespace(lr=3e-4, model="m2d"), "epoch": 300, "optimizer": {}}
    torch.save(content, folder / "checkpoint-300.pth")
    return folder / "checkpoint-300.pth", state


@pytest.fixture
def table(data_folder):
    rows = ["file_name,label,place,split"]
    time = np.arange(int(SECONDS * RATE)) / RATE
    for number in range(CLIPS):
        random = np.random.default_rng(number)
        tone = np.sin(2 * np.pi * 110 * (1 + number % 4) * time) * np.exp(-time * (number % 3))
        data_folder.write(f"{number}.wav", 0.3 * tone + 0.02 * random.normal(size=len(time)), subtype="FLOAT")
        rows.append(f"{number}.wav,{'abcd'[number % 4]},{'xy'[number // 6]},train")
    return data_folder.table("tones.csv", "\n".join(rows) + "\n")


def torch_activations(state, pcm):
    """Activations of every layer, (clip, token, neuron), as a PyTorch user gets them from waveforms."""
    mel = MelSpectrogram(sr=RATE, n_fft=400, win_length=400, hop_length=160, n_mels=80, fmin=50, fmax=8000, power=2,
                         center=True, pad_mode="reflect", verbose=False)  # fmt: skip
    with torch.no_grad():
        log_mel = torch.log(mel(torch.from_numpy(pcm)) + torch.finfo(torch.float32).eps)
        mean, std = state["norm_stats"]
        chunks = reference_chunks(state, CONFIG, ((log_mel - mean) / std).mT.numpy())
    return [np.concatenate([chunk.neurons[layer] for chunk in chunks], axis=1) for layer in range(CONFIG.depth)]


def test_from_a_published_layout_and_files_to_counts_per_class(checkpoint, table, tmp_path):
    file, state = checkpoint
    encoder, run = tmp_path / "encoder", tmp_path / "run"
    assert main(["convert", str(file), str(encoder)]) == 0
    assert main(["activations", "--encoder", str(encoder), "--task", str(table), "--unit-seconds", str(SECONDS),
                 "--label", "label,place", "--batch-size", "2", "--run", str(run)]) == 0  # fmt: skip
    counts = read_netcdf(run / "activations.nc")
    task = load_task(str(table), label=["label", "place"], unit_seconds=SECONDS)
    pcm = np.stack([soundfile.read(task.data / name, dtype="float32")[0] for name in task.file_names])
    layers = torch_activations(state, pcm)
    assert layers[0].shape == (CLIPS, 1 + 5 * 13 + 1 + 5 * 3, 192)
    # GELU halves what is nearly zero: these pairs may fall on either side of it.
    undecided = [np.abs(layer) < 10 * TOLERANCES["neurons against torch, relative"].allowed for layer in layers]
    members = task.members(range(CLIPS))
    for index in range(len(task.classes)):
        clips = members[:, index]
        assert counts["tokens"].values[index] == clips.sum() * 82
        theirs = np.stack([(layer[clips] > 0).sum(axis=(0, 1)) for layer in layers])
        allowed = np.stack([layer[clips].sum(axis=(0, 1)) for layer in undecided])
        difference = np.abs(counts["active_tokens"].values[index] - theirs)
        assert (difference <= allowed).all()
        np.testing.assert_allclose(
            counts["sum"].values[index], np.stack([layer[clips].sum(axis=(0, 1)) for layer in layers]), atol=1e-3
        )
    theirs = np.stack([(layer > 0).sum(axis=(0, 1)) for layer in layers])
    pairs = CLIPS * 82 * CONFIG.depth * CONFIG.mlp
    assert np.abs(counts["total_active_tokens"].values - theirs).sum() <= 5e-5 * pairs
    assert sum(layer.sum() for layer in undecided) < 1e-3 * pairs  # else the comparison would allow anything
