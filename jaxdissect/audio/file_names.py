"""A clip's name in the table -> its file in the data folder, or why there is none.

A name must stay inside the data folder. A link there may lead anywhere, to another disk or into the store of a model
hub: the folder's owner made it.
"""

import errno
import threading
import unicodedata
from functools import lru_cache
from pathlib import Path, PurePosixPath
from stat import S_ISREG

from jaxdissect.errors import UnreadableError
from jaxdissect.runtime.files import stays_inside

AUDIO = "wav wave flac mp3 mp2 ogg oga opus aif aiff aifc au snd caf w64 rf64 sph nist m4a mp4 aac wma webm mka amr wv"
ENDINGS = frozenset(AUDIO.split())  # of files that are proposed for a clip: a table may have the clip's name, too
FOLDERS_REMEMBERED = 1024  # folders whose listings are kept
ACCENTS, CASE, ENDING = "how accents are written (Unicode normalisation)", "upper and lower case", "its ending"
_one_listing_at_a_time = threading.Lock()  # many threads that decode come to the same missing folder at once


def find_clip(data: Path, file_name: str) -> Path:
    """The file of a clip.

    Args:
      data: data folder.
      file_name: path of the file, relative to `data`.

    Raises:
      UnreadableError: the name leaves the data folder, or there is no regular file of that name with bytes in it.
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
    """Why the system does not open a file: no permission, a name too long, a loop of links, or no such file."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ELOOP:
        return f"cannot be opened: {_first_broken_link(data, file_name)}, a loop of links: make the link anew"
    if number not in (errno.ENOENT, errno.ENOTDIR):
        return f"cannot be opened: {getattr(error, 'strerror', None) or error}"
    link = _first_broken_link(data, file_name)
    if link is not None:
        return f"missing: {link}, which is not there: mount or fetch that, or make the link anew"
    return _why_missing(data, file_name)


def _first_broken_link(data: Path, file_name: str) -> str | None:
    path = data
    for part in PurePosixPath(file_name).parts:
        path = path / part
        if path.is_symlink() and not path.exists():
            return f"{path.relative_to(data)} is a link to {path.readlink()}"
    return None


def _why_missing(data: Path, file_name: str) -> str:
    """Where the path of a missing file ends, or which file has nearly its name."""
    *folders, last = PurePosixPath(file_name.replace("\\", "/")).parts
    path = data
    present: list[str] = []  # the parts of the path that are there, with their own names
    for part in folders:
        name = _near_name(path, part, is_file=False)
        if name is None:
            return f"missing: there is no folder {'/'.join([*present, part])!r} in the data folder"
        present.append(name)
        path = path / name
        if not path.is_dir():
            return f"missing: {'/'.join(present)!r} is a file and no folder, perhaps a link that was copied as text"
    name = _near_name(path, last, is_file=True)
    if name is None:
        return "missing"
    present.append(name)
    kinds = {_difference(part, name) for part, name in zip((*folders, last), present, strict=True)}
    differences = ["'\\' for '/'"] if "\\" in file_name else []
    differences += [kind for kind in (ACCENTS, CASE, ENDING) if kind in kinds]
    if not differences:  # the file came after it was looked for
        return "missing"
    return (
        f"missing; {'/'.join(present)!r} is there, which differs in {' and in '.join(differences)}: write that name "
        f"into the table, or rename the file"
    )


def _near_name(folder: Path, part: str, *, is_file: bool) -> str | None:
    """The name in a folder that differs from a part of a path by nothing, or by what people overlook."""
    try:
        with _one_listing_at_a_time:
            names, stems = _listing(str(folder), folder.stat().st_mtime_ns)
    except (OSError, ValueError):
        return None
    key = _key(part)
    near = names.get(key, [])
    if part in near:
        return part
    if not near and is_file:
        near = stems.get(key, []) or stems.get(_stem(key), [])
    return near[0] if near else None


@lru_cache(maxsize=FOLDERS_REMEMBERED)
def _listing(folder: str, changed_ns: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The names in a folder by their keys, and those of audio files by their keys without ending.

    Args:
      folder: path of the folder.
      changed_ns: time of its last change, so that a listing is not kept beyond it.
    """
    names: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    for name in sorted(path.name for path in Path(folder).iterdir()):
        key = _key(name)
        names.setdefault(key, []).append(name)
        if key.rpartition(".")[2] in ENDINGS:
            stems.setdefault(_stem(key), []).append(name)
    return names, stems


def _key(name: str) -> str:
    """What names share that differ in upper and lower case, or in how accents are written."""
    return _composed(_composed(name).casefold())


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _difference(part: str, name: str) -> str:
    """How a part of a path in the table differs from a name on the disk."""
    if part == name:
        return ""
    if _composed(part) == _composed(name):
        return ACCENTS
    return CASE if _key(part) == _key(name) else ENDING
