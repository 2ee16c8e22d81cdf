"""Results in words, for a terminal."""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdissect.demo import DemoResult
from jaxdissect.encoder.m2d import M2D
from jaxdissect.selection.labelled import Neurons
from jaxdissect.sharing.share import Sharing
from jaxdissect.significance.assess import LEVEL
from jaxdissect.significance.cautions import counting_cautions, has_p_values, selection_cautions
from jaxdissect.stages.activations import ActivationsResult
from jaxdissect.stages.prepare import PrepareResult
from jaxdissect.stages.probe import ProbeResult

BUSIEST = 3
MANY = 20  # pairs that permutations can tell from chance only together
LISTED = 10  # files that could not be read
COMPARE = (
    "Significant does not mean large, nor that the class is what the neuron is for: compare with an untrained encoder."
)
CAUTION = (
    "AAPE keeps a fixed share of neurons, on shuffled labels too: the number found says nothing by itself. "
    "Compare with an untrained encoder."
)


def activations_summary(done: ActivationsResult) -> str:
    """What was counted, how fast, and what could not be read."""
    counts, clips, record = done.activations.counts, done.activations.clips, done.record
    status = clips["status"].value_counts()
    active = counts["total_active_tokens"]
    neurons = counts.sizes["layer"] * counts.sizes["neuron"]
    tokens = int(counts["total_tokens"])
    lines = [
        f"Counted {int(counts['total_clips']):,} clips, {tokens:,} tokens, {neurons:,} neurons in "
        f"{counts.sizes['layer']} layers ({', '.join(f'{n} {name}' for name, n in status.items())}).",
        f"Active: {100 * float(active.mean()) / max(tokens, 1):.1f}% of neuron-token pairs; "
        f"{int((active == 0).sum()):,} neurons never fire.",
    ]
    if done.reused:
        lines.append("These counts were in the run directory already.")
    else:
        lines.append(
            f"{record['clips_per_second']:,.1f} clips/s, {record['seconds']:,.1f} s in all, "
            f"peak memory {record['peak_memory_mb']:,} MB."
        )
    return "\n".join([*lines, *activations_warnings(done)])


def activations_warnings(done: ActivationsResult) -> list[str]:
    """What could not be read; padding that makes up most of the clips; no split beside."""
    clips = done.activations.clips
    bad = clips[clips["status"] == "unreadable"]
    lines = listed("Not counted", zip(bad["file_name"], bad["reason"], strict=True), len(bad), "clips.csv")
    return [*lines, *counting_cautions(done.record, clips)]


def listed(what: str, reasons: Iterable[tuple[object, object]], total: int, file: str) -> list[str]:
    """Files that took no part, each with the reason; of many the first, and where the others stand.

    One line, where all of many have the same reason.
    """
    entries = list(reasons)
    if len(entries) == total > LISTED and len({reason for _, reason in entries}) == 1:
        (name, reason) = entries[0]
        return [f"{what}: {total} files, all for the same reason: {reason}; the first is {name}, see {file}."]
    lines = [f"{what}: {name}: {reason}" for name, reason in entries[:LISTED]]
    return [*lines, *([f"... and {total - LISTED} more, see {file}."] if total > LISTED else [])]


def preparation_summary(out: Path, done: PrepareResult) -> str:
    """What was prepared, how large it is and how fast it went."""
    rate = f", {done.made / done.seconds:,.1f} clips/s" if done.made else ""
    lines = [
        f"{done.clips:,} clips, {done.unreadable:,} unreadable; {done.shards} shard{'s' * (done.shards != 1)}, "
        f"{done.size / 1e6:,.1f} MB; {done.made:,} decoded now in {done.seconds:,.1f} s{rate}."
    ]
    lines += preparation_warnings(out, done)
    if done.complete:
        lines.append(f"Complete. The other commands read it by: {shlex.join(done.reading)}")
    else:
        lines.append("Not complete yet: repeat the command without --part when the other parts are done.")
    return "\n".join(lines)


def preparation_warnings(out: Path, done: PrepareResult) -> list[str]:
    """What to do about clips that could not be read."""
    if not done.unreadable:
        return []
    return [
        f"{done.unreadable:,} clips are unreadable: to try them again, remove the {out}/shard-*.json that list them "
        f"and repeat this."
    ]


def encoder_summary(encoder: M2D) -> str:
    """An encoder's name and sizes."""
    vit, head = encoder.config, encoder.variables.get("head")
    return (
        f"{encoder.name}: {vit.depth} layers of {vit.mlp} neurons ({vit.depth * vit.mlp:,}), width {vit.width}, "
        f"{vit.heads} heads, input {vit.bands} bands x {vit.frames} frames in patches of "
        f"{vit.patch_bands}x{vit.patch_frames}, {encoder.sample_rate} Hz"
        + (f", task head of {len(head['bias'])} classes." if head else ".")
    )


