"""Data sets that TFDS has prepared, written here by TFDS's own builders, features and writer.

TFDS's Audio feature needs TensorFlow in three places, without effect on what is written: it decodes audio files
(with pydub; here with soundfile), and it asks TensorFlow for the names of its types. Those are replaced.
"""

import importlib
import io
import json
import shlex
import shutil
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow_datasets
from array_record.python.array_record_module import ArrayRecordWriter
from limits import few_open_files
from tensorflow_datasets.core.features import audio_feature
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from jaxdissect import InputError, load_task
from jaxdissect.audio.decode import read_clip
from jaxdissect.cli import main
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.tasks import tfds_records
from jaxdissect.tasks.loader import data_fingerprint
from jaxdissect.tasks.tfds import load_tfds_task, tfds_reader
from jaxdissect.tasks.tfds_records import KNOWN_SETS, Records, is_tfds_folder, read_data_set

BUILDERS = {
    "crema_d": ("audio.crema_d", "CremaD"),
    "gtzan": ("audio.gtzan.gtzan", "GTZAN"),
    "nsynth": ("datasets.nsynth.nsynth_dataset_builder", "Builder"),
    "voxforge": ("audio.voxforge", "Voxforge"),
    "spoken_digit": ("datasets.spoken_digit.spoken_digit_dataset_builder", "Builder"),
    "speech_commands": ("datasets.speech_commands.speech_commands_dataset_builder", "Builder"),
}
QUALITIES = (  # of NSynth's notes
    "bright dark distortion fast_decay long_release multiphonic nonlinear_env percussive reverb tempo-synced"
)


class Decoder:
    """In place of TFDS's decoder of audio files."""

    def __init__(self, file_format, np_dtype, shape):
        self.dtype = np_dtype

    def encode_audio(self, file, file_format):
        return soundfile.read(file, dtype="int16")[0].astype(self.dtype)


class Keeper(Decoder):
    """In place of TFDS's decoder that keeps audio files as they are."""

    def encode_audio(self, file, file_format):
        return np.array(file.read(), dtype=object)


@pytest.fixture(scope="module")
def without_tensorflow():
    names = types.SimpleNamespace(string=np.object_, bool=np.bool_)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio_feature, "_EagerDecoder", Decoder)
        patch.setattr(audio_feature, "_LazyDecoder", Keeper)
        patch.setattr(audio_feature, "tf", names)
        patch.setattr(audio_feature.Audio, "dtype", property(lambda feature: feature.np_dtype))
        nsynth = importlib.import_module(f"tensorflow_datasets.{BUILDERS['nsynth'][0]}")
        patch.setattr(nsynth, "tf", names)
        patch.setattr(tensorflow_datasets.core, "BeamMetadataDict", tensorflow_datasets.core.MetadataDict)
        tensorflow_datasets.disable_progress_bar()
        yield


def prepare(data, builder, splits, shards=1, **options):
    """Write a data set as TFDS does: {split: [example, ...]} by a builder, in order. Its version's folder."""

    def generate(self, manager):
        return {
            split: iter([(f"{row:04}", row_of) for row, row_of in enumerate(rows)]) for split, rows in splits.items()
        }

    def info(self):
        info = builder._info(self)
        info.as_proto.disable_shuffling = True
        return info

    body = {"name": builder.name, "_info": info, "url_infos": {}, "__module__": builder.__module__}
    body |= {"_split_generators": generate, "_generate_examples": None}
    made = type(builder)(builder.__name__, (builder,), body, skip_registration=True)
    made = made(data_dir=data, file_format=options.pop("file_format", "array_record"), **options)
    made.download_and_prepare(download_config=tensorflow_datasets.download.DownloadConfig(num_shards=shards))
    return Path(made.data_dir)


def known(name):
    module, builder = BUILDERS[name]
    return getattr(importlib.import_module(f"tensorflow_datasets.{module}"), builder)


def own(name, version="1.0.0", **features):
    """A builder of another data set."""

    def info(self):
        features_dict = tensorflow_datasets.features.FeaturesDict(features)
        return tensorflow_datasets.core.DatasetInfo(builder=self, description="own", features=features_dict)

    body = {"name": name, "_info": info, "VERSION": tensorflow_datasets.core.Version(version), "__module__": __name__}
    body |= {"_split_generators": None, "_generate_examples": None}
    base = tensorflow_datasets.core.GeneratorBasedBuilder
    return type(base)(name, (base,), body, skip_registration=True)


