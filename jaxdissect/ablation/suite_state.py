"""Judges a suite of interventions, in steps that fit into memory and can be resumed, and averages verdicts by class."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Unpack

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.ablation.interventions import AblationOptions, Intervention
from jaxdissect.ablation.stream import ClipVerdicts, Running, draw_recipients, judge_edits
from jaxdissect.ablation.verdicts import class_means
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.probe.judge import Judge
from jaxdissect.significance.intervals import bootstrap_means
from jaxdissect.tasks.table import Task

LARGEST_VERDICTS = 2**31  # bytes of verdicts on the host, of which judging a suite keeps no more at a time


@dataclasses.dataclass(frozen=True, eq=False)
class ClassVerdicts:
    """Mean verdicts on one label set's classes under the edits of a suite; NaN where nothing has been judged yet.

    The edits of an intervention are itself, then its controls.

    Attributes:
      clips: usable clips of each class.
      accuracy_before, margin_before: accuracy and mean margin in the untouched encoder (see `class_means`).
      accuracy_after, margin_after: the same under each edit.
      low, high: 95% interval of the margin change under each intervention itself, in logits.
    """

    clips: Int[np.ndarray, " class"]
    accuracy_before: Float[np.ndarray, " class"]
    margin_before: Float[np.ndarray, " class"]
    accuracy_after: Float[np.ndarray, "edit class"]
    margin_after: Float[np.ndarray, "edit class"]
    low: Float[np.ndarray, "intervention class"]
    high: Float[np.ndarray, "intervention class"]

    @staticmethod
    def empty(classes: int, edits: int, interventions: int) -> "ClassVerdicts":
        """Nothing judged yet."""
        shapes = [(classes,)] * 2 + [(edits, classes)] * 2 + [(interventions, classes)] * 2
        return ClassVerdicts(np.zeros(classes, np.int64), *(np.full(shape, np.nan) for shape in shapes))

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by their names in a saved state; views, which can be filled in."""
        return {
            "clips": self.clips,
            "before.accuracy": self.accuracy_before[None],
            "before.margin": self.margin_before[None],
            "after.accuracy": self.accuracy_after,
            "after.margin": self.margin_after,
            "low": self.low,
            "high": self.high,
        }


@dataclasses.dataclass(eq=False)
class SuiteState:
    """What has been judged of a suite of interventions.

    Attributes:
      classes: mean verdicts of each label set.
      done: number of edits that are judged on all clips.
      unfinished: verdicts under the next edits, which are judged on some clips; None between two steps.
      reasons: why a clip takes no part, by its number.
      usable: clips that take part; None before any edit is judged on all clips.
    """

    classes: dict[str, ClassVerdicts]
    done: int = 0
    unfinished: ClipVerdicts | None = None
    reasons: dict[int, str] = dataclasses.field(default_factory=dict)
    usable: Bool[np.ndarray, " clip"] | None = None


def first_edits(chosen: Sequence[Intervention]) -> Int[np.ndarray, " bound"]:
    """Number of the first edit of each intervention, which is itself, among the edits of all; then their total."""
    return np.cumsum([0, *(1 + len(intervention.controls) for intervention in chosen)])


def new_state(judges: Mapping[str, Judge], chosen: Sequence[Intervention]) -> SuiteState:
    """Nothing judged yet."""
    edits = int(first_edits(chosen)[-1])
    return SuiteState(
        {name: ClassVerdicts.empty(judge.members.shape[1], edits, len(chosen)) for name, judge in judges.items()}
    )


