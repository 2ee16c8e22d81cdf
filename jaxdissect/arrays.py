"""Trees of arrays on disk (orbax)."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdissect.errors import InputError
from jaxdissect.files import require_space


def write_arrays(folder: Path, tree: Any) -> None:
    """Write a tree of arrays to a folder that is not there yet.

    Raises:
      InputError: it cannot be written.
    """
    import orbax.checkpoint as ocp

    arrays = jax.tree.map(jnp.asarray, tree)
    require_space(folder, sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)), "the arrays of this folder")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute(), arrays)
    except (OSError, ValueError) as error:  # tensorstore raises a ValueError where the disk is full
        raise InputError(
            f"{folder} cannot be written ({reason(error)}): make room or choose another folder."
        ) from error
    note = folder / "commit_success.txt"  # in which orbax notes the folder, no business of those it is passed on to
    if note.exists():
        note.write_text("Checkpoint commit was successful\n")


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf, by its path."""
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def reason(error: BaseException) -> str:
    """The first line of what orbax, or tensorstore beneath it, says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
