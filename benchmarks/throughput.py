"""Throughput and memory of counting neurons: here, in PyTorch, and against the matrix products that both must compute.

One run, one machine, random weights that are the same in both frameworks:
`python -m benchmarks.throughput --size base --batch-sizes 4 8 16 --out benchmarks/results/NAME.json`
"""

import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")  # leaves half of a GPU to PyTorch

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
import tyro

from benchmarks.parity import build_encoder, machine, table, versions
from benchmarks.torch_vit import Counts, NeuronCounter, load_torch_vit, random_checkpoint
from jaxdissect import statistics
from jaxdissect.activations import read_neurons, stack_layers
from jaxdissect.encoder.m2d import M2D
from jaxdissect.encoder.vit import ViTConfig, vit_config
from jaxdissect.files import write_whole
from jaxdissect.sharding import local_mesh, map_per_device, per_device, replicate, shard_clips

CLASSES = 50
COUNTED, PEER, COMPILED = "jax counting", "torch counting", "torch compiled counting"
RATIOS = ((COUNTED, PEER), (COUNTED, COMPILED), (COUNTED, "jax encoder"), ("jax counting from PCM", COUNTED))
MOST_DIFFERING = {"float32": 1e-4, "bfloat16": 0.05}  # share of neuron-token pairs; beyond it, not the same model
Run = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    out: Path  # the JSON file to write
    size: str = "base"  # "tiny", "small", "base" or "large"
    depth: int | None = None  # blocks, if not the size's own number
    seconds: float = 6.0  # length of a clip
    batch_sizes: tuple[int, ...] = (4, 8, 16)  # each side is measured at its best one
    pairs: int = 10  # interleaved rounds, in each of which everything runs once
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)
    compile: bool = False  # measure torch.compile, too
    memory_depths: tuple[int, ...] = (4, 12, 24)  # where to compare the memory of counting with the encoder's
    seed: int = 0  # of weights and clips


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where both frameworks run: on the first device that JAX sees, if PyTorch can use it, too."""

    jax: jax.Device
    torch: torch.device

    @staticmethod
    def choose() -> "Devices":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        first = jax.local_devices()[0]
        return Devices(first, torch.device("cuda" if first.platform == "gpu" and torch.cuda.is_available() else "cpu"))

    def wait(self, *results: Any) -> None:
        """Block until results of either framework are there."""
        if self.torch.type == "cuda":
            torch.cuda.synchronize()
        jax.block_until_ready([leaf for leaf in jax.tree.leaves(results) if isinstance(leaf, jax.Array)])

    def describe(self) -> dict[str, Any]:
        """The machine; of PyTorch also whether it has CUDA, since without it a GPU is compared with a CPU."""
        return {**machine(), "load_before": os.getloadavg(), "accelerator": self.jax.device_kind,
                "jax_device": self.jax.platform, "torch_device": self.torch.type, "torch_cuda": torch.version.cuda}


class JaxSide:
    """The encoder and the counting step of this package, on a mesh of one device."""

    def __init__(self, encoder: M2D, devices: Devices) -> None:
        self.encoder, self.devices, self.mesh = encoder, devices, local_mesh([devices.jax])
        self.steps = {source: map_per_device(partial(self.step, source), self.mesh) for source in ("input", "pcm")}
        self.encode = jax.jit(lambda params, inputs: encoder.embed(encoder.module.apply({"params": params}, inputs)))

    def step(self, source: str, counts: Any, variables: Any, clips: Any) -> tuple[Any, Any]:
        """Encode a batch, read its neurons, add them to their classes: the step of a run."""
        inputs = clips["input"] if source == "input" else self.encoder.front_end(variables, clips["pcm"])
        params = {"params": variables["params"]}
        output, readings = read_neurons(self.encoder.module, params, inputs, neurons=self.encoder.neurons)
        reading = stack_layers(readings)
        counts = statistics.update(counts, reading, clips["members"], clips["number"], labels_per_clip=1)
        return counts, self.encoder.embed(output)

    def empty(self) -> Any:
        return per_device(partial(statistics.init, CLASSES, self.encoder.config.depth, self.encoder.config.mlp), self.mesh)

    def put(self, inputs: np.ndarray, pcm: np.ndarray) -> Any:
        """A batch on the device; clip number n is of class n modulo the classes."""
        members = np.eye(CLASSES + 1, dtype=bool)[np.arange(len(inputs)) % CLASSES] | (np.arange(CLASSES + 1) == CLASSES)
        number = np.arange(len(inputs), dtype=np.int32)
        return shard_clips({"input": inputs, "pcm": pcm, "members": members, "number": number}, self.mesh)

    def variants(self, inputs: np.ndarray, pcm: np.ndarray) -> dict[str, Run]:
        """What to time on one batch."""
        state, variables = [self.empty()], replicate(dict(self.encoder.variables), self.mesh)
        clips = self.put(inputs, pcm)

        def count(source: str) -> None:
            state[0], embedding = self.steps[source](state[0], variables, clips)
            self.devices.wait(state, embedding)

        return {COUNTED: partial(count, "input"), "jax counting from PCM": partial(count, "pcm"),
                "jax encoder": lambda: self.devices.wait(self.encode(variables["params"], clips["input"]))}

    def temporary_memory(self, inputs: np.ndarray, pcm: np.ndarray) -> dict[str, int]:
        """Bytes of temporary memory of the encoder and of counting, as the compiler accounts for them."""
        clips, state = self.put(inputs, pcm), jax.eval_shape(self.empty)
        programs = {"encoder": self.encode.lower(self.encoder.variables["params"], clips["input"]),
                    "counting": self.steps["input"].lower(state, self.encoder.variables, clips)}
        return {name: program.compile().memory_analysis().temp_size_in_bytes for name, program in programs.items()}


class TorchSide:
    """The same encoder in PyTorch with hooks; it does less than `JaxSide`, which also adds counts to classes."""

    def __init__(self, checkpoint: Path, config: ViTConfig, dtype: str, devices: Devices, compiled: bool) -> None:
        self.devices, self.dtype = devices, getattr(torch, dtype)
        self.model = load_torch_vit(checkpoint, config).to(devices.torch, self.dtype)
        self.counter = NeuronCounter(self.model)
        self.calls = {PEER: self.count}
        if compiled:
            self.calls[COMPILED] = torch.compile(self.count, fullgraph=True, dynamic=False)

    def count(self, batch: torch.Tensor) -> tuple[list[torch.Tensor], Counts]:
        return self.model(batch), self.counter.take()

    def put(self, inputs: np.ndarray) -> torch.Tensor:
        """(clip, frame, band) -> (clip, 1, band, frame) on the device."""
        return torch.from_numpy(inputs).mT[:, None].contiguous().to(self.devices.torch, self.dtype)

    def variants(self, inputs: np.ndarray, _pcm: np.ndarray) -> dict[str, Run]:
        batch = self.put(inputs)

        def run(call: Callable[[torch.Tensor], Any]) -> None:
            with torch.inference_mode():
                self.devices.wait(call(batch))

        return {name: partial(run, call) for name, call in self.calls.items()}


def seconds_of(run: Run) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare_counts(ours: JaxSide, peer: TorchSide, inputs: np.ndarray, limit: float) -> dict[str, float]:
    """How far the counts of the two timed programs agree on clips that are each in a class of their own."""
    clips = ours.put(inputs, np.zeros((len(inputs), 1), np.float32))
    totals = statistics.flush(ours.steps["input"](ours.empty(), replicate(dict(ours.encoder.variables), ours.mesh), clips)[0])
    with torch.inference_mode():
        theirs = peer.count(peer.put(inputs))[1].active_tokens.cpu().numpy()
    difference = np.abs(totals.active_tokens[: len(inputs)] - theirs)
    pairs = int(totals.tokens[-1]) * math.prod(theirs.shape[1:])
    found = {"neuron_token_pairs": pairs, "differing_pairs_at_least": int(difference.sum()),
             "differing_share": difference.sum() / pairs, "differing_counts_share": (difference > 0).mean()}
    if not found["differing_share"] <= limit:
        raise SystemExit(f"The two sides do not compute the same, at most {limit} may differ: {found}")
    return {name: float(value) for name, value in found.items()}


def products(encoder: M2D, samples: int, clips: int) -> dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """The matrix products of the model on a batch: how many, shape of the left, shape of the right side."""
    config, found = encoder.config, {}
    for call, tokens in enumerate(encoder.tokens(samples)):
        (chunks, length), width, head = tokens.is_patch.shape, config.width, config.width // config.heads
        rows, batch = clips * chunks * length, (clips * chunks, config.heads)
        pixels = config.patch_bands * config.patch_frames
        found |= {f"patches {call}": (1, (clips * chunks * (length - 1), pixels), (pixels, width)),
                  f"qkv {call}": (config.depth, (rows, width), (width, 3 * width)),
                  f"proj {call}": (config.depth, (rows, width), (width, width)),
                  f"fc1 {call}": (config.depth, (rows, width), (width, config.mlp)),
                  f"fc2 {call}": (config.depth, (rows, config.mlp), (config.mlp, width)),
                  f"scores {call}": (config.depth, (*batch, length, head), (*batch, head, length)),
                  f"mix {call}": (config.depth, (*batch, length, length), (*batch, length, head))}
    return found


def best_time(call: Callable[[], Any], devices: Devices) -> float:
    """Best seconds of one call out of 5 times as many calls as take 20 ms, so that launching them does not count."""
    devices.wait(call())
    calls = int(max(1, 0.02 // seconds_of(lambda: devices.wait(call()))))

    def several() -> None:
        for _ in range(calls):
            result = call()
        devices.wait(result)

    return min(seconds_of(several) for _ in range(5)) / calls


def product_times(left: tuple[int, ...], right: tuple[int, ...], dtype: str, devices: Devices) -> dict[str, float]:
    """Seconds of one product in both frameworks; PyTorch keeps the right side of a linear layer transposed."""
    a, b = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in (left, right))
    x, y = (jax.device_put(jnp.asarray(side, dtype), devices.jax) for side in (a, b))
    u, v = (torch.from_numpy(side).to(devices.torch, getattr(torch, dtype)) for side in (a, b))
    v = v if v.ndim > 2 else v.T.contiguous().T
    product = jax.jit(partial(jnp.matmul, precision="highest"))
    return {"jax": best_time(lambda: product(x, y), devices), "torch": best_time(lambda: torch.matmul(u, v), devices)}


def ceiling(encoder: M2D, samples: int, clips: int, dtype: str, devices: Devices) -> dict[str, Any]:
    """Clips a second if the model were its products alone, each as fast as the faster framework does it.

    PyTorch's fused attention stands in for attention's two products where it is faster than they are.
    """
    table = {}
    for name, (times, left, right) in products(encoder, samples, clips).items():
        seconds = product_times(left, right, dtype, devices)
        table[name] = {"times": times, "left": left, "right": right, "seconds": seconds, "best": min(seconds.values()),
                       "gflops": 2e-9 * math.prod(left) * right[-1] / min(seconds.values())}
    for scores, mix in [(row, table[name.replace("scores", "mix")]) for name, row in table.items() if "scores" in name]:
        parts = [torch.randn(scores["left"], device=devices.torch, dtype=getattr(torch, dtype)) for _ in range(3)]
        scores["fused"] = best_time(partial(F.scaled_dot_product_attention, *parts), devices)
        if scores["fused"] < scores["best"] + mix["best"]:
            scores["best"], mix["best"] = scores["fused"], 0.0
    total = sum(row["times"] * row["best"] for row in table.values())
    return {"seconds": total, "clips_per_second": clips / total, "products": table}


def speeds(side: JaxSide | TorchSide, data: list[np.ndarray], sizes: tuple[int, ...]) -> dict[str, dict[int, Any]]:
    """Clips a second of what a side counts with, by batch size: the better of two runs, or why it does not run."""
    found: dict[str, dict[int, Any]] = {}
    for size in sizes:
        for name, run in side.variants(*(part[:size] for part in data)).items():
            if name not in (COUNTED, PEER, COMPILED):
                continue
            try:
                run()
                rate: float | str = size / min(seconds_of(run) for _ in range(2))
            except Exception as error:  # compilers and allocators raise many kinds
                rate = f"{type(error).__name__}: {str(error)[:500]}"
            found.setdefault(name, {})[size] = rate
    return found


def memory_by_depth(encoder: M2D, data: list[np.ndarray], options: Options, devices: Devices) -> dict[int, dict[str, int]]:
    """The temporary memory of the same encoder with its first block repeated."""
    found, params = {}, encoder.variables["params"]
    for depth in options.memory_depths:
        deep = {name: value for name, value in params.items() if "blocks" not in name}
        deep |= {f"blocks_{layer}": params["blocks_0"] for layer in range(depth)}
        config = dataclasses.replace(encoder.config, depth=depth)
        side = JaxSide(dataclasses.replace(encoder, config=config, variables={**encoder.variables, "params": deep}), devices)
        found[depth] = side.temporary_memory(*data)
    return found


def measure(options: Options, config: ViTConfig, checkpoint: Path, dtype: str, devices: Devices) -> dict[str, Any]:
    """Everything at one precision."""
    encoder = build_encoder(checkpoint, config, dtype)
    samples, least = round(options.seconds * encoder.sample_rate), min(*options.batch_sizes, CLASSES)
    pcm = np.random.default_rng(options.seed).normal(0, 0.1, (max(options.batch_sizes), samples)).astype(np.float32)
    front_end = jax.jit(lambda pcm: encoder.front_end(encoder.variables, pcm))
    data = [np.concatenate([front_end(clip[None]) for clip in pcm]), pcm]
    ours, peer = JaxSide(encoder, devices), TorchSide(checkpoint, config, dtype, devices, options.compile)
    agreement = compare_counts(ours, peer, data[0][:least], MOST_DIFFERING[dtype])
    search = speeds(ours, data, options.batch_sizes) | speeds(peer, data, options.batch_sizes)
    rates = {name: {size: rate for size, rate in found.items() if isinstance(rate, float)} for name, found in search.items()}
    best = {name: max(found, key=found.__getitem__) for name, found in rates.items() if found}
    runs = ours.variants(*(part[: best[COUNTED]] for part in data))
    best |= dict.fromkeys(runs, best[COUNTED])
    peers = {name: peer.variants(data[0][: best[name]], pcm)[name] for name in (PEER, COMPILED) if name in best}
    order = {COUNTED: runs.pop(COUNTED)} | peers | runs
    rounds = [{name: seconds_of(run) for name, run in order.items()} for _ in range(options.pairs + 1)][1:]
    limits = {size: ceiling(encoder, samples, size, dtype, devices) for size in sorted(set(best.values()))}
    square = product_times(*[(2048 if devices.jax.platform == "cpu" else 8192,) * 2] * 2, dtype, devices)
    memory = memory_by_depth(encoder, [part[:least] for part in data], options, devices)
    return {"agreement": agreement, "search": search, "batch": best, "seconds": rounds, "ceiling": limits,
            "square_product_seconds": square, "memory_clips": least, "memory": memory, **summary(rounds, best, limits)}


def summary(rounds: list[dict[str, float]], best: dict[str, int], limits: dict[int, Any]) -> dict[str, Any]:
    """Medians, and the ratios of speeds within the rounds."""
    speed = {name: [size / one[name] for one in rounds] for name, size in best.items()}
    ratios = {f"{a} / {b}": [x / y for x, y in zip(speed[a], speed[b], strict=True)] for a, b in RATIOS if b in speed}
    return {"clips_per_second": {name: median(values) for name, values in speed.items()},
            "ceiling_share": {name: median(speed[name]) / limits[size]["clips_per_second"] for name, size in best.items()},
            "ratios": {name: {"median": median(r), "min": min(r), "max": max(r)} for name, r in ratios.items()}}


def report(dtype: str, found: dict[str, Any]) -> str:
    """The tables of one precision."""
    rows = [[name, found["batch"][name], f"{rate:.2f}", f"{found['ceiling_share'][name]:.0%}"]
            for name, rate in found["clips_per_second"].items()]
    ratios = [[name, *(f"{ratio[key]:.3f}" for key in ("median", "min", "max"))] for name, ratio in found["ratios"].items()]
    memory = [[depth, *(f"{sizes[key] / 2**20:.1f}" for key in ("encoder", "counting"))]
              for depth, sizes in found["memory"].items()]
    return "\n\n".join([table([dtype, "clips a batch", "clips/s, median", "of the ceiling"], rows),
                        table(["ratio of speeds", "median", "min", "max"], ratios),
                        table(["blocks", "encoder, MiB of temporaries", "with counting"], memory)])


def main(options: Options) -> None:
    """Measure, write the JSON, print the tables."""
    devices = Devices.choose()
    config = vit_config(options.size, **({"depth": options.depth} if options.depth else {}))
    result = {"options": {**dataclasses.asdict(options), "out": options.out.name}, "vit": dataclasses.asdict(config),
              "machine": devices.describe(), "versions": versions("jax", "jaxlib", "flax", "torch", "numpy")}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder) / "checkpoint.pth", config, options.seed)
        result["runs"] = {dtype: measure(options, config, checkpoint, dtype, devices) for dtype in options.dtypes}
    write_whole(options.out, lambda file: file.write((json.dumps(result, indent=1) + "\n").encode()))
    print("\n\n".join(report(dtype, found) for dtype, found in result["runs"].items()))


if __name__ == "__main__":
    main(tyro.cli(Options))
