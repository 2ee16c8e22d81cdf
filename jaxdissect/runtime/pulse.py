"""Signs of life that the processes of a job leave in a folder which all of them see.

Each process keeps a small file up to date: how far it is, and how it ended. A process that ends badly, or that gives no
sign for too long, ends the others with a word on why.
"""

import json
import math
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from jaxdissect.errors import InputError, LostProcessError
from jaxdissect.runtime.files import writing
from jaxdissect.runtime.processes import Processes

INTERVAL = 2.0  # seconds between two signs
JOB = "job"  # the file that names the newest job
WORKING, DONE, SAVED, LEFT, FAILED, LOST = "working", "done", "saved", "left", "failed", "lost another"
OVER, OVER_FOR_FIRST = (DONE, LEFT), (SAVED,)  # the first process has results to save when it is done


class Pulse:
    """This process's sign of life, and a look at the others'.

    A context: what ends it with an exception is told to the others as a failure.
    """

    def __init__(self, folder: Path, job: str, processes: Processes, patience: float) -> None:
        """Begin.

        Args:
          folder: that all processes see.
          job: known to all processes of this job; signs of others are not heeded.
          processes: of the job.
          patience: seconds without a sign after which a process is taken for dead.
        """
        self.folder, self.job, self.processes, self.patience = folder, job, processes, patience
        self._said: dict[str, Any] = {"status": WORKING, "clips": 0, "reason": ""}
        self._heard: dict[int, tuple[Any, float]] = {}
        self._thread: threading.Thread | None = None
        self._seen: tuple[float, dict[int, dict[str, Any] | None]] = (-math.inf, {})
        self._beat, self._stop, self._lock = 0, threading.Event(), threading.Lock()

    def __enter__(self) -> "Pulse":
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.processes.first:
                (self.folder / JOB).write_text(self.job)
        if self.processes.count > 1:
            self.say(WORKING)
            self._thread = threading.Thread(target=self._keep_on, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        self.stop()
        if error is None or self.processes.count == 1:
            return
        reason = str(error) if isinstance(error, (InputError, LostProcessError)) else type(error).__name__
        self.say(LOST if isinstance(error, LostProcessError) else FAILED, reason=reason)

    def stop(self) -> None:
        """Give no more signs."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def say(self, status: str, clips: int | None = None, reason: str = "") -> None:
        """Tell the others how this process is doing."""
        self._said = {
            "status": status,
            "clips": self._said["clips"] if clips is None else clips,
            "reason": reason,
        }
        if self.processes.count > 1:
            self._write()

    def note(self, clips: int) -> None:
        """How many clips this process has counted; told with the next sign."""
        self._said = {**self._said, "clips": clips}

    def clips(self) -> int:
        """Counted by all processes, as far as they have told."""
        heard = [sign["clips"] for sign in self._signs().values() if sign]
        return self._said["clips"] + sum(heard)

    def check(self) -> None:
        """Make sure that all the others live that still have something to do.

        Raises:
          LostProcessError: one of them failed or died.
        """
        signs = self._signs()
        for index, sign in signs.items():  # who says why comes before who has ended because of it
            if sign is not None and sign["status"] == FAILED:
                raise LostProcessError(f"Process {index} on {sign['host']} has ended: {sign['reason']}")
        for sign in signs.values():
            if sign is not None and sign["status"] == LOST:
                raise LostProcessError(sign["reason"])
        for index, sign in signs.items():
            if sign is not None and sign["status"] in (OVER_FOR_FIRST if index == 0 else OVER):
                continue
            beat = sign and sign["beat"]
            before, since = self._heard.get(index, (None, time.monotonic()))
            if index not in self._heard or beat != before:
                self._heard[index] = beat, time.monotonic()
            elif time.monotonic() - since > self.patience:
                where = f" on {sign['host']}" if sign else ""
                raise LostProcessError(
                    f"Process {index}{where} has given no sign of life for {self.patience:g} s (--patience)."
                )
            if sign is not None and _is_gone(sign):
                raise LostProcessError(f"Process {index} on {sign['host']} (process number {sign['pid']}) has died.")

    def require_current(self) -> None:
        """Make sure that no later job has begun here, whose states must not be mixed with this one's.

        Raises:
          LostProcessError: one has, or this one is over.
        """
        try:
            current = (self.folder / JOB).read_text()
        except FileNotFoundError:
            raise LostProcessError(f"The job of this process has ended without it: {self.folder} is gone.") from None
        except OSError:
            return  # which writing will tell
        if current != self.job:
            raise LostProcessError(f"Another job has begun in {self.folder}, which goes on from the states there.")

    def wait_for(self, status: str, index: int | None = None, at_most: float = math.inf) -> None:
        """Wait until one of the others, or all of them, have that status, or so many seconds have passed.

        Raises:
          LostProcessError: one of them failed or died.
        """
        end = time.monotonic() + at_most
        while time.monotonic() < end and not all(
            sign is not None and sign["status"] == status
            for number, sign in self._signs().items()
            if index in (None, number)
        ):
            self.check()
            time.sleep(INTERVAL / 10)

    def require_sight(self) -> None:
        """Make sure that the folder is one, and that this process sees all signs in it.

        Raises:
          InputError: a sign does not appear.
        """
        end = time.monotonic() + self.patience
        while True:
            missing = [index for index, sign in self._signs().items() if sign is None]
            if not missing:
                return
            if time.monotonic() > end:
                raise InputError(
                    f"{self.folder} does not show what process {missing[0]} has written there: --run must be a folder "
                    f"on a file system that all hosts share."
                )
            time.sleep(INTERVAL / 10)

    def _signs(self) -> dict[int, dict[str, Any] | None]:
        """The newest sign of every other process of the job; None where there is none yet. Read only now and then."""
        if time.monotonic() - self._seen[0] > INTERVAL / 2:
            others = [index for index in range(self.processes.count) if index != self.processes.index]
            self._seen = time.monotonic(), {index: self._read(index) for index in others}
        return self._seen[1]

    def _read(self, index: int) -> dict[str, Any] | None:
        try:
            sign = json.loads(_file(self.folder, Processes(index, self.processes.count)).read_text())
            return sign if sign["job"] == self.job else None
        except (OSError, ValueError, KeyError, TypeError):  # not there, or being written
            return None

    def _keep_on(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self._write()
            except InputError:  # a full disk ends no thread; the others' patience ends first, or there is room again
                continue

    def _write(self) -> None:
        path = _file(self.folder, self.processes)
        with self._lock:
            self._beat += 1
            sign = {**self._said, "job": self.job, "beat": self._beat, **_whereabouts()}
            with writing(path):  # in place: network file systems show a new content sooner than a new file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(sign))


def _file(folder: Path, processes: Processes) -> Path:
    return folder / f"pulse-{processes.name}.json"


def _whereabouts() -> dict[str, Any]:
    """Host, process number, and the space of numbers that it is from, for containers may share a host's name."""
    space = Path("/proc/self/ns/pid")
    boot = Path("/proc/sys/kernel/random/boot_id")
    known = space.exists() and boot.exists()
    return {
        "host": socket.gethostname(),
        "space": f"{boot.read_text().strip()} {space.readlink()}" if known else "",
        "pid": os.getpid(),
    }


def _is_gone(sign: dict[str, Any]) -> bool:
    """Whether a process whose number means the same here is not there any more."""
    here = _whereabouts()
    if not here["space"] or any(sign.get(name) != here[name] for name in ("host", "space")):
        return False
    try:
        return Path(f"/proc/{sign['pid']}/stat").read_text().rpartition(")")[2].split()[0] == "Z"  # nobody waits for it
    except OSError:
        return not Path(f"/proc/{sign['pid']}").exists()
