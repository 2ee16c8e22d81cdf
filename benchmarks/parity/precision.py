"""What computing in bfloat16 does to counts, AAPE and the neurons that are chosen, on a trained encoder.

`python -m benchmarks.parity.precision --data ESC-50 --out benchmarks/results/precision-cpu.json`. Both precisions see
the same spectrograms; the counts of each are checked against sums of whole numbers on the host.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.common import table, write_record
from jaxdissect import CountOptions, SelectionRule, load_encoder, load_task
from jaxdissect.ablation.causal_map import spearman
from jaxdissect.activations.write import edit_neurons
from jaxdissect.counting.stream import Counted, count_clips, neuron_shape
from jaxdissect.encoder.protocol import Encoder, module_input
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.runtime.sharding import local_mesh, map_clips, replicate
from jaxdissect.selection.aape import Selection, select
from jaxdissect.tasks.loader import device_batches
from jaxdissect.tasks.table import Task

DTYPES = ("float32", "bfloat16")
RULES = {"aape": SelectionRule("aape", 0.02), "lape": SelectionRule("lape", 0.02)}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare."""

    data: Path  # folder of ESC-50, or of another known task
    out: Path | None = None  # the JSON file to write
    task: str = "esc50"
    encoders: tuple[str, ...] = ("m2d_tiny", "supervised_tiny")
    split: str = "train"  # clips that are counted
    batch_size: int = 16  # clips per device


def sign_flips(encoders: dict[str, Encoder], task: Task, batch_size: int) -> dict[str, Any]:
    """Share of neuron-token pairs of each layer that are active in one precision only."""
    mesh = local_mesh()

    def signs(encoder: Encoder, variables: Any, pcm: jax.Array) -> list[jax.Array]:
        found: dict[int, list[jax.Array]] = {}

        def observe(layer: int, activation: jax.Array) -> jax.Array:
            found.setdefault(layer, []).append((activation > 0).reshape(len(pcm), -1, activation.shape[-1]))
            return activation

        inputs = module_input(encoder, variables, pcm)
        edit_neurons(encoder.module, variables, inputs, neurons=encoder.neurons, edit=observe)
        return [jnp.concatenate(found[layer], axis=1) for layer in sorted(found)]

    def compare(variables: Any, pcm: jax.Array) -> jax.Array:
        one, other = (signs(encoder, variables, pcm) for encoder in encoders.values())
        return jnp.stack([(a != b).sum(axis=(1, 2), dtype=jnp.int32) for a, b in zip(one, other, strict=True)], axis=1)

    encoder = encoders["float32"]
    step, variables = map_clips(compare, mesh, (None, 0)), replicate(encoder.variables, mesh)
    flips, clips = 0, 0
    with progress_bar(what="Comparing signs", total=len(task)) as bar:
        for batch, arrays in device_batches(task, encoder.sample_rate, batch_size * mesh.size, mesh):
            counted = batch.members[:, -1]
            flips = flips + np.asarray(step(variables, arrays["pcm"]), np.int64)[counted].sum(axis=0)
            clips += int(counted.sum())
            bar.update(len(batch.statuses))
    layers, neurons = neuron_shape(encoder, task)
    tokens = sum(
        layout.is_patch.size for layout in encoder.token_layout(round(task.unit_seconds * encoder.sample_rate))
    )
    per_layer = np.asarray(flips) / (clips * tokens * neurons)
    return {
        "share": float(per_layer.mean()),
        "per_layer": per_layer.tolist(),
        "pairs": clips * tokens * neurons * layers,
    }


