"""Matched controls: random neuron sets that an ablation has to beat.

A control has as many neurons in each layer as its target and none of the target's. Matched by activity, each of its
neurons is drawn from those of the layer that are most like the one it stands for, in activation rate and in the size of
what it writes to the residual stream, mean |a| x norm of its outgoing weights: silencing such a neuron disturbs the
network as much, whatever the neuron answers to.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jaxdissect.errors import InputError
from jaxdissect.neuron_sets import NeuronSet

MATCHES = ("activity", "layer", "shift")
NEAREST = 64  # candidates for a neuron; more where that would not give enough different controls
ROUNDS = 200  # of drawing, before a pool counts as too small


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
    chosen: NeuronSet, shape: tuple[int, int], controls: int, seed: int, activity: Activity | None = None
) -> Int[np.ndarray, "control changed 2"]:
    """Random neuron sets that match a target, all different.

    Args:
      chosen: the target.
      shape: layers, and neurons per layer, of the encoder.
      controls: how many.
      seed: of the draws; the same target and seed give the same controls.
      activity: to match neuron by neuron; None: by layer only.

    Raises:
      InputError: the layers have too few other neurons for so many different controls.
    """
    pairs = chosen.pairs
    if not controls:
        return np.zeros((0, len(pairs), 2), np.int64)
    require_pool(chosen, shape, controls)
    nearest = shape[1] if activity is None else _nearest(chosen, shape, controls)
    rng = np.random.default_rng([seed, len(pairs), *pairs.ravel()])
    candidates = [_candidates(pairs, row, shape, nearest, activity) for row in range(len(pairs))]
    found: dict[tuple[int, ...], np.ndarray] = {}
    for _ in range(ROUNDS):
        for drawn in _draw(pairs, candidates, shape, controls, rng):
            found.setdefault(tuple(sorted(drawn[:, 0] * shape[1] + drawn[:, 1])), drawn)
            if len(found) == controls:
                return np.stack(list(found.values()))
    raise _too_small(chosen, controls, len(found))


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


def require_pool(chosen: NeuronSet, shape: tuple[int, int], controls: int) -> None:
    """Refuse a target whose layers have too few other neurons.

    Raises:
      InputError: there are fewer than `controls` different neuron sets of the target's sizes.
    """
    possible = _possible(chosen, shape, shape[1])
    if possible < controls:
        raise _too_small(chosen, controls, possible)


def _possible(chosen: NeuronSet, shape: tuple[int, int], nearest: int) -> int:
    """Different controls if each neuron has at most `nearest` candidates, all those of a layer the same ones."""
    sizes = np.unique(chosen.pairs[:, 0], return_counts=True)[1].tolist()
    return math.prod(math.comb(min(nearest, shape[1] - size), size) for size in sizes)


def _nearest(chosen: NeuronSet, shape: tuple[int, int], controls: int) -> int:
    """How many candidates each neuron needs."""
    nearest = max(NEAREST, 4 * int(np.unique(chosen.pairs[:, 0], return_counts=True)[1].max()))
    while nearest < shape[1] and _possible(chosen, shape, nearest) < 1.25 * controls:
        nearest = math.ceil(1.25 * nearest)
    return nearest


def _candidates(
    pairs: np.ndarray, row: int, shape: tuple[int, int], nearest: int, activity: Activity | None
) -> Int[np.ndarray, " candidate"]:
    """Neurons that may stand for one of the target's, of the same layer and not the target's own, most alike first."""
    layer, neuron = pairs[row]
    free = np.setdiff1d(np.arange(shape[1]), pairs[pairs[:, 0] == layer, 1])
    if activity is None:
        return free
    place = np.stack([_ranks(values[layer]) for values in (activity.rate, activity.impact)])
    distance = np.square(place[:, free] - place[:, [neuron]]).sum(axis=0)
    return free[np.argsort(distance, kind="stable")[:nearest]]


def _ranks(values: Float[np.ndarray, " neuron"]) -> Float[np.ndarray, " neuron"]:
    """Ranks from 0 to 1; equal values share their mean."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[group] / max(len(values) - 1, 1)


def _draw(
    pairs: np.ndarray, candidates: list[np.ndarray], shape: tuple[int, int], controls: int, rng: np.random.Generator
) -> Int[np.ndarray, "control changed 2"]:
    """Some controls, perhaps not all different: neuron by neuron in a random order, each from what is left."""
    drawn = np.tile(pairs, (controls, 1, 1))
    taken = np.zeros((controls, *shape), bool)
    draws, complete = np.arange(controls), np.ones(controls, bool)
    for row in rng.permutation(len(pairs)):
        layer = pairs[row, 0]
        keys = np.where(taken[:, layer, candidates[row]], -1.0, rng.random((controls, len(candidates[row]))))
        best = keys.argmax(axis=1)
        complete &= keys[draws, best] >= 0
        drawn[:, row, 1] = candidates[row][best]
        taken[draws, layer, drawn[:, row, 1]] = True
    return drawn[complete]


def _too_small(chosen: NeuronSet, controls: int, possible: int) -> InputError:
    return InputError(
        f"The control pool of {chosen.name!r} is too small: outside the target, its layers have {possible:,} neuron "
        f"sets of its sizes, and {controls} different ones are wanted: lower --controls, or choose a smaller set."
    )
