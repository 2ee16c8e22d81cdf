"""Stores without anything to find: how often is something found, for each way of exchanging labels?"""

import math
from collections.abc import Mapping

import numpy as np
import scipy.stats

from benchmarks.common import table
from benchmarks.study.planted_selectors import EXCHANGED, LEVEL, permuted, q_values
from benchmarks.study.planted_stores import FIRING, Design, Store, make_store, streams
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.types import Record

SCENARIOS = ("nothing planted", "planted, labels shuffled", "nothing planted, classes differ in size of recordings")
CLASSES = 8
LEAST_P = 0.01  # p-values below it are counted
ENOUGH = math.ceil(8 * CLASSES / LEVEL)  # permutations that let a lone pair be found in a pool of every eighth neuron


def measure_null(runs: int, permutations: int, seed: int) -> Record:
    """Discoveries by scenario and by kind of exchange.

    Args:
      runs: number of runs of every scenario.
      permutations: number of permutations in each.
      seed: seed of all of them.
    """
    null = {}
    with progress_bar(what="Runs with nothing to find", total=len(SCENARIOS) * runs, unit="run") as bar:
        for scenario in SCENARIOS:
            results = []
            for run in range(runs):
                results.append(null_run(scenario, permutations, *streams(seed, 0, SCENARIOS.index(scenario), run)))
                bar.update()
            null[scenario] = {name: summary([result[name] for result in results]) for name in EXCHANGED}
    return null


def null_run(scenario: str, permutations: int, rng: np.random.Generator, seed: int) -> Record:
    """Discoveries in one store without anything to find, by kind of exchange."""
    if scenario == SCENARIOS[1]:
        store = make_store(Design(CLASSES, planted=4, strength=2.0), rng).shuffled(rng)
    else:
        store = make_store(Design(CLASSES, unequal=scenario == SCENARIOS[2]), rng)
    return {name: discoveries(store, permutations, seed, name) for name in EXCHANGED}


def discoveries(store: Store, permutations: int, seed: int, exchanged: str) -> Record:
    """The smallest q and the smallest p of max-T, and small p-values by kind of neuron."""
    tested = permuted(store, permutations, seed, exchanged)
    q = q_values(tested)
    by_kind = {kind: tested.p_value[:, store.kind == kind] for kind in FIRING}
    return {
        "lowest_q": float(np.nanmin(q)),
        "discoveries": int((q <= LEVEL).sum()),
        "lowest_p_highest": float(np.nanmin(tested.p_highest)),
        "p_below_0.01": {kind: int((p <= LEAST_P).sum()) for kind, p in by_kind.items()},
        "p": {kind: int(np.isfinite(p).sum()) for kind, p in by_kind.items()},
    }


def summary(runs: list[Record]) -> Record:
    """All runs of a scenario together, with one kind of exchange."""
    small, tested = ({kind: sum(run[name][kind] for run in runs) for kind in FIRING} for name in ("p_below_0.01", "p"))
    return {
        "any_q": rate_of_discovery([run["lowest_q"] for run in runs]),
        "any_p_highest": rate_of_discovery([run["lowest_p_highest"] for run in runs]),
        "share_of_p_below_0.01": {kind: small[kind] / max(1, tested[kind]) for kind in FIRING},
        "lowest_q": [round(run["lowest_q"], 4) for run in runs],
        "lowest_p_highest": [round(run["lowest_p_highest"], 4) for run in runs],
        "discoveries": [run["discoveries"] for run in runs],
    }


def rate_of_discovery(lowest: list[float]) -> Record:
    """Fraction of the runs whose lowest value is at most `LEVEL`, with its exact 95% interval."""
    hits, runs = sum(value <= LEVEL for value in lowest), len(lowest)
    interval = scipy.stats.binomtest(hits, runs).proportion_ci()
    return {"runs": runs, "hits": hits, "share": hits / runs, "low": interval.low, "high": interval.high}


def print_null(null: Record) -> None:
    """Print the rates of runs in which anything was found."""

    def rate(part: Mapping[str, float]) -> str:
        return f"{part['share']:.1%} ({part['low']:.1%} to {part['high']:.1%})"

    rows = []
    for scenario, exchanges in null.items():
        for exchanged, part in exchanges.items():
            small_p = [f"{value:.2%}" for value in part["share_of_p_below_0.01"].values()]
            rows.append((scenario, exchanged, rate(part["any_q"]), rate(part["any_p_highest"]), *small_p))
    head = ("scenario", "labels exchanged among", f"runs with any q <= {LEVEL}", f"any max-T p <= {LEVEL}")
    print(table([*head, *(f"p <= 0.01, {kind}" for kind in FIRING)], rows))
