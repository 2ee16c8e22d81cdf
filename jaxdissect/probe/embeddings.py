"""Clip embeddings of a whole task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxdissect.encoder.models import apply_model
from jaxdissect.encoder.protocol import Encoder, Variables, module_input, variables_on
from jaxdissect.errors import require
from jaxdissect.probe.linear import LARGEST_FEATURE
from jaxdissect.runtime.sharding import local_mesh, map_clips
from jaxdissect.tasks.loader import device_batches, unit_samples
from jaxdissect.tasks.table import Task


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of a task's clips.

    Attributes:
      values: embeddings as `Encoder.embed` gives them; zero for clips that are not usable.
      usable: whether the file could be read, and its embedding is finite.
      reasons: reason why a clip is not usable, by its number.
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
      task: clips to embed.
      batch_size: number of clips per device and step.
      devices: devices to split every batch over; default: all of this process.
      progress: function called with the number of clips finished.

    Raises:
      InputError: `batch_size` is not positive, the encoder's embeddings are not (clip, feature), or there are several
        processes.
    """
    require(batch_size >= 1, f"batch_size must be positive, got {batch_size}.")
    require(jax.process_count() == 1, f"Embedding runs in one process so far, got {jax.process_count()}.")
    embedding_features(encoder, task)  # refuses embeddings of other axes before any clip is read
    mesh = local_mesh(devices)
    # A small task fills no batch; every device has as many clips.
    clips_per_step = min(batch_size, -(-len(task) // mesh.size)) * mesh.size
    variables = variables_on(encoder, mesh)

    embed = map_clips(lambda *args: _embed(encoder, *args).astype(np.float32), mesh, (None, 0))
    values: list[np.ndarray] = []
    usable: list[bool] = []
    reasons: dict[int, str] = {}
    for batch, arrays in device_batches(task, encoder.sample_rate, clips_per_step, mesh):
        # The last batch is filled up; the last column of its members says which files could be read.
        embedded = np.asarray(embed(variables, arrays["pcm"]))[: len(batch.statuses)]
        good = (np.abs(embedded) < LARGEST_FEATURE).all(axis=1) & batch.members[: len(embedded), -1]
        for row in np.flatnonzero(~good):
            status = batch.statuses[row]
            unreadable = status.status == "unreadable"
            reasons[len(usable) + int(row)] = status.reason if unreadable else "its embedding is not finite"
        # Zero, not a product with zero: an infinite embedding would become NaN.
        values.append(np.where(good[:, None], embedded, 0))
        usable.extend(good.tolist())
        progress(len(usable))
    return Embeddings(np.concatenate(values), np.array(usable), reasons)


def embedding_features(encoder: Encoder, task: Task) -> int:
    """Number of features of an embedding of the task's clips, found without computing one.

    Raises:
      InputError: embeddings are not (clip, feature).
    """
    # Two clips, so that the axis of the clips differs from others of length 1.
    pcm = jax.ShapeDtypeStruct((2, unit_samples(task, encoder.sample_rate)), np.float32)
    output = jax.eval_shape(lambda *args: _embed(encoder, *args), encoder.variables, pcm)
    shape: tuple[int, ...] = getattr(output, "shape", ())
    require(
        len(shape) == 2 and shape[0] == 2,
        f"The embeddings of {encoder.name} must have the axes (clip, feature); those of 2 clips have the shape "
        f"{shape}.",
    )
    return int(shape[1])


def _embed(encoder: Encoder, variables: Variables, pcm: Array) -> PyTree:
    return encoder.embed(apply_model(encoder.module, variables, module_input(encoder, variables, pcm)))
