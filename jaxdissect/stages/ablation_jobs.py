"""Judging of a suite of interventions: in one job, or in several independent jobs that each judge a part.

All jobs draw the same controls, and keep what they judge in the run directory. The job without a part takes over what
the others have judged, and judges the rest.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from jaxdissect.ablation.activity import measure_activity
from jaxdissect.ablation.interventions import make_interventions
from jaxdissect.ablation.matched_controls import Activity
from jaxdissect.ablation.saved_state import SuiteFiles, common_activity
from jaxdissect.ablation.suite_state import SuiteState, join_states, judge_suite, new_state
from jaxdissect.ablation.tables import check_judging
from jaxdissect.errors import require
from jaxdissect.runtime.files import json_fingerprint, locked, require_folder
from jaxdissect.runtime.machine import computed_by
from jaxdissect.runtime.progress import note, progress_bar, under_way
from jaxdissect.runtime.resume import resumable
from jaxdissect.stages.ablation_plan import Plan
from jaxdissect.tasks.loader import data_fingerprint


def prepare_suite(plan: Plan) -> tuple[Activity | None, SuiteFiles]:
    """Draw the controls, the same in all jobs.

    Args:
      plan: what is to be done.

    Returns:
      the activity that controls are matched in, None if they are not; and the files in which jobs keep their states,
      which know all interventions.

    Raises:
      InputError: the folder of the states cannot be used, or holds the activity of something else.
    """
    # What identifies a measurement or a suite is worded as messages name it, e.g. "--seed (0 before, 1 now)".
    folder = plan.run.file("state") / "ablate"
    require_folder(folder)
    prints, data = plan.record["fingerprints"], data_fingerprint(plan.task) or "files"
    # Measured once for all jobs: another device or number of devices could round it otherwise, and so draw others.
    activity = None
    if plan.ablation.match == "activity" and plan.ablation.controls:
        measured_on = {
            "the encoder": prints["encoder"],
            "the table": prints["task"],
            "--dtype": plan.dtype,
            "the prepared data": data,
        }
        activity = common_activity(folder, measured_on, lambda: _measure_activity(plan))
    with under_way("Drawing controls"):
        chosen = make_interventions(plan.sets, plan.shape, plan.ablation, activity)
    # All that results depend on, so that no job resumes from or joins the state of another suite.
    identity = {
        **{f"--{name.replace('_', '-')}": value for name, value in dataclasses.asdict(plan.ablation).items()},
        "--batch-size": plan.options.batch_size,
        "--at-once": plan.options.at_once,
        "--dtype": plan.dtype,
        **{f"the {name.replace('_', ' ')}": value for name, value in prints.items()},
        "the neuron sets": json_fingerprint([[each.name, each.gain, each.neurons.pairs.tolist()] for each in chosen]),
        "the controls": json_fingerprint([each.controls.tolist() for each in chosen]),
        "the prepared data": data,
        **computed_by(),
    }
    identity = json.loads(json.dumps(identity))  # as a state file gives it back: lists in place of tuples
    return activity, SuiteFiles(folder, identity, plan.judges, chosen)


def judge_part(plan: Plan, suite: SuiteFiles, part: int, parts: int) -> tuple[int, int, Path]:
    """Judge every N-th intervention, as job `part` of `parts`.

    Returns:
      numbers of interventions and of passes that the part has, and the path of its state.

    Raises:
      InputError: there are fewer interventions than parts, another process is judging the same part, or no clip can be
        used.
    """
    # Every N-th: neighbours in a suite are alike in size, and so the parts take about as long.
    numbers, path = list(range(len(suite.chosen)))[part - 1 :: parts], suite.path(part, parts)
    option = f"--part {part}/{parts}"
    require(len(numbers) > 0, f"{option}: there are {len(suite.chosen)} interventions only: choose fewer parts.")
    # One lock for each part, so that parts can be judged at the same time.
    with locked(path.parent, f"{option} of --run {plan.run.path}"):
        saved = suite.read(path)
        state = new_state(suite.judges, suite.some(numbers)) if saved is None else saved[1]
        suite.write(path, numbers, state)  # else another job could take this part for one that was not begun
        _judge(plan, suite, numbers, state, path)
        suite.write(path, numbers, state)
    return len(numbers), state.done * len(plan.task), path


def judge_rest(plan: Plan, suite: SuiteFiles) -> SuiteState:
    """Join what other jobs have judged, and judge the rest here.

    Raises:
      InputError: a part is not finished, parts overlap or could not read the same clips, or no clip can be used.
    """
    path = suite.path(1, 1)
    parts = suite.others(path)
    # Interventions that other jobs have judged, which need not be judged here.
    elsewhere = {number for numbers, _ in parts for number in numbers}
    rest = [number for number in range(len(suite.chosen)) if number not in elsewhere]
    # A state of this job may hold more than the rest: it was begun before other parts were judged.
    saved = suite.read(path)
    numbers, state = (rest, new_state(suite.judges, suite.some(rest))) if saved is None else saved
    require(
        set(rest) <= set(numbers),
        f"{path} lacks interventions that no other part has judged: remove it to judge them here.",
    )
    if numbers:
        _judge(plan, suite, numbers, state, path)
        parts.append((numbers, state))
    return join_states(plan.task, suite.judges, suite.chosen, parts)


def _measure_activity(plan: Plan) -> Activity:
    with progress_bar(what="Measuring activity", total=len(plan.task)) as bar:
        return measure_activity(plan.encoder, plan.task, plan.options.batch_size, progress=bar.update_to)


def _judge(plan: Plan, suite: SuiteFiles, numbers: Sequence[int], state: SuiteState, path: Path) -> None:
    """Judge the interventions of those numbers, from where their state ends."""
    chosen = suite.some(numbers)
    check_judging(plan.task, plan.judges, chosen, plan.means)
    controls = sum(len(each.controls) for each in chosen)
    passes = (len(chosen) + controls) * len(plan.task)
    note(f"{len(chosen):,} interventions and {controls:,} controls on {len(plan.task):,} clips: {passes:,} passes.")

    # A full disk must not end an ablation that can still finish: the state is only for interruptions.
    def save() -> None:
        suite.write(path, numbers, state, needed=False)

    with (
        progress_bar(what=f"Ablating {plan.task.name}", total=passes, unit="pass", at_once=True) as bar,
        resumable(save, plan.options.save_minutes) as between,
    ):
        judge_suite(
            plan.encoder,
            plan.task,
            plan.judges,
            chosen,
            plan.ablation,
            plan.means,
            plan.shape,
            state,
            between,
            batch_size=plan.options.batch_size,
            at_once=plan.options.at_once,
            progress=bar.update_to,
        )
    # All is judged, but tables and the causal map are still to come, and may be interrupted.
    save()
