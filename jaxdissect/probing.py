"""`jaxdissect probe`: how much of a task's labels a linear layer finds in an encoder's clip embeddings."""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd

from jaxdissect.embeddings import embed_clips
from jaxdissect.encoder.base import Encoder
from jaxdissect.encoder.checkpoint import fingerprint, load_encoder
from jaxdissect.errors import InputError
from jaxdissect.files import json_fingerprint, replaced_folder
from jaxdissect.linear_evaluation import Evaluation, Split, evaluate, scored, task_splits
from jaxdissect.probe import Head, Probe, ProbeRule
from jaxdissect.progress import progress_bar
from jaxdissect.results import write_csv
from jaxdissect.run import Run, absolute
from jaxdissect.tasks.known import load_task
from jaxdissect.tasks.table import LabelSet, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """Train a linear probe on an encoder's clip embeddings, by the protocol of the M2D and AAPE papers.

    Attributes:
      run: run directory; encoder, task and their options are those of its stage `activations`, if that was run.
      encoder: encoder directory, the name of a shipped encoder, or package.module:factory.
      task: known task or a CSV in EVAR's format.
      data: data folder; file names are relative to it.
      label: label sets, joined by commas. Default: the task's first; of a CSV the column `label`.
      test_fold: the fold held out as the test split. Default: 5.
      unit_seconds: length to which clips are cropped or padded, s.
      multi_label: in a CSV's column `label`, commas separate several labels.
      head: trained: a new one; encoder: the encoder's own task head, whose outputs must be the task's classes in order.
      folds: hold out the test fold, or every fold in turn.
      seeds: probes per fold, each with its own initial weights, order and validation clips.
      learning_rate: of Adam.
      epochs: passes over the training clips at most.
      patience: epochs without a better validation score after which training stops.
      probe_batch_size: clips of a step of the probe at most.
      batch_size: clips per device and step of the encoder.
      dtype: of the encoder's computation. Default: the run's, or float32.
      max_bad_clips: share of unreadable clips above which the command fails, after the probes of the others were saved.
    """

    run: Path
    encoder: str | None = None
    task: str | None = None
    data: Path | None = None
    label: str | None = None
    test_fold: int | None = None
    unit_seconds: float | None = None
    multi_label: bool = False
    head: Literal["trained", "encoder"] = "trained"
    folds: Literal["test", "all"] = "test"
    seeds: int = 3
    learning_rate: float = 3e-5
    epochs: int = 200
    patience: int = 20
    probe_batch_size: int = 200
    batch_size: int = 16
    dtype: Literal["float32", "bfloat16"] | None = None
    max_bad_clips: float = 0.01

    @property
    def rule(self) -> ProbeRule:
        """How a probe is trained."""
        return ProbeRule(self.learning_rate, self.probe_batch_size, self.epochs, self.patience)


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeResult:
    """What the stage `probe` has to show.

    Attributes:
      evaluations: one per label set.
      unusable: files that could not be read, or whose embedding is not finite; they take no part.
      clips: of the task, all in all.
      max_bad_clips: share of unusable ones that is allowed.
    """

    evaluations: tuple[Evaluation, ...]
    unusable: tuple[str, ...]
    clips: int
    max_bad_clips: float

    @property
    def too_many_bad(self) -> bool:
        """Whether more clips than allowed took no part."""
        return len(self.unusable) > self.max_bad_clips * self.clips


def run_probe(options: ProbeOptions) -> ProbeResult:
    """Embed a task's clips, train and score probes, and write `probe/`.

    `probe/` holds `head/` (orbax: mean, variance, kernel, bias for each label set, first axis the probes), `probe.json`
    (classes, folds, seeds, options), `scores.csv` (every probe on its training, validation and test clips) and
    `class_scores.csv` (test clips).

    Raises:
      InputError: an option breaks a rule, or the run directory is of another encoder or task.
    """
    rule = options.rule
    if options.seeds < 1:
        raise InputError(f"--seeds must be positive, got {options.seeds}.")
    if not 0 <= options.max_bad_clips <= 1:
        raise InputError(f"--max-bad-clips must be a share from 0 to 1, got {options.max_bad_clips}.")
    run = Run(options.run)
    inputs = _inputs(options, run)
    encoder, task = _load(inputs)
    prints = {
        "encoder": fingerprint(encoder),
        "task": task.fingerprint(),
        "front_end": json_fingerprint(encoder.settings().get("front_end")),
    }
    run.require_own("activations", "counts", prints)
    run.require_own("probe", "a probe", {"encoder": prints["encoder"]})
    _check(options, encoder, task)
    with run.locked():
        started = time.perf_counter()
        with progress_bar(what=f"Embedding {task.name}", total=len(task)) as bar:
            embeddings = embed_clips(
                encoder, task, options.batch_size, progress=lambda clips: bar.update(clips - bar.n)
            )
        unusable = tuple(task.file_names[clip] for clip in np.flatnonzero(~embeddings.usable))
        for file in unusable:
            print(f"Left out: {file} (it could not be read or embedded)", file=sys.stderr)
        evaluations = []
        for labels in task.label_sets:
            splits = task_splits(task, labels, embeddings.usable, options.folds, options.seeds)
            if options.head == "encoder":
                splits = splits[:: options.seeds]
                evaluations.append(scored(embeddings, labels, splits, _own_head(encoder, labels, len(splits))))
            else:
                evaluations.append(evaluate(embeddings, labels, splits, rule))
        record = {
            "options": dataclasses.asdict(rule)
            | {"head": options.head, "folds": options.folds, "seeds": options.seeds, "dtype": inputs["dtype"]},
            "fingerprints": prints,
            "task": task.name,
            "encoder": encoder.name,
            "inputs": inputs | {name: absolute(inputs[name]) for name in ("encoder", "task", "data")},
            "unusable_clips": list(unusable),
            "seconds": round(time.perf_counter() - started, 3),
            "status": "done",
        }
        _save(run, tuple(evaluations), record)
    return ProbeResult(tuple(evaluations), unusable, len(task), options.max_bad_clips)


