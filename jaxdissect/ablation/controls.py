"""Matched controls: random neuron sets that an ablation has to beat.

A control has as many neurons in each layer as its target and none of any target's. Matched by activity, each of its
neurons is drawn from those of the layer that are most like the one it stands for, in activation rate and in the size of
what it writes to the residual stream, mean |a| x norm of its outgoing weights: silencing such a neuron disturbs the
network as much, whatever the neuron answers to.

The k-th controls of all targets come from one draw, in which every neuron has one stand-in: targets that share neurons
have k-th controls that share as many. Their sum is then as variable as that of the targets, which an aggregate test
over targets depends on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jaxdissect.errors import InputError
from jaxdissect.selection.neuron_sets import NeuronSet

MATCHES = ("activity", "layer", "shift")
NEAREST = 64  # candidates for a neuron; more where that would not give enough different controls
ATTEMPTS = 200  # for a control, before a pool counts as too small


@dataclass(frozen=True, eq=False)
class Activity:
    """How much neurons do, whatever for.

    Attributes:
      rate: share of tokens at which the neuron is active.
      impact: mean |a| over tokens x Euclidean norm of the neuron's outgoing weights.
    """

    rate: Float[np.ndarray, "layer neuron"]
    impact: Float[np.ndarray, "layer neuron"]


def shifted_control(chosen: NeuronSet, shape: tuple[int, int]) -> Int[np.ndarray, "1 changed 2"]:
    """The published control: every neuron index + 1 in the same layer, the last one to the first.

    It may touch the target where that holds neighbours.
    """
    return ((chosen.pairs + np.array([0, 1])) % np.array(shape))[None]


def draw_controls(
    targets: Sequence[NeuronSet], shape: tuple[int, int], controls: int, seed: int, activity: Activity | None = None
) -> list[Int[np.ndarray, "control changed 2"]]:
    """Random neuron sets that match each target; those of one target all differ.

    A stand-in is drawn at random among those candidates that have stood for the neuron least often so far.

    Args:
      targets: of one suite.
      shape: layers, and neurons per layer, of the encoder.
      controls: how many of each.
      seed: of the draws; the same targets and seed give the same controls.
      activity: to match neuron by neuron; None: by layer only.

    Raises:
      InputError: the layers have too few other neurons for so many different controls.
    """
    union = np.unique(np.concatenate([target.pairs for target in targets]), axis=0)
    members = [np.flatnonzero((union[:, None] == target.pairs).all(axis=2).any(axis=1)) for target in targets]
    if not controls:
        return [np.zeros((0, len(rows), 2), np.int64) for rows in members]
    require_pools(targets, shape, controls)
    free = [np.setdiff1d(np.arange(shape[1]), union[union[:, 0] == layer, 1]) for layer in range(shape[0])]
    nearest = np.full(shape[0], shape[1])
    if activity is not None:
        nearest = np.max([_nearest(target, free, controls) for target in targets], axis=0)
    candidates = [_candidates(pair, free, nearest, activity) for pair in union]
    rng = np.random.default_rng([seed, *union.ravel()])
    used = [np.zeros(len(own)) for own in candidates]
    seen: list[set[bytes]] = [set() for _ in targets]
    found: list[np.ndarray] = []
    for attempt in range(ATTEMPTS * controls):
        drawn, places = _draw(union, candidates, used if attempt % 2 == 0 else None, shape, rng)
        if drawn is None:
            continue
        keys = [np.sort(drawn[rows] @ [shape[1], 1]).tobytes() for rows in members]
        if any(key in known for key, known in zip(keys, seen, strict=True)):
            continue
        for key, known in zip(keys, seen, strict=True):
            known.add(key)
        for counts, place in zip(used, places, strict=True):
            counts[place] += 1
        found.append(drawn)
        if len(found) == controls:
            every = np.stack(found)
            return [every[:, rows] for rows in members]
    raise _too_small(min(targets, key=lambda target: len(target.neurons)), controls, len(found))


def overlap(controls: Int[np.ndarray, "control changed 2"]) -> float:
    """Share of its neurons that a control has in common with another one, on average; 0 for fewer than two.

    A target has none in common with its controls. Where they share much with each other, they lie closer together than
    the target could lie to them by chance, and p-values are too small.
    """
    drawn, size = controls.shape[:2]
    if drawn < 2:
        return 0.0
    counts = np.unique(controls.reshape(-1, 2), axis=0, return_counts=True)[1]
    return float((counts * (counts - 1)).sum() / (size * drawn * (drawn - 1)))


def require_pools(targets: Sequence[NeuronSet], shape: tuple[int, int], controls: int) -> None:
    """Refuse targets whose layers have too few other neurons.

    Raises:
      InputError: there are fewer than `controls` different neuron sets of a target's sizes outside all targets, or the
        targets together hold more than half of a layer.
    """
    union = np.unique(np.concatenate([target.pairs for target in targets]), axis=0)
    held = np.bincount(union[:, 0], minlength=shape[0])
    free = [np.arange(shape[1] - count) for count in held.tolist()]
    for target in targets:
        possible = _possible(target, [len(own) for own in free])
        if possible < controls:
            raise _too_small(target, controls, possible)
    if controls and (2 * held > shape[1]).any():
        layer = int(held.argmax())
        raise InputError(
            f"The control pool is too small: the neuron sets together hold {held[layer]} of the {shape[1]} neurons of "
            f"layer {layer}, and controls have to keep clear of all: give fewer sets at once, or keep fewer "
            f"neurons."
        )


def _possible(target: NeuronSet, candidates: Sequence[int]) -> int:
    """Different controls if the neurons of a layer have so many candidates, all the same ones."""
    layers, sizes = np.unique(target.pairs[:, 0], return_counts=True)
    return math.prod(
        math.comb(candidates[layer], size) for layer, size in zip(layers.tolist(), sizes.tolist(), strict=True)
    )


def _nearest(target: NeuronSet, free: Sequence[np.ndarray], controls: int) -> Int[np.ndarray, " layer"]:
    """How many candidates the neurons of each layer need for a target's sake."""
    sizes = np.bincount(target.pairs[:, 0], minlength=len(free))
    nearest = max(NEAREST, 4 * int(sizes.max()))
    most = max(len(own) for own in free)
    while nearest < most and _possible(target, [min(nearest, len(own)) for own in free]) < 1.25 * controls:
        nearest = math.ceil(1.25 * nearest)
    return np.where(sizes > 0, nearest, 0)


