"""How sure a selection is: permuted labels, resampled recordings, random halves; for every label set of a run."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt16

from jaxdissect.errors import InputError
from jaxdissect.exchange import find_units
from jaxdissect.permutation import CutOffs, Null, PermutationTest, Tested
from jaxdissect.resampling import Bootstrap, Stability, bootstrap, split_halves
from jaxdissect.selection import Selection, SelectionRule
from jaxdissect.sharing import overlap
from jaxdissect.significance import benjamini_hochberg
from jaxdissect.unit_counts import UnitCounts

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
    """

    permutations: int = 1000
    resamples: int = 200
    splits: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 0:
                raise InputError(f"--{name} must be a whole number, at least 0, got {value}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Resampled:
    """What a selection by AAPE comes to on other recordings of the same kind."""

    bootstrap: Bootstrap
    stability: Stability


@dataclasses.dataclass(frozen=True, eq=False)
class Certainty:
    """How sure the selection of one label set is.

    Attributes:
      tested: every pair's p-values.
      q_value: of each pair, Benjamini-Hochberg over all pairs of the label set.
      null: what permuted labels have shown.
      resampled: of the recordings; None if the selection was not by AAPE, or nothing was drawn.
      units: recordings, or clips of recordings of several classes, whose labels were exchanged.
    """

    tested: Tested
    q_value: Float[np.ndarray, "class layer neuron"]
    null: Null
    resampled: Resampled | None
    units: int


def assess(
    clip_counts: UInt16[np.ndarray, "clip layer neuron"],
    clip_tokens: Int[np.ndarray, " clip"],
    members: Bool[np.ndarray, "clip class"],
    sources: Sequence[str],
    folds: Sequence[int],
    selection: Selection | None,
    rule: SelectionRule,
    options: CertaintyOptions,
    progress: Callable[[int], object] = lambda done: None,
) -> Certainty:
    """Test every pair of one label set, and resample the selection that was made.

    Args:
      clip_counts: active tokens of every clip.
      clip_tokens: counted tokens of every clip.
      members: classes of every clip that was counted.
      sources, folds: of every clip.
      selection: by AAPE; None: another one, whose pairs are tested only.
      rule: of the selection.
      options: how much is drawn.
      progress: called with the number of draws done, of `draws(options)`.
    """
    counts = UnitCounts(clip_counts, clip_tokens, find_units(members, sources, folds))
    cut, specific = NOTHING, np.zeros((members.shape[1], 1, 1), bool)
    if selection is not None:
        cut = CutOffs(selection.aape_cutoff, selection.rate_cutoff, selection.probability_bar)
        specific = selection.specific
    test = PermutationTest(counts, cut, options.seed)
    null = test.nothing()
    test.run(options.permutations, null, overlap(specific, specific).jaccard, lambda: progress(null.done))
    tested = test.tested(null)
    q_value = benjamini_hochberg(tested.p_value.ravel()).reshape(tested.p_value.shape)
    resampled = None
    if selection is not None and options.resamples and options.splits:
        before, behind = options.permutations, options.permutations + options.resamples
        resampled = Resampled(
            bootstrap(counts, rule, options.resamples, options.seed, progress=lambda done: progress(before + done)),
            split_halves(counts, rule, options.splits, options.seed, lambda done: progress(behind + 2 * done)),
        )
    return Certainty(tested, q_value, null, resampled, len(counts.units.stratum))


def draws(options: CertaintyOptions) -> int:
    """How many draws one label set takes."""
    return options.permutations + options.resamples + 2 * options.splits
