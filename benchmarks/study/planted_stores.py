"""Stores with planted pairs: counts of clips in which known neurons answer to known classes, among noise.

A planted pair is a class and a neuron whose log-odds of firing are raised by `strength` on the clips of the class.
Around it is what real stores hold: neurons of very different rates, latent factors that many neurons share, and
recordings that were cut into several clips. Shares and rates of the kinds of neurons are about those of m2d_tiny on
the 1,600 clips of folds 1-4 of ESC-50, whose 9,216 neurons are: 5.7% that never fire, 1.2% that fire in a single clip
(mostly at one token), 10.1% in several clips but at less than 0.2% of all tokens (log-odds of their rates -8.8 +- 1.6),
0.9% at more than 90%, and others (-1.8 +- 1.5). Rare ones come in bursts there, of 2.2 tokens in a clip in which they
fire, which they do not here.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt16

from jaxdissect.significance.units import find_units

FOLDS = 5
TOKENS = 160  # of a clip
KINDS = {"ordinary": 0.82, "always": 0.01, "rare": 0.10, "single clip": 0.01, "never": 0.06}  # shares of the neurons
FIRING = tuple(KINDS)[:-1]
ODDS = {"ordinary": (-2.0, 1.6), "always": (5.0, 0.0), "rare": (-9.3, 1.8)}  # log-odds of firing, and their deviation
SINGLE = -4.0  # log-odds in the clip in which a neuron fires
FACTORS = 6  # latent factors that all neurons share, of recordings and of clips
SHARED_SD = {"recording": 0.7, "clip": 0.5}  # of the log-odds, by factors
OWN_SD = {"recording": 0.5, "clip": 0.3}  # of the neuron alone
SIZES = ((1,), (1,), (1, 2), (3,))  # of the recordings of a class, in turn, where classes differ; ESC-50 spans as much


@dataclass(frozen=True)
class Design:
    """A store to be drawn.

    Attributes:
      classes, layers, neurons: how many.
      clips_per_class: the same in every class, as many in each fold: a multiple of `FOLDS`.
      planted: neurons of each class, a neuron answers to one class at most.
      strength: what its log-odds rise by on clips of that class.
      unequal: classes differ in how many clips their recordings have (`SIZES`); by default 1, 2, 3, 1, 2, ... in all.
    """

    classes: int = 8
    clips_per_class: int = 30
    layers: int = 4
    neurons: int = 64
    planted: int = 0
    strength: float = 0.0
    unequal: bool = False

    def clips(self) -> tuple[Int[np.ndarray, " clip"], Int[np.ndarray, " clip"], Int[np.ndarray, " clip"]]:
        """Class, fold and recording of every clip."""
        rows: list[tuple[int, int, int]] = []
        recordings = itertools.count()
        for label, fold in itertools.product(range(self.classes), range(FOLDS)):
            left = self.clips_per_class // FOLDS
            for size in itertools.cycle(SIZES[label % len(SIZES)] if self.unequal else (1, 2, 3)):
                rows += [(label, fold, next(recordings))] * min(size, left)
                left -= size
                if left <= 0:
                    break
        label, fold, recording = np.array(rows).T
        return label, fold, recording


@dataclass(frozen=True, eq=False)
class Store:
    """Counts of every clip, and the truth about them.

    Attributes:
      counts: active tokens.
      tokens: of every clip.
      members: classes of every clip.
      folds, recordings: of every clip.
      truth: the planted pairs.
      kind: of every neuron, a name in `KINDS`.
    """

    counts: UInt16[np.ndarray, "clip layer neuron"]
    tokens: Int[np.ndarray, " clip"]
    members: Bool[np.ndarray, "clip class"]
    folds: Int[np.ndarray, " clip"]
    recordings: Int[np.ndarray, " clip"]
    truth: Bool[np.ndarray, "class layer neuron"]
    kind: Shaped[np.ndarray, "layer neuron"]

    def shuffled(self, rng: np.random.Generator) -> "Store":
        """The same with labels exchanged among the recordings of a fold, and no pair that is true."""
        units = find_units(self.members, self.recordings.tolist(), self.folds.tolist())
        members = units.exchanged(rng)[units.unit]
        return dataclasses.replace(self, members=members, truth=np.zeros_like(self.truth))


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of activations and of their squares over the tokens of each class, and of all clips."""

    total: Float[np.ndarray, "class layer neuron"]
    squares: Float[np.ndarray, "class layer neuron"]
    all_total: Float[np.ndarray, "layer neuron"]
    all_squares: Float[np.ndarray, "layer neuron"]


