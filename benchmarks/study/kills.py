"""Kill counts at random moments, start them again, and compare what they end with, to the bit.

`python -m benchmarks.study.kills --out benchmarks/results/kills.json`. Each trial starts a count in a new run
directory, kills one process or all of them by SIGKILL at a random moment after the first state, starts the same
command again, on as many devices or on other ones, and compares the files with those of a run that nobody disturbed.
A kill counts if the results were not there yet.
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
from typing import Any

import numpy as np
import soundfile
import tyro
import xarray as xr

from benchmarks.common import machine, versions
from jaxdissect import ViTConfig, save_encoder, untrained_m2d
from jaxdissect.runtime.files import whole_file
from jaxdissect.runtime.run_directory import Run

CLIPS, SECONDS, DEVICES = 240, 0.5, 2
LIMIT = 120  # seconds that a command may take


@dataclasses.dataclass(frozen=True)
class Options:
    """How often to kill."""

    out: Path | None = None  # the JSON file to write
    kills: int = 20  # trials in each setting
    processes: tuple[int, ...] = (1, 2)  # of a job
    seed: int | None = None  # of the moments; by default a new one, which is recorded


@dataclasses.dataclass(frozen=True)
class Work:
    """An encoder and a data set in a folder."""

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
        """Start a count with a state after every batch, in so many processes."""
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
        """Where the first process keeps its state."""
        return self.folder / run / "state" / "activations" / f"counts-0-of-{processes}.npz"

    def count(self, run: str, processes: int, devices: int = DEVICES) -> float:
        """Run a count to its end; returns the seconds from its first state on."""
        started = self.start(run, processes, devices)
        begun = None
        while any(one.poll() is None for one in started):
            if begun is None and self.state(run, processes).exists():
                begun = time.monotonic()
            time.sleep(0.005)
        lasted = 0.0 if begun is None else time.monotonic() - begun
        for one in started:
            _, error = one.communicate(timeout=LIMIT)
            if one.returncode:
                raise RuntimeError(f"{run} ended with {one.returncode}: {error[-2000:]}")
        return lasted


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill(work: Work, run: str, processes: int, after: float, victims: Sequence[int]) -> dict[str, Any]:
    """Start a count and kill some of its processes so many seconds after its first state.

    Returns whether that hit it before its end, and how the processes that were not killed ended.
    """
    started = work.start(run, processes)
    end = time.monotonic() + LIMIT
    while not work.state(run, processes).exists() and all(one.poll() is None for one in started):
        if time.monotonic() > end:
            raise RuntimeError(f"{run}: no state has appeared")
        time.sleep(0.002)
    time.sleep(after)
    killed = [victim for victim in victims if started[victim].poll() is None]
    for victim in killed:
        started[victim].send_signal(signal.SIGKILL)
    told = [one.communicate(timeout=LIMIT)[1] for one in started]
    others = {number: one.returncode for number, one in enumerate(started) if number not in victims}
    return {
        "hit": bool(killed) and "activations" not in Run(work.folder / run).stages(),
        "seconds": round(after, 3),
        "others_ended_with": others,
        "others_said": {number: told[number].strip().splitlines()[-1:] for number in others},
    }


def differences(folder: Path, one: str, other: str) -> list[str]:
    """Names of what is not the same to the bit in two run directories."""
    first, second = (results(folder / run) for run in (one, other))
    found = [name for name in first if not np.array_equal(first[name], second[name])]
    files = ("clips.csv", "clip_counts.npy")
    return found + [
        name for name in files if (folder / one / name).read_bytes() != (folder / other / name).read_bytes()
    ]


def results(run: Path) -> dict[str, np.ndarray]:
    """What the netCDF files of a run hold."""
    found: dict[str, np.ndarray] = {}
    for file in ("activations.nc", "top_clips.nc"):
        with xr.open_dataset(run / file, engine="h5netcdf") as dataset:
            found |= {f"{file} {name}": variable.values for name, variable in dataset.variables.items()}
    return found


def rounding(folder: Path, one: str, other: str) -> float:
    """The largest relative difference of floats; infinite if something differs that must not: counts, clips."""
    names = differences(folder, one, other)
    first, second = (results(folder / run) for run in (one, other))
    if not all(name in first and first[name].dtype.kind == "f" for name in names):
        return math.inf
    return max(
        (float(np.abs(first[name] - second[name]).max() / np.abs(first[name]).max()) for name in names), default=0
    )


def trial(work: Work, rng: random.Random, number: int, processes: int, lasts: float, devices: int) -> dict[str, Any]:
    """Kill once, start again, compare."""
    run = f"kill-{processes}-{devices}-{number}"
    victims = rng.choice([[0], [processes - 1], list(range(processes))])
    found = {"processes": processes, "victims": victims, "devices_after": devices}
    found |= kill(work, run, processes, rng.uniform(0, lasts), victims)
    work.count(run, processes, devices)
    runs = work.folder, f"whole-{processes}", run
    return found | {"differences": differences(*runs), "rounding": rounding(*runs)}


def tally(options: Options, work: Work) -> dict[str, Any]:
    """All trials."""
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    rng, trials = random.Random(seed), []
    for processes in options.processes:
        work.count(f"whole-{processes}", processes)  # compiles
        lasts = work.count(f"again-{processes}", processes)
        trials.append(
            {
                "processes": processes,
                "differences": differences(work.folder, f"whole-{processes}", f"again-{processes}"),
            }
        )
        for number in range(options.kills):
            trials.append(trial(work, rng, number, processes, lasts, DEVICES))
            print(json.dumps(trials[-1]), flush=True)
        for number, devices in enumerate((1, 4)):
            trials.append(trial(work, rng, number, processes, lasts, devices))
            print(json.dumps(trials[-1]), flush=True)
    return {"seed": seed, "trials": trials}


def main(options: Options) -> None:
    """Run the trials and write them down."""
    with tempfile.TemporaryDirectory() as folder:
        found = tally(options, Work.make(Path(folder)))
    hit = [one for one in found["trials"] if one.get("hit")]
    same = [one for one in hit if one["devices_after"] == DEVICES]
    others = [one for one in hit if one["devices_after"] != DEVICES]
    summary = {
        "trials": sum("hit" in one for one in found["trials"]),
        "killed before the results were there": len(hit),
        "went on with as many devices": len(same),
        "of these the same to the bit": sum(not one["differences"] for one in same),
        "went on with other devices": len(others),
        "of these the same but for rounding of floats": sum(one["rounding"] < math.inf for one in others),
        "the largest rounding, relative": max((one["rounding"] for one in others), default=0),
    }
    print(json.dumps(summary, indent=2))
    if options.out is not None:
        with whole_file(options.out) as temporary:
            content = {"machine": machine(), "versions": versions(), "summary": summary, **found}
            temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
