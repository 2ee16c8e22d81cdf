"""What a FLAC file says of its length, and how to make its decoder forget that.

The decoder stops at the number of samples that the header promises. Programs that write to a pipe cannot go back to the
header: it then promises nothing, or a guess made before, and has no checksum of the samples.

Source: RFC 9639, sections 8.2 (STREAMINFO) and 9.1 (frame header).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from jaxdissect.audio.byte_windows import Content, content_size, read_at
from jaxdissect.audio.mpeg_frames import skip_tags

LENGTH_AT, LENGTH_BYTES = 18, 8  # of the field that ends with the 36 bits of the length, from "fLaC" on
MD5_AT, MD5_BYTES = 26, 16
LENGTH_MASK = 2**36 - 1
FRAME_HEADER = 16  # bytes; none is longer
TAIL = 2**16  # bytes in which the last frame begins, unless it is uncommonly long
SYNC = (b"\xff\xf8", b"\xff\xf9")
ID3V1 = 128  # bytes


def _crc8(byte: int) -> int:
    for _ in range(8):
        byte = (byte << 1 ^ 0x07) & 0xFF if byte & 0x80 else byte << 1
    return byte


CRC8 = tuple(map(_crc8, range(256)))


@dataclass(frozen=True)
class FlacHeader:
    """What STREAMINFO says.

    Attributes:
      start: offset of the stream, behind tags.
      end: offset behind the last byte that may be of the stream.
      block: samples of a frame; of the last one fewer.
      bits: of a sample.
      md5: of all samples; zeros where the program that wrote the file never came back to the header.
      unknown_length: what to replace so that no length is promised; bytes by their offset in the file.
    """

    start: int
    end: int
    block: int
    bits: int
    md5: bytes
    unknown_length: dict[int, bytes]

    @property
    def finished(self) -> bool:
        """Whether the header was written when all samples were known."""
        return any(self.md5)


def read_flac_header(content: Content) -> FlacHeader | None:
    """STREAMINFO, which comes first in a FLAC file; None: it is no FLAC file.

    Args:
      content: the file; its position changes.
    """
    start, end = skip_tags(content, 0), content_size(content)
    head = read_at(content, start, MD5_AT + MD5_BYTES)
    if not head.startswith(b"fLaC") or len(head) < MD5_AT + MD5_BYTES:
        return None
    if read_at(content, max(0, end - ID3V1), 3) == b"TAG":
        end -= ID3V1
    field = int.from_bytes(head[LENGTH_AT : LENGTH_AT + LENGTH_BYTES], "big")
    unknown = (field & ~LENGTH_MASK).to_bytes(LENGTH_BYTES, "big")
    bits = (field >> 36 & 31) + 1
    block = int.from_bytes(head[10:12], "big")
    return FlacHeader(start, end, block, bits, head[MD5_AT:], {start + LENGTH_AT: unknown})


def header_begins(content: Content, header: FlacHeader) -> list[int]:
    """Offsets in the last bytes of a file at which the header of a frame could begin, the file being cut within it.

    The decoder says nothing of such a rest; any longer one it calls damaged.

    Args:
      content: the file; its position changes.
      header: of the file.
    """
    first = max(header.start, header.end - FRAME_HEADER)
    tail = read_at(content, first, header.end - first)
    return [first + at for at in range(len(tail)) if tail[at : at + 2] in SYNC or tail[at:] == SYNC[0][:1]]


def may_go_on(content: Content, header: FlacHeader, samples: int) -> bool:
    """Whether frames behind those with so many samples may be there, by the numbers in the headers of the last ones.

    Args:
      content: the file; its position changes.
      header: of the file.
      samples: that the header promises.

    Returns:
      False: surely not. What looks like a header by chance makes it True.
    """
    first = max(header.start, header.end - TAIL)
    tail = read_at(content, first, header.end - first)
    headers = [tail[begin : begin + FRAME_HEADER] for sync in SYNC for begin in _offsets(tail, sync)]
    ends = [end for end in (_frame_end(found, header.block) for found in headers) if end is not None]
    return not ends or max(ends) > samples


def _offsets(content: bytes, pattern: bytes) -> Iterator[int]:
    offset = content.find(pattern)
    while offset >= 0:
        yield offset
        offset = content.find(pattern, offset + 1)


def _frame_end(head: bytes, block: int) -> int | None:
    """Samples up to the end of a frame, by its header; None: it is none, since its checksum is wrong.

    Args:
      head: what may be a header.
      block: samples of every frame but the last, where frames are numbered and not samples.
    """
    if len(head) < 6:
        return None
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # of a number as in UTF-8, but of up to 36 bits
    after = 4 + max(1, ones)
    kind, rate = head[2] >> 4, head[2] & 15
    size = after + {6: 1, 7: 2}.get(kind, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    checksum = 0
    for byte in head[: size + 1]:  # over the checksum itself, too: then nothing is left
        checksum = CRC8[checksum ^ byte]
    if len(head) <= size or checksum or kind == 0:
        return None
    number = head[4] & (0x7F >> ones)
    for byte in head[5:after]:
        number = number << 6 | byte & 0x3F
    if kind in (6, 7):
        own = int.from_bytes(head[after : after + kind - 5], "big") + 1
    else:
        own = 192 if kind == 1 else 576 << kind - 2 if kind < 6 else 256 << kind - 8
    return (number if head[1] & 1 else number * block) + own  # the last bit of the sync tells which are numbered


def samples_md5(samples: Int32[np.ndarray, "frame channel"], bits: int) -> bytes:
    """The checksum of samples as STREAMINFO has it.

    Args:
      samples: whose `bits` uppermost bits are in use.
      bits: of a sample.
    """
    width = -(-bits // 8)
    plain = np.ascontiguousarray(samples >> (32 - bits)).astype("<i4")
    return hashlib.md5(
        plain.view(np.uint8).reshape(*samples.shape, 4)[..., :width].tobytes(), usedforsecurity=False
    ).digest()
