"""The processes of one job: how they meet, and whether they agree.

JAX finds the processes and lets them compare what they are about to do. Counting itself needs no communication. JAX's
service, which ends every process at once when one dies, is therefore shut down before counting begins. From then on the
processes watch each other through the run directory, which all of them must see (`Pulse`).
"""

import contextlib
import itertools
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Int

from jaxdissect.errors import InputError, LostProcessError, first_line, require
from jaxdissect.options.base import DistributedOptions
from jaxdissect.runtime.progress import note
from jaxdissect.runtime.records import differences
from jaxdissect.runtime.rendezvous import meet
from jaxdissect.types import Json

T = TypeVar("T")
START_SECONDS = 300  # longest wait for the other processes to come
NOTE_SECONDS = 30  # time from one note to the next while a process is waited for
LEAST_PATIENCE = 6.0  # seconds; three signs of life
_exchanges = itertools.count()  # numbers of the exchanges, which are equal in all processes
_joined: list[bool] = []  # holds something while JAX's service runs that `join` has begun


@dataclass(frozen=True)
class Processes:
    """The processes of a job, seen from one of them.

    Attributes:
      index: number of this one.
      count: number of all.
    """

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes results."""
        return self.index == 0

    @property
    def name(self) -> str:
        """Name of this process in names of files, such as "0-of-4"."""
        return f"{self.index}-of-{self.count}"

    @staticmethod
    def named(name: str) -> "Processes":
        """The process of a `name`."""
        index, count = name.split("-of-")
        return Processes(int(index), int(count))

    def clip_numbers(self, clips: int) -> Int[np.ndarray, " part"]:
        """Numbers of the clips that this process counts, of all clips of a task."""
        # Every P-th clip: parts of equal length, in which long and short files are mixed alike.
        return np.arange(clips, dtype=np.int32)[self.index :: self.count]


def join(options: DistributedOptions) -> Processes:
    """Meet the other processes, if there are to be any; called before JAX computes anything.

    Args:
      options: whether there are several processes, and how they find each other.

    Raises:
      InputError: the options contradict each other, a port is in use, or the others cannot be found.
    """
    given = {"--coordinator": options.coordinator, "--processes": options.processes, "--process": options.process}
    if not options.distributed:
        unused = [name for name, value in given.items() if value is not None]
        require(not unused, f"{', '.join(unused)}: only with --distributed.")
        return this_process()
    require(
        options.patience >= LEAST_PATIENCE,
        f"--patience must be at least {LEAST_PATIENCE:g} s, got {options.patience}.",
    )
    note(f"Waiting up to {START_SECONDS} s for the other processes ...")
    if options.coordinator is not None:
        _meet_at_address(options)
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is answered here, by saving a state
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.processes,
            options.process,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=round(options.patience),
        )
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        missing = [name for name, value in given.items() if value is None]
        remedy = f": give {', '.join(missing)}, which no scheduler sets here." if missing else "."
        raise InputError(f"--distributed: the other processes cannot be found ({first_line(error)}){remedy}") from error
    _joined.append(True)
    return this_process()


def this_process() -> Processes:
    """This process among those that JAX knows."""
    return Processes(jax.process_index(), jax.process_count())


def leave() -> None:
    """End JAX's service: none of what follows needs it, and it would end this process if another one died.

    A service that `join` has not begun is not ended.

    Raises:
      LostProcessError: another process has gone before.
    """
    if _joined:
        _joined.clear()
        try:
            jax.distributed.shutdown()
        except RuntimeError as error:
            raise LostProcessError(f"A process has ended before the work began ({first_line(error)}).") from error


def exchange(value: Json) -> list[Json]:
    """Give a JSON value to all processes; all of them must call it, equally often.

    Returns:
      the value of every process, in their order.

    Raises:
      LostProcessError: a process does not answer.
    """
    me = this_process()
    if me.count == 1:
        return [value]
    number = next(_exchanges)  # keys of the service can be set only once
    client = _service()
    client.key_value_set(f"jaxdissect/{number}/{me.index}", json.dumps(value))
    return [json.loads(_answer(client, number, index)) for index in range(me.count)]


def _answer(client: Any, number: int, index: int) -> str:
    """The value of a process, waited for in short turns, so that signals are answered.

    The wait has no end: one host may read a table for longer than another, and JAX's service notices a death.
    """
    for turn in itertools.count(1):
        try:
            return str(client.blocking_key_value_get(f"jaxdissect/{number}/{index}", 1000))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise LostProcessError(f"Process {index} does not answer ({first_line(error)}).") from error
            if turn % NOTE_SECONDS == 0:  # a turn takes a second
                note(f"Waiting for process {index}, for {turn} s by now ...")
    raise AssertionError


def _service() -> Any:
    """The client of JAX's coordination service, for which JAX has no public name.

    JAX's collective operations would do, too. But they give up after half a minute, while one process may take longer
    than another to load its table, and they mix up messages where one process fails.
    """
    from jax._src import distributed

    client = distributed.global_state.client
    require(client is not None, "This is one process of several, but JAX's distributed service has ended: begin anew.")
    return client


def together(prepare: Callable[[], T]) -> T:
    """Do something in every process; if it fails in one, it fails in all.

    Args:
      prepare: what this process does.

    Raises:
      InputError: raised by this process or another one.
    """
    try:
        result = prepare()
    except BaseException as error:
        with contextlib.suppress(LostProcessError):  # the error of this process says more
            exchange(str(error) if isinstance(error, InputError) else type(error).__name__)
        raise
    # None is this process's word that nothing has failed; another one may answer with its error.
    for process, failure in enumerate(exchange(None)):
        require(failure is None, f"Process {process}: {failure}")
    return result


def require_agreement(facts: Mapping[str, object]) -> None:
    """Refuse to begin unless all processes are about to do the same.

    Args:
      facts: JSON values that must be equal in all processes, by name.

    Raises:
      InputError: names what differs, and in which process.
    """
    everywhere = exchange({"host": socket.gethostname(), "facts": dict(facts)})
    # All processes compare all with the first, so that each finds the same difference and ends.
    first = everywhere[0]
    for process, other in enumerate(everywhere):
        words = f"in process 0 on {first['host']}", f"in process {process} on {other['host']}"
        differing = differences(first["facts"], other["facts"], words=words)
        require(
            not differing,
            f"The processes do not agree on {', '.join(differing.values())}. Start all of them with the same command, "
            f"the same data and the same version.",
        )


def _meet_at_address(options: DistributedOptions) -> None:
    """Refuse a wrong address, a port in use or a missing process, for which JAX would abort this one."""
    host, _, port = (options.coordinator or "").rpartition(":")
    require(
        bool(host) and port.isdecimal() and 0 < int(port) < 65536,
        f"--coordinator must be host:port of process 0, got {options.coordinator!r}.",
    )
    processes, process = options.processes, options.process
    for name, value, least in (("--processes", processes, 1), ("--process", process, 0)):
        require(value is None or value >= least, f"{name} must be at least {least}, got {value}.")
    if processes is None or process is None:  # a scheduler may know them
        return
    require(process < processes, f"--process counts from 0 to {processes} - 1 (--processes), got {process}.")
    meet(host.removeprefix("[").removesuffix("]"), int(port), processes, process, START_SECONDS)
