"""The tables of a selection with p-values, intervals and stability, from every clip's counts."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from jaxdissect.counting.labelled import counted_classes
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.selection.aape import SelectionRule
from jaxdissect.selection.labelled import Neurons
from jaxdissect.significance.assess import LEVEL, Certainty, CertaintyOptions, assess, draws, permutation_state
from jaxdissect.significance.clips import Clips
from jaxdissect.significance.permutation import Tested
from jaxdissect.types import Record

PAIR_SCORES = {  # variables of `scores.nc` with the axes (class, layer, neuron)
    "statistic": "active tokens beyond what the neuron's rate lets expect, in standard deviations under exchange",
    "p_value": "one-sided, from the permuted labels of neurons that fire in about as many units",
    "p_highest": "that any pair of the label set reaches this under permuted labels (max-T)",
    "q_value": "false discovery rate, Benjamini-Hochberg over all pairs of the label set",
    "stability": "share of random halves of the recordings in which the pair is selected",
}
PAIR_COLUMNS = ("p_value", "q_value", "stability")  # of PAIR_SCORES, those that `neurons.csv` has
CLASS_PAIRS = {  # variables of `permutations.nc` with the axes (class, class_b)
    "expected_shared": "neurons that two classes share under permuted labels, mean",
    "p_value": "that two classes share as many neurons under permuted labels",
    "jaccard_low": "95% bootstrap interval of the Jaccard coefficient, low end",
    "jaccard_high": "the same, high end",
}
DRAWN = ("permutations", "resamples", "splits", "seed")  # attributes of `scores.nc`: how much was drawn


def assess_neurons(
    clips: Clips,
    counts: xr.Dataset,
    neurons: Neurons,
    rule: SelectionRule,
    options: CertaintyOptions,
    states: Path | None = None,
    of: Mapping[str, object] | None = None,
) -> dict[str, Certainty]:
    """Test and resample the selection of every label set.

    Args:
      clips: every clip's counts.
      counts: counts of the classes.
      neurons: selection to test.
      rule: rule of the selection.
      options: numbers of draws.
      states: folder in which permutations are kept while labels are permuted; None: they are not kept.
      of: JSON values that distinguish what is tested, by names for people.
    """
    by_aape = neurons.scores.attrs["selector"] == "aape"
    certainty = {}
    total = draws(options) * len(neurons.selections)
    with progress_bar(what="Permuting, resampling", total=total, unit="draw") as bar:
        for number, (name, selection) in enumerate(neurons.selections.items()):
            # One bar for all label sets: each reports its own draws, which are added to those of the sets before.
            def progress(done: int, before: int = number * draws(options)) -> None:
                bar.update_to(before + done)

            state = None if states is None else permutation_state(states, {**(of or {}), "label set": name})
            certainty[name] = assess(
                clips.of_classes(counted_classes(counts, name)),
                selection if by_aape else None,
                rule,
                options,
                state,
                progress,
            )
    return certainty


def with_certainty(neurons: Neurons, counts: xr.Dataset, certainty: Mapping[str, Certainty]) -> Neurons:
    """Add p-values, intervals and stability to the tables and scores of a selection.

    Args:
      neurons: selection that was tested.
      counts: counts of the classes.
      certainty: result of `assess_neurons`.
    """
    axes = ("class", "layer", "neuron")
    shape = tuple(counts.sizes[axis] for axis in axes)
    values = {name: np.full(shape, np.nan) for name in PAIR_SCORES}
    limits = np.full((2, len(neurons.selections), *shape[1:]), np.nan)  # low and high ends of AAPE, of each label set
    for number, name in enumerate(neurons.scores["label_set"].values.tolist()):
        of_set, classes = certainty[name], counted_classes(counts, name)
        for kind in ("statistic", "p_value", "p_highest"):
            values[kind][classes] = getattr(of_set.tested, kind)
        values["q_value"][classes] = of_set.q_value
        if of_set.bootstrap is not None and of_set.bootstrap.aape is not None:
            limits[:, number] = of_set.bootstrap.aape
        if of_set.stability is not None:
            values["stability"][classes] = of_set.stability.selected
    arrays = {name: (axes, values[name], {"long_name": meaning}) for name, meaning in PAIR_SCORES.items()}
    for end, ends in zip(("low", "high"), limits, strict=True):
        meaning = f"95% bootstrap interval, {end} end"
        arrays[f"aape_{end}"] = (("label_set", *axes[1:]), ends, {"long_name": meaning})
    coordinates = {
        "layer": counts["layer"],
        "neuron": counts["neuron"],
        "class": ("class", counts["class"].values),
        "class_label_set": ("class", counts["label_set"].values),
    }
    scores = neurons.scores.assign_coords(coordinates).assign(arrays)
    scores.attrs |= {name: getattr(of_set.options, name) for of_set in certainty.values() for name in DRAWN}
    # The rows of the table name their classes, which the arrays number.
    table = neurons.neurons.copy()
    pairs = zip(counts["label_set"].values, counts["class"].values, strict=True)
    number_of = {pair: number for number, pair in enumerate(pairs)}
    row = [number_of[pair] for pair in zip(table["label_set"], table["class"], strict=True)]
    for name in PAIR_COLUMNS:
        table[name] = values[name][row, table["layer"], table["neuron"]] if len(table) else np.zeros(0)
    further = pd.DataFrame([_coverage(neurons, name, certainty[name]) for name in neurons.coverage["label_set"]])
    coverage = pd.concat([neurons.coverage.reset_index(drop=True), further], axis=1)
    return dataclasses.replace(neurons, scores=scores, neurons=table, coverage=coverage)


def null_dataset(neurons: Neurons, counts: xr.Dataset, certainty: Mapping[str, Certainty]) -> xr.Dataset:
    """What permuted labels show of every two classes of a label set; NaN across label sets.

    A selection that is not by AAPE has no cut-offs that permuted labels could pass. Its null holds the highest
    statistics alone.

    Args:
      neurons: selection that was tested.
      counts: counts of the classes.
      certainty: result of `assess_neurons`.
    """
    selector = neurons.scores.attrs["selector"]
    size = counts.sizes["class"]
    values = {name: np.full((size, size), np.nan) for name in CLASS_PAIRS}
    for name, of_set in certainty.items():
        classes, null = counted_classes(counts, name), of_set.null
        block = np.ix_(classes, classes)
        # The observed selection counts as one more permutation, so that no p-value is 0.
        if null.done and selector == "aape":
            values["expected_shared"][block] = null.shared / null.done
            values["p_value"][block] = (1 + null.as_many) / (1 + null.done)
        if of_set.bootstrap is not None:
            values["jaccard_low"][block], values["jaccard_high"][block] = of_set.bootstrap.jaccard
    arrays = {name: (("class", "class_b"), values[name], {"long_name": text}) for name, text in CLASS_PAIRS.items()}
    per_draw = {"highest": "highest statistic"}
    if selector == "aape":
        per_draw |= {"pairs": "pairs that pass the cut-offs", "neurons": "neurons that do"}
    for name, meaning in per_draw.items():
        draws_of_sets = np.stack([getattr(of_set.null, name) for of_set in certainty.values()])
        arrays[name] = (("label_set", "permutation"), draws_of_sets, {"long_name": meaning})
    coordinates = {
        "class": ("class", counts["class"].values),
        "class_label_set": ("class", counts["label_set"].values),
        "label_set": np.array(list(certainty), object),
    }
    return xr.Dataset(arrays, coordinates)


def _coverage(neurons: Neurons, label_set: str, certainty: Certainty) -> Record:
    """Further columns of a row of `coverage.csv`."""
    specific, significant = neurons.selections[label_set].specific, certainty.q_value <= LEVEL
    tested = ~np.isnan(certainty.tested.p_value)
    # The same cut-offs on permuted labels give the number of pairs that chance would select.
    pairs, by_chance = int(specific.sum()), certainty.pairs_by_chance
    intervals, stability = certainty.bootstrap, certainty.stability
    unknown = (math.nan, math.nan)
    coverage_low, coverage_high = intervals.coverage if intervals else unknown
    per_class_low, per_class_high = intervals.neurons_per_class if intervals else unknown
    return {
        "coverage_low": coverage_low,
        "coverage_high": coverage_high,
        "neurons_per_class_low": per_class_low,
        "neurons_per_class_high": per_class_high,
        "pairs": pairs,
        "pairs_by_chance": by_chance,
        "false_discovery_rate": min(1.0, by_chance / pairs) if pairs else math.nan,
        "pairs_significant": int((significant & specific).sum()),
        "all_pairs_significant": int(significant.sum()),
        "split_half_jaccard": stability.jaccard if stability else math.nan,
        "units": certainty.units,
        "fixed_clips": certainty.fixed,
        "pairs_needed": pairs_needed(certainty.tested),
        "classes_untested": int((~tested.any(axis=(1, 2))).sum()),
    }


def pairs_needed(tested: Tested) -> float:
    """How many pairs must exceed all permutations before these can have q-values of `LEVEL`; NaN: no number does.

    Args:
      tested: result of `PermutationTest.tested`.
    """
    lowest = np.sort(tested.lowest[~np.isnan(tested.lowest)])
    # Benjamini-Hochberg on the lowest p-values that the pairs can have: k of n are rejected at p n <= LEVEL k.
    enough = np.flatnonzero(lowest * lowest.size <= LEVEL * np.arange(1, lowest.size + 1))
    return float(enough[0] + 1) if len(enough) else math.nan
