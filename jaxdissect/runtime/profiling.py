"""Traces of some steps of a command's work on the devices, for XProf and Perfetto."""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import jax

from jaxdissect.runtime.files import require_folder
from jaxdissect.runtime.progress import warn

WARM_UP, STEPS = 2, 5  # steps before the trace, which compile and fill the caches; steps in it


@dataclasses.dataclass
class _Trace:
    folder: Path
    steps: int = 0  # that are done

    def step(self) -> None:
        self.steps += 1
        if self.steps == WARM_UP:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # calls of Python functions would hide the stages
            jax.profiler.start_trace(self.folder, profiler_options=options)
        elif self.steps == WARM_UP + STEPS:
            jax.profiler.stop_trace()

    @property
    def runs(self) -> bool:
        return WARM_UP <= self.steps < WARM_UP + STEPS


_trace: ContextVar[_Trace | None] = ContextVar("trace", default=None)


@contextlib.contextmanager
def profiling(folder: Path | None) -> Iterator[None]:
    """Trace some steps of the work in this block, of which `step_done` tells.

    Args:
      folder: folder to write the trace into; None: nothing is traced.

    Raises:
      InputError: the folder cannot be made, is a file, or is read-only.
    """
    if folder is None:
        yield
        return
    require_folder(folder)
    trace = _Trace(folder)
    token = _trace.set(trace)
    try:
        yield
    finally:
        _trace.reset(token)
        if trace.runs:
            jax.profiler.stop_trace()
        if trace.steps <= WARM_UP:
            warn(
                f"--profile: nothing was traced. There were {trace.steps} steps, and the first {WARM_UP} compile. "
                f"Choose a smaller --batch-size, or more clips. What was saved before is not done again."
            )


def step_done() -> None:
    """Say that a step of the work is done, which may begin or end a trace."""
    trace = _trace.get()
    if trace is not None:
        trace.step()
