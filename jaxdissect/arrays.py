"""Trees of arrays on disk (orbax)."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def write_arrays(folder: Path, tree: Any) -> None:
    """Write a tree of arrays to a folder that is not there yet.

    Raises:
      OSError: it cannot be written.
    """
    import orbax.checkpoint as ocp

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute(), jax.tree.map(jnp.asarray, tree))
    except ValueError as error:  # tensorstore's, where the disk is full
        raise OSError(reason(error)) from error
    note = folder / "commit_success.txt"  # in which orbax notes the folder, no business of those it is passed on to
    if note.exists():
        note.write_text("Checkpoint commit was successful\n")


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf, by its path."""
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def reason(error: BaseException) -> str:
    """The first line of what orbax, or tensorstore beneath it, says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
