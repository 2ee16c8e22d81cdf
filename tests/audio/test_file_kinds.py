"""Files that are not what their names promise: the reason names their kind, and what to do."""

import gzip
import io
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from jaxdissect.audio.decode import read_clip


def made(write, *contents):
    """The content of a file that a writer makes."""
    buffer = io.BytesIO()
    write(*contents, buffer) if write is torch.save else write(buffer, *contents)
    return buffer.getvalue()


def zipped(buffer):
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.wav", b"RIFF")


def tarred(buffer):
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.wav"))


UNREAD_SOUND = {
    "m4a": b"\0\0\0\x1cftypM4A \0\0\2\0M4A isomiso2",
    "mp4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
    "aac": bytes.fromhex("fff15040 01bffc de0200") + bytes(50),
    "wma": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(50),
    "webm": bytes.fromhex("1a45dfa3 9f4286810142f7810142f281 0442f38108") + b"webm",
    "amr": b"#!AMR\n" + bytes(50),
    "dsf": b"DSD " + bytes(50),
    "spx": b"OggS\0\2" + bytes(20) + b"\1\x50" + b"Speex   1.2" + bytes(69),
    "wv": b"wvpk" + bytes(50),
    "ac3": b"\x0bw" + bytes(50),
}
OTHERS = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a Git LFS pointer", "git lfs pull"),
    (b"/annex/objects/MD5E-s5--0.wav\n", "a git-annex pointer", "git annex get"),
    (b"../../.git/annex/objects/a/MD5E-s5--0.wav", "a git-annex pointer", "git annex get"),
    (b"../../blobs/0123", "a link that was copied as text", "where links can be made"),
    (b"<!DOCTYPE html>\n<html><title>Log in</title>", "an HTML page", "logging in"),
    (b"\xef\xbb\xbf\n<!-- x --> <HTML>", "an HTML page", "fetch the file again"),
    (b'{"error": "not found"}', "JSON", "fetch the file again"),
    (b'<?xml version="1.0"?><Error/>', "XML", "fetch the file again"),
    ("Straße\n".encode() * 2000, "text", "fetch the file again"),
    (made(zipped), "a zip archive", "unzip"),
    (made(tarred), "a tar archive", "tar -xf"),
    (gzip.compress(b"RIFF"), "compressed by gzip", "gunzip"),
    (lzma.compress(b"RIFF"), "compressed by xz", "unxz"),
    (b"7z\xbc\xaf'\x1c\0\4" + bytes(30), "a 7z archive", "7z x"),
    (b"Rar!\x1a\x07\1\0" + bytes(30), "a RAR archive", "unrar"),
    (b"(\xb5/\xfd" + bytes(30), "compressed by zstd", "unzstd"),
    (b"%PDF-1.7\n", "a PDF document", "name the audio file"),
    (b"\x89PNG\r\n\x1a\n" + bytes(30), "a PNG picture", "name the audio file"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(30), "a JPEG picture", "name the audio file"),
    (made(np.save, np.zeros(3)), "a NumPy array", "soundfile.write"),
    (made(torch.save, torch.zeros(3)), "an archive that torch.save wrote, which is never loaded", "soundfile.write"),
    (pickle.dumps(np.zeros(3)), "a pickled Python object, which is never loaded", "soundfile.write"),
    (b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk", "MIDI", "fluidsynth"),
    (bytes(5000), "nothing but zeros", "fetch the file again"),
    (b"RIFF\x24\0\0\0WAVEfmt ", "WAV with a codec that is not read, or a damaged header", "ffmpeg"),
    (np.random.default_rng(0).bytes(3000), "in a format that is unknown here", "ffmpeg -f s16le -ar RATE"),
]


def reason(data_folder, name, content):
    data_folder.table("t.csv", "")
    (data_folder.path / name).write_bytes(content)
    recording = read_clip(data_folder.path, name, 16000, 16000)
    assert recording.clip.status == "unreadable"
    assert str(data_folder.path) not in recording.clip.reason
    return recording.clip.reason


@pytest.mark.parametrize("ending", UNREAD_SOUND)
@pytest.mark.parametrize("name", ["a", "a.wav", "a.mp3"])
def test_describe_kind_names_the_command_that_converts_unread_sound(data_folder, ending, name):
    assert f"ffmpeg -i NAME.{ending} NAME.wav" in reason(data_folder, name, UNREAD_SOUND[ending])


@pytest.mark.parametrize(("content", "kind", "remedy"), OTHERS, ids=[kind for _, kind, _ in OTHERS])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.raw"])
def test_describe_kind_names_files_that_hold_no_sound(data_folder, name, content, kind, remedy):
    refusal = reason(data_folder, name, content)
    assert f"it is {kind}" in refusal
    assert remedy in refusal


def test_describe_kind_never_loads_a_pickle(data_folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    reason(data_folder, "a.wav", pickle.dumps(Trap()))
    assert not (tmp_path / "sprung").exists()
