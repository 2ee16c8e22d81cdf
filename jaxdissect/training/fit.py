"""Running a training from its newest checkpoint to its end: crops in, steps, curve, checkpoints."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdissect.errors import TrainingError, require
from jaxdissect.runtime.profiling import step_done
from jaxdissect.runtime.resume import resumable
from jaxdissect.runtime.sharding import replicate, shard_clips
from jaxdissect.training.checkpoints import Checkpoints
from jaxdissect.training.crops import Clips, Crops, crops
from jaxdissect.training.objective import Metrics, Objective
from jaxdissect.training.step import Schedule, TrainState, train_step

AHEAD = 2  # batches made ready while the device computes
COLLAPSED = 0.1  # spread of M2D's targets: 0.03-0.08 in deaf encoders, about 0.5 in untrained and trained ones
Row: TypeAlias = dict[str, float]  # metrics of one step, or of one point of the curve


@dataclasses.dataclass(frozen=True)
class Feed:
    """How crops reach the devices.

    Attributes:
      samples: number of samples of a crop.
      parts: number of parts of a batch, a multiple of the devices.
      part_size: number of clips in a part; gradients are taken part by part.
      seed: seed of the order of the clips and the places of the crops.
    """

    samples: int
    parts: int
    part_size: int
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """Number of clips of a step."""
        return self.parts * self.part_size

    def batch(self, clips: Clips, step: int) -> Crops:
        """The crops of a step, in parts."""
        batch = crops(clips, self.seed, step, self.batch_size, self.samples)
        # (clip, ...) -> (part, clip, ...)
        pcm, members = (array.reshape(self.parts, self.part_size, -1) for array in (batch.pcm, batch.members))
        return Crops(pcm, members)


@dataclasses.dataclass
class Fitted:
    """A training so far.

    Attributes:
      state: state after the last step.
      curve: means over `log_steps` steps each: `step` (the last), `loss`, `learning_rate`, and the objective's metrics.
      rows: metrics of the steps since the last point of the curve.
      seconds: time spent in steps, s, also before the training was interrupted.
    """

    state: TrainState
    curve: list[Row]
    rows: list[Row]
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
    progress: Callable[[int, Row], None] = lambda step, metrics: None,
) -> Fitted:
    """Train to the schedule's last step, from the newest checkpoint if there is one.

    Args:
      objective, schedule: loss to train with, and schedule of the updates.
      clips, feed: clips to train on, and their way to the devices.
      state: state before the first step; its arrays may be gone afterwards.
      checkpoints: place of the states, saved every `save_minutes`, at the end, and when the training is interrupted.
      mesh: devices.
      log_steps: number of steps between two points of the curve.
      save_minutes: minutes between two checkpoints.
      progress: function called at every point of the curve with the number of steps done and the point.

    Raises:
      InputError: the newest checkpoint was made on other audio, or with other sizes.
      TrainingError: a loss or gradient is not finite, or M2D's targets have collapsed; the checkpoints left are older.
    """
    fitted = _resumed(state, checkpoints, clips, mesh)
    step = train_step(objective, schedule, feed.seed, mesh)
    # Metrics stay on the device until they are looked at: to wait for each would stop the device between steps.
    pending: list[Metrics] = []
    began = time.monotonic() - fitted.seconds  # as if there had been no interruption

    def look() -> None:
        """Bring the metrics of the last steps to the host, and stop if they are not finite."""
        fitted.rows += _finite(pending, int(fitted.state.step), checkpoints)
        pending.clear()
        fitted.seconds = time.monotonic() - began

    def save() -> None:
        look()
        _require_listening(fitted.rows, int(fitted.state.step))
        record = {"curve": fitted.curve, "rows": fitted.rows, "seconds": fitted.seconds, "audio": clips.sha256}
        checkpoints.save(int(fitted.state.step), fitted.state, record)

    with resumable(save, save_minutes) as between:
        for number, batch in _ahead(lambda number: feed.batch(clips, number), int(fitted.state.step), schedule.steps):
            fitted.state, metrics = step(fitted.state, *shard_clips((batch.pcm, batch.members), mesh))
            pending.append(metrics)
            done = number + 1
            step_done()
            if done % log_steps == 0 or done == schedule.steps:
                look()
                fitted.curve.append(_point(fitted.rows, done, schedule))
                fitted.rows = []
                progress(done, fitted.curve[-1])
            between()
    save()
    return fitted


def _resumed(state: TrainState, checkpoints: Checkpoints, clips: Clips, mesh: Mesh) -> Fitted:
    """The training as the newest checkpoint has it, or at its beginning."""
    saved = checkpoints.restore(state, mesh)
    if saved is None:
        return Fitted(replicate(state, mesh), [], [], 0.0)
    state, record = saved
    require(
        record["audio"] == clips.sha256,
        f"{checkpoints.folder} holds a training on other audio: the files have changed since. Bring them back, choose "
        f"another --out, or remove {checkpoints.folder.parent} to start afresh.",
    )
    return Fitted(state, record["curve"], record["rows"], record["seconds"])


def _ahead(make: Callable[[int], Crops], first: int, last: int) -> Iterator[tuple[int, Crops]]:
    """Batches `first` to before `last` with their numbers, a few made ready in a thread.

    Args:
      make: function that makes the batch of a number.
      first, last: number of the first batch, and the one behind the last.
    """
    # One thread: batches are made in their order.
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(make, number) for number in range(first, min(first + AHEAD, last))]
        for number in range(first, last):
            batch = waiting.pop(0).result()
            # Before the batch is handed out, so that the thread works while the device computes.
            if number + AHEAD < last:
                waiting.append(pool.submit(make, number + AHEAD))
            yield number, batch


def _finite(pending: list[Metrics], done: int, checkpoints: Checkpoints) -> list[Row]:
    """The metrics of the last steps as numbers.

    Raises:
      TrainingError: a loss or a gradient is not finite; the state that it came from, and later ones, are forgotten.
    """
    rows = [{name: float(value) for name, value in row.items()} for row in jax.device_get(pending)]
    for number, row in enumerate(rows, start=done - len(rows) + 1):
        bad = next((name for name in ("loss", "gradient_norm") if not math.isfinite(row[name])), None)
        if bad:
            # State N is that after N updates: the loss of step N was computed from state N - 1.
            checkpoints.forget(number - 1)
            raise TrainingError(f"the {bad.replace('_', ' ')} of step {number} is {row[bad]}.")
    return rows


def _require_listening(rows: list[Row], done: int) -> None:
    """Recognise a collapse of M2D by the mean spread of some steps; other objectives have no spread.

    Raises:
      TrainingError: M2D has collapsed.
    """
    spread = float(np.mean([row.get("spread", 1.0) for row in rows])) if rows else 1.0
    if spread < COLLAPSED:
        raise TrainingError(
            f"by step {done} M2D has collapsed, its targets are almost the same for every clip (spread {spread:.3f} "
            f"of 1): raise --ema, lower --learning-rate, choose --standardise batch, or begin with "
            f"--start-from an encoder trained by msm_mae."
        )


def _point(rows: list[Row], done: int, schedule: Schedule) -> Row:
    """One point of the curve: means of the metrics of its steps, and the learning rate of the last.

    Raises:
      TrainingError: M2D has collapsed.
    """
    _require_listening(rows, done)
    point = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {"step": done, "learning_rate": float(schedule.rate(done - 1))} | point
