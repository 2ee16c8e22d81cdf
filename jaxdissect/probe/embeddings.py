"""Clip embeddings of a whole task: those of the encoder, and those after every layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxdissect.encoder.models import apply_model
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder, Variables, module_input, variables_on
from jaxdissect.errors import InputError, require
from jaxdissect.probe.linear import LARGEST_FEATURE
from jaxdissect.runtime.machine import available_memory
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


@dataclass(frozen=True, eq=False)
class LayerEmbeddings:
    """Embeddings of a task's clips after every layer.

    Attributes:
      values: embeddings by depth, the number of layers that were run: depth 0 is before the first layer, and the last
        depth is the encoder's own embedding. Zero for clips that are not usable.
      usable: whether the file could be read, and its embeddings are finite at every depth.
      reasons: reason why a clip is not usable, by its number.
    """

    values: Float[np.ndarray, "clip depth feature"]
    usable: Bool[np.ndarray, " clip"]
    reasons: Mapping[int, str] = field(default_factory=dict)

    def at(self, depth: int) -> Embeddings:
        """The embeddings at one depth; they share the memory of all.

        Args:
          depth: number of layers that were run; -1 for all.
        """
        return Embeddings(self.values[:, depth], self.usable, self.reasons)


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
    values = np.zeros((len(task), embedding_features(encoder, task)), np.float32)
    return Embeddings(values, *_fill(values, _embed, encoder, task, batch_size, devices, progress))


def embed_layers(
    encoder: Encoder,
    task: Task,
    batch_size: int = 16,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda clips: None,
) -> LayerEmbeddings:
    """Embed every clip of a task after every layer, in one pass over the clips.

    The encoder's own last steps (`leave` and `embed`) act on the output of each layer in place of the last layer's.
    The result takes 4 bytes x clips x (layers + 1) x features of the host's memory.

    Args:
      encoder: a `LayeredEncoder`.
      task: clips to embed.
      batch_size: number of clips per device and step.
      devices: devices to split every batch over; default: all of this process.
      progress: function called with the number of clips finished.

    Raises:
      InputError: `batch_size` is not positive, the encoder is no `LayeredEncoder`, its embeddings are not (clip,
        feature), the host's memory is too small, or there are several processes.
    """
    values = np.zeros((len(task), *layer_features(encoder, task)), np.float32)
    return LayerEmbeddings(values, *_fill(values, _embed_layers, encoder, task, batch_size, devices, progress))


def _fill(
    values: Float[np.ndarray, "clip *axes"],
    embed: Callable[..., Array],
    encoder: Encoder,
    task: Task,
    batch_size: int,
    devices: Sequence[jax.Device] | None,
    progress: Callable[[int], object],
) -> tuple[Bool[np.ndarray, " clip"], dict[int, str]]:
    """Embed every clip of a task, as `embed_clips`.

    Args:
      values: array that gets the embeddings; zero before.
      embed: function `embed(encoder, variables, pcm)` that gives the embeddings of some clips.
      encoder, task, batch_size, devices, progress: as for `embed_clips`.

    Returns:
      Which clips are usable, and the reasons why the others are not.
    """
    require(batch_size >= 1, f"batch_size must be positive, got {batch_size}.")
    require(jax.process_count() == 1, f"Embedding runs in one process so far, got {jax.process_count()}.")
    mesh = local_mesh(devices)
    # A small task fills no batch; every device has as many clips.
    clips_per_step = min(batch_size, -(-len(task) // mesh.size)) * mesh.size
    variables = variables_on(encoder, mesh)

    embed_batch = map_clips(lambda *args: embed(encoder, *args).astype(np.float32), mesh, (None, 0))
    usable: list[bool] = []
    reasons: dict[int, str] = {}
    for batch, arrays in device_batches(task, encoder.sample_rate, clips_per_step, mesh):
        # The last batch is filled up; the last column of its members says which files could be read.
        embedded = np.asarray(embed_batch(variables, arrays["pcm"]))[: len(batch.statuses)]
        finite = (np.abs(embedded) < LARGEST_FEATURE).reshape(len(embedded), -1).all(axis=1)
        good = finite & batch.members[: len(embedded), -1]
        for row in np.flatnonzero(~good):
            status = batch.statuses[row]
            unreadable = status.status == "unreadable"
            reasons[len(usable) + int(row)] = status.reason if unreadable else "its embedding is not finite"
        # Only good rows are written: zero times an infinite embedding would be NaN.
        values[len(usable) :][: len(embedded)][good] = embedded[good]
        usable.extend(good.tolist())
        progress(len(usable))
    return np.array(usable), reasons


def embedding_features(encoder: Encoder, task: Task) -> int:
    """Number of features of an embedding of the task's clips, found without computing one.

    Raises:
      InputError: embeddings are not (clip, feature).
    """
    output = jax.eval_shape(lambda *args: _embed(encoder, *args), encoder.variables, _two_clips(encoder, task))
    shape: tuple[int, ...] = getattr(output, "shape", ())
    require(
        len(shape) == 2 and shape[0] == 2,
        f"The embeddings of {encoder.name} must have the axes (clip, feature); those of 2 clips have the shape "
        f"{shape}.",
    )
    return int(shape[1])


def layer_features(encoder: Encoder, task: Task) -> tuple[int, int]:
    """Number of depths, and of features at each, of the task's embeddings after every layer; computes none.

    Raises:
      InputError: the encoder is no `LayeredEncoder`, its embeddings are not (clip, feature), or those of the task do
        not fit into the host's memory.
    """
    features = embedding_features(encoder, task)
    if not isinstance(encoder, LayeredEncoder):
        raise InputError(
            f"Probes after every layer need an encoder whose layers run one by one, and {encoder.name} is no "
            f"LayeredEncoder: add its members as docs/encoders.md shows, or probe the last layer only."
        )
    depths = len(encoder.layer_variables(encoder.variables)) + 1
    needed, available = 4 * len(task) * depths * features, available_memory()
    require(
        available is None or needed <= available,
        f"The embeddings of {len(task)} clips after every layer need {needed / 1e6:,.0f} MB of memory and "
        f"{(available or 0) / 1e6:,.0f} MB are free: probe fewer clips, or the last layer only.",
    )
    return depths, features


def _two_clips(encoder: Encoder, task: Task) -> jax.ShapeDtypeStruct:
    """PCM of two clips, so that the axis of the clips differs from others of length 1."""
    return jax.ShapeDtypeStruct((2, unit_samples(task, encoder.sample_rate)), np.float32)


def _embed(encoder: Encoder, variables: Variables, pcm: Array) -> PyTree:
    return encoder.embed(apply_model(encoder.module, variables, module_input(encoder, variables, pcm)))


def _embed_layers(encoder: LayeredEncoder, variables: Variables, pcm: Array) -> Float[Array, "clip depth feature"]:
    states = encoder.enter(variables, module_input(encoder, variables, pcm))
    embedded = [encoder.embed(encoder.leave(variables, states))]
    for layer_variables in encoder.layer_variables(variables):
        states = tuple(apply_model(encoder.layer, layer_variables, state) for state in states)
        embedded.append(encoder.embed(encoder.leave(variables, states)))
    return jnp.stack(embedded, axis=1)
