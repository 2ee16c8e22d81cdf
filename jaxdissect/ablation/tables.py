"""What interventions do to a task's classes, beside their controls: tables with changes, intervals and p-values."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from jaxdissect.ablation.interventions import AblationOptions, Intervention, plain_name
from jaxdissect.ablation.suite_state import Judgements, SuiteState, first_edits, judge_suite, new_state
from jaxdissect.counting.stream import neuron_shape
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.probe.judge import Judge
from jaxdissect.selection.neuron_sets import ClassName
from jaxdissect.significance.p_values import benjamini_hochberg, empirical_p
from jaxdissect.tasks.table import LabelSet, Task

COLUMNS = (
    "label_set", "intervention", "mode", "gain", "neurons", "class", "clips", "accuracy_before", "accuracy_after",
    "change", "change_clips", "margin_before", "margin_after", "margin_change", "ci_low", "ci_high", "controls",
    "control_mean", "control_sd", "p_value", "q_value",
)  # fmt: skip
CONTROL_COLUMNS = ("intervention", "control", "class", "change", "margin_change")
SUITE_COLUMNS = (
    "label_set", "mode", "gain", "interventions", "contrast", "margin_change", "controls", "control_mean", "control_sd",
    "p_value",
)  # fmt: skip
CONTRASTS = ("own classes", "other classes", "own - other")


@dataclasses.dataclass(frozen=True, eq=False)
class Ablation:
    """What a suite of interventions did.

    Attributes:
      table: a row per label set, intervention and class, as `ablation.csv`; accuracies are shares from 0 to 1 (average
        precision of a multi-label set), margins logits; the interval, the controls' mean and deviation and the p-value
        are of `margin_change`.
      controls: a row per intervention, control and class, as `ablation_controls.csv`.
      suite: the aggregate test of each label set and gain: mean margin change of the interventions on the classes that
        they are meant for, on the others, and the difference, each against the controls'.
      sets: a row per intervention and neuron.
      reasons: why a clip took no part, by its number.
    """

    table: pd.DataFrame
    controls: pd.DataFrame
    suite: pd.DataFrame
    sets: pd.DataFrame
    reasons: Mapping[int, str]


def ablate(
    encoder: Encoder,
    task: Task,
    judges: Mapping[str, Judge],
    chosen: Sequence[Intervention],
    options: AblationOptions | None = None,
    means: Float[np.ndarray, "layer neuron"] | None = None,
    shape: tuple[int, int] | None = None,
    **running: Any,
) -> Ablation:
    """Run interventions and their controls on a task's clips, and judge each class by linear probes.

    Every clip of `task` counts: give it the test split (`task.only("test")`) of neurons that were chosen on the
    training split.

    Args:
      encoder: any `Encoder`.
      task: the clips.
      judges: probes of every label set of the task.
      chosen: what is done, from `make_interventions`.
      options: seed and resamples of the bootstrap.
      means: of every neuron over the training tokens, for mode "mean".
      shape: layers, and neurons per layer, of the encoder; default: found without running it.
      running: `batch_size`, `at_once`, `devices`, `progress` of `judge_edits`.

    Raises:
      InputError: a class has no clip here, a number breaks a rule, or no clip can be used.
    """
    options = options or AblationOptions()
    shape = shape or neuron_shape(encoder, task)
    check_judging(task, judges, chosen, means)
    state = new_state(judges, chosen)
    judge_suite(encoder, task, judges, chosen, options, means, shape, state, **running)
    return suite_tables(task, chosen, state)


def suite_tables(task: Task, chosen: Sequence[Intervention], state: SuiteState) -> Ablation:
    """Tables of what was judged.

    Args:
      task: the clips.
      chosen: all interventions.
      state: their judgements.
    """
    first = first_edits(chosen)
    tables = [_table(labels, chosen, state.judgements[labels.name], first, task) for labels in task.label_sets]
    return Ablation(
        table=pd.concat([table for table, _, _ in tables], ignore_index=True),
        controls=pd.concat([controls for _, controls, _ in tables], ignore_index=True),
        suite=pd.concat([suite for _, _, suite in tables], ignore_index=True),
        sets=_set_rows(chosen),
        reasons=state.reasons,
    )


def check_judging(
    task: Task, judges: Mapping[str, Judge], chosen: Sequence[Intervention], means: Float[np.ndarray, "_ _"] | None
) -> None:
    """Refuse what `ablate` cannot judge.

    Raises:
      InputError: there is nothing to judge, names are there twice, means are missing, or a judge does not suit.
    """
    if not chosen:
        raise InputError("Ablation needs an intervention at least: give some.")
    names = [one.name for one in chosen]
    if len(set(names)) < len(names):
        raise InputError(f"Interventions need names that differ, got {', '.join(names)}.")
    if means is None and any(one.mode == "mean" for one in chosen):
        raise InputError("Mode 'mean' needs the mean of every neuron over the training tokens: give `means`.")
    for labels in task.label_sets:
        require_clips(task, labels)
        judge = judges.get(labels.name)
        wanted = (len(task), len(labels.classes)), len(labels.classes), labels.multi_label
        found = judge and (judge.members.shape, np.shape(judge.head.kernel)[-1], judge.multi_label)
        if found != wanted:
            raise InputError(
                f"The judge of the label set {labels.name!r} must have members of the shape {wanted[0]}, a head of "
                f"{wanted[1]} classes and multi_label {wanted[2]}, found {found}."
            )


def require_clips(task: Task, labels: LabelSet) -> None:
    """Refuse a label set of which a class has no clip in a task.

    Raises:
      InputError: names the class.
    """
    missing = np.flatnonzero(~labels.table().any(axis=0))
    if len(missing):
        raise InputError(
            f"Task {task.name!r}: {len(missing)} of the {len(labels.classes)} classes of the label set {labels.name!r} "
            f"have no clip in the test split, {labels.classes[missing[0]]!r} first: nothing can be said of them. Move "
            f"clips there in the table, or drop the class."
        )


def _table(
    labels: LabelSet, chosen: Sequence[Intervention], outcome: Judgements, first: np.ndarray, task: Task
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Rows of `ablation.csv`, of `ablation_controls.csv`, and the aggregate test of one label set."""
    before, after = outcome.before, outcome.after
    change, margin_change = after.accuracy - before.accuracy, after.margin - before.margin
    single = not labels.multi_label
    rows, control_rows = [], []
    for number, one in enumerate(chosen):
        target, own = first[number], slice(first[number] + 1, first[number + 1])
        drawn = margin_change[own]
        columns = {
            "label_set": labels.name,
            "intervention": one.name,
            "mode": one.mode,
            "gain": one.gain,
            "neurons": len(one.neurons.neurons),
            "class": labels.classes,
            "clips": outcome.clips,
            "accuracy_before": before.accuracy[0],
            "accuracy_after": after.accuracy[target],
            "change": change[target],
            "change_clips": change[target] * outcome.clips if single else np.nan,
            "margin_before": before.margin[0],
            "margin_after": after.margin[target],
            "margin_change": margin_change[target],
            "ci_low": outcome.low[number],
            "ci_high": outcome.high[number],
            "controls": len(drawn),
            "control_mean": drawn.mean(axis=0) if len(drawn) else np.nan,
            "control_sd": drawn.std(axis=0, ddof=1) if len(drawn) > 1 else np.nan,
            "p_value": empirical_p(margin_change[target], drawn),
        }
        rows.append(pd.DataFrame(columns))
        names = [plain_name(labels.name, name, task.classes) for name in labels.classes]
        control_rows.append(
            pd.DataFrame(
                {
                    "intervention": one.name,
                    "control": np.repeat(np.arange(len(drawn)), len(names)),
                    "class": names * len(drawn),
                    "change": change[own].ravel(),
                    "margin_change": drawn.ravel(),
                },
                columns=list(CONTROL_COLUMNS),
            )
        )
    table = pd.concat(rows, ignore_index=True)
    table["q_value"] = benjamini_hochberg(table["p_value"].to_numpy())
    suite = _suite_rows(labels, chosen, margin_change, first, outcome.clips)
    return table[list(COLUMNS)], pd.concat(control_rows, ignore_index=True), suite


