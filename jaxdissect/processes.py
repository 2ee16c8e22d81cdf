"""Several processes, one job: who they are, and whether they agree.

JAX finds the processes and lets them compare what they are about to do. Counting itself needs no communication, so
JAX's service, which ends every process at once when one dies, is shut down before it begins; from then on processes
look after each other through the run directory, which all of them must see (`Pulse`).
"""

import json
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from jaxdissect.errors import InputError

T = TypeVar("T")
START_SECONDS = 300


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


@dataclass(frozen=True, kw_only=True)
class DistributedOptions:
    """One job in several processes, each with its own devices.

    Attributes:
      distributed: this is one process of several, started with the same command on every host; SLURM, Open MPI, GKE
        and Cloud TPU tell JAX which, elsewhere the next three options do.
      coordinator: host:port of process 0.
      processes: how many there are.
      process: number of this one, from 0.
      patience: seconds without a sign of life after which another process is taken for dead.
    """

    distributed: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    patience: float = 60.0


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
    if not options.patience > 0:
        raise InputError(f"--patience must be a positive number of seconds, got {options.patience}.")
    if options.coordinator is not None:
        _check_address(options)
    print(f"Waiting up to {START_SECONDS} s for the other processes ...", file=sys.stderr, flush=True)
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is answered here, by saving a state
    try:
        jax.distributed.initialize(
            options.coordinator, options.processes, options.process, initialization_timeout=START_SECONDS
        )
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        missing = [name for name, value in told.items() if value is None]
        raise InputError(
            f"--distributed: the other processes cannot be found ({_first_line(error)})"
            + (f": give {', '.join(missing)}, which no scheduler tells here." if missing else ".")
        ) from error
    return here()


def here() -> Processes:
    """This process among those that JAX knows."""
    return Processes(jax.process_index(), jax.process_count())


def leave() -> None:
    """End JAX's service: none of what follows needs it, and it would end this process if another one died."""
    if here().count > 1:
        jax.distributed.shutdown()


def exchange(value: Any) -> list[Any]:
    """A small JSON value of every process, in their order. All of them must call it."""
    if here().count == 1:
        return [value]
    from jax.experimental import multihost_utils

    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = np.ravel(multihost_utils.process_allgather(np.array(len(content), np.int32)))
    padded = np.pad(content, (0, int(lengths.max()) - len(content)))
    gathered = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:length].tobytes()) for row, length in zip(gathered, lengths, strict=True)]


def together(prepare: Callable[[], T]) -> T:
    """Do something in every process; if it fails in one, it fails in all.

    Raises:
      InputError: of this process, or what another one met.
    """
    result: T | None = None
    failure: str | None = None
    try:
        result = prepare()
    except InputError as error:
        failure = str(error)
    failures = exchange(failure)
    if failure is not None:
        raise InputError(failure)
    for process, message in enumerate(failures):
        if message is not None:
            raise InputError(f"Process {process}: {message}")
    return result  # type: ignore[return-value] # set, since nothing has failed


def require_agreement(facts: Mapping[str, Any]) -> None:
    """Refuse to begin unless all processes are about to do the same.

    Args:
      facts: JSON values by name.

    Raises:
      InputError: names what differs, and where.
    """
    everywhere = exchange({"host": socket.gethostname(), "facts": dict(facts)})
    for process, other in enumerate(everywhere):
        for name in dict.fromkeys((*everywhere[0]["facts"], *other["facts"])):
            first, found = everywhere[0]["facts"].get(name), other["facts"].get(name)
            if found != first:
                raise InputError(
                    f"The processes do not agree on {name}: {first} in process 0 on {everywhere[0]['host']}, {found} "
                    f"in process {process} on {other['host']}. Start all of them with the same command, the same data "
                    f"and the same version."
                )


def _check_address(options: DistributedOptions) -> None:
    """Tell a wrong address or a port in use before JAX would abort the process."""
    host, _, port = (options.coordinator or "").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator must be host:port of process 0, got {options.coordinator!r}.")
    for name, value, least in (("--processes", options.processes, 1), ("--process", options.process, 0)):
        if value is not None and value < least:
            raise InputError(f"{name} must be at least {least}, got {value}.")
    if None not in (options.process, options.processes) and options.process >= options.processes:  # type: ignore[operator]
        raise InputError(f"--process counts from 0 to {options.processes} - 1 (--processes), got {options.process}.")
    if options.process != 0:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            raise InputError(
                f"--coordinator {options.coordinator}: port {port} cannot be used here ({error.strerror}): choose "
                f"another, the same for all processes."
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
