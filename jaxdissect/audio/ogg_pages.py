"""The pages of an Ogg file: which streams follow one another, how each ends, and whether all pages are there.

Source: RFC 3533 (pages, flags, checksum), RFC 7845 section 4 (Opus: what may be trimmed from the end).
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from jaxdissect.audio.byte_windows import Content, content_size, read_at

HEADER = 27  # bytes, before the table of the segments' sizes
LONGEST_PAGE = HEADER + 255 + 255 * 255  # bytes
BEGINS, ENDS = 2, 4  # flags of a page
UNKNOWN = 2**62  # a last position that no stream reaches: it trims nothing
BACKWARDS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
      offset: of its first byte.
      size: bytes, header included.
      flags: 1: continues a packet; 2: begins a stream; 4: ends it.
      stream: serial number of its stream.
      number: of the page in its stream.
      whole: its checksum is right.
    """

    offset: int
    size: int
    flags: int
    stream: int
    number: int
    whole: bool

    @property
    def end(self) -> int:
        """Offset behind its last byte."""
        return self.offset + self.size


@dataclass(frozen=True)
class Link:
    """One stream of a chain, or several that were recorded together.

    Attributes:
      pages: in their order; those of other streams in between are left out.
      end: offset behind the last byte of all streams.
    """

    pages: tuple[Page, ...]
    end: int

    @property
    def complete(self) -> bool:
        """Whether no page is missing or altered."""
        return all(page.whole and page.number == number for number, page in enumerate(self.pages))


def ogg_ends(content: Content) -> bool:
    """Whether the last page of a file is there to its last byte and says that its stream ends.

    Args:
      content: the file; its position changes.
    """
    size = content_size(content)
    tail = read_at(content, max(0, size - LONGEST_PAGE), LONGEST_PAGE)
    page = tail[tail.rfind(b"OggS") :]  # without any: the last byte, too short for one
    if len(page) < HEADER or not page[5] & ENDS:
        return False
    return len(page) >= _page_size(page)


def ogg_links(content: Content) -> list[Link]:
    """The streams that follow one another in a file, each with its pages.

    Args:
      content: the file; its position changes.
    """
    numbered: list[tuple[int, Page]] = []
    link, within = 0, False
    for page in _pages(content):
        begins = bool(page.flags & BEGINS)
        link += begins and within  # all streams of a link begin before any goes on
        within = not begins
        numbered.append((link, page))
    links = []
    for _, group in groupby(numbered, key=lambda entry: entry[0]):
        pages = [page for _, page in group]
        own = tuple(page for page in pages if page.stream == pages[0].stream)
        links.append(Link(own, pages[-1].end))
    return links


def without_end(content: Content, page: Page) -> dict[int, bytes]:
    """What to replace in a last page so that it says of no sound that it is to be trimmed.

    Args:
      content: the file; its position changes.
      page: the last page of a stream.

    Returns:
      Bytes by their offset in the file.
    """
    altered = bytearray(read_at(content, page.offset, page.size))
    altered[6:14] = UNKNOWN.to_bytes(8, "little")
    altered[22:26] = bytes(4)
    altered[22:26] = _checksum(altered).to_bytes(4, "little")
    return {page.offset: bytes(altered[:HEADER])}


def endless_ogg(content: Content) -> dict[int, bytes]:
    """As `without_end`, of the first stream of a file; nothing where no Ogg stream begins.

    Args:
      content: the file; its position changes.
    """
    links = ogg_links(content)
    return without_end(content, links[0].pages[-1]) if links else {}


def _pages(content: Content) -> Iterator[Page]:
    """All pages up to the first place where none begins, or the last that is there to its end."""
    offset, size = 0, content_size(content)
    while offset < size:
        page = bytearray(read_at(content, offset, LONGEST_PAGE))
        if not page.startswith(b"OggS") or len(page) < HEADER or len(page) < _page_size(page):
            return
        del page[_page_size(page) :]
        stored = int.from_bytes(page[22:26], "little")
        page[22:26] = bytes(4)
        stream, number = (int.from_bytes(page[at : at + 4], "little") for at in (14, 18))
        yield Page(offset, len(page), page[5], stream, number, stored == _checksum(page))
        offset += len(page)


def _page_size(page: bytes | bytearray) -> int:
    table = HEADER + page[26]
    return table + sum(page[HEADER:table])


def _checksum(page: bytes | bytearray) -> int:
    """Ogg's checksum: that of zlib with the bits of every byte, and of the result, backwards, and nothing inverted."""
    mirrored = zlib.crc32(page.translate(BACKWARDS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(BACKWARDS), "big")
