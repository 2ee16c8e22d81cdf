"""Many interventions on a batch of clips at once: clips x edits -> verdicts of linear probes.

An edit changes some neurons in one pass of the encoder. The front end runs once per batch of clips. Silencing neurons S
of layer l takes `a_S @ W2_S` from that layer's output and nothing else, so an edit resumes behind the first layer that
it touches: the untouched pass goes through the layers once, and at each layer all edits that begin there branch off,
many at a time. Memory follows the number that run at once, not the number of edits. Only verdicts leave the device.

An encoder that is not a `LayeredEncoder` runs whole; `vmap` then shares among the edits of one chunk what no gain has
touched.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxdissect.ablation.verdicts import judge_clips
from jaxdissect.activations.write import edit_neurons
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder, module_input
from jaxdissect.probe.linear import LARGEST_FEATURE
from jaxdissect.runtime.sharding import map_clips

UNTOUCHED = [-1]  # the number of the edit that changes nothing


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


@dataclass(frozen=True)
class Chunk:
    """Edits that begin in one layer and run at once.

    Attributes:
      numbers: of the edits.
      edits: themselves.
      rows: to which they are padded with such as change nothing.
    """

    numbers: Sequence[int]
    edits: Sequence[Edit]
    rows: int

    @property
    def first(self) -> int:
        """The layer in which they begin."""
        return self.edits[0].first

    def touches(self, layer: int) -> bool:
        """Whether any of them changes a neuron of this layer."""
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


def plan(edits: Sequence[Edit], at_once: int) -> list[Chunk]:
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
    return [Chunk(part, [edits[number] for number in part], min(at_once, _power_of_two(len(part)))) for part in parts]


def _power_of_two(number: int) -> int:
    """The smallest one that is not below."""
    return 1 << (number - 1).bit_length()


def _judge(encoder: Encoder, multi_label: Mapping[str, bool], heads: Any, members: Any, output: Any) -> Any:
    """Verdicts of every label set, and which embeddings are finite."""
    embeddings = encoder.embed(output).astype(jnp.float32)
    verdicts = {
        name: judge_clips(heads[name], embeddings, members[name], several) for name, several in multi_label.items()
    }
    return verdicts, (jnp.abs(embeddings) < LARGEST_FEATURE).all(axis=1)


def runner_of(
    encoder: Encoder, multi_label: Mapping[str, bool], shape: tuple[int, int], mesh: Mesh
) -> "LayerByLayer | WholeEncoder":
    """What runs edits of an encoder.

    Args:
      encoder: any `Encoder`.
      multi_label: of each label set that verdicts are wanted of.
      shape: layers, and neurons per layer, of the encoder.
      mesh: of the devices, over which clips are split.
    """
    if isinstance(encoder, LayeredEncoder):
        return LayerByLayer(encoder, multi_label, shape[1], mesh)
    return WholeEncoder(encoder, multi_label, shape, mesh)


class LayerByLayer:
    """Runs layers one by one. One layer is one compiled program, whatever its number."""

    def __init__(self, encoder: LayeredEncoder, multi_label: Mapping[str, bool], neurons: int, mesh: Mesh) -> None:
        self.encoder, self.neurons = encoder, neurons

        def enter(variables: Any, pcm: Array) -> Any:
            return encoder.enter(variables, module_input(encoder, variables, pcm))

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
        self, variables: Any, heads: Any, pcm: Array, members: Any, chunks: Sequence[Chunk]
    ) -> Iterator[tuple[Sequence[int], Any]]:
        """Judge a batch of clips under every edit, and untouched."""
        of_layer: dict[int, list[Chunk]] = defaultdict(list)
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


class WholeEncoder:
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

        self.front_end = map_clips(functools.partial(module_input, encoder), mesh, (None, 0))
        self.edited = map_clips(run, mesh, (None, None, 0, 0, None), out_axis=1)
        self.untouched = map_clips(untouched, mesh, (None, None, 0, 0), out_axis=1)

    def run(
        self, variables: Any, heads: Any, pcm: Array, members: Any, chunks: Sequence[Chunk]
    ) -> Iterator[tuple[Sequence[int], Any]]:
        """Judge a batch of clips under every edit, and untouched."""
        inputs = self.front_end(variables, pcm)
        for chunk in chunks:
            touched = {layer: chunk.dense(layer, self.neurons) for layer in range(chunk.first, self.layers)}
            yield chunk.numbers, self.edited(variables, heads, inputs, members, touched)
        yield UNTOUCHED, self.untouched(variables, heads, inputs, members)