def _inputs(options: ProbeOptions, run: Run) -> dict[str, Any]:
    """Encoder, task and their options: as given, else as the run was counted or probed, else the defaults."""
    default = {
        "encoder": None, "task": None, "data": None, "label": None, "test_fold": 5, "unit_seconds": None,
        "multi_label": False, "dtype": "float32",
    }  # fmt: skip
    stages = run.stages()
    there = stages.get("activations", stages.get("probe", {})).get("inputs", {})
    given = {name: getattr(options, name) for name in default}
    given = {name: value for name, value in given.items() if value is not None and value is not False}
    if not isinstance(there, dict):
        raise InputError(f"{run.file('run.json')} cannot be read: a stage's inputs are no object.")
    inputs = default | there | given
    missing = [name for name in ("encoder", "task") if inputs[name] is None]
    if missing:
        raise InputError(
            f"--{missing[0]} is needed: nothing was counted in {run.path} that would tell which {missing[0]} it is of."
        )
    return inputs


def _load(inputs: dict[str, Any]) -> tuple[Encoder, Task]:
    labels = [name.strip() for name in (inputs["label"] or "").split(",") if name.strip()]
    task = load_task(
        inputs["task"], inputs["data"], labels, inputs["unit_seconds"], inputs["multi_label"], inputs["test_fold"],
        lambda notes: progress_bar(notes, what=f"Synthesising {inputs['task']}"),
    )  # fmt: skip
    return load_encoder(inputs["encoder"], inputs["dtype"]), task


def _check(options: ProbeOptions, encoder: Encoder, task: Task) -> None:
    """Answer a mistake before the clips are embedded, as if all could be read."""
    if options.head == "encoder" and options.folds == "all":
        raise InputError("--head encoder: its head was trained once, on some of the folds: leave --folds all out.")
    if options.batch_size < 1:
        raise InputError(f"--batch-size must be positive, got {options.batch_size}.")
    for labels in task.label_sets:
        splits = task_splits(task, labels, np.ones(len(task), bool), options.folds, seeds=1)
        if options.head == "encoder":
            _own_head(encoder, labels, len(splits))


def _own_head(encoder: Encoder, labels: LabelSet, splits: int) -> Probe:
    """The task head that an encoder brought along, once for each split."""
    head = encoder.variables.get("head")
    if head is None:
        raise InputError(f"--head encoder: {encoder.name} has no task head: leave the option out to train one.")
    told = getattr(encoder, "source", {}).get("head", {})
    if "classes" in told and tuple(told["classes"]) != labels.classes:
        raise InputError(
            f"--head encoder: the head of {encoder.name} was trained for the classes {_some(told['classes'])}, the "
            f"label set {labels.name!r} has {_some(labels.classes)}."
        )
    if len(head["bias"]) != len(labels.classes):
        raise InputError(
            f"--head encoder: the head of {encoder.name} has {len(head['bias'])} classes, the label set "
            f"{labels.name!r} {len(labels.classes)}."
        )
    stacked = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], splits, axis=0), dict(head))
    nothing = np.full(splits, -1)
    return Probe(Head(**stacked), nothing, np.zeros(splits, int), np.full(splits, np.nan))


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")


def _save(run: Run, evaluations: tuple[Evaluation, ...], record: dict[str, Any]) -> None:
    import orbax.checkpoint as ocp

    described = {
        "label_sets": {
            done.labels.name: {
                "classes": list(done.labels.classes),
                "multi_label": done.labels.multi_label,
                "probes": [_described(done.probe, number, split) for number, split in enumerate(done.splits)],
            }
            for done in evaluations
        },
        **record,
    }
    heads = {done.labels.name: vars(done.probe.head) for done in evaluations}
    with replaced_folder(run.file("probe")) as temporary:
        (temporary / "probe.json").write_text(json.dumps(described, indent=2) + "\n")
        write_csv(pd.concat([done.scores for done in evaluations]), temporary / "scores.csv")
        write_csv(pd.concat([done.class_scores for done in evaluations]), temporary / "class_scores.csv")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(temporary.absolute() / "head", heads)
        run.reopen("probe")
    run.finish("probe", record)


def _described(probe: Probe, number: int, split: Split) -> dict[str, Any]:
    return {
        "test_fold": split.test_fold,
        "seed": split.seed,
        "best_epoch": int(probe.best_epoch[number]),
        "epochs": int(probe.epochs[number]),
        "valid_score": None if np.isnan(probe.valid_score[number]) else float(probe.valid_score[number]),
    }
