"""The causal map: what silencing each single neuron does to the true class's margin, to first order, for all at once.

With a gain g on a neuron's activation, the derivative of the margin with respect to g at g = 1 is activation x
gradient, summed over tokens. Going from 1 to 0, the margin changes by about minus that. Every clip has gains of its
own, so one backward pass gives all neurons of all clips of a batch.

Source: the attribution of Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019), and of
attribution patching (Syed, Rager and Conmy, arXiv:2310.10348), here with silence in place of a patch.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdissect.ablation.engine import Heads, Members
from jaxdissect.ablation.verdicts import judge_clips
from jaxdissect.activations.write import run_with_gains
from jaxdissect.encoder.protocol import Encoder, Variables, module_input, named_units, variables_on
from jaxdissect.errors import require
from jaxdissect.probe.judge import Judge
from jaxdissect.runtime.sharding import local_mesh, map_clips, replicate, shard_clips
from jaxdissect.tasks.loader import batches
from jaxdissect.tasks.table import Task

MAP_BATCH_SIZE = 4  # clips per device and step: the backward pass keeps the activations of all layers


def causal_map(
    encoder: Encoder,
    task: Task,
    judges: Mapping[str, Judge],
    shape: tuple[int, int],
    batch_size: int = MAP_BATCH_SIZE,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda clips: None,
) -> dict[str, Float[np.ndarray, "class layer neuron"]]:
    """First-order estimate of the change of each class's mean margin when a neuron falls silent.

    Costs a forward pass and, per label set, a backward pass (of a multi-label set, one for each of a clip's labels).

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019), and attribution patching
    (Syed, Rager and Conmy, arXiv:2310.10348), with silence in place of a patch.

    Args:
      encoder: any `Encoder`.
      task: the clips; those that cannot be read, or whose gradient is not finite, are left out.
      judges: probes of each label set; the margin is the mean of theirs (see `verdicts`).
      shape: layers, and neurons per layer, of the encoder.
      batch_size: clips per device and step; the backward pass keeps their activations.
      devices: devices to split the clips over; default: all of this process.
      progress: called with the number of clips finished.

    Returns:
      of each label set, logits; NaN for a class without a clip.

    Raises:
      InputError: `batch_size` is not positive, or there are several processes.
    """
    require(batch_size >= 1, f"batch_size must be positive, got {batch_size}.")
    require(jax.process_count() == 1, f"The causal map runs in one process, got {jax.process_count()}.")
    mesh = local_mesh(devices)
    clips_per_step = min(batch_size, -(-len(task) // mesh.size)) * mesh.size
    margin_gradients = _margin_gradients(encoder, {name: judge.multi_label for name, judge in judges.items()}, shape)
    step = map_clips(margin_gradients, mesh, (None, None, 0, 0, 0))
    variables = variables_on(encoder, mesh)
    heads = replicate({name: judge.head for name, judge in judges.items()}, mesh)
    classes_of = {name: _class_numbers(judge.members) for name, judge in judges.items()}
    total = {name: np.zeros((judge.members.shape[1], *shape)) for name, judge in judges.items()}
    clips = {name: np.zeros(judge.members.shape[1]) for name, judge in judges.items()}
    finished = 0
    for batch in batches(task, encoder.sample_rate, clips_per_step):
        rows = np.maximum(batch.clip, 0)  # padding has the number -1, and takes the first clip's classes
        members = {name: judge.members[rows] for name, judge in judges.items()}
        slots = {name: classes_of[name][rows] for name in judges}
        gradients = jax.device_get(step(variables, heads, *shard_clips((batch.pcm, members, slots), mesh)))
        for name in judges:
            for row in np.flatnonzero(batch.members[:, -1]):  # neither padding nor unreadable
                for index, gradient in zip(slots[name][row], gradients[name][row], strict=True):
                    # Float64 sums on the host, clip by clip: a batch's padding and broken clips must not enter.
                    if index >= 0 and np.isfinite(gradient).all():
                        total[name][index] -= gradient
                        clips[name][index] += 1
        finished += len(batch.statuses)
        progress(finished)
    with np.errstate(invalid="ignore"):  # 0 / 0 for a class without a clip
        return {name: total[name] / clips[name][:, None, None] for name in judges}


def _margin_gradients(
    encoder: Encoder, multi_label: Mapping[str, bool], shape: tuple[int, int]
) -> Callable[[Variables, Heads, Array, Members, Members], dict[str, Array]]:
    """A function that differentiates the margins of a batch of clips with respect to a gain on every neuron.

    It takes the encoder's variables, heads, PCM, members, and the numbers of each clip's classes, (clip, slot). It
    returns derivatives of the margin of each of these classes, (clip, slot, layer, neuron).
    """

    def gradients(variables: Variables, heads: Heads, pcm: Array, members: Members, slots: Members) -> dict[str, Array]:
        inputs = module_input(encoder, variables, pcm)

        def margins(gains: Float[Array, "clip layer neuron"]) -> dict[str, Array]:
            output = run_with_gains(encoder.module, variables, inputs, gains=gains, **named_units(encoder))
            embeddings = encoder.embed(output).astype(jnp.float32)
            return {
                name: judge_clips(heads[name], embeddings, members[name], several).margin
                for name, several in multi_label.items()
            }

        # One forward pass; then a backward pass for every label set and slot, from weights on the margins. A clip's
        # margin depends on its own gains only, so the gradient of the sum over clips holds that of each clip.
        values, pull_back = jax.vjp(margins, jnp.ones((len(pcm), *shape), jnp.float32))
        zeros = jax.tree.map(jnp.zeros_like, values)

        def of_slot(name: str, index: Int[Array, " clip"]) -> Float[Array, "clip layer neuron"]:
            """Derivatives for one class of each clip; 0 for a clip without a class in this slot (`index` -1)."""
            weight = (index >= 0).astype(jnp.float32)
            if multi_label[name]:  # margins are (clip, class)
                weight = jax.nn.one_hot(index, values[name].shape[-1])
            return pull_back({**zeros, name: weight})[0]

        return {
            name: jnp.stack([of_slot(name, index) for index in jnp.moveaxis(slots[name], 1, 0)], axis=1)
            for name in multi_label
        }

    return gradients


def _class_numbers(members: Bool[np.ndarray, "clip class"]) -> Int[np.ndarray, "clip slot"]:
    """The numbers of each clip's classes, side by side; -1 behind the last, where other clips have more."""
    slots = max(1, members.sum(axis=1).max(initial=0))
    order = np.argsort(~members, axis=1, kind="stable")[:, :slots]  # a clip's own classes first, in their order
    return np.where(np.take_along_axis(members, order, axis=1), order, -1)
