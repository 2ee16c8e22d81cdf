"""Matched controls: random neuron sets that an ablation has to beat.

A control has as many neurons as its target, by default in each layer, and no neuron of any target. It is drawn neuron
by neuron: every neuron of a target has a *stand-in*, drawn from its *candidates*. `match` says which these are:

- "layer": candidates are all other neurons of the layer.
- "activity": candidates are the neurons of the layer that are most like the one they stand for, in the ranks of
  activation rate and of impact, the size of what a neuron writes to the residual stream (see `Activity`). To silence
  such a neuron disturbs the network as much, whatever the neuron responds to.
- "any": candidates are all other neurons, of any layer; for units of which a layer has few, as attention heads.
- "shift": the one published control, which is not drawn.

The k-th controls of all targets come from one draw, in which every neuron has one stand-in. So targets that share
neurons have k-th controls that share as many, and the sum over the k-th controls varies as the sum over the targets
does. The aggregate test over targets depends on that.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jaxdissect.errors import InputError, require
from jaxdissect.selection.neuron_sets import NeuronSet

MATCHES = ("activity", "layer", "any", "shift")
FEWEST_CANDIDATES = 64  # for a neuron; more where that would not give enough different controls
ATTEMPTS_PER_CONTROL = 200  # draws, before a pool counts as too small


@dataclass(frozen=True, eq=False)
class Activity:
    """How much neurons do, whatever they respond to.

    Attributes:
      rate: share of tokens at which the neuron is active.
      impact: mean |activation| over tokens x Euclidean norm of the neuron's outgoing weights.
    """

    rate: Float[np.ndarray, "layer neuron"]
    impact: Float[np.ndarray, "layer neuron"]


def shifted_control(target: NeuronSet, shape: tuple[int, int]) -> Int[np.ndarray, "1 changed 2"]:
    """The published control: every neuron index + 1 in the same layer, the last one to the first.

    It may touch the target where that holds neighbours.
    """
    # Modulo (layers, neurons): layers stay, and the index behind the last one is 0.
    return ((target.pairs + np.array([0, 1])) % np.array(shape))[None]


def draw_matched_controls(
    targets: Sequence[NeuronSet], shape: tuple[int, int], controls: int, seed: int, activity: Activity | None = None
) -> list[Int[np.ndarray, "control _changed 2"]]:
    """Random neuron sets that match each target; those of one target all differ.

    A stand-in is drawn at random among those candidates that have stood for the neuron least often so far.

    Args:
      targets: neuron sets of one suite.
      shape: layers, and neurons per layer, of the encoder.
      controls: number of controls of each target.
      seed: seed of the draws; the same targets and seed give the same controls.
      activity: activity to match neuron by neuron; None: match by layer only.

    Returns:
      (layer, neuron) pairs of each target's controls, in the order of the target's pairs.

    Raises:
      InputError: the layers have too few other neurons for so many different controls.
    """
    union = _union(targets)
    # Rows of the union that each target holds: pairs against pairs, (union, target, 2).
    rows_of = [np.flatnonzero((union[:, None] == target.pairs).all(axis=2).any(axis=1)) for target in targets]
    if not controls:
        return [np.zeros((0, len(rows), 2), np.int64) for rows in rows_of]
    require_control_pools(targets, shape, controls)
    candidates = _candidates(targets, union, shape, controls, activity)
    rng = np.random.default_rng([seed, *union.ravel()])
    times_used = [np.zeros(len(own)) for own in candidates]
    drawn_before: list[set[bytes]] = [set() for _ in targets]
    drawn: list[np.ndarray] = []
    for attempt in range(ATTEMPTS_PER_CONTROL * controls):
        # Every other attempt ignores how often candidates were used: else a small pool could run into a dead end.
        places = _draw_places(union, candidates, times_used if attempt % 2 == 0 else None, shape, rng)
        if places is None:
            continue
        stand_ins = union.copy()
        stand_ins[:, 1] = [own[place] for own, place in zip(candidates, places, strict=True)]
        # A control as a set of neurons, whatever the order: its sorted flat indices.
        keys = [np.sort(stand_ins[rows] @ [shape[1], 1]).tobytes() for rows in rows_of]
        if any(key in before for key, before in zip(keys, drawn_before, strict=True)):
            continue
        for key, before in zip(keys, drawn_before, strict=True):
            before.add(key)
        for times, place in zip(times_used, places, strict=True):
            times[place] += 1
        drawn.append(stand_ins)
        if len(drawn) == controls:
            stacked = np.stack(drawn)  # (control, union, 2)
            return [stacked[:, rows] for rows in rows_of]
    raise _too_small(min(targets, key=lambda target: len(target.neurons)), controls, len(drawn))


def draw_controls_of_any_layer(
    targets: Sequence[NeuronSet], shape: tuple[int, int], controls: int, seed: int
) -> list[Int[np.ndarray, "control _changed 2"]]:
    """As `draw_matched_controls`, with candidates from all layers.

    Args:
      targets, shape, controls, seed: as in `draw_matched_controls`.
    """
    drawn = draw_matched_controls(in_one_layer(targets, shape), (1, math.prod(shape)), controls, seed)
    return [np.stack(np.divmod(flat[..., 1], shape[1]), axis=-1) for flat in drawn]


def in_one_layer(targets: Sequence[NeuronSet], shape: tuple[int, int]) -> list[NeuronSet]:
    """The neuron sets with the neurons of all layers numbered one after the other, as if they were one layer.

    Args:
      targets: neuron sets.
      shape: layers, and neurons per layer, of the encoder.
    """
    flat = [[(0, layer * shape[1] + neuron) for layer, neuron in target.neurons] for target in targets]
    return [dataclasses.replace(target, neurons=pairs) for target, pairs in zip(targets, map(tuple, flat), strict=True)]


def require_control_pools(targets: Sequence[NeuronSet], shape: tuple[int, int], controls: int) -> None:
    """Refuse targets whose layers have too few other neurons.

    Args:
      targets: neuron sets of one suite.
      shape: layers, and neurons per layer, of the encoder.
      controls: number of controls of each target.

    Raises:
      InputError: there are fewer than `controls` different neuron sets of a target's sizes outside all targets, or the
        targets together hold more than half of a layer.
    """
    held = np.bincount(_union(targets)[:, 0], minlength=shape[0]).tolist()  # neurons of each layer
    for target in targets:
        possible = _possible_controls(target, [shape[1] - count for count in held])
        if possible < controls:
            raise _too_small(target, controls, possible)
    layer = held.index(max(held))
    require(
        not controls or 2 * held[layer] <= shape[1],
        f"The control pool is too small: the neuron sets together hold {held[layer]} of the {shape[1]} neurons of "
        f"layer {layer}, and controls have to keep clear of all: give fewer sets at once, or keep fewer neurons.",
    )


def control_overlap(controls: Int[np.ndarray, "control changed 2"]) -> float:
    """Fraction of its neurons that a control has in common with another one, on average; 0 for fewer than two.

    A target has none in common with its controls. Where controls share much with each other, they lie closer together
    than the target could lie to them by chance, and p-values are too small.
    """
    drawn, size = controls.shape[:2]
    if drawn < 2:
        return 0.0
    # A neuron in k controls is shared by k x (k - 1) ordered pairs of them.
    counts = np.unique(controls.reshape(-1, 2), axis=0, return_counts=True)[1]
    return float((counts * (counts - 1)).sum() / (size * drawn * (drawn - 1)))


def control_balance(
    targets: Sequence[NeuronSet], controls: Sequence[Int[np.ndarray, "_control _changed 2"]], activity: Activity
) -> tuple[float, float]:
    """Activation rate and impact of controls relative to those of their targets: 1 where they are matched.

    Args:
      targets: neuron sets.
      controls: controls of each.
      activity: activity of all neurons.

    Returns:
      ratio of rates and ratio of impacts, means over the targets that have controls; NaN if none has.
    """

    def ratio(values: Float[np.ndarray, "layer neuron"]) -> float:
        ratios = [
            values[drawn[..., 0], drawn[..., 1]].sum(axis=-1).mean() / values[tuple(target.pairs.T)].sum(axis=-1)
            for target, drawn in zip(targets, controls, strict=True)
            if len(drawn)
        ]
        return float(np.mean(ratios)) if ratios else np.nan

    return ratio(activity.rate), ratio(activity.impact)


def _union(targets: Sequence[NeuronSet]) -> Int[np.ndarray, "changed 2"]:
    """The neurons of all targets, sorted by layer and neuron, each once."""
    return np.unique(np.concatenate([target.pairs for target in targets]), axis=0)


def _possible_controls(target: NeuronSet, candidates: Sequence[int]) -> int:
    """Number of different controls, if all neurons of a layer have the same candidates.

    Args:
      target: the neuron set.
      candidates: number of candidates in each layer.
    """
    layers, sizes = np.unique(target.pairs[:, 0], return_counts=True)
    # Python's integers: NumPy's would overflow.
    return math.prod(
        math.comb(candidates[layer], size) for layer, size in zip(layers.tolist(), sizes.tolist(), strict=True)
    )


def _candidates(
    targets: Sequence[NeuronSet],
    union: Int[np.ndarray, "changed 2"],
    shape: tuple[int, int],
    controls: int,
    activity: Activity | None,
) -> list[np.ndarray]:
    """The candidates of every neuron of the union: of its layer and of no target, the most similar first."""
    free = [np.setdiff1d(np.arange(shape[1]), union[union[:, 0] == layer, 1]) for layer in range(shape[0])]
    if activity is None:
        return [free[layer] for layer in union[:, 0]]
    wanted = np.max([_candidates_wanted(target, free, controls) for target in targets], axis=0)
    ranks = np.array([[_ranks(layer) for layer in values] for values in (activity.rate, activity.impact)])
    candidates = []
    for layer, neuron in union:
        # Squared distance in the plane of both ranks, (2, free neurons) against (2, 1).
        distance = np.square(ranks[:, layer, free[layer]] - ranks[:, layer, [neuron]]).sum(axis=0)
        candidates.append(free[layer][np.argsort(distance, kind="stable")[: wanted[layer]]])
    return candidates


def _candidates_wanted(target: NeuronSet, free: Sequence[np.ndarray], controls: int) -> Int[np.ndarray, " layer"]:
    """Number of candidates that a neuron of each layer needs, so that a target has enough different controls."""
    sizes = np.bincount(target.pairs[:, 0], minlength=len(free))
    wanted = max(FEWEST_CANDIDATES, 4 * int(sizes.max()))
    most = max(len(own) for own in free)
    while wanted < most and _possible_controls(target, [min(wanted, len(own)) for own in free]) < 1.25 * controls:
        wanted = math.ceil(1.25 * wanted)
    return np.where(sizes > 0, wanted, 0)


def _ranks(values: Float[np.ndarray, " neuron"]) -> Float[np.ndarray, " neuron"]:
    """Ranks from 0 to 1; equal values share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # one more than the highest rank of each group of equal values
    return (last - (counts + 1) / 2)[group] / max(len(values) - 1, 1)