def pcm(number, samples):
    """16-bit noise, loud and with both extremes."""
    drawn = np.random.default_rng(number).integers(-32768, 32768, samples).astype(np.int16)
    drawn[:2] = -32768, 32767
    return drawn


def wav(samples, rate=16000):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return io.BytesIO(file.getvalue())


CREMA_D = {
    split: [
        {
            "audio": (seed + row, 20000 + 10000 * row),
            "label": ["NEU", "HAP", "SAD", "ANG"][row % 4],
            "speaker_id": f"{seed}",
        }
        for row in range(rows)
    ]
    for split, seed, rows in (("train", 100, 7), ("validation", 200, 3), ("test", 300, 3))
}


@pytest.fixture(scope="module")
def crema_d(without_tensorflow, tmp_path_factory):
    """Folder of the data set; the training split is in three files, clips last from 1.25 to 5 s."""
    data = tmp_path_factory.mktemp("data")
    splits = {split: [row | {"audio": wav(pcm(*row["audio"]))} for row in rows] for split, rows in CREMA_D.items()}
    prepare(data, known("crema_d"), splits, shards=3)
    return data


@pytest.fixture
def copied(crema_d, tmp_path):
    """A copy of that data set to be damaged: the folder of its version."""
    return Path(shutil.copytree(crema_d, tmp_path / "data")) / "crema_d/1.0.0"


def labels(task, name):
    """The classes of every clip."""
    [labels] = [labels for labels in task.label_sets if labels.name == name]
    return [[labels.classes[index] for index in row] for row in labels.members]


def record(**features):
    """A record of a data set: {feature: whole numbers, floats or bytes}."""

    def feature(values):
        values = values if isinstance(values, np.ndarray | list) else [values]
        if isinstance(values[0], bytes):
            return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=values))
        if isinstance(values[0], float | np.floating):
            return tf_feature_pb2.Feature(float_list=tf_feature_pb2.FloatList(value=values))
        return tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=values))

    stored = {name: feature(values) for name, values in features.items()}
    return tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=stored)).SerializeToString()


def write_file(folder, split, records):
    """Replace the files of a split by one that holds these records."""
    info = json.loads((folder / "dataset_info.json").read_text())
    for found in info["splits"]:
        if found["name"] == split:
            found["shardLengths"] = [str(len(records))]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    writer = ArrayRecordWriter(str(folder / f"crema_d-{split}.array_record-00000-of-00001"), "group_size:1")
    for content in records:
        writer.write(content)
    writer.close()


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_load_tfds_task_reads_what_tfds_has_written(crema_d):
    task = load_tfds_task("tfds:crema_d", crema_d)
    assert (task.name, task.data, task.unit_seconds, task.keep) == ("crema_d", crema_d / "crema_d/1.0.0", 2.5, 0.01)
    assert task.file_names == (
        *(f"train/0000000{row}" for row in range(7)),
        *(f"validation/0000000{row}" for row in range(3)),
        *(f"test/0000000{row}" for row in range(3)),
    )
    assert task.splits == ("train",) * 7 + ("valid",) * 3 + ("test",) * 3
    assert task.folds == (None,) * 13
    assert task.classes == tuple(("label", name) for name in ("ANG", "HAP", "NEU", "SAD"))
    assert labels(task, "label") == [[row["label"]] for rows in CREMA_D.values() for row in rows]


def test_load_tfds_task_with_several_label_sets_and_another_unit_length(crema_d):
    task = load_tfds_task("tfds:crema_d/1.0.0", crema_d, label=["speaker_id", "label"], unit_seconds=1.5)
    assert task.unit_seconds == 1.5
    assert [labels.name for labels in task.label_sets] == ["speaker_id", "label"]
    assert labels(task, "speaker_id") == [["100"]] * 7 + [["200"]] * 3 + [["300"]] * 3


def test_load_tfds_task_separates_labels_at_commas_on_demand(without_tensorflow, tmp_path):
    features = tensorflow_datasets.features
    builder = own("own", audio=audio_feature.Audio(sample_rate=8000), tags=features.Text(), kind=np.int32)
    prepare(
        tmp_path, builder, {"train": [{"audio": pcm(0, 9), "tags": tags, "kind": 3} for tags in ("a, b", "b,c,", "")]}
    )

    def found(multi_label):
        task = load_task("tfds:own", tmp_path, label=["tags", "kind"], unit_seconds=1, multi_label=multi_label)
        assert [one.multi_label for one in task.label_sets] == [bool(multi_label)] * 2
        return labels(task, "tags")

    assert found(True) == [["a", "b"], ["b", "c"], []]
    assert found(None) == found(False) == [["a, b"], ["b,c,"], []]


