"""Trees of arrays on disk (orbax)."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdissect.errors import InputError, first_line


def write_arrays(folder: Path, tree: Any) -> None:
    """Write a tree of arrays to a folder that is not there yet.

    Raises:
      OSError: it cannot be written.
    """
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(folder.absolute(), jax.tree.map(jnp.asarray, tree))
    except ValueError as error:  # tensorstore's, where the disk is full
        raise OSError(first_line(error)) from error
    note = folder / "commit_success.txt"  # in which orbax notes the folder, no business of those it is passed on to
    if note.exists():
        note.write_text("Checkpoint commit was successful\n")


def read_arrays(folder: Path, target: Any, described_in: str, remedy: str) -> Any:
    """Read a tree of arrays that `write_arrays` wrote, onto one device.

    Args:
      folder: that holds them.
      target: their shapes and types.
      described_in: the file that says so.
      remedy: what to do if it does not hold.

    Raises:
      InputError: the folder is missing, damaged, or holds other arrays.
    """
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), target)
    folder = folder.absolute()
    try:
        with _checkpointer() as checkpointer:
            metadata = checkpointer.metadata(folder).item_metadata
            found = {} if metadata is None else shapes(metadata.tree)
            if metadata is None or found == shapes(target):  # orbax itself fails untidily where they differ
                return checkpointer.restore(folder, target)
    except Exception as error:  # orbax raises bare ones for damaged files
        raise InputError(
            f"{folder} does not hold the arrays that {described_in} describes, or is damaged ({first_line(error)}): "
            f"{remedy}."
        ) from error
    wanted = shapes(target)
    name = sorted(set(found.items()) ^ set(wanted.items()))[0][0]
    raise InputError(
        f"{folder} does not hold the arrays that {described_in} describes: {name} should be "
        f"{wanted.get(name, 'absent')}, found {found.get(name, 'nothing')}: {remedy}."
    )


def _checkpointer() -> Any:
    """Of this process alone: of several, one may fail and the others must not wait for it."""
    import orbax.checkpoint as ocp

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process-{me}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf, by its path."""
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
