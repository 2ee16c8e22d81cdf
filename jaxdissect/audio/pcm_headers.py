"""Lengths in the headers of uncompressed audio: which promise more than is there, and which were never filled in.

A program that streams writes the header before it knows the length: zero, or the largest number that fits. What is
there is then counted. A file that breaks any other promise is cut.
"""

import re
import struct
from collections.abc import Iterator

from jaxdissect.audio.byte_windows import OpenFile, file_size, read_at

# What libsndfile logs of a chunk that is shorter than it should be: in WAV and SVX, AU, AIFF, and of a whole W64 file.
CHUNK_LOG = re.compile(r"^ ?(?:data|\s*Data Size|riff|BODY|SSND)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
RF64_SIZE_LOG = re.compile(r"Riff size : (\d+) \(should be (\d+)\)")
RF64_FRAMES_LOG = re.compile(r"Calculated frame count (\d+) does not match value from 'ds64' chunk of (\d+)")
AIFF_FRAMES_LOG = re.compile(r"'COMM' chunk \((\d+)\) not equal to frame count\s+\S+ calculated from \D+\((\d+)\)")
OTHER_LOG = re.compile(r"File seems to be truncated|Data length (\d+) should be (?!\1)\d+|Warning : short read")
UNLOGGED_FORMATS = ("NIST", "CAF")  # libsndfile logs nothing if something is missing from these

NIST_FRAMES = re.compile(rb"sample_count\s+-i\s+(\d+)")
NIST_HEADER_BYTES = 1024
W64_DATA_NAME = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0O\x8e\xdb\x8a"  # name of the chunk with the sound, 16 bytes
W64_HEADER_BYTES = 4096  # bytes in which that chunk begins
LARGEST_UINT64 = 2**64 - 1


def is_unknown_length(size: int) -> bool:
    """Whether programs write this length if they do not know it: zero, nearly 2 or 4 GiB, or more than 64 bits allow.

    Args:
      size: length that a header promises, in bytes or frames.
    """
    return size == 0 or 0x7FFFF000 <= size <= 0x80000100 or 0xFFFFF000 <= size <= 0xFFFFFFFF or size >= 2**62


def broken_promise(log: str) -> str | None:
    """What a header promises that is not there, by libsndfile's log of opening the file; None: nothing.

    Args:
      log: log, as `soundfile.SoundFile.extra_info` has it.
    """
    for promised, present in _number_pairs(CHUNK_LOG, log):
        if present < promised and not is_unknown_length(promised):
            return f"truncated: its header promises {promised} bytes, {present} are there"
    for present, promised in _number_pairs(RF64_FRAMES_LOG, log):
        sizes = _number_pairs(RF64_SIZE_LOG, log)
        file_is_whole = any(size <= present_size or is_unknown_length(size) for size, present_size in sizes)
        if present < promised and not file_is_whole and not is_unknown_length(promised):
            return f"truncated: its header promises {promised} frames, {present} are there"
    for promised, present in _number_pairs(AIFF_FRAMES_LOG, log):
        if present < promised and not is_unknown_length(promised):
            return (
                f"truncated, or its header is wrong: one place promises {promised} frames, another {present}; write it "
                f"anew from the source"
            )
    return "truncated: its header promises more than is there" if OTHER_LOG.search(log) else None


def missing_sound(file: OpenFile, format_name: str, frames: int) -> str | None:
    """What is missing from a file of a format for which libsndfile logs nothing; None: nothing.

    Args:
      file: open file; its position changes.
      format_name: libsndfile's name of the format.
      frames: number of frames that libsndfile finds.
    """
    if format_name == "NIST":
        match = NIST_FRAMES.search(read_at(file, 0, NIST_HEADER_BYTES))
        if match is not None and int(match[1]) > frames:
            return f"truncated: its header promises {match[1].decode()} frames, {frames} are there"
    if read_at(file, 0, 4) == b"caff":
        for name, offset, size, present in _caf_chunks(file):
            if name == b"data" and size != LARGEST_UINT64 and size > present:
                return f"truncated: its header promises {size} bytes at byte {offset}, {present} are there"
    return None


def mended_header(file: OpenFile) -> dict[int, bytes]:
    """Bytes to replace in a header without a length, where libsndfile would read nothing.

    Args:
      file: open file; its position changes.

    Returns:
      Bytes by their offset in the file; empty where nothing is to be mended.
    """
    head, size = read_at(file, 0, 12), file_size(file)
    match head[:4]:
        case b"caff":
            return {
                offset - 8: struct.pack(">Q", present)
                for name, offset, length, present in _caf_chunks(file)
                if name == b"data" and length == LARGEST_UINT64
            }
        case b".snd":  # AU: name, size of the header and of the sound, 4 bytes each; all ones mean "unknown"
            return {8: b"\xff" * 4} if head[8:12] == bytes(4) else {}
        case b"riff":  # W64: a chunk's name has 16 bytes, its size 8, little-endian, with these 24 bytes included
            start = read_at(file, 0, W64_HEADER_BYTES).find(W64_DATA_NAME)
            unknown = start >= 0 and is_unknown_length(int.from_bytes(read_at(file, start + 16, 8), "little"))
            return {start + 16: struct.pack("<Q", size - start)} if unknown else {}
        case b"RIFF" | b"RF64" if len(head) == 12:
            return _mended_riff(file, head[:4], size)
    return {}


def _mended_riff(file: OpenFile, form: bytes, size: int) -> dict[int, bytes]:
    """As `mended_header`, for WAV (`RIFF`), or RF64, whose sizes are in a chunk of their own."""
    chunks = list(_riff_chunks(file, size))
    if not chunks or chunks[-1][0] != b"data":  # another chunk follows the sound, whose length is thus known
        return {}
    _, sound_at, length = chunks[-1]
    if form == b"RIFF":
        return {sound_at - 4: b"\xff" * 4} if length == 0 and size > sound_at else {}
    # ds64: size of the file, of the sound, and number of frames, 8 bytes each, little-endian.
    return {offset + 8: struct.pack("<Q", size - sound_at) for name, offset, _ in chunks if name == b"ds64"}


def _number_pairs(pattern: re.Pattern[str], log: str) -> Iterator[tuple[int, int]]:
    return ((int(first), int(second)) for first, second in pattern.findall(log))


def _riff_chunks(file: OpenFile, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset of the content, and length of each chunk, as long as chunks follow one another."""
    # A chunk: name (4 bytes), length of the content (4 bytes, little-endian), the content, and a byte if that is odd.
    position = 12
    while len(head := read_at(file, position, 8)) == 8 and head[:4].isascii() and head[:4].decode().isprintable():
        length = int.from_bytes(head[4:], "little")
        yield head[:4], position + 8, length
        if position + 8 + length > size:
            return
        position += 8 + length + length % 2


def _caf_chunks(file: OpenFile) -> Iterator[tuple[bytes, int, int, int]]:
    """Name, offset of the content, its length, and bytes from there to the end of the file, of each chunk."""
    # A chunk: name (4 bytes), length of the content (8 bytes, big-endian; all ones: unknown), and the content.
    position, end = 8, file_size(file)
    while len(head := read_at(file, position, 12)) == 12:
        length, present = int.from_bytes(head[4:], "big"), end - position - 12
        yield head[:4], position + 12, length, present
        if length > present:
            return
        position += 12 + length
