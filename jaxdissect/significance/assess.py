"""How sure a selection is: permuted labels, resampled recordings, random halves; for every label set of a run."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt16

from jaxdissect.errors import InputError
from jaxdissect.runtime.resume import StateFile, resumable
from jaxdissect.selection.aape import Selection, SelectionRule
from jaxdissect.selection.overlap import overlap
from jaxdissect.significance.p_values import benjamini_hochberg
from jaxdissect.significance.permutation import CutOffs, Null, PermutationTest, Tested
from jaxdissect.significance.resampling import Bootstrap, Stability, bootstrap, split_halves
from jaxdissect.significance.unit_counts import UnitCounts
from jaxdissect.significance.units import find_units
from jaxdissect.types import Record

LEVEL = 0.05  # at which discoveries are counted
NOTHING = CutOffs(-math.inf, math.inf, math.inf)  # passes


@dataclasses.dataclass(frozen=True)
class CertaintyOptions:
    """How much is drawn.

    Attributes:
      permutations: of the labels.
      resamples: of the recordings, for intervals.
      splits: into halves, for the stability.
      seed: of all draws.
      save_minutes: from one state of the permutations on the disk to the next.
    """

    permutations: int = 1000
    resamples: int = 200
    splits: int = 50
    seed: int = 0
    save_minutes: float = 10.0

    def __post_init__(self) -> None:
        for name in ("permutations", "resamples", "splits", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise InputError(f"--{name} must be a whole number, at least 0, got {value}.")
        if not self.save_minutes > 0:
            raise InputError(f"--save-minutes must be positive, got {self.save_minutes}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Resampled:
    """What a selection by AAPE comes to on other recordings of the same kind; None: nothing was drawn."""

    bootstrap: Bootstrap | None
    stability: Stability | None


@dataclasses.dataclass(frozen=True, eq=False)
class Certainty:
    """How sure the selection of one label set is.

    Attributes:
      tested: every pair's p-values.
      q_value: of each pair, Benjamini-Hochberg over all pairs of the label set.
      null: what permuted labels have shown.
      resampled: of the recordings.
      drawn: how much was.
      units: recordings, or clips of recordings of several classes, whose labels were exchanged.
      fixed: share of the clips whose labels no exchange could change.
    """

    tested: Tested
    q_value: Float[np.ndarray, "class layer neuron"]
    null: Null
    resampled: Resampled
    drawn: CertaintyOptions
    units: int
    fixed: float


def assess(
    clip_counts: UInt16[np.ndarray, "clip layer neuron"],
    clip_tokens: Int[np.ndarray, " clip"],
    members: Bool[np.ndarray, "clip class"],
    sources: Sequence[str],
    folds: Sequence[int],
    selection: Selection | None,
    rule: SelectionRule,
    options: CertaintyOptions,
    state: StateFile | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> Certainty:
    """Test every pair of one label set, and resample the selection that was made.

    Args:
      clip_counts: active tokens of every clip.
      clip_tokens: counted tokens of every clip.
      members: classes of every clip that was counted.
      sources, folds: of every clip.
      selection: by AAPE; None: another one, whose pairs are tested only, and nothing is resampled.
      rule: of the selection.
      options: how much is drawn.
      state: file that keeps the permutations of a test that was stopped, which is resumed from it.
      progress: called with the number of draws done, of `draws(options)`.
    """
    if selection is None:
        options = dataclasses.replace(options, resamples=0, splits=0)
    counts = UnitCounts(clip_counts, clip_tokens, find_units(members, sources, folds))
    cut, specific = NOTHING, np.zeros((members.shape[1], 1, 1), bool)
    if selection is not None:
        cut = CutOffs(selection.aape_cutoff, selection.rate_cutoff, selection.probability_bar)
        specific = selection.specific
    test, shared = PermutationTest(counts, cut, options.seed), overlap(specific, specific).shared
    null = _kept_null(test, state)
    if null.done > options.permutations:
        null = test.nothing()
    _permute(test, options, null, shared, state, progress)
    tested = test.tested(null)
    q_value = benjamini_hochberg(tested.p_value.ravel()).reshape(tested.p_value.shape)
    resampled = _resample(counts, rule, options, progress)
    fixed = float(counts.units.fixed.sum() / max(1, (counts.units.unit >= 0).sum()))
    return Certainty(tested, q_value, null, resampled, options, len(counts.units.stratum), fixed)


def _resample(
    counts: UnitCounts, rule: SelectionRule, options: CertaintyOptions, progress: Callable[[int], object]
) -> Resampled:
    before, behind, seed = options.permutations, options.permutations + options.resamples, options.seed
    intervals = stability = None
    if options.resamples:
        intervals = bootstrap(counts, rule, options.resamples, seed, progress=lambda done: progress(before + done))
    if options.splits:
        stability = split_halves(counts, rule, options.splits, seed, lambda done: progress(behind + 2 * done))
    return Resampled(intervals, stability)


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
        if null.histogram.shape != test.nothing().histogram.shape:
            raise ValueError(f"a histogram of {null.histogram.shape}, not of {test.nothing().histogram.shape}")
        return null

    return (state and state.read(parse)) or test.nothing()


def draws(options: CertaintyOptions) -> int:
    """How many draws one label set takes."""
    return options.permutations + options.resamples + 2 * options.splits
