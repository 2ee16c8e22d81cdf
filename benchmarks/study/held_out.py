"""Which selection finds neurons that hold up: selective on clips of recordings that they were not chosen by.

`python -m benchmarks.study.held_out --esc50 ESC-50 --fsdd FSDD --out benchmarks/results/held_out.json` chooses on the
training split of each task and judges on its test split, for each encoder. `--judge valid` is for development: it
chooses on folds 1-3 of ESC-50 and on the training splits, and judges on fold 4 and the validation splits; the test
clips are not looked at. Expected time: an hour on two cores. Every encoder and task is written as soon as it is done,
and is not repeated.

Each row is a selection: its pairs, the classes with one, the AUROC of its pairs on the judging clips (median and 10%
quantile), the classes with a pair of at least 0.8, the median normalised AAPE, how far choices by random halves of the
choosing recordings agree (Jaccard), and the seconds that choosing took. `ceiling` is the best single neuron of each
class by the judging clips themselves, which no selection can exceed.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Bool, Float

from benchmarks.common import short_name, table, write_record
from benchmarks.study.rank_scores import rank_scores
from jaxdissect.activations.read import capture_neurons
from jaxdissect.audio.pcm import samples_as_float
from jaxdissect.counting.clip_store import empty_clip_store
from jaxdissect.counting.stream import CountOptions, count_clips, neuron_shape
from jaxdissect.encoder.directory import load_encoder
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.selection.aape import SelectionRule, aape, select
from jaxdissect.selection.auroc import READINGS, AurocRule, auroc_of_sums, best_neurons, centred_ranks
from jaxdissect.selection.scores import class_selectivity
from jaxdissect.tasks.known import load_task
from jaxdissect.tasks.loader import batches
from jaxdissect.tasks.table import Task
from jaxdissect.types import Record

GOOD, PER_CLASS, QUANTILE, SAMPLE = 0.8, 5, 0.99, 48
Values = Float[np.ndarray, "clip neuron"]
Members = Bool[np.ndarray, "clip class"]
Chosen = Bool[np.ndarray, "class neuron"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Encoders and data to compare on."""

    esc50: Path  # the ESC-50 folder
    fsdd: Path  # the folder with fsdd.csv
    out: Path  # the JSON file to write
    encoders: tuple[str, ...] = ("m2d_tiny", "supervised_tiny", "jaxdissect.demo:untrained_tiny")
    judge: Literal["test", "valid"] = "test"


@dataclasses.dataclass(frozen=True)
class Clips:
    """Readings of the clips of one label set, flat over layers and neurons.

    Attributes:
      values: mean, peak, excess and share of active tokens of every clip, and `own share`, the share of tokens above
        each neuron's own threshold.
      active, own_active: tokens above 0, and above each neuron's own threshold.
      tokens: tokens of every clip.
      members: classes of every clip.
    """

    values: Mapping[str, Values]
    active: np.ndarray
    own_active: np.ndarray
    tokens: np.ndarray
    members: Members

    def of(self, rows: Bool[np.ndarray, " clip"]) -> "Clips":
        """Some of the clips."""
        values = {name: array[rows] for name, array in self.values.items()}
        return Clips(values, self.active[rows], self.own_active[rows], self.tokens[rows], self.members[rows])


def auroc(values: Values, members: Members) -> Float[np.ndarray, "class neuron"]:
    """One-vs-rest AUROC of every class and neuron."""
    return auroc_of_sums(members.T.astype(np.float64) @ centred_ranks(values), members.sum(axis=0), len(values))


def best(score: Float[np.ndarray, "class neuron"], per_class: int = PER_CLASS) -> Chosen:
    """As many neurons for each class, those of the highest score."""
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), axis=1, kind="stable")[:, :per_class]
    chosen = np.zeros(score.shape, bool)
    np.put_along_axis(chosen, order, values=True, axis=1)
    return chosen


def margins(values: Values, members: Members) -> tuple[np.ndarray, np.ndarray]:
    """Mean deviation and contrastive margin (MAD and CAS of arXiv 2601.03115), in standard deviations over clips.

    The first is the class's mean less that of all clips, the second less that of the next class.
    """
    z = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-12)
    means = members.T.astype(np.float64) @ z / members.sum(axis=0)[:, None]
    first, second = np.sort(means, axis=0)[::-1][:2]
    return means, means - np.where(means == first, second, first)


def d_primes(values: Values, members: Members) -> np.ndarray:
    """D' of the clips of a class against the rest."""
    result = []
    for own in members.T:
        a, b = values[own], values[~own]
        result.append((a.mean(axis=0) - b.mean(axis=0)) / np.sqrt((a.var(axis=0) + b.var(axis=0)) / 2 + 1e-12))
    return np.stack(result)


