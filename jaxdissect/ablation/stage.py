"""`jaxdissect ablate`: what a task's neurons do, by intervening on them and judging its classes by linear probes."""

import dataclasses
import functools
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from jaxdissect.ablation.activity import measure_activity
from jaxdissect.ablation.causal_map import CHECK_CLIPS, causal_map, check_map
from jaxdissect.ablation.controls import Activity, overlap
from jaxdissect.ablation.files import read_scores, save_ablation, save_causal_map, write_sets
from jaxdissect.ablation.outcomes import Judge
from jaxdissect.ablation.results import Ablation, ablate, require_clips
from jaxdissect.ablation.suites import AblationOptions, Intervention, check_sets, make_interventions, suite_sets
from jaxdissect.collect import neuron_shape
from jaxdissect.dissect import read_activations
from jaxdissect.encoder.base import Encoder, LayeredEncoder
from jaxdissect.encoder.checkpoint import fingerprint
from jaxdissect.errors import InputError
from jaxdissect.files import json_fingerprint, require_folder, sha256_file
from jaxdissect.neuron_set_files import read_neuron_set
from jaxdissect.neuron_sets import ClassName, NeuronSet, Pair, names_a_class, parse_neuron_set, require_neurons
from jaxdissect.probe_files import read_judges
from jaxdissect.progress import progress_bar
from jaxdissect.run import Run, save_or_rescue
from jaxdissect.stage_inputs import load_inputs, stage_inputs
from jaxdissect.tasks.table import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblateOptions:
    """Silence, attenuate or amplify neuron sets, and see what it does to each class of the test split.

    Attributes:
      run: run directory with the stages `neurons` and `probe`; encoder and task are theirs.
      neurons: neuron sets: classes joined by &, |, - and brackets; label_set:class; @file.csv, .yaml (EVAR) or .pth
        (LAPE); @name of a published set.
      suite: further sets: classes, the neurons of each class; pairs, those that two classes share. Default without
        --neurons: classes.
      gain: factors put on the activations: 0 ablates, 0 to 1 attenuates, above 1 amplifies. Default: what a .yaml asks
        for, else 0.
      mode: gain; or mean, which replaces activations by the neuron's mean over the tokens that were counted.
      controls: random neuron sets that each set is compared with.
      match: controls matched by activity (layer, activation rate and size of what neurons write), by layer, or the
        published shift of every index by one.
      causal_map: also estimate, for every single neuron, what silencing it does to each class's margin.
      map_sample: neurons per layer that are silenced one by one, on 64 clips, to check that estimate; 0: none.
      evar: folder to which every neuron set is written in EVAR's YAML.
      data: data folder, if it has moved.
      resamples: bootstrap resamples of the intervals.
      seed: of controls and resamples.
      batch_size: clips per device and step.
      at_once: interventions that run together on a device. Default: 16 / batch size on a CPU, else 256 / batch size.
      dtype: of the encoder's computation. Default: the run's.
      max_bad_clips: share of unreadable test clips above which the command fails, after the others were judged.
    """

    run: Path
    neurons: tuple[str, ...] = ()
    suite: tuple[Literal["classes", "pairs"], ...] = ()
    gain: tuple[float, ...] | None = None
    mode: Literal["gain", "mean"] = "gain"
    controls: int = 200
    match: Literal["activity", "layer", "shift"] = "activity"
    causal_map: bool = True
    map_sample: int = 12
    evar: Path | None = None
    data: Path | None = None
    resamples: int = 1000
    seed: int = 0
    batch_size: int = 4
    at_once: int | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    max_bad_clips: float = 0.01

    @property
    def ablation(self) -> AblationOptions:
        """The checked options of the interventions."""
        return AblationOptions(self.gain, self.mode, self.controls, self.match, self.seed, self.resamples)


@dataclasses.dataclass(frozen=True, eq=False)
class AblateResult:
    """What the stage `ablate` has to show.

    Attributes:
      ablation: tables.
      chosen: the interventions with their controls.
      map_check: how well the causal map ranks neurons, per label set and layer; None if it was not asked for.
      left_out: sets of a suite that are empty.
      balance: activation rate and impact of the controls over the interventions' own; None if not matched by them.
      overlap: share of its neurons that a control has in common with another of the same intervention, on average.
      unusable: files that took no part, and why.
      clips: of the test split.
      max_bad_clips: share of unusable ones that is allowed.
      same_clips: the neurons were chosen on clips that they are judged on.
    """

    ablation: Ablation
    chosen: tuple[Intervention, ...]
    map_check: pd.DataFrame | None
    left_out: tuple[str, ...]
    balance: tuple[float, float] | None
    overlap: float
    unusable: Mapping[str, str]
    clips: int
    max_bad_clips: float
    same_clips: bool

    @property
    def too_many_bad(self) -> bool:
        """Whether more clips than allowed took no part."""
        return len(self.unusable) > self.max_bad_clips * self.clips


@dataclasses.dataclass(frozen=True, eq=False)
class _Subject:
    """What is intervened on."""

    encoder: Encoder
    task: Task  # the test split
    judges: Mapping[str, Judge]
    shape: tuple[int, int]
    dtype: str
    fingerprints: dict[str, str]


