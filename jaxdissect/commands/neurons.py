"""`jaxdissect neurons`: choose the class-specific neurons from the counts."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from jaxdissect.commands.outcome import Outcome, existing, table
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.runtime.run_directory import Run
from jaxdissect.selection.labelled import Neurons
from jaxdissect.significance.assess import LEVEL
from jaxdissect.significance.cautions import (
    counting_cautions,
    has_p_values,
    read_basis,
    recording_cautions,
    selection_cautions,
)
from jaxdissect.significance.held_out import TEST_SPLIT
from jaxdissect.significance.held_out_tables import GOOD_AUROC
from jaxdissect.stages.neurons import SELECTION_FILES, run_neurons
from jaxdissect.types import Record

PAIR_COLUMNS = ["label_set", "class", "layer", "neuron"]
# What other stages make from the neurons, by stage.
MADE_FROM_NEURONS = {"share": "sharing.csv", "ablate": "ablation.csv", "report": "report.html"}
BUSIEST_LAYERS = 3
BEST_CLASSES = 5  # classes whose best neuron the summary names
FEW_PAIRS = 20  # of which permutations can tell some from chance alone
WITH_P_VALUES = (
    "Significant does not mean large, nor that the class is what the neuron is for: compare with an untrained encoder."
)
UNTESTED = "Labels were not permuted. Compare with an untrained encoder."
WITHOUT_P_VALUES = (
    "AAPE keeps a fixed share of neurons, on shuffled labels too: the number found says nothing by itself. "
    "Compare with an untrained encoder."
)


def run(options: NeuronsOptions) -> Iterator[Outcome]:
    """Choose neurons; the warnings of the counts are repeated, since this command did not count."""
    yield choose(options, warn_of_counts=True)


def choose(options: NeuronsOptions, warn_of_counts: bool) -> Outcome:
    """The answer of the stage `neurons`.

    Args:
      options: options of the stage.
      warn_of_counts: whether to repeat the warnings of the stage `activations`, which has not just answered.
    """
    before = _listed_pairs(options.run)  # read first: the stage replaces the file
    neurons = run_neurons(options)
    basis = read_basis(Run(options.run))
    warnings = neurons_warnings(neurons)
    warnings += counting_cautions(basis.record, basis.clips) if warn_of_counts else []
    if has_p_values(neurons.coverage):  # p-values depend on which clips come from one recording
        warnings += recording_cautions(basis, int(neurons.coverage["classes"].max()))
    if before is not None and before != _listed_pairs(options.run):
        warnings += _outdated(options.run)
    results = neurons_results(neurons)
    return Outcome(
        stage="neurons",
        results=results,
        summary=neurons_summary(results),
        warnings=warnings,
        advice=_advice(neurons),
        files=existing(options.run, SELECTION_FILES),
    )


def _advice(neurons: Neurons) -> str:
    """How to read the neurons that were chosen."""
    if has_p_values(neurons.coverage):
        return WITH_P_VALUES
    return WITHOUT_P_VALUES if neurons.scores.attrs["selector"] == "aape" else UNTESTED


def neurons_warnings(neurons: Neurons) -> list[str]:
    """Label sets and classes without neurons, and classes that were left out or could not be tested."""
    return selection_cautions(neurons.coverage, neurons.scores.attrs)


def neurons_results(neurons: Neurons) -> Record:
    """A row of `coverage.csv` for every label set, with its classes and the neurons of each class and layer.

    Args:
      neurons: neurons that were chosen.

    Returns:
      A JSON object. `neurons_by_layer` counts neurons by number of the layer, `neurons_by_class` those of each class;
      `best` has the neuron of every class that does best on held-out clips, as `classes.csv`.
    """
    label_sets = []
    for row in neurons.coverage.to_dict("records"):
        pairs = neurons.neurons[neurons.neurons["label_set"] == row["label_set"]]
        layers = pairs.drop_duplicates(["layer", "neuron"])["layer"].astype(int)  # a neuron of two classes counts once
        by_class = pairs.groupby("class", sort=False).size().to_dict()
        # minlength: layers without a neuron count 0.
        by_layer = np.bincount(layers, minlength=neurons.scores.sizes["layer"])
        classes = neurons.classes[(neurons.classes["label_set"] == row["label_set"]) & (neurons.classes["neurons"] > 0)]
        best = classes.drop(columns=["label_set", "neurons"]).to_dict("records")
        label_sets.append({**row, "neurons_by_class": by_class, "neurons_by_layer": by_layer, "best": best})
    return {"rule": dict(neurons.scores.attrs), "label_sets": label_sets}


def neurons_summary(results: Record) -> str:
    """What holds on held-out clips, coverage, the best neurons, and how sure all of this is, for every label set.

    Args:
      results: JSON object of `neurons_results`.
    """
    rows = results["label_sets"]
    header = ["label set", "classes", "with a neuron", "AUROC >= 0.8 held out", "neurons/class", "p(class)/p(others)"]
    header += ["AAPE of ln(classes)", "busiest layers"]
    cells = [
        [
            row["label_set"],
            row["classes"],
            row["covered"],
            row.get("classes_held_out", "-"),
            f"{row['mean_neurons_per_class']:.1f}",
            _number(row["median_ratio"], 2),
            _number(row["median_aape_normalised"], 4),
            _busiest_layers(row["neurons_by_layer"]),
        ]
        for row in rows
    ]
    found = [held_out_sentence(row) for row in rows]
    classes = [line for row in rows for line in best_neurons(row)]
    certainty = [_certainty(row) for row in rows if "pairs_significant" in row]
    rule = paper_sentence(results["rule"])
    return "\n".join([*found, table(header, cells), *classes, *certainty, *rule])


def held_out_sentence(row: Record) -> str:
    """What the neurons of a label set are worth on clips that they were not chosen by.

    Args:
      row: entry of `label_sets` in the results.
    """
    start = f"{row['label_set']}: {row['covered']} of {row['classes']} classes have a neuron"
    by = row.get("held_out_by")
    if by is None or math.isnan(row["held_out_auroc"]):
        return f"{start}; none was judged on clips that it was not chosen by."
    where = "on the test split" if by == TEST_SPLIT else "on the half of the recordings that did not choose them"
    return (
        f"{start}; {row['classes_held_out']} have one of AUROC >= {GOOD_AUROC} {where} (median of all pairs "
        f"{row['held_out_auroc']:.3f}, a tenth below {row['held_out_auroc_q10']:.3f}; chance 0.5)."
    )


def best_neurons(row: Record) -> list[str]:
    """The classes whose best neurons tell them best, a line for each; else the classes with most neurons.

    Args:
      row: entry of `label_sets` in the results.
    """
    judged = [one for one in row["best"] if not math.isnan(one["held_out_auroc"])]
    judged.sort(key=lambda one: -one["held_out_auroc"])
    lines = [f"  {best_neuron(one)}" for one in judged[:BEST_CLASSES]]
    if lines:
        return [f"{row['label_set']}: the classes that a neuron tells best, on held-out clips:", *lines]
    # The sort is stable: classes with equally many neurons stay in the order of the table.
    names = sorted(row["neurons_by_class"].items(), key=lambda entry: -entry[1])
    most, fewest = (", ".join(f"{name} {count}" for name, count in part) for part in (names[:5], names[-2:]))
    return [f"{row['label_set']}: most {most}" + (f"; fewest {fewest}" if len(names) > 5 else "")] if names else []


def best_neuron(best: Record) -> str:
    """A class and the neuron that tells it best, in words.

    Args:
      best: entry of `best` in the results.
    """
    interval = f"[{best['held_out_auroc_low']:.2f}, {best['held_out_auroc_high']:.2f}]"
    return (
        f"{best['class']}: layer {best['layer']}, neuron {best['neuron']}, by its {best['reading']}: AUROC "
        f"{best['held_out_auroc']:.2f} {interval}"
    )


def paper_sentence(rule: Record) -> list[str]:
    """What preset lape is, where it has chosen."""
    if (rule.get("preset"), rule.get("selector")) != ("lape", "aape"):
        return []
    return [
        "Preset lape is the audio paper's selection as its published figures allow it (docs/method.md). It chooses "
        "neurons of low AAPE that are active for nearly all tokens of a class; whether they tell the class from others "
        "is a different question."
    ]


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _busiest_layers(neurons: np.ndarray) -> str:
    """The layers with most neurons, e.g. "11 (26), 10 (17)"; ties in the order of the layers."""
    order = np.argsort(-neurons, kind="stable")[:BUSIEST_LAYERS]
    return ", ".join(f"{layer} ({neurons[layer]})" for layer in order if neurons[layer]) or "-"


def _certainty(row: Record) -> str:
    """How sure the selection of a label set is, in one sentence.

    Args:
      row: row of `coverage.csv` with the columns of permutations and resamples; NaN where nothing was drawn.
    """
    parts = [f"{row['label_set']}: {row['pairs']:,} pairs of class and neuron"]
    if not math.isnan(row["pairs_by_chance"]):
        parts.append(f"{row['pairs_by_chance']:,.1f} would pass the same cut-offs under permuted labels")
    parts.append(
        f"{row['pairs_significant']:,} of them have q <= {LEVEL} (of all pairs, selected or not, "
        f"{row['all_pairs_significant']:,})"
    )
    if not math.isnan(row["split_half_jaccard"]):
        parts.append(
            f"coverage {row['coverage_low']:.0%} to {row['coverage_high']:.0%} over resampled recordings; halves of "
            f"them agree on {row['split_half_jaccard']:.0%} of the pairs"
        )
    # With few permutations the smallest p-value is large. Benjamini-Hochberg then needs many pairs at once.
    if row["classes_untested"] < row["classes"] and not row["pairs_needed"] <= FEW_PAIRS:
        needed = "even more than all" if math.isnan(row["pairs_needed"]) else f"{row['pairs_needed']:,.0f}"
        parts.append(
            f"with so few permutations {needed} pairs must be beyond all of them before any has q <= {LEVEL}: draw "
            f"more (--permutations)"
        )
    if row["fixed_clips"] > 0:
        parts.append(f"the labels of {row['fixed_clips']:.1%} of the clips could not be exchanged")
    return "; ".join(parts) + "."


def _listed_pairs(run: Path) -> set[tuple[str, ...]] | None:
    """The pairs of class and neuron in `neurons.csv`; None where there is no such file, or a damaged one."""
    try:
        pairs = pd.read_csv(run / "neurons.csv", dtype=str, keep_default_na=False)  # a class may be called NA
        return set(pairs[PAIR_COLUMNS].itertuples(index=False, name=None))
    except (OSError, ValueError, KeyError):
        return None


def _outdated(run: Path) -> Sequence[str]:
    """A warning that names the results of neurons that were chosen before."""
    # Results of stages that never ran, or whose files were removed, need no warning.
    stages = [stage for stage in Run(run).stages() if (run / MADE_FROM_NEURONS.get(stage, "")).is_file()]
    if not stages:
        return []
    files, commands = (
        ", ".join(text.format(stage=stage, file=file) for stage, file in MADE_FROM_NEURONS.items() if stage in stages)
        for text in ("{file}", "`jaxdissect {stage}`")
    )
    return [
        f"These are other neurons than those that were chosen before. The results in {files} are still of those: run "
        f"{commands} again."
    ]
