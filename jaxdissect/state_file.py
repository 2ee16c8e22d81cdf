"""The state of unfinished work in one file: arrays and a record beside them, written whole or not at all.

A state is what a killed run goes on from with the same results to the bit. It is one NumPy archive (no pickled
objects), not an orbax checkpoint, because orbax's checkpoints of a job of several processes need JAX's coordination
service, which ends every process when one has died.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdissect.errors import InputError
from jaxdissect.files import whole_file

RECORD = "record"


@dataclass(frozen=True, eq=False)
class State:
    """What a state file holds.

    Attributes:
      arrays: by name.
      record: JSON values: whose state this is, and where it stands.
    """

    arrays: Mapping[str, np.ndarray]
    record: Mapping[str, Any]


def write_state(path: Path, state: State) -> None:
    """Write a state in the place of the one before, which stays if that fails.

    Raises:
      InputError: it cannot be written.
    """
    arrays: Any = {RECORD: np.frombuffer(json.dumps(state.record).encode(), np.uint8), **state.arrays}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_state(path: Path, what: str) -> State | None:
    """The state in a file; None if there is none.

    Args:
      path: of the file.
      what: it is a state of, e.g. "a count".

    Raises:
      InputError: the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return State(arrays, json.loads(arrays.pop(RECORD).tobytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read as the state of {what} ({error}): remove it to start that part afresh."
        ) from error


def require_same(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse to go on from another's state.

    Args:
      path: of the state.
      there: what the state says of the work, by the name of each part.
      here: what is asked for now.

    Raises:
      InputError: names what differs.
    """
    differing = [
        f"{name} ({_short(there.get(name))} there, {_short(here.get(name))} here)"
        for name in dict.fromkeys((*here, *there))
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise InputError(
            f"{path} is the state of an unfinished run that differs in {', '.join(differing)}: give what it was begun "
            f"with and it goes on, choose another --run, or remove {path.parent} to start afresh."
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
