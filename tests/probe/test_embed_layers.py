"""Clip embeddings after every layer: against plain loops, and PyTorch models of fewer layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from foreign import IntegerEncoder, LayeredIntegerEncoder
from noises import CLIPS, CONFIG, FEATURES, clip_samples
from tolerances import assert_within, relative_error
from tones import SAMPLES, ChangedEncoder, load
from torch_reference import random_state, reference_chunks

from jaxdissect import InputError, LayeredEncoder
from jaxdissect.audio.decode import read_clip
from jaxdissect.probe import embeddings
from jaxdissect.probe.embeddings import embed_clips, embed_layers


class Bounded(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.tanh(x)


class BoundedEncoder(LayeredIntegerEncoder):
    """One layer, whose outputs are finite whatever enters it."""

    module = layer = Bounded()
    variables: dict = {}  # noqa: RUF012

    def enter(self, variables, inputs):
        return (inputs,)

    def layer_variables(self, variables):
        return [{}]


def slow_layers(encoder, pcm):
    """(depth, feature): the mean over tokens of what enters the first layer, and of each layer's output, in numpy."""
    frames = np.round(pcm * 8).reshape(len(pcm) // 400, 16, 25).sum(axis=-1)
    rows = [np.concatenate([frames.sum(axis=0, keepdims=True), frames]).mean(axis=0)]
    for layer, hidden in enumerate(encoder.slow_activations(pcm)):
        last = encoder.variables["params"][f"out_{layer}"]
        rows.append((hidden @ last["kernel"] + last["bias"]).mean(axis=0))
    return np.stack(rows)


def slow_pooled(chunks, bands):
    """Mean over time of the patches, with the bands of a time step beside each other."""
    rows = []
    for tokens in chunks:
        columns = (tokens.shape[1] - 1) // bands
        for column in range(columns):
            of_bands = [tokens[:, 1 + band * columns + column] for band in range(bands)]
            rows.append(np.concatenate(of_bands, axis=-1))
    return np.mean(rows, axis=0, dtype=np.float64)


def test_embed_layers_matches_a_slow_loop(tones):
    (tones.path / "5.wav").write_bytes(b"no audio")
    (tones.path / "6.wav").unlink()
    encoder, task = LayeredIntegerEncoder(), load(tones.table)
    found = embed_layers(encoder, task, batch_size=2)
    assert found.values.shape == (len(task), 3, 16)
    assert found.values.dtype == np.float32
    assert np.flatnonzero(~found.usable).tolist() == sorted(found.reasons) == [5, 6]
    assert not found.values[[5, 6]].any()
    for clip in np.flatnonzero(found.usable):
        pcm = read_clip(task.data, f"{clip}.wav", 16000, SAMPLES).pcm
        np.testing.assert_allclose(found.values[clip], slow_layers(encoder, pcm), rtol=1e-6)


def without_blocks(state, first):
    """The state with blocks that add nothing to what enters them, from one on; the last norm stays."""
    idle = [f"blocks.{block}.{part}" for block in range(first, CONFIG.depth) for part in ("attn.proj.", "mlp.fc2.")]
    return {key: value * 0 if key.startswith(tuple(idle)) else value for key, value in state.items()}


def test_embed_layers_of_a_vit_match_torch_models_of_fewer_layers(encoder, task):
    """Clips of several chunks, and models whose later blocks add nothing."""
    found = embed_layers(encoder, task, batch_size=2)
    assert found.values.shape == (CLIPS, CONFIG.depth + 1, FEATURES)
    pcm = jnp.asarray(np.stack([clip_samples(clip) for clip in range(CLIPS)]))
    spectrogram = np.asarray(encoder.front_end(encoder.variables, pcm))
    state = random_state(CONFIG, seed=4)
    for depth in range(CONFIG.depth + 1):
        chunks = reference_chunks(without_blocks(state, depth), CONFIG, spectrogram)
        wanted = slow_pooled([chunk.tokens for chunk in chunks], CONFIG.grid[0])
        error = relative_error(found.values[:, depth], wanted)
        assert_within("embeddings after layers against torch, relative", error)


def test_embed_layers_ends_with_the_encoders_own_embedding(encoder, task):
    whole, found = embed_clips(encoder, task, batch_size=2), embed_layers(encoder, task, batch_size=2)
    error = relative_error(found.at(-1).values, whole.values)
    assert_within("embedding, layer by layer against whole, relative", error)
    np.testing.assert_array_equal(found.at(-1).values, found.at(CONFIG.depth).values)
    np.testing.assert_array_equal(found.at(-1).usable, whole.usable)


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (5, 1), (64, 1), (1, 8), (3, 8), (7, 3)])
def test_embed_layers_is_the_same_for_any_batch_size_and_device_count(tones, batch_size, devices):
    (tones.path / "5.wav").write_bytes(b"no audio")
    encoder, task = LayeredIntegerEncoder(), load(tones.table)
    one = embed_layers(encoder, task, 4, devices=jax.devices()[:1])
    other = embed_layers(encoder, task, batch_size, devices=jax.devices()[:devices])
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.usable, other.usable)


