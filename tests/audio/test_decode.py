"""Decoding: the samples of a file, and the status of a bad one."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr

from jaxdissect.audio.decode import read_clip

RATE = 16000


def tone(seconds, rate=RATE, frequency=440.0):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def read(folder, name, seconds=1.0):
    recording = read_clip(folder.path, name, RATE, round(seconds * RATE))
    return SimpleNamespace(pcm=recording.pcm, **vars(recording.clip))


def test_read_clip_returns_a_clip_of_the_unit_length_as_it_is(data_folder):
    data_folder.write("a.wav", tone(1), subtype="FLOAT")
    recording = read(data_folder, "a.wav")
    assert (recording.status, recording.reason, recording.samples) == ("ok", "", RATE)
    np.testing.assert_array_equal(recording.pcm, tone(1).astype(np.float32))


def test_read_clip_crops_a_long_clip_from_the_start(data_folder):
    data_folder.write("a.wav", np.concatenate([tone(1), np.ones(RATE)]), subtype="FLOAT")
    recording = read(data_folder, "a.wav")
    assert (recording.status, recording.samples) == ("ok", RATE)
    np.testing.assert_array_equal(recording.pcm, tone(1).astype(np.float32))


def test_read_clip_pads_a_short_clip_with_zeros_at_the_end(data_folder):
    data_folder.write("a.wav", tone(0.25), subtype="FLOAT")
    recording = read(data_folder, "a.wav")
    assert (recording.status, recording.samples) == ("short", 4000)
    assert "0.250 s" in recording.reason
    np.testing.assert_array_equal(recording.pcm[:4000], tone(0.25).astype(np.float32))
    assert not recording.pcm[4000:].any()


def test_read_clip_marks_silence_and_keeps_it(data_folder):
    data_folder.write("a.wav", np.zeros(RATE))
    recording = read(data_folder, "a.wav")
    assert (recording.status, recording.samples) == ("silent", RATE)


def test_read_clip_mixes_stereo_to_mono(data_folder):
    data_folder.write("a.wav", np.stack([tone(1), np.zeros(RATE)], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(read(data_folder, "a.wav").pcm, tone(1) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000])
def test_read_clip_resamples_as_if_it_had_read_the_whole_file(data_folder, rate):
    whole = np.random.default_rng(rate).normal(size=3 * rate).astype(np.float32) * 0.1
    data_folder.write("a.wav", whole, rate, subtype="FLOAT")
    recording = read(data_folder, "a.wav")
    assert (recording.status, recording.samples) == ("ok", RATE)
    np.testing.assert_array_equal(recording.pcm, soxr.resample(whole, rate, RATE, quality="HQ")[:RATE])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff", "mp3"])
def test_read_clip_reads_formats(data_folder, suffix):
    data_folder.write(f"a.{suffix}", tone(1.5))
    recording = read(data_folder, f"a.{suffix}")
    assert recording.status == "ok"
    spectrum = np.abs(np.fft.rfft(recording.pcm))
    assert spectrum.argmax() == 440  # 1 Hz a bin


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff", "mp3", "au", "w64", "rf64"])
def test_read_clip_refuses_a_truncated_file(data_folder, suffix):
    data_folder.write(f"a.{suffix}", np.random.default_rng(0).normal(size=3 * RATE) * 0.1)
    file = data_folder.path / f"a.{suffix}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    recording = read(data_folder, f"a.{suffix}", seconds=3)
    assert recording.status == "unreadable"
    assert recording.reason.startswith(("truncated", "cannot be decoded"))
    assert recording.samples == 0
    assert not recording.pcm.any()


def test_read_clip_reads_a_streamed_wav_without_a_length(data_folder):
    data_folder.write("a.wav", tone(1))
    file = data_folder.path / "a.wav"
    content = bytearray(file.read_bytes())
    size = content.index(b"data") + 4
    content[size : size + 4] = b"\xff\xff\xff\xff"
    file.write_bytes(content)
    assert read(data_folder, "a.wav").status == "ok"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"not audio at all", "cannot be decoded"), (b"RIFF\0\0\0\0WAVE", "cannot be decoded")],
)
def test_read_clip_refuses_what_is_no_audio(data_folder, content, reason):
    data_folder.table("a.wav", "")
    (data_folder.path / "a.wav").write_bytes(content)
    recording = read(data_folder, "a.wav")
    assert recording.status == "unreadable"
    assert recording.reason.startswith(reason)
    assert str(data_folder.path) not in recording.reason


def test_read_clip_refuses_a_missing_file_a_folder_and_a_file_of_no_samples(data_folder):
    data_folder.write("folder/none.wav", np.zeros(0))
    assert read(data_folder, "missing.wav").reason == "missing"
    assert read(data_folder, "folder").reason == "is not a regular file"
    assert read(data_folder, "folder/none.wav").reason == "holds no samples"
    data_folder.write("one.wav", [0.5], rate=96000)
    assert read(data_folder, "one.wav").reason == "is shorter than one sample of the encoder"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_read_clip_refuses_samples_that_are_not_finite(data_folder, value):
    samples = tone(1)
    samples[100] = value
    data_folder.write("a.wav", samples, subtype="FLOAT")
    recording = read(data_folder, "a.wav")
    assert (recording.status, recording.reason) == ("unreadable", "holds samples that are NaN or infinite")
    assert not recording.pcm.any()


def test_read_clip_follows_links_and_refuses_names_that_leave_the_data_folder(data_folder, tmp_path):
    data_folder.write("inside.wav", tone(1))
    (tmp_path / "disk").mkdir()
    soundfile.write(tmp_path / "disk/outside.wav", tone(1), RATE)
    (data_folder.path / "out.wav").symlink_to(tmp_path / "disk/outside.wav")
    (data_folder.path / "folder").symlink_to(tmp_path / "disk")
    for name in ("out.wav", "folder/outside.wav", "./inside.wav"):
        assert read(data_folder, name).status == "ok"
    for name in (
        "../disk/outside.wav",
        str(tmp_path / "disk/outside.wav"),
        "folder/../inside.wav",
        "..\\disk\\outside.wav",
        "C:outside.wav",
        "",
    ):
        assert read(data_folder, name).reason == "lies outside the data folder"


def test_read_clip_makes_a_status_of_what_the_system_refuses(data_folder):
    data_folder.table("unused.csv", "")
    (data_folder.path / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(data_folder.path / "pipe.wav")
    for name, reason in [
        ("x" * 300 + ".wav", "cannot be opened: File name too long"),
        ("loop.wav", "cannot be opened"),
        ("pipe.wav", "is not a regular file"),
        ("a\0b.wav", "cannot be opened"),
    ]:
        recording = read(data_folder, name)
        assert recording.status == "unreadable"
        assert recording.reason.startswith(reason)
