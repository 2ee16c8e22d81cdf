"""Kill counts at random moments, start them again, and compare their results bit by bit.

`python -m benchmarks.study.kills --out benchmarks/results/kills.json`. Each trial starts a count in a new run
directory and kills one process or all of them by SIGKILL at a random moment after the first saved state. It starts the
same command again, on as many devices or on another number, and compares the files with those of an undisturbed run.
A kill counts if the results were not written yet. Expected time: half an hour.
"""

import dataclasses
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import tyro
import xarray as xr

from benchmarks.common import write_record
from jaxdissect import ViTConfig, save_encoder, untrained_m2d
from jaxdissect.counting.clip_store import STORE_FILES
from jaxdissect.runtime.run_directory import Run
from jaxdissect.types import Record

CLIPS, SECONDS, DEVICES = 240, 0.5, 2  # clips of the task; length of a clip, s; devices of each process
LIMIT = 120  # seconds that a command may take
OTHER_DEVICES = (1, 4)  # numbers of devices with which a killed count is started again


@dataclasses.dataclass(frozen=True)
class Options:
    """How often to kill."""

    out: Path | None = None  # the JSON file to write
    kills: int = 20  # trials in each setting
    processes: tuple[int, ...] = (1, 2)  # of a job
    seed: int | None = None  # of the random moments; by default a new one, which is recorded


