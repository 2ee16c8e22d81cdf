"""Where arrays live: one mesh over this process's devices, whose only axis splits the clips of a batch.

One device is the simplest case of the same code. Nothing here communicates between devices: every device
counts its own clips, and what they counted is added on the host.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

AXIS = "device"  # name of the mesh's axis


def local_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis.

    Args:
      devices: devices of the mesh; by default all of this process.
    """
    devices = list(jax.local_devices() if devices is None else devices)
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def shard_clips(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put arrays on the devices of a mesh, an equal part of the clips on each.

    Args:
      tree: arrays whose first axis is `clip`, a multiple of the devices.
      mesh: the devices.
    """
    return jax.device_put(tree, NamedSharding(mesh, P(AXIS)))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a copy of every array on every device of a mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def per_device(init: Callable[[], PyTree], mesh: Mesh) -> PyTree:
    """The same initial state on every device, stacked along a leading axis `device`.

    Args:
      init: makes the state of one device; jit-safe.
      mesh: the devices.
    """

    def stacked() -> PyTree:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (mesh.size, *leaf.shape)), init())

    # Inside jit, each device makes its own part: no device holds the states of all.
    return jax.jit(stacked, out_shardings=NamedSharding(mesh, P(AXIS)))()


def map_per_device(step: Callable[..., tuple[PyTree, PyTree]], mesh: Mesh) -> jax.stages.Wrapped:
    """Jit a step so that each device runs it on its own state and clips.

    Args:
      step: function `step(state, replicated, clips) -> (state, per_clip)` of one device, without the axis `device`.
      mesh: the devices.

    Returns:
      the same function, whose `state` has the leading axis `device` of `per_device`, and is donated.
    """

    def local(state: PyTree, replicated: PyTree, clips: PyTree) -> tuple[PyTree, PyTree]:
        # shard_map hands each device a part of length one of the axis `device`.
        state, per_clip = step(jax.tree.map(lambda leaf: leaf[0], state), replicated, clips)
        return jax.tree.map(lambda leaf: leaf[None], state), per_clip

    # check_vma: results need not be proven equal across devices, and a kernel cannot be.
    split = P(AXIS)
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(split, P(), split), out_specs=split, check_vma=False)
    return jax.jit(sharded, donate_argnums=0)


def map_clips(
    function: Callable[..., PyTree],
    mesh: Mesh,
    in_axes: Sequence[int | None],
    out_axis: int = 0,
    donate: Sequence[int] = (),
) -> jax.stages.Wrapped:
    """Jit a function so that each device runs it on its own clips; the compiler alone would gather them for an FFT.

    Args:
      function: function of pytrees of arrays.
      mesh: the devices.
      in_axes: axis `clip` of each argument; None: the argument is the same on every device.
      out_axis: axis `clip` of every result.
      donate: numbers of the arguments whose memory the results may take.
    """

    def spec(axis: int | None) -> P:
        return P() if axis is None else P(*[None] * axis, AXIS)

    # check_vma: results need not be proven equal across devices, since each belongs to the clips of one.
    sharded = jax.shard_map(
        function, mesh=mesh, in_specs=tuple(map(spec, in_axes)), out_specs=spec(out_axis), check_vma=False
    )
    return jax.jit(sharded, donate_argnums=tuple(donate))


def pad_clips(array: np.ndarray, clips: int) -> np.ndarray:
    """Append zero rows until the first axis has `clips` of them."""
    return np.pad(array, [(0, clips - len(array))] + [(0, 0)] * (array.ndim - 1))
