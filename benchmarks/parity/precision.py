"""What computing in bfloat16 does to counts, AAPE and the chosen neurons of a trained encoder.

`python -m benchmarks.parity.precision --data ESC-50 --out benchmarks/results/precision-cpu.json` compares float32 with
bfloat16 on the same spectrograms. It checks the counts of both against sums of whole numbers on the host. Expected
time: ten minutes.
"""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import PyTree

from benchmarks.common import options_record, table, write_record
from jaxdissect import CountOptions, SelectionRule, load_encoder, load_task
from jaxdissect.ablation.causal_check import spearman
from jaxdissect.activations.read import capture_neurons
from jaxdissect.counting.clip_store import empty_clip_store
from jaxdissect.counting.stream import Counted, count_clips, neuron_shape
from jaxdissect.encoder.protocol import Encoder, module_input, named_units
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.runtime.sharding import local_mesh, map_clips, replicate
from jaxdissect.selection.aape import Selection, select
from jaxdissect.tasks.loader import device_batches
from jaxdissect.tasks.table import Task
from jaxdissect.types import Record

DTYPES = ("float32", "bfloat16")
RULES = {"aape": SelectionRule("aape", 0.02), "lape": SelectionRule("lape", 0.02)}


@dataclasses.dataclass(frozen=True)
class Options:
    """Encoders and clips to compare."""

    data: Path  # folder of ESC-50, or of another known task
    out: Path | None = None  # the JSON file to write
    task: str = "esc50"
    encoders: tuple[str, ...] = ("m2d_tiny", "supervised_tiny")
    split: str = "train"  # clips to count
    batch_size: int = 16  # clips per device


def sign_flips(encoders: dict[str, Encoder], task: Task, batch_size: int) -> Record:
    """Fraction of neuron-token pairs of each layer that are active in one precision only."""
    mesh = local_mesh()

    def signs(encoder: Encoder, variables: PyTree, pcm: jax.Array) -> list[jax.Array]:
        """Whether each neuron is active at each token, one array (clip, token, neuron) per layer."""
        inputs = module_input(encoder, variables, pcm)
        layers = capture_neurons(encoder.module, variables, inputs, **named_units(encoder))
        # One call for each chunk of a long clip, with any axes between clip and neuron.
        return [
            jnp.concatenate([(a > 0).reshape(len(pcm), -1, a.shape[-1]) for a in calls], axis=1) for calls in layers
        ]

    def compare(variables: PyTree, pcm: jax.Array) -> jax.Array:
        """Differing signs (clip, layer)."""
        sides = (signs(encoder, variables, pcm) for encoder in encoders.values())
        return jnp.stack([(a != b).sum(axis=(1, 2), dtype=jnp.int32) for a, b in zip(*sides, strict=True)], axis=1)

    encoder = encoders["float32"]
    layers, neurons = neuron_shape(encoder, task)
    step, variables = map_clips(compare, mesh, (None, 0)), replicate(encoder.variables, mesh)
    flips, clips = np.zeros(layers, np.int64), 0
    with progress_bar(what="Comparing signs", total=len(task)) as bar:
        for batch, arrays in device_batches(task, encoder.sample_rate, batch_size * mesh.size, mesh):
            readable = batch.members[:, -1]
            flips += np.asarray(step(variables, arrays["pcm"]), np.int64)[readable].sum(axis=0)
            clips += int(readable.sum())
            bar.update(len(batch.statuses))
    layouts = encoder.token_layout(round(task.unit_seconds * encoder.sample_rate))
    pairs_per_layer = clips * sum(layout.is_patch.size for layout in layouts) * neurons
    per_layer = flips / pairs_per_layer
    return {"share": float(per_layer.mean()), "per_layer": per_layer.tolist(), "pairs": pairs_per_layer * layers}


