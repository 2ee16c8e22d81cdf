"""Several processes: real ones on this machine, that find each other, compare notes, and look after each other."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from tolerances import assert_within

from benchmarks.study.kills import Work, differences, free_port, rounding
from jaxdissect import CountOptions, InputError, LostProcessError
from jaxdissect.cli import main
from jaxdissect.counting.job import job
from jaxdissect.counting.statistics import init
from jaxdissect.counting.stream import counting_step
from jaxdissect.options.base import DistributedOptions
from jaxdissect.runtime import rendezvous
from jaxdissect.runtime.processes import Processes, exchange, join, require_agreement, together
from jaxdissect.runtime.pulse import DONE, FAILED, LEFT, SAVED, Pulse
from jaxdissect.runtime.rendezvous import meet
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.sharding import local_mesh, map_per_device, per_device, replicate, shard_clips
from jaxdissect.runtime.tables import read_netcdf

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Work.make(tmp_path_factory.mktemp("processes") / "work")


def finish(started):
    """[(exit code, standard error), ...] of processes."""
    told = [one.communicate(timeout=120)[1] for one in started]
    return [(one.returncode, error) for one, error in zip(started, told, strict=True)]


def test_processes_together_count_what_one_does(work):
    """Counts, top clips, statuses and every clip's counts are equal; float sums to 1e-6."""
    work.count("one", 1)
    work.count("two", 2)
    assert_within("float sums on other devices", rounding(work.folder, "one", "two"))
    assert {name for name in differences(work.folder, "one", "two") if "sum" not in name} == set()
    assert int(read_netcdf(work.folder / "two" / "activations.nc")["total_clips"]) == 240
    assert not (work.folder / "two" / "state").exists()
    assert Run(work.folder / "two").stages()["activations"]["processes"] == 2
    before = (work.folder / "one" / "run.json").read_bytes()
    work.count("one", 2)  # finds what is there
    assert (work.folder / "one" / "run.json").read_bytes() == before


PROGRAM = """
import json, sys
import jax
from jaxdissect import InputError
from jaxdissect.options.base import DistributedOptions
from jaxdissect.runtime.processes import exchange, this_process, join, require_agreement, together
index = int(sys.argv[2])
join(DistributedOptions(distributed=True, coordinator=sys.argv[1], processes=2, process=index))
said = [exchange({"index": index, "text": "ä" * (1 + 5000 * index)})]

def fails(check):
    try:
        check()
    except InputError as error:
        said.append(str(error))
    else:
        said.append(None)

def only(process):
    def prepare():
        if process in (index, "both"):
            raise InputError(f"nothing here {index}")
        return index
    return prepare

fails(lambda: together(only(0)))
fails(lambda: together(only(1)))
fails(lambda: together(only("both")))
said.append(together(only(None)))
fails(lambda: require_agreement({"--batch-size": 8, "the task's table": "a"}))
fails(lambda: require_agreement({"--batch-size": 8 * (1 + index), "the task's table": "a"}))
fails(lambda: require_agreement({"the version of jax": "1"} if index else {}))
said.append([this_process().name, len(jax.local_devices()), jax.process_count()])
print(json.dumps(said))
jax.distributed.shutdown()
"""


def test_exchange_together_and_require_agreement_in_two_processes():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "3", "JAX_PLATFORMS": "cpu"}
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, f"127.0.0.1:{port}", str(index)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    outputs = [one.communicate(timeout=120) for one in started]
    assert [one.returncode for one in started] == [0, 0], outputs
    host = socket.gethostname()
    for index, (printed, _) in enumerate(outputs):
        said = json.loads(printed.strip().splitlines()[-1])
        assert said[0] == [{"index": 0, "text": "ä"}, {"index": 1, "text": "ä" * 5001}]
        assert said[1] == ("nothing here 0" if index == 0 else "Process 0: nothing here 0")
        assert said[2] == ("nothing here 1" if index == 1 else "Process 1: nothing here 1")
        assert said[3] == f"nothing here {index}"
        assert said[4:6] == [index, None]
        assert (
            f"do not agree on --batch-size (8 in process 0 on {host}, 16 in process 1 on {host}). Start all" in said[6]
        )
        assert "do not agree on the version of jax (None in process 0" in said[7]
        assert said[8] == [f"{index}-of-2", 3, 2]


