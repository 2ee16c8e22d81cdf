"""Speed of ablation: many interventions at once here, one after another in PyTorch with hooks.

`python -m benchmarks.speed.ablation --data ESC-50 --out benchmarks/results/ablation-cpu.json`

Both sides run the same random ViT (time does not depend on weights) on the same real clips in float32, each at its
best batch size, in interleaved rounds. A pass is one clip under one intervention. PyTorch gets the finished
spectrogram, this project the samples. Two kinds of interventions are compared:

- `layer 0`: sets of neurons in every layer, for which the whole encoder must run.
- `single layer`: sets in one layer each, as many in every layer; this project resumes behind that layer. PyTorch takes
  as long for any of them, and so runs a few.

Expected time: half an hour.
"""

import dataclasses
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from jaxtyping import PyTree
from torch.utils import mkldnn

from benchmarks.common import (
    Devices,
    build_encoder,
    median_and_range,
    options_record,
    seconds_of,
    table,
    write_record,
)
from benchmarks.speed.torch_vit import TorchViT, load_torch_vit, random_checkpoint
from jaxdissect.ablation.causal_map import _margin_gradients
from jaxdissect.ablation.edits import Edit, plan
from jaxdissect.ablation.engine import LayerByLayer
from jaxdissect.encoder.families.m2d import M2D, untrained_m2d
from jaxdissect.encoder.families.vit import ViTConfig, vit_config
from jaxdissect.probe.linear import EPSILON, Head
from jaxdissect.runtime.sharding import local_mesh, map_clips, replicate, shard_clips
from jaxdissect.tasks.known import load_task
from jaxdissect.tasks.loader import batches
from jaxdissect.types import Record

CLASSES = 50
OURS, PEER, ONEDNN = "jaxdissect", "torch with hooks", "torch oneDNN with hooks"
LAYER_0, SINGLE = "layer 0", "single layer"
MOST_DIFFERING = 2e-4  # margins, in logits; beyond it, the sides run different models
MEMORY_CASES = ((16, 4), (64, 4), (256, 4), (64, 16), (64, 64))  # edits, and edits at once


@dataclasses.dataclass(frozen=True)
class Options:
    """Encoders, clips and interventions to measure."""

    data: Path  # the ESC-50 folder
    out: Path  # the JSON file to write
    sizes: tuple[str, ...] = ("base", "tiny")
    clips: int = 4  # of fold 5
    per_layer: int = 4  # edits of `single layer` in every layer, and as many of `layer 0` in all
    peer_edits: int = 8  # edits of each kind that PyTorch runs
    changed: int = 22  # neurons of an edit, as in the published ablation
    rounds: int = 7
    batch_sizes: tuple[int, ...] = (1, 2, 4)  # clips a batch
    rows: tuple[int, ...] = (8, 16)  # clips x edits that this project runs at once
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """What both sides compute.

    Attributes:
      encoder: encoder to edit.
      pcm: clips (clip, sample).
      members: class of every clip (clip, class).
      head: linear probe whose margins are compared.
      edits: edits by kind.
    """

    encoder: M2D
    pcm: np.ndarray
    members: np.ndarray
    head: Head
    edits: dict[str, list[Edit]]


