"""Training steps a second: here, and the same steps in PyTorch eager, on the same machine in the same run.

`python -m benchmarks.speed.training --out benchmarks/results/training-NAME.json`

Both sides compute the same loss (tests compare their gradients) and update by clipped AdamW. This project starts from
PCM, PyTorch from the finished spectrogram, which spares it the front end. Expected time: three minutes.
"""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch
import tyro
from jaxtyping import PyTree

from benchmarks.common import Devices, options_record, seconds_of, table, write_record
from benchmarks.speed import torch_training
from jaxdissect.audio.pcm import FULL_SCALE
from jaxdissect.encoder.families.m2d import M2D, untrained_m2d
from jaxdissect.encoder.families.vit import ViTConfig, vit_config
from jaxdissect.runtime.sharding import local_mesh, replicate, shard_clips
from jaxdissect.training.m2d import MaskedModelingDuo
from jaxdissect.training.masking import decoder_config, random_mask
from jaxdissect.training.msm_mae import MSMMAE
from jaxdissect.training.objective import Objective
from jaxdissect.training.step import Schedule, init_state, train_step
from jaxdissect.training.supervised import Supervised
from jaxdissect.types import Record

CLASSES = 50
DECODER_WIDTH, DECODER_DEPTH = 96, 4  # this project's defaults, for PyTorch's side
Step = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """Encoder, objectives and batches to measure."""

    out: Path  # the JSON file to write
    size: str = "tiny"  # of the ViT
    frames: int = 208  # of a crop
    batch_size: int = 64  # of an update
    parts: tuple[int, ...] = (16, 64)  # clips of which gradients are taken at once; each side is measured at its best
    rounds: int = 7  # in each of which every side makes one update
    objectives: tuple[str, ...] = ("msm_mae", "m2d", "supervised")


def make_objective(name: str, encoder: M2D) -> Objective:
    """The objective with its defaults; supervision without augmentation, which PyTorch's side has not either."""
    if name == "supervised":
        return Supervised(encoder, CLASSES, mixup=0.0, stripes=0)
    return MSMMAE(encoder) if name == "msm_mae" else MaskedModelingDuo(encoder)


def jax_step(objective: Objective, pcm: np.ndarray, members: np.ndarray, part: int, devices: Devices) -> Step:
    """One update, from 16-bit PCM on the host."""
    schedule, mesh = Schedule(1000), local_mesh([devices.jax])
    state = replicate(init_state(objective, schedule, 0), mesh)
    step = train_step(objective, schedule, 0, mesh)
    batch = pcm.reshape(-1, part, pcm.shape[-1]), members.reshape(-1, part, CLASSES)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, *shard_clips(batch, mesh))
        jax.block_until_ready((state, metrics))

    return run


def torch_step(
    name: str, config: ViTConfig, params: PyTree, batch: torch_training.Batch, part: int, devices: Devices
) -> Step:
    """One update in PyTorch eager, gradients summed over parts."""
    decoder = decoder_config(config, DECODER_WIDTH, DECODER_DEPTH)
    module: torch.nn.Module
    if name == "supervised":
        module = torch_training.Supervised(config, CLASSES)
    else:
        module = torch_training.M2D(config, decoder) if name == "m2d" else torch_training.MSMMAE(config, decoder, False)
    torch_training.load_params(module, params)
    module.to(devices.torch)
    batch = torch_training.Batch(*(tensor.to(devices.torch) for tensor in batch))
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, foreach=True)
    size = len(batch.labels)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        for first in range(0, size, part):
            loss = module(torch_training.Batch(*(tensor[first : first + part] for tensor in batch)))
            (loss * part / size).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if isinstance(module, torch_training.M2D):
            module.move_target(0.996)
        devices.wait()

    return run


def measure(options: Options, name: str, devices: Devices) -> Record:
    """Clips per second of every side and part size in every round, interleaved."""
    encoder = untrained_m2d(vit_config(options.size, frames=options.frames))
    config, objective = encoder.config, make_objective(name, encoder)
    rng = np.random.default_rng(0)
    samples = (options.frames - 1) * 160  # a frame every 10 ms at 16 kHz, centred: one more frame than hops
    pcm = (rng.normal(0, 0.1, (options.batch_size, samples)) * FULL_SCALE).astype(np.int16)
    classes = rng.integers(CLASSES, size=options.batch_size)
    spectrogram = np.asarray(jax.jit(encoder.front_end)(encoder.variables, pcm.astype(np.float32) / FULL_SCALE))
    visible, masked = random_mask(jax.random.key(0), options.batch_size, config.grid[0] * config.grid[1], 0.7)
    batch = torch_training.Batch(
        torch.from_numpy(spectrogram.swapaxes(1, 2).copy())[:, None],
        torch.from_numpy(np.array(visible, np.int64)),
        torch.from_numpy(np.array(masked, np.int64)),
        torch.from_numpy(classes),
    )
    params = jax.device_get(objective.init(jax.random.key(0)))
    members = np.eye(CLASSES, dtype=bool)[classes]
    sides = {f"jax, parts of {part}": jax_step(objective, pcm, members, part, devices) for part in options.parts}
    sides |= {
        f"torch, parts of {part}": torch_step(name, config, params, batch, part, devices) for part in options.parts
    }
    for step in sides.values():
        step()  # compiles, and warms up
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, step in sides.items():
            rates[side].append(options.batch_size / seconds_of(step))
    best = {
        kind: max((side for side in sides if side.startswith(kind)), key=lambda side: statistics.median(rates[side]))
        for kind in ("jax", "torch")
    }
    ratios = [ours / theirs for ours, theirs in zip(rates[best["jax"]], rates[best["torch"]], strict=True)]
    return {"clips_per_second": rates, "best": best, "jax_over_torch": ratios}


def main(options: Options) -> None:
    """Measure, print a table and write the record."""
    devices = Devices.choose()
    results = {name: measure(options, name, devices) for name in options.objectives}
    rows = []
    for name, result in results.items():
        ours, theirs = (
            statistics.median(result["clips_per_second"][result["best"][kind]]) for kind in ("jax", "torch")
        )
        ratios = result["jax_over_torch"]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        rows.append([name, f"{ours:.0f}", f"{theirs:.0f}", spread])
    print(table(["objective", "jaxdissect, crops/s", "PyTorch eager, crops/s", "ratio (median; min-max)"], rows))
    write_record(options.out, ("jax", "flax", "torch"), options=options_record(options, "out"), found=results)


if __name__ == "__main__":
    main(tyro.cli(Options))
