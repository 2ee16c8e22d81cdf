"""Runs many edits of an encoder on a batch of clips, and judges every clip under every edit by linear probes.

An edit cannot change what comes before its first layer. So the untouched pass runs through the layers once, and the
edits that begin in a layer branch off behind it:

    untouched pass   front end -> layer 0 -> layer 1 -> layer 2 -> verdicts
                                     |          |
    edits from layer 0               +--> layer 1 -> layer 2 -> verdicts
    edits from layer 1                          +--> layer 2 -> verdicts

Where an edit branches off, most of its first layer need not run again. Silencing neurons S of the layer takes
`a_S @ W2_S` from the layer's output, where `a` are activations and `W2` the weights that read them; the rest of the
output stays. If the neurons add to a value inside the layer, as before a norm, the layer runs on from this value. Units
without such weights, as attention heads, are changed in the layer itself; what comes before them is computed once.

A patch takes the activations of the changed neurons from another clip, the donor. The donor's pass runs first.

The edits of one layer are run in chunks of bounded size (see `edits`). Only the states of one chunk are kept at a time,
so memory follows the size of a chunk and not the number of edits. Nothing but verdicts leaves the device.

An encoder that is no `LayeredEncoder` cannot resume between layers, and runs whole.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxdissect.ablation.edits import Chunk
from jaxdissect.ablation.verdicts import Verdicts, judge_clips
from jaxdissect.activations.read import capture_neurons
from jaxdissect.activations.visit import Site, visit_neurons
from jaxdissect.activations.write import edit_neurons
from jaxdissect.encoder.models import apply_model
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder, Variables, module_input, named_layer_units, named_units
from jaxdissect.errors import require
from jaxdissect.probe.linear import LARGEST_FEATURE, Head
from jaxdissect.runtime.sharding import map_clips

UNTOUCHED = -1  # number of the pass that changes nothing, beside the numbers of the edits

States: TypeAlias = tuple[Array, ...]  # input or output of a layer, (clip, ..., width) for each call of the layer
Donors: TypeAlias = States | None  # activations of the donors' neurons in a layer, for each call; None: no patch
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
        self.encoder, self.neurons, self.multi_label = encoder, neurons, multi_label

        def enter(variables: Variables, pcm: Array) -> States:
            return encoder.enter(variables, module_input(encoder, variables, pcm))

        def run(layer_variables: Variables, states: States) -> PyTree:
            return tuple(apply_model(encoder.layer, layer_variables, state) for state in states)

        def leave(variables: Variables, heads: Heads, members: Members, states: States) -> BatchVerdicts:
            return _judge(encoder, multi_label, heads, members, encoder.leave(variables, states))

        # `vmap` runs over the axis `edit`; `map_clips` splits the axis `clip`, which then is the second one.
        run_edits = jax.vmap(run, in_axes=(None, 0))
        edit_edits = jax.vmap(self._edit, in_axes=(None, 0, None, 0, 0))
        edit_first = jax.vmap(self._edit, in_axes=(None, None, None, 0, 0))
        add_edits = jax.vmap(self._add, in_axes=(None, None, None, None, None, 0, 0, 0))
        leave_edits = jax.vmap(leave, in_axes=(None, None, None, 0))
        self.enter = map_clips(enter, mesh, (None, 0))
        self.run_layer = map_clips(run, mesh, (None, 0))
        self.observe_layer = map_clips(self._observe, mesh, (None, 0))
        self.add = map_clips(add_edits, mesh, (None, 0, 0, 0, 0, None, None, None), out_axis=1)
        self.edit_first = map_clips(edit_first, mesh, (None, 0, 0, None, None), out_axis=1)
        # Branches are donated: a layer's output takes the memory of its input.
        self.run_branches = map_clips(run_edits, mesh, (None, 1), out_axis=1, donate=[1])
        self.edit_branches = map_clips(edit_edits, mesh, (None, 1, 0, None, None), out_axis=1, donate=[1])
        self.leave = map_clips(leave_edits, mesh, (None, None, 0, 1), out_axis=1)
        self.are_finite = map_clips(_are_finite, mesh, (0,), out_axis=1)

    def run(
        self,
        variables: Variables,
        heads: Heads,
        pcm: Array,
        members: Members,
        chunks: Sequence[Chunk],
        donor_pcm: Array | None = None,
    ) -> Iterator[tuple[Sequence[int], BatchVerdicts]]:
        """Judge a batch of clips under every edit, and untouched.

        Args:
          variables: the encoder's variables, on the devices.
          heads: heads of each label set, on the devices.
          pcm: samples of the clips.
          members: classes of the clips, for each label set.
          chunks: all edits, as planned.
          donor_pcm: samples of the clips whose activations the changed neurons take; None: no patch.

        Yields:
          numbers of a chunk's edits with their verdicts, which may still be computing; at last `UNTOUCHED` with its.
        """
        chunks_of: dict[int, list[Chunk]] = defaultdict(list)
        for chunk in chunks:
            chunks_of[chunk.first_layer].append(chunk)
        layers = self.encoder.layer_variables(variables)
        donors: Sequence[Donors] = [None] * len(layers)
        if donor_pcm is not None:
            donors = self._donors(layers, self.enter(variables, donor_pcm))
        states = self.enter(variables, pcm)
        for number, layer in enumerate(layers):
            if not chunks_of[number]:
                states = self.run_layer(layer, states)
                continue
            before = states
            # Activations are needed only here, where edits branch off; they are let go with the layer.
            states, activations = self.observe_layer(layer, before)
            for chunk in chunks_of[number]:
                branches = self._branch(layer, before, states, activations, donors[number], chunk)
                # Behind its first layer an edit has states of its own, so gains act on activations made from these.
                for later in range(number + 1, len(layers)):
                    if chunk.changes(later):
                        dense = chunk.dense(later, self.neurons)
                        branches = self.edit_branches(layers[later], branches, donors[later], *dense)
                    else:
                        branches = self.run_branches(layers[later], branches)
                yield chunk.numbers, self.leave(variables, heads, members, branches)
        untouched = jax.tree.map(lambda state: state[None], states)  # as one edit
        verdicts, finite = self.leave(variables, heads, members, untouched)
        yield [UNTOUCHED], (verdicts, finite if donor_pcm is None else finite & self.are_finite(donors))

    def _donors(self, layers: Sequence[Variables], states: States) -> list[Donors]:
        """The donors' activations in every layer."""
        donors: list[Donors] = []
        for layer in layers:
            states, activations = self.observe_layer(layer, states)
            donors.append(activations)
        return donors

    def _branch(
        self, layer: Variables, before: States, after: States, activations: States, donors: Donors, chunk: Chunk
    ) -> States:
        """Output of a chunk's first layer under its edits, from its input and its untouched output."""
        number = chunk.first_layer
        if self.encoder.outgoing_weights(layer) is None:
            return self.edit_first(layer, before, donors, *chunk.dense(number, self.neurons))
        return self.add(layer, before, after, activations, donors, *chunk.sparse(number))

    def _observe(self, layer_variables: Variables, states: States) -> tuple[States, States]:
        """Output of a layer, and the values of its neurons, for each call."""
        encoder, pattern = self.encoder, named_layer_units(self.encoder)["neurons"]
        outputs, activations = [], []
        for state in states:
            output, read = visit_neurons(
                encoder.layer, layer_variables, state, neurons=pattern, visit=lambda _, a: (a, a)
            )
            values = [value for calls in read.values() for call in calls for value in call]
            require(
                len(values) == 1,
                f"{encoder.name}: layer_neurons {pattern!r} must name one value of a layer, found {len(values)}: "
                f"{', '.join(read)}.",
            )
            outputs.append(output)
            activations += values
        return tuple(outputs), tuple(activations)

    def _edit(self, layer_variables: Variables, states: States, donors: Donors, gain: Array, offset: Array) -> States:
        """Output of a layer with a gain and an offset on each of its neurons."""
        units, outputs = named_layer_units(self.encoder), []
        for state, donor in zip(states, donors or itertools.repeat(None), strict=False):
            edit = functools.partial(_edited, gain, offset, donor, units["vectors"])
            outputs.append(
                edit_neurons(self.encoder.layer, layer_variables, state, neurons=units["neurons"], edit=edit)
            )
        return tuple(outputs)

    def _add(
        self,
        layer_variables: Variables,
        before: States,
        after: States,
        activations: States,
        donors: Donors,
        neuron: Array,
        scale: Array,
        offset: Array,
    ) -> States:
        """Output of a layer under an edit: untouched, plus what the changed neurons write more or less.

        `neuron`, `scale` (gain - 1) and `offset` are (changed), as `Chunk.sparse` gives them for each edit.
        """
        encoder = self.encoder
        weights: Any = encoder.outgoing_weights(layer_variables)  # `_branch` has seen that there are some
        place = getattr(self.encoder, "outgoing_module", "")

        def output(state: Array, untouched: Array, activation: Array, donor: Array | None) -> Array:
            picked = activation[..., neuron].astype(jnp.float32)  # (clip, any token axes, changed)
            along_last = (*[1] * (picked.ndim - 1), -1)
            # gain x a + offset - a, and in a patch the donor's a in place of 0.
            removed = picked if donor is None else picked - donor[..., neuron].astype(jnp.float32)
            change = removed * scale.reshape(along_last) + offset.reshape(along_last)
            added = jnp.matmul(change, weights[neuron].astype(jnp.float32), precision="highest")

            def with_change(_: Site | None, written: Array) -> Array:
                require(
                    written.shape == added.shape,
                    f"{encoder.name}: the neurons add {added.shape} to a value {written.shape}: outgoing_module must "
                    f"name the module to whose output they add.",
                )
                # The sum is formed in float32, and rounded once to the encoder's type.
                return (written.astype(jnp.float32) + added).astype(written.dtype)

            if not place:
                return with_change(None, untouched)
            return edit_neurons(self.encoder.layer, layer_variables, state, neurons=place, edit=with_change)

        of_donors = donors or [None] * len(before)
        return tuple(map(output, before, after, activations, of_donors))