def run_ablate(options: AblateOptions) -> AblateResult:
    """Run interventions and their controls on the test split, and write what they did.

    Writes `ablation.csv`, `ablation_controls.csv`, `ablation_suite.csv` (aggregate test), `ablation_sets.csv` (the
    neurons of each intervention) and, with the causal map, `margin_effect` in `scores.nc` and `causal_map.csv` (its
    check).

    Raises:
      InputError: an option breaks a rule, a set is empty or out of range, a stage is missing or of another encoder or
        task, or a class has no test clip: all told before anything long starts.
    """
    ablation = _checked(options)
    run = Run(options.run)
    subject = _subject(options, run)
    sets, left_out = _sets(options, run, subject)
    check_sets(sets, subject.shape, ablation)
    means = _means(run, subject.shape) if options.mode == "mean" else None
    record = _record(options, ablation, run, subject)
    if options.evar is not None:
        require_folder(options.evar)
    with run.locked():
        scores = read_scores(run, record["fingerprints"]["probe"])  # a damaged file is told now, not when all is done
        started = time.perf_counter()
        activity = _activity(options, subject)
        chosen = make_interventions(sets, subject.shape, ablation, activity)
        if options.evar is not None:
            write_sets(options.evar, chosen)
        done = _ablate(options, subject, ablation, chosen, means)
        result = AblateResult(
            done,
            tuple(chosen),
            None,
            tuple(left_out),
            None if activity is None else _balance(chosen, activity),
            float(np.mean([overlap(one.controls) for one in chosen])),
            {subject.task.file_names[clip]: reason for clip, reason in done.reasons.items()},
            len(subject.task),
            options.max_bad_clips,
            run.stages().get("activations", {}).get("options", {}).get("split") in ("all", "test"),
        )
        record["unusable_clips"] = result.unusable
        record["status"] = "too many unreadable clips" if result.too_many_bad else "done"
        record["seconds"] = round(time.perf_counter() - started, 3)
        save_or_rescue(run, lambda place: save_ablation(place, done, scores, record), "what was ablated")
        if options.causal_map:  # after what took longer is safe
            effects, check = _causal_map(options, subject)
            record["seconds"] = round(time.perf_counter() - started, 3)
            save_causal_map(run, scores, effects, check, done.table, record)
            result = dataclasses.replace(result, map_check=check)
    return result


def check_ahead(encoder: Encoder, task: Task) -> Literal["activity", "layer"]:
    """What would stop an ablation, before the stages ahead of it run; returns how controls can be matched.

    Args:
      encoder: to ablate.
      task: whole.

    Raises:
      InputError: a class has no test clip.
    """
    test = task.only("test")
    for labels in test.label_sets:
        require_clips(test, labels)
    return "activity" if isinstance(encoder, LayeredEncoder) else "layer"


def _checked(options: AblateOptions) -> AblationOptions:
    if not 0 <= options.max_bad_clips <= 1:
        raise InputError(f"--max-bad-clips must be a share from 0 to 1, got {options.max_bad_clips}.")
    if options.evar is not None and options.mode == "mean":
        raise InputError("--evar: a configuration of EVAR has gains only: leave --evar or --mode mean out.")
    if options.batch_size < 1:
        raise InputError(f"--batch-size must be positive, got {options.batch_size}.")
    if options.at_once is not None and options.at_once < 1:
        raise InputError(f"--at-once must be positive, got {options.at_once}.")
    if options.map_sample < 0 or options.map_sample == 1:
        raise InputError(f"--map-sample must be 0 or at least 2, got {options.map_sample}.")
    return options.ablation


def _subject(options: AblateOptions, run: Run) -> _Subject:
    run.require("probe")
    inputs = stage_inputs(options, run, "probe")
    encoder, task = load_inputs(inputs)
    prints = {
        "encoder": fingerprint(encoder),
        "task": task.fingerprint(),
        "front_end": json_fingerprint(encoder.settings().get("front_end")),
    }
    for stage, what in (("activations", "counts"), ("neurons", "neurons")):
        run.require_own(stage, what, prints)
    judges = read_judges(run, encoder, task, prints)
    test = [row for row, split in enumerate(task.splits) if split == "test"]
    judges = {name: dataclasses.replace(judge, members=judge.members[test]) for name, judge in judges.items()}
    task = task.only("test")
    for labels in task.label_sets:
        require_clips(task, labels)
    return _Subject(encoder, task, judges, neuron_shape(encoder, task), inputs["dtype"], prints)


def _sets(options: AblateOptions, run: Run, subject: _Subject) -> tuple[list[NeuronSet], list[str]]:
    """The neuron sets to intervene on, and the names of empty ones that a suite leaves out."""
    classes = subject.task.classes
    suites = options.suite or (() if options.neurons else ("classes",))
    needed = suites or any(map(names_a_class, options.neurons))
    specific = read_specific(run, classes) if needed else dict.fromkeys(classes, ())
    read_file = functools.partial(read_neuron_set, classes=classes)
    sets = [
        require_neurons(parse_neuron_set(expression, specific, read_file), subject.shape)
        for expression in options.neurons
    ]
    left_out = []
    for suite in dict.fromkeys(suites):
        found, empty = suite_sets(suite, specific)
        sets += [require_neurons(chosen, subject.shape) for chosen in found]
        left_out += empty
    if not sets:
        raise InputError(
            f"--run {run.path}: no class has a class-specific neuron (or no pair shares one): there is nothing "
            f"to intervene on. Choose neurons with `jaxdissect neurons --run {run.path} --preset lape`, or a larger "
            f"--keep."
        )
    return sets, left_out


