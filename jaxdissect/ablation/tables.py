"""What interventions do to a task's classes, beside their controls: tables with changes, intervals and p-values."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Unpack

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from jaxdissect.ablation.interventions import AblationOptions, Intervention, plain_name
from jaxdissect.ablation.stream import Running
from jaxdissect.ablation.suite_state import ClassVerdicts, SuiteState, first_edits, judge_suite, new_state
from jaxdissect.counting.stream import neuron_shape
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import require
from jaxdissect.probe.judge import Judge
from jaxdissect.significance.p_values import benjamini_hochberg, empirical_p
from jaxdissect.tasks.table import LabelSet, Task

CONTRASTS = ("own classes", "other classes", "own - other")


@dataclasses.dataclass(frozen=True, eq=False)
class Ablation:
    """What a suite of interventions did.

    Attributes:
      table: a row per label set, intervention and class, as `ablation.csv`; accuracies are fractions from 0 to 1
        (average precision of a multi-label set), margins logits; the interval, the controls' mean and deviation and the
        p-value are of `margin_change`.
      controls: a row per intervention, control and class, as `ablation_controls.csv`.
      suite: aggregate test of each label set and gain (see `SuiteRow`), as `ablation_suite.csv`.
      sets: a row per intervention and neuron, as `ablation_sets.csv`.
      reasons: why a clip took no part, by its number.
    """

    table: pd.DataFrame
    controls: pd.DataFrame
    suite: pd.DataFrame
    sets: pd.DataFrame
    reasons: Mapping[int, str]


class SuiteRow(NamedTuple):
    """A row of the aggregate test: all interventions of one gain together, on the classes of one label set.

    Attributes:
      label_set: name of the label set.
      mode: "gain", "mean" or "patch".
      gain: factor on the activations.
      interventions: number of interventions that are meant for a class of the label set.
      contrast: "own classes", which the interventions are meant for; "other classes"; or "own - other".
      margin_change: mean margin change of the contrast, logits.
      controls: number of joint draws of controls.
      control_mean, control_sd: mean and standard deviation of the same over the draws.
      p_value: two-sided p-value of the margin change among the draws.
    """

    label_set: str
    mode: str
    gain: float
    interventions: int
    contrast: str
    margin_change: float
    controls: int
    control_mean: float
    control_sd: float
    p_value: float


def ablate(
    encoder: Encoder,
    task: Task,
    judges: Mapping[str, Judge],
    chosen: Sequence[Intervention],
    options: AblationOptions | None = None,
    means: Float[np.ndarray, "layer neuron"] | None = None,
    shape: tuple[int, int] | None = None,
    **running: Unpack[Running],
) -> Ablation:
    """Run interventions and their controls on a task's clips, and judge each class by linear probes.

    Every clip of `task` counts: give it the test split (`task.only("test")`) of neurons that were chosen on the
    training split.

    Args:
      encoder: any `Encoder`.
      task: the clips.
      judges: probes of every label set of the task.
      chosen: interventions from `make_interventions`.
      options: seed and resamples of the bootstrap.
      means: mean activation of every neuron over the training tokens, for mode "mean".
      shape: layers, and neurons per layer, of the encoder; default: found without running it.
      running: how edits are run: `batch_size` (clips per device and step), `at_once` (edits that run together),
        `devices`, `progress` (called with the number of passes finished).

    Raises:
      InputError: a class has no clip in the task, a number breaks a rule, or no clip can be used.
    """
    options = options or AblationOptions()
    shape = shape or neuron_shape(encoder, task)
    check_judging(task, judges, chosen, means)
    state = new_state(judges, chosen)
    judge_suite(encoder, task, judges, chosen, options, means, shape, state, **running)
    return suite_tables(task, chosen, state)


def suite_tables(task: Task, chosen: Sequence[Intervention], state: SuiteState) -> Ablation:
    """The tables of a suite that has been judged.

    Args:
      task: the clips.
      chosen: all interventions.
      state: the verdicts.
    """
    tables, controls, suite = zip(
        *(_label_set_tables(labels, chosen, state.classes[labels.name], task) for labels in task.label_sets),
        strict=True,
    )
    sets = [(each.name, each.mode, each.gain, *pair) for each in chosen for pair in each.neurons.neurons]
    return Ablation(
        table=pd.concat(tables, ignore_index=True),
        controls=pd.concat(controls, ignore_index=True),
        suite=pd.concat(suite, ignore_index=True),
        sets=pd.DataFrame(sets, columns=["intervention", "mode", "gain", "layer", "neuron"]),
        reasons=state.reasons,
    )


def check_judging(
    task: Task, judges: Mapping[str, Judge], chosen: Sequence[Intervention], means: Float[np.ndarray, "_ _"] | None
) -> None:
    """Refuse what `ablate` cannot judge.

    Args:
      task: the clips.
      judges: judge of each label set.
      chosen: the interventions.
      means: mean activation of every neuron, for mode "mean".

    Raises:
      InputError: there is no intervention, two have one name, means are missing, a class has no clip, or a judge does
        not fit its label set.
    """
    require(len(chosen) > 0, "Ablation needs an intervention at least: give some.")
    names = [intervention.name for intervention in chosen]
    require(len(set(names)) == len(names), f"Interventions need names that differ, got {', '.join(names)}.")
    require(
        means is not None or all(intervention.mode != "mean" for intervention in chosen),
        "Mode 'mean' needs the mean of every neuron over the training tokens: give `means`.",
    )
    for labels in task.label_sets:
        require_clips(task, labels)
        judge = judges.get(labels.name)
        wanted = (len(task), len(labels.classes)), len(labels.classes), labels.multi_label
        given = judge and (judge.members.shape, np.shape(judge.head.kernel)[-1], judge.multi_label)
        require(
            given == wanted,
            f"The judge of the label set {labels.name!r} must have members of the shape {wanted[0]}, a head of "
            f"{wanted[1]} classes and multi_label {wanted[2]}, got {given}.",
        )


def require_clips(task: Task, labels: LabelSet) -> None:
    """Refuse a label set with a class that has no clip in a task.

    Raises:
      InputError: names the class.
    """
    missing = [name for name, members in zip(labels.classes, labels.table().T, strict=True) if not members.any()]
    first = missing[0] if missing else None
    require(
        not missing,
        f"Task {task.name!r}: {len(missing)} of the {len(labels.classes)} classes of the label set {labels.name!r} "
        f"have no clip in the test split, {first!r} first: nothing can be said of them. Move clips there in the "
        f"table, or drop the class.",
    )


def _label_set_tables(
    labels: LabelSet, chosen: Sequence[Intervention], verdicts: ClassVerdicts, task: Task
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Rows of `ablation.csv`, of `ablation_controls.csv` and of `ablation_suite.csv` for one label set."""
    change = verdicts.accuracy_after - verdicts.accuracy_before
    margin_change = verdicts.margin_after - verdicts.margin_before
    first = first_edits(chosen)
    class_names = [plain_name(labels.name, name, task.classes) for name in labels.classes]
    # Column by column, over the classes: a scalar fills the column.
    tables, control_tables = [], []
    for number, intervention in enumerate(chosen):
        target, controls = first[number], slice(first[number] + 1, first[number + 1])  # rows of `change`
        drawn = margin_change[controls]
        columns = {
            "label_set": labels.name,
            "intervention": intervention.name,
            "mode": intervention.mode,
            "gain": intervention.gain,
            "neurons": len(intervention.neurons.neurons),
            "class": labels.classes,
            "clips": verdicts.clips,
            "accuracy_before": verdicts.accuracy_before,
            "accuracy_after": verdicts.accuracy_after[target],
            "change": change[target],
            "change_clips": np.nan if labels.multi_label else change[target] * verdicts.clips,
            "margin_before": verdicts.margin_before,
            "margin_after": verdicts.margin_after[target],
            "margin_change": margin_change[target],
            "ci_low": verdicts.low[number],
            "ci_high": verdicts.high[number],
            "controls": len(drawn),
            "control_mean": drawn.mean(axis=0) if len(drawn) else np.nan,
            "control_sd": drawn.std(axis=0, ddof=1) if len(drawn) > 1 else np.nan,
            "p_value": empirical_p(margin_change[target], drawn),
        }
        tables.append(pd.DataFrame(columns))
        # (control, class), flattened: the classes of the first control, then of the second, ...
        columns = {
            "intervention": intervention.name,
            "control": np.repeat(np.arange(len(drawn)), len(class_names)),
            "class": class_names * len(drawn),
            "change": change[controls].ravel(),
            "margin_change": drawn.ravel(),
        }
        control_tables.append(pd.DataFrame(columns))
    table = pd.concat(tables, ignore_index=True)
    # One family of tests: all interventions and classes of the label set.
    table["q_value"] = benjamini_hochberg(table["p_value"].to_numpy())
    suite = _suite_rows(labels, chosen, margin_change, first, verdicts.clips > 0)
    return table, pd.concat(control_tables, ignore_index=True), pd.DataFrame(suite, columns=list(SuiteRow._fields))