def exact_counts(encoder: Encoder, task: Task, dtype: str, batch_size: int) -> Counted:
    """Count, and check every class sum against whole numbers added up on the host from every clip's counts."""
    store = empty_clip_store((len(task), *neuron_shape(encoder, task)))
    with progress_bar(what=f"Counting in {dtype}", total=len(task)) as bar:
        counted = count_clips(
            encoder,
            task,
            CountOptions(batch_size=batch_size),
            store,
            progress=bar.update_to,
        )
    readable = np.array([status.status != "unreadable" for status in counted.log.statuses()])
    members = task.members(range(len(task))) & readable[:, None]
    for index in range(members.shape[1]):
        expected = store.counts[members[:, index]].sum(axis=0, dtype=np.int64)
        if not np.array_equal(expected, counted.totals.active_tokens[index]):
            raise SystemExit(f"The counts of the class {task.classes[index]} are not exact.")
    return counted


def choose(counted: Counted, rule: SelectionRule) -> Selection:
    """Neurons of a task with one label set; the last row, of all clips, is no class."""
    return select(counted.totals.active_tokens[:-1], counted.totals.tokens[:-1], rule)


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Jaccard coefficient of two sets given as boolean arrays; NaN if both are empty."""
    union = int((left | right).sum())
    return int((left & right).sum()) / union if union else math.nan


def changes(counted: dict[str, Counted]) -> Record:
    """How far AAPE and the chosen sets move from float32 to bfloat16."""
    active = [counted[dtype].totals.active_tokens[-1] for dtype in DTYPES]
    moved: Record = {"active_tokens_changed": float(np.abs(active[0] - active[1]).sum() / active[0].sum())}
    for name, rule in RULES.items():
        before, after = (choose(counted[dtype], rule) for dtype in DTYPES)
        both = np.isfinite(before.aape) & np.isfinite(after.aape)  # neurons that fire in both precisions
        difference = np.abs(before.aape - after.aape)[both]
        moved[name] = {
            "aape_change_median": float(np.median(difference)),
            "aape_change_95th_percentile": float(np.quantile(difference, 0.95)),
            "aape_spread": float(np.quantile(before.aape[both], 0.95) - np.quantile(before.aape[both], 0.05)),
            "aape_rank_correlation": spearman(before.aape[both], after.aape[both]),
            "kept_neurons": [int(before.kept.sum()), int(after.kept.sum())],
            "kept_jaccard": jaccard(before.kept, after.kept),
            "class_neuron_pairs": [int(before.specific.sum()), int(after.specific.sum())],
            "class_neuron_jaccard": jaccard(before.specific, after.specific),
            "covered_classes": [int(chosen.specific.any(axis=(1, 2)).sum()) for chosen in (before, after)],
        }
    return moved


def row(encoder: str, preset: str, result: Record) -> list[str]:
    """A row of the printed table."""
    moved, pairs = result[preset], result[preset]["class_neuron_jaccard"]
    return [
        encoder,
        preset,
        f"{result['sign_flips']['share']:.2%}",
        f"{moved['aape_change_median']:.4f}",
        f"{moved['aape_rank_correlation']:.4f}",
        f"{moved['kept_jaccard']:.2f}",
        "-" if math.isnan(pairs) else f"{pairs:.2f}",
        " -> ".join(map(str, moved["covered_classes"])),
    ]


def main(options: Options) -> None:
    """Compare, print a table and write the record."""
    task = load_task(options.task, options.data).only(options.split)
    results = {}
    for name in options.encoders:
        encoders = {dtype: load_encoder(name, dtype) for dtype in DTYPES}
        flips = sign_flips(encoders, task, options.batch_size)
        counted = {dtype: exact_counts(encoders[dtype], task, dtype, options.batch_size) for dtype in DTYPES}
        results[name] = {"sign_flips": flips, "counts_exact": True, **changes(counted)}
    head = (
        "encoder | preset | signs that flip | AAPE change, nats (median) | rank correlation of AAPE | "
        "Jaccard of kept neurons | of (class, neuron) pairs | classes covered"
    )
    print(table(head.split(" | "), [row(name, preset, one) for name, one in results.items() for preset in RULES]))
    if options.out is not None:
        given = options_record(options, "data", "out")
        write_record(options.out, ("jax", "flax", "numpy"), options=given, results=results)


if __name__ == "__main__":
    main(tyro.cli(Options))
