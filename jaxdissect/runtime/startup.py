"""What every command begins with: streams, signals, the cache of compiled programs, and the platform that JAX uses."""

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence

from platformdirs import user_cache_path

from jaxdissect.errors import first_line

# JAX takes a second to import. Only the functions that need it import it, so that help appears at once.

PLATFORM_VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")  # variables of the environment that name platforms
PACKAGES = {"cuda": "jax[cuda12]", "gpu": "jax[cuda12]", "tpu": "jax[tpu]"}  # package that brings each platform


def prepare_process() -> None:
    """Let streams print anything or nothing, SIGTERM act like Ctrl-C, and compiled programs be kept between runs."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - for the life of the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.path.insert(0, "")  # --encoder may name a module in the current folder, as for `python -m`
    logging.getLogger("jax._src.xla_bridge").addFilter(in_one_line)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_programs(str(user_cache_path("jaxdissect") / "programs"))


def _keep_programs(folder: str) -> None:
    """Keep every compiled program in a folder, however little time its compilation took."""
    if "jax" not in sys.modules:  # JAX reads these variables when it is imported
        os.environ |= {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def in_one_line(record: logging.LogRecord) -> bool:
    """A log filter that replaces a traceback, such as of a broken plugin of JAX, by the exception's type and message.

    Args:
      record: what is logged; changed in place.
    """
    if record.exc_info and isinstance(record.exc_info[1], Exception):
        error, record.exc_info = record.exc_info[1], None
        record.msg, record.args = f"{record.getMessage()} ({type(error).__name__}: {first_line(error)})", None
    return True


def missing_platform(environment: Mapping[str, str]) -> str | None:
    """Say why JAX has no devices, if the environment asks for a platform that this machine lacks; None if it has them.

    Where no variable asks for a platform, JAX takes what the machine has, so JAX is not made to look for devices.

    Args:
      environment: variables of the environment, by name.
    """
    asked = {name: environment[name] for name in PLATFORM_VARIABLES if environment.get(name)}
    if not asked:
        return None
    import jax

    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # for cuda without its package, JAX 0.10 fails a bare assertion
        platforms = available_platforms()
        lacking = [name for name, value in asked.items() if not set(value.split(",")) <= set(platforms)]
        variable = next(iter(lacking or asked))
        return platform_message(variable, asked[variable], str(error), platforms)
    return None


def platform_message(variable: str, value: str, reason: str, platforms: Sequence[str]) -> str:
    """Say what to do about a platform that this machine lacks.

    Args:
      variable: variable of the environment that asks for it.
      value: value of the variable.
      reason: message of JAX; may be empty.
      platforms: platforms that the machine has.
    """
    package = next((package for name, package in PACKAGES.items() if name in value.split(",")), None)
    install = f", or install what brings {value}: pip install '{package}'" if package else ""
    reason = reason.partition("\n")[0].partition(" (set JAX_PLATFORMS=")[0].rstrip(".")
    return (
        f"the environment's {variable}={value} asks JAX for a platform that is not here"
        f"{f' ({reason})' if reason else ''}. JAX finds {', '.join(platforms) or 'none'}. "
        f"Unset {variable} to compute on that{install}."
    )


def available_platforms() -> tuple[str, ...]:
    """The platforms that JAX has if no variable asks for one."""
    import jax
    from jax.extend.backend import backends

    asked = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", None)
    try:
        return tuple(backends())
    except (RuntimeError, AssertionError):
        return ()
    finally:
        jax.config.update("jax_platforms", asked)