def _draw_places(
    union: Int[np.ndarray, "changed 2"],
    candidates: Sequence[np.ndarray],
    times_used: Sequence[np.ndarray] | None,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> list[int] | None:
    """Draw a stand-in for every neuron, each stand-in once; None if the candidates of a neuron are all taken.

    Args:
      union: the neurons.
      candidates: candidates of each.
      times_used: how often each candidate has been drawn so far, to prefer the least used; None: all are alike.
      shape: layers, and neurons per layer.
      rng: random generator.

    Returns:
      the stand-in's place among the candidates, for each neuron.
    """
    taken, places = np.zeros(shape, bool), [0] * len(union)
    for row in rng.permutation(len(union)):
        taken_here = taken[union[row, 0]]
        # Integers that count, plus random fractions that decide between equal counts.
        keys = rng.random(len(candidates[row])) + (0.0 if times_used is None else times_used[row])
        keys[taken_here[candidates[row]]] = np.inf
        places[row] = int(keys.argmin())
        if np.isinf(keys[places[row]]):
            return None
        taken_here[candidates[row][places[row]]] = True
    return places


def _too_small(target: NeuronSet, controls: int, possible: int) -> InputError:
    return InputError(
        f"The control pool of {target.name!r} is too small: its layers have {possible:,} neuron sets of its sizes "
        f"outside all targets, {controls} different ones are wanted: take fewer controls, fewer or smaller sets, or "
        f"controls from all layers (match any)."
    )
