"""Checks an encoder of one's own: every part is run on two clips, and what does not fit is said."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxdissect.ablation.engine import LayerByLayer, require_layers
from jaxdissect.activations.read import Reading, read_neurons, stack_layers
from jaxdissect.activations.token_masks import TOKENS, token_masks
from jaxdissect.activations.write import run_with_gains
from jaxdissect.encoder.foreign import guarded
from jaxdissect.encoder.models import apply_model
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder, module_input, named_units
from jaxdissect.encoder.user_code import UserCode, described
from jaxdissect.errors import InputError, first_line, require
from jaxdissect.probe.linear import Head
from jaxdissect.runtime.sharding import local_mesh

LOUDNESS = 0.1  # standard deviation of the noise that is put in
BATCH_TOLERANCE = 1e-3  # how much a clip may differ alone and beside another, relative to its largest activation


@dataclass(frozen=True)
class PartCheck:
    """What a part of an encoder gave.

    Attributes:
      part: name of the part.
      fits: whether it is as it must be.
      found: what it gave, or what is wrong.
    """

    part: str
    fits: bool
    found: str


@dataclass(frozen=True)
class EncoderCheck:
    """What every part of an encoder gave, in the order of the computation. `print` shows it as lines.

    Attributes:
      parts: the parts; those behind one that does not fit may be missing.
    """

    parts: tuple[PartCheck, ...]

    @property
    def fits(self) -> bool:
        """Whether every part is as it must be."""
        return all(part.fits for part in self.parts)

    def __str__(self) -> str:
        return "\n".join(f"{'ok ' if part.fits else 'NOT'}  {part.part}: {part.found}" for part in self.parts)


def check_encoder(encoder: object, seconds: float = 2.0) -> EncoderCheck:
    """Run every part of an encoder on two clips of noise.

    Args:
      encoder: the encoder, as a factory returns it.
      seconds: length of the clips, s; an encoder of a fixed input length needs its own.

    Raises:
      InputError: `seconds` is not positive.
    """
    require(seconds > 0, f"seconds must be positive, got {seconds}.")
    return EncoderCheck(tuple(_checks(encoder, seconds)))


def _checks(given: object, seconds: float) -> Iterator[PartCheck]:
    try:
        encoder = guarded(given, UserCode(type(given).__name__))
    except InputError as error:
        yield PartCheck("attributes", False, str(error))
        return
    yield PartCheck("attributes", True, "all there")
    samples = round(seconds * encoder.sample_rate)
    noise = np.random.default_rng(0).normal(0, LOUDNESS, (2, samples)).astype(np.float32)
    pcm, recorded = jnp.asarray(noise), jnp.full(2, samples, jnp.int32)
    yield _part("settings", lambda: ", ".join(encoder.settings()) or "none")
    parts: dict[str, Callable[[], str]] = {
        "front_end": lambda: described(_inputs(encoder, pcm)),
        "module": lambda: described(_output(encoder, pcm)),
        "embed": lambda: _embedding(encoder, pcm),
        "neurons": lambda: _neurons(encoder, pcm),
        "token_layout": lambda: _layout(encoder, pcm, recorded),
        "clips beside each other": lambda: _alone(encoder, pcm),
        "silencing": lambda: _silenced(encoder, pcm),
    }
    if isinstance(encoder, LayeredEncoder):
        parts["layers"] = lambda: _layers(encoder, pcm)
    for name, run in parts.items():
        part = _part(name, run)
        yield part
        if not part.fits:  # what comes behind would fail for the same reason
            return


def _part(name: str, run: Callable[[], str]) -> PartCheck:
    try:
        return PartCheck(name, True, run())
    except InputError as error:
        return PartCheck(name, False, str(error))
    except Exception as error:  # a user's arrays may be anything
        return PartCheck(name, False, f"{type(error).__name__}: {first_line(error)}")


def _inputs(encoder: Encoder, pcm: Float[Array, "clip sample"]) -> PyTree:
    return jax.jit(lambda variables, pcm: module_input(encoder, variables, pcm))(encoder.variables, pcm)


def _output(encoder: Encoder, pcm: Float[Array, "clip sample"]) -> PyTree:
    return jax.jit(lambda *given: apply_model(encoder.module, *given))(encoder.variables, _inputs(encoder, pcm))


def _embedding(encoder: Encoder, pcm: Float[Array, "clip sample"]) -> str:
    embedding = encoder.embed(_output(encoder, pcm))
    shape = np.shape(embedding)
    require(len(shape) == 2 and shape[0] == 2, f"must have the axes (clip, feature), that of 2 clips has {shape}.")
    require(bool(np.isfinite(embedding).all()), "is not finite.")
    return described(embedding)


def _reading(encoder: Encoder, pcm: Float[Array, "clip sample"], kind: str, recorded: Array) -> Reading:
    masks = token_masks(encoder.token_layout(pcm.shape[1]), kind, pcm, recorded)

    def read(variables: PyTree, pcm: Array) -> PyTree:
        inputs = module_input(encoder, variables, pcm)
        return read_neurons(encoder.module, variables, inputs, masks=masks, **named_units(encoder))[1]

    return stack_layers(jax.jit(read)(encoder.variables, pcm))


def _neurons(encoder: Encoder, pcm: Float[Array, "clip sample"]) -> str:
    reading = _reading(encoder, pcm, "all", jnp.full(2, pcm.shape[1], jnp.int32))
    require(bool(np.isfinite(reading.sum_squares).all()), "activations are NaN or infinite.")
    _, layers, width = reading.sum.shape
    share = float(np.asarray(reading.active_tokens).mean() / np.asarray(reading.tokens).mean())
    return f"{layers} layers of {width}, {int(reading.tokens[0])} tokens a clip, {share:.0%} active above 0"


def _layout(encoder: Encoder, pcm: Float[Array, "clip sample"], recorded: Array) -> str:
    layout = encoder.token_layout(pcm.shape[1])
    counted = {kind: int(_reading(encoder, pcm, kind, recorded).tokens[0]) for kind in TOKENS}
    for tokens in layout:
        spans = tokens.stop[tokens.is_patch] - tokens.start[tokens.is_patch]
        require(bool((spans > 0).all()), "a patch must span samples, stop - start > 0; the class token is no patch.")
    require(counted["patches"] > 0, "no token is a patch.")
    first = min(int(tokens.start[tokens.is_patch].min()) for tokens in layout if tokens.is_patch.any())
    require(first < pcm.shape[1], f"patches must lie within the clip of {pcm.shape[1]} samples, not from {first} on.")
    return ", ".join(f"{count} tokens {kind}" for kind, count in counted.items())


def _alone(encoder: Encoder, pcm: Float[Array, "clip sample"]) -> str:
    recorded = jnp.full(2, pcm.shape[1], jnp.int32)
    both, one = _reading(encoder, pcm, "all", recorded), _reading(encoder, pcm[:1], "all", recorded[:1])
    error = float(np.abs(np.asarray(both.maximum[:1]) - np.asarray(one.maximum)).max())
    largest = float(np.abs(np.asarray(both.maximum)).max())
    require(
        error <= BATCH_TOLERANCE * max(largest, 1.0),
        f"a clip's activations differ by {error:.3g} alone and beside another clip: clips must not act on each other, "
        f"as in a batch norm that is not frozen.",
    )
    return f"a clip's activations are its own, up to {error:.1g} of {largest:.3g}"


def _silenced(encoder: Encoder, pcm: Float[Array, "clip sample"]) -> str:
    shape = _reading(encoder, pcm, "all", jnp.full(2, pcm.shape[1], jnp.int32)).sum.shape[1:]

    def embed(variables: PyTree, pcm: Array, gains: Array) -> Array:
        inputs = module_input(encoder, variables, pcm)
        return encoder.embed(run_with_gains(encoder.module, variables, inputs, gains=gains, **named_units(encoder)))

    run = jax.jit(embed)
    whole, silent = (run(encoder.variables, pcm, jnp.full(shape, gain)) for gain in (1.0, 0.0))
    change = float(np.abs(np.asarray(whole, np.float64) - np.asarray(silent, np.float64)).max())
    require(change > 0, "no neuron has an effect on the embedding: the values named are not used any further.")
    return f"all neurons together change the embedding by up to {change:.3g}"


def _layers(encoder: LayeredEncoder, pcm: Float[Array, "clip sample"]) -> str:
    mesh, features = local_mesh(jax.local_devices()[:1]), _features(encoder, pcm)
    shape = _reading(encoder, pcm, "all", jnp.full(2, pcm.shape[1], jnp.int32)).sum.shape[1:]
    kernel = np.random.default_rng(1).normal(size=(1, features, 2)).astype(np.float32)
    zeros = np.zeros((1, features), np.float32)
    heads = {"clip": Head(mean=zeros, variance=zeros + 1, kernel=kernel, bias=np.zeros((1, 2), np.float32))}
    runner = LayerByLayer(encoder, {"clip": False}, shape[1], mesh)
    require_layers(runner, encoder.variables, heads, pcm, {"clip": jnp.eye(2, dtype=bool)}, mesh)
    outgoing = encoder.outgoing_weights(encoder.layer_variables(encoder.variables)[0])
    return f"{shape[0]} layers give what the module gives; " + (
        "edits run their first layer again" if outgoing is None else "edits add to their first layer's output"
    )


def _features(encoder: Encoder, pcm: Float[Array, "clip sample"]) -> int:
    return int(np.shape(encoder.embed(_output(encoder, pcm)))[1])
