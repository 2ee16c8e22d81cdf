"""Stores with planted pairs: counts of clips in which known neurons answer to known classes, among noise.

A planted pair is a class and a neuron whose log-odds of firing are raised by `strength` on the clips of the class.
Around it is what real stores hold: neurons of very different rates, latent factors that many neurons share, and
recordings that were cut into several clips. Fractions and rates of the kinds of neurons are about those of m2d_tiny on
the 1,600 clips of folds 1-4 of ESC-50. Its 9,216 neurons are:

- 5.7% that never fire;
- 1.2% that fire in a single clip, mostly at one token;
- 10.1% that fire in several clips but at less than 0.2% of all tokens (log-odds of their rates -8.8 +- 1.6). A rare
  neuron fires in bursts there, at 2.2 tokens of a clip in which it fires, but not here;
- 0.9% that fire at more than 90% of all tokens;
- others (-1.8 +- 1.5).
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt16

from jaxdissect.significance.units import find_units
from jaxdissect.types import Record

FOLDS = 5
TOKENS = 160  # of a clip
KINDS = {"ordinary": 0.82, "always": 0.01, "rare": 0.10, "single clip": 0.01, "never": 0.06}  # fractions of neurons
FIRING = tuple(KINDS)[:-1]
ODDS = {"ordinary": (-2.0, 1.6), "always": (5.0, 0.0), "rare": (-9.3, 1.8)}  # log-odds of firing, and their deviation
SINGLE = -4.0  # log-odds in the clip in which a neuron fires
FACTORS = 6  # latent factors that all neurons share, of recordings and of clips
SHARED_SD = {"recording": 0.7, "clip": 0.5}  # of the log-odds, by factors
OWN_SD = {"recording": 0.5, "clip": 0.3}  # of the log-odds, by the neuron alone
# Clips of a recording, in turn, in class n modulo 4, where classes differ. ESC-50's classes differ as much.
SIZES = ((1,), (1,), (1, 2), (3,))


@dataclass(frozen=True)
class Design:
    """A store to be drawn.

    Attributes:
      classes: number of classes.
      clips_per_class: number of clips in every class, a multiple of `FOLDS`, as many in each fold.
      layers: number of layers.
      neurons: number of neurons in each layer.
      planted: number of neurons planted for each class; a neuron answers to one class at most.
      strength: rise of a planted neuron's log-odds on clips of its class.
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
      counts: active tokens of every clip and neuron.
      tokens: tokens of every clip.
      members: classes of every clip.
      folds: fold of every clip.
      recordings: number of the recording of every clip.
      truth: planted pairs.
      kind: kind of every neuron, a name in `KINDS`.
    """

    counts: UInt16[np.ndarray, "clip layer neuron"]
    tokens: Int[np.ndarray, " clip"]
    members: Bool[np.ndarray, "clip class"]
    folds: Int[np.ndarray, " clip"]
    recordings: Int[np.ndarray, " clip"]
    truth: Bool[np.ndarray, "class layer neuron"]
    kind: Shaped[np.ndarray, "layer neuron"]

    def shuffled(self, rng: np.random.Generator) -> "Store":
        """This store with labels exchanged among the recordings of a fold, and so without a planted pair."""
        units = find_units(self.members, self.recordings.tolist(), self.folds.tolist())
        members = units.exchanged(rng)[units.unit]
        return dataclasses.replace(self, members=members, truth=np.zeros_like(self.truth))


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of activations and of their squares over the tokens of each class, and of all clips.

    Attributes:
      total: sums of activations by class.
      squares: sums of squared activations by class.
      all_total: sums of activations over all clips.
      all_squares: sums of squared activations over all clips.
    """

    total: Float[np.ndarray, "class layer neuron"]
    squares: Float[np.ndarray, "class layer neuron"]
    all_total: Float[np.ndarray, "layer neuron"]
    all_squares: Float[np.ndarray, "layer neuron"]


