"""Files and folders on disk: written whole or not at all, locked, checked for room, and known by their SHA-256."""

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

from jaxdissect.errors import InputError, first_line, require

PART_OPTION = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)
FAILED_SYSTEM_CALL = re.compile(r"\b\w+\(\) failed")  # in ArrayRecord's messages, such as "open() failed"
SPARE_FILES = 1024  # files that may be open beside those of a data set


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system refuses while the block writes a file or folder into an error that names it.

    Args:
      path: path for the message.

    Raises:
      InputError: the block has met an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file that becomes `path` if the block succeeds, so that no reader ever sees a part of it.

    Args:
      path: path of the file; its folder is made.

    Raises:
      InputError: the file cannot be written (no space, no permission); nothing is left behind.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path_beside(path)
        temporary.touch(exist_ok=False)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())  # else a power cut could leave the new name with none of the content
            temporary.replace(path)
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
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` if the block succeeds, and vanishes otherwise.

    Args:
      path: path of the folder.

    Raises:
      InputError: `path` exists and is not an empty folder, or cannot be written.
    """
    require_new(path)
    temporary = path_beside(path)
    with writing(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` if the block succeeds, and vanishes otherwise.

    One process at a time may use it: what a killed one left beside `path` is removed.

    Args:
      path: path of the folder, which may exist.

    Raises:
      InputError: `path` is a file, or cannot be written.
    """
    require(not path.exists() or path.is_dir(), f"{path} must be a folder or not exist: remove it.")
    for leftover in path.parent.glob(f".{path.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary, before = path_beside(path), path_beside(path)
    with writing(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            # A folder that is not empty cannot be replaced in one step, so the old one is moved away first.
            if path.exists():
                path.replace(before)
            temporary.replace(path)
        finally:
            if before.exists() and not path.exists():  # the second move failed
                before.replace(path)
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(before, ignore_errors=True)


def stays_inside(name: str) -> bool:
    """Whether the name of a file in a table or a record leads to a file inside its folder, on any system.

    Links are not looked at: the owner of the folder makes them, while names may come from anywhere.

    Args:
      name: name of the file, relative to the folder.
    """
    # By the rules of both kinds of system: "C:x" and "..\x" are harmless on one and leave the folder on the other.
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name) and not any(path.drive or path.root or ".." in path.parts for path in paths)


def require_new(path: Path) -> None:
    """Refuse a path that exists, other than an empty folder.

    Raises:
      InputError: it exists, or the system does not allow the name.
    """
    with writing(path):  # the name may be too long
        taken = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    require(not taken, f"{path} exists already and is not an empty folder: choose another, or remove it first.")


def require_regular(path: Path) -> None:
    """Refuse what exists but is no regular file: reading a pipe or a device could wait or continue for ever.

    Raises:
      InputError: it is a folder, a pipe or a device.
    """
    require(not path.exists() or path.is_file(), f"{path} must be a regular file: choose another.")


def require_folder(folder: Path) -> None:
    """Make a folder that files can be written to.

    Raises:
      InputError: it cannot be made, is a file, or is read-only.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions do not say whether a file can be made, on a read-only file system or as root; making one does.
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def locked(folder: Path, option: str) -> Iterator[None]:
    """Keep other processes from writing to a folder, which is made if it does not exist.

    The system releases the lock when the process ends, however it ends.

    Args:
      folder: the folder.
      option: option by which the user named it, such as "--run runs/esc50".

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
    """Refuse to begin what would not fit on the disk.

    Args:
      folder: folder that is to hold it, which need not exist.
      needed: size in bytes.
      what: what is to be written, in words.

    Raises:
      InputError: the disk has fewer bytes free.
    """
    # The nearest folder that exists is on the same disk as one that will be made in it.
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    require(
        free >= needed,
        f"{folder}: {what} needs {needed / 1e6:,.0f} MB of disk and {free / 1e6:,.0f} MB are free: make room or choose "
        f"another folder.",
    )


def reserve(path: Path) -> None:
    """Claim the disk blocks of a file that has holes: a memory map on a disk that fills up kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def allow_open_files(count: int) -> None:
    """Raise the limit of open files, as far as the system allows, so that `count` files more can be open."""
    if sys.platform == "win32":  # no such limit there
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count + SPARE_FILES:
        wanted = count + SPARE_FILES if hard == resource.RLIM_INFINITY else min(count + SPARE_FILES, hard)
        with suppress(OSError, ValueError):  # macOS has a second, lower limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def refused_by_system(error: Exception, fewer: str) -> str | None:
    """What the system refused to a reader of ArrayRecord, and what to do; None if the file itself is at fault.

    Args:
      error: error of the reader.
      fewer: how the user can need fewer open files, as the end of a sentence.
    """
    reason = first_line(error)
    if not FAILED_SYSTEM_CALL.search(reason):
        return None
    if os.strerror(errno.EMFILE) in reason:
        return f"{reason}: allow more open files (`ulimit -n`), or {fewer}"
    return f"{reason}: check that it exists and can be read"


def parse_part(part: str) -> tuple[int, int]:
    """I and N of `--part I/N`.

    Raises:
      InputError: it is something else.
    """
    match = PART_OPTION.fullmatch(part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--part must be I/N with I from 1 to N, e.g. 2/8, got {part!r}.")
    return int(match[1]), int(match[2])


def json_fingerprint(value: object) -> str:
    """SHA-256 of a JSON value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_beside(path: Path) -> Path:
    """A hidden name in the same folder, for a file or folder that is moved to `path` when it is complete."""
    return path.with_name(f".{path.name}-{secrets.token_hex(4)}")


def sweep(path: Path) -> None:
    """Remove what a process that was killed has left beside a file; only while the folder is locked."""
    for leftover in path.parent.glob(f".{path.name}-*"):
        leftover.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error for a file or folder that the system refuses to write."""
    return InputError(f"{path} cannot be written ({error.strerror or error}): make room or choose another folder.")
