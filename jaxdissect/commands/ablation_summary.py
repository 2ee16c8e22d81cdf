"""What interventions did, in words and tables for a terminal."""

import math
from collections.abc import Sequence

import pandas as pd

from jaxdissect.ablation.interventions import Intervention, plain_name
from jaxdissect.ablation.tables import CONTRASTS, Ablation
from jaxdissect.commands.summary import LISTED, listed, table
from jaxdissect.selection.neuron_sets import ClassName
from jaxdissect.stages.ablate import AblateResult, PartResult

IN_FULL = 4  # interventions up to which every class is shown
SHOWN = 60  # rows of a table at most
MUCH_OVERLAP = 0.1  # of controls with each other: at 0.05, p <= 0.05 has a chance of about 7%, at 0.1 of 8%


def part_summary(done: PartResult) -> str:
    """What one of several jobs has judged, and how they come together."""
    return (
        f"Part {done.part} of {done.parts}: {done.interventions:,} interventions judged in {done.passes:,} passes, "
        f"kept in {done.path}.\nWhen all parts are done, the same command without --part puts them together."
    )


def ablation_summary(result: AblateResult) -> str:
    """Tables like the paper's with the controls beside; the aggregate test; how well the causal map ranks neurons."""
    done, lines = result.ablation, []
    for label_set in dict.fromkeys(done.table["label_set"]):
        of_set = done.table[done.table["label_set"] == label_set]
        if len(result.chosen) <= IN_FULL:
            lines += [_one(one, of_set[of_set["intervention"] == one.name], done) for one in result.chosen]
        else:
            lines.append(_suite(str(label_set), result.chosen, of_set))
    if len(done.suite):
        lines.append(_aggregate(done.suite))
    if result.balance is not None and not math.isnan(result.balance[0]):
        rate, impact = result.balance
        lines.append(
            f"Controls against their targets: {rate:.2f} times the activation rate, {impact:.2f} times the impact "
            f"(mean |a| x norm of the outgoing weights)."
        )
    if result.map_check is not None:
        lines.append(_map_check(result.map_check))
    return "\n".join([*lines, *ablation_warnings(result)])


def ablation_warnings(result: AblateResult) -> list[str]:
    """What makes p-values too small, and what took no part."""
    lines = [*result.cautions]
    if result.overlap > MUCH_OVERLAP:
        lines.append(
            f"Caution: controls share {result.overlap:.0%} of their neurons with each other and none with their "
            f"target, so p-values are too small; the target is a large part of its layers. See docs/ablation.md."
        )
    if result.left_out:
        shown = ", ".join(result.left_out[:LISTED]) + (", ..." if len(result.left_out) > LISTED else "")
        lines.append(f"Left out, without a neuron: {len(result.left_out)} sets ({shown}).")
    if result.same_clips:
        lines.append(
            "Caution: the neurons were chosen on clips that they are judged on; count with --split train for a claim."
        )
    return lines + listed("Left out", result.unusable.items(), len(result.unusable), "run.json")


def _one(one: Intervention, rows: pd.DataFrame, done: Ablation) -> str:
    """Every class under one intervention."""
    drawn = done.controls[done.controls["intervention"] == one.name]
    points = 100 * drawn.groupby("class")["change"].mean()
    classes = list(done.table[["label_set", "class"]].drop_duplicates().itertuples(index=False, name=None))
    what = "mean ablation" if one.mode == "mean" else f"gain {one.gain:g}"
    head = f"{one.name}: {len(one.neurons.neurons)} neurons, {what}; * marks its classes"
    cells = [
        [
            f"{'*' if (row['label_set'], row['class']) in one.neurons.classes else ' '}{row['class']}",
            row["clips"],
            f"{100 * row['accuracy_before']:.1f}%",
            f"{100 * row['accuracy_after']:.1f}%",
            signed(100 * row["change"], 1),
            signed(row["change_clips"], 1),
            signed(points.get(plain_name(row["label_set"], row["class"], classes), math.nan), 1),
            signed(row["margin_change"], 3),
            "-" if math.isnan(row["ci_low"]) else f"{signed(row['ci_low'], 3)} to {signed(row['ci_high'], 3)}",
            _controls(row["control_mean"], row["control_sd"]),
            p_text(row["p_value"]),
            p_text(row["q_value"]),
        ]
        for _, row in rows.iterrows()
    ]
    header = [
        "class", "clips", "before", "after", "points", "clips", "controls, points", "margin change", "95% interval",
        f"{rows['controls'].iloc[0]} controls", "p", "q",
    ]  # fmt: skip
    return f"{head}\n{_cut(header, cells)}"


