"""Which recording a clip was cut from, by the published naming of known tasks, and as file names suggest."""

import dataclasses

import pytest

from jaxdissect import load_task
from jaxdissect.tasks.known import KNOWN_TASKS
from jaxdissect.tasks.notes import all_notes
from jaxdissect.tasks.recordings import suspected_groups

PUBLISHED = {
    "us8k": {
        "fold3/102305-6-0-0.wav": "102305",
        "audio/fold3/102305-6-0-11.wav": "102305",
        "audio/fold10/99812-1-1-0.wav": "99812",
        "audio/fold1/102305.wav": None,
        "audio/fold1/a-6-0-0.wav": None,
    },
    "esc50": {"audio/1-100032-A-0.wav": "100032", "audio/5-9032-B-49.wav": "9032", "audio/0.wav": None},
    "vc1": {
        "id10001/1zcIwhmdeo4/00001.wav": "id10001/1zcIwhmdeo4",
        "wav/id10001/1zcIwhmdeo4/00003.wav": "id10001/1zcIwhmdeo4",
        "wav/id10002/_3-yXxNoHqo/00001.m4a": "id10002/_3-yXxNoHqo",
        "wav/id10001-1zcIwhmdeo4-00001.wav": None,
    },
    "spcv2": {
        "bed/00176480_nohash_0.wav": "00176480",
        "cat/00176480_nohash_12.wav": "00176480",
        "_background_noise_/pink_noise.wav": None,
    },
    "nsynth": {
        "nsynth-train/audio/bass_synthetic_033-022-050.wav": "bass_synthetic_033",
        "guitar_acoustic_001-082-127.wav": "guitar_acoustic_001",
        "bass_synthetic_033.wav": None,
    },
    "surge": {
        "surge-patches-3rdparty-FX-Reson-velocity64/060.ogg": "surge-patches-3rdparty-FX-Reson-velocity64",
        "060.ogg": None,
    },
    "cremad": {"1001_DFA_ANG_XX.wav": "1001", "AudioWAV/1091_WSI_SAD_HI.wav": "1091", "ang/1.wav": None},
    "voxforge": {
        "guenter-20140214-afn/wav/de5-001.wav": "guenter-20140214-afn",
        "de/anonymous-20080425-ujr/flac/b0019.flac": "anonymous-20080425-ujr",
        "de5-001.wav": None,
    },
}
PUBLISHED |= {"nspitch": PUBLISHED["nsynth"], "cremad_gender": PUBLISHED["cremad"]}
PAIRS = [(task, name, source) for task, names in PUBLISHED.items() for name, source in names.items()]


@pytest.mark.parametrize(("task", "file_name", "recording"), PAIRS)
def test_recording_rule_of_a_known_task_takes_published_names(task, file_name, recording):
    rule = KNOWN_TASKS[task].recording
    assert rule is not None
    assert rule(file_name) == recording


def test_recording_rules_exist_for_all_tasks_whose_names_show_it():
    assert set(KNOWN_TASKS) - set(PUBLISHED) == {"gise51", "fsd50k", "as20k", "as", "gtzan"}
    assert all(KNOWN_TASKS[name].recording is None for name in set(KNOWN_TASKS) - set(PUBLISHED))


def write(data_folder, rows, header="file_name,label,fold"):
    data_folder.table("us8k.csv", "\n".join([header, *rows]) + "\n")
    return load_task("us8k", data_folder.path)


NAMED = ["1-0-0-0.wav,a,1", "1-0-0-1.wav,a,1", "2-0-0-0.wav,b,5", "odd.wav,b,5"]


def test_load_task_takes_recordings_from_names_and_leaves_odd_ones_by_themselves(data_folder):
    task = write(data_folder, NAMED)
    assert (task.recordings, task.recordings_from) == (("1", "1", "2", "odd.wav"), "file_name")
    assert task.only("test").recordings == ("2", "odd.wav")


def test_load_task_prefers_the_column_src_file(data_folder):
    rows = [f"{row},{source}" for row, source in zip(NAMED, ["x", "y", "", "x"], strict=True)]
    task = write(data_folder, rows, "file_name,label,fold,src_file")
    assert (task.recordings, task.recordings_from) == (("x", "y", "2-0-0-0.wav", "x"), "src_file")


@pytest.mark.parametrize("header", ["file_name,label,fold", "file_name,label,fold,src_file"])
def test_load_task_has_no_recordings_where_no_clip_has_one(data_folder, header):
    empty = "," if header.endswith("src_file") else ""
    task = write(data_folder, [f"odd.wav,a,1{empty}", f"even.wav,b,5{empty}"], header)
    assert (task.recordings, task.recordings_from) == (None, "")
    assert task.sources == task.file_names


def test_fingerprint_does_not_depend_on_recordings(data_folder):
    task = write(data_folder, NAMED)
    assert task.fingerprint() == dataclasses.replace(task, recordings=None, recordings_from="").fingerprint()


def test_load_task_finds_two_takes_of_each_note(tmp_path):
    """The takes of a note differ by some cents and decibels; they share split and classes."""
    notes = [note for variant in ("notes", "notes2") for note in all_notes(variant)]
    for variant in ("notes", "notes2"):
        folder = tmp_path / variant
        folder.mkdir()
        own = [note for note in notes if note.variant == variant]
        rows = [f"{note.file_name},{note.octave},{note.pitch_class},{note.instrument},{note.split}" for note in own]
        (folder / f"{variant}.csv").write_text("\n".join(["file_name,octave,pitch_class,instrument,split", *rows, ""]))
        task = load_task(variant, folder)
        assert task.recordings_from == "file_name"
        takes = {}
        for note, source, split in zip(own, task.sources, task.splits, strict=True):
            takes.setdefault(source, []).append((note.instrument, note.midi, split))
        assert len(takes) == 480
        assert all(len(clips) == 2 and clips[0] == clips[1] for clips in takes.values())


def test_suspected_groups_have_an_example():
    names = [f"kitchen/{source}-{cut}.wav" for source in range(20) for cut in range(9)] + ["kitchen/0-9.wav"]
    found = suspected_groups(names)
    assert found is not None
    assert (found.groups, found.clips, found.example, found.size) == (20, 181, "kitchen/0", 10)


@pytest.mark.parametrize(
    "names",
    [
        [f"{number}.wav" for number in range(100)],
        [f"clip_{number}.wav" for number in range(100)],  # all names begin alike
        [f"{number}_a.wav" for number in range(100)],  # a clip each
        [f"{source}-{cut}.wav" for source in range(3) for cut in range(3)],  # too few clips
        [*(f"{number}.wav" for number in range(100)), *(f"{number % 4}_{number}.wav" for number in range(40))],
    ],
)
def test_suspected_groups_of_names_that_suggest_none(names):
    assert suspected_groups(names) is None
