"""Signs of life that the processes of a job leave in a folder which all of them see.

Each process keeps a small file up to date: how many clips it has counted, and how it ended. A process that fails, or
that gives no sign for too long, ends the others, which then say why.
"""

import contextlib
import json
import math
import os
import socket
import threading
import time
from pathlib import Path

from jaxdissect.errors import InputError, LostProcessError
from jaxdissect.runtime.files import writing
from jaxdissect.runtime.processes import Processes
from jaxdissect.types import Record

Sign = Record  # what a process's file says: `status`, `clips`, `reason`, `job`, `beat`, `host`, `space`, `pid`

INTERVAL = 2.0  # seconds from one sign to the next
JOB_FILE = "job"  # the file that names the newest job
WORKING, DONE, SAVED, LEFT, FAILED, LOST = "working", "done", "saved", "left", "failed", "lost another"
# With these a process may fall silent. The first one may not when it is done, since it then saves the results.
FINISHED, FINISHED_FIRST = (DONE, LEFT), (SAVED,)


class Pulse:
    """This process's sign of life, and a look at the others'.

    A context: an exception that ends it is reported to the others as a failure.

    Attributes:
      folder: folder that all processes see.
      job: name of the job, which its processes agree on; signs of other jobs are ignored.
      processes: this process among those of the job.
      patience: seconds without a sign after which a process is taken for dead.
    """

    def __init__(self, folder: Path, job: str, processes: Processes, patience: float) -> None:
        self.folder, self.job, self.processes, self.patience = folder, job, processes, patience
        self._sign: Sign = {"status": WORKING, "clips": 0, "reason": ""}
        self._beat, self._stop, self._lock = 0, threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        # Signs of the others when they were last read, and since when each has had its present beat.
        self._read_at, self._others = -math.inf, dict[int, Sign | None]()
        self._beats: dict[int, tuple[int | None, float]] = {}

    def __enter__(self) -> "Pulse":
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.processes.first:
                (self.folder / JOB_FILE).write_text(self.job)
        if self.processes.count > 1:
            self.report(WORKING)
            # A thread, since a step that compiles takes minutes in which the main thread could give no sign.
            self._thread = threading.Thread(target=self._write_regularly, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        self.stop()
        if error is None or self.processes.count == 1:
            return
        reason = str(error) if isinstance(error, (InputError, LostProcessError)) else type(error).__name__
        self.report(LOST if isinstance(error, LostProcessError) else FAILED, reason)

    def stop(self) -> None:
        """Give no more signs."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def report(self, status: str, reason: str = "") -> None:
        """Give a sign at once.

        Args:
          status: status of this process, one of this module's constants.
          reason: why it failed.
        """
        self._sign = {**self._sign, "status": status, "reason": reason}
        if self.processes.count > 1:
            self._write()

    def note(self, clips: int) -> None:
        """Give the number of clips that this process has counted with its next sign."""
        self._sign = {**self._sign, "clips": clips}

    def clips(self) -> int:
        """Number of clips that all processes have counted, by their newest signs."""
        return self._sign["clips"] + sum(sign["clips"] for sign in self._signs().values() if sign)

    def check(self) -> None:
        """Make sure that all the others live that still have work.

        Raises:
          LostProcessError: one of them failed or died.
        """
        signs = self._signs()
        for index, sign in signs.items():  # first those that failed themselves, then those that failed because of them
            if sign is not None and sign["status"] == FAILED:
                raise LostProcessError(f"Process {index} on {sign['host']} has ended: {sign['reason']}")
        for sign in signs.values():
            if sign is not None and sign["status"] == LOST:
                raise LostProcessError(sign["reason"])
        for index, sign in signs.items():
            if sign is not None and sign["status"] in (FINISHED_FIRST if index == 0 else FINISHED):
                continue
            beat = sign["beat"] if sign else None
            # Beats are counted, not timed: the clocks of hosts differ.
            before, since = self._beats.get(index, (None, time.monotonic()))
            if index not in self._beats or beat != before:
                self._beats[index] = beat, time.monotonic()
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
            current = (self.folder / JOB_FILE).read_text()
        except FileNotFoundError:
            raise LostProcessError(f"The job of this process has ended without it: {self.folder} is gone.") from None
        except OSError:
            return  # writing the state will fail too, and say why
        if current != self.job:
            raise LostProcessError(f"Another job has begun in {self.folder}, which resumes from the states there.")

    def wait_for(self, status: str, index: int | None = None, at_most: float = math.inf) -> None:
        """Wait until other processes have a status.

        Args:
          status: the status.
          index: number of the process to wait for; None: all others.
          at_most: seconds after which the wait ends anyway.

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
        """Make sure that all processes see the same folder: wait for the signs of all the others.

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

    def _signs(self) -> dict[int, Sign | None]:
        """The newest sign of every other process of the job; None where there is none yet.

        The files are read once in half an interval, since the folder may be on a network.
        """
        if time.monotonic() - self._read_at > INTERVAL / 2:
            numbers = [index for index in range(self.processes.count) if index != self.processes.index]
            self._read_at, self._others = time.monotonic(), {index: self._read(index) for index in numbers}
        return self._others

    def _read(self, index: int) -> Sign | None:
        try:
            sign = json.loads(_file(self.folder, Processes(index, self.processes.count)).read_text())
            return sign if sign["job"] == self.job else None
        except (OSError, ValueError, KeyError, TypeError):  # it does not exist, or is being written
            return None

    def _write_regularly(self) -> None:
        while not self._stop.wait(INTERVAL):
            with contextlib.suppress(InputError):  # a full disk may have room again before the others lose patience
                self._write()

    def _write(self) -> None:
        path = _file(self.folder, self.processes)
        with self._lock:
            self._beat += 1
            sign = {**self._sign, "job": self.job, "beat": self._beat, **_whereabouts()}
            with writing(path):  # in place: network file systems show a new content sooner than a new file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(sign))


def _file(folder: Path, processes: Processes) -> Path:
    return folder / f"pulse-{processes.name}.json"


def _whereabouts() -> Sign:
    """Host, process number, and the namespace of that number, since containers may share a host's name."""
    namespace, boot = Path("/proc/self/ns/pid"), Path("/proc/sys/kernel/random/boot_id")
    linux = namespace.exists() and boot.exists()
    return {
        "host": socket.gethostname(),
        "space": f"{boot.read_text().strip()} {namespace.readlink()}" if linux else "",
        "pid": os.getpid(),
    }


def _is_gone(sign: Sign) -> bool:
    """Whether a process has died whose number means the same on this host."""
    mine = _whereabouts()
    if not mine["space"] or any(sign.get(name) != mine[name] for name in ("host", "space")):
        return False
    try:
        # The state is the first field behind the program's name in brackets; Z: dead, but its parent has not noticed.
        return Path(f"/proc/{sign['pid']}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return not Path(f"/proc/{sign['pid']}").exists()
