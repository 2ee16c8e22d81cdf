"""What the benchmarks share: devices, the encoder of a random checkpoint, timing, tables, records with the machine."""

import dataclasses
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import PyTree

from jaxdissect.encoder.convert.m2d import encoder_from_state, sizes_from_name
from jaxdissect.encoder.convert.state import load_state
from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.encoder.families.vit import ViTConfig
from jaxdissect.runtime.files import whole_file
from jaxdissect.types import Json, Record


def build_encoder(checkpoint: Path, config: ViTConfig, dtype: str = "float32", sample_rate: int = 16000) -> M2D:
    """The encoder of a checkpoint, through the package's own conversion."""
    sizes = f"{config.bands}x{config.frames}p{config.patch_bands}x{config.patch_frames}"
    name = f"m2d_vit_random-{sizes}{'p32k' if sample_rate == 32000 else ''}"
    encoder = encoder_from_state(load_state(checkpoint), name, sizes_from_name(name), config.heads, {})
    if encoder.config != config:
        raise SystemExit(f"The conversion found {encoder.config}, the checkpoint was written for {config}.")
    return dataclasses.replace(encoder, dtype=jnp.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices of both frameworks: the first device that JAX sees, also for PyTorch if PyTorch can use it.

    Attributes:
      jax: device of JAX.
      torch: device of PyTorch.
    """

    jax: jax.Device
    torch: torch.device

    @staticmethod
    def choose() -> "Devices":
        """The default device of JAX; float32 products stay float32 in both frameworks."""
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")  # leaves half of a GPU to PyTorch
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        first = jax.local_devices()[0]
        return Devices(first, torch.device("cuda" if first.platform == "gpu" and torch.cuda.is_available() else "cpu"))

    def wait(self, *results: PyTree) -> None:
        """Block until results of either framework are ready."""
        if self.torch.type == "cuda":
            torch.cuda.synchronize()
        jax.block_until_ready([leaf for leaf in jax.tree.leaves(results) if isinstance(leaf, jax.Array)])


def seconds_of(run: Callable[[], object]) -> float:
    """Wall time of one call, s."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def median_and_range(values: Sequence[float] | np.ndarray) -> list[float]:
    """Median, least and most."""
    return [float(np.median(values)), float(min(values)), float(max(values))]


def short_name(encoder: str) -> str:
    """The last part of the name of an encoder directory or of a factory."""
    return Path(encoder.rpartition(":")[2]).name


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def options_record(options: object, *without: str) -> Record:
    """Options as a record holds them, without those that name places on a machine."""
    return {name: value for name, value in vars(options).items() if name not in without}


def write_record(out: Path, packages: Sequence[str], **content: object) -> None:
    """Write a result as JSON, with the machine, the device and the versions of some packages.

    Args:
      out: JSON file to write.
      packages: names of the packages whose versions matter.
      content: parts of the result by name; a `machine` replaces the one that is added.
    """
    added = {"machine": machine(), "device": jax.devices()[0].device_kind, "versions": versions(*packages)}
    with whole_file(out) as temporary:
        temporary.write_text(json.dumps(_finite({**added, **content}), indent=2, allow_nan=False) + "\n")


def _finite(value: Json) -> Json:
    """A value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: version(name) for name in packages}


def machine() -> Record:
    """The parts of this computer that a result depends on, and how busy it is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "processor": platform.processor(),
        "load_before": os.getloadavg(),
        "torch_threads": torch.get_num_threads(),
    }
