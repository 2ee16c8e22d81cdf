"""Many interventions on the same clips at once: clips x edits -> verdicts of linear probes.

An edit changes some neurons in one pass of the encoder. The front end runs once per batch of clips. Silencing neurons S
of layer l takes `a_S @ W2_S` from that layer's output and nothing else, so an edit resumes behind the first layer that
it touches: the untouched pass goes through the layers once, and at each layer all edits that begin there branch off,
many at a time. Memory follows the number that run at once, not the number of edits. Only verdicts leave the device.

An encoder that is not a `LayeredEncoder` runs whole; `vmap` then shares among the edits of one chunk what no gain has
touched.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxdissect.ablation.outcomes import Judge, Verdicts, judge_clips
from jaxdissect.embeddings import LARGEST
from jaxdissect.encoder.base import Encoder, LayeredEncoder
from jaxdissect.errors import InputError
from jaxdissect.interventions import edit_neurons
from jaxdissect.sharding import local_mesh, map_clips, replicate, shard_clips
from jaxdissect.tasks.loader import Batch, batches
from jaxdissect.tasks.table import Task

UNTOUCHED = [-1]  # the number of the edit that changes nothing
ROWS_AT_ONCE = {"cpu": 16}  # clips x edits on a device: a CPU is fastest while a layer's activations stay in its cache
ROWS_ON_ACCELERATORS = 256


@dataclass(frozen=True, eq=False)
class Edit:
    """Neurons that are changed in one pass of the encoder: `activation -> gain * activation + offset`.

    Attributes:
      layer, neuron: of each changed neuron; at least one.
      gain: for all of them.
      offset: of each; 0, or the neuron's mean for mean ablation.
    """

    layer: Int[np.ndarray, " changed"]
    neuron: Int[np.ndarray, " changed"]
    gain: float
    offset: Float[np.ndarray, " changed"]

    @property
    def first(self) -> int:
        """The first layer that is touched."""
        return int(self.layer.min())


@dataclass(frozen=True, eq=False)
class Judged:
    """Verdicts on every clip under every edit.

    Attributes:
      before: of each label set, of the untouched encoder: an axis (edit) of length one in front.
      after: likewise of the edits, in the order given.
      usable: clips that could be read and whose untouched embedding is finite.
      reasons: why a clip is not usable, by its number.
    """

    before: Mapping[str, Verdicts]
    after: Mapping[str, Verdicts]
    usable: Bool[np.ndarray, " clip"]
    reasons: Mapping[int, str]


@dataclass(frozen=True)
class _Chunk:
    """Edits that begin in one layer and run at once, padded to `rows` with such as change nothing."""

    numbers: Sequence[int]
    edits: Sequence[Edit]
    rows: int

    @property
    def first(self) -> int:
        return self.edits[0].first

    def touches(self, layer: int) -> bool:
        return any((edit.layer == layer).any() for edit in self.edits)

    def sparse(self, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Changed neurons of one layer with gain - 1 and offset, each (edit, changed), padded to a power of two."""
        changed = max(int((edit.layer == layer).sum()) for edit in self.edits)
        neuron = np.zeros((self.rows, _power_of_two(changed)), np.int32)
        scale, offset = np.zeros((2, *neuron.shape), np.float32)
        for row, edit in enumerate(self.edits):
            here = edit.layer == layer
            part = slice(0, int(here.sum()))
            neuron[row, part], scale[row, part], offset[row, part] = edit.neuron[here], edit.gain - 1, edit.offset[here]
        return neuron, scale, offset

    def dense(self, layer: int, neurons: int) -> tuple[np.ndarray, np.ndarray]:
        """Gain and offset of every neuron of one layer, each (edit, neuron)."""
        gain, offset = np.ones((self.rows, neurons), np.float32), np.zeros((self.rows, neurons), np.float32)
        for row, edit in enumerate(self.edits):
            here = edit.layer == layer
            gain[row, edit.neuron[here]], offset[row, edit.neuron[here]] = edit.gain, edit.offset[here]
        return gain, offset


