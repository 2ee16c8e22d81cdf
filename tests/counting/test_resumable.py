"""A count that is broken off anywhere goes on from its state and ends with the same, to the bit."""

import itertools
import json
import random

import jax
import numpy as np
import pytest
from foreign import IntegerEncoder
from tolerances import assert_within

from benchmarks.study.kills import Work, differences, kill, rounding
from jaxdissect import CountOptions, InputError, LostProcessError, ViTConfig, load_task, untrained_m2d
from jaxdissect.audio.decode import ClipStatus
from jaxdissect.counting.clip_log import ClipLog
from jaxdissect.counting.clip_store import store_paths
from jaxdissect.counting.resumable import CountJob, count_job, room_needed, whole_store
from jaxdissect.counting.stream import count_clips
from jaxdissect.runtime import resume
from jaxdissect.runtime.processes import Processes
from jaxdissect.runtime.pulse import Pulse
from jaxdissect.runtime.resume import StateFile

CLIPS, SECONDS = 22, 0.2
VIT = untrained_m2d(ViTConfig(frames=16, width=64, depth=2, heads=1, mlp=32))


@pytest.fixture
def task(data_folder):
    rows = ["file_name,label,split"]
    for number in range(CLIPS):
        random = np.random.default_rng(number)
        data_folder.write(f"{number}.wav", random.normal(0, 0.1, 2500 if number == 5 else 3300), subtype="FLOAT")
        rows.append(f"{number}.wav,{'abc'[number % 3]},train")
    (data_folder.path / "13.wav").write_bytes(b"no audio")
    return load_task(str(data_folder.table("task.csv", "\n".join(rows) + "\n")), unit_seconds=SECONDS)


def job_of(task, folder, encoder=VIT, **changes):
    folder.mkdir(exist_ok=True)
    return CountJob(encoder, task, CountOptions(batch_size=2), folder, {"the encoder": encoder.name}, **changes)


def run(job, index=0, count=1, progress=lambda clips: None, name="job"):
    """Count as process `index` of `count`."""
    (job.folder / "job").write_text(name)  # by the first one, before the others begin
    with Pulse(job.folder, name, Processes(index, count), patience=30.0) as pulse:
        return count_job(job, pulse, progress)


@pytest.fixture
def devices(monkeypatch):
    """Choose how many devices this process has."""
    everything = jax.local_devices()

    def choose(count):
        monkeypatch.setattr(jax, "local_devices", lambda: everything[:count])

    return choose


def same_bits(one, other):
    a, b = (jax.tree.leaves((vars(counted.totals), counted.log.statuses())) for counted in (one, other))
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def same_counts(one, other):
    for name in ("clips", "tokens", "active_tokens"):
        np.testing.assert_array_equal(getattr(one.totals, name), getattr(other.totals, name))
    for name in ("sum", "sum_squares"):
        np.testing.assert_allclose(getattr(one.totals, name), getattr(other.totals, name), rtol=1e-6)
    np.testing.assert_array_equal(one.totals.top.clip, other.totals.top.clip)
    assert one.log.statuses() == other.log.statuses()


