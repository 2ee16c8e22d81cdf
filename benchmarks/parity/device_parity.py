"""Whether this machine's accelerator computes the neurons that its processor computes, one by one.

`python -m benchmarks.parity.device_parity --data ESC-50 --out benchmarks/results/parity-NAME.json`

The same weights and the same clips on both. The reference is PyTorch in float64 on the processor, so that both are held
to the truth and not only to each other. A control computes the linear layers at the accelerator's default precision,
which is what float32 must not mean: it shows what this comparison would find. Whole counts are compared by
`benchmarks.parity.compare_runs`.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro

from benchmarks.common import build_encoder, table, write_record
from benchmarks.parity.comparison import Comparison, Error, Layer, Trace
from benchmarks.parity.parity import join_calls, torch_tracer
from benchmarks.speed.torch_training import load_params
from benchmarks.speed.torch_vit import TorchViT, random_checkpoint
from jaxdissect import load_encoder, load_task
from jaxdissect.encoder.m2d import M2D, untrained_m2d
from jaxdissect.encoder.protocol import module_input
from jaxdissect.encoder.vit import vit_config
from jaxdissect.tasks.loader import batches
from jaxdissect.tasks.table import Task

HOST, DEVICE, CONTROL = "processor", "device", "device, default precision"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare."""

    data: Path  # data folder of the task
    table: str = "esc50"  # a known task, or a CSV in EVAR's format
    out: Path | None = None  # the JSON file to write
    label: str | None = None  # label sets, where the table has several
    unit_seconds: float | None = None  # for a CSV
    split: str = "all"
    encoder: str = "m2d_tiny"
    size: str = "base"  # of an encoder of random weights, the second one
    clips: int = 16  # evenly spaced
    batch_size: int = 8


