"""Clip embeddings of a whole task."""

import jax
import numpy as np
import pytest
import soundfile
from foreign import IntegerEncoder
from tones import (
    SAMPLES,
    load,
    slow_embedding,
)

from jaxdissect.audio.decode import read_clip
from jaxdissect.probe.embeddings import embed_clips


def test_embed_clips_matches_a_slow_loop(tones):
    (tones.path / "5.wav").write_bytes(b"no audio")
    (tones.path / "6.wav").unlink()
    soundfile.write(tones.path / "7.wav", np.zeros(SAMPLES), 16000)
    soundfile.write(tones.path / "8.wav", np.full(300, 0.5), 16000)  # short: padded
    encoder, task = IntegerEncoder(), load(tones.table)
    found = embed_clips(encoder, task, batch_size=2)
    assert np.flatnonzero(~found.usable).tolist() == [5, 6]
    assert not found.values[[5, 6]].any()
    assert found.values.dtype == np.float32
    for clip in np.flatnonzero(found.usable):
        pcm = read_clip(task.data, f"{clip}.wav", 16000, SAMPLES).pcm
        np.testing.assert_allclose(found.values[clip], slow_embedding(encoder, pcm), rtol=1e-6)


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (5, 1), (64, 1), (1, 8), (3, 8), (7, 3)])
def test_embed_clips_is_the_same_for_any_batch_size_and_device_count(tones, batch_size, devices):
    (tones.path / "5.wav").write_bytes(b"no audio")
    encoder, task = IntegerEncoder(), load(tones.table)
    one = embed_clips(encoder, task, 4, devices=jax.devices()[:1])
    other = embed_clips(encoder, task, batch_size, devices=jax.devices()[:devices])
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.usable, other.usable)


def test_embed_clips_leaves_out_an_infinite_embedding_and_harms_no_other(tones):
    encoder, task = IntegerEncoder(), load(tones.table)
    before = embed_clips(encoder, task, batch_size=2)
    soundfile.write(tones.path / "5.wav", np.full(SAMPLES, 3e38), 16000, subtype="FLOAT")
    found = embed_clips(encoder, task, batch_size=2)
    assert np.flatnonzero(~found.usable).tolist() == [5]
    assert not found.values[5].any()
    np.testing.assert_array_equal(np.delete(found.values, 5, axis=0), np.delete(before.values, 5, axis=0))


def test_embed_clips_reports_progress_after_every_batch(tones):
    reported = []
    embed_clips(IntegerEncoder(), load(tones.table), 5, devices=jax.devices()[:4], progress=reported.append)
    assert reported == [20, 40, 48]


def test_embed_clips_compiles_the_encoder_once(tones):
    encoder = IntegerEncoder()
    embed_clips(encoder, load(tones.table), 5, devices=jax.devices()[:4])
    assert encoder.traces == [(2, SAMPLES), (5, SAMPLES)]  # for the shape of an embedding; for a device's own clips