def test_load_tfds_task_without_label_sets_reads_no_records(crema_d):
    def progress(items):
        raise AssertionError

    task = load_tfds_task("tfds:crema_d", crema_d, label=None, progress=progress)
    assert (len(task), task.label_sets) == (13, ())


def test_load_tfds_task_shows_every_record_to_progress_once(crema_d):
    seen = []

    def progress(items):
        seen.append(len(items))
        return iter(items)

    load_tfds_task("tfds:crema_d", crema_d, progress=progress)
    assert seen == [13]


def test_tfds_reader_gives_exactly_the_samples_written(crema_d):
    task = load_tfds_task("tfds:crema_d", crema_d)
    read = tfds_reader(task.data, 16000, 40000)
    written = [pcm(*row["audio"]) for rows in CREMA_D.values() for row in rows]
    for file_name, samples in zip(task.file_names, written, strict=True):
        recording = read(file_name)
        unit = np.zeros(40000, np.float32)
        unit[: len(samples)] = samples[:40000] / np.float32(32768)
        np.testing.assert_array_equal(recording.pcm, unit)
        assert recording.pcm.dtype == np.float32
        assert recording.clip.samples == min(len(samples), 40000)
        assert recording.clip.status == ("short" if len(samples) < 40000 else "ok")


@pytest.mark.parametrize("rate", [8000, 22050])
def test_tfds_reader_equals_reading_audio_files(crema_d, data_folder, rate):
    data_folder.path.mkdir()
    read = tfds_reader(crema_d / "crema_d/1.0.0", rate, 2 * rate)
    for row, example in enumerate(CREMA_D["train"]):
        (data_folder.path / "a.wav").write_bytes(wav(pcm(*example["audio"])).getvalue())
        file, record = read_clip(data_folder.path, "a.wav", rate, 2 * rate), read(f"train/{row:08}")
        np.testing.assert_array_equal(record.pcm, file.pcm)
        assert record.clip == file.clip


