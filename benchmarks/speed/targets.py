"""Accelerators to compile for: what XLA has to know of them, and the rates that their makers publish."""

import dataclasses

# XLA's description of a GPU (`GpuTargetConfigProto`). The fields are those of its own files for these devices; the
# rest of such a file is the same for all three.
GPU_DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: {capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{description}"
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """A device to compile for.

    Attributes:
      platform: "cuda" or "tpu".
      topology: name of the topology, as JAX takes it.
      description: description of a GPU, empty for a TPU, which its library knows by its topology.
      bfloat16, float32: highest rate of matrix products, operations/s. float32 products are computed in float32 on a
        GPU, and by six bfloat16 products on a TPU.
      bandwidth: of the main memory, bytes/s.
    """

    platform: str
    topology: str
    description: str
    bfloat16: float
    float32: float
    bandwidth: float


def _gpu(
    description: str, capability: int, cores: int, clock: float, gigabytes: float, rates: tuple[float, ...]
) -> Target:
    bfloat16, float32, bandwidth = rates
    text = GPU_DESCRIPTION.format(
        cores=cores,
        bandwidth=round(bandwidth),
        cache=50 * 2**20 if capability == 9 else 126 * 2**20,
        clock=clock,
        memory=round(gigabytes * 1e9),
        capability=capability,
        description=description,
    )
    return Target("cuda", "1x1x1", text, bfloat16, float32, bandwidth)


def _tpu(topology: str, bfloat16: float, bandwidth: float) -> Target:
    return Target("tpu", topology, "", bfloat16, bfloat16 / 6, bandwidth)


# Dense rates without sparsity: NVIDIA's data sheets of the SXM modules, Google's pages on the TPU versions.
TARGETS = {
    "h100": _gpu("NVIDIA H100 80GB HBM3", 9, 132, 1.98, 80, (989e12, 67e12, 3.35e12)),
    "h200": _gpu("NVIDIA H200 141GB HBM3e", 9, 132, 1.98, 151, (989e12, 67e12, 4.8e12)),
    "b200": _gpu("NVIDIA B200", 10, 148, 1.965, 192, (2250e12, 75e12, 8e12)),
    "v5e": _tpu("v5e:2x2", 197e12, 819e9),
    "v5p": _tpu("v5p:2x2x1", 459e12, 2765e9),
    "v6e": _tpu("v6e:2x2", 918e12, 1640e9),
}
