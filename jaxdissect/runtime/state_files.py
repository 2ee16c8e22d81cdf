"""The state of unfinished work in one file: arrays and a record beside them, written whole or not at all.

A state is what a killed run goes on from with the same results to the bit. It is one NumPy archive (no pickled
objects), not an orbax checkpoint, because orbax's checkpoints of a job of several processes need JAX's coordination
service, which ends every process when one has died.
"""

import contextlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxdissect.errors import InputError
from jaxdissect.runtime.files import whole_file

RECORD = "record"
T = TypeVar("T")
DAMAGE = (OSError, ValueError, TypeError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class State:
    """What a state file holds.

    Attributes:
      of: JSON values that tell the work from others, by names for people.
      arrays: by name.
      record: JSON values: where the work stands.
    """

    of: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    record: Mapping[str, Any]


def write_state(path: Path, state: State) -> None:
    """Write a state in the place of the one before, which stays if that fails.

    Raises:
      InputError: it cannot be written.
    """
    record = json.dumps({"of": state.of, **state.record}).encode()
    arrays: Any = {RECORD: np.frombuffer(record, np.uint8), **state.arrays}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_state(path: Path, what: str, of: Mapping[str, Any], parse: Callable[[State], T]) -> T | None:
    """What a state file says; None if there is none.

    Args:
      path: of the file.
      what: it is a state of, e.g. "a count".
      of: what it must be of.
      parse: makes something of the state.

    Raises:
      InputError: the file is damaged, lacks something, or is another's.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        record = json.loads(arrays.pop(RECORD).tobytes())
        require_same(path, dict(record.pop("of")), of)
        return parse(State(of, arrays, record))
    except FileNotFoundError:
        return None
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(
            f"{path} cannot be read as the state of {what} ({error}): remove it to start that part afresh."
        ) from error


def remove_states(folder: Path) -> None:
    """Remove the states of a stage, when what they hold is saved elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # states of other stages
        folder.parent.rmdir()


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