def test_tfds_reader_in_many_threads_equals_one(crema_d):
    folder = crema_d / "crema_d/1.0.0"
    names = load_tfds_task("tfds:crema_d", crema_d, label=None).file_names * 8
    alone = [recording.pcm for recording in map(tfds_reader(folder, 8000, 20000), names)]
    with ThreadPoolExecutor(8) as threads:
        together = [recording.pcm for recording in threads.map(tfds_reader(folder, 8000, 20000), names)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("name", ["gtzan", "voxforge", "spoken_digit", "speech_commands"])
def test_load_tfds_task_reads_data_sets_as_tfds_declares_them(without_tensorflow, tmp_path, name):
    wanted = {"gtzan": "jazz", "voxforge": "it", "spoken_digit": "7", "speech_commands": "_silence_"}[name]
    file_name = {"audio/filename": "a.wav"}
    more = {"gtzan": file_name, "spoken_digit": file_name, "voxforge": {"speaker_id": "x"}}.get(name, {})
    rate, seconds = KNOWN_SETS[name]
    folder = prepare(tmp_path, known(name), {"train": [{"audio": wav(pcm(1, 900), rate), "label": wanted, **more}]})
    task = load_tfds_task(f"tfds:{name}", tmp_path, unit_seconds=None if seconds else 0.1)
    assert (task.data, task.unit_seconds, task.splits) == (folder, seconds or 0.1, ("train",))
    assert labels(task, "label") == [[wanted]]
    recording = tfds_reader(folder, rate, 900)("train/00000000")
    np.testing.assert_array_equal(recording.pcm, pcm(1, 900) / np.float32(32768))
    # An older data set has no rate: the known one is taken.
    edit(folder / "features.json", f'"sampleRate": "{rate}",', "")
    np.testing.assert_array_equal(tfds_reader(folder, rate, 900)("train/00000000").pcm, recording.pcm)


def nsynth_example(row):
    return {
        "id": f"note-{row}",
        "audio": np.random.default_rng(row).uniform(-1, 1, 64000).astype(np.float32),
        "pitch": 9 + row,
        "velocity": 100,
        "instrument": {"label": row, "family": ["vocal", "bass"][row % 2], "source": "acoustic"},
        "qualities": {quality: bool(row % 2) for quality in QUALITIES.split()},
    }


@pytest.fixture
def nsynth(without_tensorflow, tmp_path):
    rows = [nsynth_example(row) for row in range(3)]
    rows[2]["velocity"] = -1  # TFDS's sign of no label
    prepare(tmp_path, known("nsynth"), {"train": rows[:2], "valid": rows[2:]}, config="gansynth_subset")
    return tmp_path


def test_load_tfds_task_reads_nested_features_of_a_configuration(nsynth):
    chosen = ["instrument/family", "pitch", "velocity", "qualities/bright", "id"]
    task = load_tfds_task("tfds:nsynth/gansynth_subset/2.3.3", nsynth, label=chosen)
    assert (task.name, task.unit_seconds, task.splits) == ("nsynth", 4.0, ("train", "train", "valid"))
    assert [labels(task, name) for name in chosen] == [
        [["vocal"], ["bass"], ["vocal"]],
        [["9"], ["10"], ["11"]],
        [["100"], ["100"], []],
        [["False"], ["True"], ["False"]],
        [["note-0"], ["note-1"], ["note-2"]],
    ]
    assert task.label_sets[1].classes == ("9", "10", "11")
    default = load_tfds_task("tfds:nsynth/gansynth_subset", nsynth)
    assert [labels.name for labels in default.label_sets] == ["instrument/family"]
    recording = tfds_reader(task.data, 16000, 64000)("valid/00000000")
    np.testing.assert_array_equal(recording.pcm, nsynth_example(2)["audio"])


def test_load_tfds_task_wants_the_name_of_a_configuration(nsynth):
    with pytest.raises(InputError, match=r"nsynth must hold a data set .* found gansynth_subset\. Name one of these"):
        load_tfds_task("tfds:nsynth", nsynth)


def test_tfds_reader_reads_audio_files_that_are_kept_as_they_are(without_tensorflow, tmp_path):
    audio = audio_feature.Audio(shape=(None, 2), lazy_decode=True, file_format="wav", dtype=np.int32)
    builder = own("lazy", audio=audio, label=tensorflow_datasets.features.ClassLabel(names=["a", "b"]))
    stereo = np.stack([pcm(1, 1000), pcm(2, 1000)], 1)
    files = [wav(stereo, 8000).read(), wav(stereo, 8000).read()[:900], b"no sound"]
    folder = prepare(tmp_path, builder, {"test": [{"audio": io.BytesIO(file), "label": "b"} for file in files]})
    read = tfds_reader(folder, 8000, 1000)
    np.testing.assert_array_equal(read("test/00000000").pcm, (stereo / np.float32(32768)).mean(1, dtype=np.float32))
    cut = read("test/00000001").clip
    assert (cut.status, cut.reason) == ("unreadable", "truncated: its header promises 4000 bytes, 856 are there")
    assert read("test/00000002").clip.reason.startswith("cannot be decoded: it is text")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF", "MP3", "AU", "W64", "RF64"])
def test_tfds_reader_treats_a_kept_file_as_the_file_itself(without_tensorflow, tmp_path, data_folder, kind):
    """Whole or cut off: what `read_clip` makes of it on the disk."""
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32), 8000, format=kind)
    contents = [file.getvalue()[: round(share * len(file.getvalue()))] for share in (1, 0.9, 0.5, 0.01)]
    audio = audio_feature.Audio(lazy_decode=True, file_format="wav", dtype=np.int32)
    rows = [{"audio": io.BytesIO(content), "label": "b"} for content in contents]
    builder = own("lazy", audio=audio, label=tensorflow_datasets.features.ClassLabel(names=["a", "b"]))
    read = tfds_reader(prepare(tmp_path, builder, {"test": rows}), 8000, 20000)
    data_folder.path.mkdir()
    for row, content in enumerate(contents):
        (data_folder.path / "a").write_bytes(content)
        kept, on_disk = read(f"test/{row:08}"), read_clip(data_folder.path, "a", 8000, 20000)
        assert kept.clip == on_disk.clip
        assert kept.clip.status == ("unreadable" if row else "ok")
        np.testing.assert_array_equal(kept.pcm, on_disk.pcm)


