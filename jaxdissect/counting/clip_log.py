"""What became of every clip of a task, while it is being counted."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8

from jaxdissect.audio.decode import ClipStatus
from jaxdissect.errors import InputError

KINDS = ("ok", "short", "silent", "unreadable")


class ClipLog:
    """The status of each clip by its number, in arrays that stay small for millions of clips."""

    def __init__(self, clips: int) -> None:
        self.kind: UInt8[np.ndarray, " clip"] = np.zeros(clips, np.uint8)  # 0: not counted yet
        self.samples: Int[np.ndarray, " clip"] = np.zeros(clips, np.int32)
        self.tokens: Int[np.ndarray, " clip"] = np.zeros(clips, np.int32)  # that were counted
        self.reason: Int[np.ndarray, " clip"] = np.zeros(clips, np.int32)
        self.reasons: list[str] = []
        self._number: dict[str, int] = {}

    @property
    def done(self) -> Bool[np.ndarray, " clip"]:
        """Which clips have been counted, or found unreadable."""
        return self.kind > 0

    @property
    def counted(self) -> Bool[np.ndarray, " clip"]:
        """Which clips have been counted."""
        return self.done & (self.kind != 1 + KINDS.index("unreadable"))

    def put(self, clip: int, status: ClipStatus, tokens: int) -> None:
        """Note what became of a clip, and how many of its tokens were counted."""
        self.kind[clip] = 1 + KINDS.index(status.status)
        self.samples[clip], self.tokens[clip] = status.samples, tokens
        self.reason[clip] = self._number_of(status.reason)

    def add(self, other: "ClipLog") -> None:
        """Take over what another process noted of other clips, or of clips that could not be read here.

        Raises:
          InputError: a clip stands in both, so it was counted twice.
        """
        twice = np.flatnonzero(self.counted & other.counted)
        if len(twice):
            raise InputError(
                f"{len(twice):,} clips were counted twice, the first has the number {twice[0]}: two jobs have worked "
                f"in one run directory. Remove one of their states in `state/activations` there; the others stay."
            )
        new = np.array([self._number_of(reason) for reason in other.reasons] or [0], np.int32)
        taken = other.done & ~self.counted
        for name in ("kind", "samples", "tokens"):
            getattr(self, name)[taken] = getattr(other, name)[taken]
        self.reason[taken] = new[other.reason[taken]]

    def statuses(self) -> tuple[ClipStatus, ...]:
        """Of all clips.

        Raises:
          InputError: some have not been counted.
        """
        missing = np.flatnonzero(~self.done)
        if len(missing):
            raise InputError(f"{len(missing):,} clips were not counted, the first has the number {missing[0]}.")
        return tuple(
            ClipStatus(int(samples), KINDS[kind - 1], self.reasons[reason])
            for samples, kind, reason in zip(self.samples, self.kind, self.reason, strict=True)
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """For a state file, with `reasons` beside."""
        return {f"log.{name}": getattr(self, name) for name in ("kind", "samples", "tokens", "reason")}

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray], reasons: Sequence[str]) -> "ClipLog":
        """From what `arrays` gave."""
        log = ClipLog(0)
        log.kind, log.samples, log.tokens, log.reason = (
            arrays[f"log.{name}"] for name in ("kind", "samples", "tokens", "reason")
        )
        log.reasons = list(reasons)
        log._number = {reason: number for number, reason in enumerate(log.reasons)}
        return log

    def _number_of(self, reason: str) -> int:
        if reason not in self._number:
            self._number[reason] = len(self.reasons)
            self.reasons.append(reason)
        return self._number[reason]
