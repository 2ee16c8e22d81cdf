"""Which clips belong together, and which labels could as well have been another way round.

Clips of one recording are not independent, so they are one unit where all of them have the same classes: their labels
move together, among the recordings of their fold with as many clips (a class whose recordings have more clips than
others would else vary more than exchange lets expect). Where the clips of a recording differ in class, its clips are
units of their own, whose labels are exchanged within the recording: what is common to a recording then cannot pass for
an effect of a class. Resampling and splitting keep whole recordings together in any case.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class Units:
    """Clips of one label set, grouped.

    Attributes:
      unit: of every clip, from 0; -1 for clips that take no part.
      members: classes of every unit.
      stratum: of every unit; labels may be exchanged within one.
      recording: of every unit.
      group: of every recording; recordings may be drawn in each other's place within one: those of one fold and, where
        every clip has one class, of one class, so that no class vanishes. The only ones of their class in a fold are
        drawn in each other's place, for nothing would vary else.
    """

    unit: Int[np.ndarray, " clip"]
    members: Bool[np.ndarray, "unit class"]
    stratum: Int[np.ndarray, " unit"]
    recording: Int[np.ndarray, " unit"]
    group: Int[np.ndarray, " recording"]

    def sums(self, values: np.ndarray) -> Float[np.ndarray, "unit *axes"]:
        """Sums over the clips of every unit, in float64."""
        order = np.argsort(self.unit, kind="stable")[np.count_nonzero(self.unit < 0) :]
        starts = np.searchsorted(self.unit[order], np.arange(len(self.stratum)))
        return np.add.reduceat(values[order], starts, axis=0, dtype=np.float64)

    def exchanged(self, rng: np.random.Generator) -> Bool[np.ndarray, "unit class"]:
        """The classes of every unit after one random exchange."""
        order = np.argsort(self.stratum, kind="stable")
        drawn = np.lexsort((rng.random(len(order)), self.stratum))
        found = np.empty_like(self.members)
        found[order] = self.members[drawn]
        return found

    @property
    def fixed(self) -> Bool[np.ndarray, " clip"]:
        """Clips whose labels no exchange changes: their stratum has no unit of other classes."""
        if not len(self.stratum):
            return np.zeros(len(self.unit), bool)
        order = np.argsort(self.stratum, kind="stable")
        starts = np.searchsorted(self.stratum[order], np.arange(self.stratum.max() + 1))
        members = self.members[order]
        alike = (np.logical_or.reduceat(members, starts) == np.logical_and.reduceat(members, starts)).all(axis=1)
        return (self.unit >= 0) & alike[self.stratum][self.unit]

    def drawn(self, rng: np.random.Generator) -> Int[np.ndarray, " unit"]:
        """How often every unit is in a bootstrap sample: as many recordings as there are, with replacement."""
        order, first, size = self._groups()
        picked = order[first + (rng.random(len(order)) * size).astype(int)]
        return np.bincount(picked, minlength=len(order))[self.recording]

    def halved(self, rng: np.random.Generator) -> Bool[np.ndarray, " unit"]:
        """A random half of the recordings of every group; the other half is the rest."""
        order = np.lexsort((rng.random(len(self.group)), self.group))
        _, first, _ = self._groups()
        odd = rng.integers(2, size=len(order))[first]  # which half has one more
        half = np.empty(len(order), bool)
        half[order] = (np.arange(len(order)) - first + odd) % 2 == 0
        return half[self.recording]

    def _groups(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Recordings in the order of their groups; for each place where its group begins, and the group's size."""
        order = np.argsort(self.group, kind="stable")
        ordered = self.group[order]
        first, behind = np.searchsorted(ordered, ordered, "left"), np.searchsorted(ordered, ordered, "right")
        return order, first, behind - first


def find_units(
    members: Bool[np.ndarray, "clip class"], sources: Sequence[Hashable], folds: Sequence[Hashable]
) -> Units:
    """Units of clips; clips of no class take no part.

    Args:
      members: classes of every clip.
      sources: recording of every clip.
      folds: of every clip; labels stay in their fold.
    """
    recordings: dict[tuple[Hashable, Hashable], list[int]] = {}
    for clip in np.flatnonzero(members.any(axis=1)).tolist():
        recordings.setdefault((folds[clip], sources[clip]), []).append(clip)
    unit, strata, recording = np.full(len(members), -1), list[Hashable](), list[int]()
    clips_of, groups = list[int](), list[tuple[Hashable, Hashable]]()
    one_class = (members.sum(axis=1) <= 1).all()
    for (fold, source), clips in recordings.items():
        whole = bool((members[clips] == members[clips[0]]).all())
        for some in [clips] if whole else [[clip] for clip in clips]:
            unit[some] = len(clips_of)
            clips_of.append(some[0])
            strata.append((fold, whole, len(clips) if whole else source))
            recording.append(len(groups))
        groups.append((fold, int(members[clips[0]].argmax()) if whole and one_class else None))
    alone = {group for group, number in Counter(groups).items() if number == 1}
    groups = [(group[0], "alone") if group in alone else group for group in groups]
    return Units(
        unit, members[np.array(clips_of, np.int64)], _numbered(strata), np.array(recording, np.int64), _numbered(groups)
    )


def _numbered(keys: Sequence[Hashable]) -> Int[np.ndarray, " key"]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
