"""Processes that meet at an address before JAX's service begins there.

JAX aborts a process whose partners do not come, and hears no signal while it waits. Here they are waited for first, in
Python: who is missing is told, and Ctrl-C ends the wait.
"""

import contextlib
import os
import socket
import time

from jaxdissect.errors import InputError

TURN = 1.0  # seconds of one wait, after which signals are answered
NAME, GO = b"jaxdissect", b"go"


def meet(host: str, port: int, processes: int, process: int, seconds: float) -> None:
    """Wait until all processes are at the address of process 0.

    Args:
      host, port: of process 0.
      processes: how many there are.
      process: number of this one.
      seconds: to wait.

    Raises:
      InputError: the port cannot be used, a process does not come in time, another one expects another number of
        processes, or two have one number.
    """
    end = time.monotonic() + seconds
    if process == 0:
        _gather(port, processes, end)
    else:
        _present(host, port, processes, process, end + 2 * TURN)  # process 0 says who is missing


def _gather(port: int, processes: int, end: float) -> None:
    """Wait for all the others, then let them go."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_server(port))
        here: dict[int, socket.socket] = {}
        answer = b"it was stopped."
        try:
            while len(_still(here)) < processes - 1:
                if time.monotonic() > end:
                    missing = sorted(set(range(1, processes)) - set(here))
                    raise InputError(
                        f"--distributed: of {processes} processes, number {', '.join(map(str, missing))} did not come: "
                        f"start all of them with the same --coordinator and --processes."
                    )
                with contextlib.suppress(TimeoutError):
                    _receive(stack.enter_context(server.accept()[0]), processes, here)
            answer = GO
        except InputError as error:
            answer = str(error).encode()
            raise
        finally:
            for other in here.values():
                with contextlib.suppress(OSError):  # it has gone again, which JAX will find
                    other.sendall(answer)


def _still(here: dict[int, socket.socket]) -> dict[int, socket.socket]:
    """Those that are here, without who has gone again: whoever takes its place has to come first."""
    for number in [number for number, other in here.items() if _has_gone(other)]:
        del here[number]
    return here


def _receive(other: socket.socket, processes: int, here: dict[int, socket.socket]) -> None:
    """Add one that has come to those that are here.

    Raises:
      InputError: it cannot be of the same job.
    """
    try:
        found = _number(other)
        if found is None:
            other.close()  # somebody else; or late, and comes again
            return
        number, count = found
        if count != processes:
            raise InputError(
                f"--processes is {processes} in process 0 and {count} in process {number}: start all of them with the "
                f"same command."
            )
        if number in here and not _has_gone(here[number]):
            raise InputError(f"--process {number}: two processes have this number: give each its own.")
    except InputError as error:
        with contextlib.suppress(OSError):
            other.sendall(str(error).encode())
        raise
    here[number] = other


def _server(port: int) -> socket.socket:
    """Listens on all addresses, in short turns."""
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
    server.settimeout(TURN)
    return server


def _number(other: socket.socket) -> tuple[int, int] | None:
    """Of one that has come, and how many it expects; None if it is none of ours."""
    other.settimeout(TURN)
    try:
        word, *told = other.recv(64).split()
        number, count = map(int, told)
    except (OSError, ValueError):
        return None
    return (number, count) if word == NAME and 0 < number < count else None


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
    """Say that this process is here, and wait until all are."""
    while True:
        try:
            with socket.create_connection((host, port), TURN) as connection:
                connection.sendall(NAME + f" {process} {processes}\n".encode())
                if _is_let_go(connection, end):
                    return
        except OSError:  # process 0 is not there yet
            pass
        if time.monotonic() > end:
            raise InputError(
                f"--distributed: process 0 does not answer at {host}:{port}, or misses another process: start all of "
                f"them with the same --coordinator and --processes."
            )
        time.sleep(TURN / 5)


def _is_let_go(connection: socket.socket, end: float) -> bool:
    """Whether all are there; False if process 0 has gone, or it takes too long.

    Raises:
      InputError: process 0 says what is wrong.
    """
    while time.monotonic() < end:
        try:
            answer = connection.recv(1000)
        except TimeoutError:
            continue
        if answer not in (GO, b""):
            raise InputError(f"Process 0: {answer.decode(errors='replace')}")
        return answer == GO
    return False
