"""Throughput and memory of counting neurons: here, in PyTorch, and against the matrix products that both must compute.

`python -m benchmarks.speed.throughput --compile --out benchmarks/results/NAME.json` measures a ViT of random weights,
the same in both frameworks, in interleaved rounds and each side at its best batch size. Expected time: ten minutes.
"""

import dataclasses
import math
import tempfile
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
from jaxtyping import PyTree
from torch.nn.functional import scaled_dot_product_attention
from torch.utils import mkldnn

from benchmarks.common import (
    Devices,
    build_encoder,
    machine,
    median_and_range,
    options_record,
    seconds_of,
    table,
    write_record,
)
from benchmarks.speed.torch_vit import Counts, NeuronCounter, load_torch_vit, random_checkpoint
from jaxdissect.activations.read import read_neurons, stack_layers
from jaxdissect.counting import statistics
from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.encoder.families.vit import ViTConfig, vit_config
from jaxdissect.encoder.protocol import variables_on
from jaxdissect.runtime.sharding import local_mesh, map_per_device, per_device, shard_clips
from jaxdissect.types import Record

CLASSES = 50
COUNTING, FROM_PCM, ENCODER = "jax counting", "jax counting from PCM", "jax encoder"
PEER, ONEDNN, COMPILED = "torch counting", "torch oneDNN counting", "torch compiled counting"
# The largest fraction of neuron-token pairs that may differ between the sides; beyond it, they run different models.
MOST_DIFFERING = {"float32": 1e-4, "bfloat16": 0.05}
PRODUCT_SECONDS, PRODUCT_TRIES = 0.02, 5  # least duration of a measurement of one product; measurements
Run = Callable[[], None]
Data = tuple[np.ndarray, np.ndarray]  # the clips as normalised log-mel and as PCM
Product = tuple[int, tuple[int, ...], tuple[int, ...]]  # times in a step, shapes of the left and right side


@dataclasses.dataclass(frozen=True)
class Options:
    """Model, clips and variants to measure."""

    out: Path  # the JSON file to write
    size: str = "base"  # "tiny", "small", "base" or "large"
    depth: int | None = None  # blocks, if not the size's own number
    seconds: float = 6.0  # length of a clip
    batch_sizes: tuple[int, ...] = (4, 8, 16)  # each side is measured at its best one
    pairs: int = 10  # interleaved rounds, in each of which every variant runs once
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

    def step(
        self, source: str, counts: statistics.ClassCounts, variables: PyTree, clips: dict[str, jax.Array]
    ) -> tuple[statistics.ClassCounts, jax.Array]:
        """Encode a batch, read its neurons, add them to their classes: the step of a run."""
        inputs = clips["input"] if source == "input" else self.encoder.front_end(variables, clips["pcm"])
        _, readings = read_neurons(self.encoder.module, variables, inputs, neurons=self.encoder.neurons)
        reading = stack_layers(readings)
        counts = statistics.update(counts, reading, clips["members"], clips["clip"], labels_per_clip=1)
        return counts, reading.tokens

    def put(self, inputs: np.ndarray, pcm: np.ndarray) -> dict[str, jax.Array]:
        """A batch on the device; clip n is in class n modulo `CLASSES`, and in the last class, of all clips."""
        number = np.arange(len(inputs), dtype=np.int32)
        members = (np.arange(CLASSES + 1) == number[:, None] % CLASSES) | (np.arange(CLASSES + 1) == CLASSES)
        batch: dict[str, jax.Array] = shard_clips(
            {"input": inputs, "pcm": pcm, "members": members, "clip": number}, self.mesh
        )
        return batch

    def variants(self, data: Data, size: int) -> dict[str, Run]:
        """Calls to time on one batch, by name."""
        state, variables = [per_device(self.init, self.mesh)], self.encoder.variables
        clips = self.put(*(part[:size] for part in data))

        def count(source: str) -> None:
            state[0], _ = self.steps[source](state[0], variables, clips)  # the step donates the counts it was given
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
        """Calls to time on one batch, by name."""
        batch = self.put(data[0][:size])
        return {name: partial(lambda call: self.devices.wait(call(batch)), call) for name, call in self.calls.items()}


def compare_counts(ours: JaxSide, peer: TorchSide, data: Data, limit: float) -> Record:
    """How far the counts of the two timed programs agree, class by class; refuses to time what does not agree."""
    inputs, clips = data[0], ours.put(*data)
    counts, _ = ours.steps["input"](per_device(ours.init, ours.mesh), ours.encoder.variables, clips)
    totals = statistics.flush(counts)
    theirs = peer.calls[PEER](peer.put(inputs))[1].active_tokens.cpu().numpy()
    pairs = int(totals.tokens[-1]) * math.prod(theirs.shape[1:])
    # With at most 50 clips each has a class of its own, so no differences cancel out within a class.
    theirs = np.stack([theirs[first::CLASSES].sum(axis=0, dtype=np.float64) for first in range(CLASSES)])
    differing = int(np.abs(totals.active_tokens[:CLASSES] - theirs).sum())
    agreement = {"neuron_token_pairs": pairs, "differing_at_least": differing}
    if not differing <= limit * pairs:
        raise SystemExit(f"The two sides do not compute the same, at most {limit} may differ: {agreement}")
    return {**agreement, "differing_share": differing / pairs}