class WholeEncoder:
    """Runs the whole encoder for every edit; `vmap` computes once per chunk what no gain of the chunk touches."""

    def __init__(self, encoder: Encoder, multi_label: Mapping[str, bool], shape: tuple[int, int], mesh: Mesh) -> None:
        """Make the programs, which are compiled on first use; arguments as for `runner_of`."""
        self.layers, self.neurons = shape
        units = named_units(encoder)

        def run_edit(
            variables: Variables,
            heads: Heads,
            inputs: PyTree,
            members: Members,
            donors: Sequence[States] | None,
            gains: Gains,
        ) -> BatchVerdicts:
            def edit(site: Site, value: Array) -> Array:
                if isinstance(site.layer, int) and site.layer not in gains:
                    return value
                return _edited(*_gains_of(gains, site), _donor_of(donors, site), units["vectors"], site, value)

            output = edit_neurons(encoder.module, variables, inputs, neurons=units["neurons"], edit=edit)
            return _judge(encoder, multi_label, heads, members, output)

        def run_untouched(variables: Variables, heads: Heads, inputs: PyTree, members: Members) -> BatchVerdicts:
            output = apply_model(encoder.module, variables, inputs)
            verdicts = _judge(encoder, multi_label, heads, members, output)
            return jax.tree.map(lambda leaf: leaf[None], verdicts)

        def observe(variables: Variables, inputs: PyTree) -> list[States]:
            return capture_neurons(encoder.module, variables, inputs, neurons=units["neurons"])

        run_edits = jax.vmap(run_edit, in_axes=(None, None, None, None, None, 0))
        self.front_end = map_clips(functools.partial(module_input, encoder), mesh, (None, 0))
        self.observe = map_clips(observe, mesh, (None, 0))
        self.run_edits = map_clips(run_edits, mesh, (None, None, 0, 0, 0, None), out_axis=1)
        self.run_untouched = map_clips(run_untouched, mesh, (None, None, 0, 0), out_axis=1)
        self.are_finite = map_clips(_are_finite, mesh, (0,), out_axis=1)

    def run(
        self,
        variables: Variables,
        heads: Heads,
        pcm: Array,
        members: Members,
        chunks: Sequence[Chunk],
        donor_pcm: Array | None = None,
    ) -> Iterator[tuple[Sequence[int], BatchVerdicts]]:
        """Judge a batch of clips under every edit, and untouched; as `LayerByLayer.run`."""
        inputs = self.front_end(variables, pcm)
        donors = None if donor_pcm is None else self.observe(variables, self.front_end(variables, donor_pcm))
        for chunk in chunks:
            # Gains of every layer from the first: chunks that begin in one layer share a program.
            gains = {layer: chunk.dense(layer, self.neurons) for layer in range(chunk.first_layer, self.layers)}
            yield chunk.numbers, self.run_edits(variables, heads, inputs, members, donors, gains)
        verdicts, finite = self.run_untouched(variables, heads, inputs, members)
        yield [UNTOUCHED], (verdicts, finite if donors is None else finite & self.are_finite(donors))


