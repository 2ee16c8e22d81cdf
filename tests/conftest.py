"""Strict JAX for every test: eight CPU devices, no silent promotion of types or ranks, shapes checked at run time."""

import atexit
import ctypes
import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jaxtyping

jaxtyping.install_import_hook("jaxdissect", "typechecker.check")

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers and the commands that tests start share the programs
    PROGRAMS = tempfile.mkdtemp(prefix="jaxdissect-tests-")  # not the user's
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": PROGRAMS, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    # Most of the suite's time went into making fast programs, which run once on a few numbers. These flags are not
    # documented: a jaxlib that no longer knows one ends at once, and is then left as it is.
    FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    QUICK = os.environ | {"XLA_FLAGS": f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}"}
    DEVICES = [sys.executable, "-c", "import jax; jax.devices()"]
    if not subprocess.run(DEVICES, env=QUICK, capture_output=True, check=False).returncode:
        os.environ["XLA_FLAGS"] = QUICK["XLA_FLAGS"]
    atexit.register(shutil.rmtree, PROGRAMS, ignore_errors=True)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
from browser import HOW_TO_INSTALL, browser_is_required, find_chromium  # noqa: E402

pytest_plugins = ["tones", "noises", "programs"]  # fixtures of the tests of `probe`, `ablate` and `train`

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

gc.set_threshold(100_000, 50, 50)  # tracing makes millions of objects, which are looked through again and again
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


MUCH_MEMORY, MORE = 1.5e9, 0.1e9  # bytes
LIBC = ctypes.CDLL(None)
NO_BROWSER = "no Chromium on this machine"


def pytest_collection_modifyitems(items):
    """Leave out what needs a browser where there is none; in CI these tests fail instead."""
    if find_chromium() is None and not browser_is_required():
        for item in items:
            if "browser" in item.fixturenames:
                item.add_marker(pytest.mark.skip(reason=NO_BROWSER))


def pytest_collection_finish():
    """Modules stay: what they made need not be looked through for garbage."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Say in one line at the end what was left out for want of a browser, and how to bring it."""
    left_out = sum(NO_BROWSER in str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    if left_out:
        terminalreporter.line(
            f"{left_out} tests of the report in a browser were left out: {NO_BROWSER}. {HOW_TO_INSTALL}"
        )


@pytest.fixture
def fast_programs():
    """The environment of a command that computes much: it compiles as a user's does."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


@pytest.fixture(autouse=True)
def _bounded_memory():
    """Let compiled programs go when they have grown to a gigabyte: few tests need those of earlier ones."""
    yield
    if resident_bytes() > max(MUCH_MEMORY, _bounded_memory.least + MORE):
        jax.clear_caches()
        gc.collect()
        if hasattr(LIBC, "malloc_trim"):  # glibc keeps what is free
            LIBC.malloc_trim(0)
        _bounded_memory.least = resident_bytes()  # what does not go need not be looked for after every test


_bounded_memory.least = 0


def resident_bytes():
    """Memory that this process holds; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


@pytest.fixture
def data_folder(tmp_path):
    """A writer of small data sets: `write(name, samples, rate)` puts a WAV file into `folder`."""

    class Folder:
        path = tmp_path / "data"

        def write(self, name, samples, rate=16000, **options):
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, np.asarray(samples, np.float32), rate, **options)

        def table(self, name, text):
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text)
            return self.path / name

    return Folder()
