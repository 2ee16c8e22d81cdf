"""The stage `probe`: how much of a task's labels a linear layer finds in an encoder's clip embeddings."""

import dataclasses
import json
import time
from collections.abc import Mapping

import numpy as np
import pandas as pd

from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.options.probe import ProbeOptions
from jaxdissect.probe.embeddings import Embeddings, LayerEmbeddings, embed_clips, embed_layers, layer_features
from jaxdissect.probe.encoder_head import own_head
from jaxdissect.probe.evaluation import (
    Evaluation,
    Split,
    evaluate,
    judging_split,
    layer_scores,
    scored,
    task_splits,
)
from jaxdissect.probe.linear import Probe, ProbeRule
from jaxdissect.runtime.array_trees import write_arrays
from jaxdissect.runtime.files import replaced_folder
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.runtime.run_directory import Run, save_or_rescue
from jaxdissect.runtime.tables import write_csv
from jaxdissect.stages.inputs import ClipReading, input_fingerprints, load_inputs, recorded_inputs, stage_inputs
from jaxdissect.tasks.table import Task
from jaxdissect.types import Record


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeResult(ClipReading):
    """Result of the stage `probe`.

    Attributes:
      evaluations: probes and their scores, one evaluation per label set.
      unusable: reasons by file name, for files that could not be read or whose embedding is not finite.
      clips: number of clips of the task.
      max_bad_clips: fraction of unusable clips that is allowed.
      layer_scores: scores of the probes after every layer, the rows of `probe_layers.csv`; None if only the last layer
        was probed.
    """

    evaluations: tuple[Evaluation, ...]
    unusable: Mapping[str, str]
    clips: int
    max_bad_clips: float
    layer_scores: pd.DataFrame | None = None

    def clips_read(self) -> tuple[int, int]:
        """Number of unusable clips, and of all clips."""
        return len(self.unusable), self.clips


def run_probe(options: ProbeOptions) -> ProbeResult:
    """Embed a task's clips, train and score probes, and write `probe/`.

    Source: the EVAR protocol, as M2D's and AAPE's papers use it (arXiv:2404.06095, arXiv:2602.15307).

    `probe/` holds `head/` (orbax: mean, variance, kernel, bias for each label set, first axis the probes), `probe.json`
    (classes, folds, seeds, options), `scores.csv` (every probe on its training, validation and test clips) and
    `class_scores.csv` (test clips). With `layers="all"`, `probe_layers.csv` holds the scores of the probes after every
    layer.

    Args:
      options: options of the stage.

    Raises:
      InputError: an option breaks a rule, the run directory belongs to another encoder or task, or a label set cannot
        be probed, after those that can were saved.
    """
    run = Run(options.run)
    inputs = stage_inputs(options, run, "probe")
    if options.folds == "all" and options.test_fold is None and "activations" not in run.stages():
        inputs["test_fold"] = None  # every fold is held out in turn: none is the task's test split
    encoder, task = load_inputs(inputs)
    prints = input_fingerprints(encoder, task)
    run.require_inputs("activations", "counts", prints)
    run.require_inputs("probe", "a probe", {"encoder": prints["encoder"]})
    _check(options, encoder, task)
    with run.locked():
        started = time.perf_counter()
        embeddings, layers = _embed(options, encoder, task)
        unusable = {task.file_names[clip]: reason for clip, reason in embeddings.reasons.items()}
        evaluations, failed = _evaluations(options, encoder, task, embeddings)
        by_depth = None if layers is None else _layer_scores(options, layers, evaluations)
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
        save_or_rescue(run, lambda place: _save(place, evaluations, by_depth, record), "what was probed")
    if failed:
        saved = ", ".join(evaluation.labels.name for evaluation in evaluations)
        raise InputError(f"{failed[0]} The probes of {saved} were saved.")
    return ProbeResult(evaluations, unusable, len(task), options.max_bad_clips, by_depth)


def probe_rule(options: ProbeOptions) -> ProbeRule:
    """How every probe is trained, by the options."""
    return ProbeRule(options.learning_rate, options.probe_batch_size, options.epochs, options.patience)


def _check(options: ProbeOptions, encoder: Encoder, task: Task) -> None:
    """Find mistakes before the clips are embedded, which takes long, as if all clips could be read.

    Raises:
      InputError: a label set, or the encoder's layers, cannot be probed.
    """
    if options.layers == "all":
        layer_features(encoder, task)
    everything = np.ones(len(task), bool)
    for labels in task.label_sets:
        if options.head == "encoder":
            judging_split(task, labels, everything)
            own_head(encoder, task, labels)
        else:
            task_splits(task, labels, everything, options.folds, seeds=1)


