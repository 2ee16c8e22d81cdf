"""Files are written whole or not at all, and known by their SHA-256."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

from jaxdissect.errors import InputError, first_line

PART = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)
SYSTEM_CALL = re.compile(r"\b\w+\(\) failed")  # as ArrayRecord tells that the system refuses something
SPARE_FILES = 1024  # that may be open beside those of a data set


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file that becomes `path` if the block succeeds, so that no reader ever sees a part of it.

    Raises:
      InputError: the file cannot be written (no space, no permission); nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path_beside(path)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write a JSON value, whole or not at all.

    Raises:
      InputError: the file cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


@contextmanager
def new_folder(path: Path, known_as: Path | None = None) -> Iterator[Path]:
    """A temporary folder that becomes `path` if the block succeeds, and vanishes otherwise.

    Args:
      path: of the folder.
      known_as: the name that errors tell, if another.

    Raises:
      InputError: `path` exists and is not an empty folder, or cannot be written.
    """
    require_new(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path_beside(path)
        temporary.mkdir()
    except OSError as error:
        raise cannot_write(known_as or path, error) from error
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(known_as or path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` if the block succeeds, and vanishes otherwise.

    One process at a time: what a killed one left beside `path` is removed.

    Raises:
      InputError: `path` is a file, or cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} must be a folder or not be there: remove it.")
    for left in (*path.parent.glob(f".{path.name}-*"), *path.parent.glob(f"..{path.name}-*")):
        shutil.rmtree(left, ignore_errors=True)
    beside, before = path_beside(path), path_beside(path)
    with new_folder(beside, known_as=path) as temporary:
        yield temporary
    try:
        if path.exists():
            path.replace(before)
        beside.replace(path)
    except BaseException as error:
        if before.exists() and not path.exists():
            before.replace(path)
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise
    shutil.rmtree(before, ignore_errors=True)


def stays_inside(name: str) -> bool:
    """Whether a name that a table or a record gives means a file inside its folder, on any system.

    Links are not looked at: they are made by whom the folder belongs to, names may come from anywhere.

    Args:
      name: of the file, relative to the folder.
    """
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name) and not any(path.drive or path.root or ".." in path.parts for path in paths)


def require_new(path: Path) -> None:
    """Refuse a path that something stands at, other than an empty folder."""
    try:
        taken = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    except OSError as error:  # a name too long
        raise cannot_write(path, error) from error
    if taken:
        raise InputError(f"{path} exists already and is not an empty folder: choose another, or remove it first.")


def require_regular(path: Path) -> None:
    """Refuse what is there but is no regular file: reading a pipe or a device could wait or go on for ever."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} must be a regular file: choose another.")


def require_folder(folder: Path) -> None:
    """Make a folder that files can be written to.

    Raises:
      InputError: it cannot be made, is a file, or is read-only.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise cannot_write(folder, error) from error


@contextmanager
def locked(folder: Path, option: str) -> Iterator[None]:
    """Keep other processes from writing to a folder, which is made if it is not there.

    Args:
      folder: to lock.
      option: what the user named it by, e.g. "--run runs/esc50".

    Raises:
      InputError: another process is writing to it, or it cannot be written.
    """
    require_folder(folder)
    if sys.platform == "win32":  # no lock there
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{option}: another process is writing to it: wait for it, or choose another.") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what would not fit.

    Raises:
      InputError: the disk of `folder` has less than `needed` bytes free.
    """
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"{folder}: {what} needs {needed / 1e6:,.0f} MB of disk and {free / 1e6:,.0f} MB are free: "
            f"make room or choose another folder."
        )


def reserve(path: Path) -> None:
    """Claim the disk blocks of a file that has holes: a memory map on a disk that fills up kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def allow_open_files(count: int) -> None:
    """Raise the limit of open files, as far as the system lets a process, so that `count` files more can be open."""
    if sys.platform == "win32":  # no such limit there
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count + SPARE_FILES:
        wanted = count + SPARE_FILES if hard == resource.RLIM_INFINITY else min(count + SPARE_FILES, hard)
        with suppress(OSError, ValueError):  # macOS has a lower one beside
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def refused_by_system(error: Exception, fewer: str) -> str | None:
    """What the system refused to a reader of ArrayRecord, and what to do; None if the file itself is at fault.

    Args:
      error: of the reader.
      fewer: how to need fewer open files.
    """
    reason = first_line(error)
    if not SYSTEM_CALL.search(reason):
        return None
    if os.strerror(errno.EMFILE) in reason:
        return f"{reason}: allow more open files (`ulimit -n`), or {fewer}"
    return f"{reason}: see to it that it is there and can be read"


def parse_part(part: str) -> tuple[int, int]:
    """I and N of `--part I/N`.

    Raises:
      InputError: it is something else.
    """
    found = PART.fullmatch(part)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--part must be I/N with I from 1 to N, e.g. 2/8, got {part!r}.")
    return int(found[1]), int(found[2])


def json_fingerprint(value: object) -> str:
    """SHA-256 of a JSON value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_beside(path: Path) -> Path:
    """A hidden name in the same folder, for what is to be moved to `path` when it is complete."""
    return path.with_name(f".{path.name}-{secrets.token_hex(4)}")


def sweep(path: Path) -> None:
    """Remove what a process that was killed has left beside a file; to be called under a lock."""
    for left in path.parent.glob(f".{path.name}-*"):
        left.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> InputError:
    """What to tell of a file that the system refuses to write."""
    return InputError(f"{path} cannot be written ({error.strerror or error}): make room or choose another folder.")