def make_work(options: Options, encoder: M2D) -> Work:
    """Real clips; random edits and heads."""
    task = load_task("esc50", options.data).only("test")
    evenly = np.linspace(0, len(task) - 1, options.clips).astype(int).tolist()
    task, rng = task.rows(evenly), np.random.default_rng(options.seed)
    (batch,) = batches(task, encoder.sample_rate, len(task))
    depth, neurons = encoder.config.depth, encoder.config.mlp

    def edit(layers: np.ndarray) -> Edit:
        flat = np.unique(layers * neurons + rng.integers(0, neurons, len(layers)))
        return Edit(flat // neurons, flat % neurons, 0.0, np.zeros(len(flat)))

    count = options.per_layer * depth
    everywhere = [edit(np.append(0, rng.integers(0, depth, options.changed - 1))) for _ in range(count)]
    single = [edit(np.full(options.changed, number % depth)) for number in range(count)]
    features = encoder.config.grid[0] * encoder.config.width
    kernel = rng.normal(size=(1, features, CLASSES)).astype(np.float32) * features**-0.5
    zero = np.zeros((1, features), np.float32)
    head = Head(zero, zero + 1, kernel, np.zeros((1, CLASSES), np.float32))
    return Work(encoder, batch.pcm, task.label_sets[0].table(), head, {LAYER_0: everywhere, SINGLE: single})


class JaxSide:
    """This project's engine, on clips in memory."""

    def __init__(self, work: Work, label_sets: int = 1) -> None:
        self.work, self.mesh = work, local_mesh(jax.local_devices()[:1])
        self.names = [f"set {number}" for number in range(label_sets)]
        multi_label = dict.fromkeys(self.names, False)
        self.runner = LayerByLayer(work.encoder, multi_label, work.encoder.config.mlp, self.mesh)
        heads = dict.fromkeys(self.names, work.head)
        self.variables, self.heads = replicate((work.encoder.variables, heads), self.mesh)

    def margins(self, edits: Sequence[Edit], size: int, at_once: int) -> np.ndarray:
        """Margins (edit, clip), and the untouched ones in the last row."""
        work, chunks = self.work, plan(edits, at_once)
        margins = np.zeros((len(edits) + 1, len(work.pcm)), np.float32)
        for start in range(0, len(work.pcm), size):
            rows = slice(start, start + size)
            members = dict.fromkeys(self.names, work.members[rows])
            pcm, members = shard_clips((work.pcm[rows], members), self.mesh)
            for numbers, (verdicts, _) in self.runner.run(self.variables, self.heads, pcm, members, chunks):
                margins[numbers, rows] = np.asarray(verdicts[self.names[0]].margin)[: len(numbers)]
        return margins


class TorchSide:
    """The same encoder in PyTorch; a hook on every touched layer multiplies the chosen columns by the gain."""

    def __init__(self, work: Work, model: TorchViT, config: ViTConfig, device: torch.device) -> None:
        self.work, self.model, self.config, self.device = work, model.to(device), config, device
        inputs = jax.jit(work.encoder.front_end)(work.encoder.variables, work.pcm)
        self.inputs = torch.from_numpy(np.array(inputs)).mT[:, None].contiguous().to(device)
        self.head = [torch.from_numpy(np.asarray(part[0])).to(device) for part in (work.head.kernel, work.head.bias)]
        self.members = torch.from_numpy(work.members).to(device)

    def margins(self, edits: Sequence[Edit], size: int) -> np.ndarray:
        """Margins (edit, clip), one edit after another."""
        rows = []
        for edit in edits:
            hooks = [
                self.model.blocks[layer].mlp.act.register_forward_hook(
                    self._hook(torch.from_numpy(edit.neuron[edit.layer == layer]).to(self.device), edit.gain)
                )
                for layer in np.unique(edit.layer)
            ]
            with torch.inference_mode():
                parts = [self._margins(start, size) for start in range(0, len(self.inputs), size)]
            rows.append(torch.cat(parts).cpu().numpy())
            for hook in hooks:
                hook.remove()
        return np.stack(rows)

    @staticmethod
    def _hook(neurons: torch.Tensor, gain: float) -> Callable[..., torch.Tensor]:
        def hook(_module: torch.nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            output[..., neurons] *= gain
            return output

        return hook

    def _margins(self, start: int, size: int) -> torch.Tensor:
        bands = self.config.grid[0]
        # Without the class token, and with the bands of one time step side by side: (clip, time, band x width).
        frames = [
            tokens[:, 1:].unflatten(1, (bands, -1)).transpose(1, 2).flatten(2)
            for tokens in self.model(self.inputs[start : start + size])
        ]
        embeddings = torch.cat(frames, dim=1).mean(dim=1) * (1 + EPSILON) ** -0.5  # the head's variance is 1
        scores = embeddings @ self.head[0] + self.head[1]
        members = self.members[start : start + size]
        best_other = scores.masked_fill(members, -torch.inf).amax(dim=1)
        return scores[members] - best_other


def measure(options: Options, size: str, devices: Devices) -> Record:
    """Everything about one encoder size."""
    config = vit_config(size) if size != "tiny" else vit_config("tiny", frames=208)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder) / "checkpoint.pth", config, options.seed)
        encoder = build_encoder(checkpoint, config)
        models = {PEER: load_torch_vit(checkpoint, config)}
        if devices.torch.type == "cpu":
            models[ONEDNN] = mkldnn.to_mkldnn(load_torch_vit(checkpoint, config))
    work = make_work(options, encoder)
    ours = JaxSide(work)
    peers = {name: TorchSide(work, model, config, devices.torch) for name, model in models.items()}
    agreement = compare(work, ours, peers)
    # Calls by side and by the batch sizes that they are made with; each takes edits.
    calls: dict[str, dict[str, Callable[[list[Edit]], object]]] = {name: {} for name in (OURS, *peers)}
    for batch in options.batch_sizes:
        for rows in options.rows:
            at_once = max(1, rows // batch)
            calls[OURS][f"{batch} clips x {at_once} edits"] = partial(ours.margins, size=batch, at_once=at_once)
        for name, peer in peers.items():
            calls[name][f"{batch} clips"] = partial(peer.margins, size=batch)

    def seconds_per_pass(name: str, batching: str, kind: str) -> float:
        edits = work.edits[kind][: None if name == OURS else options.peer_edits]
        return seconds_of(partial(calls[name][batching], edits)) / (len(edits) * len(work.pcm))

    search = {
        name: {batching: min(seconds_per_pass(name, batching, LAYER_0) for _ in range(2)) for batching in by_batching}
        for name, by_batching in calls.items()
    }
    best = {name: min(seconds, key=seconds.__getitem__) for name, seconds in search.items()}
    rounds = [
        {kind: {name: seconds_per_pass(name, batching, kind) for name, batching in best.items()} for kind in work.edits}
        for _ in range(1 + options.rounds)
    ]
    del rounds[0]  # it warms up
    rates = {
        kind: {name: float(np.median([1 / seconds[kind][name] for seconds in rounds])) for name in best}
        for kind in work.edits
    }
    ratios = {
        kind: {name: median_and_range([one[kind][name] / one[kind][OURS] for one in rounds]) for name in peers}
        for kind in work.edits
    }
    return {
        "vit": dataclasses.asdict(config),
        "agreement": agreement,
        "search_seconds_per_pass": search,
        "best": best,
        "seconds_per_pass": rounds,
        "passes_per_second": rates,
        "times_as_fast": ratios,
        "prefix_saving": median_and_range([one[LAYER_0][OURS] / one[SINGLE][OURS] for one in rounds]),
        "seconds_of_one_more_intervention_on_400_clips": {kind: 400 / rates[kind][OURS] for kind in rates},
        "label_sets": label_sets(work, options.rounds),
        "causal_map": map_cost(work, options.rounds),
    }


def compare(work: Work, ours: JaxSide, peers: dict[str, TorchSide]) -> dict[str, float]:
    """Largest difference of a margin between the sides; refuses to time what does not agree."""
    differences = {}
    for kind, edits in work.edits.items():
        reference = ours.margins(edits[:3], 4, 2)[:3]
        for name, peer in peers.items():
            differences[f"{kind}, {name}"] = float(np.abs(peer.margins(edits[:3], 4) - reference).max())
    if max(differences.values()) > MOST_DIFFERING:
        raise SystemExit(f"The sides do not compute the same: {differences}.")
    return differences


def label_sets(work: Work, rounds: int) -> list[float]:
    """Time with three label sets over time with one, whose embeddings are the same."""
    sides, edits = (JaxSide(work), JaxSide(work, 3)), work.edits[SINGLE]
    times = [[seconds_of(partial(side.margins, edits, 4, 4)) for side in sides] for _ in range(1 + rounds)]
    return median_and_range([three / one for one, three in times[1:]])


def map_cost(work: Work, rounds: int) -> Record:
    """Time of the causal map over the time of a forward pass of the same clips, 4 a batch."""
    encoder, mesh = work.encoder, local_mesh(jax.local_devices()[:1])
    shape = encoder.config.depth, encoder.config.mlp
    gradient = map_clips(_margin_gradients(encoder, {"set": False}, shape), mesh, (None, None, 0, 0, 0))

    def embed(variables: PyTree, pcm: jax.Array) -> jax.Array:
        inputs = encoder.front_end(variables, pcm)
        output: Any = encoder.module.apply({"params": variables["params"]}, inputs)
        return encoder.embed(output)

    forward = map_clips(embed, mesh, (None, 0))
    heads, size = {"set": work.head}, min(4, len(work.pcm))
    members = {"set": work.members[:size]}
    slots = {"set": work.members[:size].argmax(axis=1)[:, None]}
    pcm = jnp.asarray(work.pcm[:size])

    def both() -> tuple[float, float]:
        return (
            seconds_of(lambda: jax.block_until_ready(gradient(encoder.variables, heads, pcm, members, slots))),
            seconds_of(lambda: jax.block_until_ready(forward(encoder.variables, pcm))),
        )

    times = [both() for _ in range(1 + rounds)][1:]  # the first compiles
    return {"seconds": times, "forward_passes": median_and_range([backward / ahead for backward, ahead in times])}


def _peak_of(edits: int, at_once: int) -> int:
    """Peak memory of this process in bytes after judging so many edits of layer 0, so many at once."""
    encoder = untrained_m2d(vit_config("base", depth=4))
    features = encoder.config.grid[0] * encoder.config.width
    head = Head(*(np.ones((1, features), np.float32),) * 2, np.ones((1, features, 2), np.float32), np.zeros((1, 2)))
    many = [Edit(np.zeros(1, int), np.array([number]), 0.0, np.zeros(1)) for number in range(edits)]
    pcm = np.random.default_rng(0).normal(size=(4, 80000)).astype(np.float32)
    JaxSide(Work(encoder, pcm, np.eye(2, dtype=bool)[[0, 1, 0, 1]], head, {})).margins(many, 4, at_once)
    status = Path("/proc/self/status").read_text()  # of this process alone; getrusage counts the parent's memory, too
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def memory() -> list[dict[str, int]]:
    """Peak memory of whole processes by edits and by edits at once: 4 blocks of a ViT-B, 4 clips of 5 s."""
    rows = []
    for edits, at_once in MEMORY_CASES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak = pool.apply(_peak_of, (edits, at_once))
        rows.append({"edits": edits, "at_once": at_once, "peak_mb": round(peak / 1e6)})
    return rows


def report(size: str, result: Record) -> str:
    """The tables of one size."""
    rows = [
        [kind, name, result["best"][name], f"{rate:.1f}"]
        + ([f"{value:.2f}" for value in result["times_as_fast"][kind][name]] if name != OURS else [""] * 3)
        for kind, rates in result["passes_per_second"].items()
        for name, rate in rates.items()
    ]
    head = [f"{size}: sets", "", "best at", "passes/s", f"{OURS} is times as fast", "min", "max"]
    more = result["seconds_of_one_more_intervention_on_400_clips"]
    return (
        f"{table(head, rows)}\n\nSingle layers against layer 0, here: {result['prefix_saving'][0]:.2f} times as fast. "
        f"Three label sets cost {result['label_sets'][0]:.3f} times one. The causal map costs "
        f"{result['causal_map']['forward_passes'][0]:.2f} forward passes. One more intervention on 400 clips: "
        f"{more[LAYER_0]:.1f} s from layer 0, {more[SINGLE]:.1f} s on average over the layers."
    )


def main(options: Options) -> None:
    """Measure, write the record, print the tables."""
    devices = Devices.choose()
    runs = {size: measure(options, size, devices) for size in options.sizes}
    given = options_record(options) | {"out": options.out.name, "data": "ESC-50"}
    peaks = memory() if devices.jax.platform == "cpu" else []  # elsewhere the devices' memory is not the process's
    write_record(options.out, ("jax", "jaxlib", "flax", "torch", "numpy"), options=given, runs=runs, memory=peaks)
    print("\n\n".join(report(size, result) for size, result in runs.items()))
    if peaks:
        head = ["edits", "at once", "peak memory of the process, MB"]
        print("\n" + table(head, [list(peak.values()) for peak in peaks]))


if __name__ == "__main__":
    main(tyro.cli(Options))
