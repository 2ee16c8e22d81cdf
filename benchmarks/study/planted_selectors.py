"""What the selectors and the permutation test pick from a store, and how much of it was planted.

Selectors by score get the number of planted pairs, `aape` and `lape` the number of planted neurons; the permutation
test gets neither.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from benchmarks.study.planted_stores import Store, Sums, class_sums
from benchmarks.study.rank_scores import rank_scores
from jaxdissect import SelectionRule
from jaxdissect.selection.aape import PRESETS, activation_probability, select
from jaxdissect.selection.auroc import AurocRule, best_neurons
from jaxdissect.selection.scores import best_of_each_class, class_selectivity, d_prime
from jaxdissect.significance.p_values import benjamini_hochberg
from jaxdissect.significance.permutation import CutOffs, PermutationTest, Tested
from jaxdissect.significance.unit_counts import UnitCounts, UnitRanks
from jaxdissect.significance.units import Units, find_units

LEVEL = 0.05
TESTED = f"q <= {LEVEL}"  # the permutation test
DEFAULT = "preset auroc"  # the default of the package
# What labels are exchanged among, within folds. The package does the first.
EXCHANGED = ("recordings of one size", "recordings of any size", "clips")
SELECTORS = (
    "aape",
    "lape",
    TESTED,
    DEFAULT,
    "probability",
    "class_selectivity",
    "d_prime",
    "auroc",
    "average_precision",
)


def compare(store: Store, sums: Sums, permutations: int, seed: int) -> dict[str, dict[str, float]]:
    """Recall and false discovery proportion of every selector.

    Args:
      store: counts and planted pairs.
      sums: sums of activations for the selectors that need them.
      permutations: number of permutations, or the number that `permutations_for` asks for if that is larger.
      seed: seed of the permutations.
    """
    enough = max(permutations, permutations_for(store.members.shape[1]))
    return score_selections(choose(store, sums, enough, seed), store.truth)


def permutations_for(classes: int) -> int:
    """Permutations that let a lone pair have q <= `LEVEL` in a pool of all neurons."""
    return math.ceil(classes / LEVEL)


def choose(store: Store, sums: Sums, permutations: int, seed: int) -> dict[str, Bool[np.ndarray, "class layer neuron"]]:
    """Pairs that every selector picks; arguments of `compare`."""
    members, truth = store.members, store.truth
    active = class_sums(store, store.counts.astype(np.float64)).astype(np.int64)
    tokens = members.T.astype(np.int64) @ store.tokens
    p = activation_probability(active, tokens)
    rates = store.counts.reshape(len(members), -1) / store.tokens[:, None]
    auroc, precision = (score.reshape(truth.shape) for score in rank_scores(rates, members))
    all_tokens = int(store.tokens.sum())
    scores = {
        "probability": p,
        "class_selectivity": class_selectivity(p),
        "d_prime": d_prime(sums.total, sums.squares, tokens, sums.all_total, sums.all_squares, all_tokens),
        "auroc": auroc,
        "average_precision": precision,
    }
    picked = {name: best_of_each_class(score, truth.sum() / truth.size) for name, score in scores.items()}
    picked[DEFAULT] = choose_by_default(store, permutations, seed)
    for preset in PRESETS:
        rule = SelectionRule(preset, keep=float(truth.any(axis=0).mean()))
        picked[preset] = select(active, tokens, rule).specific
    picked[TESTED] = q_values(permuted(store, permutations, seed)) <= LEVEL
    return {name: picked[name] for name in SELECTORS}


def choose_by_default(store: Store, permutations: int, seed: int) -> Bool[np.ndarray, "class layer neuron"]:
    """The rule of the package's default preset, on the one reading that a store has: the share of active tokens."""
    units = units_of(store, EXCHANGED[0])
    shares = (store.counts / store.tokens[:, None, None]).astype(np.float32)
    ranks = UnitRanks(shares, units)
    auroc = ranks.auroc(np.ones((1, len(units.stratum)), np.int64))[0]
    test = PermutationTest([ranks], CutOffs(-math.inf, math.inf, math.inf), seed)
    null = test.empty_null()
    test.run(permutations, null, np.zeros((len(auroc), len(auroc)), np.int64))
    return best_neurons(auroc, AurocRule(), q_values(test.tested(null)))


def permuted(store: Store, permutations: int, seed: int, exchanged: str = EXCHANGED[0]) -> Tested:
    """The package's permutation test, with labels exchanged among one of `EXCHANGED`."""
    classes = store.members.shape[1]
    counts = UnitCounts(store.counts, store.tokens, units_of(store, exchanged))
    # No pair passes these cut-offs: the selection under permuted labels does not matter here.
    test = PermutationTest([counts], CutOffs(math.inf, -1, 1), seed)
    null = test.empty_null()
    test.run(permutations, null, np.zeros((classes, classes), np.int64))
    return test.tested(null)


def units_of(store: Store, exchanged: str) -> Units:
    """Recordings, or clips as if each were its own recording; strata of the package, or folds alone as strata."""
    one_size, _, clips = EXCHANGED
    sources = range(len(store.tokens)) if exchanged == clips else store.recordings.tolist()
    units = find_units(store.members, sources, store.folds.tolist())
    if exchanged in (one_size, clips):
        return units
    stratum = np.empty_like(units.stratum)
    stratum[units.unit] = store.folds
    return dataclasses.replace(units, stratum=stratum)


def q_values(tested: Tested) -> Float[np.ndarray, "class layer neuron"]:
    """q-values by Benjamini and Hochberg over all pairs."""
    return benjamini_hochberg(tested.p_value.ravel()).reshape(tested.p_value.shape)


def score_selections(
    selections: Mapping[str, Bool[np.ndarray, "class layer neuron"]], truth: Bool[np.ndarray, "class layer neuron"]
) -> dict[str, dict[str, float]]:
    """Recall and false discovery proportion of every selection; the latter is 0 where nothing is selected."""
    return {
        name: {
            "recall": round(float((chosen & truth).sum() / truth.sum()), 4),
            "false": round(float((chosen & ~truth).sum() / max(1, chosen.sum())), 4),
            "pairs": int(chosen.sum()),
        }
        for name, chosen in selections.items()
    }


def means(raw: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over repetitions, of every number of every selector."""
    return {
        name: {what: float(np.mean(values)) for what, values in numbers.items()}
        for name, numbers in columns(raw).items()
    }


def standard_errors(raw: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Standard errors of the means over two repetitions or more."""
    return {
        name: {what: float(np.std(values, ddof=1) / math.sqrt(len(values))) for what, values in numbers.items()}
        for name, numbers in columns(raw).items()
    }


def columns(raw: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Lists over repetitions, of every number of every selector."""
    return {name: {what: [one[name][what] for one in raw] for what in numbers} for name, numbers in raw[0].items()}