def by_counts(active: np.ndarray, clips: Clips, preset: str, keep: float) -> Chosen:
    """The selection by AAPE of one preset, from any counts of tokens."""
    weights = clips.members.T.astype(np.int64)
    counts = (weights.astype(np.float64) @ active).astype(np.int64)[:, None]
    return select(counts, weights @ clips.tokens, SelectionRule(preset, keep)).specific[:, 0]


def selections(keep: float) -> dict[str, tuple[str | None, Callable[[Clips], Chosen]]]:
    """Every selection by its name: the reading that its pairs are judged by (None: the better one), and its choice."""

    def preset(clips: Clips) -> Chosen:
        scores = np.fmax.reduce([auroc(clips.values[name], clips.members) for name in READINGS])
        return best_neurons(scores[:, None], AurocRule())[:, 0]

    found: dict[str, tuple[str | None, Callable[[Clips], Chosen]]] = {
        "preset auroc": (None, preset),
        "preset lape": ("share", lambda clips: by_counts(clips.active, clips, "lape", keep)),
        "preset aape": ("share", lambda clips: by_counts(clips.active, clips, "aape", keep)),
        "lape, own threshold": ("own share", lambda clips: by_counts(clips.own_active, clips, "lape", keep)),
        "aape, own threshold": ("own share", lambda clips: by_counts(clips.own_active, clips, "aape", keep)),
        "class selectivity": ("share", lambda clips: best(class_selectivity(_p(clips)))),
        "AP of the share": ("share", lambda clips: best(rank_scores(clips.values["share"], clips.members)[1])),
    }
    for name in ("share", *READINGS, "own share"):
        found[f"AUROC of the {name}"] = (name, partial(_by_auroc, name))
    for label, score in (("d'", d_primes), ("MAD", lambda *a: margins(*a)[0]), ("CAS", lambda *a: margins(*a)[1])):
        found[f"{label} of the mean"] = ("mean", partial(_by_mean, score))
    return found


def _by_auroc(reading: str, clips: Clips) -> Chosen:
    return best(auroc(clips.values[reading], clips.members))


def _by_mean(score: Callable[[Values, Members], np.ndarray], clips: Clips) -> Chosen:
    return best(score(clips.values["mean"], clips.members))


def _p(clips: Clips) -> np.ndarray:
    weights = clips.members.T.astype(np.float64)
    return weights @ clips.active / (weights @ clips.tokens)[:, None]


