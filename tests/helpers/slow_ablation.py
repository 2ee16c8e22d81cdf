"""Ablation a second time: slow, in loops and float64, written from the method's text and not from the code.

A neuron is a pair (layer, neuron); a label set is a `Labels`. p-values and the bootstrap are exact: the first are found
with fractions, of the second every resample is listed.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from types import SimpleNamespace

import numpy as np
from foreign import HOP, STEPS
from sklearn.metrics import average_precision_score

EPSILON = 1e-5  # added to a head's variance


@dataclass(frozen=True)
class Labels:
    """Classes by name, for each clip the numbers of its classes, and heads as dicts of arrays, one for each probe."""

    name: str
    classes: tuple
    members: tuple
    multi_label: bool
    heads: tuple


def embedding(encoder, pcm, chosen=(), gain=1.0, means=None):
    """Of one clip by the IntegerEncoder; the chosen neurons' activations times `gain`, or replaced by their `means`."""
    frames = np.round(np.asarray(pcm, np.float64) * STEPS).reshape(-1, 16, HOP // 16).sum(axis=2)
    x = np.concatenate([frames.sum(axis=0, keepdims=True), frames])
    for layer in range(2):
        into, out = (encoder.variables["params"][f"{name}_{layer}"] for name in ("in", "out"))
        hidden = np.maximum(x @ into["kernel"].astype(np.float64) + into["bias"], 0)
        for of_layer, neuron in chosen:
            if of_layer == layer:
                for token in range(len(hidden)):
                    hidden[token, neuron] = hidden[token, neuron] * gain if means is None else means[layer][neuron]
        x = hidden @ out["kernel"].astype(np.float64) + out["bias"]
    return x.mean(axis=0)


def logits(head, clip):
    """Of one probe on one embedding."""
    head = {name: np.asarray(leaf, np.float64) for name, leaf in head.items()}
    return (clip - head["mean"]) / np.sqrt(head["variance"] + EPSILON) @ head["kernel"] + head["bias"]


def margin_of(scores, one, multi_label):
    """The logit of class `one`, in a label set with one class a clip less the largest other."""
    if multi_label:
        return scores[one]
    return scores[one] - max(score for other, score in enumerate(scores) if other != one)


def judge(embeddings, labels):
    """What the probes say of every class: clips, accuracy, margin, and the margin of every clip of the class.

    Of a clip that could not be read the embedding is None. `gap` is how near a decision was: the smallest difference
    between two logits of which the order counts.
    """
    scores = [[None if clip is None else logits(head, clip) for clip in embeddings] for head in labels.heads]
    readable = [number for number, clip in enumerate(embeddings) if clip is not None]
    found = SimpleNamespace(clips=[], accuracy=[], margin=[], margins=[], gap=math.inf)
    for one in range(len(labels.classes)):
        own = [number for number in readable if one in labels.members[number]]
        margins = {
            number: np.mean([margin_of(probe[number], one, labels.multi_label) for probe in scores]) for number in own
        }
        accuracies = []
        for probe in scores:
            if labels.multi_label:
                values = [probe[number][one] for number in readable]
                found.gap = min(found.gap, smallest_gap(values))
                accuracies.append(average_precision_score([number in own for number in readable], values))
            else:
                right = [margin_of(probe[number], one, False) for number in own]
                found.gap = min(found.gap, *map(abs, right))
                accuracies.append(np.mean([margin > 0 for margin in right]))
        found.clips.append(len(own))
        found.accuracy.append(np.mean(accuracies))
        found.margin.append(np.mean(list(margins.values())))
        found.margins.append(margins)
    return found


def smallest_gap(values):
    """Between two neighbours that are not equal."""
    gaps = np.diff(sorted(values))
    return min(gaps[gaps > 0], default=math.inf)


def exact_p(target, controls):
    """(1 + controls at least as far from the mean of all as the target) / (1 + controls), and how near a decision was.

    That is the smallest difference of two distances that are not equal.
    """
    target, controls = Fraction(float(target)), [Fraction(float(control)) for control in controls]
    middle = (target + sum(controls)) / (1 + len(controls))
    beyond = [abs(control - middle) - abs(target - middle) for control in controls]
    gap = min((abs(float(difference)) for difference in beyond if difference != 0), default=math.inf)
    return (1 + sum(difference >= 0 for difference in beyond)) / (1 + len(controls)), gap


def q_values(p_values):
    """Benjamini and Hochberg: the smallest level at which a step-up test rejects each."""
    found = []
    for own in p_values:
        levels = [
            other * len(p_values) / sum(another <= other for another in p_values) for other in p_values if other >= own
        ]
        found.append(min([1, *levels]))
    return found


def resampled_means(values, sources):
    """The mean of the values in every equally likely resample of their sources, as many as there are; sorted."""
    blocks = [[value for value, own in zip(values, sources, strict=True) if own == one] for one in sorted(set(sources))]
    found = []
    for drawn in product(blocks, repeat=len(blocks)):
        chosen = [value for block in drawn for value in block]
        found.append(sum(chosen) / len(chosen))
    return np.sort(found)


def ablate(encoder, clips, label_sets, chosen, means=None):
    """Rows of the table, of the controls and of the suite as dicts, and how near decisions were.

    `clip_changes` of the table are changes of the margin of every clip of the class. `logit_gap` is the smallest
    difference of two logits of which the order counts, `p_gap` that of two distances that a p-value compares.

    Args:
      encoder: an IntegerEncoder.
      clips: samples of each; None of one that could not be read.
      label_sets: a list of `Labels`.
      chosen: interventions.
      means: of the neurons, for mode "mean".
    """

    def embeddings(pairs, intervention):
        replaced = means if intervention.mode == "mean" else None
        pairs = [(int(layer), int(neuron)) for layer, neuron in pairs]
        return [None if pcm is None else embedding(encoder, pcm, pairs, intervention.gain, replaced) for pcm in clips]

    untouched = [None if pcm is None else embedding(encoder, pcm) for pcm in clips]
    targets = [embeddings(one.neurons.neurons, one) for one in chosen]
    controls = [[embeddings(pairs, one) for pairs in one.controls] for one in chosen]

    result = SimpleNamespace(rows=[], controls=[], suite=[], logit_gap=math.inf, p_gap=math.inf)
    for labels in label_sets:
        before = judge(untouched, labels)
        after = [judge(target, labels) for target in targets]
        beside = [[judge(control, labels) for control in several] for several in controls]
        judged = [before, *after, *(control for several in beside for control in several)]
        result.logit_gap = min(result.logit_gap, *(one.gap for one in judged))
        rows = []
        for intervention, own, others in zip(chosen, after, beside, strict=True):
            rows += class_rows(labels, intervention, before, own, others)
            result.controls += control_rows(labels, label_sets, intervention, before, others)
        for row, q in zip(rows, q_values([row["p_value"] for row in rows]), strict=True):
            row["q_value"] = q
        result.rows += rows
        for mode, gain in dict.fromkeys((intervention.mode, intervention.gain) for intervention in chosen):
            alike = [number for number, one in enumerate(chosen) if (one.mode, one.gain) == (mode, gain)]
            meant = [(number, {name for of, name in chosen[number].neurons.classes if of == labels.name})
                     for number in alike]  # fmt: skip
            meant = [(number, names) for number, names in meant if names]
            if meant:
                key = {"label_set": labels.name, "mode": mode, "gain": gain, "interventions": len(meant)}
                result.suite += [key | row for row in suite_rows(labels, before, after, beside, meant)]
    result.p_gap = min(row.pop("p_gap") for row in [*result.rows, *result.suite])
    return result


def class_rows(labels, intervention, before, after, others):
    """One intervention's rows of the table, q-values aside."""
    rows = []
    for one, name in enumerate(labels.classes):
        change = after.accuracy[one] - before.accuracy[one]
        margin_change = after.margin[one] - before.margin[one]
        rows.append({
            "label_set": labels.name,
            "intervention": intervention.name,
            "mode": intervention.mode,
            "gain": intervention.gain,
            "neurons": len(intervention.neurons.neurons),
            "class": name,
            "clips": before.clips[one],
            "accuracy_before": before.accuracy[one],
            "accuracy_after": after.accuracy[one],
            "change": change,
            "change_clips": math.nan if labels.multi_label else change * before.clips[one],
            "margin_before": before.margin[one],
            "margin_after": after.margin[one],
            "margin_change": margin_change,
            "clip_changes": {
                clip: margin - before.margins[one][clip] for clip, margin in after.margins[one].items()
            },
            **beside_controls(margin_change, [control.margin[one] - before.margin[one] for control in others]),
        })  # fmt: skip
    return rows


def beside_controls(target, controls):
    """How a target compares with its controls."""
    p, gap = exact_p(target, controls)
    return {
        "controls": len(controls),
        "control_mean": np.mean(controls),
        "control_sd": np.std(controls, ddof=1) if len(controls) > 1 else math.nan,
        "p_value": p,
        "p_gap": gap,
    }


def control_rows(labels, label_sets, intervention, before, others):
    """The rows of one intervention's controls; a class whose name is that of several has its label set before it."""
    named = [name for several in label_sets for name in several.classes]
    return [
        {
            "intervention": intervention.name,
            "control": number,
            "class": name if named.count(name) == 1 else f"{labels.name}:{name}",
            "change": control.accuracy[one] - before.accuracy[one],
            "margin_change": control.margin[one] - before.margin[one],
        }
        for number, control in enumerate(others)
        for one, name in enumerate(labels.classes)
    ]


def suite_rows(labels, before, after, beside, meant):
    """Changes of the margins of own and of other classes, and their difference, averaged over the interventions.

    Args:
      labels: the label set.
      before: what the probes say of the untouched encoder.
      after: of each intervention.
      beside: of each control of each intervention.
      meant: numbers of interventions, each with the names of its own classes.
    """

    def averages(outcomes):
        own, other = [], []
        for outcome, (_, names) in zip(outcomes, meant, strict=True):
            changes = {name: outcome.margin[one] - before.margin[one] for one, name in enumerate(labels.classes)}
            own.append(np.mean([change for name, change in changes.items() if name in names]))
            other.append(np.mean([change for name, change in changes.items() if name not in names]))
        difference = [one - another for one, another in zip(own, other, strict=True)]
        return {"own classes": np.mean(own), "other classes": np.mean(other), "own - other": np.mean(difference)}

    target = averages([after[number] for number, _ in meant])
    count = len(beside[meant[0][0]])
    controls = [averages([beside[number][control] for number, _ in meant]) for control in range(count)]
    return [
        {"contrast": name, "margin_change": value} | beside_controls(value, [control[name] for control in controls])
        for name, value in target.items()
    ]
