"""Traces of steps: which steps they hold, and what is said where there were too few."""

import jax
import jax.numpy as jnp
import pytest
from traces import spans, trace_files

from jaxdissect import InputError
from jaxdissect.runtime.profiling import STEPS, WARM_UP, profiling, step_done
from jaxdissect.runtime.progress import listening


def work(steps):
    for number in range(steps):
        with jax.profiler.TraceAnnotation(f"step {number}"):
            jnp.ones(3).block_until_ready()
        step_done()


@pytest.mark.parametrize("steps", [WARM_UP + 1, WARM_UP + STEPS, WARM_UP + STEPS + 3])
def test_profiling_traces_the_steps_behind_the_first_ones(tmp_path, steps):
    with listening(quiet=True) as warnings, profiling(tmp_path / "trace"):
        work(steps)
    traced = range(WARM_UP, min(steps, WARM_UP + STEPS))
    assert {name for name in spans(tmp_path / "trace") if name.startswith("step")} == {f"step {n}" for n in traced}
    assert not warnings
    work(WARM_UP + 1)  # outside of the block nothing is traced
    assert len(trace_files(tmp_path / "trace")) == 1


@pytest.mark.parametrize("steps", [0, WARM_UP])
def test_profiling_says_if_there_were_too_few_steps(tmp_path, steps):
    with listening(quiet=True) as warnings, profiling(tmp_path / "trace"):
        work(steps)
    (warning,) = warnings
    assert f"nothing was traced. There were {steps} steps" in warning


def test_profiling_refuses_a_file_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"), profiling(tmp_path / "file"):
        pytest.fail("the work must not begin")


def test_profiling_ends_the_trace_of_work_that_fails(tmp_path):
    def fail():
        with profiling(tmp_path / "trace"):
            work(WARM_UP + 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "step 2" in spans(tmp_path / "trace")