def streams(seed: int, *key: int) -> tuple[np.random.Generator, int]:
    """Generator of a run's data and seed of its permutations, independent of each other and of any other key's."""
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
        counts.reshape(-1, *shape),
        np.full(len(label), TOKENS),
        np.eye(design.classes, dtype=bool)[label],
        fold,
        recording,
        truth.reshape(-1, *shape),
        kind.reshape(shape),
    )


def draw_kinds(neurons: int, rng: np.random.Generator) -> Shaped[np.ndarray, " neuron"]:
    """A name in `KINDS` for every neuron."""
    # The kinds take consecutive ranges of numbers, which a permutation spreads over the neurons.
    ends = np.cumsum([round(fraction * neurons) for fraction in KINDS.values()])[:-1]
    return np.array(list(KINDS))[rng.permutation(np.searchsorted(ends, np.arange(neurons), side="right"))]


def draw_log_odds(
    kind: Shaped[np.ndarray, " neuron"], recording: Int[np.ndarray, " clip"], rng: np.random.Generator
) -> Float[np.ndarray, "clip neuron"]:
    """Log-odds of firing, before anything is planted; -inf where a neuron does not fire."""
    clips = len(recording)
    mean, deviation = np.array([ODDS.get(name, (0, 0)) for name in kind.tolist()]).T
    base = rng.normal(mean, deviation)
    odds = np.broadcast_to(base, (clips, len(kind))).copy()
    for source, number in (("recording", recording), ("clip", np.arange(clips))):
        odds += draw_noise(source, int(number[-1]) + 1, len(kind), rng)[number]  # a row for each recording or clip
    single = np.flatnonzero(kind == "single clip")
    odds[:, np.isin(kind, ("single clip", "never"))] = -np.inf
    odds[rng.integers(clips, size=len(single)), single] = SINGLE
    return odds


def draw_noise(source: str, rows: int, neurons: int, rng: np.random.Generator) -> Float[np.ndarray, "row neuron"]:
    """Noise of recordings or of clips: a part by factors that all neurons share, and a part of each neuron alone."""
    loading = rng.normal(0, SHARED_SD[source] / math.sqrt(FACTORS), (FACTORS, neurons))
    return rng.normal(size=(rows, FACTORS)) @ loading + rng.normal(0, OWN_SD[source], (rows, neurons))


def draw_truth(
    design: Design, kind: Shaped[np.ndarray, " neuron"], rng: np.random.Generator
) -> Bool[np.ndarray, "class neuron"]:
    """The planted pairs, all of ordinary neurons."""
    truth = np.zeros((design.classes, len(kind)), bool)
    chosen = rng.choice(np.flatnonzero(kind == "ordinary"), design.classes * design.planted, replace=False)
    truth[np.repeat(np.arange(design.classes), design.planted), chosen] = True
    return truth


def draw_sums(store: Store, rng: np.random.Generator) -> Sums:
    """Sums of activations that are exponential at active tokens and zero at the others.

    Their sum over the k active tokens of a clip is Gamma(k). The sum of their squares is set to its mean given that
    sum.
    """
    counts = store.counts.astype(np.float64)
    total = rng.standard_gamma(counts)
    squares = 2 * total**2 / (counts + 1)
    return Sums(class_sums(store, total), class_sums(store, squares), total.sum(axis=0), squares.sum(axis=0))


def class_sums(store: Store, values: Float[np.ndarray, "clip layer neuron"]) -> Float[np.ndarray, "class layer neuron"]:
    """Sums over the clips of each class."""
    flat = store.members.T.astype(np.float64) @ values.reshape(len(values), -1)
    return flat.reshape(-1, *values.shape[1:])


def composition() -> Record:
    """The constants that stores are drawn with, in log-odds; recall depends on them."""
    return {
        "tokens_per_clip": TOKENS,
        "folds": FOLDS,
        "kinds": KINDS,
        "log_odds": ODDS,
        "single_clip": SINGLE,
        "factors": FACTORS,
        "shared_sd": SHARED_SD,
        "own_sd": OWN_SD,
    }
