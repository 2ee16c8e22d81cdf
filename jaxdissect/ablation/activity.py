"""Measures how much every neuron does on some clips, which is what matched controls are matched in."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxdissect.ablation.matched_controls import Activity
from jaxdissect.activations.read import activations_of
from jaxdissect.activations.tags import joined_values
from jaxdissect.activations.visit import Site, visit_neurons
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder, module_input, named_units, variables_on
from jaxdissect.errors import InputError
from jaxdissect.runtime.sharding import local_mesh, map_clips
from jaxdissect.tasks.loader import device_batches
from jaxdissect.tasks.table import Task

ClipSums: TypeAlias = tuple[Array, Array, Array]


def measure_activity(
    encoder: Encoder,
    task: Task,
    batch_size: int = 16,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda clips: None,
) -> Activity:
    """Activation rate and impact of every neuron over all tokens of a task's clips.

    Args:
      encoder: a `LayeredEncoder`; without outgoing weights the impact is the mean of |activation|.
      task: the clips; those that cannot be read, or whose activations are not finite, are left out.
      batch_size: clips per device and step.
      devices: devices to split the clips over; default: all of this process.
      progress: called with the number of clips finished.

    Raises:
      InputError: the encoder is no `LayeredEncoder`, or no clip can be used.
    """
    if not isinstance(encoder, LayeredEncoder):
        raise InputError(
            f"Controls matched by activity need the outgoing weights of neurons, which {encoder.name} does not give "
            f"(it is no LayeredEncoder): use --match layer."
        )
    mesh = local_mesh(devices)
    clips_per_step = min(batch_size, -(-len(task) // mesh.size)) * mesh.size
    variables, step = variables_on(encoder, mesh), map_clips(_step(encoder), mesh, (None, 0))
    active, size, tokens, finished = np.zeros(()), np.zeros(()), 0, 0  # (layer, neuron) after the first batch
    first_reason = ""
    for batch, arrays in device_batches(task, encoder.sample_rate, clips_per_step, mesh):
        clip_active, clip_size, clip_tokens = jax.device_get(step(variables, arrays["pcm"]))
        usable = batch.members[:, -1] & np.isfinite(clip_size).all(axis=(1, 2))  # neither padding nor unreadable
        # Sums over a clip are float32, which holds them: counts exactly. Sums over clips need float64.
        active = active + clip_active[usable].sum(axis=0, dtype=np.float64)
        size = size + clip_size[usable].sum(axis=0, dtype=np.float64)
        tokens += int(clip_tokens[usable].sum())
        unreadable = (status.reason for status in batch.statuses if status.status == "unreadable")
        first_reason = first_reason or next(unreadable, "")
        finished += len(batch.statuses)
        progress(finished)
    if not tokens:
        raise InputError(
            f"Task {task.name!r}: none of the {len(task)} test clips can be used, the first since "
            f"{first_reason or 'its activations are not finite'}: is {task.data} their folder?"
        )
    return Activity(active / tokens, size / tokens * _outgoing_norms(encoder))


def _outgoing_norms(encoder: LayeredEncoder) -> Float[np.ndarray, "layer neuron"] | float:
    """Size of what an activation of 1 writes to the residual stream; 1 for units without outgoing weights, as heads."""
    outgoing = [encoder.outgoing_weights(layer) for layer in encoder.layer_variables(encoder.variables)]
    if any(weights is None for weights in outgoing):
        return 1.0
    return np.stack([np.linalg.norm(np.asarray(weights, np.float64), axis=1) for weights in outgoing])


def _step(encoder: Encoder) -> Callable[[PyTree, Array], ClipSums]:
    """A function of variables and PCM that sums over each clip's tokens.

    It returns, for every clip and neuron, the tokens at which the neuron is active and the sum of |activation|, each
    (clip, layer, neuron); and the clip's tokens, (clip).
    """
    units = named_units(encoder)

    def step(variables: PyTree, pcm: Array) -> ClipSums:
        def observe(site: Site, value: Array) -> tuple[Array, ClipSums]:
            activation = activations_of(value, units["vectors"], site.name)
            flat = activation.reshape(len(activation), -1, activation.shape[-1])  # (clip, token, neuron)
            active = (flat > 0).astype(jnp.float32).sum(axis=1)
            tokens = jnp.full(len(flat), flat.shape[1], jnp.int32)
            return value, (active, jnp.abs(flat.astype(jnp.float32)).sum(axis=1), tokens)

        inputs = module_input(encoder, variables, pcm)
        read = visit_neurons(encoder.module, variables, inputs, neurons=units["neurons"], visit=observe)[1]
        # Long clips run through the layers in several calls, which are added up. (layer, clip, ...) of each name
        of_names = [jax.tree.map(lambda *calls: sum(calls), *calls) for calls in read.values()]
        active, size, tokens = joined_values(of_names)
        return jnp.moveaxis(active, 0, 1), jnp.moveaxis(size, 0, 1), tokens[0]

    return step