def test_tfds_reader_mixes_two_channels(without_tensorflow, tmp_path):
    builder = own("stereo", audio=audio_feature.Audio(shape=(None, 2), sample_rate=8000))
    stereo = np.stack([pcm(1, 1000), pcm(2, 1000)], 1)
    folder = prepare(tmp_path, builder, {"train": [{"audio": stereo}]})
    recording = tfds_reader(folder, 8000, 1000)("train/00000000")
    np.testing.assert_array_equal(recording.pcm, (stereo / np.float32(32768)).mean(1, dtype=np.float32))


def test_find_audio_takes_a_tensor(without_tensorflow, tmp_path):
    tensor = tensorflow_datasets.features.Tensor(shape=(None,), dtype=np.float32)
    sound = np.linspace(-1, 1, 900, dtype=np.float32)
    folder = prepare(tmp_path, own("nsynth", audio=tensor), {"train": [{"audio": sound}]})
    np.testing.assert_array_equal(tfds_reader(folder, 16000, 900)("train/00000000").pcm, sound)
    folder = prepare(tmp_path, own("other", audio=tensor), {"train": [{"audio": sound}]})
    with pytest.raises(
        InputError, match=r"features\.json: the feature 'audio' must have its sampleRate in Hz, found 0"
    ):
        tfds_reader(folder, 16000, 900)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"label": np.int64}, r"needs one Audio feature, found none among the features label"),
        ({"a": "int64", "b": "int64"}, r"needs one Audio feature, found a, b among"),
        ({"audio": "uint8"}, r"must be of shape \(frames\) .* found \(-1,\), encoding 'NONE', uint8: it cannot"),
    ],
)
def test_find_audio_refuses_what_cannot_be_read(without_tensorflow, tmp_path, features, message):
    made = {
        name: audio_feature.Audio(dtype=np.dtype(kind), sample_rate=8000) if isinstance(kind, str) else kind
        for name, kind in features.items()
    }
    example = {name: pcm(0, 9) if isinstance(kind, str) else 1 for name, kind in features.items()}
    prepare(tmp_path, own("own", **made), {"train": [example]})
    with pytest.raises(InputError, match=message):
        load_tfds_task("tfds:own", tmp_path, unit_seconds=1, label=None)


def test_find_audio_refuses_encoded_audio(copied):
    edit(copied / "features.json", '"encoding": "NONE"', '"encoding": "ZLIB"')
    with pytest.raises(InputError, match=r"not encoded, .* found \(-1,\), encoding 'ZLIB', int64: it cannot be read"):
        tfds_reader(copied, 16000, 40000)


def test_load_tfds_task_takes_the_newest_version(copied):
    data = copied.parent.parent
    for version in ("1.9.0", "1.10.0"):
        shutil.copytree(copied, copied.parent / version)
    (copied.parent / "2.0.0").mkdir()  # not finished
    assert load_tfds_task("tfds:crema_d", data).data.name == "1.10.0"
    assert load_tfds_task("tfds:crema_d/1.9.0", data).data.name == "1.9.0"
    with pytest.raises(InputError, match=r"TFDS has prepared, 2\.0\.0; found 1\.0\.0, 1\.10\.0, 1\.9\.0, 2\.0\.0\."):
        load_tfds_task("tfds:crema_d/2.0.0", data)
    assert not is_tfds_folder(copied.parent / "2.0.0")
    assert is_tfds_folder(copied)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"task": "tfds:gtzan"},
            r"gtzan must hold a data set .* found nothing\. .* tfds build gtzan --file_format=arr",
        ),
        ({"task": "tfds:"}, r"Task 'tfds:' must be tfds:NAME, tfds:NAME/VERSION or tfds:NAME/CONFIG/VERSION"),
        ({"task": "tfds:../crema_d"}, "must be tfds:NAME"),
        ({"task": "tfds:crema_d/../x"}, "must be tfds:NAME"),
        ({"task": "tfds:/etc"}, "must be tfds:NAME"),
        ({"data": Path("no such folder")}, "no such folder/crema_d must hold .* found nothing"),
        ({"label": ["emotion"]}, r"there is no label set emotion; the data set has label, speaker_id: choose"),
        ({"label": ["audio"]}, r"there is no label set audio; the data set has label, speaker_id"),
        ({"label": ["label", "label"]}, "named once"),
        ({"unit_seconds": -1.0}, "unit_seconds must be a positive number"),
    ],
)
def test_load_tfds_task_refuses_bad_arguments(crema_d, options, message):
    with pytest.raises(InputError, match=message):
        load_tfds_task(**({"task": "tfds:crema_d", "data": crema_d} | options))


