"""Throughput and memory of counting neurons: here, in PyTorch, and against the matrix products that both must compute.

Random weights, the same in both: `python -m benchmarks.speed.throughput --out benchmarks/results/NAME.json`
"""

import dataclasses
import json
import math
import tempfile
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from torch.nn.functional import scaled_dot_product_attention
from torch.utils import mkldnn

from benchmarks.common import Devices, build_encoder, machine, table, versions
from benchmarks.speed.torch_vit import Counts, NeuronCounter, load_torch_vit, random_checkpoint
from jaxdissect.activations.read import read_neurons, stack_layers
from jaxdissect.counting import statistics
from jaxdissect.encoder.m2d import M2D
from jaxdissect.encoder.vit import ViTConfig, vit_config
from jaxdissect.runtime.files import whole_file
from jaxdissect.runtime.sharding import local_mesh, map_per_device, per_device, replicate, shard_clips

CLASSES = 50
COUNTING, FROM_PCM, ENCODER = "jax counting", "jax counting from PCM", "jax encoder"
PEER, ONEDNN, COMPILED = "torch counting", "torch oneDNN counting", "torch compiled counting"
MOST_DIFFERING = {"float32": 1e-4, "bfloat16": 0.05}  # share of neuron-token pairs; beyond it, not the same model
Run = Callable[[], None]
Data = tuple[np.ndarray, np.ndarray]  # the clips as normalised log-mel and as PCM
Product = tuple[int, tuple[int, ...], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    out: Path  # the JSON file to write
    size: str = "base"  # "tiny", "small", "base" or "large"
    depth: int | None = None  # blocks, if not the size's own number
    seconds: float = 6.0  # length of a clip
    batch_sizes: tuple[int, ...] = (4, 8, 16)  # each side is measured at its best one
    pairs: int = 10  # interleaved rounds, in each of which everything runs once
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)  # of the computation
    compile: bool = False  # measure torch.compile, too
    memory_depths: tuple[int, ...] = (4, 12, 24)  # where to compare the memory of counting with the encoder's
    products_by: tuple[Literal["jax", "torch"], ...] = ("jax", "torch")  # whose products make the ceiling
    seed: int = 0  # of weights and clips


class JaxSide:
    """The encoder and the counting step of this package, on a mesh of one device."""

    def __init__(self, encoder: M2D, devices: Devices) -> None:
        self.encoder, self.devices, self.mesh = encoder, devices, local_mesh([devices.jax])
        self.steps = {source: map_per_device(partial(self.step, source), self.mesh) for source in ("input", "pcm")}
        self.encode = jax.jit(lambda params, inputs: encoder.module.apply({"params": params}, inputs))
        self.init = partial(statistics.init, CLASSES, encoder.config.depth, encoder.config.mlp)

    def step(self, source: str, counts: Any, variables: Any, clips: Any) -> tuple[Any, Any]:
        """Encode a batch, read its neurons, add them to their classes: the step of a run."""
        inputs = clips["input"] if source == "input" else self.encoder.front_end(variables, clips["pcm"])
        _, readings = read_neurons(self.encoder.module, variables, inputs, neurons=self.encoder.neurons)
        reading = stack_layers(readings)
        counts = statistics.update(counts, reading, clips["members"], clips["clip"], labels_per_clip=1)
        return counts, reading.tokens

    def put(self, inputs: np.ndarray, pcm: np.ndarray) -> Any:
        """A batch on the device; clip n is of class n modulo the classes."""
        number = np.arange(len(inputs), dtype=np.int32)
        members = (np.arange(CLASSES + 1) == number[:, None] % CLASSES) | (np.arange(CLASSES + 1) == CLASSES)
        return shard_clips({"input": inputs, "pcm": pcm, "members": members, "clip": number}, self.mesh)

    def variants(self, data: Data, size: int) -> dict[str, Run]:
        """What to time on one batch."""
        state, variables = [per_device(self.init, self.mesh)], self.encoder.variables
        clips = self.put(*(part[:size] for part in data))

        def count(source: str) -> None:
            state[0], _ = self.steps[source](state[0], variables, clips)
            self.devices.wait(state)

        return {
            COUNTING: partial(count, "input"),
            FROM_PCM: partial(count, "pcm"),
            ENCODER: lambda: self.devices.wait(self.encode(variables["params"], clips["input"])),
        }


