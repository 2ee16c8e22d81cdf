"""Runs many edits of an encoder on a batch of clips, and judges every clip under every edit by linear probes.

An edit cannot change what comes before its first layer. So the untouched pass runs through the layers once, and the
edits that begin in a layer branch off behind it:

    untouched pass   front end -> layer 0 -> layer 1 -> layer 2 -> verdicts
                                     |          |
    edits from layer 0               +--> layer 1 -> layer 2 -> verdicts
    edits from layer 1                          +--> layer 2 -> verdicts

Where an edit branches off, its first layer need not run again. Silencing neurons S of the layer takes `a_S @ W2_S` from
the layer's output, where `a` are activations and `W2` the weights that read them; the rest of the output stays.

The edits of one layer are run in chunks of bounded size (see `edits`). Only the states of one chunk are kept at a time,
so memory follows the size of a chunk and not the number of edits. Nothing but verdicts leaves the device.

An encoder that is no `LayeredEncoder` cannot be entered between layers, and runs whole.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxdissect.ablation.edits import Chunk
from jaxdissect.ablation.verdicts import Verdicts, judge_clips
from jaxdissect.activations.write import edit_neurons
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder, module_input
from jaxdissect.probe.linear import LARGEST_FEATURE, Head
from jaxdissect.runtime.sharding import map_clips

UNTOUCHED = -1  # number of the pass that changes nothing, beside the numbers of the edits

Variables: TypeAlias = Mapping[str, PyTree]
States: TypeAlias = tuple[Array, ...]  # input or output of a layer, (clip, ..., width) for each call of the layer
Heads: TypeAlias = Mapping[str, Head]  # by label set
Members: TypeAlias = Mapping[str, Array]  # classes of the clips by label set, each (clip, class)
Gains: TypeAlias = Mapping[int, tuple[Array, Array]]  # by layer: gain and offset of every neuron
BatchVerdicts: TypeAlias = tuple[dict[str, Verdicts], Array]  # by label set; and which embeddings are finite


def runner_of(
    encoder: Encoder, multi_label: Mapping[str, bool], shape: tuple[int, int], mesh: Mesh
) -> "LayerByLayer | WholeEncoder":
    """The runner of an encoder's edits.

    Args:
      encoder: any `Encoder`.
      multi_label: whether clips may have several classes, for each label set to judge.
      shape: layers, and neurons per layer, of the encoder.
      mesh: devices over which clips are split.
    """
    if isinstance(encoder, LayeredEncoder):
        return LayerByLayer(encoder, multi_label, shape[1], mesh)
    return WholeEncoder(encoder, multi_label, shape, mesh)


class LayerByLayer:
    """Runs layers one by one. One compiled program serves all layers, since they differ only in their variables.

    States of branches have the axes (edit, clip, ..., width); those of the untouched pass have no axis `edit`.
    """

    def __init__(self, encoder: LayeredEncoder, multi_label: Mapping[str, bool], neurons: int, mesh: Mesh) -> None:
        """Make the programs, which are compiled on first use.

        Args:
          encoder: encoder to run.
          multi_label: as in `runner_of`.
          neurons: neurons per layer.
          mesh: devices over which clips are split.
        """
        self.encoder, self.neurons = encoder, neurons

        def enter(variables: Variables, pcm: Array) -> States:
            return encoder.enter(variables, module_input(encoder, variables, pcm))

        def run(layer_variables: Variables, states: States) -> PyTree:
            return tuple(encoder.layer.apply(layer_variables, state) for state in states)

        def leave(variables: Variables, heads: Heads, members: Members, states: States) -> BatchVerdicts:
            return _judge(encoder, multi_label, heads, members, encoder.leave(variables, states))

        # `vmap` runs over the axis `edit`; `map_clips` splits the axis `clip`, which then is the second one.
        run_edits = jax.vmap(run, in_axes=(None, 0))
        edit_edits = jax.vmap(self._edit, in_axes=(None, 0, 0, 0))
        leave_edits = jax.vmap(leave, in_axes=(None, None, None, 0))
        self.enter = map_clips(enter, mesh, (None, 0))
        self.run_layer = map_clips(run, mesh, (None, 0))
        self.observe_layer = map_clips(self._observe, mesh, (None, 0))
        self.branch = map_clips(self._branch, mesh, (None, 0, 0, None, None, None), out_axis=1)
        # Branches are donated: a layer's output takes the memory of its input.
        self.run_branches = map_clips(run_edits, mesh, (None, 1), out_axis=1, donate=[1])
        self.edit_branches = map_clips(edit_edits, mesh, (None, 1, None, None), out_axis=1, donate=[1])
        self.leave = map_clips(leave_edits, mesh, (None, None, 0, 1), out_axis=1)

    def run(
        self, variables: Variables, heads: Heads, pcm: Array, members: Members, chunks: Sequence[Chunk]
    ) -> Iterator[tuple[Sequence[int], BatchVerdicts]]:
        """Judge a batch of clips under every edit, and untouched.

        Args:
          variables: the encoder's variables, on the devices.
          heads: heads of each label set, on the devices.
          pcm: samples of the clips.
          members: classes of the clips, for each label set.
          chunks: all edits, as planned.

        Yields:
          numbers of a chunk's edits with their verdicts, which may still be computing; at last `UNTOUCHED` with its.
        """
        chunks_of: dict[int, list[Chunk]] = defaultdict(list)
        for chunk in chunks:
            chunks_of[chunk.first_layer].append(chunk)
        layers = self.encoder.layer_variables(variables)
        states = self.enter(variables, pcm)
        for number, layer in enumerate(layers):
            if not chunks_of[number]:
                states = self.run_layer(layer, states)
                continue
            # Activations are needed only here, where edits branch off; they are let go with the layer.
            states, activations = self.observe_layer(layer, states)
            for chunk in chunks_of[number]:
                branches = self.branch(layer, states, activations, *chunk.sparse(number))
                # Behind its first layer an edit has states of its own, so gains act on activations made from these.
                for later in range(number + 1, len(layers)):
                    if chunk.changes(later):
                        branches = self.edit_branches(layers[later], branches, *chunk.dense(later, self.neurons))
                    else:
                        branches = self.run_branches(layers[later], branches)
                yield chunk.numbers, self.leave(variables, heads, members, branches)
        untouched = jax.tree.map(lambda state: state[None], states)  # as one edit
        yield [UNTOUCHED], self.leave(variables, heads, members, untouched)

    def _observe(self, layer_variables: Variables, states: States) -> tuple[States, States]:
        """Output of a layer, and the activations of its neurons, for each call."""
        outputs, activations = [], []
        for state in states:

            def keep(_: int, activation: Array) -> Array:
                activations.append(activation)
                return activation

            outputs.append(self._apply(layer_variables, state, keep))
        return tuple(outputs), tuple(activations)

    def _edit(self, layer_variables: Variables, states: States, gain: Array, offset: Array) -> States:
        """Output of a layer with a gain and an offset on each of its neurons."""

        def edit(_: int, activation: Array) -> Array:
            return activation * gain.astype(activation.dtype) + offset.astype(activation.dtype)

        with jax.numpy_rank_promotion("allow"):  # (neuron) against (clip, any token axes, neuron)
            return tuple(self._apply(layer_variables, state, edit) for state in states)

    def _apply(self, layer_variables: Variables, state: Array, edit: Callable[[int, Array], Array]) -> Array:
        encoder = self.encoder
        return edit_neurons(encoder.layer, layer_variables, state, neurons=encoder.layer_neurons, edit=edit)[0]

    def _branch(
        self,
        layer_variables: Variables,
        states: States,
        activations: States,
        neuron: Array,
        scale: Array,
        offset: Array,
    ) -> States:
        """Output of a layer under each edit: its untouched output, plus what the changed neurons write more or less.

        `neuron`, `scale` (gain - 1) and `offset` are (edit, changed), as `Chunk.sparse` gives them.
        """
        weights = self.encoder.outgoing_weights(layer_variables)

        def branch(neuron: Array, scale: Array, offset: Array) -> States:
            def changed(state: Array, activation: Array) -> Array:
                picked = activation[..., neuron].astype(jnp.float32)  # (clip, any token axes, changed)
                along_last = (*[1] * (picked.ndim - 1), -1)
                # gain x a + offset - a. The sum is formed in float32, and rounded once to the encoder's type.
                change = picked * scale.reshape(along_last) + offset.reshape(along_last)
                added = jnp.matmul(change, weights[neuron].astype(jnp.float32), precision="highest")
                return (state.astype(jnp.float32) + added).astype(state.dtype)

            return tuple(map(changed, states, activations))

        return jax.vmap(branch)(neuron, scale, offset)


class WholeEncoder:
    """Runs the whole encoder for every edit; `vmap` computes once per chunk what no gain of the chunk touches."""

    def __init__(self, encoder: Encoder, multi_label: Mapping[str, bool], shape: tuple[int, int], mesh: Mesh) -> None:
        """Make the programs, which are compiled on first use; arguments as for `runner_of`."""
        self.layers, self.neurons = shape

        def run_edit(
            variables: Variables, heads: Heads, inputs: PyTree, members: Members, gains: Gains
        ) -> BatchVerdicts:
            def edit(layer: int, activation: Array) -> Array:
                if layer not in gains:
                    return activation
                gain, offset = (values.astype(activation.dtype) for values in gains[layer])
                return activation * gain + offset

            with jax.numpy_rank_promotion("allow"):  # (neuron) against (clip, any token axes, neuron)
                output, _ = edit_neurons(encoder.module, variables, inputs, neurons=encoder.neurons, edit=edit)
            return _judge(encoder, multi_label, heads, members, output)

        def run_untouched(variables: Variables, heads: Heads, inputs: PyTree, members: Members) -> BatchVerdicts:
            verdicts = _judge(encoder, multi_label, heads, members, encoder.module.apply(variables, inputs))
            return jax.tree.map(lambda leaf: leaf[None], verdicts)

        run_edits = jax.vmap(run_edit, in_axes=(None, None, None, None, 0))
        self.front_end = map_clips(functools.partial(module_input, encoder), mesh, (None, 0))
        self.run_edits = map_clips(run_edits, mesh, (None, None, 0, 0, None), out_axis=1)
        self.run_untouched = map_clips(run_untouched, mesh, (None, None, 0, 0), out_axis=1)

    def run(
        self, variables: Variables, heads: Heads, pcm: Array, members: Members, chunks: Sequence[Chunk]
    ) -> Iterator[tuple[Sequence[int], BatchVerdicts]]:
        """Judge a batch of clips under every edit, and untouched; as `LayerByLayer.run`."""
        inputs = self.front_end(variables, pcm)
        for chunk in chunks:
            # Gains of every layer from the first: chunks that begin in one layer share a program.
            gains = {layer: chunk.dense(layer, self.neurons) for layer in range(chunk.first_layer, self.layers)}
            yield chunk.numbers, self.run_edits(variables, heads, inputs, members, gains)
        yield [UNTOUCHED], self.run_untouched(variables, heads, inputs, members)


def _judge(
    encoder: Encoder, multi_label: Mapping[str, bool], heads: Heads, members: Members, output: PyTree
) -> BatchVerdicts:
    """Verdicts of every label set on an encoder's output, and which embeddings are finite."""
    embeddings = encoder.embed(output).astype(jnp.float32)
    verdicts = {name: judge_clips(heads[name], embeddings, members[name], multi_label[name]) for name in multi_label}
    return verdicts, (jnp.abs(embeddings) < LARGEST_FEATURE).all(axis=1)
