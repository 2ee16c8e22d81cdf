"""Clip embeddings of a whole task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdissect.encoder.base import Encoder
from jaxdissect.errors import InputError
from jaxdissect.sharding import local_mesh, replicate, shard_clips
from jaxdissect.tasks.loader import batches
from jaxdissect.tasks.table import Task


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of a task's clips.

    Attributes:
      values: as `Encoder.embed` gives them; zero for what is not usable.
      usable: the file could be read, and its embedding is finite.
    """

    values: Float[np.ndarray, "clip feature"]
    usable: Bool[np.ndarray, " clip"]


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
      InputError: `batch_size` is not positive, or there are several processes.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size must be positive, got {batch_size}.")
    if jax.process_count() > 1:
        raise InputError(f"Embedding runs in one process so far, got {jax.process_count()}.")
    mesh = local_mesh(devices)
    clips_per_step = min(batch_size, -(-len(task) // mesh.size)) * mesh.size
    variables = replicate(encoder.variables, mesh)

    @jax.jit
    def embed(variables: Any, pcm: Float[Array, "clip sample"]) -> Float[Array, "clip feature"]:
        return encoder.embed(encoder.module.apply(variables, encoder.front_end(variables, pcm))).astype(np.float32)

    values: list[np.ndarray] = []
    usable: list[bool] = []
    for batch in batches(task, encoder.sample_rate, clips_per_step):
        found = np.asarray(embed(variables, shard_clips(batch.pcm, mesh)))[: len(batch.statuses)]
        good = np.isfinite(found).all(axis=1) & batch.members[: len(found), -1]
        values.append(np.where(good[:, None], found, 0))
        usable.extend(good.tolist())
        progress(len(usable))
    return Embeddings(np.concatenate(values), np.array(usable))
