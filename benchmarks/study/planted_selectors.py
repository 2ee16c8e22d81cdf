"""What the selectors and the permutation test pick of a store, and how much of it was planted.

Selectors by score are told how many pairs are planted, `aape` and `lape` how many neurons; the test is told nothing.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from benchmarks.study.planted_stores import Store, Sums, of_classes
from jaxdissect import SelectionRule
from jaxdissect.selection.aape import PRESETS, activation_probability, select
from jaxdissect.selection.scores import best_of_each_class, class_selectivity, d_prime, rank_scores
from jaxdissect.significance.p_values import benjamini_hochberg
from jaxdissect.significance.permutation import CutOffs, PermutationTest, Tested
from jaxdissect.significance.unit_counts import UnitCounts
from jaxdissect.significance.units import Units, find_units

LEVEL = 0.05
TESTED = f"q <= {LEVEL}"  # the permutation test
EXCHANGED = ("recordings of one size", "recordings of any size", "clips")  # within folds; the first by the package
SELECTORS = ("aape", "lape", TESTED, "probability", "class_selectivity", "d_prime", "auroc", "average_precision")


def compare(store: Store, sums: Sums, permutations: int, seed: int) -> dict[str, dict[str, float]]:
    """How every selector does; permutations are at least as many as `permutations_for` asks for."""
    enough = max(permutations, permutations_for(store.members.shape[1]))
    return judge(choose(store, sums, enough, seed), store.truth)


def permutations_for(classes: int) -> int:
    """So many that a pair alone could have q <= `LEVEL` in a pool of all neurons; in smaller pools it takes several."""
    return math.ceil(classes / LEVEL)


def choose(store: Store, sums: Sums, permutations: int, seed: int) -> dict[str, Bool[np.ndarray, "class layer neuron"]]:
    """What every selector picks; those that pick a given number of pairs or of neurons are given the planted one."""
    members, truth = store.members, store.truth
    active = of_classes(store, store.counts.astype(np.float64)).astype(np.int64)
    tokens = members.T.astype(np.int64) @ store.tokens
    p = activation_probability(active, tokens)
    shares = store.counts.reshape(len(members), -1) / store.tokens[:, None]
    auroc, precision = (score.reshape(truth.shape) for score in rank_scores(shares, members))
    everything = int(store.tokens.sum())
    scores = {
        "probability": p,
        "class_selectivity": class_selectivity(p),
        "d_prime": d_prime(sums.total, sums.squares, tokens, sums.all_total, sums.all_squares, everything),
        "auroc": auroc,
        "average_precision": precision,
    }
    found = {name: best_of_each_class(score, truth.sum() / truth.size) for name, score in scores.items()}
    for preset in PRESETS:
        rule = SelectionRule(preset, keep=float(truth.any(axis=0).mean()))
        found[preset] = select(active, tokens, rule).specific
    found[TESTED] = q_values(permuted(store, permutations, seed)) <= LEVEL
    return {name: found[name] for name in SELECTORS}


def permuted(store: Store, permutations: int, seed: int, exchanged: str = EXCHANGED[0]) -> Tested:
    """The package's permutation test, by what labels are exchanged among."""
    classes = store.members.shape[1]
    counts = UnitCounts(store.counts, store.tokens, units_of(store, exchanged))
    test = PermutationTest(counts, CutOffs(math.inf, -1, 1), seed)
    null = test.nothing()
    test.run(permutations, null, np.zeros((classes, classes), np.int64))
    return test.tested(null)


def units_of(store: Store, exchanged: str) -> Units:
    """Recordings, or clips as if each were a recording of its own; the package's strata, or folds for those."""
    of_one_size, _, clips = EXCHANGED
    sources = range(len(store.tokens)) if exchanged == clips else store.recordings.tolist()
    units = find_units(store.members, sources, store.folds.tolist())
    if exchanged in (of_one_size, clips):
        return units
    stratum = np.empty_like(units.stratum)
    stratum[units.unit] = store.folds
    return dataclasses.replace(units, stratum=stratum)


def q_values(tested: Tested) -> Float[np.ndarray, "class layer neuron"]:
    """Benjamini-Hochberg over all pairs."""
    return benjamini_hochberg(tested.p_value.ravel()).reshape(tested.p_value.shape)


def judge(
    found: Mapping[str, Bool[np.ndarray, "class layer neuron"]], truth: Bool[np.ndarray, "class layer neuron"]
) -> dict[str, dict[str, float]]:
    """Recall and false discovery proportion, which is 0 where nothing is found."""
    return {
        name: {
            "recall": round(float((chosen & truth).sum() / truth.sum()), 4),
            "false": round(float((chosen & ~truth).sum() / max(1, chosen.sum())), 4),
            "pairs": int(chosen.sum()),
        }
        for name, chosen in found.items()
    }


def means(raw: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Of every number of every selector."""
    of = columns(raw)
    return {name: {what: float(np.mean(values)) for what, values in of[name].items()} for name in of}


def standard_errors(raw: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Of the means, over two repetitions or more."""
    of = columns(raw)
    return {
        name: {what: float(np.std(values, ddof=1) / math.sqrt(len(values))) for what, values in of[name].items()}
        for name in of
    }


def columns(raw: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Every number of every selector, over repetitions."""
    return {name: {what: [one[name][what] for one in raw] for what in first} for name, first in raw[0].items()}