def test_load_tfds_task_wants_unit_length_and_labels_of_an_unknown_data_set(without_tensorflow, tmp_path):
    builder = own("own", audio=audio_feature.Audio(sample_rate=8000), kind=np.int32, where=np.bool_)
    prepare(tmp_path, builder, {"train": [{"audio": pcm(0, 9), "kind": 3, "where": True}]})
    with pytest.raises(InputError, match="Task 'tfds:own' needs unit_seconds"):
        load_tfds_task("tfds:own", tmp_path)
    with pytest.raises(
        InputError, match=r"there is no label set label; the data set has kind, where: choose one of these"
    ):
        load_tfds_task("tfds:own", tmp_path, unit_seconds=1)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("features.json", '"sampleRate": "16000"', '"sampleRate": "8000"'), ("dataset_info.json", '"2"', '"1"')],
)
def test_data_fingerprint_changes_with_the_description_of_a_data_set(copied, file, old, new):
    task = load_tfds_task("tfds:crema_d", copied.parent.parent, label=None)
    before = data_fingerprint(task)
    assert data_fingerprint(task) == before
    edit(copied / file, old, new)
    assert data_fingerprint(task) != before


def test_load_tfds_task_leaves_other_splits_out(copied):
    edit(copied / "dataset_info.json", '"name": "validation"', '"name": "unlabelled"')
    assert set(load_tfds_task("tfds:crema_d", copied.parent.parent).splits) == {"train", "test"}
    for name in ("train", "test"):
        edit(copied / "dataset_info.json", f'"name": "{name}"', f'"name": "my_{name}"')
    with pytest.raises(
        InputError, match=r"must be named train, validation, valid, test and hold records, found my_train"
    ):
        load_tfds_task("tfds:crema_d", copied.parent.parent)


def test_load_tfds_task_refuses_another_format(copied):
    edit(copied / "dataset_info.json", '"fileFormat": "array_record"', '"fileFormat": "tfrecord"')
    with pytest.raises(
        InputError, match=r"format array_record, found tfrecord, .* tfds build crema_d --file_format=array"
    ):
        load_tfds_task("tfds:crema_d", copied.parent.parent)
    edit(copied / "dataset_info.json", '"tfrecord"', '"tfrecord", "alternativeFileFormats": ["array_record"]')
    assert len(load_tfds_task("tfds:crema_d", copied.parent.parent)) == 13


def cut(path):
    path.write_bytes(path.read_bytes()[:-70000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "train.array_record-00001-of-00003 is missing: copy the data set again"),
        (cut, r"train.array_record-00001-of-00003 is damaged or cut off \(.*\): copy the data set again"),
        (lambda path: path.write_bytes(b""), r"damaged or cut off \(ArrayRecord file should be at least 64KB big\)"),
        (lambda path: path.write_bytes(bytes(200000)), "damaged or cut off"),
        (
            lambda path: shutil.copy(path.with_name(path.name.replace("00001-", "00000-")), path),
            "00001-of-00003 should hold 3 records by dataset_info.json, found 2",
        ),
    ],
)
def test_records_refuse_bad_files(copied, damage, message):
    lengths = json.loads((copied / "dataset_info.json").read_text())["splits"]
    assert next(split for split in lengths if split["name"] == "train")["shardLengths"] == ["2", "3", "2"]
    damage(copied / "crema_d-train.array_record-00001-of-00003")
    with pytest.raises(InputError, match=message):
        load_tfds_task("tfds:crema_d", copied.parent.parent, label=None)
    with pytest.raises(InputError, match=message):
        tfds_reader(copied, 16000, 40000)


def test_records_refuse_a_file_that_vanishes(copied):
    read = tfds_reader(copied, 16000, 40000)
    (copied / "crema_d-train.array_record-00001-of-00003").unlink()
    assert read("train/00000006").clip.status == "ok"
    with pytest.raises(InputError, match=r"00001-of-00003 cannot be read any more \(open\(\) failed: No such file"):
        read("train/00000002")


