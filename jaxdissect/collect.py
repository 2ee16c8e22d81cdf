"""One streaming pass: audio in, class-conditional counts out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdissect import statistics
from jaxdissect.activations import Reading, read_neurons, stack_layers
from jaxdissect.audio.decode import Recording
from jaxdissect.encoder.base import Encoder, Tokens
from jaxdissect.errors import InputError
from jaxdissect.sharding import local_mesh, map_per_device, per_device, replicate, shard_clips
from jaxdissect.statistics import ClassCounts, Totals
from jaxdissect.tasks.loader import Batch, batches, unit_samples
from jaxdissect.tasks.table import Task

TOKENS = ("all", "patches", "sounding")
SOUNDING_DB = 60.0


@dataclass(frozen=True)
class CountOptions:
    """What is counted.

    Attributes:
      tokens: "all" tokens, the class token too; "patches", without it; "sounding", only patches whose time span lies
        inside the recording and whose mean power is within 60 dB of the loudest such span of the clip.
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
        if self.batch_size < 1:
            raise InputError(f"--batch-size must be at least 1, got {self.batch_size}.")


@dataclass(frozen=True, eq=False)
class Counted:
    """What a pass over a task has counted.

    Attributes:
      totals: counts per class; the last class is all clips.
      recordings: status of every clip's file, without its samples.
    """

    totals: Totals
    recordings: tuple[Recording, ...]


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
      InputError: the clips do not suit the encoder.
    """
    options = options or CountOptions()
    mesh = local_mesh(devices)
    options = replace(options, batch_size=min(options.batch_size, -(-len(task) // mesh.size)))
    step, reading = _step(encoder, task, options, keep=clip_counts is not None)
    _, layers, neurons = reading.sum.shape
    run_step = map_per_device(step, mesh)
    tokens_per_batch = _tokens_per_clip(encoder, task) * options.batch_size
    limit = statistics.tokens_before_overflow(_tokens_per_clip(encoder, task), options.batch_size)
    variables = replicate(encoder.variables, mesh)

    def empty() -> ClassCounts:
        return per_device(lambda: statistics.init(len(task.classes), layers, neurons), mesh)

    counts, totals, since_flush = empty(), None, 0
    recordings: list[Recording] = []
    finished: Callable[[], None] | None = None
    for batch in batches(task, encoder.sample_rate, options.batch_size * mesh.size):
        arrays = {"pcm": batch.pcm, "samples": batch.samples, "clip": batch.clip, "members": batch.members}
        counts, per_clip = run_step(counts, variables, shard_clips(arrays, mesh))
        recordings += [_without_samples(recording) for recording in batch.recordings]
        if finished is not None:  # the previous batch's host work, while the devices are busy with this one
            finished()
        finished = _finish(per_clip, batch, clip_counts, progress, len(recordings))
        since_flush += tokens_per_batch
        if since_flush > limit:
            flushed = statistics.flush(counts)
            totals = flushed if totals is None else statistics.merge(totals, flushed)
            counts, since_flush = empty(), 0
    if finished is not None:
        finished()
    flushed = statistics.flush(counts)
    totals = flushed if totals is None else statistics.merge(totals, flushed)
    if not np.isfinite(totals.sum).all():
        raise InputError(
            f"The encoder {encoder.name!r} put out activations that are not finite: its weights or the dtype are unfit."
        )
    return Counted(totals, tuple(recordings))


def neuron_shape(encoder: Encoder, task: Task) -> tuple[int, int]:
    """(layers, neurons per layer) of an encoder, without running it."""
    _, layers, neurons = _step(encoder, task, CountOptions(), keep=False)[1].sum.shape
    return layers, neurons


def token_masks(
    layout: Sequence[Tokens], kind: str, pcm: Float[Array, "clip sample"], samples: Int[Array, " clip"]
) -> list[Bool[Array, "clip *token"]] | None:
    """Which tokens count, one mask per call of the encoder's blocks; None for all. Jit-safe.

    Args:
      layout: origin of the tokens.
      kind: one of `TOKENS`.
      pcm: the padded clips.
      samples: recorded samples of each clip.
    """
    if kind == "all":
        return None
    patches = [jnp.broadcast_to(tokens.is_patch, (len(pcm), *tokens.is_patch.shape)) for tokens in layout]
    if kind == "patches":
        return patches
    stacked = np.concatenate([np.stack([tokens.start, tokens.stop], -1)[tokens.is_patch] for tokens in layout])
    spans = np.unique(stacked, axis=0)
    sounds = _sounding(spans, pcm, samples)
    masks = []
    for tokens, patch in zip(layout, patches, strict=True):
        pairs = np.stack([tokens.start, tokens.stop], -1).reshape(-1, 2)
        column = (pairs[:, None] == spans).all(-1).argmax(-1)
        masks.append(patch & sounds[:, column].reshape(patch.shape))
    return masks


def _sounding(
    spans: Int[np.ndarray, "span 2"], pcm: Float[Array, "clip sample"], samples: Int[Array, " clip"]
) -> Bool[Array, "clip span"]:
    """Spans inside the recording whose mean power is within 60 dB of the loudest such span."""
    stop = spans[:, 1]
    pcm = jnp.pad(pcm, ((0, 0), (0, max(0, int(stop.max()) - pcm.shape[1]))))
    power = jnp.stack([jnp.square(pcm[:, a:b]).mean(axis=1) for a, b in spans], axis=1)
    inside = stop[None] <= samples[:, None]
    peak = jnp.max(jnp.where(inside, power, 0.0), axis=1, keepdims=True)
    return jnp.asarray(inside) & (power > 0) & (power >= peak * 10 ** (-SOUNDING_DB / 10))


def _step(
    encoder: Encoder, task: Task, options: CountOptions, keep: bool
) -> tuple[Callable[[ClassCounts, Any, Mapping[str, Array]], tuple[ClassCounts, Any]], Reading]:
    """The work on one batch, and the shapes of its reading."""
    samples = unit_samples(task, encoder.sample_rate)
    layout = encoder.tokens(samples)
    if keep and _tokens_per_clip(encoder, task) > np.iinfo(np.uint16).max:
        raise InputError(
            "--keep-clips stores counts below 65536, and a clip of this task has more tokens: choose a "
            "shorter --unit-seconds."
        )

    def read(variables: Any, pcm: Array, recorded: Array) -> Reading:
        masks = token_masks(layout, options.tokens, pcm, recorded)
        _, readings = read_neurons(
            encoder.module,
            variables,
            encoder.front_end(variables, pcm),
            neurons=encoder.neurons,
            masks=masks,
            threshold=options.threshold,
        )
        return stack_layers(readings)

    def step(counts: ClassCounts, variables: Any, batch: Mapping[str, Array]) -> tuple[ClassCounts, Any]:
        reading = read(variables, batch["pcm"], batch["samples"])
        counts = statistics.update(counts, reading, batch["members"], batch["clip"], task.labels_per_clip)
        per_clip = {"tokens": reading.tokens}
        if keep:
            per_clip["active_tokens"] = reading.active_tokens.astype(jnp.uint16)
        return counts, per_clip

    shapes = jax.eval_shape(
        read, encoder.variables, jax.ShapeDtypeStruct((1, samples), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    )
    return step, shapes


def _tokens_per_clip(encoder: Encoder, task: Task) -> int:
    return sum(tokens.is_patch.size for tokens in encoder.tokens(unit_samples(task, encoder.sample_rate)))


def _finish(
    per_clip: Mapping[str, Array],
    batch: Batch,
    clip_counts: np.ndarray | None,
    progress: Callable[[int], object],
    finished: int,
) -> Callable[[], None]:
    def finish() -> None:
        jax.block_until_ready(per_clip["tokens"])
        if clip_counts is not None:
            counted = batch.members[:, -1]
            clip_counts[batch.clip[counted]] = np.asarray(per_clip["active_tokens"])[counted]
        progress(finished)

    return finish


def _without_samples(recording: Recording) -> Recording:
    return Recording(np.empty(0, np.float32), recording.samples, recording.status, recording.reason)