def streams(seed: int, *key: int) -> tuple[np.random.Generator, int]:
    """What a run draws from, and the seed of its permutations: independent of each other and of any other key's."""
    drawn, permuted = np.random.SeedSequence(seed, spawn_key=key).spawn(2)
    return np.random.default_rng(drawn), int(permuted.generate_state(1, np.uint64)[0])


def make_store(design: Design, rng: np.random.Generator) -> Store:
    """Draw a store: active tokens are binomial, given log-odds that add base, noise and planted strength."""
    label, fold, recording = design.clips()
    kind = draw_kinds(design.layers * design.neurons, rng)
    odds = draw_log_odds(kind, recording, rng)
    truth = draw_truth(design, kind, rng)
    odds += design.strength * truth[label]
    counts = rng.binomial(TOKENS, 1 / (1 + np.exp(-odds))).astype(np.uint16)
    shape = (design.layers, design.neurons)
    return Store(
        counts.reshape(-1, *shape), np.full(len(label), TOKENS), np.eye(design.classes, dtype=bool)[label], fold,
        recording, truth.reshape(-1, *shape), kind.reshape(shape),
    )  # fmt: skip


def draw_kinds(neurons: int, rng: np.random.Generator) -> Shaped[np.ndarray, " neuron"]:
    """A name in `KINDS` for every neuron."""
    ends = np.cumsum([round(share * neurons) for share in KINDS.values()])[:-1]
    return np.array(list(KINDS))[rng.permutation(np.searchsorted(ends, np.arange(neurons), side="right"))]


def draw_log_odds(
    kind: Shaped[np.ndarray, " neuron"], recording: Int[np.ndarray, " clip"], rng: np.random.Generator
) -> Float[np.ndarray, "clip neuron"]:
    """Log-odds of firing, before anything is planted; -inf where a neuron does not fire."""
    clips = len(recording)
    middle, deviation = np.array([ODDS.get(one, (0, 0)) for one in kind.tolist()]).T
    base = rng.normal(middle, deviation)
    odds = np.broadcast_to(base, (clips, len(kind))).copy()
    for level, of_clip in (("recording", recording), ("clip", np.arange(clips))):
        odds += draw_noise(level, int(of_clip[-1]) + 1, len(kind), rng)[of_clip]
    single = np.flatnonzero(kind == "single clip")
    odds[:, np.isin(kind, ("single clip", "never"))] = -np.inf
    odds[rng.integers(clips, size=len(single)), single] = SINGLE
    return odds


def draw_noise(level: str, rows: int, neurons: int, rng: np.random.Generator) -> Float[np.ndarray, "row neuron"]:
    """Noise of recordings or of clips: what factors bring to all neurons, and what is each neuron's own."""
    loading = rng.normal(0, SHARED_SD[level] / math.sqrt(FACTORS), (FACTORS, neurons))
    return rng.normal(size=(rows, FACTORS)) @ loading + rng.normal(0, OWN_SD[level], (rows, neurons))


def draw_truth(
    design: Design, kind: Shaped[np.ndarray, " neuron"], rng: np.random.Generator
) -> Bool[np.ndarray, "class neuron"]:
    """The planted pairs, all of ordinary neurons."""
    truth = np.zeros((design.classes, len(kind)), bool)
    chosen = rng.choice(np.flatnonzero(kind == "ordinary"), design.classes * design.planted, replace=False)
    truth[np.repeat(np.arange(design.classes), design.planted), chosen] = True
    return truth


def draw_sums(store: Store, rng: np.random.Generator) -> Sums:
    """Activations of active tokens are exponential, of the others zero.

    Their sum over the k active tokens of a clip is Gamma(k); the sum of their squares is its mean given that sum.
    """
    counts = store.counts.astype(np.float64)
    total = rng.standard_gamma(counts)
    squares = 2 * total**2 / (counts + 1)
    return Sums(of_classes(store, total), of_classes(store, squares), total.sum(axis=0), squares.sum(axis=0))


def of_classes(store: Store, values: Float[np.ndarray, "clip layer neuron"]) -> Float[np.ndarray, "class layer neuron"]:
    """Sums over the clips of each class."""
    flat = store.members.T.astype(np.float64) @ values.reshape(len(values), -1)
    return flat.reshape(-1, *values.shape[1:])


def composition() -> dict[str, Any]:
    """What the stores are made of, in log-odds; recall depends on it."""
    return {
        "tokens_per_clip": TOKENS, "folds": FOLDS, "kinds": KINDS, "log_odds": ODDS, "single_clip": SINGLE,
        "factors": FACTORS, "shared_sd": SHARED_SD, "own_sd": OWN_SD,
    }  # fmt: skip