def exact_counts(encoder: Encoder, task: Task, batch_size: int, progress: Callable[[int], object]) -> Counted:
    """Count, and check every class sum against whole numbers added up on the host from every clip's counts."""
    store = np.zeros((len(task), *neuron_shape(encoder, task)), np.uint16)
    counted = count_clips(encoder, task, CountOptions(batch_size=batch_size), store, progress=progress)
    readable = [status.status != "unreadable" for status in counted.log.statuses()]
    members = task.members(range(len(task))) & np.array(readable)[:, None]
    for index in range(members.shape[1]):
        expected = store[members[:, index]].sum(axis=0, dtype=np.int64)
        if not np.array_equal(expected, counted.totals.active_tokens[index]):
            raise SystemExit(f"The counts of the class {task.classes[index]} are not exact.")
    return counted


def choose(counted: Counted, rule: SelectionRule, classes: slice = slice(-1)) -> Selection:
    """Neurons of the label set of these classes; by default of the only one."""
    return select(counted.totals.active_tokens[classes], counted.totals.tokens[classes], rule)


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Shared members over all members of two sets, as boolean arrays; NaN if both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else math.nan


def changes(counted: dict[str, Counted]) -> dict[str, Any]:
    """How far AAPE and the chosen sets move from float32 to bfloat16."""
    found: dict[str, Any] = {}
    active = [counted[dtype].totals.active_tokens[-1] for dtype in DTYPES]
    found["active_tokens_changed"] = float(np.abs(active[0] - active[1]).sum() / active[0].sum())
    for name, rule in RULES.items():
        one, other = (choose(counted[dtype], rule) for dtype in DTYPES)
        both = np.isfinite(one.aape) & np.isfinite(other.aape)
        difference = np.abs(one.aape - other.aape)[both]
        found[name] = {
            "aape_change_median": float(np.median(difference)),
            "aape_change_95th_percentile": float(np.quantile(difference, 0.95)),
            "aape_spread": float(np.quantile(one.aape[both], 0.95) - np.quantile(one.aape[both], 0.05)),
            "aape_rank_correlation": spearman(one.aape[both], other.aape[both]),
            "kept_neurons": [int(one.kept.sum()), int(other.kept.sum())],
            "kept_jaccard": jaccard(one.kept, other.kept),
            "class_neuron_pairs": [int(one.specific.sum()), int(other.specific.sum())],
            "class_neuron_jaccard": jaccard(one.specific, other.specific),
            "covered_classes": [int(part.specific.any(axis=(1, 2)).sum()) for part in (one, other)],
        }
    return found


def advance(bar: Any, clips: int) -> None:
    """Set a bar to the clips that are done."""
    bar.update(clips - bar.n)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def main(options: Options) -> None:
    """Compare, print and write down."""
    task = load_task(options.task, options.data).only(options.split)
    results = {}
    for name in options.encoders:
        encoders = {dtype: load_encoder(name, dtype) for dtype in DTYPES}
        flips = sign_flips(encoders, task, options.batch_size)
        counted = {}
        for dtype, encoder in encoders.items():
            with progress_bar(what=f"Counting in {dtype}", total=len(task)) as bar:
                counted[dtype] = exact_counts(encoder, task, options.batch_size, functools.partial(advance, bar))
        results[name] = {"sign_flips": flips, "counts_exact": True, **changes(counted)}
    rows = [
        (
            name, preset, f"{found['sign_flips']['share']:.2%}", f"{found[preset]['aape_change_median']:.4f}",
            f"{found[preset]['aape_rank_correlation']:.4f}", f"{found[preset]['kept_jaccard']:.2f}",
            _share(found[preset]["class_neuron_jaccard"]), " -> ".join(map(str, found[preset]["covered_classes"])),
        )
        for name, found in results.items()
        for preset in RULES
    ]  # fmt: skip
    head = ("encoder", "preset", "signs that flip", "AAPE change, nats (median)", "rank correlation of AAPE",
            "Jaccard of kept neurons", "of (class, neuron) pairs", "classes covered")  # fmt: skip
    print(table(head, rows))
    if options.out is not None:
        told = {name: value for name, value in dataclasses.asdict(options).items() if name not in ("data", "out")}
        write_record(options.out, ("jax", "flax", "numpy"), options=told, results=results)


if __name__ == "__main__":
    main(tyro.cli(Options))
