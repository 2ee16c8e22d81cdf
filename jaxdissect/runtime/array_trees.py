"""Trees of arrays on disk (orbax)."""

from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdissect.errors import InputError, first_line

if TYPE_CHECKING:  # orbax takes a second to import
    import orbax.checkpoint as ocp


def write_arrays(folder: Path, tree: PyTree) -> None:
    """Write a tree of arrays to a folder.

    Args:
      folder: path of the folder, which must not exist.
      tree: arrays, in nested dictionaries.

    Raises:
      OSError: it cannot be written.
    """
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(folder.absolute(), jax.tree.map(jnp.asarray, tree))
    except ValueError as error:  # tensorstore's, where the disk is full
        raise OSError(first_line(error)) from error
    note = folder / "commit_success.txt"  # orbax notes the folder's path in it, which readers elsewhere need not see
    if note.exists():
        note.write_text("Checkpoint commit was successful\n")


def read_arrays(folder: Path, target: PyTree, described_in: str, remedy: str) -> PyTree:
    """Read a tree of arrays that `write_arrays` wrote, onto one device.

    Args:
      folder: folder of the tree.
      target: tree of arrays, or of `jax.ShapeDtypeStruct`, with the shapes and types that are expected.
      described_in: name of the file that says what is expected.
      remedy: what the user can do where the folder holds something else.

    Raises:
      InputError: the folder is missing, damaged, or holds other arrays.
    """
    # By default orbax restores onto the devices that wrote the arrays, which this machine may not have.
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), target)
    folder, expected = folder.absolute(), shapes(target)
    try:
        with _checkpointer() as checkpointer:
            metadata = checkpointer.metadata(folder).item_metadata
            stored = {} if metadata is None else shapes(metadata.tree)
            # Where shapes differ, orbax fails with messages that help nobody, so they are compared before.
            if metadata is None or stored == expected:
                return checkpointer.restore(folder, target)
    except Exception as error:  # orbax raises bare ones for damaged files
        raise InputError(
            f"{folder} does not hold the arrays that {described_in} describes, or is damaged ({first_line(error)}): "
            f"{remedy}."
        ) from error
    # The first leaf by name that only one of the two has with this shape.
    name = min(set(stored.items()) ^ set(expected.items()))[0]
    raise InputError(
        f"{folder} does not hold the arrays that {described_in} describes: {name} should be "
        f"{expected.get(name, 'absent')}, found {stored.get(name, 'nothing')}: {remedy}."
    )


def _checkpointer() -> "ocp.StandardCheckpointer":
    """A checkpointer of this process alone: of several, one may fail, and the others must not wait for it."""
    import orbax.checkpoint as ocp

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process-{me}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf, by its path in the tree."""
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
