"""A job of one process or several that works towards one run directory."""

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxdissect.errors import LostProcessError
from jaxdissect.runtime.files import require_folder
from jaxdissect.runtime.processes import exchange, leave, require_agreement, this_process, together
from jaxdissect.runtime.pulse import LEFT, SAVED, Pulse
from jaxdissect.runtime.resume import remove_states
from jaxdissect.runtime.run_directory import Run


@contextlib.contextmanager
def job(run: Run, folder: Path, facts: Mapping[str, object], patience: float) -> Iterator[Pulse]:
    """What the processes do together, from their agreement until their results are saved.

    The first process holds the lock of the run directory. JAX's service is ended.

    Args:
      run: run directory of the results.
      folder: folder in it for states and signs of life.
      facts: JSON values on which all processes must agree, by name.
      patience: seconds without a sign of life after which a process is taken for dead.

    Raises:
      InputError: the processes disagree, do not all see the folder, or another job writes to the run directory.
    """
    me = this_process()
    require_agreement(facts)
    with contextlib.ExitStack() as stack:

        def begin() -> None:
            if me.first:
                stack.enter_context(run.locked())
                require_folder(folder)

        together(begin)
        number = exchange(secrets.token_hex(8))[0]  # the first process's; it marks the signs of life of this job
        pulse = together(lambda: stack.enter_context(Pulse(folder, number, me, patience)))
        together(pulse.require_sight)
        leave()
        yield pulse


def end_job(pulse: Pulse) -> None:
    """Remove the states, when all other processes know that the results are saved; called by the first process."""
    pulse.report(SAVED)
    with contextlib.suppress(LostProcessError):  # the lost process has no work left
        pulse.wait_for(LEFT, at_most=min(pulse.patience, 30))
    pulse.stop()
    remove_states(pulse.folder)


def follow_job(pulse: Pulse) -> None:
    """Wait until the first process has saved the results.

    Raises:
      LostProcessError: it failed or died.
    """
    pulse.wait_for(SAVED, index=0)
    pulse.report(LEFT)
    pulse.stop()