class TorchSide:
    """The same encoder in PyTorch with hooks; it does less than `JaxSide`, which also adds its counts to classes."""

    def __init__(self, checkpoint: Path, config: ViTConfig, dtype: str, devices: Devices, compiled: bool) -> None:
        self.devices, self.dtype = devices, getattr(torch, dtype)
        model = load_torch_vit(checkpoint, config).to(devices.torch, self.dtype)
        self.calls: dict[str, Callable[[torch.Tensor], tuple[list[torch.Tensor], Counts]]] = {
            PEER: NeuronCounter(model).count
        }
        if devices.torch.type == "cpu" and dtype == "float32":  # MKL runs AMD processors at half their speed
            self.calls[ONEDNN] = NeuronCounter(mkldnn.to_mkldnn(load_torch_vit(checkpoint, config))).count
        if compiled:
            self.calls[COMPILED] = torch.compile(self.calls[PEER], fullgraph=True, dynamic=False)

    def put(self, inputs: np.ndarray) -> torch.Tensor:
        """(clip, frame, band) -> (clip, 1, band, frame) on the device."""
        return torch.from_numpy(inputs).mT[:, None].contiguous().to(self.devices.torch, self.dtype)

    def variants(self, data: Data, size: int) -> dict[str, Run]:
        """What to time on one batch."""
        batch = self.put(data[0][:size])
        return {name: partial(lambda call: self.devices.wait(call(batch)), call) for name, call in self.calls.items()}


def compare_counts(ours: JaxSide, peer: TorchSide, data: Data, limit: float) -> dict[str, float]:
    """How far the counts of the two timed programs agree, class by class; of 50 clips, each has a class of its own."""
    inputs, clips = data[0], ours.put(*data)
    totals = statistics.flush(ours.steps["input"](per_device(ours.init, ours.mesh), ours.encoder.variables, clips)[0])
    theirs = peer.calls[PEER](peer.put(inputs))[1].active_tokens.cpu().numpy()
    pairs = int(totals.tokens[-1]) * math.prod(theirs.shape[1:])
    theirs = np.stack([theirs[first::CLASSES].sum(axis=0, dtype=np.float64) for first in range(CLASSES)])
    difference = np.abs(totals.active_tokens[:CLASSES] - theirs)
    found = {"neuron_token_pairs": pairs, "differing_at_least": int(difference.sum())}
    if not found["differing_at_least"] <= limit * pairs:
        raise SystemExit(f"The two sides do not compute the same, at most {limit} may differ: {found}")
    return {**found, "differing_share": found["differing_at_least"] / pairs}


