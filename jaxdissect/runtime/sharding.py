"""Where arrays live: one mesh over this process's devices, whose only axis splits the clips of a batch.

One device is the simplest case of the same code. Nothing here communicates between devices: every device
counts its own clips, and what they counted is added on the host.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "device"


def local_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """One axis over `devices`; by default over all devices of this process."""
    devices = list(jax.local_devices() if devices is None else devices)
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def shard_clips(tree: Any, mesh: Mesh) -> Any:
    """Put arrays whose first axis is `clip` (a multiple of the devices) on the mesh, an equal share per device."""
    return jax.device_put(tree, NamedSharding(mesh, P(AXIS)))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a copy of every array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def per_device(init: Callable[[], Any], mesh: Mesh) -> Any:
    """The same initial state on every device, stacked along a leading axis `device`."""

    def stacked() -> Any:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (mesh.size, *leaf.shape)), init())

    return jax.jit(stacked, out_shardings=NamedSharding(mesh, P(AXIS)))()


def map_per_device(step: Callable[..., tuple[Any, Any]], mesh: Mesh) -> Any:
    """Jit `step(state, replicated, clips) -> (state, per_clip)` so that each device runs it on its own clips.

    `state` carries the leading `device` axis of `per_device` and is donated; `step` itself sees no such axis.
    """

    def local(state: Any, replicated: Any, clips: Any) -> tuple[Any, Any]:
        state, per_clip = step(jax.tree.map(lambda leaf: leaf[0], state), replicated, clips)
        return jax.tree.map(lambda leaf: leaf[None], state), per_clip

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(P(AXIS), P(), P(AXIS)), out_specs=P(AXIS))
    return jax.jit(sharded, donate_argnums=0)


def map_clips(
    function: Callable[..., Any],
    mesh: Mesh,
    in_axes: Sequence[int | None],
    out_axis: int = 0,
    donate: Sequence[int] = (),
) -> Any:
    """Jit a function so that each device runs it on its own clips; left to the compiler, an FFT gathers them all.

    Args:
      function: of pytrees of arrays.
      mesh: of the devices.
      in_axes: for each argument its axis `clip`; None: the same on every device.
      out_axis: axis `clip` of every result.
      donate: numbers of the arguments whose memory the results may take.
    """

    def spec(axis: int | None) -> P:
        return P() if axis is None else P(*[None] * axis, AXIS)

    sharded = jax.shard_map(
        function, mesh=mesh, in_specs=tuple(map(spec, in_axes)), out_specs=spec(out_axis), check_vma=False
    )
    return jax.jit(sharded, donate_argnums=tuple(donate))


def pad_clips(array: np.ndarray, clips: int) -> np.ndarray:
    """Append zero rows until the first axis has `clips` of them."""
    return np.pad(array, [(0, clips - len(array))] + [(0, 0)] * (array.ndim - 1))
