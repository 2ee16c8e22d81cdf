"""From every clip's counts in a run directory to what the tables say of chance."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Int, UInt16

from jaxdissect.errors import InputError
from jaxdissect.runtime.files import json_fingerprint
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.runtime.resume import StateFile
from jaxdissect.runtime.run_directory import Run, require_same_run
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.selection.aape import SelectionRule
from jaxdissect.selection.labelled import Neurons
from jaxdissect.significance.assess import LEVEL, Certainty, CertaintyOptions, assess, draws
from jaxdissect.significance.permutation import Tested

OF_PAIRS = {
    "statistic": "active tokens beyond what the neuron's rate lets expect, in standard deviations under exchange",
    "p_value": "one-sided, from the permuted labels of neurons that fire in about as many units",
    "p_highest": "that any pair of the label set reaches this under permuted labels (max-T)",
    "q_value": "false discovery rate, Benjamini-Hochberg over all pairs of the label set",
    "stability": "share of random halves of the recordings in which the pair is selected",
}
DRAWN = ("permutations", "resamples", "splits", "seed")
COLUMNS = ("p_value", "q_value", "stability")  # of neurons.csv
CLIP_COUNTS = "clip_counts.npy"
AGAIN = "count again with --keep-clips, or remove it and do without (--permutations 0)."


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
    """Every clip's counts, and what they are grouped by.

    Attributes:
      counts: active tokens; memory-mapped.
      tokens: counted.
      members: classes; none for a clip that was not counted.
      sources, folds: of each.
    """

    counts: UInt16[np.ndarray, "clip layer neuron"]
    tokens: Int[np.ndarray, " clip"]
    members: Bool[np.ndarray, "clip class"]
    sources: Sequence[str]
    folds: Sequence[int]


def read_clips(run: Run, counts: xr.Dataset, needed: bool = True) -> Clips | None:
    """Every clip's counts of a run; None if they were not kept.

    Args:
      run: the run directory.
      counts: of classes.
      needed: if not, None too where the file has been removed.

    Raises:
      InputError: they are cut off, or of another run.
    """
    counted = run.require("activations")
    if not counted["options"].get("keep_clips") or not (needed or run.file(CLIP_COUNTS).exists()):
        return None
    labels = read_netcdf(run.file("clip_labels.nc"))
    require_same_run(run, labels.attrs, counted)
    tokens = labels["tokens"].values
    members = np.zeros((labels.sizes["clip"], counts.sizes["class"]), bool)
    members[labels["label_clip"].values, labels["label_class"].values] = True
    return Clips(
        _read_clip_counts(run, counts, labels), tokens, members & (tokens > 0)[:, None],
        labels["source"].values.tolist(), labels["fold"].values.tolist(),
    )  # fmt: skip


def assess_neurons(
    clips: Clips,
    counts: xr.Dataset,
    neurons: Neurons,
    rule: SelectionRule,
    options: CertaintyOptions,
    states: Path | None = None,
    of: Mapping[str, Any] | None = None,
) -> dict[str, Certainty]:
    """Test and resample the selection of every label set.

    Args:
      clips: every clip's counts.
      counts: of classes.
      neurons: that were selected.
      rule: how.
      options: how much is drawn.
      states: folder in which permutations are kept while labels are permuted; None: nowhere.
      of: JSON values that tell what is tested from others, by names for people.
    """
    by_aape = neurons.scores.attrs["selector"] == "aape"
    found = {}
    total = draws(options) * len(neurons.selections)
    with progress_bar(what="Permuting, resampling", total=total, unit="draw") as bar:
        for number, (name, selection) in enumerate(neurons.selections.items()):

            def progress(done: int, before: int = number * draws(options)) -> None:
                bar.update(before + done - bar.n)

            state = None if states is None else _state_file(states, {**(of or {}), "label set": name})
            found[name] = assess(
                clips.counts, clips.tokens, clips.members[:, _classes(counts, name)], clips.sources, clips.folds,
                selection if by_aape else None, rule, options, state, progress,
            )  # fmt: skip
    return found


def with_certainty(neurons: Neurons, counts: xr.Dataset, found: Mapping[str, Certainty]) -> Neurons:
    """The tables and scores of a selection with what is known of its certainty."""
    axes = ("class", "layer", "neuron")
    shape = tuple(counts.sizes[axis] for axis in axes)
    of_pairs = {name: np.full(shape, np.nan) for name in OF_PAIRS}
    limits = np.full((2, len(neurons.selections), *shape[1:]), np.nan)
    for number, name in enumerate(neurons.scores["label_set"].values.tolist()):
        one, classes = found[name], _classes(counts, name)
        values = {kind: values for kind, values in vars(one.tested).items() if kind in OF_PAIRS}
        values["q_value"] = one.q_value
        intervals, stability = one.resampled.bootstrap, one.resampled.stability
        if intervals is not None:
            limits[:, number] = intervals.aape
        if stability is not None:
            values["stability"] = stability.selected
        for kind, array in values.items():
            of_pairs[kind][classes] = array
    coordinates = {axis: counts[axis] for axis in axes[1:]} | {
        "class": ("class", counts["class"].values), "class_label_set": ("class", counts["label_set"].values),
    }  # fmt: skip
    scores = neurons.scores.assign_coords(coordinates).assign(
        {name: (axes, of_pairs[name], {"long_name": meaning}) for name, meaning in OF_PAIRS.items()}
        | {
            f"aape_{end}": (neurons.scores["aape"].dims, values, {"long_name": f"95% bootstrap interval, {end} end"})
            for end, values in zip(("low", "high"), limits, strict=True)
        }
    )
    scores.attrs |= {name: getattr(one.drawn, name) for one in found.values() for name in DRAWN}
    table = neurons.neurons.copy()
    pairs = zip(counts["label_set"].values, counts["class"].values, strict=True)
    place = {pair: number for number, pair in enumerate(pairs)}
    row = [place[pair] for pair in zip(table["label_set"], table["class"], strict=True)]
    for name in COLUMNS:
        table[name] = of_pairs[name][row, table["layer"], table["neuron"]] if len(table) else np.zeros(0)
    extra = pd.DataFrame([_coverage(neurons, name, found[name]) for name in neurons.coverage["label_set"]])
    coverage = pd.concat([neurons.coverage.reset_index(drop=True), extra], axis=1)
    return dataclasses.replace(neurons, scores=scores, neurons=table, coverage=coverage)


def null_dataset(neurons: Neurons, counts: xr.Dataset, found: Mapping[str, Certainty]) -> xr.Dataset:
    """What permuted labels have shown of two classes of one label set; NaN across label sets.

    Of a selection that is not by AAPE, which has no cut-offs that permuted labels could pass, the highest statistics.
    """
    by_aape = neurons.scores.attrs["selector"] == "aape"
    size = counts.sizes["class"]
    names = {
        "expected_shared": "neurons that two classes share under permuted labels, mean",
        "p_value": "that two classes share as many neurons under permuted labels",
        "jaccard_low": "95% bootstrap interval of the Jaccard coefficient, low end",
        "jaccard_high": "the same, high end",
    }
    arrays = {name: np.full((size, size), np.nan) for name in names}
    for name, one in found.items():
        block = np.ix_(_classes(counts, name), _classes(counts, name))
        if one.null.done and by_aape:
            arrays["expected_shared"][block] = one.null.shared / one.null.done
            arrays["p_value"][block] = (1 + one.null.as_many) / (1 + one.null.done)
        if one.resampled.bootstrap is not None:
            arrays["jaccard_low"][block], arrays["jaccard_high"][block] = one.resampled.bootstrap.jaccard
    per_draw = {"highest": "highest statistic"}
    if by_aape:
        per_draw |= {"pairs": "pairs that pass the cut-offs", "neurons": "neurons that do"}
    draws_axis = ("label_set", "permutation")
    return xr.Dataset(
        {name: (("class", "class_b"), arrays[name], {"long_name": meaning}) for name, meaning in names.items()}
        | {
            name: (draws_axis, np.stack([getattr(one.null, name) for one in found.values()]), {"long_name": meaning})
            for name, meaning in per_draw.items()
        },
        {
            "class": ("class", counts["class"].values), "class_label_set": ("class", counts["label_set"].values),
            "label_set": np.array(list(found), object),
        },
    )  # fmt: skip


def _coverage(neurons: Neurons, name: str, one: Certainty) -> dict[str, Any]:
    specific, passed = neurons.selections[name].specific, one.q_value <= LEVEL
    tested = ~np.isnan(one.tested.p_value)
    pairs, by_chance = int(specific.sum()), np.nan
    if neurons.scores.attrs["selector"] == "aape" and one.null.done and tested.any():
        by_chance = float(one.null.pairs.mean())
    intervals, stability = one.resampled.bootstrap, one.resampled.stability
    nothing = (np.nan, np.nan)
    coverage, per_class = (intervals.coverage, intervals.neurons_per_class) if intervals else (nothing, nothing)
    return {
        "coverage_low": coverage[0],
        "coverage_high": coverage[1],
        "neurons_per_class_low": per_class[0],
        "neurons_per_class_high": per_class[1],
        "pairs": pairs,
        "pairs_by_chance": by_chance,
        "false_discovery_rate": min(1.0, by_chance / pairs) if pairs else np.nan,
        "pairs_significant": int((passed & specific).sum()),
        "all_pairs_significant": int(passed.sum()),
        "split_half_jaccard": stability.jaccard if stability else np.nan,
        "units": one.units,
        "fixed_clips": one.fixed,
        "pairs_needed": pairs_needed(one.tested),
        "classes_untested": int((~tested.any(axis=(1, 2))).sum()),
    }


def _state_file(folder: Path, identity: Mapping[str, Any]) -> StateFile:
    """The state of one test: each has a file of its own, so that one that was stopped blocks no other."""
    return StateFile(folder / f"{json_fingerprint(identity)[:16]}.npz", "a permutation test", identity)


def pairs_needed(tested: Tested) -> float:
    """How many pairs must be beyond all permutations before these can have q-values of `LEVEL`; NaN: no number does."""
    lowest = np.sort(tested.lowest[~np.isnan(tested.lowest)])
    enough = np.flatnonzero(lowest * lowest.size <= LEVEL * np.arange(1, lowest.size + 1))
    return float(enough[0] + 1) if len(enough) else math.nan


def _classes(counts: xr.Dataset, label_set: str) -> np.ndarray:
    """Numbers of a label set's classes that have a counted token."""
    return np.flatnonzero((counts["label_set"].values == label_set) & (counts["tokens"].values > 0))


def _read_clip_counts(run: Run, counts: xr.Dataset, labels: xr.Dataset) -> np.ndarray:
    path = run.file(CLIP_COUNTS)
    shape = (labels.sizes["clip"], counts.sizes["layer"], counts.sizes["neuron"])
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}): {AGAIN}") from error
    if found.shape != shape or found.dtype != np.uint16:
        raise InputError(
            f"{path} must hold uint16 counts of {shape} clips, layers and neurons, found {found.dtype} of "
            f"{found.shape}: it is of another run, {AGAIN}"
        )
    if (found.sum(axis=0, dtype=np.int64) != counts["total_active_tokens"].values).any():
        raise InputError(f"{path} does not add up to activations.nc: it is of another run, {AGAIN}")
    return found
