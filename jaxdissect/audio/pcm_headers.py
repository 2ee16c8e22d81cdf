"""Lengths in the headers of uncompressed audio: which promise more than is there, and which were never filled in.

A program that streams writes the header before it knows the length: zero, or the largest number that fits. What is
there then is counted. Any other promise that is not kept means that the file is cut.
"""

import re
import struct
from collections.abc import Iterator

from jaxdissect.audio.byte_windows import Content, content_size, read_at

# What libsndfile logs of a chunk that is shorter than it says: of WAV and SVX, of AU, of AIFF, and of a whole W64 file.
PROMISED = re.compile(r"^ ?(?:data|\s*Data Size|riff|BODY|SSND)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
RF64_SIZE = re.compile(r"Riff size : (\d+) \(should be (\d+)\)")
RF64_FRAMES = re.compile(r"Calculated frame count (\d+) does not match value from 'ds64' chunk of (\d+)")
AIFF_FRAMES = re.compile(r"'COMM' chunk \((\d+)\) not equal to frame count\s+\S+ calculated from \D+\((\d+)\)")
OTHERS = re.compile(r"File seems to be truncated|Data length (\d+) should be (?!\1)\d+|Warning : short read")
NIST_FRAMES = re.compile(rb"sample_count\s+-i\s+(\d+)")
NIST_HEADER = 1024  # bytes
W64_SOUND = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0O\x8e\xdb\x8a"  # the name of the chunk
W64_HEADER = 4096  # bytes in which it begins
UNKNOWN_64 = 2**64 - 1
LOGGED_NOWHERE = ("NIST", "CAF")  # formats of which libsndfile does not log that something is missing


def unknown_length(size: int) -> bool:
    """Whether a length is one that programs write that do not know it: zero, or nearly 2, 4 GiB, or the largest.

    Args:
      size: the length that a header promises, in bytes or frames.
    """
    return size == 0 or 0x7FFFF000 <= size <= 0x80000100 or 0xFFFFF000 <= size <= 0xFFFFFFFF or size >= 2**62


def broken_promise(log: str) -> str | None:
    """What a header promises that is not there, by libsndfile's log of opening the file; None: nothing.

    Args:
      log: as `soundfile.SoundFile.extra_info` has it.
    """
    for size, present in _numbers(PROMISED, log):
        if present < size and not unknown_length(size):
            return f"truncated: its header promises {size} bytes, {present} are there"
    for present, frames in _numbers(RF64_FRAMES, log):
        whole = any(size <= kept or unknown_length(size) for size, kept in _numbers(RF64_SIZE, log))
        if present < frames and not whole and not unknown_length(frames):
            return f"truncated: its header promises {frames} frames, {present} are there"
    for frames, present in _numbers(AIFF_FRAMES, log):
        if present < frames and not unknown_length(frames):
            return (
                f"truncated, or its header is wrong: one place promises {frames} frames, another {present}; write it "
                f"anew from the source"
            )
    return "truncated: its header promises more than is there" if OTHERS.search(log) else None


def missing_sound(content: Content, form: str, frames: int) -> str | None:
    """What is missing of a file of a format of which libsndfile logs nothing; None: nothing.

    Args:
      content: the file; its position changes.
      form: libsndfile's name of the format.
      frames: that libsndfile finds.
    """
    if form == "NIST":
        told = NIST_FRAMES.search(read_at(content, 0, NIST_HEADER))
        if told is not None and int(told[1]) > frames:
            return f"truncated: its header promises {told[1].decode()} frames, {frames} are there"
    if read_at(content, 0, 4) == b"caff":
        for name, offset, size, present in _caf_chunks(content):
            if name == b"data" and size != UNKNOWN_64 and size > present:
                return f"truncated: its header promises {size} bytes at byte {offset}, {present} are there"
    return None


def mended_header(content: Content) -> dict[int, bytes]:
    """What to replace in a header that was written before the length was known, where libsndfile would read nothing.

    Args:
      content: the file; its position changes.

    Returns:
      Bytes by their offset in the file; empty where nothing is to be mended.
    """
    head, size = read_at(content, 0, 12), content_size(content)
    if head[:4] == b"caff":
        lasting = [
            (offset, present)
            for name, offset, length, present in _caf_chunks(content)
            if name == b"data" and length == UNKNOWN_64
        ]
        return {offset - 8: struct.pack(">Q", present) for offset, present in lasting}
    if head[:4] == b".snd" and head[8:12] == bytes(4):
        return {8: b"\xff" * 4}
    if head[:4] == b"riff":
        start = read_at(content, 0, W64_HEADER).find(W64_SOUND)
        unknown = start >= 0 and unknown_length(int.from_bytes(read_at(content, start + 16, 8), "little"))
        return {start + 16: struct.pack("<Q", size - start)} if unknown else {}
    if head[:4] not in (b"RIFF", b"RF64") or len(head) < 12:
        return {}
    chunks = list(_riff_chunks(content, size))
    if not chunks or chunks[-1][0] != b"data":  # what follows sound that is there is another chunk
        return {}
    _, offset, length = chunks[-1]
    if head[:4] == b"RIFF":
        return {offset - 4: b"\xff" * 4} if length == 0 and size > offset else {}
    of_file = [offset for name, offset, _ in chunks if name == b"ds64"]
    return {at + 8: struct.pack("<Q", size - offset) for at in of_file}


def _numbers(pattern: re.Pattern[str], log: str) -> Iterator[tuple[int, int]]:
    return ((int(first), int(second)) for first, second in pattern.findall(log))


def _riff_chunks(content: Content, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset of what it holds, and length of each chunk, as long as chunks follow one another."""
    position = 12
    while len(head := read_at(content, position, 8)) == 8 and head[:4].isascii() and head[:4].decode().isprintable():
        length = int.from_bytes(head[4:], "little")
        yield head[:4], position + 8, length
        if position + 8 + length > size:
            return
        position += 8 + length + length % 2


def _caf_chunks(content: Content) -> Iterator[tuple[bytes, int, int, int]]:
    """Name, offset of what it holds, length, and bytes up to the end of the file, of each chunk."""
    position, end = 8, content_size(content)
    while len(head := read_at(content, position, 12)) == 12:
        length, present = int.from_bytes(head[4:], "big"), end - position - 12
        yield head[:4], position + 12, length, present
        if length > present:
            return
        position += 12 + length
