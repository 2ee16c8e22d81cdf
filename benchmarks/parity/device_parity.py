"""Whether this machine's accelerator computes the neurons that its processor computes, one by one.

`python -m benchmarks.parity.device_parity --data ESC-50 --out benchmarks/results/parity-NAME.json`

Both compute the same weights and clips and are compared with each other and with PyTorch in float64 on the processor.
A control computes the linear layers at the accelerator's default precision, which float32 must not mean: it shows what
this comparison would find. `benchmarks.parity.compare_runs` compares whole counts. Expected time: some minutes.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import jax
import numpy as np
import torch
import tyro

from benchmarks.common import build_encoder, options_record, table, write_record
from benchmarks.parity.comparison import Comparison, Error
from benchmarks.parity.tracers import Trace, flax_tracer, torch_tracer
from benchmarks.speed.torch_training import load_params
from benchmarks.speed.torch_vit import TorchViT, random_checkpoint
from jaxdissect import load_encoder, load_task
from jaxdissect.encoder.families.m2d import M2D, untrained_m2d
from jaxdissect.encoder.families.vit import vit_config
from jaxdissect.encoder.protocol import module_input
from jaxdissect.tasks.loader import batches
from jaxdissect.tasks.table import Task
from jaxdissect.types import Record

HOST, DEVICE, CONTROL = "processor", "device", "device, default precision"


@dataclasses.dataclass(frozen=True)
class Options:
    """Encoders and clips to compare."""

    data: Path  # data folder of the task
    table: str = "esc50"  # a known task, or a CSV in EVAR's format
    out: Path | None = None  # the JSON file to write
    label: str | None = None  # label sets, where the table has several
    unit_seconds: float | None = None  # of a CSV's clips
    split: str = "all"
    encoder: str = "m2d_tiny"
    size: str = "base"  # of a second encoder, which has random weights
    clips: int = 16  # evenly spaced over the task
    batch_size: int = 8


def exact_tracer(encoder: M2D) -> Callable[[np.ndarray], Trace]:
    """The neurons in float64 by PyTorch."""
    model = TorchViT(encoder.config).eval().requires_grad_(False)
    load_params(model, encoder.variables["params"])
    model = model.double()
    trace = torch_tracer(model, [block.mlp for block in model.blocks], "act", list)
    return lambda inputs: trace(inputs.astype(np.float64))


def compare_neurons(encoders: Mapping[str, M2D], task: Task, options: Options) -> Record:
    """Compare front end, tokens and single neurons of every encoder on real clips."""
    clips = np.linspace(0, len(task) - 1, min(options.clips, len(task))).astype(int).tolist()
    return {name: _compare(encoder, task.rows(clips), options.batch_size) for name, encoder in encoders.items()}


def _compare(encoder: M2D, task: Task, batch_size: int) -> Record:
    host, device = jax.local_devices(backend="cpu")[0], jax.local_devices()[0]
    sides = {HOST: flax_tracer(encoder, host), DEVICE: flax_tracer(encoder, device)}
    sides[CONTROL] = flax_tracer(encoder, device, default_precision=True)
    exact, spectra = exact_tracer(encoder), Error()
    against_exact = {name: Comparison.empty(encoder.config.depth) for name in sides}
    against_host = {name: Comparison.empty(encoder.config.depth) for name in (DEVICE, CONTROL)}
    front_end = jax.jit(partial(module_input, encoder))
    for batch in batches(task, encoder.sample_rate, batch_size):
        pcm = batch.pcm[: len(batch.statuses)]  # without the padding of the last batch
        inputs, ours = (
            np.asarray(front_end(*jax.device_put((dict(encoder.variables), pcm), place))) for place in (host, device)
        )
        spectra.add(ours, inputs)
        # All sides get the processor's spectrogram, so that only the encoder differs.
        truth = exact(inputs)
        traces = {name: side(inputs) for name, side in sides.items()}
        for name, trace in traces.items():
            against_exact[name].add(trace, truth)
        for name, comparison in against_host.items():
            comparison.add(traces[name], traces[HOST])
    return {
        "clips": len(task),
        "log_mel": _error_record(spectra),
        "against_float64": {name: _comparison_record(comparison) for name, comparison in against_exact.items()},
        "against_processor": {name: _comparison_record(comparison) for name, comparison in against_host.items()},
    }


def _error_record(error: Error) -> dict[str, float]:
    return {"of_largest": error.relative_to_largest, "of_rms": error.relative_to_rms}


def _comparison_record(comparison: Comparison) -> Record:
    total = comparison.total
    return {
        "tokens": _error_record(comparison.output),
        "activations": _error_record(total.after),
        "pairs": total.pairs,
        "differing": total.differing,
        "largest_pre_activation_among_them": total.largest_differing,
        "largest_error_of_a_pre_activation": total.before.largest_difference,
    }


def weights_agree(size: str) -> dict[str, float]:
    """Seeded random weights drawn on device and processor: fraction of the numbers that differ, and how far."""
    drawn = []
    for place in (jax.local_devices(backend="cpu")[0], jax.local_devices()[0]):
        with jax.default_device(place):
            drawn.append(jax.device_get(untrained_m2d(vit_config(size, depth=1)).variables["params"]))
    pairs = list(zip(*map(jax.tree.leaves, drawn), strict=True))
    return {
        "differing": sum(int((a != b).sum()) for a, b in pairs) / sum(a.size for a, _ in pairs),
        "largest": max(float(np.abs(a - b).max()) for a, b in pairs),
    }


def report(neurons: Record) -> str:
    """The tables of what `compare_neurons` returned."""
    head = (
        "encoder | side | against | tokens, of the RMS | activations, of the RMS | of the largest | pairs | "
        "differing | largest pre-activation among them | largest error of a pre-activation"
    )
    rows = [
        [
            *(encoder, side, reference),
            *(f"{row['tokens']['of_rms']:.1e}", f"{row['activations']['of_rms']:.1e}"),
            *(f"{row['activations']['of_largest']:.1e}", f"{row['pairs']:,}", f"{row['differing']:,}"),
            f"{row['largest_pre_activation_among_them']:.1e}",
            f"{row['largest_error_of_a_pre_activation']:.1e}",
        ]
        for encoder, parts in neurons.items()
        for reference, key in (("float64", "against_float64"), ("processor", "against_processor"))
        for side, row in parts[key].items()
    ]
    log_mel = [f"{name}: log-mel {parts['log_mel']['of_largest']:.1e}" for name, parts in neurons.items()]
    return "\n\n".join([*log_mel, table(head.split(" | "), rows)])


@torch.inference_mode()
def main(options: Options) -> None:
    """Compare, print the tables and write the record."""
    label = options.label.split(",") if options.label else ()
    task = load_task(options.table, options.data, label, options.unit_seconds).only(options.split)
    with tempfile.TemporaryDirectory() as folder:
        config = vit_config(options.size)
        random = build_encoder(random_checkpoint(Path(folder) / "checkpoint.pth", config), config)
    trained = cast(M2D, load_encoder(options.encoder))
    encoders = {options.encoder: trained, f"ViT of random weights, {options.size}": random}
    found = {"neurons": compare_neurons(encoders, task, options), "random_weights": weights_agree("tiny")}
    print(report(found["neurons"]))
    if options.out is not None:
        given = options_record(options, "data", "out") | {"table": Path(options.table).name}
        write_record(options.out, ("jax", "jaxlib", "flax", "numpy", "torch"), options=given, found=found)


if __name__ == "__main__":
    main(tyro.cli(Options))
