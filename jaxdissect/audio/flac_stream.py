"""What a FLAC file says of its length, and how to make its decoder forget that.

The decoder stops at the number of samples that the header promises. Programs that write to a pipe cannot go back to the
header: it then promises nothing, or a guess made before, and has no checksum of the samples.

Source: RFC 9639, sections 8.2 (STREAMINFO) and 9.1 (frame header).
"""

import hashlib
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from jaxtyping import Int32

from jaxdissect.audio.byte_windows import content_size, read_at
from jaxdissect.audio.mpeg_frames import skip_tags

LENGTH_AT, LENGTH_BYTES = 18, 8  # of the field that ends with the 36 bits of the length, from "fLaC" on
MD5_AT, MD5_BYTES = 26, 16
LENGTH_MASK = 2**36 - 1
FRAME_HEADER = 16  # bytes; none is longer
SYNC = (b"\xff\xf8", b"\xff\xf9")
ID3V1 = 128  # bytes


@dataclass(frozen=True)
class FlacHeader:
    """What STREAMINFO says.

    Attributes:
      start: offset of the stream, behind tags.
      end: offset behind the last byte that may be of the stream.
      bits: of a sample.
      md5: of all samples; zeros where the program that wrote the file never came back to the header.
      unknown_length: what to replace so that no length is promised; bytes by their offset in the file.
    """

    start: int
    end: int
    bits: int
    md5: bytes
    unknown_length: dict[int, bytes]

    @property
    def finished(self) -> bool:
        """Whether the header was written when all samples were known."""
        return any(self.md5)


def read_flac_header(content: BinaryIO) -> FlacHeader | None:
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
    return FlacHeader(start, end, bits, head[MD5_AT:], {start + LENGTH_AT: unknown})


def header_begins(content: BinaryIO, header: FlacHeader) -> list[int]:
    """Offsets in the last bytes of a file at which the header of a frame could begin, the file being cut within it.

    The decoder says nothing of such a rest; any longer one it calls damaged.

    Args:
      content: the file; its position changes.
      header: of the file.
    """
    first = max(header.start, header.end - FRAME_HEADER)
    tail = read_at(content, first, header.end - first)
    return [
        first + offset for offset in range(len(tail)) if tail[offset : offset + 2] in SYNC or tail[offset:] == b"\xff"
    ]


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