def judge_suite(
    encoder: Encoder,
    task: Task,
    judges: Mapping[str, Judge],
    chosen: Sequence[Intervention],
    options: AblationOptions,
    means: Float[np.ndarray, "layer neuron"] | None,
    shape: tuple[int, int],
    state: SuiteState,
    between: Callable[[], None] = lambda: None,
    **running: Unpack[Running],
) -> None:
    """Judge interventions and their controls on a task's clips, and put the verdicts into a state.

    Each step judges so many edits on all clips as their verdicts fit into memory, and averages them by class.

    Args:
      encoder, task, judges: as for `ablate`.
      chosen: the interventions.
      options: seed and resamples of the bootstrap.
      means: mean activation of every neuron, for mode "mean".
      shape: layers, and neurons per layer, of the encoder.
      state: state to resume from, `new_state` for a start; the verdicts are put into it.
      between: called after each batch of clips, when `state` can be saved.
      running: how it runs.

    Raises:
      InputError: no clip can be used, an argument of `running` is not positive, or other clips can be used than in the
        steps before.
    """
    # Each intervention, followed by its controls: the order that `first_edits` counts in.
    edits = [edit for intervention in chosen for edit in intervention.edits(means)]
    progress = running.get("progress", lambda passes: None)
    if options.mode == "patch":
        running["recipients"] = draw_recipients(task, judges, options.seed)
    step = max(1, LARGEST_VERDICTS // (len(task) * sum(map(_bytes_per_clip, judges.values()))))
    while state.done < len(edits):
        part = edits[state.done : state.done + step]
        if state.unfinished is None:
            state.unfinished = ClipVerdicts(len(task), len(part))

        # A step counts its own passes. The default binds the number of earlier ones now, not when it is called.
        def report(passes: int, before: int = state.done * len(task)) -> None:
            progress(before + passes)

        running["progress"] = report
        judged = judge_edits(encoder, task, judges, part, shape, so_far=state.unfinished, between=between, **running)
        if not judged.usable.any():
            state.unfinished = None  # so that the same command judges anew when the files are back
            raise InputError(
                f"Task {task.name!r}: none of the {len(task)} test clips can be used, the first since "
                f"{judged.reasons[0]}: is {task.data} their folder?"
            )
        _require_same_clips(state.usable, judged.usable, task, "the edits before were judged")
        _average(state, judged, task, judges, first_edits(chosen)[:-1], options)
        state.done, state.unfinished = state.done + len(part), None
        state.usable, state.reasons = judged.usable, dict(judged.reasons)


def join_states(
    task: Task,
    judges: Mapping[str, Judge],
    chosen: Sequence[Intervention],
    parts: Sequence[tuple[Sequence[int], SuiteState]],
) -> SuiteState:
    """The verdicts on all interventions, from jobs that judged some of them each.

    Args:
      task: the clips.
      judges: judge of each label set.
      chosen: all interventions.
      parts: each job's interventions, by their numbers, and its state.

    Raises:
      InputError: jobs could not read the same clips.
    """
    whole, first = new_state(judges, chosen), first_edits(chosen)
    for numbers, part in parts:
        # The untouched encoder was judged by every job: its verdicts must be those on the same clips.
        _require_same_clips(whole.usable, part.usable, task, "another part was judged")
        whole.usable = part.usable
        # All edits of the job's interventions: the rows of `whole` that its rows, in this order, belong to.
        rows = np.concatenate([np.arange(first[number], first[number + 1]) for number in numbers]).astype(int)
        whole.reasons |= part.reasons
        whole.done += len(rows)
        for name, verdicts in part.classes.items():
            into = whole.classes[name]
            into.clips[:] = verdicts.clips
            into.accuracy_before[:], into.margin_before[:] = verdicts.accuracy_before, verdicts.margin_before
            into.accuracy_after[rows], into.margin_after[rows] = verdicts.accuracy_after, verdicts.margin_after
            into.low[list(numbers)], into.high[list(numbers)] = verdicts.low, verdicts.high
    return whole


def _require_same_clips(before: np.ndarray | None, now: np.ndarray | None, task: Task, when: str) -> None:
    """Refuse to compare means over different clips."""
    if before is None or now is None or np.array_equal(before, now):
        return
    clip = int(np.flatnonzero(before != now)[0])
    raise InputError(
        f"Task {task.name!r}: {int((before != now).sum())} test clips could be read at one time and not at another, "
        f"{task.file_names[clip]!r} first ({'not now' if before[clip] else 'only now'}; {when} on other clips): bring "
        f"the files back, and remove the state of the ablation (`state/ablate` in the run directory) to judge anew."
    )


def _bytes_per_clip(judge: Judge) -> int:
    """Bytes of the verdicts of one edit on one clip: float32 margin and hits, or margins and scores of every class."""
    probes, _, classes = judge.head.kernel.shape
    return 4 * classes * (1 + probes) if judge.multi_label else 8


def _average(
    state: SuiteState,
    judged: ClipVerdicts,
    task: Task,
    judges: Mapping[str, Judge],
    first: Int[np.ndarray, " intervention"],
    options: AblationOptions,
) -> None:
    """Average the verdicts of a step by class, and put the means into the state.

    Args:
      state: state before the step.
      judged: verdicts of the step, on all clips.
      task: the clips.
      judges: judge of each label set.
      first: number of each intervention's first edit.
      options: seed and resamples of the bootstrap.
    """
    edits = slice(state.done, state.done + judged.edits)
    # Interventions that are themselves among the step's edits, and their rows in it: only they have an interval.
    targets = np.flatnonzero((first >= edits.start) & (first < edits.stop))
    rows = first[targets] - edits.start
    sources = np.unique(task.sources, return_inverse=True)[1]  # number of each clip's source, which is resampled whole
    for name, judge in judges.items():
        into, before, after = state.classes[name], judged.before[name], judged.after[name]
        members = judge.members & judged.usable[:, None]
        change = after.margin[rows] - before.margin  # (target, clip), multi-label: (target, clip, class)
        for index in range(members.shape[1] if len(targets) else 0):
            clips = np.flatnonzero(members[:, index])
            of_class = change[:, clips, index] if judge.multi_label else change[:, clips]
            into.low[targets, index], into.high[targets, index] = bootstrap_means(
                of_class.T.astype(np.float64), sources[clips], options.resamples, options.seed
            )
        into.clips[:] = members.sum(axis=0)
        # Every step judges the untouched encoder again, with the same result.
        into.accuracy_before[:], into.margin_before[:] = (mean[0] for mean in class_means(before, judge, judged.usable))
        into.accuracy_after[edits], into.margin_after[edits] = class_means(after, judge, judged.usable)
