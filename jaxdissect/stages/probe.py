"""`jaxdissect probe`: how much of a task's labels a linear layer finds in an encoder's clip embeddings."""

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxdissect.encoder.directory import fingerprint
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.options.probe import ProbeOptions
from jaxdissect.probe.embeddings import Embeddings, embed_clips
from jaxdissect.probe.encoder_head import own_head
from jaxdissect.probe.evaluation import Evaluation, Split, evaluate, judging_split, scored, task_splits
from jaxdissect.probe.linear import Probe, ProbeRule
from jaxdissect.runtime.array_trees import write_arrays
from jaxdissect.runtime.files import json_fingerprint, replaced_folder
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.runtime.run_directory import Run, save_or_rescue
from jaxdissect.runtime.tables import write_csv
from jaxdissect.stages.inputs import load_inputs, recorded_inputs, stage_inputs
from jaxdissect.tasks.table import Task


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeResult:
    """What the stage `probe` has to show.

    Attributes:
      evaluations: one per label set.
      unusable: files that could not be read, or whose embedding is not finite, with the reason; they take no part.
      clips: of the task, all in all.
      max_bad_clips: share of unusable ones that is allowed.
    """

    evaluations: tuple[Evaluation, ...]
    unusable: Mapping[str, str]
    clips: int
    max_bad_clips: float

    @property
    def too_many_bad(self) -> bool:
        """Whether more clips than allowed took no part."""
        return len(self.unusable) > self.max_bad_clips * self.clips


def run_probe(options: ProbeOptions) -> ProbeResult:
    """Embed a task's clips, train and score probes, and write `probe/`.

    Source: the EVAR protocol, as M2D's and AAPE's papers use it (arXiv:2404.06095, arXiv:2602.15307).

    `probe/` holds `head/` (orbax: mean, variance, kernel, bias for each label set, first axis the probes), `probe.json`
    (classes, folds, seeds, options), `scores.csv` (every probe on its training, validation and test clips) and
    `class_scores.csv` (test clips).

    Args:
      options: of the stage.

    Raises:
      InputError: an option breaks a rule, the run directory is of another encoder or task, or a label set cannot be
        probed, after those that can were saved.
    """
    run = Run(options.run)
    inputs = stage_inputs(options, run, "probe")
    if options.folds == "all" and options.test_fold is None and "activations" not in run.stages():
        inputs["test_fold"] = None  # every fold is held out in turn
    encoder, task = load_inputs(inputs)
    prints = {
        "encoder": fingerprint(encoder),
        "task": task.fingerprint(),
        "front_end": json_fingerprint(encoder.settings().get("front_end")),
    }
    run.require_inputs("activations", "counts", prints)
    run.require_inputs("probe", "a probe", {"encoder": prints["encoder"]})
    _check(options, encoder, task)
    with run.locked():
        started = time.perf_counter()
        with progress_bar(what=f"Embedding {task.name}", total=len(task)) as bar:
            embeddings = embed_clips(
                encoder, task, options.batch_size, progress=lambda clips: bar.update(clips - bar.n)
            )
        unusable = {task.file_names[clip]: reason for clip, reason in embeddings.reasons.items()}
        evaluations, failed = _evaluations(options, encoder, task, embeddings)
        record = {
            "options": _recorded_options(options) | {"dtype": inputs["dtype"]},
            "fingerprints": prints,
            "task": task.name,
            "encoder": encoder.name,
            "inputs": recorded_inputs(inputs),
            "unusable_clips": unusable,
            "seconds": round(time.perf_counter() - started, 3),
            "status": "done",
        }
        save_or_rescue(run, lambda place: _save(place, evaluations, record), "what was probed")
    if failed:
        saved = ", ".join(done.labels.name for done in evaluations)
        raise InputError(f"{failed[0]} The probes of {saved} were saved.")
    return ProbeResult(evaluations, unusable, len(task), options.max_bad_clips)


def probe_rule(options: ProbeOptions) -> ProbeRule:
    """How every probe is trained, by the options."""
    return ProbeRule(options.learning_rate, options.probe_batch_size, options.epochs, options.patience)


def _check(options: ProbeOptions, encoder: Encoder, task: Task) -> None:
    """Answer a mistake before the clips are embedded, as if all could be read."""
    everything = np.ones(len(task), bool)
    for labels in task.label_sets:
        if options.head == "encoder":
            judging_split(task, labels, everything)
            own_head(encoder, task, labels)
        else:
            task_splits(task, labels, everything, options.folds, seeds=1)


def _evaluations(
    options: ProbeOptions, encoder: Encoder, task: Task, embeddings: Embeddings
) -> tuple[tuple[Evaluation, ...], list[InputError]]:
    """What could be evaluated, and why other label sets could not.

    Raises:
      InputError: none could.
    """
    done, failed = [], []
    for labels in task.label_sets:
        try:
            if options.head == "encoder":
                split = judging_split(task, labels, embeddings.usable)
                done.append(scored(embeddings, labels, (split,), own_head(encoder, task, labels)))
            else:
                splits = task_splits(task, labels, embeddings.usable, options.folds, options.seeds)
                with under_way(f"Training {len(splits)} probe{'s' * (len(splits) > 1)} of {labels.name}"):
                    done.append(evaluate(embeddings, labels, splits, probe_rule(options)))
        except InputError as error:
            failed.append(error)
    if not done:
        raise failed[0]
    return tuple(done), failed


def _recorded_options(options: ProbeOptions) -> dict[str, Any]:
    if options.head == "encoder":
        return {"head": options.head, "folds": options.folds}
    return dataclasses.asdict(probe_rule(options)) | {
        "head": options.head,
        "folds": options.folds,
        "seeds": options.seeds,
    }


def _save(run: Run, evaluations: tuple[Evaluation, ...], record: dict[str, Any]) -> None:
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
        write_arrays(temporary / "head", heads)
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
