"""Speed of ablation: many interventions at once here, one after another in PyTorch with hooks.

`python -m benchmarks.speed.ablation --data ESC-50 --out benchmarks/results/ablation-cpu.json`

The same random ViT (time does not depend on weights), the same real clips,
float32, each side at its best batch size, in interleaved rounds. A pass is one clip under one intervention. PyTorch is
given the finished spectrogram, this project the samples. `layer 0`: sets of neurons in every layer, for which the whole
encoder must run. `single layer`: sets in one layer each, as many in every layer; this project resumes behind it.
PyTorch, whose time per pass is the same for all of them, runs a few.
"""

import dataclasses
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from torch.utils import mkldnn

from benchmarks.common import Devices, build_encoder, table, write_record
from benchmarks.speed.torch_vit import TorchViT, load_torch_vit, random_checkpoint
from jaxdissect.ablation.causal_map import _gradient
from jaxdissect.ablation.engine import Edit, LayerByLayer, plan
from jaxdissect.encoder.m2d import M2D
from jaxdissect.encoder.vit import vit_config
from jaxdissect.probe.linear import EPSILON, Head
from jaxdissect.runtime.sharding import local_mesh, map_clips, replicate, shard_clips
from jaxdissect.tasks.known import load_task
from jaxdissect.tasks.loader import batches

CLASSES = 50
OURS, PEER, ONEDNN = "jaxdissect", "torch with hooks", "torch oneDNN with hooks"
LAYER_0, SINGLE = "layer 0", "single layer"
AGREEMENT = 2e-4  # of the largest logit; beyond it, not the same model


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    data: Path  # the ESC-50 folder
    out: Path  # the JSON file to write
    sizes: tuple[str, ...] = ("base", "tiny")
    clips: int = 4  # of fold 5
    per_layer: int = 4  # edits of `single layer` in every layer, and as many of `layer 0` in all
    peer_edits: int = 8  # that PyTorch runs of each
    changed: int = 22  # neurons of an edit, as in the published ablation
    rounds: int = 7
    batch_sizes: tuple[int, ...] = (1, 2, 4)  # clips a batch
    rows: tuple[int, ...] = (8, 16)  # clips x edits that this project runs at once
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """Clips, edits, and a head to judge them."""

    encoder: M2D
    pcm: np.ndarray
    members: np.ndarray
    head: Head
    edits: dict[str, list[Edit]]


