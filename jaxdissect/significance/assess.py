"""How sure a selection is: permuted labels, resampled recordings and random halves of one label set."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.errors import require
from jaxdissect.runtime.files import json_fingerprint
from jaxdissect.runtime.resume import StateFile, resumable
from jaxdissect.selection.aape import Selection, SelectionRule
from jaxdissect.selection.auroc import AurocRule, best_neurons
from jaxdissect.selection.overlap import overlap
from jaxdissect.significance.clips import Clips
from jaxdissect.significance.p_values import benjamini_hochberg
from jaxdissect.significance.permutation import CutOffs, Null, PermutationTest, Tested
from jaxdissect.significance.resampling import (
    Bootstrap,
    Choose,
    Stability,
    bootstrap,
    by_aape,
    by_auroc,
    split_halves,
)
from jaxdissect.significance.unit_counts import UnitCounts, UnitRanks
from jaxdissect.types import Record

LEVEL = 0.05  # highest q-value of a discovery
NOTHING_PASSES = CutOffs(-math.inf, math.inf, math.inf)


@dataclasses.dataclass(frozen=True)
class CertaintyOptions:
    """How much is drawn.

    Attributes:
      permutations: number of permutations of the labels.
      resamples: number of resamples of the recordings, for intervals.
      splits: number of splits of the recordings into halves, for the stability.
      seed: seed of all draws.
      save_minutes: minutes from one saved state of the permutations to the next.

    Raises:
      InputError: a number breaks a rule.
    """

    permutations: int = 1000
    resamples: int = 200
    splits: int = 50
    seed: int = 0
    save_minutes: float = 10.0

    def __post_init__(self) -> None:
        for name in ("permutations", "resamples", "splits", "seed"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 0, f"{name} must be a whole number, at least 0, got {value}.")
        require(self.save_minutes > 0, f"save_minutes must be positive, got {self.save_minutes}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Certainty:
    """How sure the selection of one label set is.

    Attributes:
      tested: statistic and p-values of every pair.
      q_value: q-value of every pair, by Benjamini-Hochberg over all pairs of the label set.
      null: what permuted labels have shown.
      bootstrap: intervals over resampled recordings; None: nothing was drawn.
      stability: agreement of random halves of the recordings; None: nothing was drawn.
      options: numbers of draws.
      units: number of recordings, or of single clips of recordings of several classes, whose labels were exchanged.
      fixed: fraction of the clips whose labels no exchange could change.
      pairs_by_chance: pairs that pass the same cut-offs under permuted labels, mean over the permutations; NaN where
        the selection is not by AAPE.
    """

    tested: Tested
    q_value: Float[np.ndarray, "class layer neuron"]
    null: Null
    bootstrap: Bootstrap | None
    stability: Stability | None
    options: CertaintyOptions
    units: int
    fixed: float
    pairs_by_chance: float


def assess(
    clips: Clips,
    selection: Selection | None,
    rule: SelectionRule,
    options: CertaintyOptions,
    state: StateFile | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> Certainty:
    """Test every pair of one label set, and resample the selection that was made.

    Args:
      clips: every clip's counts, with the classes of the label set alone.
      selection: selection by AAPE; None: by another score, whose pairs are tested only, and nothing is resampled.
      rule: rule of the selection.
      options: numbers of draws.
      state: file that keeps the permutations of a test that was stopped, which is resumed from it.
      progress: function called with the number of draws done, out of `draws(options)`.
    """
    if selection is None:
        options = dataclasses.replace(options, resamples=0, splits=0)
    counts = UnitCounts(clips.counts, clips.tokens, clips.units())
    # Permuted labels are held against the cut-offs of the selection. Another selection has none, and no neuron passes.
    cut, specific = NOTHING_PASSES, np.zeros((clips.members.shape[1], 1, 1), bool)
    if selection is not None:
        cut = CutOffs(selection.aape_cutoff, selection.rate_cutoff, selection.probability_bar)
        specific = selection.specific
    test, shared = PermutationTest([counts], cut, options.seed), overlap(specific, specific).shared
    null = _permuted(test, options, shared, state, progress)
    certainty = _certainty(test, null, by_aape(counts, rule), options, progress)
    if selection is None or not null.done or np.isnan(certainty.tested.p_value).all():
        return certainty
    return dataclasses.replace(certainty, pairs_by_chance=float(null.pairs.mean()))


def assess_auroc(
    readings: Sequence[UnitRanks],
    auroc: Float[np.ndarray, "class layer neuron"],
    rule: AurocRule,
    options: CertaintyOptions,
    state: StateFile | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> tuple[Bool[np.ndarray, "class layer neuron"], Certainty]:
    """Test every pair of one label set by its ranks, choose by AUROC, and resample the selection.

    Args:
      readings: ranks of the units, by each reading.
      auroc: AUROC of every pair.
      rule: rule of the selection.
      options: numbers of draws.
      state: file that keeps the permutations of a test that was stopped, which is resumed from it.
      progress: function called with the number of draws done, out of `draws(options)`.

    Returns:
      The pairs that were chosen, and how sure the selection is.
    """
    test = PermutationTest(readings, NOTHING_PASSES, options.seed)
    nothing = np.zeros((len(test.statistic), len(test.statistic)), np.int64)  # no pair passes by any cut-off
    null = _permuted(test, options, nothing, state, progress)
    certainty = _certainty(test, null, by_auroc(readings, rule), options, progress)
    return best_neurons(auroc, rule, certainty.q_value), certainty


def _certainty(
    test: PermutationTest,
    null: Null,
    choose: Choose,
    options: CertaintyOptions,
    progress: Callable[[int], object],
) -> Certainty:
    """P-values, and intervals and stability of what `choose` chooses from samples of the units."""
    tested = test.tested(null)  # every pair, selected or not: the null is valid for all of them
    intervals = stability = None
    if options.resamples:
        before = options.permutations  # draws done before the resamples
        intervals = bootstrap(
            test.units, choose, test.shape, options.resamples, options.seed, progress=lambda n: progress(before + n)
        )
    if options.splits:
        behind = options.permutations + options.resamples  # draws done before the splits, each of which is two
        stability = split_halves(
            test.units, choose, test.shape, options.splits, options.seed, lambda n: progress(behind + 2 * n)
        )
    return Certainty(
        tested=tested,
        q_value=benjamini_hochberg(tested.p_value.ravel()).reshape(tested.p_value.shape),
        null=null,
        bootstrap=intervals,
        stability=stability,
        options=options,
        units=len(test.units.stratum),
        fixed=float(test.units.fixed.sum() / max(1, (test.units.unit >= 0).sum())),
        pairs_by_chance=math.nan,
    )


def _permuted(
    test: PermutationTest,
    options: CertaintyOptions,
    shared: Int[np.ndarray, "class class"],
    state: StateFile | None,
    progress: Callable[[int], object],
) -> Null:
    """What the permutations show, resumed from the state if there is one.

    Args:
      test: test of the label set.
      options: number of permutations.
      shared: neurons that two classes were found to share.
      state: file that keeps the permutations.
      progress: function called with the number of permutations done.
    """
    null = _kept_null(test, state)
    if null.done > options.permutations:  # of an earlier test that drew more
        null = test.empty_null()
    _permute(test, options, null, shared, state, progress)
    return null


def _permute(
    test: PermutationTest,
    options: CertaintyOptions,
    null: Null,
    shared: Int[np.ndarray, "class class"],
    state: StateFile | None,
    progress: Callable[[int], object],
) -> None:
    """Permute, and keep what was permuted now and then, when stopped, and at the end, for resampling takes time too."""

    def keep() -> None:
        if state is not None:
            state.write(vars(null), {}, needed=False)

    with resumable(keep, options.save_minutes) as between:

        def after_batch() -> None:
            progress(null.done)
            between()

        test.run(options.permutations, null, shared, after_batch)
    keep()


def _kept_null(test: PermutationTest, state: StateFile | None) -> Null:
    """The permutations that a state holds; none if there is no state.

    Raises:
      InputError: the state is damaged, or another test's.
    """

    def parse(arrays: Mapping[str, np.ndarray], _record: Record) -> Null:
        null = Null(**{field.name: arrays[field.name] for field in dataclasses.fields(Null)})
        if null.histogram.shape != test.empty_null().histogram.shape:
            raise ValueError(f"a histogram of {null.histogram.shape}, not of {test.empty_null().histogram.shape}")
        return null

    return (state and state.read(parse)) or test.empty_null()


def permutation_state(folder: Path, identity: Mapping[str, object]) -> StateFile:
    """The state of one test: each has a file of its own, so that one that was stopped blocks no other."""
    return StateFile(folder / f"{json_fingerprint(identity)[:16]}.npz", "a permutation test", identity)


def draws(options: CertaintyOptions) -> int:
    """Number of draws that one label set takes; a split counts as two.

    Args:
      options: numbers of draws.
    """
    return options.permutations + options.resamples + 2 * options.splits