def jax_tracer(encoder: M2D, device: jax.Device, lowered: bool = False) -> Callable[[np.ndarray], Trace]:
    """Run an encoder on a device on inputs (clip, frame, band), keeping every neuron before and after GELU."""

    def dense(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if not (lowered and isinstance(context.module, nn.Dense) and context.method_name == "__call__"):
            return call(*args, **kwargs)
        params = context.module.variables["params"]
        return jnp.matmul(args[0], params["kernel"], precision="default") + params["bias"]

    @jax.jit
    def run(params: Any, inputs: jax.Array) -> Any:
        with nn.intercept_methods(dense):
            return encoder.module.apply(
                {"params": params},
                inputs,
                mutable=["intermediates"],
                capture_intermediates=lambda module, _: module.name in ("fc1", "act"),
            )

    params = jax.device_put(encoder.variables["params"], device)

    def trace(inputs: np.ndarray) -> Trace:
        output, captured = jax.device_get(run(params, jax.device_put(inputs, device)))
        layers = [captured["intermediates"][f"blocks_{layer}"]["mlp"] for layer in range(encoder.config.depth)]
        before, after = ([join_calls(layer[name]["__call__"]) for layer in layers] for name in ("fc1", "act"))
        return Trace(join_calls(output), before, after)

    return trace


def exact_tracer(encoder: M2D) -> Callable[[np.ndarray], Trace]:
    """The same in float64 by PyTorch."""
    model = TorchViT(encoder.config).eval().requires_grad_(False)
    load_params(model, encoder.variables["params"])
    model = model.double()
    trace = torch_tracer(model, [block.mlp for block in model.blocks], "act", list)
    return lambda inputs: trace(inputs.astype(np.float64))


def compare_neurons(encoders: Mapping[str, M2D], task: Task, options: Options) -> dict[str, Any]:
    """Every encoder on real clips: front end, tokens, and neurons one by one."""
    chosen = task.rows(np.linspace(0, len(task) - 1, min(options.clips, len(task))).astype(int).tolist())
    return {name: _neurons(encoder, chosen, options.batch_size) for name, encoder in encoders.items()}


def _neurons(encoder: M2D, task: Task, size: int) -> dict[str, Any]:
    host, device = jax.local_devices(backend="cpu")[0], jax.local_devices()[0]
    sides = {HOST: jax_tracer(encoder, host), DEVICE: jax_tracer(encoder, device)}
    sides[CONTROL] = jax_tracer(encoder, device, lowered=True)
    exact, spectra = exact_tracer(encoder), Error()
    against_exact = {name: Comparison.of(encoder.config.depth) for name in sides}
    against_host = {name: Comparison.of(encoder.config.depth) for name in (DEVICE, CONTROL)}
    front_end = jax.jit(partial(module_input, encoder))
    for batch in batches(task, encoder.sample_rate, size):
        inputs, ours = (
            np.asarray(front_end(*jax.device_put((dict(encoder.variables), batch.pcm[: len(batch.statuses)]), where)))
            for where in (host, device)
        )
        spectra.add(ours, inputs)
        truth = exact(inputs)
        traces = {name: side(inputs) for name, side in sides.items()}
        for name, trace in traces.items():
            against_exact[name].add(trace, truth)
        for name, found in against_host.items():
            found.add(traces[name], traces[HOST])
    return {
        "clips": len(task),
        "log_mel": _error(spectra),
        "against_float64": {name: _told(found) for name, found in against_exact.items()},
        "against_processor": {name: _told(found) for name, found in against_host.items()},
    }


def _error(error: Error) -> dict[str, float]:
    return {"of_largest": error.of_largest, "of_rms": error.of_rms}


def _told(found: Comparison) -> dict[str, Any]:
    total: Layer = found.total
    return {
        "tokens": _error(found.output),
        "activations": _error(total.after),
        "pairs": total.pairs,
        "differing": total.differing,
        "largest_pre_activation_among_them": total.largest_differing,
        "largest_error_of_a_pre_activation": total.before.largest_difference,
    }


def weights_agree(size: str) -> dict[str, float]:
    """Seeded random weights, drawn on device and processor: share of the numbers that differ, and how far."""
    drawn = []
    for where in (jax.local_devices(backend="cpu")[0], jax.local_devices()[0]):
        with jax.default_device(where):
            drawn.append(jax.device_get(untrained_m2d(vit_config(size, depth=1)).variables["params"]))
    pairs = list(zip(*map(jax.tree.leaves, drawn), strict=True))
    return {
        "differing": sum(int((a != b).sum()) for a, b in pairs) / sum(a.size for a, _ in pairs),
        "largest": max(float(np.abs(a - b).max()) for a, b in pairs),
    }


def report(found: dict[str, Any]) -> str:
    """The tables."""
    head = ["encoder", "side", "against", "tokens, of the RMS", "activations, of the RMS", "of the largest", "pairs",
            "differing", "largest pre-activation among them", "largest error of a pre-activation"]  # fmt: skip
    rows = [
        [
            encoder, side, reference, f"{one['tokens']['of_rms']:.1e}", f"{one['activations']['of_rms']:.1e}",
            f"{one['activations']['of_largest']:.1e}", f"{one['pairs']:,}", f"{one['differing']:,}",
            f"{one['largest_pre_activation_among_them']:.1e}", f"{one['largest_error_of_a_pre_activation']:.1e}",
        ]
        for encoder, parts in found["neurons"].items()
        for reference, key in (("float64", "against_float64"), ("processor", "against_processor"))
        for side, one in parts[key].items()
    ]  # fmt: skip
    log_mel = [f"{name}: log-mel {parts['log_mel']['of_largest']:.1e}" for name, parts in found["neurons"].items()]
    return "\n\n".join([*log_mel, table(head, rows)])


@torch.inference_mode()
def main(options: Options) -> None:
    """Compare, print and write down."""
    task = load_task(
        options.table, options.data, options.label.split(",") if options.label else (), options.unit_seconds
    )
    task = task if options.split == "all" else task.only(options.split)
    trained: Any = load_encoder(options.encoder)
    with tempfile.TemporaryDirectory() as folder:
        config = vit_config(options.size)
        random = build_encoder(random_checkpoint(Path(folder) / "checkpoint.pth", config), config)
    encoders = {options.encoder: trained, f"ViT of random weights, {options.size}": random}
    found = {"neurons": compare_neurons(encoders, task, options), "random_weights": weights_agree("tiny")}
    print(report(found))
    if options.out is not None:
        told = {name: value for name, value in dataclasses.asdict(options).items() if name not in ("data", "out")}
        told["table"] = Path(options.table).name
        write_record(options.out, ("jax", "jaxlib", "flax", "numpy", "torch"), options=told, found=found)


if __name__ == "__main__":
    main(tyro.cli(Options))
