"""How much every neuron does on some clips, whatever for: what matched controls are matched by."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdissect.ablation.controls import Activity
from jaxdissect.activations.write import edit_neurons
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder, module_input
from jaxdissect.errors import InputError
from jaxdissect.runtime.sharding import local_mesh, map_clips, replicate
from jaxdissect.tasks.loader import device_batches
from jaxdissect.tasks.table import Task


def measure_activity(
    encoder: Encoder,
    task: Task,
    batch_size: int = 16,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda clips: None,
) -> Activity:
    """Activation rate, and mean |a| x norm of the outgoing weights, of every neuron over all tokens of a task's clips.

    Args:
      encoder: one that tells its outgoing weights, a `LayeredEncoder`.
      task: the clips; those that cannot be read, or whose activations are not finite, are left out.
      batch_size: clips per device and step.
      devices: to split the clips over; default: all of this process.
      progress: called with the number of clips finished.

    Raises:
      InputError: the encoder does not tell its outgoing weights, or no clip can be used.
    """
    if not isinstance(encoder, LayeredEncoder):
        raise InputError(
            f"--match activity needs the outgoing weights of neurons, which {encoder.name} does not tell (it is no "
            f"LayeredEncoder): use --match layer."
        )
    mesh = local_mesh(devices)
    clips_per_step = min(batch_size, -(-len(task) // mesh.size)) * mesh.size
    norms = np.stack(
        [
            np.linalg.norm(np.asarray(encoder.outgoing_weights(layer), np.float64), axis=1)
            for layer in encoder.layer_variables(encoder.variables)
        ]
    )
    variables, step = replicate(encoder.variables, mesh), map_clips(_step(encoder), mesh, (None, 0))
    active, size, tokens, done = np.zeros(norms.shape), np.zeros(norms.shape), 0, 0
    why = ""
    for batch, arrays in device_batches(task, encoder.sample_rate, clips_per_step, mesh):
        per_clip, per_clip_size, tokens_per_clip = jax.device_get(step(variables, arrays["pcm"]))
        good = batch.members[:, -1] & np.isfinite(per_clip_size).all(axis=(1, 2))
        active += per_clip[good].sum(axis=0, dtype=np.float64)
        size += per_clip_size[good].sum(axis=0, dtype=np.float64)
        tokens += int(tokens_per_clip[good].sum())
        why = why or next((status.reason for status in batch.statuses if status.status == "unreadable"), "")
        done += len(batch.statuses)
        progress(done)
    if not tokens:
        raise InputError(
            f"Task {task.name!r}: none of the {len(task)} test clips can be used, the first since "
            f"{why or 'its activations are not finite'}: is --data their folder?"
        )
    return Activity(active / tokens, size / tokens * norms)


def _step(encoder: Encoder) -> Callable[..., Any]:
    """Of each clip, per neuron: tokens at which it is active, and the sum of |a|; and its tokens."""

    def step(variables: Any, pcm: Array) -> Any:
        active: dict[int, list[Array]] = {}
        size: dict[int, list[Array]] = {}
        tokens: dict[int, list[int]] = {}

        def observe(layer: int, activation: Array) -> Array:
            flat = activation.reshape(len(activation), -1, activation.shape[-1])
            active.setdefault(layer, []).append((flat > 0).astype(jnp.float32).sum(axis=1))
            size.setdefault(layer, []).append(jnp.abs(flat.astype(jnp.float32)).sum(axis=1))
            tokens.setdefault(layer, []).append(flat.shape[1])
            return activation

        inputs = module_input(encoder, variables, pcm)
        edit_neurons(encoder.module, variables, inputs, neurons=encoder.neurons, edit=observe)
        layers = sorted(active)

        def stacked(parts: dict[int, list[Array]]) -> Array:
            return jnp.stack([jnp.stack(parts[layer]).sum(axis=0) for layer in layers], axis=1)

        return stacked(active), stacked(size), jnp.full(len(pcm), sum(tokens[layers[0]]), jnp.int32)

    return step
