"""`jaxdissect ablate`: silence, attenuate or amplify neuron sets, and measure the effect."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from jaxdissect.ablation.interventions import Intervention, plain_name
from jaxdissect.ablation.tables import CONTRASTS, Ablation
from jaxdissect.commands.outcome import LISTED, Outcome, bad_clips, existing, left_out, p_text, percent, signed, table
from jaxdissect.options.ablate import AblateOptions
from jaxdissect.stages.ablate import AblateResult, PartResult, run_ablate, run_ablate_part
from jaxdissect.types import Record

ABLATION_FILES = ("ablation.csv", "ablation_controls.csv", "ablation_suite.csv", "ablation_sets.csv", "causal_map.csv")
IN_FULL = 4  # interventions up to which every class is shown
SHOWN_ROWS = 60  # of a table at most
# Fraction of neurons that controls have in common with each other, above which their p-values are too small: at 0.05,
# p <= 0.05 has a chance of about 7%, at 0.1 of 8%.
MUCH_OVERLAP = 0.1


def run(options: AblateOptions) -> Iterator[Outcome]:
    """Ablate, or judge one part of the interventions."""
    if options.part is not None:
        yield part_outcome(run_ablate_part(options))
    else:
        yield ablate_outcome(options.run, run_ablate(options))


def part_outcome(part: PartResult) -> Outcome:
    """The answer of `ablate --part`: what one of several jobs has judged, and how they are joined."""
    summary = (
        f"Part {part.part} of {part.parts}: {part.interventions:,} interventions judged in {part.passes:,} passes, "
        f"kept in {part.path}.\nWhen all parts are done, the same command without --part joins them."
    )
    results = {name: getattr(part, name) for name in ("part", "parts", "interventions", "passes")}
    return Outcome(stage="ablate", results=results, summary=summary, files=(part.path,))


def ablate_outcome(run: Path, ablated: AblateResult) -> Outcome:
    """The answer of the stage `ablate`.

    Args:
      run: run directory.
      ablated: result of the stage.
    """
    results = ablate_results(ablated)
    return Outcome(
        stage="ablate",
        results=results,
        summary=ablate_summary(results, ablated.ablation, ablated.chosen),
        warnings=ablation_warnings(ablated),
        files=existing(run, ABLATION_FILES),
        failure=unjudged(ablated),
    )


def unjudged(ablated: AblateResult) -> str | None:
    """Why an ablation fails although its results are there."""
    return bad_clips(ablated, "the others were judged and saved. See run.json.")


def ablate_results(ablated: AblateResult) -> Record:
    """What interventions did to their own classes, the aggregate test, and how well controls and causal map fit.

    Args:
      ablated: result of the stage.
    """
    rate, impact = ablated.balance or (None, None)
    return {
        "interventions": len(ablated.chosen),
        "own_classes": own_classes(ablated),
        "suite": ablated.ablation.suite,
        "controls_rate_over_targets": rate,
        "controls_impact_over_targets": impact,
        "controls_overlap_share": ablated.overlap,
        "causal_map_check": ablated.map_check,
        "sets_left_out": ablated.left_out,
        "clips": ablated.clips,
        "clips_left_out": len(ablated.unusable),
    }


def own_classes(ablated: AblateResult) -> pd.DataFrame:
    """The rows of `ablation.csv` about a class that the intervention is meant for.

    Args:
      ablated: result of the stage.
    """
    meant = {(intervention.name, *name) for intervention in ablated.chosen for name in intervention.neurons.classes}
    rows = ablated.ablation.table
    # A class is known by its label set and name: names may repeat across label sets.
    keys = zip(rows["intervention"], rows["label_set"], rows["class"], strict=True)
    return rows[[key in meant for key in keys]]


def ablation_warnings(ablated: AblateResult) -> list[str]:
    """What makes p-values too small, and what was left out.

    Args:
      ablated: result of the stage.
    """
    lines = [*ablated.cautions]
    if ablated.overlap > MUCH_OVERLAP:
        lines.append(
            f"Caution: controls share {ablated.overlap:.0%} of their neurons with each other and none with their "
            f"target, so p-values are too small; the target is a large part of its layers. See docs/ablation.md."
        )
    if ablated.left_out:
        names = ", ".join(ablated.left_out[:LISTED]) + (", ..." if len(ablated.left_out) > LISTED else "")
        lines.append(f"Left out, without a neuron: {len(ablated.left_out)} sets ({names}).")
    if ablated.same_clips:
        lines.append(
            "Caution: the neurons were chosen on clips that they are judged on; count with --split train for a claim."
        )
    return lines + left_out("Left out", ablated.unusable.items(), "run.json")


def ablate_summary(results: Record, ablation: Ablation, chosen: Sequence[Intervention]) -> str:
    """Tables like the paper's with the controls beside, the aggregate test, and the check of the causal map.

    Args:
      results: the results as JSON.
      ablation: tables of all classes, which are too long for the JSON.
      chosen: interventions in the order of the tables.
    """
    lines = []
    for label_set, rows in ablation.table.groupby("label_set", sort=False):
        # A few interventions are shown class by class; of a suite, each takes one row.
        if len(chosen) <= IN_FULL:
            by_name = dict(iter(rows.groupby("intervention", sort=False)))
            lines += [_classes_table(one, by_name[one.name], ablation) for one in chosen]
        else:
            lines.append(_interventions_table(str(label_set), chosen, rows))
    if len(results["suite"]):
        lines.append(_aggregate_table(results["suite"]))
    rate, impact = results["controls_rate_over_targets"], results["controls_impact_over_targets"]
    # None without matched controls, NaN where the targets never fire.
    if rate is not None and not math.isnan(rate):
        lines.append(
            f"Controls against their targets: {rate:.2f} times the activation rate, {impact:.2f} times the impact "
            f"(mean |a| x norm of the outgoing weights)."
        )
    if results["causal_map_check"] is not None:
        lines.append(_map_check(results["causal_map_check"]))
    return "\n".join(lines)


def _classes_table(intervention: Intervention, rows: pd.DataFrame, ablation: Ablation) -> str:
    """Every class under one intervention."""
    drawn = ablation.controls[ablation.controls["intervention"] == intervention.name]
    points = 100 * drawn.groupby("class")["change"].mean()
    classes = list(ablation.table[["label_set", "class"]].drop_duplicates().itertuples(index=False, name=None))
    of_modes = {"mean": "mean ablation", "patch": "patched from clips of the class into others"}
    change = of_modes.get(intervention.mode, f"gain {intervention.gain:g}")
    title = f"{intervention.name}: {len(intervention.neurons.neurons)} neurons, {change}; * marks its classes"
    header = ["class", "clips", "before", "after", "points", "clips", "controls, points", "margin change"]
    header += ["95% interval", f"{rows['controls'].iloc[0]} controls", "p", "q"]
    cells = [
        [
            f"{'*' if (row['label_set'], row['class']) in intervention.neurons.classes else ' '}{row['class']}",
            row["clips"],
            percent(row["accuracy_before"]),
            percent(row["accuracy_after"]),
            signed(100 * row["change"], 1),
            signed(row["change_clips"], 1),
            signed(points.get(plain_name(row["label_set"], row["class"], classes), math.nan), 1),
            signed(row["margin_change"], 3),
            "-" if math.isnan(row["ci_low"]) else f"{signed(row['ci_low'], 3)} to {signed(row['ci_high'], 3)}",
            _mean_and_deviation(row["control_mean"], row["control_sd"]),
            p_text(row["p_value"]),
            p_text(row["q_value"]),
        ]
        for _, row in rows.iterrows()
    ]
    return f"{title}\n{_shortened(header, cells)}"


def _interventions_table(label_set: str, chosen: Sequence[Intervention], rows: pd.DataFrame) -> str:
    """One row per intervention: what it did to its own classes and to the other ones."""
    cells = []
    for intervention in chosen:
        classes = rows[rows["intervention"] == intervention.name]
        is_own = [(label_set, name) in intervention.neurons.classes for name in classes["class"]]
        target, other = classes[is_own], classes[[not own for own in is_own]]
        if len(target):  # the intervention is meant for a class of this label set
            cells.append(
                [
                    intervention.name,
                    len(intervention.neurons.neurons),
                    percent(target["accuracy_before"].mean()),
                    percent(target["accuracy_after"].mean()),
                    signed(target["change_clips"].sum(skipna=False), 1),
                    signed(target["margin_change"].mean(), 3),
                    _mean_and_deviation(target["control_mean"].mean(), target["control_sd"].mean()),
                    p_text(target["p_value"].min()),
                    signed(other["margin_change"].mean(), 3),
                ]
            )
    if not cells:
        return f"{label_set}: {len(chosen)} interventions, none of them meant for its classes; see ablation.csv."
    header = [f"{label_set}: intervention", "neurons", "before", "after", "clips", "margin change"]
    header += [f"{rows['controls'].max()} controls", "lowest p", "other classes"]
    return _shortened(header, cells)


def _aggregate_table(suite: pd.DataFrame) -> str:
    """The test of all interventions together, a row per label set, gain and contrast."""
    cells = [
        [
            row["label_set"],
            f"{row['gain']:g}" if row["mode"] == "gain" else row["mode"],
            row["interventions"],
            row["contrast"],
            signed(row["margin_change"], 4),
            _mean_and_deviation(row["control_mean"], row["control_sd"], 4),
            p_text(row["p_value"]),
        ]
        for _, row in suite.iterrows()
    ]
    title = f"All interventions together: mean margin change on {', '.join(CONTRASTS[:2])}, and the difference"
    header = ["label set", "gain", "interventions", "on", "margin change", "controls", "p"]
    return f"{title}\n{table(header, cells)}"


def _map_check(check: pd.DataFrame) -> str:
    """How well the causal map ranks the neurons that were silenced one by one."""
    lines = []
    for label_set, rows in check.groupby("label_set", sort=False):
        # The correlation is NaN in a layer of which no silenced neuron changed a margin.
        layers = rows.dropna(subset="rank_correlation").sort_values("rank_correlation")
        if not len(layers):
            lines.append(f"Causal map, {label_set}: nothing that was silenced changed a margin.")
            continue
        lowest, highest = layers.iloc[0], layers.iloc[-1]
        lines.append(
            f"Causal map, {label_set}: rank correlation with {rows['neurons'].sum()} neurons silenced one by one on "
            f"{lowest['clips']} clips, by layer: median {layers['rank_correlation'].median():.3f}, from "
            f"{lowest['rank_correlation']:.3f} (layer {lowest['layer']}) to {highest['rank_correlation']:.3f}."
        )
    return "\n".join(lines)


def _mean_and_deviation(mean: float, deviation: float, digits: int = 3) -> str:
    """Mean and standard deviation of controls; NaN where there are none or only one."""
    return signed(mean, digits) + ("" if math.isnan(deviation) else f" +- {deviation:.{digits}f}")


def _shortened(header: Sequence[str], cells: Sequence[Sequence[object]]) -> str:
    """A table without the rows that a terminal has no room for."""
    shown = table(header, cells[:SHOWN_ROWS])
    hidden = len(cells) - SHOWN_ROWS
    return shown if hidden <= 0 else f"{shown}\n... and {hidden} more rows, see ablation.csv."
