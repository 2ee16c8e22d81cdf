"""The loader: every clip once, in order, from any position, for any number of processes."""

import threading

import jax
import numpy as np
import pytest
from traces import spans

from jaxdissect import load_task
from jaxdissect.audio.decode import read_clip
from jaxdissect.runtime.sharding import local_mesh
from jaxdissect.tasks.loader import batches, device_batches

CLIPS = 23


@pytest.fixture
def task(data_folder):
    for number in range(CLIPS):
        data_folder.write(f"{number}.wav", np.full(160, (number + 1) / 32), subtype="FLOAT")
    rows = "".join(f"{number}.wav,{'ab'[number % 2]},train\n" for number in range(CLIPS))
    return load_task(str(data_folder.table("t.csv", "file_name,label,split\n" + rows)), unit_seconds=0.01)


def clips_of(stream):
    """[(clip, first sample), ...] of all rows that are no padding."""
    found = []
    for batch in stream:
        real = batch.clip >= 0
        assert real[: real.sum()].all()  # padding comes last
        assert batch.members[:, -1].tolist() == real.tolist()
        assert not batch.pcm[~real].any()
        found += list(zip(batch.clip[real].tolist(), batch.pcm[real, 0].tolist(), strict=True))
    return found


def expected(numbers):
    return [(number, (number + 1) / 32) for number in numbers]


@pytest.mark.parametrize("batch_size", [1, 4, 23, 50])
def test_batches_hold_every_clip_once_and_in_order(task, batch_size):
    stream = list(batches(task, 16000, batch_size))
    assert {batch.pcm.shape for batch in stream} == {(batch_size, 160)}
    assert clips_of(stream) == expected(range(CLIPS))
    assert sum(len(batch.statuses) for batch in stream) == CLIPS


@pytest.mark.parametrize("batch_size", [1, 4, 10])
@pytest.mark.parametrize("clips", [[], [7], range(5, CLIPS), range(1, CLIPS, 3), [22, 0, 9]])
def test_batches_hold_the_clips_that_are_asked_for(task, batch_size, clips):
    assert clips_of(batches(task, 16000, batch_size, clips)) == expected(clips)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_device_batches_equal_those_of_the_host(task, devices):
    mesh = local_mesh(jax.devices()[:devices])
    pairs = list(device_batches(task, 16000, 8, mesh))
    for (batch, arrays), plain in zip(pairs, batches(task, 16000, 8), strict=True):
        assert batch.statuses == plain.statuses
        for name, array in plain.arrays().items():
            np.testing.assert_array_equal(arrays[name], array)
            assert arrays[name].sharding.device_set == set(mesh.devices.flat)
    assert len(pairs) == 3


def test_device_batches_name_decoding_and_transfer_in_a_trace(task, tmp_path):
    with jax.profiler.trace(tmp_path):
        steps = len(list(device_batches(task, 16000, 8, local_mesh(jax.devices()[:1]))))
    found = spans(tmp_path)
    assert (found["decode"], found["transfer"]) == (CLIPS, steps)


def test_batches_end_their_threads_with_the_stream(task):
    before = threading.active_count()
    stream = batches(task, 16000, 1)
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert all(not thread.name.startswith("grain-thread-prefetch") for thread in threading.enumerate())


def test_batches_have_members_as_in_the_table(task):
    batch = next(iter(batches(task, 16000, 3)))
    assert batch.members.tolist() == [[True, False, True], [False, True, True], [True, False, True]]


def test_batches_read_files_of_a_folder_of_hugging_face(task):
    (task.data / "dataset_info.json").write_text('{"features": {}, "splits": {}}')
    assert clips_of(batches(task, 16000, 4)) == expected(range(CLIPS))


def test_read_clip_refuses_samples_without_a_header(task):
    (task.data / "1.raw").write_bytes(b"\1\2\3" * 33)
    recording = read_clip(task.data, "1.raw", 16000, 160)
    assert recording.clip.status == "unreadable"
    assert "samples without a header: ffmpeg -f s16le -ar RATE -ac CHANNELS" in recording.clip.reason


def test_batches_have_an_unreadable_clip_in_no_class(task):
    (task.data / "1.wav").unlink()
    batch = next(iter(batches(task, 16000, 3)))
    assert batch.members[1].tolist() == [False, False, False]
    assert batch.statuses[1].status == "unreadable"
    assert not batch.pcm[1].any()
