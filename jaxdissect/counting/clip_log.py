"""What became of every clip of a task, while it is being counted."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8

from jaxdissect.audio.decode import ClipStatus
from jaxdissect.errors import InputError

KINDS = ("ok", "short", "silent", "unreadable")  # a clip's kind is its place here + 1, and 0 until it is counted
UNREADABLE = 1 + KINDS.index("unreadable")
ARRAYS = ("kind", "samples", "tokens", "reason")  # of a log, with a number for every clip


class ClipLog:
    """The status of each clip by its number, in arrays that stay small for millions of clips.

    Attributes:
      kind: number of the clip's status; 0: not counted yet.
      samples: recorded samples.
      tokens: tokens that were counted.
      reason: place of the clip's reason in `reasons`.
    """

    def __init__(self, clips: int) -> None:
        self.kind: UInt8[np.ndarray, " clip"] = np.zeros(clips, np.uint8)
        self.samples: Int[np.ndarray, " clip"] = np.zeros(clips, np.int32)
        self.tokens: Int[np.ndarray, " clip"] = np.zeros(clips, np.int32)
        self.reason: Int[np.ndarray, " clip"] = np.zeros(clips, np.int32)
        self._number_of: dict[str, int] = {}  # reasons, which few clips have, and most of these the same

    @property
    def reasons(self) -> list[str]:
        """Reasons of the clips' statuses, each once."""
        return list(self._number_of)

    @property
    def done(self) -> Bool[np.ndarray, " clip"]:
        """Clips that have been counted, or found unreadable."""
        return self.kind > 0

    @property
    def counted(self) -> Bool[np.ndarray, " clip"]:
        """Clips that have been counted."""
        return self.done & (self.kind != UNREADABLE)

    def put(self, clip: int, status: ClipStatus, tokens: int) -> None:
        """Note what became of a clip.

        Args:
          clip: number of the clip.
          status: what became of it.
          tokens: how many of its tokens were counted.
        """
        self.kind[clip] = 1 + KINDS.index(status.status)
        self.samples[clip], self.tokens[clip] = status.samples, tokens
        self.reason[clip] = self._number(status.reason)

    def add(self, other: "ClipLog") -> None:
        """Take over what another process noted of other clips, or of clips that could not be read here.

        Args:
          other: log of the other process.

        Raises:
          InputError: a clip was counted by both.
        """
        twice = np.flatnonzero(self.counted & other.counted)
        if len(twice):
            raise InputError(
                f"{len(twice):,} clips were counted twice, the first has the number {twice[0]}: two jobs have worked "
                f"in one run directory. Remove one of their states in `state/activations` there, and keep the others."
            )
        # Reasons have other numbers in each log; a log without any reason has noted no clip.
        number = np.array([self._number(reason) for reason in other.reasons] or [0], np.int32)
        taken = other.done & ~self.counted  # what was counted wins over what could not be read
        for name in ("kind", "samples", "tokens"):
            getattr(self, name)[taken] = getattr(other, name)[taken]
        self.reason[taken] = number[other.reason[taken]]

    def statuses(self) -> tuple[ClipStatus, ...]:
        """The statuses of all clips.

        Raises:
          InputError: some have not been counted.
        """
        missing = np.flatnonzero(~self.done)
        if len(missing):
            raise InputError(f"{len(missing):,} clips were not counted, the first has the number {missing[0]}.")
        reasons = self.reasons
        return tuple(
            ClipStatus(int(samples), KINDS[kind - 1], reasons[reason])
            for samples, kind, reason in zip(self.samples, self.kind, self.reason, strict=True)
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays for a state file, which holds `reasons` beside them."""
        return {f"log.{name}": getattr(self, name) for name in ARRAYS}

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray], reasons: Sequence[str]) -> "ClipLog":
        """The log of a state file.

        Args:
          arrays: result of `arrays`.
          reasons: `reasons` of the same log.
        """
        log = ClipLog(0)
        for name in ARRAYS:
            setattr(log, name, arrays[f"log.{name}"])
        log._number_of = {reason: number for number, reason in enumerate(reasons)}
        return log

    def _number(self, reason: str) -> int:
        return self._number_of.setdefault(reason, len(self._number_of))
