"""Choosing the neurons of every label set, testing them against permuted labels, and judging them on held-out clips."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Int

from jaxdissect.counting.labelled import counted_classes
from jaxdissect.selection.aape import SelectionRule, activation_probability
from jaxdissect.selection.auroc import AurocRule
from jaxdissect.selection.labelled import Neurons, select_neurons
from jaxdissect.selection.score_tables import class_scores
from jaxdissect.selection.scores import best_of_each_class, class_selectivity
from jaxdissect.significance.assess import Certainty, CertaintyOptions
from jaxdissect.significance.auroc_choice import auroc_dataset, auroc_scores, choose_by_auroc
from jaxdissect.significance.clips import Clips
from jaxdissect.significance.held_out import SHARE, HeldOut, Pairs, judge_label_set
from jaxdissect.significance.held_out_tables import with_held_out
from jaxdissect.significance.resampling import by_aape
from jaxdissect.significance.tables import assess_neurons, null_dataset, with_certainty
from jaxdissect.significance.unit_counts import UnitCounts
from jaxdissect.types import Record

# Scores that depend on nothing but active tokens, so that a selection by them can be repeated on half of the clips.
BY_PROBABILITY = {"probability": lambda p: p, "class_selectivity": class_selectivity}


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """Neurons that were chosen, with everything that is known of them.

    Attributes:
      neurons: tables and scores, with p-values and held-out columns as far as clips were kept.
      scores: scores of every selector.
      by_aape: selection by AAPE, for the comparison of selectors.
      null: content of `permutations.nc`; None: no labels were permuted.
    """

    neurons: Neurons
    scores: xr.Dataset
    by_aape: Neurons
    null: xr.Dataset | None


@dataclasses.dataclass(frozen=True)
class Test:
    """How a selection is tested.

    Attributes:
      options: numbers of draws.
      states: folder in which permutations are kept on their way.
      identity: what distinguishes the test, by names for people.
    """

    options: CertaintyOptions
    states: Path
    identity: Record


def choose_by_ranks(clips: Clips, counts: xr.Dataset, rule: AurocRule, test: Test) -> Choice:
    """Choose by the AUROC of the best of three readings of the clips.

    Args:
      clips: what every neuron did on every clip.
      counts: counts of the classes.
      rule: rule of the selection.
      test: how the selection is tested.

    Raises:
      InputError: an older version has counted, and kept no readings.
    """
    choices = choose_by_auroc(clips, counts, rule, test.options, test.states, test.identity)
    scores = class_scores(counts).assign(auroc_dataset(choices, counts))
    # AAPE is reported beside the AUROC; its own selection is only compared.
    beside = select_neurons(counts, SelectionRule("lape"))
    specific = {name: choice.specific for name, choice in choices.items()}
    neurons = select_neurons(counts, SelectionRule("lape"), scores["auroc"], specific)
    attributes = {name: neurons.scores.attrs[name] for name in ("selector", "skipped_classes")}
    named = neurons.scores.drop_attrs(deep=False).assign_attrs(dataclasses.asdict(rule), preset="auroc", **attributes)
    neurons = dataclasses.replace(neurons, scores=named)
    certainty = {name: choice.certainty for name, choice in choices.items() if choice.certainty is not None}
    pairs = {name: Pairs.of(choice.specific, choice.reading) for name, choice in choices.items()}
    held_out = {name: choice.held_out for name, choice in choices.items()}
    return _with_evidence(neurons, counts, certainty, held_out, pairs, scores, beside)


def choose_by_counts(
    clips: Clips | None, counts: xr.Dataset, rule: SelectionRule, selector: str | None, test: Test
) -> Choice:
    """Choose by AAPE, or give every class its best neurons by another score of the counts.

    Args:
      clips: what every neuron did on every clip; None: it was not kept, and nothing is tested or judged.
      counts: counts of the classes.
      rule: rule of the selection.
      selector: name of the score; None: AAPE.
      test: how the selection is tested.
    """
    beside, scores = select_neurons(counts, rule), class_scores(counts)
    if clips is not None and clips.means is not None:
        sets = {
            # The ranks go at once: those of all label sets together may take more than the memory.
            name: dataclasses.replace(auroc_scores(clips.of_classes(counted_classes(counts, name))), readings=())
            for name in beside.selections
        }
        scores = scores.assign(auroc_dataset(sets, counts))
    neurons = beside if selector is None else select_neurons(counts, rule, scores[selector])
    if clips is None:
        return Choice(neurons, scores, beside, None)
    certainty: Mapping[str, Certainty] = {}
    if test.options.permutations:
        certainty = assess_neurons(clips, counts, neurons, rule, test.options, test.states, test.identity)
    pairs = {name: Pairs.of(selection.specific, SHARE) for name, selection in neurons.selections.items()}
    held_out = {}
    for name in pairs:
        of_set = clips.of_classes(counted_classes(counts, name))
        choose = _repeated(of_set, rule, selector)
        held_out[name] = judge_label_set(pairs[name], of_set, choose, test.options.resamples, test.options.seed)
    return _with_evidence(neurons, counts, certainty, held_out, pairs, scores, beside)


def _repeated(
    clips: Clips, rule: SelectionRule, selector: str | None
) -> Callable[[Int[np.ndarray, " unit"]], Pairs] | None:
    """How a selection by counts is repeated on a sample of the units; None: it cannot be.

    Args:
      clips: what every neuron did on every clip, with the classes of the label set alone.
      rule: rule of the selection.
      selector: name of the score; None: AAPE.
    """
    if selector is not None and selector not in BY_PROBABILITY:
        return None
    counts = UnitCounts(clips.counts, clips.tokens, clips.units())
    if selector is None:
        choose = by_aape(counts, rule)
        return lambda weights: Pairs.of(next(choose(weights[None]))[1], SHARE)

    def best(weights: Int[np.ndarray, " unit"]) -> Pairs:
        active, tokens = counts.of_classes((counts.units.members * weights[:, None]).T[None])
        # A class without a token in the sample has no rate: 0 / 1.
        p = activation_probability(active[0], np.maximum(tokens[0], 1))
        return Pairs.of(best_of_each_class(BY_PROBABILITY[selector](p), rule.keep), SHARE)

    return best


def _with_evidence(
    neurons: Neurons,
    counts: xr.Dataset,
    certainty: Mapping[str, Certainty],
    held_out: Mapping[str, HeldOut],
    pairs: Mapping[str, Pairs],
    scores: xr.Dataset,
    beside: Neurons,
) -> Choice:
    """The choice with its p-values, as far as labels were permuted, and its judgement on held-out clips."""
    null = None
    if certainty:
        neurons, null = with_certainty(neurons, counts, certainty), null_dataset(neurons, counts, certainty)
    return Choice(with_held_out(neurons, held_out, pairs), scores, beside, null)