def training_summary(encoder: M2D, record: Mapping[str, Any]) -> str:
    """What was trained, on what, for how long, and where the loss went."""
    first, last = record["curve"][0], record["curve"][-1]
    vit = encoder.config
    metrics = [name for name in last if name not in ("step", "learning_rate")]
    course = ", ".join(f"{name.replace('_', ' ')} {first[name]:.3f} -> {last[name]:.3f}" for name in metrics)
    return (
        f"Trained {encoder.name}: {vit.depth} layers of {vit.mlp} neurons, width {vit.width}, on "
        f"{record['data']['clips']:,} clips of {record['task']}.\n"
        f"{record['steps']:,} steps of {record['batch_size']} crops in {record['hours']:.2f} h, "
        f"{record['clips_per_second']:,.0f} crops/s; {course}."
    )


def probe_summary(result: ProbeResult) -> str:
    """Mean scores over the probes of every label set, with their standard deviation; clips that took no part."""
    rows = []
    for done in result.evaluations:
        scores = done.scores.groupby("split", sort=False)["score"]
        clips = done.scores[done.scores["split"] == "test"]["clips"]
        mean, deviation = scores.mean(), scores.std(ddof=0)
        rows.append(
            [
                done.labels.name,
                len(done.labels.classes),
                str(done.scores["metric"].iloc[0]).replace("_", " "),
                *("-" if math.isnan(mean[name]) else f"{100 * mean[name]:.1f}%" for name in ("train", "valid")),
                f"{100 * mean['test']:.1f}% +- {100 * deviation['test']:.1f}",
                f"{clips.mean():.0f}",
                len(clips),
            ]
        )
    lines = [table(["label set", "classes", "metric", "train", "valid", "test", "test clips", "probes"], rows)]
    return "\n".join([*lines, *probe_warnings(result)])


def probe_warnings(result: ProbeResult) -> list[str]:
    """Clips that took no part."""
    return listed("Left out", result.unusable.items(), len(result.unusable), "probe.json")


def neurons_summary(neurons: Neurons, beside: Sequence[str] = ()) -> str:
    """Coverage, neurons per class and the busiest layers of every label set; warnings, with further ones `beside`."""
    lines = [
        table(
            ["label set", "classes", "coverage", "kept neurons", "neurons/class", "classes/neuron", "busiest layers"],
            [
                [
                    row["label_set"],
                    row["classes"],
                    f"{row['coverage']:.0%}",
                    row["kept_neurons"],
                    f"{row['mean_neurons_per_class']:.1f}",
                    f"{row['mean_classes_per_neuron']:.2f}",
                    _busiest_layers(neurons, str(row["label_set"])),
                ]
                for _, row in neurons.coverage.iterrows()
            ],
        )
    ]
    for name in neurons.coverage["label_set"]:
        found = (
            neurons.neurons[neurons.neurons["label_set"] == name].groupby("class").size().sort_values(ascending=False)
        )
        if len(found):
            most = ", ".join(f"{label} {count}" for label, count in found.head(5).items())
            least = ", ".join(f"{label} {count}" for label, count in found.tail(2).items())
            lines.append(f"{name}: most {most}" + (f"; fewest {least}" if len(found) > 5 else ""))
    known = has_p_values(neurons.coverage)
    if known:
        lines += [_certainty(row) for _, row in neurons.coverage.iterrows()]
    return "\n".join([*lines, *neurons_warnings(neurons), *beside, CAUTION if not known else COMPARE])


def neurons_warnings(neurons: Neurons) -> list[str]:
    """Label sets and classes without neurons; classes that were left out or could not be tested."""
    return selection_cautions(neurons.coverage, neurons.scores.attrs)


def _certainty(row: Any) -> str:
    """How sure the selection of a label set is."""
    parts = [f"{row['label_set']}: {row['pairs']:,} pairs of class and neuron"]
    if not math.isnan(row["pairs_by_chance"]):
        parts.append(f"{row['pairs_by_chance']:,.1f} would pass the same cut-offs under permuted labels")
    parts.append(
        f"{row['pairs_significant']:,} of them have q <= {LEVEL} (of all pairs, selected or not, "
        f"{row['all_pairs_significant']:,})"
    )
    if not math.isnan(row["split_half_jaccard"]):
        parts.append(
            f"coverage {row['coverage_low']:.0%} to {row['coverage_high']:.0%} over resampled recordings; halves of "
            f"them agree on {row['split_half_jaccard']:.0%} of the pairs"
        )
    if row["classes_untested"] < row["classes"] and not row["pairs_needed"] <= MANY:
        needed = "even more than all" if math.isnan(row["pairs_needed"]) else f"{row['pairs_needed']:,.0f}"
        parts.append(
            f"with so few permutations {needed} pairs must be beyond all of them before any has q <= {LEVEL}: draw "
            f"more (--permutations)"
        )
    if row["fixed_clips"] > 0:
        parts.append(f"the labels of {row['fixed_clips']:.1%} of the clips could not be exchanged")
    return "; ".join(parts) + "."


