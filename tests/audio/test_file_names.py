"""Names of clips: links may lead anywhere, and a missing file's reason names one whose name nearly fits."""

import unicodedata

import pytest

from jaxdissect.audio import file_names
from jaxdissect.audio.file_names import find_clip
from jaxdissect.errors import UnreadableError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data/audio").mkdir(parents=True)
    for name in ("audio/Dog.wav", "audio/cat.flac", "audio/cat.json", unicodedata.normalize("NFD", "audio/é.wav")):
        (tmp_path / "data" / name).write_bytes(b"RIFF")
    return tmp_path / "data"


def reason(folder, name):
    with pytest.raises(UnreadableError) as refused:
        find_clip(folder, name)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "present", "difference"),
    [
        ("audio\\Dog.wav", "audio/Dog.wav", "'\\' for '/'"),
        ("audio/dog.WAV", "audio/Dog.wav", "upper and lower case"),
        ("AUDIO/dog.wav", "audio/Dog.wav", "upper and lower case"),
        ("audio/Dog", "audio/Dog.wav", "its ending"),
        ("audio/Dog.mp3", "audio/Dog.wav", "its ending"),
        ("audio/cat.wav", "audio/cat.flac", "its ending"),
        ("./audio/cat", "audio/cat.flac", "its ending"),
        ("audio/é.wav", unicodedata.normalize("NFD", "audio/é.wav"), "how accents are written (Unicode normalisation)"),
        ("Audio\\dog", "audio/Dog.wav", "'\\' for '/' and in upper and lower case and in its ending"),
    ],
)
def test_find_clip_names_the_file_that_differs_by_what_people_overlook(folder, name, present, difference):
    assert reason(folder, name) == (
        f"missing; {present!r} is there, which differs in {difference}: write that name into the table, or rename the "
        f"file"
    )
    assert find_clip(folder, present).is_file()


def test_find_clip_says_where_the_path_of_a_missing_file_ends(folder):
    assert reason(folder, "audio/horse.wav") == "missing"
    assert reason(folder, "sound/Dog.wav") == "missing: there is no folder 'sound' in the data folder"
    assert reason(folder, "audio/Dog.wav/0.wav").startswith("missing: 'audio/Dog.wav' is a file and no folder")


def test_find_clip_lists_a_folder_once_however_many_clips_are_missing(folder, monkeypatch):
    listed = []
    monkeypatch.setattr(file_names, "_key", lambda name, key=file_names._key: listed.append(name) or key(name))
    for number in range(50):
        reason(folder, f"audio/{number}.wav")
    assert listed.count("Dog.wav") == 1


def test_find_clip_sees_a_file_that_came_later(folder):
    assert reason(folder, "audio/horse.wav") == "missing"
    (folder / "audio/horse.wav").write_bytes(b"RIFF")
    assert find_clip(folder, "audio/horse.wav").is_file()


def test_find_clip_follows_links_as_in_the_cache_of_a_model_hub(tmp_path):
    """Links out of the data folder are the rule there."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/1/audio"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "0123").write_bytes(b"RIFF")
    (snapshot / "a.wav").symlink_to("../../../blobs/0123")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/audio").symlink_to(snapshot)
    assert find_clip(tmp_path / "snapshots/1", "audio/a.wav").read_bytes() == b"RIFF"
    assert find_clip(tmp_path / "project", "audio/a.wav").read_bytes() == b"RIFF"


def test_find_clip_names_the_target_of_a_broken_link(folder):
    (folder / "disk").symlink_to("/nowhere/disk")
    (folder / "audio/gone.wav").symlink_to("../../blobs/0123")
    (folder / "loop.wav").symlink_to("loop.wav")
    assert reason(folder, "disk/a.wav").startswith("missing: disk is a link to /nowhere/disk, which is not there")
    assert reason(folder, "audio/gone.wav").startswith("missing: audio/gone.wav is a link to ../../blobs/0123, which")
    assert reason(folder, "loop.wav") == (
        "cannot be opened: loop.wav is a link to loop.wav, a loop of links: make the link anew"
    )
