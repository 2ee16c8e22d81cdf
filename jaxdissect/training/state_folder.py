"""The folder beside `--out` that holds a training's state. Only what a training writes is ever removed from it."""

import contextlib
import shutil
from pathlib import Path

from jaxdissect.errors import InputError

CHECKPOINTS, RECORD, LAST_GOOD = "checkpoints", "training.json", "last_good"
CONTENT = (CHECKPOINTS, RECORD, LAST_GOOD, "pcm.npy", "clips.json")  # names of all that a training writes


def require_state_folder(folder: Path) -> None:
    """Refuse a folder with a file that no training writes.

    Raises:
      InputError: names the file.
    """
    foreign = sorted(path.name for path in folder.glob("*") if path not in (*_content(folder), *_leftovers(folder)))
    if foreign:
        raise InputError(
            f"{folder} is where the state of this training goes, but it holds {foreign[0]!r}, which is no part of a "
            f"state: choose another --out, or move that folder."
        )


def sweep(folder: Path) -> None:
    """Remove what a killed process has left half written."""
    for path in _leftovers(folder):
        _remove(path)


def remove(folder: Path) -> None:
    """Remove the state, and the folder if nothing else is in it."""
    for path in (*_content(folder), *_leftovers(folder)):
        _remove(path)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()


def has_state(folder: Path) -> bool:
    """Whether the folder holds the state of a step, each of which has the step's number as its name."""
    return any(path.name.isdigit() for path in (folder / CHECKPOINTS).glob("*"))


def _content(folder: Path) -> list[Path]:
    return [folder / name for name in CONTENT if (folder / name).exists()]


def _leftovers(folder: Path) -> list[Path]:
    """Files and folders under the names that jaxdissect and orbax give to what is not complete."""
    hidden = [path for name in CONTENT for path in folder.glob(f".{name}-*")]
    return [*hidden, *(folder / CHECKPOINTS).glob("*.orbax-checkpoint-tmp*")]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