def sharing_summary(done: Sharing, warnings: Sequence[str]) -> str:
    """Which classes share most, and how much chance shares, of every two label sets; then the warnings."""
    lines = []
    for names, rows in done.table.groupby(["label_set_a", "run_b", "label_set_b"], sort=False):
        found = rows[(rows["size_a"] > 0) & (rows["size_b"] > 0)]
        what = f"{names[0]} x {names[2]}" + (f" of {names[1]}" if names[1] != rows["run_a"].iloc[0] else "")
        if not len(found):
            lines.append(f"{what}: no two classes have neurons.")
            continue
        share, particular = found["q_value"] <= LEVEL, found["q_by_breadth"] <= LEVEL
        lines.append(
            f"{what}: {len(found):,} pairs of classes with neurons share {found['shared'].mean():,.1f} neurons on "
            f"average; {int(share.sum()):,} of the pairs share more than chance ({found['null'].iloc[0]}: "
            f"{found['expected_shared'].mean():,.1f}), "
            f"{int(particular.sum()):,} more than their sizes and the breadth of the neurons explain "
            f"(q <= {LEVEL}){':' if particular.any() else '.'}"
        )
        lines += [
            f"  {row['class_a']} and {row['class_b']}: {row['shared']} of {row['size_a']} and {row['size_b']} neurons, "
            f"{row['expected_by_breadth']:.1f} expected, Jaccard {row['jaccard']:.2f}"
            for _, row in found[particular].sort_values("p_by_breadth", kind="stable").head(BUSIEST).iterrows()
        ]
    return "\n".join([*lines, *warnings])


def sharing_warnings(done: Sharing) -> list[str]:
    """Runs whose neurons are not those of the first one."""
    return [
        f"{run} is of another encoder: neurons of two trainings do not correspond by their numbers, unless one began "
        f"from the other."
        for run in done.other_encoders
    ]


def demo_summary(results: Sequence[DemoResult]) -> str:
    """What was counted with each encoder, and coverage and neurons per class side by side."""
    first = results[0].counted
    counts = first.activations.counts
    lines = [
        f"Counted {int(counts['total_clips']):,} clips, {int(counts['total_tokens']):,} tokens, "
        f"{counts.sizes['layer'] * counts.sizes['neuron']:,} neurons in {counts.sizes['layer']} layers, with each:"
    ]
    for result in results:
        record = result.counted.record
        rate = "counted before" if result.counted.reused else f"{record['clips_per_second']:,.1f} clips/s"
        lines.append(f"  {result.run.name} ({result.kind}): {rate}")
    presets = list(results[0].neurons)
    header = ["label set", "classes", "encoder"]
    header += [f"{what}, {preset}" for preset in presets for what in ("coverage", "neurons/class")] + ["AAPE cut-off"]
    rows = []
    for name in results[0].neurons[presets[0]].coverage["label_set"]:
        for result in results:
            found = {preset: result.neurons[preset].coverage.set_index("label_set").loc[name] for preset in presets}
            row: list[object] = [name, int(found[presets[0]]["classes"]), result.kind]
            for of_preset in found.values():
                row += [f"{of_preset['coverage']:.0%}", f"{of_preset['mean_neurons_per_class']:.1f}"]
            rows.append([*row, f"{normalised_cutoff(result.neurons[presets[0]], str(name)):.3f}"])
    lines.append(table(header, rows))
    lines.append(
        "Coverage: share of the classes with a neuron of their own. AAPE cut-off: the highest entropy among the\n"
        "neurons kept, 1 for one that fires for all classes alike; the lower, the more selective the best neurons.\n"
        "Preset aape also keeps neurons that fire too seldom to count for any class; lape does not."
    )
    lines.append(CAUTION)
    return "\n".join(lines)


def normalised_cutoff(neurons: Neurons, label_set: str) -> float:
    """The highest AAPE kept, divided by ln(classes)."""
    classes = neurons.coverage.set_index("label_set")["classes"].to_dict()
    return float(neurons.scores["aape_cutoff"].sel(label_set=label_set)) / math.log(classes[label_set])


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A plain table: the first column to the left, the others to the right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _busiest_layers(neurons: Neurons, label_set: str) -> str:
    rows = neurons.neurons[neurons.neurons["label_set"] == label_set].drop_duplicates(["layer", "neuron"])
    per_layer = np.bincount(rows["layer"].astype(int), minlength=neurons.scores.sizes["layer"])
    order = np.argsort(-per_layer, kind="stable")[:BUSIEST]
    return ", ".join(f"{layer} ({per_layer[layer]})" for layer in order if per_layer[layer]) or "-"
