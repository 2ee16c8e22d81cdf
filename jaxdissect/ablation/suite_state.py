"""What probes say of every class under many edits, part by part, so that it fits into memory and can go on."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.ablation.engine import Edit
from jaxdissect.ablation.interventions import AblationOptions, Intervention
from jaxdissect.ablation.stream import Found, Judged, judge_edits
from jaxdissect.ablation.verdicts import ClassOutcome, per_class
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.probe.judge import Judge
from jaxdissect.significance.p_values import bootstrap_means
from jaxdissect.tasks.table import Task

AT_ONCE_BYTES = 2**31  # of verdicts on the host


@dataclasses.dataclass(frozen=True, eq=False)
class Judgements:
    """One label set's classes under the edits of some interventions: each of them, followed by its controls.

    Attributes:
      clips: that each class has.
      before: of the untouched encoder.
      after: of the edits; NaN where they have not been judged yet.
      low, high: interval of the margin change under each intervention itself.
    """

    clips: Int[np.ndarray, " class"]
    before: ClassOutcome
    after: ClassOutcome
    low: Float[np.ndarray, "intervention class"]
    high: Float[np.ndarray, "intervention class"]

    @staticmethod
    def empty(classes: int, edits: int, interventions: int) -> "Judgements":
        """Nothing judged yet."""

        def nothing(rows: int) -> np.ndarray:
            return np.full((rows, classes), np.nan)

        return Judgements(
            np.zeros(classes, np.int64),
            ClassOutcome(nothing(1), nothing(1)),
            ClassOutcome(nothing(edits), nothing(edits)),
            nothing(interventions),
            nothing(interventions),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All of them by name; views, which can be filled in."""
        return {
            "clips": self.clips,
            "before.accuracy": self.before.accuracy,
            "before.margin": self.before.margin,
            "after.accuracy": self.after.accuracy,
            "after.margin": self.after.margin,
            "low": self.low,
            "high": self.high,
        }


@dataclasses.dataclass(eq=False)
class SuiteState:
    """How far the judging of some interventions is.

    Attributes:
      judgements: of each label set.
      done: edits that are judged on all clips.
      found: verdicts on the clips so far, under the edits that are being judged.
      reasons: why a clip takes no part, by its number.
      usable: clips that take part; None before any was judged under all of some edits.
    """

    judgements: dict[str, Judgements]
    done: int = 0
    found: Found | None = None
    reasons: dict[int, str] = dataclasses.field(default_factory=dict)
    usable: Bool[np.ndarray, " clip"] | None = None


def first_edits(chosen: Sequence[Intervention]) -> Int[np.ndarray, " bound"]:
    """Where each intervention's edits begin among those of all, and at last where they end."""
    return np.cumsum([0, *(1 + len(one.controls) for one in chosen)])


def new_state(judges: Mapping[str, Judge], chosen: Sequence[Intervention]) -> SuiteState:
    """Nothing judged yet."""
    edits = int(first_edits(chosen)[-1])
    return SuiteState(
        {name: Judgements.empty(judge.members.shape[1], edits, len(chosen)) for name, judge in judges.items()}
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
    **running: Any,
) -> None:
    """Judge interventions and their controls on a task's clips, from where `state` stands, in which all is kept.

    Args:
      encoder, task, judges: as for `ablate`.
      chosen: the interventions.
      options: seed and resamples of the bootstrap.
      means: of every neuron, for mode "mean".
      shape: layers, and neurons per layer, of the encoder.
      state: `new_state`, or one that was left.
      between: called after each batch of clips, when `state` can be saved.
      running: `batch_size`, `at_once`, `devices`, `progress` of `judge_edits`.

    Raises:
      InputError: no clip can be used, or a number breaks a rule.
    """
    edits = [edit for one in chosen for edit in one.edits(means)]
    first = first_edits(chosen)[:-1]
    progress: Callable[[int], object] = running.pop("progress", lambda passes: None)
    together = max(1, AT_ONCE_BYTES // (len(task) * sum(map(_bytes_per_clip, judges.values()))))
    while state.done < len(edits):
        start = state.done
        some: Sequence[Edit] = edits[start : start + together]
        if state.found is None:
            state.found = Found(len(task), len(some))

        def report(passes: int, done: int = start) -> None:
            progress(done * len(task) + passes)

        judged = judge_edits(
            encoder, task, judges, some, shape, found=state.found, between=between, progress=report, **running
        )
        if not judged.usable.any():
            state.found = None  # so that the same command judges anew when the files are there
            raise InputError(
                f"Task {task.name!r}: none of the {len(task)} test clips can be used, the first since "
                f"{judged.reasons[0]}: is --data their folder?"
            )
        _require_same_clips(state.usable, judged.usable, task, "the edits before were judged")
        targets = np.flatnonzero((first >= start) & (first < start + len(some)))
        for name, judge in judges.items():
            _put(state.judgements[name], task, judge, judged, name, start, first, targets, options)
        state.done, state.found, state.reasons = start + len(some), None, dict(judged.reasons)
        state.usable = judged.usable


def join_states(
    task: Task,
    judges: Mapping[str, Judge],
    chosen: Sequence[Intervention],
    parts: Sequence[tuple[Sequence[int], SuiteState]],
) -> SuiteState:
    """The judgements of all interventions from those of jobs that had some of them each.

    Args:
      task: the clips.
      judges: of each label set.
      chosen: all interventions.
      parts: numbers of the interventions of each job, and what it has found.

    Raises:
      InputError: jobs could not read the same clips.
    """
    whole, first = new_state(judges, chosen), first_edits(chosen)
    for numbers, part in parts:
        _require_same_clips(whole.usable, part.usable, task, "another part was judged")
        whole.usable = part.usable
        rows = np.concatenate([np.arange(first[number], first[number + 1]) for number in numbers]).astype(int)
        whole.reasons |= part.reasons
        whole.done += len(rows)
        for name, judgements in part.judgements.items():
            into, from_ = whole.judgements[name].arrays(), judgements.arrays()
            for key in ("clips", "before.accuracy", "before.margin"):
                into[key][...] = from_[key]
            for key in ("after.accuracy", "after.margin"):
                into[key][rows] = from_[key]
            for key in ("low", "high"):
                into[key][list(numbers)] = from_[key]
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
    probes, _, classes = judge.head.kernel.shape
    return 4 * classes * (1 + probes) if judge.multi_label else 8


def _put(
    into: Judgements,
    task: Task,
    judge: Judge,
    judged: Judged,
    name: str,
    start: int,
    first: np.ndarray,
    targets: np.ndarray,
    options: AblationOptions,
) -> None:
    """Average the verdicts under some edits over the clips of each class."""
    members = judge.members & judged.usable[:, None]
    before, after = judged.before[name], judged.after[name]
    change = np.asarray(after.margin)[first[targets] - start] - before.margin
    sources = np.unique(task.sources, return_inverse=True)[1]
    for index in range(members.shape[1] if len(targets) else 0):
        clips = np.flatnonzero(members[:, index])
        of_class = change[:, clips, index] if judge.multi_label else change[:, clips]
        into.low[targets, index], into.high[targets, index] = bootstrap_means(
            of_class.T.astype(np.float64), sources[clips], options.resamples, options.seed
        )
    into.clips[...] = members.sum(axis=0)
    found = per_class(before, judge, judged.usable), per_class(after, judge, judged.usable)
    for kept, new, rows in zip((into.before, into.after), found, (slice(0, 1), slice(start, None)), strict=True):
        for key in ("accuracy", "margin"):
            values = getattr(new, key)
            getattr(kept, key)[rows][: len(values)] = values
