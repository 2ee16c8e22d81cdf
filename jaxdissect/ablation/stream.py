"""Streaming clips through many interventions: a task and edits in, verdicts of linear probes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from jaxdissect.ablation.engine import UNTOUCHED, Edit, plan, runner_of
from jaxdissect.ablation.verdicts import Verdicts
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.probe.judge import Judge
from jaxdissect.runtime.sharding import local_mesh, replicate, shard_clips
from jaxdissect.tasks.loader import Batch, device_batches
from jaxdissect.tasks.table import Task

ROWS_AT_ONCE = {"cpu": 16}  # clips x edits on a device: a CPU is fastest while a layer's activations stay in its cache
ROWS_ON_ACCELERATORS = 256


@dataclass(frozen=True, eq=False)
class Judged:
    """Verdicts on every clip under every edit.

    Attributes:
      before: of each label set, of the untouched encoder: an axis (edit) of length one in front.
      after: likewise of the edits, in the order given.
      usable: clips that could be read and whose untouched embedding is finite.
      reasons: why a clip is not usable, by its number.
    """

    before: Mapping[str, Verdicts]
    after: Mapping[str, Verdicts]
    usable: Bool[np.ndarray, " clip"]
    reasons: Mapping[int, str]


def judge_edits(
    encoder: Encoder,
    task: Task,
    judges: Mapping[str, Judge],
    edits: Sequence[Edit],
    shape: tuple[int, int],
    batch_size: int = 4,
    at_once: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda passes: None,
    found: "Found | None" = None,
    between: Callable[[], None] = lambda: None,
) -> Judged:
    """Run every clip under every edit, and judge it.

    Args:
      encoder: any `Encoder`.
      task: the clips.
      judges: of each label set.
      edits: what is changed; each in its own pass.
      shape: layers, and neurons per layer, of the encoder.
      batch_size: clips per device and step.
      at_once: edits that run together; default: so many that they make 16 rows with the clips of a CPU, 256 with those
        of an accelerator.
      devices: to split the clips over; default: all of this process.
      progress: called with the number of passes finished, one for every clip and edit.
      found: verdicts so far, from which to go on; those to come are put into it.
      between: called after each batch of clips, when `found` is whole.

    Raises:
      InputError: a number breaks a rule, or there are several processes.
    """
    if batch_size < 1 or (at_once is not None and at_once < 1):
        raise InputError(f"--batch-size and --at-once must be positive, got {batch_size} and {at_once}.")
    if jax.process_count() > 1:
        raise InputError(f"Ablation runs in one process so far, got {jax.process_count()}.")
    mesh = local_mesh(devices)
    batch_size = min(batch_size, -(-len(task) // mesh.size))
    together = ROWS_AT_ONCE.get(mesh.devices.flat[0].platform, ROWS_ON_ACCELERATORS)
    chunks = plan(edits, at_once or max(1, together // batch_size))
    heads = {name: judge.head for name, judge in judges.items()}
    multi_label = {name: judge.multi_label for name, judge in judges.items()}
    runner = runner_of(encoder, multi_label, shape, mesh)
    variables, heads = replicate(encoder.variables, mesh), replicate(heads, mesh)
    found = found or Found(len(task), len(edits))
    rest = range(found.position, len(task))
    for batch, arrays in device_batches(task, encoder.sample_rate, batch_size * mesh.size, mesh, rest):
        rows = np.maximum(batch.clip, 0)
        members = {name: judge.members[rows] for name, judge in judges.items()}
        members = shard_clips(members, mesh)
        waiting: tuple[Sequence[int], Any] | None = None
        for started in runner.run(variables, heads, arrays["pcm"], members, chunks):
            if waiting is not None:  # the host's work on one chunk is done while the devices are busy with the next
                found.put(batch, *waiting)
                progress(found.passes)
            waiting = started
        if waiting is not None:
            found.put(batch, *waiting)
            progress(found.passes)
        found.position += len(batch.statuses)
        between()
    return found.judged()


class Found:
    """Verdicts as they come in; row 0 is the untouched encoder's.

    Attributes:
      position: clips that have been judged under all edits.
      passes: clips x edits that have been judged.
      arrays: verdicts of each label set, (edit, clip, ...); NaN where there are none yet.
      usable, reasons: as in `Judged`.
    """

    def __init__(self, clips: int, edits: int) -> None:
        """Nothing judged yet.

        Args:
          clips: of the task.
          edits: to judge them under.
        """
        self.clips, self.edits, self.passes, self.position = clips, edits, 0, 0
        self.arrays: dict[str, Verdicts] = {}
        self.usable, self.reasons = np.zeros(clips, bool), dict[int, str]()

    def put(self, batch: Batch, edits: Sequence[int], said: Any) -> None:
        """Take what was said of a batch under some edits."""
        verdicts, sound = jax.device_get(said)
        count = len(batch.statuses)
        at = np.array(edits)[:, None] + 1, batch.clip[None, :count]
        for name, found in verdicts.items():
            if name not in self.arrays:
                self.arrays[name] = jax.tree.map(
                    lambda part: np.full((self.edits + 1, self.clips, *part.shape[2:]), np.nan, np.float32), found
                )
            for kept, new in zip(jax.tree.leaves(self.arrays[name]), jax.tree.leaves(found), strict=True):
                kept[at] = new[: len(edits), :count]
        if edits != UNTOUCHED:
            self.passes += len(edits) * count
            return
        for clip, status, readable, good in zip(
            batch.clip, batch.statuses, batch.members[:, -1], sound[0], strict=False
        ):
            self.usable[clip] = readable and good
            if not self.usable[clip]:
                self.reasons[int(clip)] = status.reason if not readable else "its embedding is not finite"

    def judged(self) -> Judged:
        """All verdicts, when all clips have been judged."""

        def part(rows: slice) -> dict[str, Verdicts]:
            return {name: jax.tree.map(lambda leaf: leaf[rows], found) for name, found in self.arrays.items()}

        return Judged(part(slice(0, 1)), part(slice(1, None)), self.usable, self.reasons)
