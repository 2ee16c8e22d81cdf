"""Parts of a file that look like whole files, with some bytes replaced.

libsndfile believes the length that a header gives. It reads a window in which the header gives the true length, or
none. The file on the disk is never changed, and never held in memory as a whole.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

OpenFile = io.BufferedIOBase  # a file on the disk, or bytes in memory
NO_BYTES: Mapping[int, bytes] = MappingProxyType({})
# An MPEG stream has 8 to 448 kbit/s, so that no later frame is a thousand times smaller than the first.
LENGTH_FACTOR = 1000


def open_source(source: Path | bytes) -> OpenFile:
    """Open a file, or the bytes of one, for reading.

    Args:
      source: path of the file, or its bytes.
    """
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def file_size(file: OpenFile) -> int:
    """Bytes of an open file.

    Args:
      file: open file; its position changes.
    """
    return file.seek(0, io.SEEK_END)


def read_at(file: OpenFile, offset: int, size: int) -> bytes:
    """Bytes from one place of an open file; fewer where it ends.

    Args:
      file: open file; its position changes.
      offset: offset of the first byte.
      size: number of bytes.
    """
    file.seek(offset)
    return file.read(size)


class Window:
    """A part of an open file that libsndfile reads instead of the file.

    It has the methods that soundfile calls on a file.
    """

    def __init__(
        self,
        file: OpenFile,
        start: int = 0,
        end: int | None = None,
        replaced: Mapping[int, bytes] = NO_BYTES,
        *,
        hide_length: bool = False,
    ) -> None:
        """Choose the part.

        Args:
          file: open file; it must stay open, and nothing else may move its position between two calls.
          start: offset of the first byte.
          end: offset behind the last byte; default: the end of the file.
          replaced: bytes to read instead of the file's own, by their offset in the file.
          hide_length: report a much larger size, so that libsndfile reads until there is nothing more. It estimates
            the frames of an MPEG stream from the size, and stops at its estimate.
        """
        self._file = file
        self._start = start
        self._size = (file_size(file) if end is None else end) - start
        self._replaced = {offset - start: new for offset, new in replaced.items()}
        self._reported_size = self._size * LENGTH_FACTOR if hide_length else self._size
        self._position = 0
        self._moved_to_end = False

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position, as of a file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        self._moved_to_end = whence == io.SEEK_END and offset == 0
        return self.tell()

    def tell(self) -> int:
        """The position; right after a move to the end, the reported size, for which soundfile then asks."""
        return self._reported_size if self._moved_to_end else self._position

    def read(self, size: int) -> bytes:
        """The next bytes; fewer, or none, where the window ends."""
        self._moved_to_end = False
        size = max(0, min(size, self._size - self._position))
        block = bytearray(read_at(self._file, self._start + self._position, size))
        for offset, new in self._replaced.items():
            # The part of the replacement that falls into this block, which may hold it all, an end of it, or nothing.
            first = max(offset, self._position)
            last = min(offset + len(new), self._position + len(block))
            if first < last:
                block[first - self._position : last - self._position] = new[first - offset : last - offset]
        self._position += len(block)
        return bytes(block)
