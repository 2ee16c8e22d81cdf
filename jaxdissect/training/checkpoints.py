"""States of a training on disk: the newest ones that were good, each either complete or absent (orbax)."""

from pathlib import Path

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from jaxdissect.errors import InputError, first_line
from jaxdissect.runtime.array_trees import shapes
from jaxdissect.runtime.files import require_space
from jaxdissect.types import Record

KEPT_STATES = 2  # the newest, and the one before it in case a gradient turns out not to be finite


class Checkpoints:
    """The states of one training, each with a record of JSON values.

    Attributes:
      folder: folder of the states, each in a folder named by its step.
    """

    def __init__(self, folder: Path) -> None:
        import orbax.checkpoint as ocp

        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT_STATES, create=True, enable_async_checkpointing=False)
        # Not asynchronous: a state that `save` has returned for is complete, even if the process is killed next.
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: PyTree, record: Record) -> None:
        """Write a state; it is complete when this returns.

        Args:
          step: number of steps done; where its state exists already, nothing is written.
          state: arrays of the state.
          record: JSON values beside them.

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

    def restore(self, like: PyTree, mesh: Mesh) -> tuple[PyTree, Record] | None:
        """Read the newest state, a copy on every device, and its record; None if there is none.

        Args:
          like: arrays, or what has their shapes and types, in the tree of the state.
          mesh: the devices.

        Raises:
          InputError: the state is damaged, or of other sizes.
        """
        import orbax.checkpoint as ocp

        step = self._manager.latest_step()
        if step is None:
            return None
        everywhere = NamedSharding(mesh, P())
        # Arrays are read straight onto the devices.
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore())
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                metadata = checkpointer.metadata(self.folder / str(step) / "state").item_metadata
            # Where shapes differ, orbax fails with messages that help nobody. On disk, paths have other names.
            if sorted(shapes(metadata.tree).values()) != sorted(shapes(like).values()):
                raise ValueError("other shapes")
            restored = self._manager.restore(step, args=items)
        except Exception as error:  # orbax raises bare ones for damaged files
            raise InputError(
                f"{self.folder / str(step)} is damaged or holds a training of other sizes ({first_line(error)}): "
                f"remove that folder to resume from the state before it, or {self.folder.parent} to start afresh."
            ) from error
        return restored["state"], restored["record"]

    def forget(self, first: int) -> None:
        """Remove the states of step `first` and later."""
        for step in self._manager.all_steps():
            if step >= first:
                self._manager.delete(step)

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.close()
