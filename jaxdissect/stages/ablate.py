"""`jaxdissect ablate`: what a task's neurons do, by intervening on them and judging its classes by linear probes."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from jaxdissect.ablation.activity import measure_activity
from jaxdissect.ablation.causal_check import CHECK_CLIPS, check_map
from jaxdissect.ablation.causal_map import MAP_BATCH_SIZE, causal_map
from jaxdissect.ablation.files import read_scores, save_ablation, save_causal_map, write_sets
from jaxdissect.ablation.interventions import AblationOptions, Intervention, check_sets, make_interventions
from jaxdissect.ablation.matched_controls import Activity, control_balance, control_overlap
from jaxdissect.ablation.saved_state import SuiteFiles, common_activity
from jaxdissect.ablation.suite_state import SuiteState, join_states, judge_suite, new_state
from jaxdissect.ablation.tables import Ablation, check_judging, require_clips, suite_tables
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder
from jaxdissect.errors import InputError
from jaxdissect.options.ablate import AblateOptions
from jaxdissect.runtime.files import json_fingerprint, locked, parse_part, require_folder, sha256_file
from jaxdissect.runtime.machine import computed_by
from jaxdissect.runtime.progress import note, progress_bar, under_way
from jaxdissect.runtime.resume import resumable
from jaxdissect.runtime.run_directory import Run, save_or_rescue
from jaxdissect.selection.neuron_sets import NeuronSet
from jaxdissect.significance.cautions import independence_cautions
from jaxdissect.stages.ablation_subject import Subject, chosen_sets, neuron_means, read_subject
from jaxdissect.tasks.loader import data_fingerprint
from jaxdissect.tasks.table import Task


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
      cautions: what intervals should not be read without.
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
    cautions: tuple[str, ...] = ()

    @property
    def too_many_bad(self) -> bool:
        """Whether more clips than allowed took no part."""
        return len(self.unusable) > self.max_bad_clips * self.clips


@dataclasses.dataclass(frozen=True)
class PartResult:
    """One job of a suite that is judged in parts.

    Attributes:
      part, parts: which of how many.
      interventions, passes: that it had to judge, each intervention with its controls, one pass for each clip.
      path: of what it has found.
    """

    part: int
    parts: int
    interventions: int
    passes: int
    path: Path


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """What an ablation is to do, checked before anything long starts."""

    run: Run
    subject: Subject
    ablation: AblationOptions
    sets: list[NeuronSet]
    left_out: list[str]
    means: Float[np.ndarray, "layer neuron"] | None
    record: dict[str, Any]


def run_ablate(options: AblateOptions) -> AblateResult:
    """Run interventions and their controls on the test split, and write what they did.

    Writes `ablation.csv`, `ablation_controls.csv`, `ablation_suite.csv` (aggregate test), `ablation_sets.csv` (the
    neurons of each intervention) and, with the causal map, `margin_effect` in `scores.nc` and `causal_map.csv` (its
    check). What `run_ablate_part` has judged already is taken over; an ablation that was interrupted goes on from its
    state (`state/ablate/` in the run directory).

    Raises:
      InputError: an option breaks a rule, a set is empty or out of range, a stage is missing or of another encoder or
        task, or a class has no test clip: all told before anything long starts; or a part is not finished.
    """
    plan = _plan(options)
    run, subject, record = plan.run, plan.subject, plan.record
    if options.evar is not None:
        require_folder(options.evar)
    with run.locked():
        scores = read_scores(run, record["fingerprints"]["probe"])  # a damaged file is told now, not when all is done
        started = time.perf_counter()
        activity, suite = _suite(options, plan)
        if options.evar is not None:
            write_sets(options.evar, suite.chosen)
        judged = _judge_rest(options, plan, suite)
        with under_way("Comparing with the controls, resampling clips"):
            done = suite_tables(subject.task, suite.chosen, judged)
        result = AblateResult(
            done,
            tuple(suite.chosen),
            None,
            tuple(plan.left_out),
            _balance(suite.chosen, activity),
            float(np.mean([control_overlap(one.controls) for one in suite.chosen])),
            {subject.task.file_names[clip]: reason for clip, reason in done.reasons.items()},
            len(subject.task),
            options.max_bad_clips,
            run.stages().get("activations", {}).get("options", {}).get("split") in ("all", "test"),
            tuple(independence_cautions(subject.task.recordings_from)),
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
        suite.remove()
    return result


def run_ablate_part(options: AblateOptions) -> PartResult:
    """Judge some of the interventions, as one of several independent jobs; `run_ablate` puts them together.

    Raises:
      InputError: as `run_ablate`, or another process is judging the same part.
    """
    part, parts = parse_part(options.part or "1/1")
    plan = _plan(options)
    _, suite = _suite(options, plan)
    numbers = list(range(len(suite.chosen)))[part - 1 :: parts]
    if not numbers:
        raise InputError(
            f"--part {options.part}: there are {len(suite.chosen)} interventions only: choose fewer parts."
        )
    path = suite.path(part, parts)
    with locked(path.parent, f"--part {options.part} of --run {options.run}"):
        found = suite.read(path)
        state = new_state(suite.judges, suite.some(numbers)) if found is None else found[1]
        suite.write(path, numbers, state)  # so that nobody takes this part for one that was not begun
        _judge(options, plan, suite, numbers, state, path)
        suite.write(path, numbers, state)
    return PartResult(part, parts, len(numbers), state.done * len(plan.subject.task), path)


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


def ablation_options(options: AblateOptions) -> AblationOptions:
    """How neuron sets are intervened on, by the options."""
    return AblationOptions(options.gain, options.mode, options.controls, options.match, options.seed, options.resamples)


def _plan(options: AblateOptions) -> _Plan:
    ablation = ablation_options(options)
    run = Run(options.run)
    subject = read_subject(options, run)
    sets, left_out = chosen_sets(options.neurons, options.suite, run, subject)
    check_sets(sets, subject.shape, ablation)
    means = neuron_means(run, subject.shape) if options.mode == "mean" else None
    return _Plan(run, subject, ablation, sets, left_out, means, _record(options, ablation, run, subject))


def _suite(options: AblateOptions, plan: _Plan) -> tuple[Activity | None, SuiteFiles]:
    """The interventions with their controls, the same in all jobs; and where the jobs keep what they find."""
    folder = plan.run.file("state") / "ablate"
    require_folder(folder)
    data = data_fingerprint(plan.subject.task) or "files"
    measured_on = {"the encoder": plan.subject.fingerprints["encoder"], "the table": plan.subject.fingerprints["task"]}
    activity = None
    if options.match == "activity" and options.controls:
        activity = common_activity(
            folder, {**measured_on, "--dtype": plan.subject.dtype, "the prepared data": data},
            lambda: _measured(options, plan.subject),
        )  # fmt: skip
    with under_way("Drawing controls"):
        chosen = make_interventions(plan.sets, plan.subject.shape, plan.ablation, activity)
    identity = {
        **{f"--{name.replace('_', '-')}": value for name, value in dataclasses.asdict(plan.ablation).items()},
        "--batch-size": options.batch_size,
        "--at-once": options.at_once,
        "--dtype": plan.subject.dtype,
        **{f"the {name.replace('_', ' ')}": value for name, value in plan.record["fingerprints"].items()},
        "the neuron sets": json_fingerprint([[one.name, one.gain, one.neurons.pairs.tolist()] for one in chosen]),
        "the controls": json_fingerprint([one.controls.tolist() for one in chosen]),
        "the prepared data": data,
        **computed_by(),
    }
    return activity, SuiteFiles(folder, json.loads(json.dumps(identity)), plan.subject.judges, chosen)


def _measured(options: AblateOptions, subject: Subject) -> Activity:
    with progress_bar(what="Measuring activity", total=len(subject.task)) as bar:
        return measure_activity(
            subject.encoder, subject.task, options.batch_size, progress=lambda clips: bar.update(clips - bar.n)
        )


def _judge_rest(options: AblateOptions, plan: _Plan, suite: SuiteFiles) -> SuiteState:
    """What other jobs have judged, and the rest, which is judged here."""
    path = suite.path(1, 1)
    parts = suite.others(path)
    elsewhere = {number for numbers, _ in parts for number in numbers}
    found = suite.read(path)
    rest = [number for number in range(len(suite.chosen)) if number not in elsewhere]
    numbers, state = (rest, new_state(suite.judges, suite.some(rest))) if found is None else found
    if not set(rest) <= set(numbers):
        raise InputError(f"{path} lacks interventions that no other part has judged: remove it to judge them here.")
    if numbers:
        _judge(options, plan, suite, numbers, state, path)
        parts.append((numbers, state))
    return join_states(plan.subject.task, suite.judges, suite.chosen, parts)


def _judge(
    options: AblateOptions, plan: _Plan, suite: SuiteFiles, numbers: Sequence[int], state: SuiteState, path: Path
) -> None:
    """Judge some interventions, from where their state stands."""
    subject, chosen = plan.subject, suite.some(numbers)
    check_judging(subject.task, subject.judges, chosen, plan.means)
    controls = sum(len(one.controls) for one in chosen)
    passes = (len(chosen) + controls) * len(subject.task)
    note(f"{len(chosen):,} interventions and {controls:,} controls on {len(subject.task):,} clips: {passes:,} passes.")

    def save() -> None:
        suite.write(path, numbers, state, needed=False)

    with (
        progress_bar(what=f"Ablating {subject.task.name}", total=passes, unit="pass", at_once=True) as bar,
        resumable(save, options.save_minutes) as between,
    ):
        judge_suite(
            subject.encoder, subject.task, subject.judges, chosen, plan.ablation, plan.means, subject.shape, state,
            between, batch_size=options.batch_size, at_once=options.at_once,
            progress=lambda done: bar.update(done - bar.n),
        )  # fmt: skip
    save()


def _causal_map(options: AblateOptions, subject: Subject) -> tuple[dict[str, np.ndarray], pd.DataFrame | None]:
    with progress_bar(what="Causal map", total=len(subject.task)) as bar:
        effects = causal_map(
            subject.encoder, subject.task, subject.judges, subject.shape, min(MAP_BATCH_SIZE, options.batch_size),
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


def _record(options: AblateOptions, ablation: AblationOptions, run: Run, subject: Subject) -> dict[str, Any]:
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
            "recordings": json_fingerprint(subject.task.sources),  # what intervals resample
        },
    }


def _balance(chosen: Sequence[Intervention], activity: Activity | None) -> tuple[float, float] | None:
    if activity is None:
        return None
    return control_balance([one.neurons for one in chosen], [one.controls for one in chosen], activity)