def read_specific(run: Run, classes: tuple[ClassName, ...]) -> dict[ClassName, list[Pair]]:
    """The neurons of every class by `neurons.csv`, also of those that have none.

    Raises:
      InputError: no neurons were chosen, or the table is damaged.
    """
    run.require("neurons")
    path = run.file("neurons.csv")
    found: dict[ClassName, list[Pair]] = {key: [] for key in classes}
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype={"label_set": str, "class": str})
        for label_set, name, layer, neuron in table[["label_set", "class", "layer", "neuron"]].itertuples(index=False):
            found[label_set, name].append((int(layer), int(neuron)))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): run `jaxdissect neurons --run {run.path}` again."
        ) from error
    return found


def _means(run: Run, shape: tuple[int, int]) -> Float[np.ndarray, "layer neuron"]:
    """Mean activation of every neuron over the tokens that were counted."""
    counts = read_activations(run).counts
    means = counts["total_sum"].values / float(counts["total_tokens"])
    if means.shape != shape or not np.isfinite(means).all():
        raise InputError(f"{run.file('activations.nc')} has no finite mean for each neuron: run `activations` again.")
    return means


def _activity(options: AblateOptions, subject: _Subject) -> Activity | None:
    if options.match != "activity":
        return None
    with progress_bar(what="Measuring activity", total=len(subject.task)) as bar:
        return measure_activity(
            subject.encoder, subject.task, options.batch_size, progress=lambda clips: bar.update(clips - bar.n)
        )


def _ablate(
    options: AblateOptions, subject: _Subject, ablation: AblationOptions, chosen: list[Intervention], means: Any
) -> Ablation:
    passes = sum(1 + len(one.controls) for one in chosen) * len(subject.task)
    print(
        f"{len(chosen):,} interventions and {sum(len(one.controls) for one in chosen):,} controls on "
        f"{len(subject.task):,} clips: {passes:,} passes.",
        file=sys.stderr,
    )
    with progress_bar(what=f"Ablating {subject.task.name}", total=passes, unit="pass", at_once=True) as bar:
        return ablate(
            subject.encoder, subject.task, subject.judges, chosen, ablation, means, subject.shape,
            batch_size=options.batch_size, at_once=options.at_once, progress=lambda done: bar.update(done - bar.n),
        )  # fmt: skip


def _causal_map(options: AblateOptions, subject: _Subject) -> tuple[dict[str, np.ndarray], pd.DataFrame | None]:
    with progress_bar(what="Causal map", total=len(subject.task)) as bar:
        effects = causal_map(
            subject.encoder, subject.task, subject.judges, subject.shape, min(4, options.batch_size),
            progress=lambda clips: bar.update(clips - bar.n),
        )  # fmt: skip
    if not options.map_sample:
        return effects, None
    passes = subject.shape[0] * min(options.map_sample, subject.shape[1]) * min(CHECK_CLIPS, len(subject.task))
    with progress_bar(what="Checking the causal map", total=passes, unit="pass") as bar:
        check = check_map(
            subject.encoder, subject.task, subject.judges, subject.shape, options.map_sample,
            progress=lambda done: bar.update(done - bar.n), batch_size=options.batch_size, at_once=options.at_once,
        )  # fmt: skip
    return effects, check


def _balance(chosen: list[Intervention], activity: Activity) -> tuple[float, float]:
    """Activation rate and impact of the controls over those of the targets, means over the interventions."""

    def ratio(values: np.ndarray) -> float:
        def total(pairs: np.ndarray) -> Any:
            return values[pairs[..., 0], pairs[..., 1]].sum(axis=-1)

        return float(
            np.mean([total(one.controls).mean() / total(one.neurons.pairs) for one in chosen if len(one.controls)])
        )

    if not any(len(one.controls) for one in chosen):
        return np.nan, np.nan
    return ratio(activity.rate), ratio(activity.impact)


def _record(options: AblateOptions, ablation: AblationOptions, run: Run, subject: _Subject) -> dict[str, Any]:
    """What `run.json` says of the stage before it has run."""
    neurons = run.file("neurons.csv")
    return {
        "options": dataclasses.asdict(ablation)
        | {
            "neurons": list(options.neurons),
            "suite": list(options.suite),
            "causal_map": options.causal_map,
            "map_sample": options.map_sample,
            "dtype": subject.dtype,
            "batch_size": options.batch_size,
        },
        "fingerprints": subject.fingerprints
        | {
            "probe": sha256_file(run.file("probe") / "probe.json"),
            "neurons": sha256_file(neurons) if neurons.is_file() else None,
        },
    }
