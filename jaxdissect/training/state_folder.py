"""The folder beside `--out` that holds a training's state: known by its content, and emptied of nothing else."""

import contextlib
import shutil
from pathlib import Path

from jaxdissect.errors import InputError

CHECKPOINTS, RECORD, LAST_GOOD = "checkpoints", "training.json", "last_good"
CONTENT = (CHECKPOINTS, RECORD, LAST_GOOD, "pcm.npy", "clips.json")


def require_own(folder: Path) -> None:
    """Refuse a folder that holds something of another's.

    Raises:
      InputError: what stands there is no state of a training.
    """
    foreign = sorted(path.name for path in folder.glob("*") if path not in (*_own(folder), *_leftovers(folder)))
    if foreign:
        raise InputError(
            f"{folder} is where the state of this training goes, and holds {foreign[0]!r}, which is none: choose "
            f"another --out, or move that folder."
        )


def sweep(folder: Path) -> None:
    """Remove what a killed process has left half written."""
    for path in _leftovers(folder):
        _remove(path)


def remove(folder: Path) -> None:
    """Remove the state, and the folder if nothing else is in it."""
    for path in (*_own(folder), *_leftovers(folder)):
        _remove(path)
    with contextlib.suppress(OSError):
        folder.rmdir()


def has_state(folder: Path) -> bool:
    """Whether a step was saved here."""
    return any(path.name.isdigit() for path in (folder / CHECKPOINTS).glob("*"))


def _own(folder: Path) -> list[Path]:
    return [folder / name for name in CONTENT if (folder / name).exists()]


def _leftovers(folder: Path) -> list[Path]:
    hidden = [path for name in CONTENT for path in folder.glob(f".{name}-*")]
    return [*hidden, *(folder / CHECKPOINTS).glob("*.orbax-checkpoint-tmp*")]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