@pytest.mark.parametrize("width", [1, 4])
def test_count_job_broken_off_between_batches_ends_with_the_same_bits(task, tmp_path, devices, monkeypatch, width):
    devices(width)
    whole = run(job_of(task, tmp_path / "whole"))
    checks = {"left": 0}
    check = Pulse.check

    def fail(pulse):
        checks["left"] -= 1
        if checks["left"] == 0:
            raise LostProcessError("another process died")
        check(pulse)

    monkeypatch.setattr(Pulse, "check", fail)
    for batch in sorted({1, 2, -(-CLIPS // (2 * width))}):
        job = job_of(task, tmp_path / f"broken-{batch}")
        checks["left"] = batch
        with pytest.raises(LostProcessError):
            run(job)
        checks["left"] = -1
        seen = []
        assert same_bits(whole, run(job, progress=seen.append))
        assert all(finished >= min(batch * 2 * width, CLIPS) - 1 for finished in seen)  # clip 13 alone is tried again


def test_count_keeper_keeps_what_was_moved_to_the_host(task, tmp_path, devices, monkeypatch):
    """Counts leave the devices before they could overflow; here after every two steps."""
    devices(2)
    monkeypatch.setattr("jaxdissect.counting.statistics.steps_before_overflow", lambda tokens, batch: 2)
    whole = run(job_of(task, tmp_path / "whole"))
    job, checks = job_of(task, tmp_path / "broken"), itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(Pulse, "check", lambda pulse: next(checks) == 2 and _raise(LostProcessError("died")))
        with pytest.raises(LostProcessError):
            run(job)
    assert same_bits(whole, run(job))


@pytest.mark.parametrize("before", [1, 2, 8])
@pytest.mark.parametrize("after", [1, 3])
def test_count_job_on_other_devices_ends_with_the_same_numbers(task, tmp_path, devices, monkeypatch, before, after):
    devices(before)
    whole = run(job_of(task, tmp_path / "whole"))
    job = job_of(task, tmp_path / "broken")
    with monkeypatch.context() as patch:
        patch.setattr(Pulse, "check", lambda pulse: (_ for _ in ()).throw(LostProcessError("died")))
        with pytest.raises(LostProcessError):
            run(job)
    devices(after)
    same_counts(whole, run(job))


@pytest.mark.parametrize("keep_clips", [False, True])
@pytest.mark.parametrize("counts", [(2, 1), (1, 3), (3, 2, 5), (2, 2, 1, 4), (2, 1, 2)])
def test_count_job_resumes_in_any_number_of_processes(task, tmp_path, devices, monkeypatch, counts, keep_clips):
    """Every job but the last breaks off in each of its processes after some batches."""
    devices(1)
    encoder = IntegerEncoder()
    job = job_of(task, tmp_path / "whole", encoder, keep_clips=True)
    whole, store = run(job), stored(job)
    job = job_of(task, tmp_path / "several", encoder, keep_clips=keep_clips)
    for number, count in enumerate(counts[:-1]):
        for index in range(count):
            batches = itertools.count()
            with monkeypatch.context() as patch:
                patch.setattr(
                    Pulse,
                    "check",
                    lambda pulse, n=batches, at=index: next(n) == at and _raise(LostProcessError("died")),
                )
                with pytest.raises(LostProcessError):
                    run(job, index, count, name=str(number))
    last = counts[-1]
    parts = [run(job, index, last) for index in reversed(range(last))]
    assert parts[:-1] == [None] * (last - 1)
    same_counts(whole, parts[-1])
    if keep_clips:
        for name, array in stored(job).items():
            np.testing.assert_array_equal(array, store[name])


def _raise(error):
    raise error


def stored(job):
    """The arrays of the store of all clips, by name."""
    return {name: np.load(path) for name, path in store_paths(whole_store(job)).items()}


def test_count_job_names_the_number_of_missing_clips(task, tmp_path, devices):
    devices(1)
    job = job_of(task, tmp_path / "job")
    run(job, 1, 2)
    (job.folder / "counts-1-of-2.npz").unlink()
    with pytest.raises(InputError, match=r"do not add up to the 22 clips of the task, they hold 11"):
        run(job, 0, 2)


def test_count_job_refuses_a_clip_in_two_states(task, tmp_path, devices):
    devices(1)
    job = job_of(task, tmp_path / "job")
    run(job, 1, 2)
    (job.folder / "counts-3-of-4.npz").write_bytes((job.folder / "counts-1-of-2.npz").read_bytes())
    with pytest.raises(
        InputError, match="10 clips were counted twice, the first has the number 1"
    ):  # the 11th is unreadable
        run(job, 0, 2)


def test_count_job_refuses_the_state_of_another_count(task, tmp_path, devices):
    devices(1)
    job = job_of(task, tmp_path / "job")
    run(job, 1, 2)
    other = CountJob(VIT, task, CountOptions(batch_size=4), job.folder, {"the encoder": "another", "--batch-size": 4})
    with pytest.raises(
        InputError,
        match=r"differs in the encoder \(untrained before, another now\), --batch-size \(None before, 4 now\)",
    ):
        run(other, 1, 2)
    with pytest.raises(InputError, match="differs in the encoder"):
        run(other)  # in another number of processes


@pytest.mark.parametrize("cut", [0, 10, 500])
def test_count_job_refuses_a_damaged_state(task, tmp_path, devices, cut):
    devices(1)
    job = job_of(task, tmp_path / "job")
    run(job, 1, 2)
    path = job.folder / "counts-1-of-2.npz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"counts-1-of-2.npz cannot be read as the state of a count"):
        run(job, 1, 2)
    path.unlink()  # as the message says
    run(job, 1, 2)


def test_count_job_refuses_a_state_that_lacks_something(task, tmp_path, devices):
    devices(1)
    job = job_of(task, tmp_path / "job")
    run(job, 1, 2)
    path = job.folder / "counts-1-of-2.npz"
    with np.load(path) as archive:
        content = dict(archive)
    record = json.loads(content.pop("record").tobytes())
    file = StateFile(path, "a count", record.pop("of"))

    def without(part, name):
        return {key: value for key, value in part.items() if key != name}

    for arrays, rest in [
        *((without(content, name), record) for name in content),
        *((content, without(record, name)) for name in record),
    ]:
        file.write(arrays, rest)
        for process, count in ((1, 2), (0, 1)):  # its own, and another's
            with pytest.raises(InputError, match=r"counts-1-of-2.npz cannot be read as the state of a count"):
                run(job, process, count)


def test_count_job_counts_the_clips_of_a_removed_state_anew(task, tmp_path, devices, monkeypatch):
    devices(1)
    whole = run(job_of(task, tmp_path / "whole"))
    job = job_of(task, tmp_path / "job")
    run(job, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Pulse, "check", lambda pulse: _raise(LostProcessError("died")))
        with pytest.raises(LostProcessError):
            run(job)
    (job.folder / "counts-1-of-2.npz").unlink()
    run(job, 1, 2)
    same_counts(whole, run(job, 0, 2))


def test_count_keeper_keeps_the_state_before_where_none_can_be_written(task, tmp_path, devices, monkeypatch, capsys):
    devices(1)
    whole = run(job_of(task, tmp_path / "whole"))
    job = job_of(task, tmp_path / "full", save_minutes=1e-9)
    written, write = itertools.count(), resume.whole_file

    def full(path):
        if next(written) > 2:
            raise InputError(f"{path} cannot be written (No space left on device): make room.")
        return write(path)

    monkeypatch.setattr(resume, "whole_file", full)
    with monkeypatch.context() as patch:
        checks = itertools.count()
        patch.setattr(Pulse, "check", lambda pulse: next(checks) == 6 and _raise(LostProcessError("died")))
        with pytest.raises(LostProcessError):
            run(job)
    assert "was not saved, the one before is kept" in capsys.readouterr().err
    seen = []
    monkeypatch.setattr(resume, "whole_file", write)
    assert same_bits(whole, run(job, progress=seen.append))
    assert seen[:2] == [6, 8]  # three batches of two were in the state


def test_count_job_is_not_done_where_its_last_state_cannot_be_written(task, tmp_path, devices, monkeypatch):
    """The first process would miss it, and say that clips are missing instead of why."""
    devices(1)
    job = job_of(task, tmp_path / "full")

    def full(path):
        raise InputError(f"{path} cannot be written (No space left on device): make room.")

    with monkeypatch.context() as patch:
        patch.setattr(resume, "whole_file", full)
        with pytest.raises(InputError, match="No space left on device"):
            run(job, 1, 2)
    assert "failed" in (job.folder / "pulse-1-of-2.json").read_text()


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("keep_clips", [False, True])
def test_count_job_counts_clips_that_can_be_read_again(task, tmp_path, devices, monkeypatch, before, keep_clips):
    """What could not be read when a count was broken off is tried once more."""
    devices(1)
    job = job_of(task, tmp_path / "whole", keep_clips=keep_clips)
    whole, store = run(job), keep_clips and stored(job)
    job = job_of(task, tmp_path / "broken", keep_clips=keep_clips)
    (task.data / "2.wav").rename(task.data / "away")
    with monkeypatch.context() as patch:
        checks = itertools.count()
        patch.setattr(Pulse, "check", lambda pulse: next(checks) == 3 and _raise(LostProcessError("died")))
        with pytest.raises(LostProcessError):
            run(job, 0, before)
    (task.data / "away").rename(task.data / "2.wav")
    same_counts(whole, run(job))
    if keep_clips:
        for name, array in stored(job).items():
            np.testing.assert_array_equal(array, store[name])


def test_count_job_refuses_to_resume_without_its_store_of_clips(task, tmp_path, devices, monkeypatch):
    devices(1)
    job = job_of(task, tmp_path / "job", keep_clips=True)
    with monkeypatch.context() as patch:
        patch.setattr(Pulse, "check", lambda pulse: _raise(LostProcessError("died")))
        with pytest.raises(LostProcessError):
            run(job)
    (job.folder / "clips-0-of-1-peaks.npy").unlink()
    with pytest.raises(InputError, match="though the state beside it needs it"):
        run(job)


def test_count_job_in_more_processes_than_clips(task, tmp_path, devices):
    devices(1)
    few = task.rows([0, 1, 2])
    whole = run(job_of(few, tmp_path / "whole"))
    job = job_of(few, tmp_path / "job")
    parts = [run(job, index, 5) for index in reversed(range(5))]
    same_counts(whole, parts[-1])


def test_room_needed_holds_for_what_is_written(task, tmp_path, devices):
    devices(2)
    job = job_of(task, tmp_path / "job")
    run(job, 1, 2)
    written = (job.folder / "counts-1-of-2.npz").stat().st_size
    assert written - 2**14 < room_needed(job, Processes(0, 2)) / 4 < 1.5 * written  # 2**14: names and records


def test_clip_log_adds_another(tmp_path):
    one, other = ClipLog(4), ClipLog(4)
    one.put(0, ClipStatus(3, "short", "3 samples"), 7)
    one.put(3, ClipStatus(0, "unreadable", "missing"), 0)
    other.put(1, ClipStatus(0, "unreadable", "empty"), 0)
    other.put(2, ClipStatus(8, "ok"), 9)
    with pytest.raises(InputError, match="2 clips were not counted, the first has the number 1"):
        one.statuses()
    one.add(ClipLog.of(other.arrays(), other.reasons))
    assert [status.reason for status in one.statuses()] == ["3 samples", "empty", "", "missing"]
    np.testing.assert_array_equal(one.tokens, [7, 0, 9, 0])


def test_counts_killed_at_many_moments_end_the_same(tmp_path):
    """SIGKILL in one process; in one of three, and two go on with other devices; the real command."""
    moments, work = random.Random(0), Work.make(tmp_path / "work")
    lasts = work.count("whole", 1)
    kill(work, "one", 1, moments.uniform(0, lasts / 3), [0])
    work.count("one", 1)
    assert differences(work.folder, "whole", "one") == []
    victim = moments.randrange(3)
    others = {0, 1, 2} - {victim}
    for attempt in range(5):  # the count may have been faster
        run = f"several-{attempt}"
        killed = kill(work, run, 3, moments.uniform(0, lasts / 4), [victim])
        if killed["hit"]:
            break
    assert killed["hit"]
    assert killed["others_ended_with"] == dict.fromkeys(others, 75)
    for process in others:
        (said,) = killed["others_said"][process]
        assert f"Process {victim} on" in said
        assert "has died. The counts so far are kept: the same command resumes." in said
    work.count(run, 2, devices=1)
    assert_within("float sums on other devices", rounding(work.folder, "whole", run))


def test_count_clips_needs_no_keeper(task):
    first = count_clips(IntegerEncoder(), task, CountOptions(batch_size=2))
    assert len(first.log.statuses()) == CLIPS
