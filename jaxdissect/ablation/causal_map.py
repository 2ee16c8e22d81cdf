"""What silencing each single neuron does to the true class's margin, to first order, for all neurons at once.

With a gain g on a neuron's activation, the derivative of the margin with respect to g at g = 1 is activation x
gradient, summed over tokens; going from 1 to 0, the margin changes by about minus that. Every clip has gains of its
own, so one backward pass gives all neurons of all clips of a batch.

Source: the attribution of Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019), and of
attribution patching (Syed, Rager and Conmy, arXiv:2310.10348), here with silence in place of a patch.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int

from jaxdissect.ablation.engine import Edit
from jaxdissect.ablation.stream import judge_edits
from jaxdissect.ablation.verdicts import judge_clips, per_class
from jaxdissect.activations.write import run_with_gains
from jaxdissect.encoder.protocol import Encoder, module_input
from jaxdissect.errors import InputError
from jaxdissect.probe.judge import Judge
from jaxdissect.runtime.sharding import local_mesh, map_clips, replicate, shard_clips
from jaxdissect.tasks.loader import batches
from jaxdissect.tasks.table import Task

CHECK_CLIPS = 64  # on which single neurons are silenced one by one


def causal_map(
    encoder: Encoder,
    task: Task,
    judges: Mapping[str, Judge],
    shape: tuple[int, int],
    batch_size: int = 4,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda clips: None,
) -> dict[str, Float[np.ndarray, "class layer neuron"]]:
    """First-order estimate of the change of each class's mean margin when a neuron falls silent.

    Costs a forward and, per label set, a backward pass (of a multi-label set one for each of a clip's labels).

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019), and attribution patching
    (Syed, Rager and Conmy, arXiv:2310.10348), with silence in place of a patch.

    Args:
      encoder: any `Encoder`.
      task: the clips; those that cannot be read, or whose gradient is not finite, are left out.
      judges: probes of each label set; the margin is the mean of theirs (see `verdicts`).
      shape: layers, and neurons per layer, of the encoder.
      batch_size: clips per device and step; the backward pass keeps their activations.
      devices: to split the clips over; default: all of this process.
      progress: called with the number of clips finished.

    Returns:
      of each label set, logits; NaN for a class without a clip.

    Raises:
      InputError: `batch_size` is not positive, or there are several processes.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size must be positive, got {batch_size}.")
    if jax.process_count() > 1:
        raise InputError(f"The causal map runs in one process so far, got {jax.process_count()}.")
    mesh = local_mesh(devices)
    clips_per_step = min(batch_size, -(-len(task) // mesh.size)) * mesh.size
    slots = {name: _slots(judge.members) for name, judge in judges.items()}
    of_margin = _gradient(encoder, {name: judge.multi_label for name, judge in judges.items()}, shape)
    gradient = map_clips(of_margin, mesh, (None, None, 0, 0, 0))
    variables, heads = replicate((encoder.variables, {name: judge.head for name, judge in judges.items()}), mesh)
    total = {name: np.zeros((judge.members.shape[1], *shape)) for name, judge in judges.items()}
    clips = {name: np.zeros(judge.members.shape[1]) for name, judge in judges.items()}
    done = 0
    for batch in batches(task, encoder.sample_rate, clips_per_step):
        rows = np.maximum(batch.clip, 0)
        members = {name: judge.members[rows] for name, judge in judges.items()}
        of_clip = {name: slots[name][rows] for name in judges}
        found = jax.device_get(gradient(variables, heads, *shard_clips((batch.pcm, members, of_clip), mesh)))
        for name, gradients in found.items():
            for row in np.flatnonzero(batch.members[:, -1]):
                for slot, index in enumerate(of_clip[name][row]):
                    if index >= 0 and np.isfinite(gradients[row, slot]).all():
                        total[name][index] -= gradients[row, slot]
                        clips[name][index] += 1
        done += len(batch.statuses)
        progress(done)
    with np.errstate(invalid="ignore"):
        return {name: total[name] / clips[name][:, None, None] for name in judges}


def _gradient(encoder: Encoder, multi_label: Mapping[str, bool], shape: tuple[int, int]) -> Callable[..., Any]:
    def gradient(variables: Any, heads: Any, pcm: Array, members: Any, slots: Any) -> Any:
        inputs = module_input(encoder, variables, pcm)

        def margins(gains: Float[Array, "clip layer neuron"]) -> Any:
            output = run_with_gains(encoder.module, variables, inputs, neurons=encoder.neurons, gains=gains)
            embeddings = encoder.embed(output).astype(jnp.float32)
            return {
                name: judge_clips(heads[name], embeddings, members[name], several).margin
                for name, several in multi_label.items()
            }

        found, pull_back = jax.vjp(margins, jnp.ones((len(pcm), *shape), jnp.float32))
        nothing = jax.tree.map(jnp.zeros_like, found)

        def of_slot(name: str, index: Int[Array, " clip"]) -> Float[Array, "clip layer neuron"]:
            """Derivatives of the margin of one of each clip's classes."""
            has = (index >= 0).astype(jnp.float32)
            wanted = jax.nn.one_hot(index, found[name].shape[-1]) if multi_label[name] else has
            return pull_back({**nothing, name: wanted})[0]

        return {
            name: jnp.stack([of_slot(name, index) for index in jnp.moveaxis(slots[name], 1, 0)], axis=1)
            for name in multi_label
        }

    return gradient


def _slots(members: Bool[np.ndarray, "clip class"]) -> Int[np.ndarray, "clip slot"]:
    """The classes of each clip, side by side; -1 where it has fewer than others."""
    slots = np.full((len(members), max(1, members.sum(axis=1).max(initial=0))), -1)
    for clip, row in enumerate(members):
        classes = np.flatnonzero(row)
        slots[clip, : len(classes)] = classes
    return slots


def check_map(
    encoder: Encoder,
    task: Task,
    judges: Mapping[str, Judge],
    shape: tuple[int, int],
    per_layer: int,
    clips: int = CHECK_CLIPS,
    progress: Callable[[int], object] = lambda passes: None,
    **running: Any,
) -> pd.DataFrame:
    """How well the map ranks what silencing single neurons does: against silencing them one by one.

    Both are done on the same clips, spread evenly over the task's. Of each layer the neurons are spread evenly over the
    ranks of the root mean square estimate, so that strong and weak ones take part alike.

    Args:
      encoder, task, judges, shape: as of `causal_map`.
      per_layer: neurons of each layer, at least 2.
      clips: at most so many.
      progress: called with the number of passes finished, one for every clip and neuron.
      running: `batch_size`, `at_once`, `devices` of `judge_edits`.

    Returns:
      per label set and layer: `neurons` silenced, `clips`, `rank_correlation` (Spearman) of estimate and exact change
      over (neuron, class) pairs, their deviations `exact_sd` and `estimate_sd` in logits.
    """
    chosen = np.unique(np.linspace(0, len(task) - 1, min(clips, len(task))).round().astype(int))
    task = task.rows(chosen.tolist())
    judges = {name: dataclasses.replace(judge, members=judge.members[chosen]) for name, judge in judges.items()}
    size = min(4, running.get("batch_size", 4))
    estimate = causal_map(encoder, task, judges, shape, size, running.get("devices"))
    strength = _strength(estimate)
    picked = np.linspace(0, shape[1] - 1, min(per_layer, shape[1])).round().astype(int)
    sample = np.array(
        [(layer, neuron) for layer in range(shape[0]) for neuron in np.argsort(strength[layer], kind="stable")[picked]]
    )
    edits = [Edit(pair[:1], pair[1:], 0.0, np.zeros(1)) for pair in sample]
    judged = judge_edits(encoder, task, judges, edits, shape, progress=progress, **running)
    rows = []
    for name, judge in judges.items():
        before, after = (
            per_class(verdicts[name], judge, judged.usable).margin for verdicts in (judged.before, judged.after)
        )
        for layer in range(shape[0]):
            here = sample[:, 0] == layer
            exact = (after - before)[here].ravel()
            guess = estimate[name][:, layer, sample[here, 1]].T.ravel()
            rows.append(
                [name, layer, len(picked), len(task), spearman(exact, guess), np.nanstd(exact), np.nanstd(guess)]
            )
    columns = ["label_set", "layer", "neurons", "clips", "rank_correlation", "exact_sd", "estimate_sd"]
    return pd.DataFrame(rows, columns=columns)


def spearman(one: Float[np.ndarray, " pair"], other: Float[np.ndarray, " pair"]) -> float:
    """Rank correlation of the pairs without NaN; NaN where one side is constant."""
    pairs = pd.DataFrame({"one": one, "other": other}).dropna().rank()
    if len(pairs) < 2 or (pairs.std() == 0).any():
        return float("nan")
    return float(np.corrcoef(pairs["one"], pairs["other"])[0, 1])


def _strength(estimate: Mapping[str, Float[np.ndarray, "class layer neuron"]]) -> Float[np.ndarray, "layer neuron"]:
    """Root mean square estimate over all classes that have a clip."""
    every = np.concatenate(list(estimate.values()))
    return np.sqrt(np.nanmean(np.square(every), axis=0))
