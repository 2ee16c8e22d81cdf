"""The machine and the installation: versions, devices and memory, as results record them."""

import functools
import importlib.metadata
import platform
import sys
from pathlib import Path

# JAX takes a second to import. Only the functions that need it import it, so that help appears at once.

# Packages that results depend on
COMPUTING = ("jaxdissect", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
READING = ("librosa", "soundfile", "soxr", "xarray")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {name: _installed_version(name) for name in COMPUTING + READING}


@functools.cache  # each call looks through all installed packages
def _installed_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def computed_by() -> dict[str, str]:
    """What must be equal wherever parts of one result are computed, by names for messages."""
    import jax

    return {f"the version of {name}": version for name, version in versions().items()} | {
        "the kind of devices": jax.default_backend()
    }


def device() -> str:
    """The devices of this process in words, such as "2 x NVIDIA H200 (gpu) on linux x86_64"."""
    import jax

    devices = jax.local_devices()
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}) on {sys.platform} {platform.machine()}"


def peak_memory() -> int:
    """The most memory of the host that this process has held so far, in bytes; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    scale = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def available_memory() -> int | None:
    """Memory of the host that a program can still take without swapping, in bytes; None on systems other than Linux."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    # Lines such as "MemAvailable:   12345 kB".
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