def seconds_of(run: Run) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def best_time(call: Callable[[], Any], devices: Devices) -> float:
    """Best seconds of one call out of 5 times as many calls as take 20 ms, so that launching them does not count."""
    devices.wait(call())
    calls = int(max(1, 0.02 // seconds_of(lambda: devices.wait(call()))))
    return min(seconds_of(lambda: devices.wait(*deque((call() for _ in range(calls)), 1))) for _ in range(5)) / calls


def products(encoder: M2D, samples: int, clips: int) -> dict[str, Product]:
    """The matrix products of the model on a batch: how many, shape of the left, shape of the right side."""
    config, found = encoder.config, dict[str, Product]()
    depth, width, head = config.depth, config.width, config.width // config.heads
    linear = {"qkv": (width, 3 * width), "proj": (width, width), "fc1": (width, config.mlp), "fc2": (config.mlp, width)}
    for call, layout in enumerate(encoder.token_layout(samples)):
        chunks, tokens = layout.is_patch.shape
        batch, patch = (clips * chunks, config.heads), (config.patch_bands * config.patch_frames, width)
        found[f"patches {call}"] = (1, (clips * chunks * (tokens - 1), patch[0]), patch)
        for name, shape in linear.items():
            found[f"{name} {call}"] = (depth, (clips * chunks * tokens, shape[0]), shape)
        found[f"scores {call}"] = (depth, (*batch, tokens, head), (*batch, head, tokens))
        found[f"mix {call}"] = (depth, (*batch, tokens, tokens), (*batch, tokens, head))
    return found


def product_times(
    left: tuple[int, ...], right: tuple[int, ...], dtype: str, devices: Devices, by: tuple[str, ...]
) -> dict[str, float]:
    """Seconds of one product in both frameworks; PyTorch keeps the right side of a linear layer transposed."""
    a, b = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in (left, right))
    x, y = (jax.device_put(jnp.asarray(side, dtype), devices.jax) for side in (a, b))
    u, v = (torch.from_numpy(side).to(devices.torch, getattr(torch, dtype)) for side in (a, b))
    v = v if v.ndim > 2 else v.T.contiguous().T
    product = jax.jit(partial(jnp.matmul, precision="highest"))
    calls = {"jax": lambda: product(x, y), "torch": lambda: torch.matmul(u, v)}
    return {name: best_time(calls[name], devices) for name in by}


def ceiling(
    encoder: M2D, samples: int, clips: int, dtype: str, devices: Devices, by: tuple[str, ...]
) -> dict[str, Any]:
    """Clips a second if the model were its products alone, each (or fused attention) by the faster framework."""
    rows: dict[str, dict[str, Any]] = {}
    for name, (times, left, right) in products(encoder, samples, clips).items():
        seconds = product_times(left, right, dtype, devices, by)
        rows[name] = {"product": (times, left, right), "seconds": seconds, "best": min(seconds.values())}
    for scores, mix in [(row, rows[name.replace("scores", "mix")]) for name, row in rows.items() if "scores" in name]:
        part = torch.randn(scores["product"][1], device=devices.torch, dtype=getattr(torch, dtype))
        scores["fused"] = best_time(partial(scaled_dot_product_attention, part, part, part), devices)
        if scores["fused"] < scores["best"] + mix["best"]:
            scores["best"], mix["best"] = scores["fused"], 0.0
    total = sum(row["product"][0] * row["best"] for row in rows.values())
    return {"seconds": total, "clips_per_second": clips / total, "products": rows}


def speed(run: Run, clips: int) -> Any:
    """Clips a second, the better of two runs after a first; or why there is none."""
    try:
        run()
        return clips / min(seconds_of(run) for _ in range(2))
    except Exception as error:  # compilers and allocators raise many kinds
        return f"{type(error).__name__}: {str(error)[:500]}"


def memory(encoder: M2D, data: Data, clips: int, depths: tuple[int, ...], devices: Devices) -> dict[int, Any]:
    """Bytes of temporaries of the encoder and of counting, by the compiler's account; the first block is repeated."""
    found, params = dict[int, Any](), dict(encoder.variables["params"])
    for depth in depths:
        side = JaxSide(dataclasses.replace(encoder, config=dataclasses.replace(encoder.config, depth=depth)), devices)
        deep = {**encoder.variables, "params": params | {f"blocks_{n}": params["blocks_0"] for n in range(depth)}}
        batch, state = side.put(*(part[:clips] for part in data)), per_device(side.init, side.mesh)
        programs = side.encode.lower(deep["params"], batch["input"]), side.steps["input"].lower(state, deep, batch)
        plain, counting = (cast(Any, one.compile().memory_analysis()).temp_size_in_bytes for one in programs)
        found[depth] = {"encoder": plain, "counting": counting}
    return found


@torch.inference_mode()
def measure(options: Options, config: ViTConfig, checkpoint: Path, dtype: str, devices: Devices) -> dict[str, Any]:
    """Everything at one precision."""
    encoder = build_encoder(checkpoint, config, dtype)
    encoder = dataclasses.replace(encoder, variables=replicate(dict(encoder.variables), local_mesh([devices.jax])))
    samples, least = round(options.seconds * encoder.sample_rate), min(*options.batch_sizes, CLASSES)
    pcm = np.random.default_rng(options.seed).normal(0, 0.1, (max(options.batch_sizes), samples)).astype(np.float32)
    front_end = jax.jit(encoder.front_end)
    data = (np.concatenate([front_end(encoder.variables, clip[None]) for clip in pcm]), pcm)
    ours, peer = JaxSide(encoder, devices), TorchSide(checkpoint, config, dtype, devices, options.compile)
    smallest = min(options.batch_sizes)
    agreement = compare_counts(ours, peer, (data[0][:smallest], data[1][:smallest]), MOST_DIFFERING[dtype])
    batches = {size: ours.variants(data, size) | peer.variants(data, size) for size in options.batch_sizes}
    search = {name: {size: speed(run[name], size) for size, run in batches.items()} for name in (COUNTING, *peer.calls)}
    worked = {name: [size for size, rate in found.items() if isinstance(rate, float)] for name, found in search.items()}
    best = {name: max(sizes, key=search[name].__getitem__) for name, sizes in worked.items() if sizes}
    best |= dict.fromkeys((ENCODER, FROM_PCM), best[COUNTING])
    rounds = [{name: seconds_of(batches[size][name]) for name, size in best.items()} for _ in range(1 + options.pairs)]
    rates = {name: size / np.array([one[name] for one in rounds[1:]]) for name, size in best.items()}
    ratios = {name: rates[COUNTING] / rate for name, rate in rates.items()}
    limits = {size: ceiling(encoder, samples, size, dtype, devices, options.products_by) for size in set(best.values())}
    square = (2048, 2048) if devices.jax.platform == "cpu" else (8192, 8192)
    return {
        "agreement": agreement,
        "search": search,
        "batch": best,
        "seconds": rounds[1:],  # the first round warms up
        "ceiling": limits,
        "square_product": {
            "shape": square,
            "seconds": product_times(square, square, dtype, devices, options.products_by),
        },
        "clips_per_second": {name: float(np.median(rate)) for name, rate in rates.items()},
        "of_the_ceiling": {name: np.median(rates[name]) / limits[best[name]]["clips_per_second"] for name in best},
        "times_as_fast": {name: [np.median(ratio), ratio.min(), ratio.max()] for name, ratio in ratios.items()},
        "memory": memory(encoder, data, least, options.memory_depths, devices),
    }


def report(dtype: str, found: dict[str, Any]) -> str:
    """The tables of one precision."""
    head = [dtype, "clips a batch", "clips/s, median", "of the ceiling", f"{COUNTING} is times as fast", "min", "max"]
    rows = []
    for name, rate in found["clips_per_second"].items():
        ratios = [f"{ratio:.3f}" for ratio in found["times_as_fast"][name]]
        rows.append([name, found["batch"][name], f"{rate:.2f}", f"{found['of_the_ceiling'][name]:.0%}", *ratios])
    sizes = [[depth, *(f"{size / 2**20:.1f}" for size in one.values())] for depth, one in found["memory"].items()]
    return (
        table(head, rows) + "\n\n" + table(["blocks", "temporaries of the encoder, MiB", "with counting, MiB"], sizes)
    )


def main(options: Options) -> None:
    """Measure, write the JSON and print the tables, after each precision what is there."""
    devices = Devices.choose()
    config = vit_config(options.size, **({"depth": options.depth} if options.depth else {}))
    result = {
        "options": {**dataclasses.asdict(options), "out": options.out.name},
        "vit": dataclasses.asdict(config),
        "machine": machine()
        | {"jax": devices.jax.device_kind, "torch": devices.torch.type, "cuda": torch.version.cuda},
        "versions": versions("jax", "jaxlib", "flax", "torch", "numpy"),
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder) / "checkpoint.pth", config, options.seed)
        runs: dict[str, Any] = {}
        for dtype in options.dtypes:
            runs[dtype] = measure(options, config, checkpoint, dtype, devices)
            with whole_file(options.out) as temporary:
                temporary.write_text(json.dumps({**result, "runs": runs}, indent=1) + "\n")
            print(report(dtype, runs[dtype]) + "\n", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
