"""Work that is interrupted: its state is saved between two steps, and read again as it was."""

import itertools
import signal

import numpy as np
import pytest

from jaxdissect import InputError, LostProcessError
from jaxdissect.runtime.resume import Clock, StateFile, resumable


def as_it_is(arrays, record):
    return arrays, record


@pytest.fixture
def file(tmp_path):
    return StateFile(tmp_path / "s.npz", "a test", {"a": "b"})


def test_state_file_holds_what_was_written(file):
    written = {"a.b['c']": np.arange(3) + 2**60, "empty": np.zeros((0, 3), np.float32), "scalar": np.array(1.5)}
    assert file.read(as_it_is) is None
    file.write(written, {"x": [1, "ü"], "y": None})
    arrays, record = file.read(as_it_is)
    assert record == {"x": [1, "ü"], "y": None}
    assert arrays.keys() == written.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_state_file_refuses_another_identity(file):
    file.write({}, {})
    other = StateFile(file.path, "a test", {"b": 2})
    with pytest.raises(InputError, match=r"differs in b \(None before, 2 now\), a \(b before, None now\)"):
        other.read(as_it_is)


def test_state_file_runs_no_pickled_code(file):
    np.savez(file.path, record=np.array([as_it_is], dtype=object))
    with pytest.raises(InputError, match="cannot be read as the state of a test"):
        file.read(as_it_is)


def test_state_file_keeps_the_state_before_where_it_cannot_be_written(file, monkeypatch, capsys):
    file.write({"x": np.zeros(2)}, {"step": 1})

    def full(*arguments, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match="No space left on device"):
        file.write({"x": np.ones(2)}, {"step": 2})
    file.write({"x": np.ones(2)}, {"step": 2}, needed=False)
    assert "the state of a test was not saved, the one before is kept" in capsys.readouterr().err
    assert file.read(as_it_is)[1] == {"step": 1}
    assert [path.name for path in file.path.parent.iterdir()] == ["s.npz"]


@pytest.fixture
def as_a_command():
    """Signals end the work as they do in a command."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("steps_after", [0, 1])
def test_resumable_saves_and_stops_after_the_step_in_which_a_signal_came(as_a_command, steps_after):
    saved, steps = [], []
    with pytest.raises(KeyboardInterrupt), resumable(lambda: saved.append(len(steps)), 10.0) as between:  # noqa: PT012
        steps.append("first")
        between()
        signal.raise_signal(signal.SIGTERM)
        steps.append("second")
        for _ in range(steps_after):
            between()
            steps.append("never")
    assert saved == [2]
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_resumable_saves_nothing_when_a_second_signal_ends_a_step(as_a_command):
    saved = []
    with pytest.raises(KeyboardInterrupt), resumable(lambda: saved.append(1), 10.0):  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert saved == []


@pytest.mark.parametrize(("error", "saves"), [(InputError, 1), (LostProcessError, 1), (RuntimeError, 0)])
def test_resumable_saves_when_a_check_ends_the_work(error, saves):
    saved = []

    def check():
        raise error("ended")

    with pytest.raises(error, match="ended"), resumable(lambda: saved.append(1), 10.0, check) as between:
        between()
    assert len(saved) == saves


def test_resumable_saves_when_a_state_is_due(monkeypatch):
    seconds, saved = itertools.count(step=20), []
    monkeypatch.setattr("jaxdissect.runtime.resume.time.monotonic", lambda: 0)
    clock = Clock(1.0)
    monkeypatch.setattr("jaxdissect.runtime.resume.time.monotonic", lambda: next(seconds))
    assert [clock.due() for _ in range(8)] == [False, False, False, True, False, False, True, False]
    with resumable(lambda: saved.append(1), 0.0) as between:
        between()
        between()
    assert len(saved) == 2
