"""Units: which clips keep their labels together, and which units may exchange labels.

Clips of one recording are not independent. Where all of them have the same classes they are one unit, whose labels move
together. Labels are exchanged among the recordings of a fold that have as many clips: else a class with the longer
recordings would vary more than exchange lets expect.

Where the clips of a recording differ in class, each clip is a unit, and labels are exchanged within the recording. What
is common to a recording then cannot pass for an effect of a class. Resampling and splitting keep whole recordings
together in any case.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class Units:
    """Clips of one label set, grouped into units.

    Recordings are drawn in each other's place within groups. A group is the recordings of one fold and, where every
    clip has one class, of one class, so that no class vanishes. Recordings that are the only ones of their class in a
    fold form one group, since nothing would vary else.

    Attributes:
      unit: number of every clip's unit; -1 for a clip of no class.
      members: classes of every unit.
      stratum: number of every unit's stratum, within which labels may be exchanged.
      recording: number of every unit's recording.
      group: number of every recording's group.
    """

    unit: Int[np.ndarray, " clip"]
    members: Bool[np.ndarray, "unit class"]
    stratum: Int[np.ndarray, " unit"]
    recording: Int[np.ndarray, " unit"]
    group: Int[np.ndarray, " recording"]

    def sums(self, values: np.ndarray) -> Float[np.ndarray, "unit *axes"]:
        """Sums over the clips of every unit, in float64.

        Args:
          values: numbers of every clip, along the first axis.
        """
        # Clips in the order of their units; clips of no class (-1) come first and are cut off.
        order = np.argsort(self.unit, kind="stable")[np.count_nonzero(self.unit < 0) :]
        starts = np.searchsorted(self.unit[order], np.arange(len(self.stratum)))
        return np.add.reduceat(values[order], starts, axis=0, dtype=np.float64)

    def exchanged(self, rng: np.random.Generator) -> Bool[np.ndarray, "unit class"]:
        """The classes of every unit after one random exchange of labels within the strata."""
        order = np.argsort(self.stratum, kind="stable")
        shuffled = np.lexsort((rng.random(len(order)), self.stratum))  # random within a stratum
        members = np.empty_like(self.members)
        members[order] = self.members[shuffled]
        return members

    @property
    def fixed(self) -> Bool[np.ndarray, " clip"]:
        """Clips whose labels no exchange changes: their stratum has no unit of other classes."""
        if not len(self.stratum):
            return np.zeros(len(self.unit), bool)
        order = np.argsort(self.stratum, kind="stable")
        starts = np.searchsorted(self.stratum[order], np.arange(self.stratum.max() + 1))
        members = self.members[order]
        # All units of a stratum have the same classes where "any of them" and "all of them" agree.
        alike = (np.logical_or.reduceat(members, starts) == np.logical_and.reduceat(members, starts)).all(axis=1)
        return (self.unit >= 0) & alike[self.stratum][self.unit]

    def resampled(self, rng: np.random.Generator) -> Int[np.ndarray, " unit"]:
        """How often every unit is in one bootstrap sample of the recordings, drawn with replacement within groups."""
        order, first, size = self._groups()
        picked = order[first + (rng.random(len(order)) * size).astype(int)]
        return np.bincount(picked, minlength=len(order))[self.recording]

    def half(self, rng: np.random.Generator) -> Bool[np.ndarray, " unit"]:
        """Units of a random half of the recordings of every group; the other units are the other half."""
        order = np.lexsort((rng.random(len(self.group)), self.group))  # random within a group
        _, first, _ = self._groups()
        odd = rng.integers(2, size=len(order))[first]  # which half has one more recording
        chosen = np.empty(len(order), bool)
        chosen[order] = (np.arange(len(order)) - first + odd) % 2 == 0  # every second place of a group
        return chosen[self.recording]

    def _groups(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Recordings in the order of their groups; at each place, where its group begins, and the group's size."""
        order = np.argsort(self.group, kind="stable")
        ordered = self.group[order]
        first, behind = np.searchsorted(ordered, ordered, "left"), np.searchsorted(ordered, ordered, "right")
        return order, first, behind - first


def find_units(
    members: Bool[np.ndarray, "clip class"], sources: Sequence[Hashable], folds: Sequence[Hashable]
) -> Units:
    """Group clips into units; clips of no class take no part.

    Args:
      members: classes of every clip.
      sources: recording of every clip.
      folds: fold of every clip; labels stay in their fold.
    """
    recordings: dict[tuple[Hashable, Hashable], list[int]] = {}
    for clip in np.flatnonzero(members.any(axis=1)).tolist():
        recordings.setdefault((folds[clip], sources[clip]), []).append(clip)
    one_class_each = (members.sum(axis=1) <= 1).all()
    unit = np.full(len(members), -1)
    first_clip, recording, strata, groups = (
        list[int](),
        list[int](),
        list[Hashable](),
        list[tuple[Hashable, Hashable]](),
    )
    for (fold, source), clips in recordings.items():
        alike = bool((members[clips] == members[clips[0]]).all())
        for clips_of_unit in [clips] if alike else [[clip] for clip in clips]:
            unit[clips_of_unit] = len(first_clip)
            first_clip.append(clips_of_unit[0])
            recording.append(len(groups))
            strata.append((fold, alike, len(clips) if alike else source))
        groups.append((fold, int(members[clips[0]].argmax()) if alike and one_class_each else None))
    size = Counter(groups)
    groups = [(fold, kind) if size[fold, kind] > 1 else (fold, "alone") for fold, kind in groups]
    return Units(
        unit,
        members[np.array(first_clip, np.int64)],
        _numbered(strata),
        np.array(recording, np.int64),
        _numbered(groups),
    )


def _numbered(keys: Sequence[Hashable]) -> Int[np.ndarray, " key"]:
    """Numbers in the place of keys, from 0 in the order in which they appear."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
