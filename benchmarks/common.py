"""What the benchmarks share: devices, the encoder of a random checkpoint, the machine, tables."""

import dataclasses
import json
import math
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch

from jaxdissect.encoder.convert import encoder_from_state, load_state, sizes_from_name
from jaxdissect.encoder.m2d import M2D
from jaxdissect.encoder.vit import ViTConfig
from jaxdissect.runtime.files import whole_file


def build_encoder(checkpoint: Path, config: ViTConfig, dtype: str = "float32", sample_rate: int = 16000) -> M2D:
    """The encoder of a checkpoint, through the package's own conversion."""
    name = f"m2d_vit_random-{config.bands}x{config.frames}p{config.patch_bands}x{config.patch_frames}" + (
        "p32k" if sample_rate == 32000 else ""
    )
    encoder = encoder_from_state(load_state(checkpoint), name, sizes_from_name(name), config.heads, {})
    if encoder.config != config:
        raise SystemExit(f"The conversion found {encoder.config}, the checkpoint was written for {config}.")
    return dataclasses.replace(encoder, dtype=jnp.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where both frameworks run: on the first device that JAX sees, if PyTorch can use it, too."""

    jax: jax.Device
    torch: torch.device

    @staticmethod
    def choose() -> "Devices":
        """The default device of JAX; float32 products stay float32."""
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")  # leaves half of a GPU to PyTorch
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        first = jax.local_devices()[0]
        return Devices(first, torch.device("cuda" if first.platform == "gpu" and torch.cuda.is_available() else "cpu"))

    def wait(self, *results: Any) -> None:
        """Block until results of either framework are there."""
        if self.torch.type == "cuda":
            torch.cuda.synchronize()
        jax.block_until_ready([leaf for leaf in jax.tree.leaves(results) if isinstance(leaf, jax.Array)])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_record(out: Path, packages: Sequence[str], **content: Any) -> None:
    """Write what was measured as JSON, with the machine, the device and the versions of some packages."""
    record = {"machine": machine(), "device": jax.devices()[0].device_kind, "versions": versions(*packages), **content}
    with whole_file(out) as temporary:
        temporary.write_text(json.dumps(_without_nan(record), indent=2, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: null stands for it."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def versions(*packages: str) -> dict[str, str]:
    """Of the packages that a result depends on."""
    return {name: version(name) for name in packages}


def machine() -> dict[str, Any]:
    """What the result depends on of this computer, and how busy it is."""
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
