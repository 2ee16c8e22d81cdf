"""Checks a user's encoder: runs every part on two clips, and says what does not fit."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxdissect.ablation.engine import LayerByLayer
from jaxdissect.ablation.stream import require_layers
from jaxdissect.activations.read import Reading, read_neurons, stack_layers
from jaxdissect.activations.token_masks import token_masks
from jaxdissect.activations.write import run_with_gains
from jaxdissect.encoder.directory import with_units
from jaxdissect.encoder.foreign import guarded
from jaxdissect.encoder.models import apply_model
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder, module_input, named_units
from jaxdissect.encoder.user_code import UserCode, described
from jaxdissect.errors import InputError, first_line, require
from jaxdissect.probe.linear import Head
from jaxdissect.runtime.sharding import local_mesh

LOUDNESS = 0.1  # standard deviation of the noise that is put in
ROUNDING = 1e-6  # of the embedding, by which two programs may differ
BATCH_TOLERANCE = 0.02  # how much a clip may differ alone and beside another, relative to its largest activation


@dataclass(frozen=True)
class PartCheck:
    """The check of one part of an encoder.

    Attributes:
      part: name of the part.
      fits: whether it keeps the rules of the protocol.
      found: description of its result, or of what is wrong.
    """

    part: str
    fits: bool
    found: str


@dataclass(frozen=True)
class EncoderCheck:
    """The checks of an encoder's parts, in the order of the computation. `print` shows a line for each.

    Attributes:
      parts: the parts; those after one that does not fit may be missing.
    """

    parts: tuple[PartCheck, ...]

    @property
    def fits(self) -> bool:
        """Whether every part keeps the rules."""
        return all(part.fits for part in self.parts)

    def __str__(self) -> str:
        return "\n".join(f"{'ok ' if part.fits else 'NOT'}  {part.part}: {part.found}" for part in self.parts)


def check_encoder(encoder: object, seconds: float = 2.0, units: str | None = None) -> EncoderCheck:
    """Run every part of an encoder on two clips of noise.

    Args:
      encoder: the encoder, as a factory returns it.
      seconds: length of the clips, s; an encoder of a fixed input length needs its own.
      units: name of its neurons, in its attribute `units`; default: its own.

    Raises:
      InputError: `seconds` is not positive.
    """
    require(seconds > 0, f"seconds must be positive, got {seconds}.")
    return EncoderCheck(tuple(_checks(encoder, seconds, units)))


def _checks(given: object, seconds: float, units: str | None) -> Iterator[PartCheck]:
    try:
        encoder = guarded(given, UserCode(type(given).__name__))
        encoder = encoder if units is None else with_units(encoder, units)
    except InputError as error:
        yield PartCheck("attributes", False, str(error))
        return
    yield PartCheck("attributes", True, "all there")
    noise = np.random.default_rng(0).normal(0, LOUDNESS, (2, round(seconds * encoder.sample_rate)))
    one = _Pass(encoder, jnp.asarray(noise, jnp.float32))
    parts: dict[str, Callable[[], str]] = {
        "settings": lambda: ", ".join(encoder.settings()) or "none",
        "front_end": lambda: described(one.inputs),
        "module": lambda: described(one.output),
        "embed": lambda: _embedding(one),
        "neurons": lambda: _neurons(one),
        "token_layout": lambda: _layout(one),
        "clips beside each other": lambda: _alone(one),
        "silencing": lambda: _silenced(one),
    }
    if isinstance(encoder, LayeredEncoder):
        parts["layers"] = lambda: _layers(encoder, one)
    for name, run in parts.items():
        part = _part(name, run)
        yield part
        if not part.fits and name != "settings":  # later parts would fail for the same reason
            return


def _part(name: str, run: Callable[[], str]) -> PartCheck:
    try:
        return PartCheck(name, True, run())
    except InputError as error:
        return PartCheck(name, False, str(error))
    except Exception as error:  # a user's arrays may be anything
        return PartCheck(name, False, f"{type(error).__name__}: {first_line(error)}")


class _Pass:
    """One pass of two clips through an encoder; each part runs when it is first asked for."""

    def __init__(self, encoder: Encoder, pcm: Float[Array, "2 sample"]) -> None:
        self.encoder, self.pcm, self.variables = encoder, pcm, encoder.variables
        self.recorded = jnp.full(2, pcm.shape[1], jnp.int32)

    @functools.cached_property
    def inputs(self) -> PyTree:
        return jax.jit(functools.partial(module_input, self.encoder))(self.variables, self.pcm)

    @functools.cached_property
    def output(self) -> PyTree:
        return jax.jit(functools.partial(apply_model, self.encoder.module))(self.variables, self.inputs)

    @functools.cached_property
    def embedding(self) -> PyTree:
        return self.encoder.embed(self.output)

    @functools.cached_property
    def reading(self) -> Reading:
        return self.read(self.inputs)

    def read(self, inputs: PyTree, masks: Sequence[Array] | None = None) -> Reading:
        def read(variables: PyTree, inputs: PyTree, masks: Sequence[Array] | None) -> PyTree:
            return read_neurons(self.encoder.module, variables, inputs, masks=masks, **named_units(self.encoder))[1]

        return stack_layers(jax.jit(read)(self.variables, inputs, masks))


def _embedding(one: _Pass) -> str:
    shape = np.shape(one.embedding)
    require(len(shape) == 2 and shape[0] == 2, f"must have the axes (clip, feature), got {shape} for 2 clips.")
    require(bool(np.isfinite(one.embedding).all()), "is not finite.")
    return described(one.embedding)


def _neurons(one: _Pass) -> str:
    require(bool(np.isfinite(one.reading.sum_squares).all()), "activations are NaN or infinite.")
    _, layers, width = one.reading.sum.shape
    share = float(np.asarray(one.reading.active_tokens).mean() / np.asarray(one.reading.tokens).mean())
    return f"{layers} layers of {width}, {int(one.reading.tokens[0])} tokens a clip, {share:.0%} active above 0"


def _layout(one: _Pass) -> str:
    samples = one.pcm.shape[1]
    layout = one.encoder.token_layout(samples)
    patches = token_masks(layout, "patches", one.pcm, one.recorded)
    one.read(one.inputs, patches)  # compares the layout with the neurons
    for tokens in layout:
        start, stop = tokens.start[tokens.is_patch], tokens.stop[tokens.is_patch]
        require(bool((stop > start).all()), "stop must be above start for every patch; a class token is no patch.")
    sounding = token_masks(layout, "sounding", one.pcm, one.recorded)
    counts = [sum(int(mask[0].sum()) for mask in masks or ()) for masks in (patches, sounding)]
    require(counts[1] > 0, "no token is a patch whose samples lie inside the clip.")
    return f"{counts[0]} of the tokens are patches, {counts[1]} of them inside the clip and sounding"


def _alone(one: _Pass) -> str:
    inputs = module_input(one.encoder, one.variables, one.pcm[:1])
    error = float(np.abs(np.asarray(one.reading.maximum[:1]) - np.asarray(one.read(inputs).maximum)).max())
    largest = float(np.abs(np.asarray(one.reading.maximum)).max())
    require(
        error <= BATCH_TOLERANCE * max(largest, 1.0),
        f"activations of a clip, alone and beside another, differ by {error:.3g}: clips must not act on each other, "
        f"as in a batch norm that is not frozen.",
    )
    return f"activations of a clip, alone and beside another, differ by up to {error:.1g}; the largest is {largest:.3g}"


def _silenced(one: _Pass) -> str:
    def embed(variables: PyTree, inputs: PyTree, gains: Array) -> Array:
        units = named_units(one.encoder)
        return one.encoder.embed(run_with_gains(one.encoder.module, variables, inputs, gains=gains, **units))

    silent = jax.jit(embed)(one.variables, one.inputs, jnp.zeros(one.reading.sum.shape[1:]))
    change = float(np.abs(np.asarray(one.embedding, np.float64) - np.asarray(silent, np.float64)).max())
    require(
        change > ROUNDING * max(1.0, float(np.abs(one.embedding).max())),
        "no neuron has an effect on the embedding: the model does not use the named values any further.",
    )
    return f"without all neurons the embedding changes by up to {change:.3g}"


def _layers(encoder: LayeredEncoder, one: _Pass) -> str:
    mesh, features = local_mesh(jax.local_devices()[:1]), one.embedding.shape[1]
    _, layers, width = one.reading.sum.shape
    kernel = np.random.default_rng(1).normal(size=(1, features, 2)).astype(np.float32)
    zeros = np.zeros((1, features), np.float32)
    heads = {"clip": Head(mean=zeros, variance=zeros + 1, kernel=kernel, bias=np.zeros((1, 2), np.float32))}
    runner = LayerByLayer(encoder, {"clip": False}, width, mesh)
    require_layers(runner, one.variables, heads, one.pcm, {"clip": jnp.eye(2, dtype=bool)}, mesh)
    outgoing = encoder.outgoing_weights(encoder.layer_variables(one.variables)[0])
    return f"{layers} layers give what the module gives; " + (
        "edits run their first layer again" if outgoing is None else "edits add to their first layer's output"
    )
