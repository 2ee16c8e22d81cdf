"""The pages of an Ogg file: which streams follow one another, how each ends, and whether all pages are there.

Source: RFC 3533 (pages, flags, checksum), RFC 7845 section 4 (Opus: what may be trimmed from the end).
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from jaxdissect.audio.byte_windows import OpenFile, file_size, read_at

# Layout of a page (RFC 3533, section 6), in bytes, numbers little-endian: 0: "OggS", 4: version (1), 5: flags (1),
# 6: position, the samples up to the end of the page (8), 14: serial number of the stream (4), 18: number of the page
# (4), 22: checksum (4), 26: number of segments (1), 27: size of each segment (1 byte each), then the segments.
FLAGS_AT, SEGMENTS_AT = 5, 26
POSITION, SERIAL, NUMBER, CHECKSUM = slice(6, 14), slice(14, 18), slice(18, 22), slice(22, 26)
PAGE_HEADER_BYTES = 27  # without the table of the segments' sizes
LONGEST_PAGE_BYTES = PAGE_HEADER_BYTES + 255 + 255 * 255
BEGINS_STREAM, ENDS_STREAM = 2, 4  # flags
NO_TRIMMING = 2**62  # a last position that no stream reaches
# Samples at 48 kHz in an Opus frame, by configuration (RFC 6716, table 2): SILK, hybrid and CELT modes.
OPUS_FRAME_SAMPLES = (480, 960, 1920, 2880) * 3 + (480, 960) * 2 + (120, 240, 480, 960) * 4
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
      offset: offset of its first byte.
      size: bytes, header included.
      begins: whether a stream begins with it.
      stream: serial number of its stream.
      number: number of the page in its stream.
      whole: whether its checksum is right.
    """

    offset: int
    size: int
    begins: bool
    stream: int
    number: int
    whole: bool


@dataclass(frozen=True)
class Link:
    """One stream of a chain, or the first of several that were recorded together.

    Attributes:
      pages: pages of the stream in their order; those of other streams in between are left out.
      end: offset behind the last byte of all streams of the link.
    """

    pages: tuple[Page, ...]
    end: int

    @property
    def complete(self) -> bool:
        """Whether no page is missing or altered."""
        return all(page.whole and page.number == number for number, page in enumerate(self.pages))


def ogg_ends(file: OpenFile) -> bool:
    """Whether the last page of a file is there to its last byte and is marked as the end of its stream.

    Args:
      file: open file; its position changes.
    """
    size = file_size(file)
    tail = read_at(file, max(0, size - LONGEST_PAGE_BYTES), LONGEST_PAGE_BYTES)
    page = tail[tail.rfind(b"OggS") :]  # where there is none: the last byte, too short for a page
    return len(page) >= PAGE_HEADER_BYTES and bool(page[FLAGS_AT] & ENDS_STREAM) and len(page) >= _page_size(page)


def ogg_links(file: OpenFile) -> list[Link]:
    """The streams that follow one another in a file, each with its pages.

    Args:
      file: open file; its position changes.
    """
    chain: list[list[Page]] = []
    for page in _pages(file):
        # The streams of a link all begin before any of them continues: a page that begins one later begins a link.
        if not chain or (page.begins and not chain[-1][-1].begins):
            chain.append([])
        chain[-1].append(page)
    links = []
    for pages in chain:
        end = pages[-1].offset + pages[-1].size
        links.append(Link(tuple(page for page in pages if page.stream == pages[0].stream), end))
    return links


def without_end(file: OpenFile, page: Page, position: int = NO_TRIMMING) -> dict[int, bytes]:
    """Bytes to replace in a last page, by their offset in the file, so that its position trims no sound.

    Args:
      file: open file; its position changes.
      page: last page of a stream.
      position: position that trims nothing.
    """
    altered = bytearray(read_at(file, page.offset, page.size))
    altered[POSITION] = position.to_bytes(8, "little")
    altered[CHECKSUM] = _checksum(altered).to_bytes(4, "little")
    return {page.offset: bytes(altered[:PAGE_HEADER_BYTES])}


def opus_duration(file: OpenFile, page: Page) -> int:
    """Samples at 48 kHz in the Opus packets that begin on a page (RFC 6716, section 3.1).

    Args:
      file: open file; its position changes.
      page: page with sound.
    """
    content = read_at(file, page.offset, page.size)
    sizes = content[PAGE_HEADER_BYTES : PAGE_HEADER_BYTES + content[SEGMENTS_AT]]
    samples, start, begins = 0, PAGE_HEADER_BYTES + len(sizes), True
    for size in sizes:
        if begins and size:
            # The first byte of a packet: five bits of mode and frame length, one of stereo, two of the frame count.
            config, count = content[start] >> 3, (1, 2, 2, 0)[content[start] & 3]
            samples += OPUS_FRAME_SAMPLES[config] * (count or content[start + 1] & 63)
        start, begins = start + size, size < 255  # a segment of 255 bytes continues in the next one
    return samples


def endless_ogg(file: OpenFile) -> dict[int, bytes]:
    """As `without_end`, for the first stream of a file; nothing where no Ogg stream begins.

    Args:
      file: open file; its position changes.
    """
    links = ogg_links(file)
    return without_end(file, links[0].pages[-1]) if links else {}


def _pages(file: OpenFile) -> Iterator[Page]:
    """All pages up to the first place where none begins, or the last one that is there to its end."""
    offset, size = 0, file_size(file)
    while offset < size:
        page = read_at(file, offset, LONGEST_PAGE_BYTES)
        if not page.startswith(b"OggS") or len(page) < PAGE_HEADER_BYTES or len(page) < _page_size(page):
            return
        page = page[: _page_size(page)]
        stored, stream, number = (int.from_bytes(page[field], "little") for field in (CHECKSUM, SERIAL, NUMBER))
        begins = bool(page[FLAGS_AT] & BEGINS_STREAM)
        yield Page(offset, len(page), begins, stream, number, stored == _checksum(page))
        offset += len(page)


def _page_size(page: bytes) -> int:
    table_end = PAGE_HEADER_BYTES + page[SEGMENTS_AT]
    return table_end + sum(page[PAGE_HEADER_BYTES:table_end])


def _checksum(page: bytes | bytearray) -> int:
    """Ogg's CRC-32 of a page whose own checksum is taken as zero.

    It has zlib's polynomial. zlib starts with each byte's lowest bit, and inverts the remainder before and after; Ogg
    does neither. So the bits of every byte and of the result are reversed, and zlib's inversions are undone.
    """
    cleared = page[: CHECKSUM.start] + bytes(4) + page[CHECKSUM.stop :]
    remainder = zlib.crc32(cleared.translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(remainder.to_bytes(4, "little").translate(REVERSED_BITS), "big")
