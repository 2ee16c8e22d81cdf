"""The state of a permutation test on disk: a test that is stopped goes on with the same permutations."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdissect.errors import InputError
from jaxdissect.runtime.progress import warn
from jaxdissect.runtime.state_files import State, read_state, write_state
from jaxdissect.significance.permutation import Null


@dataclasses.dataclass(frozen=True, eq=False)
class SavedNull:
    """Where a label set's null is kept while labels are permuted.

    Attributes:
      path: of the state.
      of: JSON values that tell this test from others, by names for people.
    """

    path: Path
    of: Mapping[str, Any]

    def read(self, nothing: Null) -> Null:
        """What is kept; `nothing` if nothing is.

        Raises:
          InputError: the file is damaged, or another test's.
        """
        return read_state(self.path, "a permutation test", self.of, lambda state: _parse(state, nothing)) or nothing

    def write(self, null: Null) -> None:
        """Keep the permutations so far in the place of those before, which stay if that fails; says so."""
        try:
            write_state(self.path, State(self.of, vars(null), {}))
        except InputError as error:
            warn(f"the state was not saved, the one before is kept: {error}")


def _parse(state: State, nothing: Null) -> Null:
    found = Null(**{field.name: state.arrays[field.name] for field in dataclasses.fields(Null)})
    if found.histogram.shape != nothing.histogram.shape:
        raise ValueError(f"a histogram of {found.histogram.shape}, not of {nothing.histogram.shape}")
    return found
