"""Running a training from wherever it stands to its end: crops in, steps, curve, checkpoints."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdissect.errors import TrainingError
from jaxdissect.sharding import replicate, shard_clips
from jaxdissect.training.checkpoints import Checkpoints
from jaxdissect.training.crops import Clips, Crops, crops
from jaxdissect.training.loop import Schedule, TrainState, train_step
from jaxdissect.training.objective import Objective

AHEAD = 2  # batches made ready while the device computes
COLLAPSED = 0.02  # spread of M2D's targets below which they all say the same


@dataclasses.dataclass(frozen=True)
class Feed:
    """How crops reach the devices.

    Attributes:
      samples: of a crop.
      parts: of a batch, a multiple of the devices.
      part_size: clips in a part; gradients are taken part by part.
      seed: of the order of the clips and the places of the crops.
    """

    samples: int
    parts: int
    part_size: int
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """Clips of a step."""
        return self.parts * self.part_size

    def batch(self, clips: Clips, step: int) -> Crops:
        """The crops of a step, in parts."""
        batch = crops(clips, self.seed, step, self.batch_size, self.samples)
        shape = (self.parts, self.part_size)
        return Crops(batch.pcm.reshape(*shape, -1), batch.members.reshape(*shape, -1))


@dataclasses.dataclass
class Fitted:
    """A training so far.

    Attributes:
      state: after the last step.
      curve: means over `log_steps` steps each: `step` (the last), `loss`, `learning_rate`, and the objective's metrics.
      seconds: spent in steps, over all sessions.
    """

    state: TrainState
    curve: list[dict[str, float]]
    seconds: float


def fit(
    objective: Objective,
    schedule: Schedule,
    clips: Clips,
    feed: Feed,
    state: TrainState,
    checkpoints: Checkpoints,
    mesh: Mesh,
    log_steps: int = 20,
    save_minutes: float = 5.0,
    progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> Fitted:
    """Train to the schedule's last step, going on from the newest checkpoint if there is one.

    Args:
      objective, schedule, clips, feed: what is trained, how, and on what.
      state: before the first step.
      checkpoints: where states are kept; the first is written within `save_minutes`.
      mesh: devices.
      log_steps: steps between two points of the curve; losses are looked at then.
      save_minutes: between two checkpoints.
      progress: called at every point of the curve with the steps done and the point.

    Raises:
      TrainingError: a loss or gradient is not finite, or M2D's targets have collapsed; the newest checkpoint is good.
    """
    state = replicate(state, mesh)
    found = checkpoints.restore(state)
    fitted = Fitted(state, [], 0.0) if found is None else Fitted(found[0], found[1]["curve"], found[1]["seconds"])
    first = int(fitted.state.step)
    step = train_step(objective, schedule, feed.seed, mesh)
    pending: list[Any] = []
    began, saved = time.monotonic() - fitted.seconds, time.monotonic()
    for number, batch in _ahead(lambda number: feed.batch(clips, number), first, schedule.steps):
        pcm, members = shard_clips((batch.pcm, batch.members), mesh)
        fitted.state, metrics = step(fitted.state, pcm, members)
        pending.append(metrics)
        done = number + 1
        if done % log_steps and done < schedule.steps:
            continue
        fitted.curve.append(_point(pending, done, schedule))
        pending = []
        fitted.seconds = time.monotonic() - began
        progress(done, fitted.curve[-1])
        if done == schedule.steps or time.monotonic() - saved > 60 * save_minutes:
            checkpoints.save(done, fitted.state, {"curve": fitted.curve, "seconds": fitted.seconds})
            saved = time.monotonic()
    return fitted


def _ahead(make: Callable[[int], Crops], first: int, last: int) -> Iterator[tuple[int, Crops]]:
    """Batches `first` to before `last`, a few made ready in a thread."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(make, number) for number in range(first, min(first + AHEAD, last))]
        for number in range(first, last):
            batch = waiting.pop(0).result()
            if number + AHEAD < last:
                waiting.append(pool.submit(make, number + AHEAD))
            yield number, batch


def _point(pending: list[Any], done: int, schedule: Schedule) -> dict[str, float]:
    """One point of the curve, from the metrics of its steps.

    Raises:
      TrainingError: see `fit`.
    """
    rows = jax.device_get(pending)
    for number, row in enumerate(rows, start=done - len(rows) + 1):
        bad = next((name for name in ("loss", "gradient_norm") if not math.isfinite(row[name])), None)
        if bad:
            raise TrainingError(
                f"the {bad.replace('_', ' ')} of step {number} is {row[bad]}: lower --learning-rate, or look at the "
                f"audio."
            )
    point = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if point.get("spread", 1.0) < COLLAPSED:
        raise TrainingError(
            f"by step {done} M2D has collapsed to one answer for every patch (spread {point['spread']:.3f} of 1): "
            f"raise --ema, lower --learning-rate, choose --standardise batch, or begin with --start-from an encoder "
            f"trained by msm_mae."
        )
    return {"step": done, "learning_rate": float(schedule.rate(done - 1))} | point