def _suite_rows(
    labels: LabelSet,
    chosen: Sequence[Intervention],
    margin_change: Float[np.ndarray, "edit class"],
    first: Int[np.ndarray, " bound"],
    judged: Bool[np.ndarray, " class"],
) -> list[SuiteRow]:
    """The aggregate test: all interventions of a gain together, against the k-th controls of all, for each k."""
    meant_for = [[(labels.name, name) in each.neurons.classes for name in labels.classes] for each in chosen]
    rows = []
    for mode, gain in dict.fromkeys((each.mode, each.gain) for each in chosen):
        # Interventions that are meant for no class of the label set, as those for another label set, do not count.
        kept = [
            number
            for number, each in enumerate(chosen)
            if (each.mode, each.gain) == (mode, gain) and any(meant_for[number])
        ]
        if not kept:
            continue
        # The k-th controls of all interventions were drawn jointly, so there are as many draws as all of them have.
        controls = min(len(chosen[number].controls) for number in kept)
        contrasts = []  # of each intervention, (draw, contrast); draw 0 is the intervention, the others its controls
        for number in kept:
            own = np.array(meant_for[number])
            changes = margin_change[first[number] : first[number] + 1 + controls]  # (draw, class)
            on_own, on_others = _mean(changes[:, own & judged], 1), _mean(changes[:, ~own & judged], 1)
            contrasts.append(np.stack([on_own, on_others, on_own - on_others], axis=1))
        means = _mean(np.stack(contrasts), 0)  # an intervention for all classes has no others: the rest decide
        p_values = empirical_p(means[0], means[1:])
        for index, contrast in enumerate(CONTRASTS):
            drawn = means[1:, index]
            control_mean = drawn.mean() if controls else np.nan
            control_sd = drawn.std(ddof=1) if controls > 1 else np.nan
            change, p_value = means[0, index], p_values[index]
            rows.append(
                SuiteRow(
                    labels.name, mode, gain, len(kept), contrast, change, controls, control_mean, control_sd, p_value
                )
            )
    return rows


def _mean(values: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """Mean of the numbers along an axis; NaN without a number, as for an intervention that has no other classes.

    NumPy's `nanmean` does the same, but warns of it.
    """
    count = (~np.isnan(values)).sum(axis=axis)
    return np.where(count > 0, np.nansum(values, axis=axis) / np.maximum(count, 1), np.nan)
