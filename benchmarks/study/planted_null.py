"""Stores without anything to find: how often is something found, by what labels are exchanged among?"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.stats

from benchmarks.common import table
from benchmarks.study.planted_selectors import EXCHANGED, LEVEL, permuted, q_values
from benchmarks.study.planted_stores import FIRING, Design, Store, make_store, streams
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.significance.permutation import LEAST_POOL

SCENARIOS = ("nothing planted", "planted, labels shuffled", "nothing planted, classes differ in size of recordings")
CLASSES = 8
ENOUGH = math.ceil(CLASSES / (LEAST_POOL * LEVEL))  # permutations that let a lone pair of the smallest pool be found


def measure_null(runs: int, permutations: int, seed: int) -> dict[str, Any]:
    """So many runs of every scenario, with every kind of exchange."""
    null = {}
    with progress_bar(what="Runs with nothing to find", total=len(SCENARIOS) * runs, unit="run") as bar:
        for scenario in SCENARIOS:
            found = []
            for run in range(runs):
                found.append(null_run(scenario, permutations, *streams(seed, 0, SCENARIOS.index(scenario), run)))
                bar.update()
            null[scenario] = {name: summary([one[name] for one in found]) for name in EXCHANGED}
    return null


def null_run(scenario: str, permutations: int, rng: np.random.Generator, seed: int) -> dict[str, Any]:
    """What is found where there is nothing to find, by what labels are exchanged among."""
    if scenario == SCENARIOS[1]:
        store = make_store(Design(CLASSES, planted=4, strength=2.0), rng).shuffled(rng)
    else:
        store = make_store(Design(CLASSES, unequal=scenario == SCENARIOS[2]), rng)
    return {name: found_in(store, permutations, seed, name) for name in EXCHANGED}


def found_in(store: Store, permutations: int, seed: int, exchanged: str) -> dict[str, Any]:
    """The smallest q and the smallest p of max-T, and how p-values of kinds lie."""
    tested = permuted(store, permutations, seed, exchanged)
    q = q_values(tested)
    of_kind = {kind: tested.p_value[:, store.kind == kind] for kind in FIRING}
    return {
        "lowest_q": float(np.nanmin(q)),
        "discoveries": int((q <= LEVEL).sum()),
        "lowest_p_highest": float(np.nanmin(tested.p_highest)),
        "p_below_0.01": {kind: int((p <= 0.01).sum()) for kind, p in of_kind.items()},
        "p": {kind: int(np.isfinite(p).sum()) for kind, p in of_kind.items()},
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the runs of a scenario, with one kind of exchange."""
    small, tested = ({kind: sum(run[name][kind] for run in runs) for kind in FIRING} for name in ("p_below_0.01", "p"))
    return {
        "any_q": share_of_runs([run["lowest_q"] for run in runs]),
        "any_p_highest": share_of_runs([run["lowest_p_highest"] for run in runs]),
        "share_of_p_below_0.01": {kind: small[kind] / max(1, tested[kind]) for kind in FIRING},
        "lowest_q": [round(run["lowest_q"], 4) for run in runs],
        "lowest_p_highest": [round(run["lowest_p_highest"], 4) for run in runs],
        "discoveries": [run["discoveries"] for run in runs],
    }


def share_of_runs(runs: list[float]) -> dict[str, Any]:
    """How many are at most `LEVEL`, with the exact 95% interval of the share."""
    hits = sum(value <= LEVEL for value in runs)
    interval = scipy.stats.binomtest(hits, len(runs)).proportion_ci()
    return {"runs": len(runs), "hits": hits, "share": hits / len(runs), "low": interval.low, "high": interval.high}


def print_null(null: Mapping[str, Any]) -> None:
    """Runs in which anything was found."""

    def share(part: Mapping[str, Any]) -> str:
        return f"{part['share']:.1%} ({part['low']:.1%} to {part['high']:.1%})"

    rows = [
        (
            scenario, exchanged, share(part["any_q"]), share(part["any_p_highest"]),
            *(f"{value:.2%}" for value in part["share_of_p_below_0.01"].values()),
        )
        for scenario, kinds in null.items()
        for exchanged, part in kinds.items()
    ]  # fmt: skip
    head = ("scenario", "labels exchanged among", f"runs with any q <= {LEVEL}", f"any max-T p <= {LEVEL}")
    print(table([*head, *(f"p <= 0.01, {kind}" for kind in FIRING)], rows))
