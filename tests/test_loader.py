"""The loader: every clip once, in order, from any position, for any number of processes."""

import numpy as np
import pytest

from jaxdissect import load_task
from jaxdissect.tasks.loader import batches

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
def test_every_clip_once_and_in_order(task, batch_size):
    stream = list(batches(task, 16000, batch_size))
    assert {batch.pcm.shape for batch in stream} == {(batch_size, 160)}
    assert clips_of(stream) == expected(range(CLIPS))
    assert [batch.position for batch in stream][-1] == CLIPS
    assert sum(len(batch.statuses) for batch in stream) == CLIPS


@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_it_goes_on_from_every_position(task, batch_size):
    for batch in batches(task, 16000, 4):
        rest = clips_of(batches(task, 16000, batch_size, position=batch.position))
        assert rest == expected(range(batch.position, CLIPS))


@pytest.mark.parametrize("processes", [2, 3, 30])
def test_the_union_over_processes_is_the_task(task, processes):
    parts = [clips_of(batches(task, 16000, 4, process=process, processes=processes)) for process in range(processes)]
    assert sorted(clip for part in parts for clip in part) == expected(range(CLIPS))


def test_members_follow_the_table(task):
    batch = next(iter(batches(task, 16000, 3)))
    assert batch.members.tolist() == [[True, False, True], [False, True, True], [True, False, True]]


def test_an_unreadable_clip_is_in_no_class(task):
    (task.data / "1.wav").unlink()
    batch = next(iter(batches(task, 16000, 3)))
    assert batch.members[1].tolist() == [False, False, False]
    assert batch.statuses[1].status == "unreadable"
    assert not batch.pcm[1].any()