def test_embed_layers_leaves_out_a_clip_that_is_infinite_at_one_depth(tones):
    encoder, task = BoundedEncoder(), load(tones.table)
    before = embed_layers(encoder, task, batch_size=2)
    soundfile.write(tones.path / "5.wav", np.full(SAMPLES, 1e30), 16000, subtype="FLOAT")
    assert embed_clips(encoder, task, batch_size=2).usable.all(), "the last layer's output is finite"
    found = embed_layers(encoder, task, batch_size=2)
    assert found.reasons == {5: "its embedding is not finite"}
    assert not found.values[5].any()
    np.testing.assert_array_equal(np.delete(found.values, 5, axis=0), np.delete(before.values, 5, axis=0))


def test_embed_layers_reads_the_clips_once_and_compiles_once(tones):
    encoder, reported = LayeredIntegerEncoder(), []
    embed_layers(encoder, load(tones.table), 5, devices=jax.devices()[:4], progress=reported.append)
    assert reported == [20, 40, 48]
    assert encoder.traces == [(2, SAMPLES), (5, SAMPLES)]  # for the shape of an embedding; for a device's own clips


def test_embed_layers_refuses_an_encoder_without_layers(tones):
    encoder = IntegerEncoder()
    assert not isinstance(encoder, LayeredEncoder)
    with pytest.raises(InputError, match=r"integers is no LayeredEncoder: add its members as docs/encoders\.md shows"):
        embed_layers(encoder, load(tones.table))


def test_embed_layers_refuses_embeddings_of_other_axes(tones):
    with pytest.raises(InputError, match=r"must have the axes \(clip, feature\)"):
        embed_layers(ChangedEncoder(three_axes=True), load(tones.table))


def test_embed_layers_refuses_what_the_memory_does_not_hold(tones, monkeypatch):
    task = load(tones.table)
    needed = 4 * len(task) * 3 * 16
    monkeypatch.setattr(embeddings, "available_memory", lambda: needed)
    embed_layers(LayeredIntegerEncoder(), task)
    monkeypatch.setattr(embeddings, "available_memory", lambda: needed - 1)
    with pytest.raises(InputError, match=r"48 clips after every layer need 0 MB of memory and 0 MB are free"):
        embed_layers(LayeredIntegerEncoder(), task)
    monkeypatch.setattr(embeddings, "available_memory", lambda: None)
    embed_layers(LayeredIntegerEncoder(), task)


def test_embed_layers_needs_a_positive_batch_size(tones):
    with pytest.raises(InputError, match="batch_size must be positive, got 0"):
        embed_layers(LayeredIntegerEncoder(), load(tones.table), batch_size=0)
