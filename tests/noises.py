"""Clips of noise, a small random ViT and random probes: what tests of ablation share."""

import numpy as np
import pytest
from torch_reference import encoder_of, random_state

from jaxdissect import Head, Judge, ViTConfig, load_task

CONFIG = ViTConfig(bands=80, frames=48, patch_bands=40, patch_frames=16, width=32, depth=3, heads=2, mlp=64)
SHAPE = (CONFIG.depth, CONFIG.mlp)
CLIPS, SECONDS = 7, 0.9  # 91 frames: a chunk of 48, and one of 43 padded to 48 or cut
FEATURES, CLASSES = 64, 3


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
    return encoder_of(random_state(CONFIG, seed=4), CONFIG)


@pytest.fixture
def task(data_folder):
    for clip in range(CLIPS):
        data_folder.write(f"{clip}.wav", clip_samples(clip), subtype="FLOAT")
    rows = "".join(f"{clip}.wav,{'abc'[clip % 3]},{clip % 2},test\n" for clip in range(CLIPS))
    table = data_folder.table("t.csv", "file_name,label,parity,split\n" + rows)
    return load_task(str(table), label=("label", "parity"), unit_seconds=SECONDS)
