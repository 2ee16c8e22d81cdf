"""Processes that meet at an address before JAX's service begins there.

JAX aborts a process whose partners do not come, and hears no signal while it waits. Here they are waited for first, in
Python: who is missing is told, and Ctrl-C ends the wait.
"""

import contextlib
import socket
import time

from jaxdissect.errors import InputError

TURN = 1.0  # seconds of one wait, after which signals are answered
GO = b"go"


def meet(host: str, port: int, processes: int, process: int, seconds: float) -> None:
    """Wait until all processes are at the address of process 0.

    Args:
      host, port: of process 0.
      processes: how many there are.
      process: number of this one.
      seconds: to wait.

    Raises:
      InputError: the port cannot be used, a process does not come in time, or two have one number.
    """
    end = time.monotonic() + seconds
    if process == 0:
        _gather(port, processes, end)
    else:
        _present(host, port, process, end)


def _gather(port: int, processes: int, end: float) -> None:
    """Wait for all the others, then let them go."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
        except OSError as error:
            raise InputError(
                f"--coordinator: port {port} cannot be used here ({error.strerror}): choose another, the same for all "
                f"processes."
            ) from error
        server.listen(processes)
        server.settimeout(TURN)
        here: dict[int, socket.socket] = {}
        while len(here) < processes - 1:
            if time.monotonic() > end:
                missing = sorted(set(range(1, processes)) - set(here))
                raise InputError(
                    f"--distributed: of {processes} processes, number {', '.join(map(str, missing))} did not come: "
                    f"start all of them with the same --coordinator and --processes."
                )
            with contextlib.suppress(TimeoutError):
                other = stack.enter_context(server.accept()[0])
                number = _number(other)
                if number is None or not 0 < number < processes:
                    continue  # somebody else
                if number in here:
                    raise InputError(f"--process {number}: two processes have this number: give each its own.")
                here[number] = other
        for other in here.values():
            with contextlib.suppress(OSError):  # it has gone again, which JAX will find
                other.sendall(GO)


def _number(other: socket.socket) -> int | None:
    other.settimeout(TURN)
    try:
        words = other.recv(64).split()
        return int(words[1]) if words[:1] == [b"jaxdissect"] else None
    except (OSError, ValueError, IndexError):
        return None


def _present(host: str, port: int, process: int, end: float) -> None:
    """Say that this process is here, and wait until all are."""
    while True:
        try:
            with socket.create_connection((host, port), TURN) as connection:
                connection.sendall(f"jaxdissect {process}\n".encode())
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
    while time.monotonic() < end:
        try:
            return connection.recv(len(GO)) == GO
        except TimeoutError:
            continue
    return False
