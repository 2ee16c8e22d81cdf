"""Clip embeddings of a whole task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdissect.encoder.protocol import Encoder, module_input
from jaxdissect.errors import InputError
from jaxdissect.probe.linear import LARGEST_FEATURE
from jaxdissect.runtime.sharding import local_mesh, map_clips, replicate
from jaxdissect.tasks.loader import device_batches, unit_samples
from jaxdissect.tasks.table import Task


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of a task's clips.

    Attributes:
      values: as `Encoder.embed` gives them; zero for what is not usable.
      usable: the file could be read, and its embedding is finite.
      reasons: why a clip is not usable, by its number.
    """

    values: Float[np.ndarray, "clip feature"]
    usable: Bool[np.ndarray, " clip"]
    reasons: Mapping[int, str] = field(default_factory=dict)


def embed_clips(
    encoder: Encoder,
    task: Task,
    batch_size: int = 16,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda clips: None,
) -> Embeddings:
    """Embed every clip of a task.

    Args:
      encoder: any `Encoder`.
      task: the clips.
      batch_size: clips per device and step.
      devices: to split every batch over; default: all of this process.
      progress: called with the number of clips finished.

    Raises:
      InputError: `batch_size` is not positive, the encoder's embeddings are not (clip, feature), or there are several
        processes.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size must be positive, got {batch_size}.")
    if jax.process_count() > 1:
        raise InputError(f"Embedding runs in one process so far, got {jax.process_count()}.")
    embedding_features(encoder, task)
    mesh = local_mesh(devices)
    clips_per_step = min(batch_size, -(-len(task) // mesh.size)) * mesh.size
    variables = replicate(encoder.variables, mesh)

    def embed(variables: Any, pcm: Array) -> Float[Array, "clip feature"]:
        return encoder.embed(encoder.module.apply(variables, module_input(encoder, variables, pcm))).astype(np.float32)

    embed_each = map_clips(embed, mesh, (None, 0))
    values: list[np.ndarray] = []
    usable: list[bool] = []
    reasons: dict[int, str] = {}
    for batch, arrays in device_batches(task, encoder.sample_rate, clips_per_step, mesh):
        found = np.asarray(embed_each(variables, arrays["pcm"]))[: len(batch.statuses)]
        good = (np.abs(found) < LARGEST_FEATURE).all(axis=1) & batch.members[: len(found), -1]
        for row in np.flatnonzero(~good):
            status = batch.statuses[row]
            unreadable = status.status == "unreadable"
            reasons[len(usable) + int(row)] = status.reason if unreadable else "its embedding is not finite"
        values.append(np.where(good[:, None], found, 0))
        usable.extend(good.tolist())
        progress(len(usable))
    return Embeddings(np.concatenate(values), np.array(usable), reasons)


def embedding_features(encoder: Encoder, task: Task) -> int:
    """How many features an embedding of the task's clips has, found without computing one.

    Raises:
      InputError: embeddings are not (clip, feature).
    """

    def embed(variables: Any, pcm: Any) -> Any:
        return encoder.embed(encoder.module.apply(variables, encoder.front_end(variables, pcm)))

    pcm = jax.ShapeDtypeStruct((2, unit_samples(task, encoder.sample_rate)), np.float32)
    found = jax.eval_shape(embed, encoder.variables, pcm)
    shape = getattr(found, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 2:
        raise InputError(
            f"The embeddings of {encoder.name} must have the axes (clip, feature); those of 2 clips have the shape "
            f"{shape}."
        )
    return int(shape[1])
