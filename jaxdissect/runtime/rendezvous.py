"""Processes that meet at an address before JAX's service begins there.

JAX aborts a process whose partners do not come, and answers no signal while it waits. This module waits before JAX
does, in Python: the error names the missing processes, and Ctrl-C ends the wait.
"""

import contextlib
import os
import socket
import time

from jaxdissect.errors import InputError, require

TURN_SECONDS = 1.0  # of one wait, after which signals are answered
GREETING, GO = b"jaxdissect", b"go"  # what a process sends, before its number; and what it is answered when all came


def meet(host: str, port: int, processes: int, process: int, seconds: float) -> None:
    """Wait until all processes are at the address of process 0.

    Args:
      host: host of process 0.
      port: port of process 0.
      processes: number of all.
      process: number of this one.
      seconds: longest wait.

    Raises:
      InputError: the port cannot be used, a process does not come in time, another one expects another number of
        processes, or two have one number.
    """
    end = time.monotonic() + seconds
    if process == 0:
        _gather(port, processes, end)
    else:
        _present(host, port, processes, process, end + 2 * TURN_SECONDS)  # process 0 names the missing ones


def _gather(port: int, processes: int, end: float) -> None:
    """Wait for all the others, then let them go."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_server(port))
        present: dict[int, socket.socket] = {}
        answer = b"it was stopped."
        try:
            while len(_still(present)) < processes - 1:
                missing = sorted(set(range(1, processes)) - set(present))
                require(
                    time.monotonic() <= end,
                    f"--distributed: of {processes} processes, number {', '.join(map(str, missing))} did not come: "
                    f"start all of them with the same --coordinator and --processes.",
                )
                with contextlib.suppress(TimeoutError):
                    _receive(stack.enter_context(server.accept()[0]), processes, present)
            answer = GO
        except InputError as error:
            answer = str(error).encode()
            raise
        finally:
            for other in present.values():
                with contextlib.suppress(OSError):  # it has gone again, which JAX will notice
                    other.sendall(answer)


def _still(present: dict[int, socket.socket]) -> dict[int, socket.socket]:
    """The processes that are present, without those that have gone again: a new one must come in their place first."""
    for number in [number for number, other in present.items() if _has_gone(other)]:
        del present[number]
    return present


def _receive(other: socket.socket, processes: int, present: dict[int, socket.socket]) -> None:
    """Add a process that has come to those that are present.

    Raises:
      InputError: it cannot be of the same job.
    """
    try:
        numbers = _number(other)
        if numbers is None:
            other.close()  # a stranger, or a late process, which comes again
            return
        number, count = numbers
        require(
            count == processes,
            f"--processes is {processes} in process 0 and {count} in process {number}: start all of them with the same "
            f"command.",
        )
        require(
            number not in present or _has_gone(present[number]),
            f"--process {number}: two processes have this number: give each its own.",
        )
    except InputError as error:
        with contextlib.suppress(OSError):
            other.sendall(str(error).encode())
        raise
    present[number] = other


def _server(port: int) -> socket.socket:
    """A server on all addresses, which waits in short turns."""
    both = socket.has_dualstack_ipv6()
    try:
        server = socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
        )
    except OSError as error:
        raise InputError(
            f"--coordinator: port {port} cannot be used here ({os.strerror(error.errno or 0)}): choose another, the "
            f"same for all processes."
        ) from error
    server.settimeout(TURN_SECONDS)
    return server


def _number(other: socket.socket) -> tuple[int, int] | None:
    """The number of a process that has come, and how many it expects; None if it is no process of a job."""
    other.settimeout(TURN_SECONDS)
    try:
        word, *numbers = other.recv(64).split()
        number, count = map(int, numbers)
    except (OSError, ValueError):
        return None
    return (number, count) if word == GREETING and 0 < number < count else None


def _has_gone(other: socket.socket) -> bool:
    """Whether a process that waited here has closed its end."""
    try:
        other.setblocking(False)
        return other.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _present(host: str, port: int, processes: int, process: int, end: float) -> None:
    """Connect to process 0, and wait until all processes have."""
    while True:
        try:
            with socket.create_connection((host, port), TURN_SECONDS) as connection:
                connection.sendall(GREETING + f" {process} {processes}\n".encode())
                if _is_let_go(connection, end):
                    return
        except OSError:  # process 0 has not started yet
            pass
        require(
            time.monotonic() <= end,
            f"--distributed: process 0 does not answer at {host}:{port}, or misses another process: start all of them "
            f"with the same --coordinator and --processes.",
        )
        time.sleep(TURN_SECONDS / 5)


def _is_let_go(connection: socket.socket, end: float) -> bool:
    """Whether all have come; False if process 0 has gone, or it takes too long.

    Raises:
      InputError: process 0 answers that something is wrong.
    """
    while time.monotonic() < end:
        try:
            answer = connection.recv(1000)
        except TimeoutError:
            continue
        require(answer in (GO, b""), f"Process 0: {answer.decode(errors='replace')}")
        return answer == GO
    return False
