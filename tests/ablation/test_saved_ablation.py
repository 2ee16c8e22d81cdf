"""An ablation in parts, or broken off: the same controls, the same judgements, nothing judged twice."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxdissect import InputError
from jaxdissect.ablation import stream, suite_state
from jaxdissect.ablation.matched_controls import Activity
from jaxdissect.ablation.saved_state import common_activity
from jaxdissect.cli import main
from jaxdissect.runtime import resume as interrupts
from jaxdissect.stages import ablate as stage
from jaxdissect.tasks.table import Task

NAMES = ("ablation.csv", "ablation_controls.csv", "ablation_suite.csv", "ablation_sets.csv")
OPTIONS = ("--suite", "classes", "pairs", "--controls", "3", "--no-causal-map", "--batch-size", "1", "--at-once", "4")


def results(ablate):
    return {name: (ablate.path / name).read_bytes() for name in NAMES}


def by_few(patch):
    """On one device, so few edits at a time that the suite is judged in several passes over the clips."""
    one = jax.devices()[:1]
    patch.setattr(jax, "local_devices", lambda: one)
    patch.setattr(suite_state, "LARGEST_VERDICTS", 2000)


@pytest.fixture(scope="module")
def undisturbed(dissected, tmp_path_factory):
    """The files of an ablation that nobody disturbed, and the batches that it took."""
    run, batches, puts = tmp_path_factory.mktemp("undisturbed") / "run", itertools.count(), itertools.count()
    put = stream.ClipVerdicts.put
    shutil.copytree(dissected / "run", run)
    with pytest.MonkeyPatch.context() as patch:
        by_few(patch)
        patch.setattr(interrupts.Clock, "due", lambda clock: next(batches) < 0)
        patch.setattr(stream.ClipVerdicts, "put", lambda *given: (next(puts), put(*given))[1])
        assert main(["ablate", "--run", str(run), *OPTIONS]) == 0
    assert not (run / "state").exists()
    return {name: (run / name).read_bytes() for name in NAMES}, next(batches), next(puts)


@pytest.fixture
def whole(undisturbed, monkeypatch):
    by_few(monkeypatch)
    return undisturbed


def stop_after(monkeypatch, batches, error=KeyboardInterrupt):
    """Break off between two batches, as a signal does; the state is written as when it is due."""
    left = itertools.count(1)

    def due(clock):
        if next(left) == batches:
            os.kill(os.getpid(), signal.SIGINT) if error is KeyboardInterrupt else None
            if error is not KeyboardInterrupt:
                raise error("died")
        return False

    monkeypatch.setattr(interrupts.Clock, "due", due)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.55, 0.9])
def test_ablation_broken_off_ends_with_the_same_bytes(ablate, whole, monkeypatch, share):
    files, batches, puts = whole
    put, judged = stream.ClipVerdicts.put, []
    with monkeypatch.context() as patch:
        stop_after(patch, max(1, int(share * batches)), InputError)
        patch.setattr(stream.ClipVerdicts, "put", lambda *given: (judged.append(1), put(*given))[1])
        assert ablate(*OPTIONS)[0] == 2
    assert (ablate.path / "state" / "ablate" / "1-of-1" / "judged.npz").is_file()
    judged_again = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(stream.ClipVerdicts, "put", lambda *given: (next(judged_again), put(*given))[1])
        assert ablate(*OPTIONS)[0] == 0
    assert results(ablate) == files
    assert not (ablate.path / "state").exists()
    assert next(judged_again) == puts - len(judged)  # nothing is judged again


def test_ablation_stopped_by_ctrl_c_keeps_its_state(ablate, whole, monkeypatch):
    files, _, _ = whole
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        code, _, error = ablate(*OPTIONS)
    assert code == 130
    assert "the same command resumes" in error
    assert ablate(*OPTIONS)[0] == 0
    assert results(ablate) == files


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1)])
def test_ablation_parts_come_together(ablate, whole, order):
    """All of them, or the rest judged where they come together; floats to 1e-6, since chunks differ."""
    files, _, _ = whole
    for part in order:
        code, printed, _ = ablate(*OPTIONS, "--part", f"{part}/3")
        assert code == 0
        assert f"Part {part} of 3: " in printed
        assert not (ablate.path / "ablation.csv").exists()
    code, printed, error = ablate(*OPTIONS)
    assert code == 0
    assert ("0 interventions" in error or "interventions and" not in error) == (len(order) == 3)
    assert results(ablate)["ablation_sets.csv"] == files["ablation_sets.csv"]
    for name in NAMES[:3]:
        same_table(results(ablate)[name], files[name])


def same_table(one, other):
    for a, b in zip(one.decode().splitlines(), other.decode().splitlines(), strict=True):
        for x, y in zip(a.split(","), b.split(","), strict=True):
            if x != y:
                assert float(x) == pytest.approx(float(y), abs=1e-5)


def test_ablation_names_a_part_that_is_not_finished(ablate, whole, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2, InputError)
        assert ablate(*OPTIONS, "--part", "2/2")[0] == 2
    code, _, error = ablate(*OPTIONS)
    assert code == 2
    assert "The part 2/2 is not finished: run it again with --part 2/2 to resume it, or remove" in error
    assert ablate(*OPTIONS, "--part", "2/2")[0] == 0
    assert ablate(*OPTIONS)[0] == 0
    same_table(results(ablate)["ablation.csv"], whole[0]["ablation.csv"])


def test_ablation_refuses_parts_that_overlap(ablate, whole):
    for part in ("1/2", "1/3"):
        assert ablate(*OPTIONS, "--part", part)[0] == 0
    code, _, error = ablate(*OPTIONS)
    assert code == 2
    assert "holds interventions that another part has judged, too" in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--controls", "4"], "--controls (3 before, 4 now)"),
        (["--seed", "1"], "--seed (0 before, 1 now)"),
        (["--gain", "0.5"], "--gains"),
        (["--batch-size", "2"], "--batch-size (1 before, 2 now)"),
        (["--at-once", "2"], "--at-once (4 before, 2 now)"),
        (["--neurons", "a | b"], "the neuron sets"),
    ],
)
def test_ablation_refuses_the_state_of_another(ablate, whole, monkeypatch, changes, message):
    with monkeypatch.context() as patch:
        stop_after(patch, 3, InputError)
        assert ablate(*OPTIONS)[0] == 2
    state = ablate.path / "state" / "ablate" / "1-of-1" / "judged.npz"
    before = state.read_bytes()
    code, _, error = ablate(*OPTIONS, *changes)
    assert code == 2
    assert "is the state of an unfinished run that differs in" in error
    assert message in error
    assert state.read_bytes() == before


def test_ablation_refuses_a_state_of_other_probes(ablate, whole, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3, InputError)
        assert ablate(*OPTIONS)[0] == 2
    assert ablate("--epochs", "3", "--seeds", "1", "--batch-size", "2", command="probe")[0] == 0
    code, _, error = ablate(*OPTIONS)
    assert code == 2
    assert "differs in the probe" in error


def test_ablation_refuses_a_state_of_clips_grouped_otherwise(ablate, whole, monkeypatch):
    """Intervals resample recordings: judgements of some and intervals of others must not be mixed."""
    with monkeypatch.context() as patch:
        stop_after(patch, 3, InputError)
        assert ablate(*OPTIONS)[0] == 2
    monkeypatch.setattr(Task, "sources", property(lambda task: ("one recording",) * len(task)))
    code, _, error = ablate(*OPTIONS)
    assert code == 2
    assert "differs in the recordings" in error


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("0/3", "--part must be I/N with I from 1 to N"),
        ("x", "--part must be I/N"),
        ("99/99", "--part 99/99: there are"),
    ],
)
def test_ablation_refuses_parts_that_do_not_exist(ablate, whole, part, message):
    code, _, error = ablate(*OPTIONS, "--part", part)
    assert code == 2
    assert message in error


def test_ablation_judges_clips_that_come_back(ablate, whole, dissected, tmp_path):
    """None could be read; that is no state to go on from."""
    shutil.copytree(dissected / "data", tmp_path / "data")
    for file in (tmp_path / "data").glob("*.wav"):
        file.rename(file.with_suffix(".away"))
    code, _, error = ablate(*OPTIONS, "--data", str(tmp_path / "data"))
    assert code == 2
    assert "none of the 12 test clips can be used" in error
    for file in (tmp_path / "data").glob("*.away"):
        file.rename(file.with_suffix(".wav"))
    assert ablate(*OPTIONS, "--data", str(tmp_path / "data"))[0] == 0
    assert results(ablate) == whole[0]


def test_ablation_is_kept_where_its_causal_map_is_broken_off(ablate, whole, monkeypatch):
    options = [option for option in OPTIONS if option != "--no-causal-map"]
    with monkeypatch.context() as patch:
        patch.setattr(stage, "causal_map", lambda *_given, **_more: (_ for _ in ()).throw(KeyboardInterrupt))
        assert ablate(*options)[0] == 130
    monkeypatch.setattr(stream.ClipVerdicts, "put", lambda *_given: pytest.fail("judged again"))
    assert ablate(*OPTIONS)[0] == 0
    assert results(ablate) == whole[0]


def test_ablation_refuses_parts_that_could_not_read_the_same_clips(ablate, whole, dissected, tmp_path):
    shutil.copytree(dissected / "data", tmp_path / "data")
    options = (*OPTIONS, "--data", str(tmp_path / "data"), "--max-bad-clips", "0.5")
    assert ablate(*options, "--part", "1/2")[0] == 0
    (tmp_path / "data" / "7.wav").unlink()
    assert ablate(*options, "--part", "2/2")[0] == 0
    code, _, error = ablate(*options)
    assert code == 2
    assert "1 test clips could be read at one time and not at another, '7.wav' first" in error


def test_ablation_does_not_end_where_its_state_cannot_be_written(ablate, whole, monkeypatch):
    write = interrupts.whole_file

    def full(path):
        if path.name != "judged.npz":
            return write(path)
        raise InputError(f"{path} cannot be written (No space left on device): make room.")

    monkeypatch.setattr(interrupts.Clock, "due", lambda clock: True)
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "whole_file", full)
        code, _, error = ablate(*OPTIONS)
    assert code == 0
    assert "the state of an ablation was not saved, the one before is kept" in error
    assert results(ablate) == whole[0]


def test_common_activity_is_measured_once_for_all(tmp_path):
    measured = [Activity(np.full((1, 2), value), np.full((1, 2), value)) for value in (1.0, 2.0)]
    identity = {"the encoder": "a"}

    def slow():
        common_activity(tmp_path, identity, lambda: measured[0])  # another job is faster
        return measured[1]

    message = common_activity(tmp_path, identity, slow)
    np.testing.assert_array_equal(message.rate, measured[0].rate)
    again = common_activity(tmp_path, identity, lambda: pytest.fail("measured again"))
    np.testing.assert_array_equal(again.impact, measured[0].impact)
    assert [path.name for path in tmp_path.iterdir()] == ["activity.npz"]
    with pytest.raises(InputError, match="differs in the encoder"):
        common_activity(tmp_path, {"the encoder": "b"}, slow)


def test_ablation_killed_ends_with_the_same_bytes(ablate, dissected, tmp_path):
    """The real command, killed by SIGKILL when its first state is there."""
    command = [sys.executable, "-m", "jaxdissect", "ablate", *OPTIONS, "--save-minutes", "1e-9", "--run"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}

    def start(run):
        return subprocess.Popen(
            [*command, str(run)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    shutil.copytree(ablate.path, tmp_path / "undisturbed")
    first = start(tmp_path / "undisturbed")
    assert first.wait() == 0, first.stderr.read()
    first.stderr.close()
    killed = start(ablate.path)
    while killed.poll() is None and not (ablate.path / "state" / "ablate" / "1-of-1" / "judged.npz").exists():
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stderr.close()
    last = start(ablate.path)
    assert last.wait() == 0, last.stderr.read()
    last.stderr.close()
    for name in NAMES:
        assert (ablate.path / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
