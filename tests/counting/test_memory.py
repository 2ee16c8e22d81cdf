"""Temporary memory of the jitted step, by the compiler: flat in depth, and little above the encoder's own."""

import jax
import numpy as np
import pytest

from jaxdissect import ViTConfig, load_task, untrained_m2d
from jaxdissect.counting.statistics import init
from jaxdissect.counting.stream import CountOptions, counting_step
from jaxdissect.runtime.sharding import local_mesh, map_per_device, per_device

BATCH = 4
SAMPLES = 33280  # 208 frames


@pytest.fixture
def task(data_folder):
    data_folder.table("t.csv", "file_name,label,split\n" + "".join(f"{n}.wav,{n},train\n" for n in range(8)))
    return load_task(str(data_folder.path / "t.csv"), unit_seconds=SAMPLES / 16000)


def encoder_of(depth):
    return untrained_m2d(ViTConfig(frames=208, width=128, depth=depth, heads=2, mlp=512))


def step_memory(encoder, task):
    """Bytes of temporary memory of the counting step, without its state, inputs and outputs."""
    mesh = local_mesh(jax.devices()[:1])
    step = counting_step(encoder, task, CountOptions(batch_size=BATCH))
    counts = per_device(lambda: init(len(task.classes), encoder.config.depth, encoder.config.mlp), mesh)
    batch = {
        "pcm": np.zeros((BATCH, SAMPLES), np.float32),
        "samples": np.zeros(BATCH, np.int32),
        "clip": np.zeros(BATCH, np.int32),
        "members": np.zeros((BATCH, len(task.classes) + 1), bool),
    }
    compiled = map_per_device(step, mesh).lower(counts, encoder.variables, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def encoder_memory(encoder):
    """The same for the encoder alone: PCM -> tokens."""

    def encode(variables, pcm):
        return encoder.module.apply(variables, encoder.front_end(variables, pcm))

    compiled = jax.jit(encode).lower(encoder.variables, np.zeros((BATCH, SAMPLES), np.float32)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_counting_step_needs_memory_that_is_flat_in_depth(task):
    shallow, deep = (step_memory(encoder_of(depth), task) for depth in (4, 16))
    per_layer = BATCH * 66 * 512 * 4  # one layer's activations: what would stay if they were not reduced at once
    assert (deep - shallow) / 12 < 0.1 * per_layer


def test_counting_step_needs_little_more_memory_than_encoding(task):
    encoder = encoder_of(12)
    assert step_memory(encoder, task) <= 2.5 * encoder_memory(encoder)
