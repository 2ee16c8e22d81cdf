"""Measuring time: queued calls on a device, rounds in turn, medians with their range."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from jaxdissect.errors import InputError

IN_FLIGHT = 4  # calls that wait for the device at a time: enough to hide launching, few enough for its memory
Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """Repetitions of a measurement, in s, in the order in which they were made."""

    median: float
    least: float
    most: float
    repetitions: tuple[float, ...]

    @staticmethod
    def of(seconds: Sequence[float]) -> "Timing":
        """Of at least one repetition."""
        return Timing(float(np.median(seconds)), min(seconds), max(seconds), tuple(seconds))


@dataclass(frozen=True)
class Failure:
    """Why something could not be measured, in words."""

    reason: str


def attempt(action: Callable[[], Result]) -> Result | Failure:
    """What an action returns, or why it failed: compilers and allocators raise many kinds of errors."""
    try:
        return action()
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0][:300]
        return Failure(reason if isinstance(error, InputError) else f"{type(error).__name__}: {reason}")


class Rounds:
    """Calls that are measured in turn, each over as many repetitions at a time as take `least` s.

    Attributes:
      calls: how many of each are one repetition.
      seconds: mean seconds of a call, one value a round.
    """

    def __init__(self, calls: Mapping[str, Callable[[], Any]], least: float) -> None:
        self._calls = dict(calls)
        self.calls = {name: calls_for(call, least) for name, call in calls.items()}
        self.seconds: dict[str, list[float]] = {name: [] for name in calls}

    def measure(self) -> None:
        """One round."""
        for name, call in self._calls.items():
            self.seconds[name].append(queued_seconds(call, self.calls[name]))

    def release(self) -> None:
        """Give up what the calls hold; what was measured stays."""
        self._calls.clear()


def queued_seconds(call: Callable[[], Any], calls: int) -> float:
    """Mean seconds of a call that returns arrays, from the first launch until all results are there.

    The next calls are launched while the device is busy, so launching does not count unless it takes longer than the
    work. A processor, which would run several at a time, gets one after the other.
    """
    ahead = 0 if jax.default_backend() == "cpu" else IN_FLIGHT
    running: deque[Any] = deque()
    start = time.perf_counter()
    for _ in range(calls):
        running.append(call())
        if len(running) > ahead:
            jax.block_until_ready(running.popleft())
    jax.block_until_ready(list(running))  # a deque is no pytree
    return (time.perf_counter() - start) / calls


def calls_for(call: Callable[[], Any], least: float) -> int:
    """How many calls take `least` s, at least one; compiles, and warms up."""
    jax.block_until_ready(call())
    return max(1, math.ceil(least / max(queued_seconds(call, 1), 1e-7)))


def best_seconds(call: Callable[[], Any], least: float = 0.02, tries: int = 5) -> float:
    """The least of `tries` measurements of one call in s, each over as many queued calls as take `least` s."""
    calls = calls_for(call, least)
    return min(queued_seconds(call, calls) for _ in range(tries))