def _candidates(
    pair: Int[np.ndarray, "2"], free: Sequence[np.ndarray], nearest: np.ndarray, activity: Activity | None
) -> Int[np.ndarray, " candidate"]:
    """Neurons that may stand for one, of the same layer and of no target, most alike first."""
    layer, neuron = pair
    if activity is None:
        return free[layer]
    place = np.stack([_ranks(values[layer]) for values in (activity.rate, activity.impact)])
    distance = np.square(place[:, free[layer]] - place[:, [neuron]]).sum(axis=0)
    return free[layer][np.argsort(distance, kind="stable")[: nearest[layer]]]


def _ranks(values: Float[np.ndarray, " neuron"]) -> Float[np.ndarray, " neuron"]:
    """Ranks from 0 to 1; equal values share their mean."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[group] / max(len(values) - 1, 1)


def _draw(
    union: Int[np.ndarray, "changed 2"],
    candidates: Sequence[np.ndarray],
    used: Sequence[np.ndarray] | None,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, "changed 2"] | None, list[int]]:
    """A stand-in for every neuron, in a random order and each once; None if candidates run out.

    Also its place among the neuron's candidates.
    """
    drawn, taken, places = union.copy(), np.zeros(shape, bool), [0] * len(union)
    for row in rng.permutation(len(union)):
        layer = union[row, 0]
        keys = rng.random(len(candidates[row])) + (0.0 if used is None else used[row])
        keys[taken[layer, candidates[row]]] = np.inf
        place = int(keys.argmin())
        if np.isinf(keys[place]):
            return None, places
        places[row], drawn[row, 1] = place, candidates[row][place]
        taken[layer, drawn[row, 1]] = True
    return drawn, places


def _too_small(target: NeuronSet, controls: int, possible: int) -> InputError:
    return InputError(
        f"The control pool of {target.name!r} is too small: its layers have {possible:,} neuron sets of its sizes "
        f"outside all targets, {controls} different ones are wanted: lower --controls, or give fewer or smaller ones."
    )