def own_thresholds(encoder: Encoder, task: Task, clips: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Tokens of every clip above each neuron's own threshold: the 99% quantile over a sample of the choosing clips."""

    @jax.jit
    def activations(pcm: Array) -> Array:
        outputs = capture_neurons(
            encoder.module, encoder.variables, encoder.front_end(encoder.variables, pcm), neurons=encoder.neurons
        )
        layers = [
            jnp.concatenate([call.reshape(len(call), -1, call.shape[-1]) for call in calls], 1) for calls in outputs
        ]
        return jnp.concatenate(layers, axis=-1)

    sample = np.random.default_rng(0).choice(clips, min(SAMPLE, len(clips)), replace=False)
    heard = [
        np.asarray(activations(samples_as_float(jnp.asarray(batch.pcm))))[batch.clip >= 0]
        for batch in batches(task, encoder.sample_rate, 16, sample.tolist())
    ]
    every = np.concatenate(heard)
    threshold = jnp.asarray(np.quantile(every.reshape(-1, every.shape[-1]), QUANTILE, axis=0))
    above = jax.jit(lambda pcm: (activations(pcm) > threshold).sum(axis=1))
    result = np.zeros((len(tokens), every.shape[-1]), np.uint16)
    for batch in batches(task, encoder.sample_rate, 16):
        rows = batch.clip >= 0
        result[batch.clip[rows]] = np.asarray(above(samples_as_float(jnp.asarray(batch.pcm))))[rows]
    return result


def read_clips(encoder: Encoder, task: Task, choosing: Bool[np.ndarray, " clip"]) -> Clips:
    """Every clip's readings, without classes."""
    store = empty_clip_store((len(task), *neuron_shape(encoder, task)))
    tokens = count_clips(encoder, task, CountOptions(batch_size=16), store).log.tokens.astype(np.int64)
    own = own_thresholds(encoder, task, np.flatnonzero(choosing), tokens)
    counts, *readings = (
        array.reshape(len(task), -1) for array in (store.counts, store.means, store.peaks, store.excesses)
    )
    values = dict(zip(READINGS, readings, strict=True))
    values["share"] = (counts / tokens[:, None]).astype(np.float32)
    values["own share"] = (own / tokens[:, None]).astype(np.float32)
    return Clips(values, counts, own, tokens, np.zeros((len(task), 0), bool))


def judge(chosen: Chosen, reading: str | None, choosing: Clips, judged: Mapping[str, np.ndarray], own: Clips) -> Record:
    """A row of the table for one selection."""
    scores = judged[reading] if reading else _better(choosing, judged)
    values = scores[chosen]
    reached = np.where(chosen, scores, 0).max(axis=1) >= GOOD
    normalised = aape(_p(own)) / np.log(chosen.shape[0])
    neurons = np.broadcast_to(normalised, chosen.shape)[chosen]
    return {
        "pairs": int(chosen.sum()),
        "classes": int(chosen.any(axis=1).sum()),
        "auroc": float(np.median(values)) if len(values) else None,
        "auroc_q10": float(np.quantile(values, 0.1)) if len(values) else None,
        "classes_good": int(reached.sum()),
        "aape_normalised": float(np.nanmedian(neurons)) if len(values) else None,
    }


def _better(choosing: Clips, judged: Mapping[str, np.ndarray]) -> np.ndarray:
    """The judging AUROC of the reading that is best on the choosing clips."""
    aurocs = np.stack([np.nan_to_num(auroc(choosing.values[name], choosing.members)) for name in READINGS])
    place = aurocs.argmax(axis=0)[None]
    return np.take_along_axis(np.stack([judged[name] for name in READINGS]), place, axis=0)[0]


def compare(clips: Clips, choosing: np.ndarray, judging: np.ndarray, sources: np.ndarray, keep: float) -> list[Record]:
    """A row for every selection of one encoder and label set."""
    chooses, judges = clips.of(choosing), clips.of(judging)
    judged = {name: auroc(values, judges.members) for name, values in judges.values.items()}
    ceiling = np.nanmax([np.nanmax(judged[name], axis=1) for name in READINGS], axis=0)
    rows: list[Record] = []
    for name, (reading, choose) in selections(keep).items():
        started = time.perf_counter()
        chosen = choose(chooses)
        seconds = time.perf_counter() - started
        row = {"selection": name, "judged_by": reading or "the better one", "seconds": round(seconds, 2)}
        row |= judge(chosen, reading, chooses, judged, chooses) | {"stability": stability(chooses, sources, choose)}
        row |= {"ceiling": float(np.median(ceiling)), "ceiling_good": int((ceiling >= GOOD).sum())}
        rows.append(row)
    return rows


def stability(clips: Clips, sources: np.ndarray, choose: Callable[[Clips], Chosen]) -> float:
    """Jaccard coefficient of the pairs that two random halves of the recordings choose."""
    numbers = np.unique(sources, return_inverse=True)[1]
    half = np.random.default_rng(0).permutation(numbers.max() + 1)[numbers] % 2 == 0
    first, second = choose(clips.of(half)), choose(clips.of(~half))
    return float((first & second).sum() / max(1, (first | second).sum()))


def splits(task: Task, judge_split: str) -> tuple[np.ndarray, np.ndarray]:
    """Clips that choose, and clips that judge."""
    names, folds = np.array(task.splits), np.array([fold or 0 for fold in task.folds])
    if judge_split == "valid" and folds.any():
        return np.isin(folds, [1, 2, 3]), folds == 4
    return names == "train", names == judge_split


def main(options: Options) -> None:
    """Compare what is not in the record yet, and print a table."""
    rows: list[Record] = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    digits = str(options.fsdd / "fsdd.csv")
    tasks = {
        "fsdd": lambda: load_task(digits, label=("digit", "speaker", "accent"), unit_seconds=1.0),
        "esc50": lambda: load_task("esc50", options.esc50),
        "notes": lambda: load_task("notes"),
        "notes2": lambda: load_task("notes2"),
    }
    for name in options.encoders:
        for task_name, load in tasks.items():
            if any((row["encoder"], row["task"]) == (short_name(name), task_name) for row in rows):
                continue
            task, encoder = load(), load_encoder(name)
            choosing, judging = splits(task, options.judge)
            clips = read_clips(encoder, task, choosing)
            # Clips of recordings that choose do not judge.
            sources = np.array(task.sources)
            judging &= ~np.isin(sources, sources[choosing])
            for labels in task.label_sets:
                of_set = dataclasses.replace(clips, members=labels.table())
                some = compare(of_set, choosing, judging, sources[choosing], task.keep)
                where = {"encoder": short_name(name), "task": task_name, "label_set": labels.name}
                rows += [where | {"all_classes": len(labels.classes)} | row for row in some]
            write_record(options.out, ("jax", "numpy", "scipy"), judged_on=options.judge, rows=rows)
    head = ["encoder", "task", "label_set", "selection", "pairs", "classes", "classes_good", "auroc", "auroc_q10"]
    head += ["aape_normalised", "stability", "seconds", "ceiling", "ceiling_good"]
    print(table(head, [[_cell(row[column]) for column in head] for row in rows]))


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(tyro.cli(Options))
