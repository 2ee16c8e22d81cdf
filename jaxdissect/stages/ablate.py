"""`jaxdissect ablate`: what a task's neurons do, by intervening on them and judging its classes by linear probes."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from jaxdissect.ablation.causal_check import CHECK_CLIPS, check_map
from jaxdissect.ablation.causal_map import MAP_BATCH_SIZE, causal_map
from jaxdissect.ablation.files import read_scores, save_ablation, save_causal_map, write_sets
from jaxdissect.ablation.interventions import Intervention
from jaxdissect.ablation.matched_controls import control_balance, control_overlap
from jaxdissect.ablation.tables import Ablation, require_clips, suite_tables
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder
from jaxdissect.options.ablate import AblateOptions
from jaxdissect.runtime.files import parse_part, require_folder
from jaxdissect.runtime.profiling import profiling
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.runtime.run_directory import save_or_rescue
from jaxdissect.significance.cautions import independence_cautions
from jaxdissect.stages.ablation_jobs import judge_part, judge_rest, prepare_suite
from jaxdissect.stages.ablation_plan import Plan, read_plan
from jaxdissect.stages.inputs import ClipReading
from jaxdissect.tasks.table import Task


@dataclasses.dataclass(frozen=True, eq=False)
class AblateResult(ClipReading):
    """Result of the stage `ablate`.

    Attributes:
      ablation: the tables.
      chosen: interventions with their controls.
      map_check: how well the causal map ranks neurons, per label set and layer; None if it was not asked for.
      left_out: names of empty neuron sets, which a suite leaves out.
      balance: activation rate and impact of the controls relative to the targets'; None if not matched in them.
      overlap: fraction of its neurons that a control has in common with another of the same intervention, on average.
      unusable: files that took no part, each with the reason.
      clips: number of clips of the test split.
      max_bad_clips: fraction of unusable clips that is allowed.
      same_clips: whether the neurons were chosen on clips that they are judged on.
      cautions: warnings without which intervals should not be read.
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

    def clips_read(self) -> tuple[int, int]:
        """Number of unusable clips, and of all clips."""
        return len(self.unusable), self.clips


@dataclasses.dataclass(frozen=True)
class PartResult:
    """Result of one job of a suite that is judged in parts.

    Attributes:
      part, parts: number of the part, from 1, and number of parts.
      interventions: number of interventions that the part has.
      passes: number of passes of the part, one for each of its interventions and controls and each clip.
      path: file with what the part has judged.
    """

    part: int
    parts: int
    interventions: int
    passes: int
    path: Path


def run_ablate(options: AblateOptions) -> AblateResult:
    """Run interventions and their controls on the test split, and write what they did.

    Writes `ablation.csv`, `ablation_controls.csv`, `ablation_suite.csv` (aggregate test), `ablation_sets.csv` (the
    neurons of each intervention) and, with the causal map, `margin_effect` in `scores.nc` and `causal_map.csv` (its
    check). What `run_ablate_part` has judged already is taken over. An interrupted ablation resumes from its state
    (`state/ablate/` in the run directory).

    Args:
      options: options of the stage.

    Raises:
      InputError: an option breaks a rule, a set is empty or out of range, a stage is missing or of another encoder or
        task, or a class has no test clip, all before anything long starts; or a part is not finished.
    """
    plan = read_plan(options)
    run, task, record = plan.run, plan.task, plan.record
    if options.evar is not None:
        require_folder(options.evar)
    with run.locked():  # no other stage may write to the run meanwhile
        scores = read_scores(run, record["fingerprints"]["probe"])  # before the long work, in case it is damaged
        started = time.perf_counter()
        activity, suite = prepare_suite(plan)
        if options.evar is not None:  # they are known now, and need not wait for the verdicts
            write_sets(options.evar, suite.chosen)
        with profiling(options.profile):
            state = judge_rest(plan, suite)
        with under_way("Comparing with the controls, resampling clips"):
            ablation = suite_tables(task, suite.chosen, state)
        sets, controls = [each.neurons for each in suite.chosen], [each.controls for each in suite.chosen]
        result = AblateResult(
            ablation,
            tuple(suite.chosen),
            map_check=None,
            left_out=tuple(plan.left_out),
            balance=None if activity is None else control_balance(sets, controls, activity),
            overlap=float(np.mean([control_overlap(drawn) for drawn in controls])),
            unusable={task.file_names[clip]: reason for clip, reason in ablation.reasons.items()},
            clips=len(task),
            max_bad_clips=options.max_bad_clips,
            same_clips=run.stages().get("activations", {}).get("options", {}).get("split") in ("all", "test"),
            cautions=tuple(independence_cautions(task.recordings_from)),
        )
        # Written first and counted as failed after: unreadable clips must not cost the results of the others.
        record["unusable_clips"] = result.unusable
        record["status"] = "too many unreadable clips" if result.too_many_bad else "done"
        record["seconds"] = round(time.perf_counter() - started, 3)
        save_or_rescue(run, lambda place: save_ablation(place, ablation, scores, record), "what was ablated")
        if options.causal_map:  # the tables, which took longer, are saved before
            effects, check = _causal_map(plan)
            record["seconds"] = round(time.perf_counter() - started, 3)
            save_causal_map(run, scores, effects, check, ablation.table, record)
            result = dataclasses.replace(result, map_check=check)
        # Only now: until the causal map is there, an interrupted command resumes without judging anew.
        suite.remove()
    return result


def run_ablate_part(options: AblateOptions) -> PartResult:
    """Judge some of the interventions, as one of several independent jobs; `run_ablate` joins them.

    Args:
      options: options of the stage; `part` says which of the interventions.

    Raises:
      InputError: as `run_ablate`, or another process is judging the same part.
    """
    part, parts = parse_part(options.part or "1/1")  # before anything is loaded
    plan = read_plan(options)
    _, suite = prepare_suite(plan)
    with profiling(options.profile):
        return PartResult(part, parts, *judge_part(plan, suite, part, parts))


def check_ahead(encoder: Encoder, task: Task) -> Literal["activity", "layer"]:
    """Refuse what would stop an ablation, before the stages ahead of it run; returns how controls can be matched.

    Args:
      encoder: encoder to ablate.
      task: whole task.

    Raises:
      InputError: a class has no test clip.
    """
    test = task.only("test")
    for labels in test.label_sets:
        require_clips(test, labels)
    return "activity" if isinstance(encoder, LayeredEncoder) else "layer"


def _causal_map(plan: Plan) -> tuple[dict[str, np.ndarray], pd.DataFrame | None]:
    """The causal map of each label set; and its check, None if it was not asked for."""
    options, given = plan.options, (plan.encoder, plan.task, plan.judges, plan.shape)
    with progress_bar(what="Causal map", total=len(plan.task)) as bar:
        # The backward pass needs more memory for a clip than the batch size of the verdicts was chosen for.
        batch_size = min(MAP_BATCH_SIZE, options.batch_size)
        effects = causal_map(*given, batch_size, progress=bar.update_to)
    if not options.map_sample:
        return effects, None
    # Every sampled neuron is an edit of its own, on a sample of the clips.
    passes = plan.shape[0] * min(options.map_sample, plan.shape[1]) * min(CHECK_CLIPS, len(plan.task))
    with progress_bar(what="Checking the causal map", total=passes, unit="pass") as bar:
        check = check_map(
            *given,
            options.map_sample,
            batch_size=options.batch_size,
            at_once=options.at_once,
            progress=bar.update_to,
        )
    return effects, check
