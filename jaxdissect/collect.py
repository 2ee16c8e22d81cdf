"""One streaming pass: audio in, class-conditional counts out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdissect import statistics
from jaxdissect.activations import Reading, read_neurons, stack_layers
from jaxdissect.audio.decode import ClipStatus
from jaxdissect.encoder.base import Encoder
from jaxdissect.errors import InputError
from jaxdissect.sharding import local_mesh, map_per_device, per_device, replicate, shard_clips
from jaxdissect.statistics import ClassCounts, Totals
from jaxdissect.tasks.loader import Batch, batches, unit_samples
from jaxdissect.tasks.table import Task
from jaxdissect.tokens import TOKENS, token_masks

NOT_FINITE = "the encoder's activations are NaN or infinite"
PerClip = dict[str, Array]


@dataclass(frozen=True)
class CountOptions:
    """What is counted.

    Attributes:
      tokens: which tokens count, see `token_masks`.
      threshold: a neuron is active where its activation is above this.
      batch_size: clips per device and step.
    """

    tokens: str = "all"
    threshold: float = 0.0
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.tokens not in TOKENS:
            raise InputError(f"--tokens must be one of {', '.join(TOKENS)}, got {self.tokens!r}.")
        if not np.isfinite(self.threshold):
            raise InputError(f"--threshold must be a finite number, got {self.threshold}.")
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise InputError(f"--batch-size must be a whole number, at least 1, got {self.batch_size}.")


@dataclass(frozen=True, eq=False)
class Counted:
    """What a pass over a task has counted.

    Attributes:
      totals: counts per class; the last class is all clips.
      statuses: what became of every clip.
    """

    totals: Totals
    statuses: tuple[ClipStatus, ...]


def count_clips(
    encoder: Encoder,
    task: Task,
    options: CountOptions | None = None,
    clip_counts: np.ndarray | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda clips: None,
) -> Counted:
    """Stream a task's clips through an encoder and count, on the devices, how often every neuron fires.

    Args:
      encoder: any `Encoder`.
      task: the clips and their classes.
      options: what is counted.
      clip_counts: if given, a uint16 array (clip, layer, neuron) that is filled with every clip's active tokens.
      devices: to split every batch over; default: all of this process.
      progress: called with the number of clips finished.

    Raises:
      InputError: the clips do not suit the encoder, or there are several processes.
    """
    if jax.process_count() > 1:
        raise InputError(f"Counting runs in one process so far, got {jax.process_count()}: start one process a task.")
    options = options or CountOptions()
    counter = _Counter(encoder, task, options, clip_counts is not None, devices)
    statuses: list[ClipStatus] = []

    def finish(batch: Batch, per_clip: PerClip) -> None:
        finite = np.asarray(per_clip["finite"])
        if clip_counts is not None:
            counted = batch.members[:, -1] & finite
            clip_counts[batch.clip[counted]] = np.asarray(per_clip["active_tokens"])[counted]
        for status, usable in zip(batch.statuses, finite, strict=False):  # `finite` has padding at its end
            lost = not usable and status.status != "unreadable"
            statuses.append(replace(status, status="unreadable", reason=NOT_FINITE) if lost else status)
        progress(len(statuses))

    running: tuple[Batch, PerClip] | None = None
    for batch in batches(task, encoder.sample_rate, counter.clips_per_step):
        started = batch, counter.start(batch)
        if running is not None:  # the host's work on one batch is done while the devices are busy with the next
            finish(*running)
        running = started
    if running is not None:
        finish(*running)
    return Counted(counter.totals(), tuple(statuses))


class _Counter:
    """Counts on the devices, which are moved to the host before they can overflow."""

    def __init__(
        self,
        encoder: Encoder,
        task: Task,
        options: CountOptions,
        keep_clips: bool,
        devices: Sequence[jax.Device] | None,
    ) -> None:
        self.mesh = local_mesh(devices)
        batch_size = min(options.batch_size, -(-len(task) // self.mesh.size))
        self.clips_per_step = batch_size * self.mesh.size
        self.most_steps = statistics.steps_before_overflow(tokens_per_clip(encoder, task), batch_size)
        self.shape = (len(task.classes), *neuron_shape(encoder, task))
        self.step = map_per_device(counting_step(encoder, task, options, keep_clips), self.mesh)
        self.variables = replicate(encoder.variables, self.mesh)
        self.counts, self.steps, self.flushed = self.empty(), 0, list[Totals]()

    def empty(self) -> ClassCounts:
        return per_device(lambda: statistics.init(*self.shape), self.mesh)

    def start(self, batch: Batch) -> PerClip:
        """Set the devices to work on a batch; returns at once, with what the step returns for each clip."""
        if self.steps == self.most_steps:
            self.flush()
        arrays = {"pcm": batch.pcm, "samples": batch.samples, "clip": batch.clip, "members": batch.members}
        self.counts, per_clip = self.step(self.counts, self.variables, shard_clips(arrays, self.mesh))
        self.steps += 1
        return per_clip

    def flush(self) -> None:
        self.flushed = [statistics.merge(*self.flushed, statistics.flush(self.counts))]
        self.counts, self.steps = self.empty(), 0

    def totals(self) -> Totals:
        self.flush()
        return self.flushed[0]


def counting_step(
    encoder: Encoder, task: Task, options: CountOptions, keep_clips: bool = False
) -> Callable[[ClassCounts, Any, Mapping[str, Array]], tuple[ClassCounts, PerClip]]:
    """The work of one device on one batch: `step(counts, variables, batch) -> (counts, per clip)`; jit-safe.

    The batch holds `pcm`, `samples`, `clip` and `members` of `Batch`. Per clip come whether its activations are
    `finite`, without which it is not counted, and, with `keep_clips`, the `active_tokens` of every neuron as uint16.
    """
    read = _reader(encoder, task, options)

    def step(counts: ClassCounts, variables: Any, batch: Mapping[str, Array]) -> tuple[ClassCounts, PerClip]:
        reading = read(variables, batch["pcm"], batch["samples"])
        finite = jnp.isfinite(reading.sum_squares).all(axis=(1, 2))
        members = batch["members"] & finite[:, None]
        counts = statistics.update(counts, reading, members, batch["clip"], task.labels_per_clip)
        per_clip = {"finite": finite}
        if keep_clips:
            per_clip["active_tokens"] = reading.active_tokens.astype(jnp.uint16)
        return counts, per_clip

    return step


def neuron_shape(encoder: Encoder, task: Task) -> tuple[int, int]:
    """(layers, neurons per layer) of an encoder, without running it."""
    pcm = jax.ShapeDtypeStruct((1, unit_samples(task, encoder.sample_rate)), jnp.float32)
    samples = jax.ShapeDtypeStruct((1,), jnp.int32)
    reading = jax.eval_shape(_reader(encoder, task, CountOptions()), encoder.variables, pcm, samples)
    _, layers, neurons = reading.sum.shape
    return layers, neurons


def tokens_per_clip(encoder: Encoder, task: Task) -> int:
    """Tokens of one clip of a task, class tokens included."""
    return sum(tokens.is_patch.size for tokens in encoder.token_layout(unit_samples(task, encoder.sample_rate)))


def _reader(encoder: Encoder, task: Task, options: CountOptions) -> Callable[[Any, Array, Array], Reading]:
    layout = encoder.token_layout(unit_samples(task, encoder.sample_rate))

    def read(variables: Any, pcm: Array, samples: Array) -> Reading:
        _, readings = read_neurons(
            encoder.module,
            variables,
            encoder.front_end(variables, pcm),
            neurons=encoder.neurons,
            masks=token_masks(layout, options.tokens, pcm, samples),
            threshold=options.threshold,
        )
        return stack_layers(readings)

    return read
