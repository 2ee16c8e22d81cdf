"""Several processes, one job: who they are, and whether they agree.

JAX finds the processes and lets them compare what they are about to do. Counting itself needs no communication, so
JAX's service, which ends every process at once when one dies, is shut down before it begins; from then on processes
look after each other through the run directory, which all of them must see (`Pulse`).
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

T = TypeVar("T")
START_SECONDS = 300
SAY_EVERY = 30  # seconds of a wait
LEAST_PATIENCE = 6.0  # three signs of life
_exchanges = itertools.count()
_joined: list[bool] = []  # whether the service is ours to end


@dataclass(frozen=True)
class Processes:
    """The processes of a job, seen from one of them.

    Attributes:
      index: of this one.
      count: of all.
    """

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes results."""
        return self.index == 0

    @property
    def name(self) -> str:
        """As in names of files."""
        return f"{self.index}-of-{self.count}"

    @staticmethod
    def named(name: str) -> "Processes":
        """From its `name`."""
        index, count = name.split("-of-")
        return Processes(int(index), int(count))

    def share(self, clips: int) -> Int[np.ndarray, " some"]:
        """Numbers of the clips that are this process's."""
        return np.arange(clips, dtype=np.int32)[self.index :: self.count]


def join(options: DistributedOptions) -> Processes:
    """Meet the other processes, if there are to be any. To be called before JAX computes anything.

    Raises:
      InputError: the options contradict each other, a port is in use, or the others cannot be found.
    """
    told = {"--coordinator": options.coordinator, "--processes": options.processes, "--process": options.process}
    if not options.distributed:
        given = [name for name, value in told.items() if value is not None]
        if given:
            raise InputError(f"{', '.join(given)}: only with --distributed.")
        return here()
    if not options.patience >= LEAST_PATIENCE:
        raise InputError(f"--patience must be at least {LEAST_PATIENCE:g} s, got {options.patience}.")
    note(f"Waiting up to {START_SECONDS} s for the other processes ...")
    if options.coordinator is not None:
        _meet_at_address(options)
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is answered here, by saving a state
    try:
        jax.distributed.initialize(
            options.coordinator, options.processes, options.process,
            initialization_timeout=START_SECONDS, heartbeat_timeout_seconds=round(options.patience),
        )  # fmt: skip
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        missing = [name for name, value in told.items() if value is None]
        raise InputError(
            f"--distributed: the other processes cannot be found ({first_line(error)})"
            + (f": give {', '.join(missing)}, which no scheduler tells here." if missing else ".")
        ) from error
    _joined.append(True)
    return here()


def here() -> Processes:
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


def exchange(value: Any) -> list[Any]:
    """A JSON value of every process, in their order. All of them must call it, as often as each other.

    Raises:
      LostProcessError: a process does not answer.
    """
    me = here()
    if me.count == 1:
        return [value]
    number = next(_exchanges)
    client = _service()
    client.key_value_set(f"jaxdissect/{number}/{me.index}", json.dumps(value))
    return [json.loads(_answer(client, number, index)) for index in range(me.count)]


def _answer(client: Any, number: int, index: int) -> str:
    """What a process has to say, waited for in short turns, so that signals are answered.

    There is no end to the wait: one host may read a table for longer than another, and JAX's service tells of a death.
    """
    for turn in itertools.count(1):
        try:
            return str(client.blocking_key_value_get(f"jaxdissect/{number}/{index}", 1000))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise LostProcessError(f"Process {index} does not answer ({first_line(error)}).") from error
            if turn % SAY_EVERY == 0:
                note(f"Waiting for process {index}, for {turn} s by now ...")
    raise AssertionError


def _service() -> Any:
    """The client of JAX's coordination service, which JAX shows to nobody.

    Its collective operations would do, too, but they give up after half a minute where one process takes longer to load
    its table than another, and meet each other's messages where one process fails.
    """
    from jax._src import distributed

    client = distributed.global_state.client
    if client is None:
        raise InputError("This is one process of several, but JAX's distributed service has ended: begin anew.")
    return client


def together(prepare: Callable[[], T]) -> T:
    """Do something in every process; if it fails in one, it fails in all.

    Raises:
      InputError: of this process, or what another one met.
    """
    try:
        result = prepare()
    except BaseException as error:
        with contextlib.suppress(LostProcessError):  # what went wrong here says more
            exchange(str(error) if isinstance(error, InputError) else type(error).__name__)
        raise
    for process, failure in enumerate(exchange(None)):
        if failure is not None:
            raise InputError(f"Process {process}: {failure}")
    return result


def require_agreement(facts: Mapping[str, Any]) -> None:
    """Refuse to begin unless all processes are about to do the same.

    Args:
      facts: JSON values by name.

    Raises:
      InputError: names what differs, and where.
    """
    everywhere = exchange({"host": socket.gethostname(), "facts": dict(facts)})
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
    """Tell a wrong address, a port in use or a missing process before JAX would abort this one."""
    host, _, port = (options.coordinator or "").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator must be host:port of process 0, got {options.coordinator!r}.")
    processes, process = options.processes, options.process
    for name, value, least in (("--processes", processes, 1), ("--process", process, 0)):
        if value is not None and value < least:
            raise InputError(f"{name} must be at least {least}, got {value}.")
    if processes is None or process is None:  # a scheduler may tell
        return
    if process >= processes:
        raise InputError(f"--process counts from 0 to {processes} - 1 (--processes), got {process}.")
    meet(host.removeprefix("[").removesuffix("]"), int(port), processes, process, START_SECONDS)
