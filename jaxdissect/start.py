"""What every command begins with."""

import io
import os
import signal
import sys
import threading

import jax
from platformdirs import user_cache_path


def prepare_process() -> None:
    """Streams that can print anything or nothing, SIGTERM like Ctrl-C, and compiled programs kept between runs."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - for the life of the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.path.insert(0, "")  # --encoder may name a module in the current folder, as for `python -m`
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(user_cache_path("jaxdissect") / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
