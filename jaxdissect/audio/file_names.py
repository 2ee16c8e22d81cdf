"""A clip's name in the table -> its file in the data folder, or why there is none.

The table names files; what lies behind a name is the user's own affair: a link inside the data folder may lead
anywhere, to another disk or into the store of a model hub.
"""

import errno
import threading
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from stat import S_ISREG

from jaxdissect.errors import UnreadableError
from jaxdissect.runtime.files import stays_inside

SOUND = "wav wave flac mp3 mp2 ogg oga opus aif aiff aifc au snd caf w64 rf64 sph nist m4a mp4 aac wma webm mka amr wv"
ENDINGS = frozenset(SOUND.split())  # a table may lie beside a clip under the same name
FOLDERS = 1024  # whose names are remembered
_listing = threading.Lock()  # threads that decode meet the same missing folder at once


def find_clip(data: Path, file_name: str) -> Path:
    """The file of a clip.

    Args:
      data: the data folder.
      file_name: relative to `data`.

    Raises:
      UnreadableError: the name leaves the data folder, or no regular file with bytes in it has it.
    """
    if not stays_inside(file_name):
        raise UnreadableError("lies outside the data folder")
    path = data / file_name
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise UnreadableError(_why_not_opened(data, file_name, error)) from error
    if not S_ISREG(status.st_mode):  # reading a pipe or a device could wait for ever
        raise UnreadableError("is not a regular file")
    if not status.st_size:
        raise UnreadableError("empty file: fetch or copy it again")
    return path


def _why_not_opened(data: Path, file_name: str, error: OSError | ValueError) -> str:
    """What is said of a name that the system does not open: no permission, too long, a loop of links, not there."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ELOOP:
        return f"cannot be opened: {_first_link(data, file_name)}, a loop of links: make the link anew"
    if number not in (errno.ENOENT, errno.ENOTDIR):
        return f"cannot be opened: {getattr(error, 'strerror', None) or error}"
    link = _first_link(data, file_name)
    if link is not None:
        return f"missing: {link}, which is not there: mount or fetch that, or make the link anew"
    return _near_name(data, file_name)


def _first_link(data: Path, file_name: str) -> str | None:
    """The first part of a path that is a link without an end."""
    path = data
    for part in PurePosixPath(file_name).parts:
        path = path / part
        if path.is_symlink() and not path.exists():
            return f"{path.relative_to(data)} is a link to {path.readlink()}"
    return None


def _near_name(data: Path, file_name: str) -> str:
    """What to say of a file that is missing: which one is there whose name differs by what people overlook."""
    parts = PurePosixPath(file_name.replace("\\", "/")).parts
    folder = data
    present: list[str] = []
    for number, part in enumerate(parts):
        name = _match(folder, part, is_file=number == len(parts) - 1)
        if name is None and number < len(parts) - 1:
            return f"missing: there is no folder {'/'.join([*present, part])!r} in the data folder"
        if name is None:
            return "missing"
        present.append(name)
        folder = folder / name
        if number < len(parts) - 1 and not folder.is_dir():
            return f"missing: {'/'.join(present)!r} is a file and no folder, perhaps a link that was copied as text"
    differences = _differences(file_name, parts, present)
    if not differences:  # it came after it was looked for
        return "missing"
    return (
        f"missing; {'/'.join(present)!r} is there, which differs in {' and in '.join(differences)}: write that name "
        f"into the table, or rename the file"
    )


def _match(folder: Path, part: str, *, is_file: bool) -> str | None:
    """The name in a folder that is the same but for what people overlook."""
    try:
        with _listing:
            names, stems = _names(str(folder), folder.stat().st_mtime_ns)
    except (OSError, ValueError):
        return None
    key = _key(part)
    same = names.get(key, [])
    if part in same:
        return part
    if not same and is_file:
        same = stems.get(key, []) or stems.get(_stem(key), [])
    return same[0] if same else None


@lru_cache(maxsize=FOLDERS)
def _names(folder: str, changed: int) -> tuple[Mapping[str, list[str]], Mapping[str, list[str]]]:
    """The names in a folder, by what is left of them without case and ways to write a letter; and without ending."""
    names: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    for name in sorted(path.name for path in Path(folder).iterdir()):
        key = _key(name)
        names.setdefault(key, []).append(name)
        if key.rpartition(".")[2] in ENDINGS:
            stems.setdefault(_stem(key), []).append(name)
    return names, stems


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _differences(file_name: str, parts: tuple[str, ...], present: list[str]) -> list[str]:
    """By what a name in the table and one on the disk differ."""
    differences = ["'\\' for '/'"] if "\\" in file_name else []
    pairs = [
        (unicodedata.normalize("NFC", part), unicodedata.normalize("NFC", name))
        for part, name in zip(parts, present, strict=True)
    ]
    if any(part != name and plain == other for part, name, (plain, other) in zip(parts, present, pairs, strict=True)):
        differences.append("how accents are written (Unicode normalisation)")
    if any(part != name and _key(part) == _key(name) for part, name in pairs):
        differences.append("upper and lower case")
    if any(_key(part) != _key(name) for part, name in pairs):
        differences.append("its ending")
    return differences
