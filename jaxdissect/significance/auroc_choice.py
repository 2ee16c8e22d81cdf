"""Neurons chosen by AUROC and tested against permuted labels, label set by label set."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from jaxdissect.counting.labelled import counted_classes, label_sets_of
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.selection.auroc import READINGS, AurocRule, best_neurons
from jaxdissect.significance.assess import Certainty, CertaintyOptions, assess_auroc, draws, permutation_state
from jaxdissect.significance.clips import Clips
from jaxdissect.significance.held_out import HeldOut, Pairs, judge_label_set
from jaxdissect.significance.unit_counts import UnitRanks, best_readings


@dataclasses.dataclass(frozen=True, eq=False)
class AurocScores:
    """AUROC of every pair of the counted classes of one label set.

    Attributes:
      auroc: AUROC of the best reading; NaN where there is no clip of the class, or no other.
      reading: number of that reading in `READINGS`.
      readings: ranks of the units by each reading; empty where only the scores are kept.
    """

    auroc: Float[np.ndarray, "class layer neuron"]
    reading: Int[np.ndarray, "class layer neuron"]
    readings: tuple[UnitRanks, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class AurocChoice:
    """Neurons of one label set chosen by AUROC.

    Attributes:
      auroc, reading: as in `AurocScores`.
      specific: pairs of class and neuron that were chosen.
      certainty: p-values, intervals and stability; None: no labels were permuted.
      held_out: how the chosen pairs do on clips that they were not chosen by.
    """

    auroc: Float[np.ndarray, "class layer neuron"]
    reading: Int[np.ndarray, "class layer neuron"]
    specific: Bool[np.ndarray, "class layer neuron"]
    certainty: Certainty | None
    held_out: HeldOut


def auroc_scores(clips: Clips) -> AurocScores:
    """Rank the clips of one label set by every neuron and reading.

    Args:
      clips: what every neuron did on every clip, with the classes of the label set alone.

    Raises:
      InputError: an older version has counted, and kept no readings.
    """
    units = clips.units()
    readings = tuple(UnitRanks(values, units) for values in clips.readings())
    everything = np.ones((1, len(units.stratum)), np.int64)
    auroc, reading = best_readings(readings, everything)
    return AurocScores(auroc[0], reading[0], readings)


def choose_by_auroc(
    clips: Clips,
    counts: xr.Dataset,
    rule: AurocRule,
    options: CertaintyOptions,
    states: Path | None = None,
    of: Mapping[str, object] | None = None,
) -> dict[str, AurocChoice]:
    """Choose and test the neurons of every label set.

    Args:
      clips: what every neuron did on every clip.
      counts: counts of the classes.
      rule: rule of the selection.
      options: numbers of draws.
      states: folder in which permutations are kept while labels are permuted; None: they are not kept.
      of: JSON values that distinguish what is tested, by names for people.

    Raises:
      InputError: an older version has counted, and kept no readings.
    """
    choices = {}
    names = label_sets_of(counts)
    with progress_bar(what="Permuting, resampling", total=draws(options) * len(names), unit="draw") as bar:
        for number, name in enumerate(names):
            # One bar for all label sets: each reports its own draws, which are added to those of the sets before.
            def progress(done: int, before: int = number * draws(options)) -> None:
                bar.update_to(before + done)

            of_set = clips.of_classes(counted_classes(counts, name))
            scores = auroc_scores(of_set)
            specific, certainty = best_neurons(scores.auroc, rule), None
            if options.permutations:
                state = None if states is None else permutation_state(states, {**(of or {}), "label set": name})
                specific, certainty = assess_auroc(scores.readings, scores.auroc, rule, options, state, progress)
            held_out = judge_label_set(
                Pairs.of(specific, scores.reading),
                of_set,
                partial(sample_pairs, scores, rule),
                options.resamples,
                options.seed,
            )
            choices[name] = AurocChoice(scores.auroc, scores.reading, specific, certainty, held_out)
    return choices


def sample_pairs(scores: AurocScores, rule: AurocRule, weights: Int[np.ndarray, " unit"]) -> Pairs:
    """The pairs that a sample of the units chooses; labels are not permuted anew.

    Args:
      scores: ranks of all units.
      rule: rule of the selection.
      weights: how often each unit counts.
    """
    auroc, reading = best_readings(scores.readings, weights[None])
    return Pairs.of(best_neurons(auroc[0], rule), reading[0])


def auroc_dataset(
    scores: Mapping[str, AurocChoice] | Mapping[str, AurocScores], counts: xr.Dataset
) -> dict[str, tuple[object, ...]]:
    """Variables of `scores.nc`: the AUROC of every pair, and the reading that it belongs to.

    Args:
      scores: AUROC of every label set.
      counts: counts of the classes.
    """
    axes = ("class", "layer", "neuron")
    shape = tuple(counts.sizes[axis] for axis in axes)
    auroc, reading = np.full(shape, np.nan, np.float32), np.zeros(shape, np.int8)
    for name, of_set in scores.items():
        classes = counted_classes(counts, name)
        auroc[classes], reading[classes] = of_set.auroc, of_set.reading
    numbered = ", ".join(f"{number}: {name}" for number, name in enumerate(READINGS))
    return {
        "auroc": (axes, auroc, {"long_name": "one-vs-rest AUROC of the best of three readings of a clip"}),
        "auroc_reading": (axes, reading, {"long_name": f"reading that the AUROC belongs to; {numbered}"}),
    }