def test_require_agreement_ends_processes_that_were_started_differently(work):
    both = work.start("differ", 2)
    both[1].kill()
    both[1].communicate()
    command = list(both[1].args)
    command[command.index("--batch-size") + 1] = "3"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    both[1] = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for code, error in finish(both):
        assert code == 2, error
        assert "The processes do not agree on --batch-size (2 in process 0" in error
        assert "3 in process 1" in error
    assert not (work.folder / "differ").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"coordinator": "localhost:1"}, "--coordinator: only with --distributed"),
        ({"process": 0, "processes": 2}, "--processes, --process: only with --distributed"),
        ({"distributed": True, "patience": 5.0}, "--patience must be at least 6 s, got 5.0"),
        (
            {"distributed": True, "coordinator": "somewhere"},
            "--coordinator must be host:port of process 0, got 'somewhere'",
        ),
        ({"distributed": True, "coordinator": "a:99999"}, "--coordinator must be host:port"),
        ({"distributed": True, "coordinator": "a:1", "processes": 0}, "--processes must be at least 1, got 0"),
        ({"distributed": True, "coordinator": "a:1", "process": -1}, "--process must be at least 0, got -1"),
        (
            {"distributed": True, "coordinator": "a:1", "processes": 2, "process": 2},
            r"--process counts from 0 to 2 - 1 \(--processes\), got 2",
        ),
    ],
)
def test_join_refuses_options_that_contradict_each_other(options, found):
    with pytest.raises(InputError, match=found):
        join(DistributedOptions(**options))


def test_join_names_a_port_in_use_before_jax_aborts():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = DistributedOptions(distributed=True, coordinator=f"127.0.0.1:{port}", processes=2, process=0)
        with pytest.raises(
            InputError, match=rf"port {port} cannot be used here \(Address already in use\): choose another"
        ):
            join(options)


def test_meet_names_processes_that_do_not_come():
    port = free_port()
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(meet, "127.0.0.1", port, 4, 0, 1.5)
        other = pool.submit(meet, "127.0.0.1", port, 4, 2, 1.5)
        with pytest.raises(InputError, match=r"of 4 processes, number 1, 3 did not come: start all of them"):
            waits.result()
        with pytest.raises(InputError, match="Process 0: --distributed: of 4 processes, number 1, 3 did not come"):
            other.result()
        with pytest.raises(InputError, match=rf"process 0 does not answer at 127.0.0.1:{port}"):
            meet("127.0.0.1", port, 4, 1, -1)


def test_meet_refuses_processes_that_expect_another_number():
    port = free_port()
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(meet, "127.0.0.1", port, 3, 0, 10)
        others = [pool.submit(meet, "127.0.0.1", port, 3, 1, 10)]
        time.sleep(0.5)
        others.append(pool.submit(meet, "127.0.0.1", port, 4, 2, 10))
        for one in (waits, *others):
            with pytest.raises(InputError, match="--processes is 3 in process 0 and 4 in process 2: start all of them"):
                one.result()


def test_meet_lets_in_a_process_that_was_started_again():
    port = free_port()
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(meet, "127.0.0.1", port, 3, 0, 20)
        with pytest.raises(InputError, match="does not answer"):
            meet("127.0.0.1", port, 3, 1, -1)
        for one in [pool.submit(meet, "127.0.0.1", port, 3, process, 20) for process in (1, 2)]:
            assert one.result() is None
        assert waits.result() is None


def test_meet_waits_for_a_process_that_has_gone_again():
    """The others are not let go without it, in whichever order it and they come."""
    port = free_port()
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(meet, "127.0.0.1", port, 3, 0, 3)
        with pytest.raises(InputError, match="does not answer"):
            meet("127.0.0.1", port, 3, 1, -1)
        other = pool.submit(meet, "127.0.0.1", port, 3, 2, 3)
        for one in (waits, other):
            with pytest.raises(InputError, match="number 1 did not come"):
                one.result()


def test_meet_ends_in_all_processes_whatever_their_order():
    port = free_port()
    with ThreadPoolExecutor() as pool:
        early = [pool.submit(meet, "127.0.0.1", port, 4, process, 20) for process in (3, 1)]
        time.sleep(0.3)
        first = pool.submit(meet, "127.0.0.1", port, 4, 0, 20)
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1")
            last = pool.submit(meet, "127.0.0.1", port, 4, 2, 20)
            for one in (*early, first, last):
                assert one.result() is None
    assert meet("127.0.0.1", free_port(), 1, 0, 1) is None