def best_time(call: Callable[[], PyTree], devices: Devices) -> float:
    """Least seconds of one call in several measurements, each of as many calls as hide their launching."""
    devices.wait(call())
    calls = int(max(1, PRODUCT_SECONDS // seconds_of(lambda: devices.wait(call()))))

    def run() -> None:
        devices.wait(*deque((call() for _ in range(calls)), 1))  # keeps the last result only

    return min(seconds_of(run) for _ in range(PRODUCT_TRIES)) / calls


def products(encoder: M2D, samples: int, clips: int) -> dict[str, Product]:
    """The matrix products of the model on a batch, by layer type and call (a long clip takes several calls)."""
    config, shapes = encoder.config, dict[str, Product]()
    depth, width, head = config.depth, config.width, config.width // config.heads
    linear = {"qkv": (width, 3 * width), "proj": (width, width), "fc1": (width, config.mlp), "fc2": (config.mlp, width)}
    for call, layout in enumerate(encoder.token_layout(samples)):
        chunks, tokens = layout.is_patch.shape
        batch, patch = (clips * chunks, config.heads), (config.patch_bands * config.patch_frames, width)
        shapes[f"patches {call}"] = (1, (clips * chunks * (tokens - 1), patch[0]), patch)  # without the class token
        for name, shape in linear.items():
            shapes[f"{name} {call}"] = (depth, (clips * chunks * tokens, shape[0]), shape)
        shapes[f"scores {call}"] = (depth, (*batch, tokens, head), (*batch, head, tokens))
        shapes[f"mix {call}"] = (depth, (*batch, tokens, tokens), (*batch, tokens, head))
    return shapes


def product_times(
    left: tuple[int, ...], right: tuple[int, ...], dtype: str, devices: Devices, by: tuple[str, ...]
) -> dict[str, float]:
    """Seconds of one product in the frameworks named in `by`."""
    a, b = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in (left, right))
    x, y = (jax.device_put(jnp.asarray(side, dtype), devices.jax) for side in (a, b))
    u, v = (torch.from_numpy(side).to(devices.torch, getattr(torch, dtype)) for side in (a, b))
    v = v if v.ndim > 2 else v.T.contiguous().T  # PyTorch keeps the right side of a linear layer transposed
    product = jax.jit(partial(jnp.matmul, precision="highest"))
    calls = {"jax": lambda: product(x, y), "torch": lambda: torch.matmul(u, v)}
    return {name: best_time(calls[name], devices) for name in by}


def ceiling(encoder: M2D, samples: int, clips: int, dtype: str, devices: Devices, by: tuple[str, ...]) -> Record:
    """Clips a second if the model were its products alone, each (or fused attention) by the faster framework."""
    rows: dict[str, Record] = {}
    for name, (times, left, right) in products(encoder, samples, clips).items():
        seconds = product_times(left, right, dtype, devices, by)
        rows[name] = {"product": (times, left, right), "seconds": seconds, "best": min(seconds.values())}
    for name in [name for name in rows if name.startswith("scores")]:
        scores, mix = rows[name], rows[name.replace("scores", "mix")]
        part = torch.randn(scores["product"][1], device=devices.torch, dtype=getattr(torch, dtype))
        scores["fused"] = best_time(partial(scaled_dot_product_attention, part, part, part), devices)
        if scores["fused"] < scores["best"] + mix["best"]:
            scores["best"], mix["best"] = scores["fused"], 0.0
    total = sum(row["product"][0] * row["best"] for row in rows.values())
    return {"seconds": total, "clips_per_second": clips / total, "products": rows}


def speed(run: Run, clips: int) -> float | str:
    """Clips a second, the better of two runs after a first; or why there is none."""
    try:
        run()
        return clips / min(seconds_of(run) for _ in range(2))
    except Exception as error:  # compilers and allocators raise many kinds
        return f"{type(error).__name__}: {str(error)[:500]}"


def memory(encoder: M2D, data: Data, clips: int, depths: tuple[int, ...], devices: Devices) -> dict[int, Record]:
    """Bytes of temporaries of the encoder and of counting at several depths, by the compiler's account."""
    sizes, params = dict[int, Record](), dict(encoder.variables["params"])
    for depth in depths:
        side = JaxSide(dataclasses.replace(encoder, config=dataclasses.replace(encoder.config, depth=depth)), devices)
        # Weights do not matter to memory: every block has those of the first.
        deep = {**encoder.variables, "params": params | {f"blocks_{n}": params["blocks_0"] for n in range(depth)}}
        batch, state = side.put(*(part[:clips] for part in data)), per_device(side.init, side.mesh)
        programs = side.encode.lower(deep["params"], batch["input"]), side.steps["input"].lower(state, deep, batch)
        plain, counting = (cast(Any, one.compile().memory_analysis()).temp_size_in_bytes for one in programs)
        sizes[depth] = {"encoder": plain, "counting": counting}
    return sizes


@torch.inference_mode()
def measure(options: Options, config: ViTConfig, checkpoint: Path, dtype: str, devices: Devices) -> Record:
    """Everything at one precision."""
    encoder = build_encoder(checkpoint, config, dtype)
    encoder = dataclasses.replace(encoder, variables=variables_on(encoder, local_mesh([devices.jax])))
    samples, smallest = round(options.seconds * encoder.sample_rate), min(options.batch_sizes)
    pcm = np.random.default_rng(options.seed).normal(0, 0.1, (max(options.batch_sizes), samples)).astype(np.float32)
    front_end = jax.jit(encoder.front_end)
    data = (np.concatenate([front_end(encoder.variables, clip[None]) for clip in pcm]), pcm)
    ours, peer = JaxSide(encoder, devices), TorchSide(checkpoint, config, dtype, devices, options.compile)
    agreement = compare_counts(ours, peer, (data[0][:smallest], data[1][:smallest]), MOST_DIFFERING[dtype])
    # Each side's best batch size: the fastest of those that fit.
    batches = {size: ours.variants(data, size) | peer.variants(data, size) for size in options.batch_sizes}
    search = {name: {size: speed(run[name], size) for size, run in batches.items()} for name in (COUNTING, *peer.calls)}
    rates_by_size = {
        name: {size: rate for size, rate in sizes.items() if isinstance(rate, float)} for name, sizes in search.items()
    }
    best = {name: max(sizes, key=sizes.__getitem__) for name, sizes in rates_by_size.items() if sizes}
    best |= dict.fromkeys((ENCODER, FROM_PCM), best[COUNTING])
    rounds = [{name: seconds_of(batches[size][name]) for name, size in best.items()} for _ in range(1 + options.pairs)]
    del rounds[0]  # it warms up
    rates = {name: size / np.array([seconds[name] for seconds in rounds]) for name, size in best.items()}
    limits = {size: ceiling(encoder, samples, size, dtype, devices, options.products_by) for size in set(best.values())}
    square = (2048, 2048) if devices.jax.platform == "cpu" else (8192, 8192)
    return {
        "agreement": agreement,
        "search": search,
        "batch": best,
        "seconds": rounds,
        "ceiling": limits,
        "square_product": {
            "shape": square,
            "seconds": product_times(square, square, dtype, devices, options.products_by),
        },
        "clips_per_second": {name: float(np.median(rate)) for name, rate in rates.items()},
        "of_the_ceiling": {name: np.median(rates[name]) / limits[best[name]]["clips_per_second"] for name in best},
        "times_as_fast": {name: median_and_range(rates[COUNTING] / rate) for name, rate in rates.items()},
        "memory": memory(encoder, data, min(smallest, CLASSES), options.memory_depths, devices),
    }


def report(dtype: str, result: Record) -> str:
    """The tables of one precision."""
    head = [dtype, "clips a batch", "clips/s, median", "of the ceiling", f"{COUNTING} is times as fast", "min", "max"]
    rows = []
    for name, rate in result["clips_per_second"].items():
        ratios = [f"{ratio:.3f}" for ratio in result["times_as_fast"][name]]
        rows.append([name, result["batch"][name], f"{rate:.2f}", f"{result['of_the_ceiling'][name]:.0%}", *ratios])
    sizes = [[depth, *(f"{size / 2**20:.1f}" for size in parts.values())] for depth, parts in result["memory"].items()]
    memory_head = ["blocks", "temporaries of the encoder, MiB", "with counting, MiB"]
    return f"{table(head, rows)}\n\n{table(memory_head, sizes)}\n"


def main(options: Options) -> None:
    """Measure; after each precision write the record and print the tables."""
    devices = Devices.choose()
    config = vit_config(options.size, **({"depth": options.depth} if options.depth else {}))
    frameworks = {"jax": devices.jax.device_kind, "torch": devices.torch.type, "cuda": torch.version.cuda}
    about = {"options": options_record(options) | {"out": options.out.name}, "vit": dataclasses.asdict(config)}
    about |= {"machine": machine() | frameworks}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder) / "checkpoint.pth", config, options.seed)
        runs: dict[str, Record] = {}
        for dtype in options.dtypes:
            runs[dtype] = measure(options, config, checkpoint, dtype, devices)
            write_record(options.out, ("jax", "jaxlib", "flax", "torch", "numpy"), **about, runs=runs)
            print(report(dtype, runs[dtype]), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