def _suite(label_set: str, chosen: Sequence[Intervention], rows: pd.DataFrame) -> str:
    """One row per intervention: what it did to its own classes and to the others."""
    cells = []
    for one in chosen:
        of_one = rows[rows["intervention"] == one.name]
        own = of_one[[_is_own(one.neurons.classes, label_set, name) for name in of_one["class"]]]
        others = of_one.drop(own.index)
        if not len(own):
            continue
        cells.append(
            [
                one.name,
                len(one.neurons.neurons),
                f"{100 * own['accuracy_before'].mean():.1f}%",
                f"{100 * own['accuracy_after'].mean():.1f}%",
                signed(own["change_clips"].sum(skipna=False), 1),
                signed(own["margin_change"].mean(), 3),
                _controls(own["control_mean"].mean(), own["control_sd"].mean()),
                p_text(own["p_value"].min()),
                signed(others["margin_change"].mean(), 3),
            ]
        )
    controls = rows["controls"].max()
    header = [
        f"{label_set}: intervention", "neurons", "before", "after", "clips", "margin change", f"{controls} controls",
        "lowest p", "other classes",
    ]  # fmt: skip
    if not cells:
        return f"{label_set}: {len(chosen)} interventions, none of them meant for its classes; see ablation.csv."
    return _cut(header, cells)


def _aggregate(suite: pd.DataFrame) -> str:
    cells = [
        [
            row["label_set"],
            "mean" if row["mode"] == "mean" else f"{row['gain']:g}",
            row["interventions"],
            row["contrast"],
            signed(row["margin_change"], 4),
            _controls(row["control_mean"], row["control_sd"], 4),
            p_text(row["p_value"]),
        ]
        for _, row in suite.iterrows()
    ]
    head = f"All interventions together: mean margin change on {', '.join(CONTRASTS[:2])}, and the difference"
    header = ["label set", "gain", "interventions", "on", "margin change", "controls", "p"]
    return f"{head}\n{table(header, cells)}"


def _map_check(check: pd.DataFrame) -> str:
    lines = []
    for label_set, rows in check.groupby("label_set", sort=False):
        found = rows.dropna(subset="rank_correlation").sort_values("rank_correlation")
        if not len(found):
            lines.append(f"Causal map, {label_set}: nothing that was silenced changed a margin.")
            continue
        lowest, highest = found.iloc[0], found.iloc[-1]
        lines.append(
            f"Causal map, {label_set}: rank correlation with {rows['neurons'].sum()} neurons silenced one by one on "
            f"{lowest['clips']} clips, by layer: median {found['rank_correlation'].median():.3f}, from "
            f"{lowest['rank_correlation']:.3f} (layer {lowest['layer']}) to {highest['rank_correlation']:.3f}."
        )
    return "\n".join(lines)


def _is_own(classes: Sequence[ClassName], label_set: str, name: object) -> bool:
    return (label_set, name) in classes


def signed(value: float, digits: int) -> str:
    """With its sign, but for zero's; "-" where there is none."""
    return "-" if math.isnan(value) else f"{round(value, digits) + 0.0:+.{digits}f}"


def _controls(mean: float, deviation: float, digits: int = 3) -> str:
    """Mean and standard deviation, as far as there are."""
    return signed(mean, digits) + ("" if math.isnan(deviation) else f" +- {deviation:.{digits}f}")


def p_text(value: float) -> str:
    """A p-value, "-" where there is none."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def _cut(header: Sequence[str], cells: Sequence[Sequence[object]]) -> str:
    shown = table(header, cells[:SHOWN])
    return shown if len(cells) <= SHOWN else f"{shown}\n... and {len(cells) - SHOWN} more rows, see ablation.csv."
