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

from jaxdissect.errors import InputError, TrainingError
from jaxdissect.runtime.resume import resumable
from jaxdissect.runtime.sharding import replicate, shard_clips
from jaxdissect.training.checkpoints import Checkpoints
from jaxdissect.training.crops import Clips, Crops, crops
from jaxdissect.training.objective import Objective
from jaxdissect.training.step import Schedule, TrainState, train_step

AHEAD = 2  # batches made ready while the device computes
COLLAPSED = 0.1  # spread of M2D's targets: 0.03-0.08 in deaf encoders, about 0.5 in untrained and trained ones


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
      rows: metrics of the steps since the last point of the curve.
      seconds: spent in steps, over all sessions.
    """

    state: TrainState
    curve: list[dict[str, float]]
    rows: list[dict[str, float]]
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
      state: before the first step; its arrays may be gone afterwards.
      checkpoints: where states are kept, every `save_minutes`, at the end, and when the training is interrupted.
      mesh: devices.
      log_steps: steps between two points of the curve.
      save_minutes: between two checkpoints.
      progress: called at every point of the curve with the steps done and the point.

    Raises:
      InputError: the newest checkpoint is of other audio, or of other sizes.
      TrainingError: a loss or gradient is not finite, or M2D's targets have collapsed; what checkpoints are left are
        of before.
    """
    fitted = _resumed(state, checkpoints, clips, mesh)
    step = train_step(objective, schedule, feed.seed, mesh)
    pending: list[Any] = []
    began = time.monotonic() - fitted.seconds

    def look() -> None:
        """Bring what the steps have measured to the host, and stop if it is not finite."""
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
            if done % log_steps == 0 or done == schedule.steps:
                look()
                fitted.curve.append(_point(fitted.rows, done, schedule))
                fitted.rows = []
                progress(done, fitted.curve[-1])
            between()
    save()
    return fitted


def _resumed(state: TrainState, checkpoints: Checkpoints, clips: Clips, mesh: Mesh) -> Fitted:
    found = checkpoints.restore(state, mesh)
    if found is None:
        return Fitted(replicate(state, mesh), [], [], 0.0)
    state, record = found
    if record["audio"] != clips.sha256:
        raise InputError(
            f"{checkpoints.folder} holds a training on other audio: the files have changed since. Bring them back, "
            f"choose another --out, or remove {checkpoints.folder.parent} to start afresh."
        )
    return Fitted(state, record["curve"], record["rows"], record["seconds"])


def _ahead(make: Callable[[int], Crops], first: int, last: int) -> Iterator[tuple[int, Crops]]:
    """Batches `first` to before `last`, a few made ready in a thread."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(make, number) for number in range(first, min(first + AHEAD, last))]
        for number in range(first, last):
            batch = waiting.pop(0).result()
            if number + AHEAD < last:
                waiting.append(pool.submit(make, number + AHEAD))
            yield number, batch


def _finite(pending: list[Any], done: int, checkpoints: Checkpoints) -> list[dict[str, float]]:
    """The metrics of the last steps as numbers.

    Raises:
      TrainingError: a loss or a gradient is not finite; states from the one that it came of are forgotten.
    """
    rows = [{name: float(value) for name, value in row.items()} for row in jax.device_get(pending)]
    for number, row in enumerate(rows, start=done - len(rows) + 1):
        bad = next((name for name in ("loss", "gradient_norm") if not math.isfinite(row[name])), None)
        if bad:
            checkpoints.forget(number - 1)
            raise TrainingError(f"the {bad.replace('_', ' ')} of step {number} is {row[bad]}.")
    return rows


def _require_listening(rows: list[dict[str, float]], done: int) -> None:
    """Tell a collapse of M2D from the mean spread of some steps.

    Raises:
      TrainingError: it has collapsed.
    """
    spread = float(np.mean([row.get("spread", 1.0) for row in rows])) if rows else 1.0
    if spread < COLLAPSED:
        raise TrainingError(
            f"by step {done} M2D has collapsed, its target no longer tells one clip's patch from another's (spread "
            f"{spread:.3f} of 1): raise --ema, lower --learning-rate, choose --standardise batch, or begin with "
            f"--start-from an encoder trained by msm_mae."
        )


def _point(rows: list[dict[str, float]], done: int, schedule: Schedule) -> dict[str, float]:
    """One point of the curve, from the metrics of its steps.

    Raises:
      TrainingError: M2D has collapsed.
    """
    _require_listening(rows, done)
    point = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {"step": done, "learning_rate": float(schedule.rate(done - 1))} | point