def test_records_open_more_files_than_the_limit(crema_d, monkeypatch):
    """The limit is raised; where that does not help, nothing is called damaged."""
    folder, names = crema_d / "crema_d/1.0.0", load_tfds_task("tfds:crema_d", crema_d, label=None).file_names
    with few_open_files(3):
        assert all(recording.pcm.any() for recording in map(tfds_reader(folder, 8000, 20000), names))
    monkeypatch.setattr(tfds_records, "allow_open_files", lambda count: None)
    refusal = r"Too many open files.*: allow more open files \(`ulimit -n`\), or prepare the data set by `jaxdissect"
    with few_open_files(3), pytest.raises(InputError, match=rf"cannot be read any more \(.*{refusal}"):
        list(map(tfds_reader(folder, 8000, 20000), names))
    data_set = read_data_set(folder)
    with few_open_files(0), pytest.raises(InputError, match=rf"cannot be read \(.*{refusal}"):
        Records(data_set)


def test_tfds_reader_makes_bad_records_unreadable(copied):
    sound = {"audio": pcm(0, 40000)}
    good = record(**sound, label=3)
    bad = [b"\xff" * 50, record(label=2), record(audio=0.5, label=0)]
    write_file(copied, "test", [good, *bad, record(**sound), b"", good])
    task = load_tfds_task("tfds:crema_d", copied.parent.parent).only("test")
    assert labels(task, "label") == [["ANG"], [], ["SAD"], ["NEU"], [], [], ["ANG"]]
    read = tfds_reader(copied, 16000, 40000)
    clips = [read(name).clip for name in task.file_names]
    assert [clip.status for clip in clips] == ["ok", *["unreadable"] * 3, "ok", "unreadable", "ok"]
    assert clips[1].reason.startswith("cannot be read: ")
    assert [clip.reason for clip in clips[2:4]] == ["holds no feature 'audio'", "holds no samples"]
    assert not read("test/00000002").pcm.any()


@pytest.mark.parametrize("beyond", [-32769, 32768])
def test_tfds_reader_refuses_a_set_of_more_than_16_bits_as_a_whole(copied, beyond):
    """Its quiet clips would be taken for loud ones."""
    write_file(copied, "test", [record(audio=np.array([5, -7])), record(audio=np.array([0, beyond]))])
    read = tfds_reader(copied, 16000, 40000)
    assert read("test/00000000").clip.status == "short"
    with pytest.raises(InputError, match=r"features\.json: the feature 'audio' holds integers of more than 16 bits"):
        read("test/00000001")


def test_tfds_reader_loses_no_other_record_to_a_damaged_one(copied):
    path = copied / "crema_d-train.array_record-00000-of-00003"
    content = bytearray(path.read_bytes())
    content[5000:5008] = b"damaged!"
    path.write_bytes(content)
    read = tfds_reader(copied, 16000, 40000)
    assert read("train/00000000").clip.reason.startswith("cannot be read: Corrupted Riegeli/records file")
    assert read("train/00000001").clip.status == "short"
    assert labels(load_tfds_task("tfds:crema_d", copied.parent.parent), "label")[:2] == [[], ["HAP"]]


@pytest.mark.parametrize(
    "name", ["", "test", "test/3", "test/00000003", "test/-0000001", "x/00000000", "../test/00000000"]
)
def test_tfds_reader_refuses_names_of_no_record(crema_d, name):
    clip = tfds_reader(crema_d / "crema_d/1.0.0", 16000, 100)(name).clip
    assert (clip.status, clip.reason) == ("unreadable", "is no record of the data set")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("dataset_info.json", None, r"dataset_info\.json is missing or damaged"),
        ("dataset_info.json", "{", r"dataset_info\.json is missing or damaged \(Failed to load JSON"),
        ("dataset_info.json", "3", r"dataset_info\.json is missing or damaged"),
        ("dataset_info.json", "[" * 100000, r"dataset_info\.json is missing or damaged"),
        ("dataset_info.json", '{"splits": 3}', r"dataset_info\.json is missing or damaged"),
        (
            "dataset_info.json",
            '{"fileFormat": "array_record", "splits": [{"name": "test", "shardLengths": ["many"]}]}',
            r"dataset_info\.json is missing or damaged",
        ),
        ("dataset_info.json", '{"fileFormat": "array_record"}', "a split must be named .* found none"),
        (
            "dataset_info.json",
            '{"fileFormat": "array_record", "splits": [{"name": "test", "shardLengths": ["1"]}]}',
            r"dataset_info\.json is damaged \(split test: Could not format template",
        ),
        ("features.json", None, r"features\.json is missing or damaged \(.*No such file"),
        ("features.json", "no JSON", r"features\.json is missing or damaged"),
        ("features.json", "{}", r"features\.json: a task needs one Audio feature, found none"),
        ("features.json", '{"featuresDict": {"features": []}}', r"features\.json is missing or damaged"),
    ],
)
def test_read_data_set_refuses_bad_json(copied, file, text, message):
    (copied / file).unlink()
    if text is not None:
        (copied / file).write_text(text)
    with pytest.raises(InputError, match=message):
        tfds_reader(copied, 16000, 40000)


