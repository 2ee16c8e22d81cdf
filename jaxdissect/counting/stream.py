"""One streaming pass: audio in, class-conditional counts out."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxdissect.activations.read import Reading, read_neurons, stack_layers
from jaxdissect.activations.token_masks import TOKENS, token_masks
from jaxdissect.audio.pcm import samples_as_float
from jaxdissect.counting import statistics
from jaxdissect.counting.clip_log import ClipLog
from jaxdissect.counting.clip_store import STORE_TYPES, ClipStore
from jaxdissect.counting.statistics import ClassCounts, Totals
from jaxdissect.encoder.models import knows_its_calls
from jaxdissect.encoder.protocol import Encoder, Variables, named_units, variables_on
from jaxdissect.errors import require
from jaxdissect.runtime.profiling import step_done
from jaxdissect.runtime.resume import resumable
from jaxdissect.runtime.sharding import local_mesh, map_per_device, per_device
from jaxdissect.tasks.loader import Batch, device_batches, unit_samples
from jaxdissect.tasks.table import Task

NOT_FINITE = "the encoder's activations are NaN or infinite"
PerClip: TypeAlias = dict[str, Array]  # what a step returns for each clip
# Shapes of neurons by encoder and samples of a clip: finding one takes a trace, which may take seconds.
_SHAPES: MutableMapping[Encoder, dict[int, tuple[int, int]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class CountOptions:
    """What is counted.

    Attributes:
      tokens: which tokens count: "all", the class token too; "patches", without it; "sounding", patches whose span
        lies inside the recording and within 60 dB of its peak level.
      threshold: activation above which a neuron is active.
      batch_size: clips per device and step.

    Raises:
      InputError: a number or a name breaks a rule.
    """

    tokens: str = "all"
    threshold: float = 0.0
    batch_size: int = 16

    def __post_init__(self) -> None:
        require(self.tokens in TOKENS, f"tokens must be one of {', '.join(TOKENS)}, got {self.tokens!r}.")
        require(bool(np.isfinite(self.threshold)), f"threshold must be a finite number, got {self.threshold}.")
        require(
            isinstance(self.batch_size, int) and self.batch_size >= 1,
            f"batch_size must be a whole number, at least 1, got {self.batch_size}.",
        )


@dataclass(frozen=True, eq=False)
class Counted:
    """What a pass over a task has counted.

    Attributes:
      totals: counts per class; the last class is all clips.
      log: what became of every clip.
    """

    totals: Totals
    log: ClipLog


@runtime_checkable
class Keeper(Protocol):
    """Keeps the state of a count, so that a count that was killed can be resumed."""

    @property
    def save_minutes(self) -> float:
        """Minutes from one state to the next."""
        ...

    def restore(self, counter: "Counter") -> ClipLog | None:
        """Set a counter to the state that is kept, if there is one; returns the clips that it has counted."""
        ...

    def check(self) -> None:
        """End the count by an exception where it must not continue; called after every batch."""
        ...

    def save(self, counter: "Counter", log: ClipLog, finished: bool = False) -> None:
        """Replace the state that is kept; called last when all clips are counted, with `finished`."""
        ...


def count_clips(
    encoder: Encoder,
    task: Task,
    options: CountOptions | None = None,
    store: ClipStore | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda clips: None,
    clips: Int[np.ndarray, " counted"] | None = None,
    chooses: Bool[np.ndarray, " clip"] | None = None,
    keeper: Keeper | None = None,
    skip: Bool[np.ndarray, " clip"] | None = None,
) -> Counted:
    """Stream a task's clips through an encoder and count, on the devices, how often every neuron fires.

    Args:
      encoder: any `Encoder`.
      task: clips and their classes.
      options: which tokens count, and from which activation on a neuron is active.
      store: store to fill with what every neuron did on `clips`, row for row; default: it is not kept.
      devices: devices to split every batch over; default: all of this process.
      progress: function called with the number of clips finished.
      clips: numbers of the clips to count, ascending; default: all.
      chooses: clips that are counted for their classes; the others are only written into `store`. Default: all.
      skip: clips that are counted elsewhere; default: none.
      keeper: keeper of the state; the count is resumed from what it keeps.

    Raises:
      InputError: the clips do not suit the encoder, the state is another's, or a shard is damaged (the state is saved).
      KeyboardInterrupt: with a keeper, a signal has come, and the state is saved.
    """
    clips = np.arange(len(task)) if clips is None else clips
    counter = Counter(encoder, task, options or CountOptions(), store is not None, devices, len(clips), chooses)
    log = (keeper and keeper.restore(counter)) or ClipLog(len(task))
    skip = np.zeros(len(task), bool) if skip is None else skip
    # Clips that could not be read may be readable now; they come last, so that the other batches stay as they were.
    again = clips[(log.done & ~log.counted & ~skip)[clips]]
    finished = int(log.counted[clips].sum())
    progress(finished)
    running: tuple[Batch, PerClip] | None = None

    def settle() -> None:
        """Wait for the batch that the devices are busy with, and note what became of its clips."""
        nonlocal finished, running
        if running is not None:
            batch, per_clip = running
            _note(batch, per_clip, log, store, clips)
            running = None
            finished += len(batch.statuses)
            progress(finished)
            step_done()

    def save() -> None:
        settle()
        if keeper:
            keeper.save(counter, log)

    rest = np.concatenate([clips[(~log.done & ~skip)[clips]], again])
    with resumable(save, keeper.save_minutes, keeper.check) if keeper else nullcontext(lambda: None) as between:
        for batch, arrays in device_batches(task, encoder.sample_rate, counter.clips_per_step, counter.mesh, rest):
            started = batch, counter.start(arrays)
            settle()  # the host's work on one batch is done while the devices are busy with the next
            running = started
            between()
        settle()
    if keeper:
        keeper.save(counter, log, finished=True)
    return Counted(counter.totals(), log)


def _note(
    batch: Batch, per_clip: PerClip, log: ClipLog, store: ClipStore | None, clips: Int[np.ndarray, " counted"]
) -> None:
    """Write down what became of the clips of a batch, and what neurons did on those that could be read."""
    finite = np.asarray(per_clip["finite"])
    if store is not None:
        counted = batch.members[:, -1] & finite
        row = np.searchsorted(clips, batch.clip[counted])  # clips are ascending
        for name in STORE_TYPES:
            getattr(store, name)[row] = np.asarray(per_clip[name])[counted]
    # A clip that is padding, unreadable or not finite has no counted token.
    tokens = np.where(batch.members[:, -1] & finite, per_clip["tokens"], 0).tolist()
    # Not strict: a batch is padded at its end, and padding has no status.
    for clip, status, usable, counted in zip(batch.clip.tolist(), batch.statuses, finite, tokens, strict=False):
        lost = not usable and status.status != "unreadable"
        log.put(clip, replace(status, status="unreadable", reason=NOT_FINITE) if lost else status, counted)


class Counter:
    """Counts on the devices, which are moved to the host before they can overflow.

    Attributes:
      clips_per_step: clips of a batch, on all devices together.
      counts: counts on the devices since the last flush.
      steps: batches since the last flush.
      flushed: counts that were moved to the host; None: none yet.
    """

    def __init__(
        self,
        encoder: Encoder,
        task: Task,
        options: CountOptions,
        keep_clips: bool,
        devices: Sequence[jax.Device] | None,
        clips: int,
        chooses: Bool[np.ndarray, " clip"] | None = None,
    ) -> None:
        """Set up the devices.

        Args:
          encoder: any `Encoder`.
          task: clips and their classes.
          options: what is counted.
          keep_clips: whether a step also returns what every neuron did on every clip.
          devices: devices to split every batch over; None: all of this process.
          clips: number of clips to count.
          chooses: clips that are counted for their classes; None: all.
        """
        self.mesh = local_mesh(devices)
        # No larger than the clips need, rounded up, and at least 1 where there is no clip.
        batch_size = max(1, min(options.batch_size, -(-clips // self.mesh.size)))
        self.clips_per_step = batch_size * self.mesh.size
        self.most_steps = statistics.steps_before_overflow(tokens_per_clip(encoder, task), batch_size)
        self.shape = (len(task.classes), *neuron_shape(encoder, task))
        self.step = map_per_device(counting_step(encoder, task, options, keep_clips, chooses), self.mesh)
        self.variables = variables_on(encoder, self.mesh)
        self.counts, self.steps = self.empty(), 0
        self.flushed: Totals | None = None

    def empty(self) -> ClassCounts:
        """An empty accumulator on every device."""
        return per_device(lambda: statistics.init(*self.shape), self.mesh)

    def start(self, arrays: Mapping[str, Array]) -> PerClip:
        """Start the devices on a batch; returns at once, with what the step will return for each clip.

        Args:
          arrays: the batch, split over the devices.
        """
        if self.steps == self.most_steps:
            self.flush()
        # The call returns before the devices are done, so the host can prepare the next batch meanwhile.
        self.counts, per_clip = self.step(self.counts, self.variables, arrays)
        self.steps += 1
        return per_clip

    def flush(self) -> None:
        """Move what the devices have counted to the host."""
        self.add(statistics.flush(self.counts))
        self.counts, self.steps = self.empty(), 0

    def add(self, totals: Totals) -> None:
        """Add what was counted of other clips.

        Args:
          totals: counts of clips that this counter has not counted.
        """
        self.flushed = totals if self.flushed is None else statistics.merge(self.flushed, totals)

    def totals(self) -> Totals:
        """All that was counted, on the host."""
        totals = statistics.flush(self.counts)
        return totals if self.flushed is None else statistics.merge(self.flushed, totals)


def counting_step(
    encoder: Encoder,
    task: Task,
    options: CountOptions,
    keep_clips: bool = False,
    chooses: Bool[np.ndarray, " clip"] | None = None,
) -> Callable[[ClassCounts, Variables, Mapping[str, Array]], tuple[ClassCounts, PerClip]]:
    """The work of one device on one batch: `step(counts, variables, batch) -> (counts, per clip)`; jit-safe.

    The batch holds `pcm`, `samples`, `clip` and `members` of `Batch`. Returned for each clip are `finite`, whether its
    activations are, without which it is not counted; its `tokens`; and, with `keep_clips`, the arrays of a `ClipStore`.

    Args:
      encoder: any `Encoder`.
      task: clips and their classes.
      options: what is counted.
      keep_clips: whether what every neuron did on every clip is returned.
      chooses: clips that are counted for their classes; None: all.
    """
    read = _reader(encoder, task, options)

    def step(counts: ClassCounts, variables: Variables, batch: Mapping[str, Array]) -> tuple[ClassCounts, PerClip]:
        reading = read(variables, batch["pcm"], batch["samples"])
        # A NaN or an infinity among a clip's activations shows in the sum of their squares.
        finite = jnp.isfinite(reading.sum_squares).all(axis=(1, 2))
        members = batch["members"] & finite[:, None]
        if chooses is not None:
            members &= jnp.asarray(chooses)[batch["clip"], None]  # padding, clip -1, has no members anyway
        with jax.named_scope("counting"):
            counts = statistics.update(counts, reading, members, batch["clip"], task.labels_per_clip)
        per_clip = {"finite": finite, "tokens": reading.tokens}
        if keep_clips:
            tokens = jnp.maximum(reading.tokens, 1).astype(jnp.float32)[:, None, None]
            # A clip has at most MOST_TOKENS_PER_CLIP tokens, which uint16 holds.
            per_clip["counts"] = reading.active_tokens.astype(jnp.uint16)
            per_clip["means"], per_clip["excesses"] = reading.sum / tokens, reading.excess / tokens
            per_clip["peaks"] = jnp.where(reading.tokens[:, None, None] > 0, reading.maximum, 0.0)
        return counts, per_clip

    return step


def neuron_shape(encoder: Encoder, task: Task) -> tuple[int, int]:
    """Layers, and neurons per layer, of an encoder, without running it; its token layout must fit its neurons.

    Args:
      encoder: any `Encoder`.
      task: task whose clips it would take.
    """
    samples = unit_samples(task, encoder.sample_rate)
    try:
        shapes = _SHAPES.setdefault(encoder, {})
    except TypeError:  # an encoder that has no hash, or cannot be referred to weakly
        shapes = {}
    if samples not in shapes:
        shapes[samples] = _traced_shape(encoder, task, samples)
    return shapes[samples]


def _traced_shape(encoder: Encoder, task: Task, samples: int) -> tuple[int, int]:
    pcm, recorded = jax.ShapeDtypeStruct((1, samples), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    masked = CountOptions(tokens="patches")  # compares the layout with the neurons, which "all" does not
    reading = jax.eval_shape(_reader(encoder, task, masked), encoder.variables, pcm, recorded)
    _, layers, neurons = reading.sum.shape
    runs = len(encoder.token_layout(samples))
    require(
        runs == 1 or knows_its_calls(encoder.module),
        f"{encoder.name} is a function, whose layers run once: its token_layout must have one entry, got {runs}.",
    )
    return layers, neurons


def tokens_per_clip(encoder: Encoder, task: Task) -> int:
    """Tokens of one clip of a task, class tokens included.

    Args:
      encoder: any `Encoder`.
      task: task of the clip.
    """
    return sum(tokens.is_patch.size for tokens in encoder.token_layout(unit_samples(task, encoder.sample_rate)))


def _reader(encoder: Encoder, task: Task, options: CountOptions) -> Callable[[Variables, Array, Array], Reading]:
    """`read(variables, pcm, samples)`: readings of a batch, with axes (clip, layer, neuron)."""
    layout = encoder.token_layout(unit_samples(task, encoder.sample_rate))

    def read(variables: Variables, pcm: Array, samples: Array) -> Reading:
        pcm = samples_as_float(pcm)
        with jax.named_scope("front_end"):
            inputs = encoder.front_end(variables, pcm)
        _, readings = read_neurons(
            encoder.module,
            variables,
            inputs,
            **named_units(encoder),
            masks=token_masks(layout, options.tokens, pcm, samples),
            threshold=options.threshold,
        )
        return stack_layers(readings)

    return read
