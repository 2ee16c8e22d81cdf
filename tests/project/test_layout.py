"""The layout: the compute modules run on a bare accelerator host. (Which package may import which: pyproject.toml.)"""

import subprocess
import sys

from jaxdissect import ViTConfig, save_encoder, untrained_m2d

HEAVY = [
    "grain", "h5netcdf", "h5py", "librosa", "pandas", "platformdirs", "soundfile", "soxr", "torch", "tqdm",
    "tyro", "xarray",
]  # fmt: skip
COMPUTE = [
    "runtime.sharding", "audio.log_mel", "encoder.families.vit", "encoder.families.catalogue",
    "encoder.families.wav2vec2", "encoder.families.linen", "encoder.families.blocks", "encoder.families.m2d",
    "encoder.directory", "activations.read", "activations.write", "activations.token_masks", "counting.statistics",
    "selection.aape", "significance.p_values", "probe.linear", "ablation.verdicts", "ablation.engine",
    "ablation.matched_controls", "ablation.interventions", "training.step", "training.m2d", "training.supervised",
]  # fmt: skip


def test_compute_modules_need_no_more_than_jax_flax_numpy_and_orbax(tmp_path):
    save_encoder(untrained_m2d(ViTConfig(frames=16, width=64, depth=1, heads=1, mlp=64)), tmp_path / "encoder")
    program = f"""
import sys
for name in {HEAVY}:
    sys.modules[name] = None  # importing it fails
import importlib
for name in {COMPUTE}:
    importlib.import_module("jaxdissect." + name)
import jax.numpy as jnp
import jaxdissect
from jaxdissect.counting import statistics
encoder = jaxdissect.load_encoder(sys.argv[1])
inputs = encoder.front_end(encoder.variables, jnp.zeros((2, 1600)))
_, readings = jaxdissect.read_neurons(encoder.module, encoder.variables, inputs, neurons=encoder.neurons)
counts = statistics.init(3, 1, 64)
members = jnp.ones((2, 4), bool)
counts = statistics.update(counts, jaxdissect.stack_layers(readings), members, jnp.arange(2), 3)
print(int(counts.clips.sum()))
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "encoder")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "8"