@pytest.mark.parametrize("template", ["../{SPLIT}-{SHARD_X_OF_Y}", "/etc/{SPLIT}", "x/../../../{SPLIT}"])
def test_read_data_set_refuses_files_outside_the_folder(copied, template):
    edit(copied / "dataset_info.json", "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", template)
    with pytest.raises(InputError, match=r"files of split .* must lie in"):
        tfds_reader(copied, 16000, 40000)


def test_tfds_reader_follows_links_as_in_the_cache_of_a_model_hub(copied, tmp_path):
    for path in list(copied.glob("*.array_record*")):
        blob = path.rename(tmp_path / f"blob-{path.name}")
        path.symlink_to(blob)
    assert tfds_reader(copied, 16000, 40000)("train/00000000").clip.status != "unreadable"


def test_load_tfds_task_refuses_bad_labels(copied):
    data = copied.parent.parent
    (copied / "label.labels.txt").write_text("NEU\nHAP\n")
    with pytest.raises(InputError, match=r"train/00000002 has class 2, label\.labels\.txt has 2 classes"):
        load_tfds_task("tfds:crema_d", data)
    (copied / "label.labels.txt").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match=r"label\.labels\.txt is damaged"):
        load_tfds_task("tfds:crema_d", data)
    write_file(copied, "test", [record(speaker_id=b"one\ntwo")])
    with pytest.raises(InputError, match=r"Label set 'speaker_id': .* control characters, found 'one\\ntwo'"):
        load_tfds_task("tfds:crema_d", data, label=["speaker_id"])


def test_load_tfds_task_names_a_missing_package(crema_d, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets.core.proto", None)
    with pytest.raises(InputError, match=r"needs a package that is missing .* pip install 'jaxdissect\[tfds\]'"):
        load_tfds_task("tfds:crema_d", crema_d)


def test_commands_take_a_set_of_tfds(crema_d, tmp_path, capsys):
    """Counted as it is, prepared and counted, and as files with a table: the same counts."""
    rows = ["file_name,label,split"]
    for split, ours in (("train", "train"), ("validation", "valid"), ("test", "test")):
        for row, example in enumerate(CREMA_D[split]):
            name = f"{split}/{row:08d}"
            (tmp_path / "files" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "files" / name).write_bytes(wav(pcm(*example["audio"])).getvalue())
            rows.append(f"{name},{example['label']},{ours}")
    (tmp_path / "files" / "crema_d.csv").write_text("\n".join(rows) + "\n")
    known_task, prepared = ["--task", "tfds:crema_d", "--data", str(crema_d)], tmp_path / "prepared"
    assert main(["prepare", *known_task, "--out", str(prepared), "--label", "label,speaker_id"]) == 0
    printed = capsys.readouterr().out.partition("The other commands read it by: ")[2].splitlines()[0]
    assert (prepared / "crema_d.csv").read_text().splitlines()[0] == "file_name,split,label,speaker_id"
    sources = {
        "tfds": known_task,
        "prepared": shlex.split(printed),
        "files": ["--task", str(tmp_path / "files" / "crema_d.csv"), "--unit-seconds", "2.5"],
    }
    counts = {}
    for name, task in sources.items():
        options = ["--encoder", "foreign:make", "--split", "all", "--batch-size", "1", "--no-keep-clips"]
        options += ["--preset", "lape", "--keep", "0.5"]
        assert main(["dissect", *task, *options, "--run", str(tmp_path / name)]) == 0, capsys.readouterr().err
        counts[name] = read_netcdf(tmp_path / name / "activations.nc")
    for name in ("prepared", "files"):
        for variable in counts["tfds"]:
            np.testing.assert_array_equal(counts[name][variable], counts["tfds"][variable])
    assert int(counts["tfds"]["total_clips"]) == 13