def _suite_rows(
    labels: LabelSet,
    chosen: Sequence[Intervention],
    margin_change: Float[np.ndarray, "edit class"],
    first: np.ndarray,
    clips: Int[np.ndarray, " class"],
) -> pd.DataFrame:
    """The aggregate test: all interventions of a gain together, against as many times their k-th controls."""
    rows, judged = [], clips > 0
    for mode, gain in dict.fromkeys((one.mode, one.gain) for one in chosen):
        kept = [number for number, one in enumerate(chosen) if (one.mode, one.gain) == (mode, gain)]
        kept = [number for number in kept if _own_classes(labels, chosen[number].neurons.classes).any()]
        if not kept:
            continue
        controls = min(len(chosen[number].controls) for number in kept)
        per_draw = []  # (draw, contrast) of each intervention; draw 0 is the intervention
        for number in kept:
            own = _own_classes(labels, chosen[number].neurons.classes)
            changes = margin_change[first[number] : first[number] + 1 + controls]
            on_own, on_others = _mean(changes[:, own & judged], 1), _mean(changes[:, ~own & judged], 1)
            per_draw.append(np.stack([on_own, on_others, on_own - on_others], axis=1))
        found = _mean(np.stack(per_draw), 0)  # an intervention for all classes has no others: the rest decide
        p_values = empirical_p(found[0], found[1:])
        for index, contrast in enumerate(CONTRASTS):
            drawn = found[1:, index]
            mean = drawn.mean() if controls else np.nan
            deviation = drawn.std(ddof=1) if controls > 1 else np.nan
            rows.append(
                [
                    labels.name,
                    mode,
                    gain,
                    len(kept),
                    contrast,
                    found[0, index],
                    controls,
                    mean,
                    deviation,
                    p_values[index],
                ]
            )
    return pd.DataFrame(rows, columns=list(SUITE_COLUMNS))


def _mean(values: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """Mean of the numbers along an axis; NaN where there is none, as for an intervention that has no other classes."""
    count = (~np.isnan(values)).sum(axis=axis)
    return np.where(count > 0, np.nansum(values, axis=axis) / np.maximum(count, 1), np.nan)


def _own_classes(labels: LabelSet, classes: Sequence[ClassName]) -> np.ndarray:
    return np.array([(labels.name, name) in classes for name in labels.classes])


def _set_rows(chosen: Sequence[Intervention]) -> pd.DataFrame:
    rows = [(one.name, one.mode, one.gain, *pair) for one in chosen for pair in one.neurons.neurons]
    return pd.DataFrame(rows, columns=["intervention", "mode", "gain", "layer", "neuron"])