def _embed(options: ProbeOptions, encoder: Encoder, task: Task) -> tuple[Embeddings, LayerEmbeddings | None]:
    """The encoder's own embeddings and, if they are asked for, those after every layer; in one pass over the clips."""
    with progress_bar(what=f"Embedding {task.name}", total=len(task)) as bar:
        if options.layers == "last":
            return embed_clips(encoder, task, options.batch_size, progress=bar.update_to), None
        layers = embed_layers(encoder, task, options.batch_size, progress=bar.update_to)
        return layers.at(-1), layers


def _layer_scores(options: ProbeOptions, layers: LayerEmbeddings, evaluations: tuple[Evaluation, ...]) -> pd.DataFrame:
    """The rows of `probe_layers.csv`: scores of all evaluations at every depth."""
    total, rule = len(evaluations) * layers.values.shape[1], probe_rule(options)
    with progress_bar(what="Probing every layer", total=total, unit="layer") as bar:
        return pd.concat([layer_scores(layers, evaluation, rule, bar.update) for evaluation in evaluations])


def _evaluations(
    options: ProbeOptions, encoder: Encoder, task: Task, embeddings: Embeddings
) -> tuple[tuple[Evaluation, ...], list[InputError]]:
    """Evaluate every label set.

    Returns:
      Evaluations of the label sets that could be evaluated, and the errors of the other ones.

    Raises:
      InputError: no label set could be evaluated.
    """
    evaluations, failed = [], []
    for labels in task.label_sets:
        try:
            if options.head == "encoder":
                split = judging_split(task, labels, embeddings.usable)
                evaluations.append(scored(embeddings, labels, (split,), own_head(encoder, task, labels)))
            else:
                splits = task_splits(task, labels, embeddings.usable, options.folds, options.seeds)
                with under_way(f"Training {len(splits)} probe{'s' * (len(splits) > 1)} of {labels.name}"):
                    evaluations.append(evaluate(embeddings, labels, splits, probe_rule(options)))
        except InputError as error:
            failed.append(error)
    if not evaluations:
        raise failed[0]
    return tuple(evaluations), failed


def _recorded_options(options: ProbeOptions) -> Record:
    """Options on which the probes depend; the encoder's own head is not trained."""
    head = {"head": options.head, "folds": options.folds}
    if options.head == "encoder":
        return head
    layers = {} if options.layers == "last" else {"layers": options.layers}
    return {**dataclasses.asdict(probe_rule(options)), **head, **layers, "seeds": options.seeds}


def _save(run: Run, evaluations: tuple[Evaluation, ...], by_depth: pd.DataFrame | None, record: Record) -> None:
    """Write `probe/` whole and `probe_layers.csv`, in place of earlier ones, and record the stage."""
    label_sets = {
        evaluation.labels.name: {
            "classes": list(evaluation.labels.classes),
            "multi_label": evaluation.labels.multi_label,
            "probes": [
                _probe_record(evaluation.probe, number, split) for number, split in enumerate(evaluation.splits)
            ],
        }
        for evaluation in evaluations
    }
    heads = {evaluation.labels.name: vars(evaluation.probe.head) for evaluation in evaluations}
    with replaced_folder(run.file("probe")) as temporary:
        (temporary / "probe.json").write_text(json.dumps({"label_sets": label_sets, **record}, indent=2) + "\n")
        write_csv(pd.concat([evaluation.scores for evaluation in evaluations]), temporary / "scores.csv")
        write_csv(pd.concat([evaluation.class_scores for evaluation in evaluations]), temporary / "class_scores.csv")
        write_arrays(temporary / "head", heads)
        run.reopen("probe")
    if by_depth is None:
        run.file("probe_layers.csv").unlink(missing_ok=True)  # of an earlier probe
    else:
        write_csv(by_depth, run.file("probe_layers.csv"))
    run.finish("probe", record)


def _probe_record(probe: Probe, number: int, split: Split) -> Record:
    """How one probe was trained; the validation score is null where there were no validation clips."""
    score = probe.valid_score[number]
    return {
        "test_fold": split.test_fold,
        "seed": split.seed,
        "best_epoch": int(probe.best_epoch[number]),
        "epochs": int(probe.epochs[number]),
        "valid_score": None if np.isnan(score) else float(score),
    }