def _edited(gain: Array, offset: Array, donor: Array | None, vectors: bool, _: Site, value: Array) -> Array:
    """The value of neurons, (clip, any token axes, neuron), under gains and offsets (neuron).

    With a donor, its value replaces the share that the gain removes. With `vectors` the value has one more axis, parts.
    """
    gain, offset = (
        jnp.expand_dims(part.astype(value.dtype), -1) if vectors else part.astype(value.dtype)
        for part in (gain, offset)
    )
    with jax.numpy_rank_promotion("allow"):
        edited = value * gain + offset
        return edited if donor is None else edited + (1 - gain) * donor


def _are_finite(donors: Sequence[States]) -> Array:
    """Whether all that each donor gives is finite, (1, clip); else its patch would be no number."""
    arrays = jax.tree.leaves(donors)
    return jnp.stack([jnp.isfinite(one).all(axis=tuple(range(1, one.ndim))) for one in arrays]).all(axis=0)[None]


def _gains_of(gains: Gains, site: Site) -> tuple[Array, Array]:
    """Gain and offset of the neurons at a site, whose layer is traced inside a scan."""
    if isinstance(site.layer, int):
        return gains[site.layer]
    gain, offset = next(iter(gains.values()))
    untouched = jnp.ones_like(gain), jnp.zeros_like(offset)
    of_layers = [gains.get(layer, untouched) for layer in range(site.layers)]
    gain, offset = (jnp.stack(parts)[site.layer] for parts in zip(*of_layers, strict=True))
    return gain, offset


def _donor_of(donors: Sequence[States] | None, site: Site) -> Array | None:
    """The donors' activations at a site."""
    if donors is None:
        return None
    if isinstance(site.layer, int):
        return donors[site.layer][site.call]
    return jnp.stack([calls[site.call] for calls in donors])[site.layer]


def _judge(
    encoder: Encoder, multi_label: Mapping[str, bool], heads: Heads, members: Members, output: PyTree
) -> BatchVerdicts:
    """Verdicts of every label set on an encoder's output, and which embeddings are finite."""
    embeddings = encoder.embed(output).astype(jnp.float32)
    verdicts = {name: judge_clips(heads[name], embeddings, members[name], multi_label[name]) for name in multi_label}
    return verdicts, (jnp.abs(embeddings) < LARGEST_FEATURE).all(axis=1)