def work(options: Options, encoder: M2D) -> Work:
    """Real clips; random edits and heads."""
    task = load_task("esc50", options.data).only("test")
    chosen = np.linspace(0, len(task) - 1, options.clips).astype(int).tolist()
    task, rng = task.rows(chosen), np.random.default_rng(options.seed)
    (batch,) = batches(task, encoder.sample_rate, len(task))
    depth, neurons = encoder.config.depth, encoder.config.mlp
    features = encoder.config.grid[0] * encoder.config.width

    def edit(layers: np.ndarray) -> Edit:
        flat = np.unique(layers * neurons + rng.integers(0, neurons, len(layers)))
        return Edit(flat // neurons, flat % neurons, 0.0, np.zeros(len(flat)))

    count = options.per_layer * depth
    everywhere = [edit(np.append(0, rng.integers(0, depth, options.changed - 1))) for _ in range(count)]
    single = [edit(np.full(options.changed, number % depth)) for number in range(count)]
    kernel = rng.normal(size=(1, features, CLASSES)).astype(np.float32) * features**-0.5
    zero = np.zeros((1, features), np.float32)
    head = Head(zero, zero + 1, kernel, np.zeros((1, CLASSES), np.float32))
    return Work(encoder, batch.pcm, task.label_sets[0].table(), head, {LAYER_0: everywhere, SINGLE: single})


class JaxSide:
    """This project's engine, on clips in memory."""

    def __init__(self, given: Work, label_sets: int = 1) -> None:
        self.work, self.mesh = given, local_mesh(jax.local_devices()[:1])
        self.names = [f"set {number}" for number in range(label_sets)]
        several = dict.fromkeys(self.names, False)
        self.runner = LayerByLayer(given.encoder, several, given.encoder.config.mlp, self.mesh)
        heads = dict.fromkeys(self.names, given.head)
        self.variables, self.heads = replicate((given.encoder.variables, heads), self.mesh)

    def margins(self, edits: Sequence[Edit], size: int, at_once: int) -> np.ndarray:
        """(edit, clip), and the untouched ones in the last row."""
        given, chunks = self.work, plan(edits, at_once)
        found = np.zeros((len(edits) + 1, len(given.pcm)), np.float32)
        for start in range(0, len(given.pcm), size):
            rows = slice(start, start + size)
            members = dict.fromkeys(self.names, given.members[rows])
            pcm, members = shard_clips((given.pcm[rows], members), self.mesh)
            for numbers, (verdicts, _) in self.runner.run(self.variables, self.heads, pcm, members, chunks):
                found[numbers, rows] = np.asarray(verdicts[self.names[0]].margin)[: len(numbers)]
        return found


class TorchSide:
    """The same encoder in PyTorch; a hook on every touched layer multiplies the chosen columns by the gain."""

    def __init__(self, given: Work, model: TorchViT, config: Any, device: torch.device) -> None:
        self.work, self.model, self.config, self.device = given, model.to(device), config, device
        inputs = jax.jit(given.encoder.front_end)(given.encoder.variables, given.pcm)
        self.inputs = torch.from_numpy(np.array(inputs)).mT[:, None].contiguous().to(device)
        self.head = [torch.from_numpy(np.asarray(part[0])).to(device) for part in (given.head.kernel, given.head.bias)]
        self.members = torch.from_numpy(given.members).to(device)

    def margins(self, edits: Sequence[Edit], size: int) -> np.ndarray:
        """(edit, clip), one edit after another."""
        found = []
        for edit in edits:
            hooks = [
                self.model.blocks[layer].mlp.act.register_forward_hook(
                    self._hook(torch.from_numpy(edit.neuron[edit.layer == layer]).to(self.device), edit.gain)
                )
                for layer in np.unique(edit.layer)
            ]
            with torch.inference_mode():
                parts = [self._margins(start, size) for start in range(0, len(self.inputs), size)]
            found.append(torch.cat(parts).cpu().numpy())
            for hook in hooks:
                hook.remove()
        return np.stack(found)

    @staticmethod
    def _hook(neurons: torch.Tensor, gain: float) -> Callable[..., torch.Tensor]:
        def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            output[..., neurons] *= gain
            return output

        return hook

    def _margins(self, start: int, size: int) -> torch.Tensor:
        bands = self.config.grid[0]
        frames = [
            tokens[:, 1:].unflatten(1, (bands, -1)).transpose(1, 2).flatten(2)
            for tokens in self.model(self.inputs[start : start + size])
        ]
        embeddings = torch.cat(frames, dim=1).mean(dim=1) * (1 + EPSILON) ** -0.5
        scores = embeddings @ self.head[0] + self.head[1]
        members = self.members[start : start + size]
        others = scores.masked_fill(members, -torch.inf).amax(dim=1)
        return scores[members] - others


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(options: Options, size: str, devices: Devices) -> dict[str, Any]:
    """Everything about one encoder size."""
    config = vit_config(size) if size != "tiny" else vit_config("tiny", frames=208)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder) / "checkpoint.pth", config, options.seed)
        encoder = build_encoder(checkpoint, config)
        models = {PEER: load_torch_vit(checkpoint, config)}
        if devices.torch.type == "cpu":
            models[ONEDNN] = mkldnn.to_mkldnn(load_torch_vit(checkpoint, config))
    given = work(options, encoder)
    ours = JaxSide(given)
    peers = {name: TorchSide(given, model, config, devices.torch) for name, model in models.items()}
    agreement = compare(given, ours, peers)
    ways: dict[str, dict[str, Callable[[list[Edit]], object]]] = {name: {} for name in (OURS, *peers)}
    for batch in options.batch_sizes:
        for rows in options.rows:
            at_once = max(1, rows // batch)
            ways[OURS][f"{batch} clips x {at_once} edits"] = partial(ours.margins, size=batch, at_once=at_once)
        for name, peer in peers.items():
            ways[name][f"{batch} clips"] = partial(peer.margins, size=batch)
    some = {name: slice(None) if name == OURS else slice(options.peer_edits) for name in ways}

    def seconds_per_pass(name: str, way: str, kind: str) -> float:
        edits = given.edits[kind][some[name]]
        return seconds(partial(ways[name][way], edits)) / (len(edits) * len(given.pcm))

    search = {
        name: {way: min(seconds_per_pass(name, way, LAYER_0) for _ in range(2)) for way in found}
        for name, found in ways.items()
    }
    best = {name: min(found, key=found.__getitem__) for name, found in search.items()}
    rounds = [
        {kind: {name: seconds_per_pass(name, way, kind) for name, way in best.items()} for kind in given.edits}
        for _ in range(1 + options.rounds)
    ][1:]  # the first warms up
    rates = {
        kind: {name: float(np.median([1 / one[kind][name] for one in rounds])) for name in best} for kind in given.edits
    }
    ratios = {
        kind: {name: spread([one[kind][name] / one[kind][OURS] for one in rounds]) for name in peers}
        for kind in given.edits
    }
    return {
        "vit": dataclasses.asdict(config),
        "agreement": agreement,
        "search_seconds_per_pass": search,
        "best": best,
        "seconds_per_pass": rounds,
        "passes_per_second": rates,
        "times_as_fast": ratios,
        "prefix_saving": spread([one[LAYER_0][OURS] / one[SINGLE][OURS] for one in rounds]),
        "seconds_of_one_more_intervention_on_400_clips": {kind: 400 / rates[kind][OURS] for kind in rates},
        "label_sets": label_sets(given, options.rounds),
        "causal_map": map_cost(given, options.rounds),
    }


def spread(values: Sequence[float]) -> list[float]:
    """Median, least and most."""
    return [float(np.median(values)), float(min(values)), float(max(values))]


def compare(given: Work, ours: JaxSide, peers: dict[str, TorchSide]) -> dict[str, float]:
    """Largest difference of a margin between the sides; refuses to time what does not agree."""
    found = {}
    for kind, edits in given.edits.items():
        reference = ours.margins(edits[:3], 4, 2)[:3]
        for name, peer in peers.items():
            found[f"{kind}, {name}"] = float(np.abs(peer.margins(edits[:3], 4) - reference).max())
    if max(found.values()) > AGREEMENT:
        raise SystemExit(f"The sides do not compute the same: {found}.")
    return found


def label_sets(given: Work, rounds: int) -> list[float]:
    """Time with three label sets over time with one, whose embeddings are the same."""
    one, three = JaxSide(given), JaxSide(given, 3)
    edits = given.edits[SINGLE]
    times = [[seconds(partial(side.margins, edits, 4, 4)) for side in (one, three)] for _ in range(1 + rounds)]
    return spread([several / single for single, several in times[1:]])


def map_cost(given: Work, rounds: int) -> dict[str, Any]:
    """Time of the causal map over the time of a forward pass of the same clips, 4 a batch."""
    encoder, mesh = given.encoder, local_mesh(jax.local_devices()[:1])
    shape = encoder.config.depth, encoder.config.mlp
    gradient = map_clips(_gradient(encoder, {"set": False}, shape), mesh, (None, None, 0, 0, 0))

    def embed(variables: Any, pcm: Any) -> Any:
        inputs = encoder.front_end(variables, pcm)
        output: Any = encoder.module.apply({"params": variables["params"]}, inputs)
        return encoder.embed(output)

    forward = map_clips(embed, mesh, (None, 0))
    heads, size = {"set": given.head}, min(4, len(given.pcm))
    members = {"set": given.members[:size]}
    slots = {"set": given.members[:size].argmax(axis=1)[:, None]}
    pcm = jnp.asarray(given.pcm[:size])

    def both() -> tuple[float, float]:
        return (
            seconds(lambda: jax.block_until_ready(gradient(encoder.variables, heads, pcm, members, slots))),
            seconds(lambda: jax.block_until_ready(forward(encoder.variables, pcm))),
        )

    times = [both() for _ in range(1 + rounds)][1:]
    return {"seconds": times, "forward_passes": spread([backward / ahead for backward, ahead in times])}


def _peak_of(edits: int, at_once: int) -> int:
    """Peak memory of a process that judges so many edits of layer 0, so many at once."""
    from jaxdissect.encoder.m2d import untrained_m2d

    encoder = untrained_m2d(vit_config("base", depth=4))
    features = encoder.config.grid[0] * encoder.config.width
    head = Head(*(np.ones((1, features), np.float32),) * 2, np.ones((1, features, 2), np.float32), np.zeros((1, 2)))
    many = [Edit(np.zeros(1, int), np.array([number]), 0.0, np.zeros(1)) for number in range(edits)]
    pcm = np.random.default_rng(0).normal(size=(4, 80000)).astype(np.float32)
    JaxSide(Work(encoder, pcm, np.eye(2, dtype=bool)[[0, 1, 0, 1]], head, {})).margins(many, 4, at_once)
    status = Path("/proc/self/status").read_text()  # of this process alone; getrusage counts the one that started it
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def memory() -> list[dict[str, int]]:
    """Peak memory of whole processes by edits and by edits at once: 4 blocks of a ViT-B, 4 clips of 5 s."""
    found = []
    for edits, at_once in ((16, 4), (64, 4), (256, 4), (64, 16), (64, 64)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak = pool.apply(_peak_of, (edits, at_once))
        found.append({"edits": edits, "at_once": at_once, "peak_mb": round(peak / 1e6)})
    return found


def report(size: str, found: dict[str, Any]) -> str:
    """The tables of one size."""
    rows = [
        [kind, name, found["best"][name], f"{rate:.1f}"]
        + ([f"{value:.2f}" for value in found["times_as_fast"][kind][name]] if name != OURS else [""] * 3)
        for kind, rates in found["passes_per_second"].items()
        for name, rate in rates.items()
    ]
    head = [f"{size}: sets", "", "best at", "passes/s", f"{OURS} is times as fast", "min", "max"]
    more = found["seconds_of_one_more_intervention_on_400_clips"]
    return (
        f"{table(head, rows)}\n\nSingle layers against layer 0, here: {found['prefix_saving'][0]:.2f} times as fast. "
        f"Three label sets cost {found['label_sets'][0]:.3f} times one. The causal map costs "
        f"{found['causal_map']['forward_passes'][0]:.2f} forward passes. One more intervention on 400 clips: "
        f"{more[LAYER_0]:.1f} s from layer 0, {more[SINGLE]:.1f} s on average over the layers."
    )


def main(options: Options) -> None:
    """Measure, write the JSON, print the tables."""
    devices = Devices.choose()
    runs = {size: measure(options, size, devices) for size in options.sizes}
    content: dict[str, Any] = {"options": dataclasses.asdict(options) | {"out": options.out.name, "data": "ESC-50"}}
    on_cpu = devices.jax.platform == "cpu"  # where the memory of the process is the device's
    content |= {"runs": runs, "memory": memory() if on_cpu else []}
    write_record(options.out, ("jax", "jaxlib", "flax", "torch", "numpy"), **content)
    print("\n\n".join(report(size, found) for size, found in runs.items()))
    rows = [list(one.values()) for one in content["memory"]]
    if rows:
        print("\n" + table(["edits", "at once", "peak memory of the process, MB"], rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
