"""The length that a FLAC file's header gives, and how to make its decoder forget it.

The decoder stops at the number of samples in the header. A program that writes to a pipe cannot go back to the header:
the header then has no number, or an early guess, and no checksum of the samples.

Source: RFC 9639, sections 8.2 (STREAMINFO), 9.1 (frame header) and 9.1.8 (its checksum).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from jaxdissect.audio.byte_windows import OpenFile, file_size, read_at
from jaxdissect.audio.mpeg_frames import skip_tags

# Layout from "fLaC" on, in bytes: 4 "fLaC", 4 header of the block STREAMINFO, then STREAMINFO itself: 8: smallest block
# (16 bits), 10: largest block (16), 12: smallest frame (24), 15: largest frame (24), 18: rate (20), channels - 1 (3),
# bits of a sample - 1 (5), samples (36), 26: MD5 of all samples (128).
BLOCK_AT, BLOCK_BYTES = 10, 2
LENGTH_AT, LENGTH_BYTES = 18, 8  # the 64 bits that end with the number of samples
MD5_AT, MD5_BYTES = 26, 16
SAMPLES_BITS = 36
LONGEST_HEADER_BYTES = 16  # of a frame's header
TAIL_BYTES = 2**16  # bytes at the end of a file in which the last frame begins, unless it is uncommonly long
SYNC_CODES = (b"\xff\xf8", b"\xff\xf9")  # 15 bits that begin a frame; the last bit is 1 where samples are numbered
ID3V1_BYTES = 128  # size of the tag "TAG" at the end of a file


@dataclass(frozen=True)
class FlacHeader:
    """The block STREAMINFO.

    Attributes:
      start: offset of the stream, behind tags.
      end: offset behind the last byte that may belong to the stream.
      block: samples of a frame; the last frame has fewer.
      bits: bits of a sample.
      md5: checksum of all samples; zeros if the program that wrote the file never came back to the header.
      unknown_length: bytes to replace, by their offset in the file, so that the header gives no length.
    """

    start: int
    end: int
    block: int
    bits: int
    md5: bytes
    unknown_length: dict[int, bytes]


def read_flac_header(file: OpenFile) -> FlacHeader | None:
    """STREAMINFO, the first block of a FLAC file; None: it is no FLAC file.

    Args:
      file: open file; its position changes.
    """
    start, end = skip_tags(file, 0), file_size(file)
    head = read_at(file, start, MD5_AT + MD5_BYTES)
    if not head.startswith(b"fLaC") or len(head) < MD5_AT + MD5_BYTES:
        return None
    if read_at(file, max(0, end - ID3V1_BYTES), 3) == b"TAG":
        end -= ID3V1_BYTES
    field = int.from_bytes(head[LENGTH_AT : LENGTH_AT + LENGTH_BYTES], "big")
    bits = (field >> SAMPLES_BITS & 0b11111) + 1
    without_samples = field >> SAMPLES_BITS << SAMPLES_BITS  # a number of 0 means "unknown" to the decoder
    unknown_length = {start + LENGTH_AT: without_samples.to_bytes(LENGTH_BYTES, "big")}
    block = int.from_bytes(head[BLOCK_AT : BLOCK_AT + BLOCK_BYTES], "big")
    return FlacHeader(start, end, block, bits, head[MD5_AT:], unknown_length)


def cut_header_offsets(file: OpenFile, header: FlacHeader) -> list[int]:
    """Offsets in the last bytes of a file at which a frame's header may begin that the end of the file cuts.

    The decoder ignores such a rest without an error; it calls any longer one damaged.

    Args:
      file: open file; its position changes.
      header: STREAMINFO of the file.
    """
    first = max(header.start, header.end - LONGEST_HEADER_BYTES)
    tail = read_at(file, first, header.end - first)
    first_byte = SYNC_CODES[0][:1]  # the last byte of a file may be the first of a header
    return [first + at for at in range(len(tail)) if tail[at : at + 2] in SYNC_CODES or tail[at:] == first_byte]


def may_have_more(file: OpenFile, header: FlacHeader, samples: int) -> bool:
    """Whether a file may hold more samples than a number, by the headers of its last frames.

    Args:
      file: open file; its position changes.
      header: STREAMINFO of the file.
      samples: number of samples, as the header gives it.

    Returns:
      False: certainly not. Bytes that look like a header by chance make it True.
    """
    first = max(header.start, header.end - TAIL_BYTES)
    tail = read_at(file, first, header.end - first)
    headers = (tail[at : at + LONGEST_HEADER_BYTES] for sync in SYNC_CODES for at in _offsets(tail, sync))
    ends = [end for head in headers if (end := _frame_end(head, header.block)) is not None]
    return not ends or max(ends) > samples


def _offsets(content: bytes, pattern: bytes) -> Iterator[int]:
    offset = content.find(pattern)
    while offset >= 0:
        yield offset
        offset = content.find(pattern, offset + 1)


def _frame_end(head: bytes, block: int) -> int | None:
    """Samples up to the end of a frame, by its header; None: the bytes are no header, since the checksum is wrong.

    Layout: sync (15 bits), numbering (1), code of the block size (4), code of the rate (4), channels (4), sample size
    (3), reserved (1), number of the frame or of its first sample (1 to 7 bytes), block size (0 to 2 bytes), rate (0 to
    2 bytes), checksum (1 byte).

    Args:
      head: bytes that may begin a header.
      block: samples of every frame but the last, where frames are numbered and not samples.
    """
    if len(head) < 6:
        return None
    # The number is coded as in UTF-8, but has up to 36 bits: the ones that lead its first byte count its bytes.
    ones = 8 - (head[4] ^ 0xFF).bit_length()
    number_end = 4 + max(1, ones)
    size_code, rate_code = head[2] >> 4, head[2] & 0b1111
    size_bytes, rate_bytes = {6: 1, 7: 2}.get(size_code, 0), {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    checksum_at = number_end + size_bytes + rate_bytes
    # A checksum over the checksum, too, leaves nothing.
    if len(head) <= checksum_at or size_code == 0 or _crc8(head[: checksum_at + 1]):
        return None
    number = head[4] & (0x7F >> ones)
    for byte in head[5:number_end]:
        number = number << 6 | byte & 0x3F
    if size_bytes:
        samples = int.from_bytes(head[number_end : number_end + size_bytes], "big") + 1
    elif size_code == 1:
        samples = 192
    else:  # codes 2 to 5 are 576 times a power of two, 8 to 15 are powers of two from 256 on
        samples = 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    samples_are_numbered = head[1] & 1
    return (number if samples_are_numbered else number * block) + samples


def _crc8(content: bytes) -> int:
    """Remainder by the polynomial x^8 + x^2 + x + 1."""
    remainder = 0
    for byte in content:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder << 1 ^ (0x107 if remainder & 0x80 else 0)
    return remainder


def samples_md5(samples: Int32[np.ndarray, "frame channel"], bits: int) -> bytes:
    """The checksum of samples as STREAMINFO has it.

    Args:
      samples: samples in the uppermost bits of 32.
      bits: bits of a sample.
    """
    # It is made over little-endian samples of whole bytes: the lowest ones of each 32-bit integer.
    bytes_per_sample = -(-bits // 8)
    integers = np.ascontiguousarray(samples >> (32 - bits)).astype("<i4")
    kept = integers.view(np.uint8).reshape(*samples.shape, 4)[..., :bytes_per_sample]
    return hashlib.md5(kept.tobytes(), usedforsecurity=False).digest()