@dataclasses.dataclass(frozen=True)
class Work:
    """An encoder and a data set in a folder, in which the runs are, too.

    Attributes:
      folder: the folder.
    """

    folder: Path

    @staticmethod
    def make(folder: Path) -> "Work":
        """Noise of several levels, and random weights."""
        rng = np.random.default_rng(0)
        (folder / "data").mkdir(parents=True)
        rows = ["file_name,label,place,split"]
        for clip in range(CLIPS):
            noise = rng.normal(0, 0.02 * (1 + clip % 7), int(SECONDS * 16000) - 1000 * (clip % 3))
            soundfile.write(folder / "data" / f"{clip}.wav", noise, 16000)
            rows.append(f"{clip}.wav,{clip % 5},{clip % 2},train")
        (folder / "data" / "noise.csv").write_text("\n".join(rows) + "\n")
        save_encoder(untrained_m2d(ViTConfig(frames=32, width=64, depth=3, heads=2, mlp=128)), folder / "encoder")
        return Work(folder)

    def start(self, run: str, processes: int, devices: int = DEVICES, *more: str) -> list[subprocess.Popen]:
        """Start a count that saves a state after every batch, in so many processes."""
        data = self.folder / "data"
        command = [sys.executable, "-m", "jaxdissect", "activations", "--encoder", self.folder / "encoder", "--data"]
        command += [data, "--task", data / "noise.csv", "--unit-seconds", SECONDS, "--label", "label,place"]
        command += ["--run", self.folder / run, "--batch-size", 2, "--save-minutes", 1e-9, "--keep-clips", *more]
        address = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", processes]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(self.folder / "programs"))
        return [
            subprocess.Popen(
                [str(part) for part in (command if processes == 1 else [*command, *address, "--process", process])],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process in range(processes)
        ]

    def state(self, run: str, processes: int) -> Path:
        """File of the first process's state."""
        return self.folder / run / "state" / "activations" / f"counts-0-of-{processes}.npz"

    def count(self, run: str, processes: int, devices: int = DEVICES) -> float:
        """Run a count to its end; returns the seconds from its first state on."""
        started = self.start(run, processes, devices)
        first_state = None
        while any(process.poll() is None for process in started):
            if first_state is None and self.state(run, processes).exists():
                first_state = time.monotonic()
            time.sleep(0.005)
        lasted = 0.0 if first_state is None else time.monotonic() - first_state
        for process in started:
            _, error = process.communicate(timeout=LIMIT)
            if process.returncode:
                raise RuntimeError(f"{run} ended with {process.returncode}: {error[-2000:]}")
        return lasted


def free_port() -> int:
    """A port that no program uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill(work: Work, run: str, processes: int, after: float, victims: Sequence[int]) -> Record:
    """Start a count and kill some of its processes.

    Args:
      work: encoder and data set.
      run: name of the run directory.
      processes: number of processes of the count.
      after: delay between the first state and the kill, s.
      victims: numbers of the processes to kill.

    Returns:
      A JSON object: whether the kill has `hit` the count before its end, and how the other processes ended.
    """
    started = work.start(run, processes)
    end = time.monotonic() + LIMIT
    while not work.state(run, processes).exists() and all(process.poll() is None for process in started):
        if time.monotonic() > end:
            raise RuntimeError(f"{run}: no state has appeared")
        time.sleep(0.002)
    time.sleep(after)
    killed = [victim for victim in victims if started[victim].poll() is None]
    for victim in killed:
        started[victim].send_signal(signal.SIGKILL)
    errors = [process.communicate(timeout=LIMIT)[1] for process in started]
    survivors = {number: process.returncode for number, process in enumerate(started) if number not in victims}
    return {
        "hit": bool(killed) and "activations" not in Run(work.folder / run).stages(),
        "seconds": round(after, 3),
        "others_ended_with": survivors,
        "others_said": {number: errors[number].strip().splitlines()[-1:] for number in survivors},
    }


def differences(folder: Path, run: str, other: str) -> list[str]:
    """Names of files and variables that are not the same bit by bit in two run directories."""
    first, second = (results(folder / name) for name in (run, other))
    variables = [name for name in first if not np.array_equal(first[name], second[name])]
    files = ("clips.csv", *STORE_FILES.values())
    return variables + [
        name for name in files if (folder / run / name).read_bytes() != (folder / other / name).read_bytes()
    ]


def results(run: Path) -> dict[str, np.ndarray]:
    """All variables in the netCDF files of a run."""
    variables: dict[str, np.ndarray] = {}
    for file in ("activations.nc", "top_clips.nc"):
        with xr.open_dataset(run / file, engine="h5netcdf") as dataset:
            variables |= {f"{file} {name}": variable.values for name, variable in dataset.variables.items()}
    return variables


def rounding(folder: Path, run: str, other: str) -> float:
    """The largest relative difference of floats in two runs; infinite if anything else differs, such as counts."""
    names = differences(folder, run, other)
    first, second = (results(folder / name) for name in (run, other))
    if not all(name in first and first[name].dtype.kind == "f" for name in names):
        return math.inf
    return max(
        (float(np.abs(first[name] - second[name]).max() / np.abs(first[name]).max()) for name in names), default=0
    )


def trial(work: Work, rng: random.Random, number: int, processes: int, lasts: float, devices: int) -> Record:
    """Kill a count once, start it again, compare its results.

    Args:
      work: encoder and data set.
      rng: draws the moment and the victims.
      number: number of the trial.
      processes: number of processes of the count.
      lasts: duration of an undisturbed count after its first state, s.
      devices: number of devices of each process after the kill.
    """
    run = f"kill-{processes}-{devices}-{number}"
    victims = rng.choice([[0], [processes - 1], list(range(processes))])
    killed = kill(work, run, processes, rng.uniform(0, lasts), victims)
    work.count(run, processes, devices)
    runs = work.folder, f"whole-{processes}", run
    setting = {"processes": processes, "victims": victims, "devices_after": devices}
    return {**setting, **killed, "differences": differences(*runs), "rounding": rounding(*runs)}


def tally(options: Options, work: Work) -> Record:
    """The seed and all trials."""
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    rng, trials = random.Random(seed), list[Record]()
    settings = [(number, DEVICES) for number in range(options.kills)] + list(enumerate(OTHER_DEVICES))
    for processes in options.processes:
        whole, again = f"whole-{processes}", f"again-{processes}"
        work.count(whole, processes)  # compiles
        lasts = work.count(again, processes)
        trials.append({"processes": processes, "differences": differences(work.folder, whole, again)})
        for number, devices in settings:
            trials.append(trial(work, rng, number, processes, lasts, devices))
            print(json.dumps(trials[-1]), flush=True)
    return {"seed": seed, "trials": trials}


def main(options: Options) -> None:
    """Run the trials, print a summary and write the record."""
    with tempfile.TemporaryDirectory() as folder:
        tallied = tally(options, Work.make(Path(folder)))
    hits = [one for one in tallied["trials"] if one.get("hit")]
    same_devices = [one for one in hits if one["devices_after"] == DEVICES]
    other_devices = [one for one in hits if one["devices_after"] != DEVICES]
    summary = {
        "trials": sum("hit" in one for one in tallied["trials"]),
        "killed before the results were there": len(hits),
        "went on with as many devices": len(same_devices),
        "of these the same to the bit": sum(not one["differences"] for one in same_devices),
        "went on with other devices": len(other_devices),
        "of these the same but for rounding of floats": sum(one["rounding"] < math.inf for one in other_devices),
        "the largest rounding, relative": max((one["rounding"] for one in other_devices), default=0),
    }
    print(json.dumps(summary, indent=2))
    if options.out is not None:
        write_record(options.out, ("jax", "jaxlib", "numpy"), summary=summary, **tallied)


if __name__ == "__main__":
    main(tyro.cli(Options))
