"""Judging pairs of class and neuron on clips of recordings that they were not chosen by.

A pair is judged by how well the neuron's reading of a clip tells clips of the class from all others (AUROC), and by how
much more often the neuron fires for the class: p(class) / p(others). Both have a 95% interval in which a recording
counts once, however many clips were cut from it.
"""

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.selection.auroc import READINGS, auroc_of_sums, centred_ranks
from jaxdissect.significance.clips import Clips
from jaxdissect.significance.intervals import auroc_interval, bootstrap_ratios

LEAST_CLIPS, LEAST_RECORDINGS = 4, 2  # held-out clips and recordings of a class, and of the others, to judge by
READING_NAMES = (*READINGS, "active share")
SHARE = len(READINGS)
TEST_SPLIT, HALVES, NOTHING = "test split", "halves", "nothing"  # what neurons are judged by


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of class and neuron.

    Attributes:
      label: number of each pair's class.
      layer, neuron: neuron of each pair.
      reading: number in `READING_NAMES` of what the neuron is judged by.
    """

    label: Int[np.ndarray, " pair"]
    layer: Int[np.ndarray, " pair"]
    neuron: Int[np.ndarray, " pair"]
    reading: Int[np.ndarray, " pair"]

    def __len__(self) -> int:
        return len(self.label)

    @staticmethod
    def of(specific: Bool[np.ndarray, "class layer neuron"], reading: np.ndarray | int) -> "Pairs":
        """The pairs of a mask, in the order (class, layer, neuron).

        Args:
          specific: pairs that were chosen.
          reading: number of the reading, for all pairs or with the axes of the mask.
        """
        label, layer, neuron = np.nonzero(specific)
        return Pairs(label, layer, neuron, np.broadcast_to(reading, specific.shape)[label, layer, neuron])


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """How pairs do on held-out clips; NaN where a class has too few of them.

    Attributes:
      auroc, auroc_low, auroc_high: one-vs-rest AUROC, and the ends of its interval.
      ratio, ratio_low, ratio_high: p(class) / p(others), and the ends of its interval.
      clips: held-out clips of the pair's class.
    """

    auroc: Float[np.ndarray, " pair"]
    auroc_low: Float[np.ndarray, " pair"]
    auroc_high: Float[np.ndarray, " pair"]
    ratio: Float[np.ndarray, " pair"]
    ratio_low: Float[np.ndarray, " pair"]
    ratio_high: Float[np.ndarray, " pair"]
    clips: Int[np.ndarray, " pair"]


NAMES = tuple(field.name for field in dataclasses.fields(Judged))


def judge(
    pairs: Pairs, clips: Clips, members: Bool[np.ndarray, "clip class"], resamples: int = 200, seed: int = 0
) -> Judged:
    """Judge pairs on some of the clips.

    Args:
      pairs: pairs to judge.
      clips: what every neuron did on every clip.
      members: classes of the clips to judge by; none for any other clip.
      resamples: resamples of the recordings for the interval of the ratio; 0: it has none.
      seed: seed of the resamples.
    """
    rows = np.flatnonzero(members.any(axis=1))
    values, active = _of_pairs(pairs, clips, rows)
    tokens = clips.tokens[rows].astype(np.float64)
    recordings = np.unique([clips.sources[row] for row in rows.tolist()], return_inverse=True)[1]
    results = {name: np.full(len(pairs), np.nan) for name in NAMES} | {"clips": np.zeros(len(pairs), np.int64)}
    for label in np.unique(pairs.label):
        own, inside = pairs.label == label, members[rows, label]
        results["clips"][own] = inside.sum()
        sizes = [(part.sum(), len(np.unique(recordings[part]))) for part in (inside, ~inside)]
        if any(number < LEAST_CLIPS or sources < LEAST_RECORDINGS for number, sources in sizes):
            continue
        ranks = centred_ranks(values[:, own])
        auroc = auroc_of_sums(ranks[inside].sum(axis=0)[None], inside.sum()[None], len(rows))[0]
        results["auroc"][own] = auroc
        results["auroc_low"][own], results["auroc_high"][own] = auroc_interval(auroc, sizes[0][1], sizes[1][1])
        rates = [active[part][:, own].sum(axis=0) / tokens[part].sum() for part in (inside, ~inside)]
        with np.errstate(divide="ignore", invalid="ignore"):
            results["ratio"][own] = rates[0] / rates[1]
        if resamples:
            ends = bootstrap_ratios(active[:, own], tokens, inside, recordings, resamples, seed)
            results["ratio_low"][own], results["ratio_high"][own] = ends
    return Judged(**results)


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """How the neurons of one label set do on clips that they were not chosen by.

    Attributes:
      by: `TEST_SPLIT`; `HALVES`: neurons chosen by half of the recordings were judged on the other half, both ways; or
        `NOTHING`.
      pairs: judgement of every chosen pair, in their order. By halves, that of pairs which no half chose is NaN.
      aurocs: AUROC of everything that was judged: of the chosen pairs, or of what both halves chose.
      left_out: held-out clips that were left out, because their recording is among those chosen by.
    """

    by: str
    pairs: Judged
    aurocs: Float[np.ndarray, " judged"]
    left_out: int = 0


def judge_label_set(
    pairs: Pairs, clips: Clips, choose: Callable[[Int[np.ndarray, " unit"]], Pairs] | None, resamples: int, seed: int
) -> HeldOut:
    """Judge the pairs of one label set on held-out clips, or where there are none, by halves of the recordings.

    Args:
      pairs: chosen pairs.
      clips: what every neuron did on every clip, with the classes of the label set alone.
      choose: chooses pairs from a sample of the units, by how often each unit counts; None: the selection cannot be
        repeated on a sample.
      resamples: resamples of the recordings for the intervals of ratios.
      seed: seed of the resamples and of the halves.
    """
    if clips.held_out is not None and clips.held_out.any():
        known = {clips.sources[row] for row in np.flatnonzero(clips.members.any(axis=1)).tolist()}
        fresh = np.array([source not in known for source in clips.sources])
        judged = judge(pairs, clips, clips.held_out & fresh[:, None], resamples, seed)
        left_out = int((clips.held_out.any(axis=1) & ~fresh).sum())
        return HeldOut(TEST_SPLIT, judged, judged.auroc[~np.isnan(judged.auroc)], left_out)
    if choose is None:
        return HeldOut(NOTHING, judge(pairs, clips, np.zeros_like(clips.members)), np.zeros(0))
    units = clips.units()
    # The last number keeps the generator from those of permutations, resamples and splits.
    half = units.half(np.random.default_rng([seed, 0, 3]))
    judgements = []
    for part in (half, ~half):
        other = clips.members & ((units.unit >= 0) & ~part[units.unit])[:, None]
        chosen = choose(part.astype(np.int64))
        judgements.append((chosen, judge(chosen, clips, other, resamples, seed)))
    aurocs = np.concatenate([judged.auroc for _, judged in judgements])
    return HeldOut(HALVES, _mean_over_halves(pairs, judgements), aurocs[~np.isnan(aurocs)])


def _mean_over_halves(pairs: Pairs, judgements: list[tuple[Pairs, Judged]]) -> Judged:
    """The mean judgement of every pair over the halves that chose it; NaN where none did."""
    place = {key: number for number, key in enumerate(_keys(pairs))}
    values = {name: np.full((len(judgements), len(pairs)), np.nan) for name in NAMES}
    for half, (chosen, judged) in enumerate(judgements):
        rows = [(place[key], row) for row, key in enumerate(_keys(chosen)) if key in place]
        for into, row in rows:
            for name in NAMES:
                values[name][half, into] = getattr(judged, name)[row]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing
        means = {name: np.nanmean(value, axis=0) for name, value in values.items()}
    return Judged(**means | {"clips": np.nan_to_num(means["clips"]).astype(np.int64)})


def _keys(pairs: Pairs) -> list[tuple[int, ...]]:
    return list(zip(pairs.label.tolist(), pairs.layer.tolist(), pairs.neuron.tolist(), strict=True))


def _of_pairs(
    pairs: Pairs, clips: Clips, rows: Int[np.ndarray, " chosen"]
) -> tuple[Float[np.ndarray, "chosen pair"], Float[np.ndarray, "chosen pair"]]:
    """What the pairs are judged by on some clips, and their active tokens.

    Only the neurons of the pairs are read from the memory-mapped files.
    """
    active = _columns(clips.counts, pairs, rows)
    values = active / np.maximum(clips.tokens[rows], 1)[:, None]
    for number in np.unique(pairs.reading[pairs.reading < SHARE]):
        own = pairs.reading == number
        values[:, own] = _columns(clips.readings()[number], pairs, rows)[:, own]
    return values, active


def _columns(source: np.ndarray, pairs: Pairs, rows: Int[np.ndarray, " chosen"]) -> Float[np.ndarray, "chosen pair"]:
    result = np.empty((len(rows), len(pairs)))
    for place, row in enumerate(rows):  # one clip is contiguous in the file
        result[place] = source[row][pairs.layer, pairs.neuron]
    return result
