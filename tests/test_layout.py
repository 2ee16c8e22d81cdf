"""The layout: imports go one way, and the compute modules run on a bare accelerator host."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdissect import ViTConfig, save_encoder, untrained_m2d

PACKAGE = Path(__file__).parent.parent / "jaxdissect"
# In the order in which the data flows; a module imports only what stands before it.
ORDER = [
    "errors", "files", "arrays", "state_file", "progress", "interrupts", "sharding", "timings", "matrix_products",
    "rendezvous", "processes", "pulse", "audio.log_mel", "audio.byte_windows", "audio.mpeg_frames", "audio.ogg_pages",
    "audio.flac_stream", "audio.pcm_headers", "audio.file_kinds", "audio.sound_files", "audio.file_names",
    "audio.decode", "tasks.recordings", "tasks.table", "tasks.tfds_records", "tasks.tfds_audio", "tasks.tfds",
    "tasks.synthesis", "tasks.known", "tasks.prepared", "tasks.loader", "tasks.preparing", "encoder.base",
    "encoder.vit", "encoder.m2d", "encoder.foreign", "encoder.shipped", "encoder.checkpoint", "encoder.convert",
    "activations", "grid", "interventions", "tokens", "statistics", "clip_log", "collect", "counting_state",
    "clip_store", "counting", "selection", "selectors", "results", "run", "job", "stage_inputs", "exchange",
    "unit_counts", "significance", "sharing", "margins", "permutation", "permutation_state", "resampling", "certainty",
    "class_scores", "certainty_files", "probe", "embeddings", "linear_evaluation", "own_head", "choosing", "dissect",
    "cautions", "probing", "neuron_sets", "neuron_set_files", "ablation.outcomes", "ablation.engine",
    "ablation.judging", "ablation.controls", "ablation.activity", "ablation.suites", "ablation.judgements",
    "ablation.results", "ablation.causal_map", "probe_files", "ablation.files", "ablation.parts", "ablation.subject",
    "ablation.stage", "comparing", "figures", "reproduce", "training.masking", "training.objective",
    "training.masked_prediction", "training.msm_mae", "training.m2d", "training.supervised", "training.step",
    "training.crops", "training.checkpoints", "training.fit", "training.options", "training.state_folder",
    "training.train", "bench_decode", "bench_device", "bench", "report.contents", "report.commands", "report.numbers",
    "report.media", "report.snippets", "report.source", "report.payload", "report.payload_checks",
    "report.payload_results", "report.overview", "report.page", "report.paper", "report.stage", "demo", "summary",
    "ablation.summary", "reproduction_summary", "bench_summary", "report.summary", "commands.outcome",
    "commands.unheard", "commands.answers", "commands.stages", "commands.tools", "commands.parsing",
    "commands.overview", "start", "cli", "__main__",
]  # fmt: skip
HEAVY = [
    "grain", "h5netcdf", "h5py", "librosa", "pandas", "platformdirs", "soundfile", "soxr", "torch", "tqdm",
    "tyro", "xarray",
]  # fmt: skip
COMPUTE = [
    "sharding", "audio.log_mel", "encoder.vit", "encoder.m2d", "encoder.checkpoint", "activations", "interventions",
    "tokens", "statistics", "selection", "significance", "probe", "ablation.outcomes", "ablation.engine",
    "ablation.controls", "ablation.suites", "training.step", "training.m2d", "training.supervised",
]  # fmt: skip


def imported(path):
    """Modules of the package that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxdissect":
            inside = node.module.removeprefix("jaxdissect").lstrip(".")
            names = [f"{inside}.{alias.name}".lstrip(".") for alias in node.names]
            found |= {name if name in ORDER else inside for name in names}
    return found - {""}


def test_every_module_has_its_place():
    modules = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    assert {module for module in modules if not module.endswith("__init__")} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_go_up_only(module):
    above = ORDER[: ORDER.index(module)]
    assert imported(PACKAGE / Path(*module.split(".")).with_suffix(".py")) <= set(above)


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
from jaxdissect import statistics
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