def judge_edits(
    encoder: Encoder,
    task: Task,
    judges: Mapping[str, Judge],
    edits: Sequence[Edit],
    shape: tuple[int, int],
    batch_size: int = 4,
    at_once: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda passes: None,
) -> Judged:
    """Run every clip under every edit, and judge it.

    Args:
      encoder: any `Encoder`.
      task: the clips.
      judges: of each label set.
      edits: what is changed; each in its own pass.
      shape: layers, and neurons per layer, of the encoder.
      batch_size: clips per device and step.
      at_once: edits that run together; default: so many that they make 16 rows with the clips of a CPU, 256 with those
        of an accelerator.
      devices: to split the clips over; default: all of this process.
      progress: called with the number of passes finished, one for every clip and edit.

    Raises:
      InputError: a number breaks a rule, or there are several processes.
    """
    if batch_size < 1 or (at_once is not None and at_once < 1):
        raise InputError(f"--batch-size and --at-once must be positive, got {batch_size} and {at_once}.")
    if jax.process_count() > 1:
        raise InputError(f"Ablation runs in one process so far, got {jax.process_count()}.")
    mesh = local_mesh(devices)
    batch_size = min(batch_size, -(-len(task) // mesh.size))
    together = ROWS_AT_ONCE.get(mesh.devices.flat[0].platform, ROWS_ON_ACCELERATORS)
    chunks = _plan(edits, at_once or max(1, together // batch_size))
    heads = {name: judge.head for name, judge in judges.items()}
    multi_label = {name: judge.multi_label for name, judge in judges.items()}
    runner: _Layered | _Whole
    if isinstance(encoder, LayeredEncoder):
        runner = _Layered(encoder, multi_label, shape[1], mesh)
    else:
        runner = _Whole(encoder, multi_label, shape, mesh)
    variables, heads = replicate(encoder.variables, mesh), replicate(heads, mesh)
    found = _Found(len(task), len(edits))
    for batch in batches(task, encoder.sample_rate, batch_size * mesh.size):
        rows = np.maximum(batch.clip, 0)
        members = {name: judge.members[rows] for name, judge in judges.items()}
        pcm, members = shard_clips((batch.pcm, members), mesh)
        waiting: tuple[Sequence[int], Any] | None = None
        for started in runner.run(variables, heads, pcm, members, chunks):
            if waiting is not None:  # the host's work on one chunk is done while the devices are busy with the next
                found.put(batch, *waiting)
                progress(found.passes)
            waiting = started
        if waiting is not None:
            found.put(batch, *waiting)
            progress(found.passes)
    return found.judged()


class _Found:
    """Verdicts as they come in; row 0 is the untouched encoder's."""

    def __init__(self, clips: int, edits: int) -> None:
        self.clips, self.edits, self.passes = clips, edits, 0
        self.arrays: dict[str, Verdicts] = {}
        self.usable, self.reasons = np.zeros(clips, bool), dict[int, str]()

    def put(self, batch: Batch, edits: Sequence[int], said: Any) -> None:
        verdicts, sound = jax.device_get(said)
        count = len(batch.statuses)
        at = np.array(edits)[:, None] + 1, batch.clip[None, :count]
        for name, found in verdicts.items():
            if name not in self.arrays:
                self.arrays[name] = jax.tree.map(
                    lambda part: np.full((self.edits + 1, self.clips, *part.shape[2:]), np.nan, np.float32), found
                )
            for kept, new in zip(jax.tree.leaves(self.arrays[name]), jax.tree.leaves(found), strict=True):
                kept[at] = new[: len(edits), :count]
        if edits != UNTOUCHED:
            self.passes += len(edits) * count
            return
        for clip, status, readable, good in zip(
            batch.clip, batch.statuses, batch.members[:, -1], sound[0], strict=False
        ):
            self.usable[clip] = readable and good
            if not self.usable[clip]:
                self.reasons[int(clip)] = status.reason if not readable else "its embedding is not finite"

    def judged(self) -> Judged:
        def part(rows: slice) -> dict[str, Verdicts]:
            return {name: jax.tree.map(lambda leaf: leaf[rows], found) for name, found in self.arrays.items()}

        return Judged(part(slice(0, 1)), part(slice(1, None)), self.usable, self.reasons)


def _plan(edits: Sequence[Edit], at_once: int) -> list[_Chunk]:
    """Edits that begin in the same layer, `at_once` at a time.

    What remains is padded to a power of two, so that few programs are compiled.
    """
    by_layer: dict[int, list[int]] = defaultdict(list)
    for number, edit in enumerate(edits):
        by_layer[edit.first].append(number)
    parts = [
        numbers[start : start + at_once]
        for _, numbers in sorted(by_layer.items())
        for start in range(0, len(numbers), at_once)
    ]
    return [_Chunk(part, [edits[number] for number in part], min(at_once, _power_of_two(len(part)))) for part in parts]


def _power_of_two(number: int) -> int:
    """The smallest one that is not below."""
    return 1 << (number - 1).bit_length()


def _judge(encoder: Encoder, multi_label: Mapping[str, bool], heads: Any, members: Any, output: Any) -> Any:
    """Verdicts of every label set, and which embeddings are finite."""
    embeddings = encoder.embed(output).astype(jnp.float32)
    verdicts = {
        name: judge_clips(heads[name], embeddings, members[name], several) for name, several in multi_label.items()
    }
    return verdicts, (jnp.abs(embeddings) < LARGEST).all(axis=1)


class _Layered:
    """Runs layers one by one. One layer is one compiled program, whatever its number."""

    def __init__(self, encoder: LayeredEncoder, multi_label: Mapping[str, bool], neurons: int, mesh: Mesh) -> None:
        self.encoder, self.neurons = encoder, neurons

        def enter(variables: Any, pcm: Array) -> Any:
            return encoder.enter(variables, encoder.front_end(variables, pcm))

        def run(layer_variables: Any, states: Any) -> Any:
            return tuple(encoder.layer.apply(layer_variables, state) for state in states)

        def leave(variables: Any, heads: Any, members: Any, states: Any) -> Any:
            return _judge(encoder, multi_label, heads, members, encoder.leave(variables, states))

        runs, edits = jax.vmap(run, in_axes=(None, 0)), jax.vmap(self._edit, in_axes=(None, 0, 0, 0))
        leaves = jax.vmap(leave, in_axes=(None, None, None, 0))
        self.enter = map_clips(enter, mesh, (None, 0))
        self.run_layer = map_clips(run, mesh, (None, 0))
        self.observe_layer = map_clips(self._observe, mesh, (None, 0))
        self.branch = map_clips(self._branch, mesh, (None, 0, 0, None, None, None), out_axis=1)
        self.run_layers = map_clips(runs, mesh, (None, 1), out_axis=1, donate=[1])
        self.edit_layers = map_clips(edits, mesh, (None, 1, None, None), out_axis=1, donate=[1])
        self.leave = map_clips(leaves, mesh, (None, None, 0, 1), out_axis=1)

    def _observe(self, layer_variables: Any, states: Any) -> Any:
        """Run a layer; also what its neurons put out, for each of its calls."""
        outputs, activations = [], []
        for state in states:

            def keep(_: int, activation: Array) -> Array:
                activations.append(activation)
                return activation

            outputs.append(self._apply(layer_variables, state, keep))
        return tuple(outputs), tuple(activations)

    def _edit(self, layer_variables: Any, states: Any, gains: Array, offsets: Array) -> Any:
        def edit(_: int, activation: Array) -> Array:
            return activation * gains.astype(activation.dtype) + offsets.astype(activation.dtype)

        with jax.numpy_rank_promotion("allow"):  # (neuron) against (clip, any token axes, neuron)
            return tuple(self._apply(layer_variables, state, edit) for state in states)

    def _apply(self, layer_variables: Any, state: Array, edit: Callable[[int, Array], Array]) -> Array:
        encoder = self.encoder
        return edit_neurons(encoder.layer, layer_variables, state, neurons=encoder.layer_neurons, edit=edit)[0]

    def _branch(
        self, layer_variables: Any, states: Any, activations: Any, neuron: Array, scale: Array, offset: Array
    ) -> Any:
        """What the layer puts out under each edit: its untouched output, and the change of the edited neurons."""
        weights = self.encoder.outgoing_weights(layer_variables)

        def one(neuron: Array, scale: Array, offset: Array) -> Any:
            def changed(state: Array, activation: Array) -> Array:
                picked = activation[..., neuron].astype(jnp.float32)
                shape = (*[1] * (picked.ndim - 1), -1)
                change = picked * scale.reshape(shape) + offset.reshape(shape)
                added = jnp.matmul(change, weights[neuron].astype(jnp.float32), precision="highest")
                return (state.astype(jnp.float32) + added).astype(state.dtype)

            return tuple(map(changed, states, activations))

        return jax.vmap(one)(neuron, scale, offset)

    def run(
        self, variables: Any, heads: Any, pcm: Array, members: Any, chunks: Sequence[_Chunk]
    ) -> Iterator[tuple[Sequence[int], Any]]:
        """Judge a batch of clips under every edit, and untouched."""
        of_layer: dict[int, list[_Chunk]] = defaultdict(list)
        for chunk in chunks:
            of_layer[chunk.first].append(chunk)
        layers = self.encoder.layer_variables(variables)
        states = self.enter(variables, pcm)
        for number, layer in enumerate(layers):
            if not of_layer[number]:
                states = self.run_layer(layer, states)
                continue
            states, activations = self.observe_layer(layer, states)
            for chunk in of_layer[number]:
                branches = self.branch(layer, states, activations, *chunk.sparse(number))
                for later in range(number + 1, len(layers)):
                    if chunk.touches(later):
                        branches = self.edit_layers(layers[later], branches, *chunk.dense(later, self.neurons))
                    else:
                        branches = self.run_layers(layers[later], branches)
                yield chunk.numbers, self.leave(variables, heads, members, branches)
        untouched = jax.tree.map(lambda state: state[None], states)
        yield UNTOUCHED, self.leave(variables, heads, members, untouched)


class _Whole:
    """Runs the whole encoder, many edits at once by `vmap`: what no gain touches is computed once for all of them."""

    def __init__(self, encoder: Encoder, multi_label: Mapping[str, bool], shape: tuple[int, int], mesh: Mesh) -> None:
        self.layers, self.neurons = shape

        def run(variables: Any, heads: Any, inputs: Any, members: Any, touched: Any) -> Any:
            def one(touched: Any) -> Any:
                def edit(layer: int, activation: Array) -> Array:
                    if layer not in touched:
                        return activation
                    gain, offset = (values.astype(activation.dtype) for values in touched[layer])
                    return activation * gain + offset

                with jax.numpy_rank_promotion("allow"):
                    output, _ = edit_neurons(encoder.module, variables, inputs, neurons=encoder.neurons, edit=edit)
                return _judge(encoder, multi_label, heads, members, output)

            return jax.vmap(one)(touched)

        def untouched(variables: Any, heads: Any, inputs: Any, members: Any) -> Any:
            judged = _judge(encoder, multi_label, heads, members, encoder.module.apply(variables, inputs))
            return jax.tree.map(lambda leaf: leaf[None], judged)

        self.front_end = map_clips(encoder.front_end, mesh, (None, 0))
        self.edited = map_clips(run, mesh, (None, None, 0, 0, None), out_axis=1)
        self.untouched = map_clips(untouched, mesh, (None, None, 0, 0), out_axis=1)

    def run(
        self, variables: Any, heads: Any, pcm: Array, members: Any, chunks: Sequence[_Chunk]
    ) -> Iterator[tuple[Sequence[int], Any]]:
        """Judge a batch of clips under every edit, and untouched."""
        inputs = self.front_end(variables, pcm)
        for chunk in chunks:
            touched = {layer: chunk.dense(layer, self.neurons) for layer in range(chunk.first, self.layers)}
            yield chunk.numbers, self.edited(variables, heads, inputs, members, touched)
        yield UNTOUCHED, self.untouched(variables, heads, inputs, members)
