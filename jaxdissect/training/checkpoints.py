"""States of a training on disk: the last ones that were good, each whole or not there (orbax)."""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdissect.errors import InputError, first_line
from jaxdissect.runtime.array_trees import shapes
from jaxdissect.runtime.files import require_space

KEPT = 2


class Checkpoints:
    """The states of one training, each with a record of JSON values beside it, in `folder`."""

    def __init__(self, folder: Path) -> None:
        import orbax.checkpoint as ocp

        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: Any, record: dict[str, Any]) -> None:
        """Write a state; it is there whole when this returns.

        Raises:
          InputError: it cannot be written; the states before it are kept.
        """
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
        if step in self._manager.all_steps():
            return
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        require_space(self.folder, needed, "a state of the training")
        try:
            self._manager.save(step, args=items)
        except (OSError, ValueError) as error:  # tensorstore raises a ValueError where the disk is full
            raise InputError(
                f"{self.folder / str(step)} cannot be written ({first_line(error)}): make room and repeat the command, "
                f"which resumes the training from the state before."
            ) from error

    def restore(self, like: Any, mesh: Mesh) -> tuple[Any, dict[str, Any]] | None:
        """The newest state, a copy on every device, and its record; None if there is none.

        Args:
          like: arrays, or what has their shapes and types, in the tree of the state.
          mesh: devices.

        Raises:
          InputError: what is there is damaged, or of other sizes.
        """
        import orbax.checkpoint as ocp

        step = self._manager.latest_step()
        if step is None:
            return None
        everywhere = NamedSharding(mesh, P())
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore())
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                metadata = checkpointer.metadata(self.folder / str(step) / "state").item_metadata
            if _shapes(metadata.tree) != _shapes(like):  # orbax itself fails untidily where they differ
                raise ValueError("other shapes")
            found = self._manager.restore(step, args=items)
        except Exception as error:  # orbax raises bare ones for damaged files
            raise InputError(
                f"{self.folder / str(step)} is damaged or holds a training of other sizes ({first_line(error)}): "
                f"remove that folder to resume from the state before it, or {self.folder.parent} to start afresh."
            ) from error
        return found["state"], found["record"]

    def forget(self, first: int) -> None:
        """Remove the states of step `first` and later."""
        for step in self._manager.all_steps():
            if step >= first:
                self._manager.delete(step)

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.close()


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return sorted(shapes(tree).values())  # paths are told in other words on disk
