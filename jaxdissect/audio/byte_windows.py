"""Parts of a file as files of their own, with some bytes replaced.

libsndfile believes what a header says of the length. It is given a window in which the header says what is true, or
nothing; the file on the disk is never changed, and never held in memory as a whole.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

Content = io.BufferedIOBase  # of a file that is open, or of bytes
NOTHING: Mapping[int, bytes] = MappingProxyType({})
FAR = 1000  # no MPEG stream has frames so much smaller than its first: 8 to 448 kbit/s


def open_content(source: Path | bytes) -> Content:
    """A file, or what a file holds, for reading.

    Args:
      source: path of the file, or what it holds.
    """
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def content_size(content: Content) -> int:
    """Bytes of an open file.

    Args:
      content: the file; its position changes.
    """
    return content.seek(0, io.SEEK_END)


def read_at(content: Content, offset: int, size: int) -> bytes:
    """Bytes from one place of an open file; fewer where it ends.

    Args:
      content: the file; its position changes.
      offset: of the first byte.
      size: how many.
    """
    content.seek(offset)
    return content.read(size)


class Window:
    """A part of an open file as a file of its own: what libsndfile reads instead of the file.

    It has the methods that soundfile asks of a file.
    """

    def __init__(
        self,
        content: Content,
        start: int = 0,
        end: int | None = None,
        replaced: Mapping[int, bytes] = NOTHING,
        *,
        hide_length: bool = False,
    ) -> None:
        """Choose the part.

        Args:
          content: the file; it must stay open, and nothing else may move its position between two calls.
          start: offset of the first byte.
          end: offset behind the last byte; default: the end of the file.
          replaced: bytes that stand at some offsets of the file instead of its own.
          hide_length: claim to be much longer, so that libsndfile reads on until there is nothing more. It estimates
            how many frames an MPEG stream has from the size, and stops at its estimate.
        """
        self._content = content
        self._start = start
        self._size = (content_size(content) if end is None else end) - start
        self._replaced = {offset - start: value for offset, value in replaced.items()}
        self._claimed = self._size * FAR if hide_length else self._size
        self._position = 0
        self._asked_for_length = False

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position, as of a file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        self._asked_for_length = whence == io.SEEK_END and offset == 0
        return self.tell()

    def tell(self) -> int:
        """The position; right after a move to the end, the length that is claimed."""
        return self._claimed if self._asked_for_length else self._position

    def read(self, size: int) -> bytes:
        """The next bytes; fewer, or none, where the window ends."""
        self._asked_for_length = False
        size = max(0, min(size, self._size - self._position))
        content = read_at(self._content, self._start + self._position, size)
        for offset, value in self._replaced.items():
            first, last = offset - self._position, offset - self._position + len(value)
            if first < len(content) and last > 0:
                kept = value[max(0, -first) : len(content) - first]
                content = content[: max(0, first)] + kept + content[max(0, first) + len(kept) :]
        self._position += len(content)
        return content