def test_meet_fails_in_all_processes_when_process_0_is_stopped(monkeypatch):
    port, receive = free_port(), rendezvous._receive

    def stopped(other, processes, present):
        receive(other, processes, present)
        if present:
            raise KeyboardInterrupt

    monkeypatch.setattr(rendezvous, "_receive", stopped)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(meet, "127.0.0.1", port, 3, 1, 10)
        with pytest.raises(KeyboardInterrupt):
            meet("127.0.0.1", port, 3, 0, 10)
        with pytest.raises(InputError, match=r"Process 0: it was stopped\."):
            other.result()


def test_meet_refuses_two_processes_of_one_number():
    port = free_port()
    with ThreadPoolExecutor() as pool:
        twice = [pool.submit(meet, "127.0.0.1", port, 3, 1, 1) for _ in range(2)]
        with pytest.raises(InputError, match="--process 1: two processes have this number"):
            meet("127.0.0.1", port, 3, 0, 10)
        for one in twice:
            with pytest.raises(InputError, match="Process 0: --process 1: two processes have this number"):
                one.result()


def test_join_names_the_options_that_no_scheduler_sets(monkeypatch):
    def initialize(*arguments, **options):
        raise ValueError("coordinator_address should be defined.\nAnd more.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(InputError) as error:
        join(DistributedOptions(distributed=True, process=1))
    assert "(coordinator_address should be defined.): give --coordinator, --processes, which no scheduler" in str(
        error.value
    )


def test_job_of_one_process_needs_no_other(tmp_path):
    assert join(DistributedOptions()) == Processes(0, 1)
    assert exchange([1]) == [[1]]
    assert together(lambda: 5) == 5
    require_agreement({"a": 1})
    with job(Run(tmp_path / "run"), tmp_path / "run" / "state" / "x", {}, 1.0) as pulse:
        pulse.check()
        pulse.wait_for(DONE)
        pulse.report(SAVED)
    assert [path.name for path in (tmp_path / "run" / "state" / "x").iterdir()] == ["job"]


def test_dissect_refuses_an_ablation_in_several_processes(tmp_path, capsys):
    code = main(
        ["dissect", "--encoder", "m2d_tiny", "--task", "notes", "--run", str(tmp_path), "--ablate", "--distributed"]
    )
    assert code == 2
    assert "--ablate runs in one process or in parts" in capsys.readouterr().err


@pytest.fixture
def pulses(tmp_path, monkeypatch):
    """The signs of three processes of one job, each a thread of this process."""
    monkeypatch.setattr("jaxdissect.runtime.pulse.INTERVAL", 0.02)
    made = [Pulse(tmp_path, "job", Processes(index, 3), patience=0.5) for index in range(3)]
    for pulse in made:
        pulse.__enter__()
    yield made
    for pulse in made:
        pulse.stop()


def test_pulse_finds_nothing_wrong_with_processes_that_live(pulses):
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        for pulse in pulses:
            pulse.check()
        time.sleep(0.05)
    for pulse in pulses:
        pulse.require_sight()
    pulses[1].note(5)
    pulses[2].note(7)
    pulses[0].note(1)
    end = time.monotonic() + 30
    while pulses[0].clips() != 13 and time.monotonic() < end:  # signs are written and read now and then
        time.sleep(0.02)
    assert pulses[0].clips() == 13


def test_pulse_reports_a_failure_with_its_reason(pulses):
    pulses[2].__exit__(InputError, InputError("the disk of host 7 is full."), None)
    with pytest.raises(LostProcessError, match=r"Process 2 on .* has ended: the disk of host 7 is full\."):
        pulses[0].check()
    with pytest.raises(LostProcessError):
        pulses[1].wait_for(SAVED, index=0)


def test_pulse_reports_the_first_reason_in_all_processes(pulses):
    """A process that ends because of another has neither failed itself nor died."""
    pulses[2].__exit__(InputError, InputError("the disk of host 7 is full."), None)
    with pytest.raises(LostProcessError) as error:
        pulses[1].check()
    pulses[1].__exit__(LostProcessError, error.value, None)
    time.sleep(0.05)  # signs are read now and then only
    with pytest.raises(LostProcessError, match=r"Process 2 on .* has ended: the disk of host 7 is full"):
        pulses[0].check()
    (pulses[0].folder / "pulse-2-of-3.json").unlink()
    time.sleep(0.05)
    with pytest.raises(LostProcessError, match=r"Process 2 on .* has ended: the disk of host 7 is full"):
        pulses[0].check()


def test_pulse_takes_silence_for_death(pulses):
    pulses[1].stop()
    begun = time.monotonic()
    with pytest.raises(LostProcessError, match=r"Process 1 on .* has given no sign of life for 0.5 s \(--patience\)"):
        pulses[0].wait_for(SAVED, at_most=10)
    assert time.monotonic() - begun >= 0.5


def test_pulse_lets_finished_processes_fall_silent(pulses):
    pulses[1].report(DONE)
    pulses[1].stop()
    pulses[2].report(LEFT)
    pulses[2].stop()
    time.sleep(0.7)
    pulses[0].check()
    pulses[0].report(DONE)
    pulses[0].stop()
    with pytest.raises(LostProcessError, match="Process 0"):  # it has results to save
        pulses[1].wait_for(SAVED, at_most=10)
    pulses[0].report(SAVED)
    time.sleep(0.05)  # signs are read now and then only
    pulses[1].wait_for(SAVED, index=0)
    pulses[1].check()


def test_pulse_waits_no_longer_than_it_may(pulses):
    begun = time.monotonic()
    pulses[0].wait_for(LEFT, at_most=0.2)
    assert time.monotonic() - begun >= 0.2


def test_pulse_sees_a_dead_process_of_this_host_at_once(pulses, tmp_path):
    """Even as long as nobody has waited for it."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{dead.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    pulses[1].stop()
    path = tmp_path / "pulse-1-of-3.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": dead.pid}))
    time.sleep(0.05)
    with pytest.raises(LostProcessError, match=rf"\(process number {dead.pid}\) has died"):
        pulses[0].check()
    dead.wait()
    with pytest.raises(LostProcessError, match="has died"):
        pulses[2].check()
    elsewhere = json.loads(path.read_text()) | {"host": "another"}
    path.write_text(json.dumps(elsewhere))
    time.sleep(0.05)  # signs are read now and then only
    pulses[0].check()  # its number says nothing here


def test_pulse_ends_a_job_when_a_later_one_has_begun(pulses, tmp_path):
    """A process that was stopped and goes on must not write its state among those of the job that took its place."""
    pulses[1].require_current()
    with Pulse(tmp_path, "later", Processes(0, 1), patience=0.5):
        pass
    with pytest.raises(LostProcessError, match="Another job has begun in"):
        pulses[1].require_current()
    (tmp_path / "job").unlink()
    with pytest.raises(LostProcessError, match="has ended without it"):
        pulses[1].require_current()


def test_pulse_ignores_signs_of_other_jobs(pulses, tmp_path):
    pulses[1].stop()
    path = tmp_path / "pulse-1-of-3.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"job": "before", "status": FAILED, "reason": "old"}))
    time.sleep(0.05)
    pulses[0].check()
    with pytest.raises(InputError, match="does not show what process 1 has written there: --run must be a folder on a"):
        pulses[0].require_sight()


def test_counting_step_holds_no_collective(work):
    """By the compiled program, on all devices of this process."""
    from jaxdissect import load_encoder, load_task

    encoder = load_encoder(work.folder / "encoder")
    task = load_task(str(work.folder / "data" / "noise.csv"), unit_seconds=0.5)
    mesh, config = local_mesh(), encoder.config
    step = map_per_device(counting_step(encoder, task, CountOptions(batch_size=1)), mesh)
    counts = per_device(lambda: init(len(task.classes), config.depth, config.mlp), mesh)
    batch = {
        "pcm": np.zeros((mesh.size, 8000), np.int16),
        "samples": np.zeros(mesh.size, np.int32),
        "clip": np.zeros(mesh.size, np.int32),
        "members": np.zeros((mesh.size, len(task.classes) + 1), bool),
    }
    program = step.lower(counts, replicate(encoder.variables, mesh), shard_clips(batch, mesh)).compile().as_text()
    assert mesh.size == 8
    assert "fusion" in program
    assert not [name for name in COLLECTIVES if name in program]
