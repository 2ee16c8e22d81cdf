"""The frames of an MPEG audio stream (MP3, MP2, MP1), counted by their headers.

Only the frames show how long such a stream is: each gives its own size. A first frame that gives the number of frames
(Xing or Info; VBRI) is missing from many files and wrong in others. libsndfile then estimates the length from the size
of the file and of the first frame.

Source: ISO/IEC 11172-3 and 13818-3, section 2.4 (frame headers); the Xing and LAME tags as their encoders write them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from jaxdissect.audio.byte_windows import OpenFile, file_size, read_at

BITRATES = {  # kbit/s by (layer, whether MPEG-1) and by the code in the header; code 0: "free", given nowhere
    (1, True): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (2, True): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, True): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (1, False): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, False): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (3, False): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MPEG1_RATES = (44100, 48000, 32000)  # Hz, by the code in the header; MPEG-2 has half of each, MPEG-2.5 a quarter
HEADER_BYTES = 4
JUNK_BYTES = 2**16  # most bytes before or between frames that are skipped; libsndfile gives up there too
FRAMES_IN_A_ROW = 8  # frames, one behind the other, by which a stream is known among junk: chance makes rows of two
LONGEST_FREE_FRAME = 2**13  # bytes; no frame of a free bitrate is longer
TAG_HEADER_BYTES = 10  # of ID3v2
END_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")  # they begin what follows the last frame
SPARE_SAMPLES = 3 * 2**12  # samples that an encoder's delay and padding may take, and by which frames overlap
STREAM_BITS = 0xFFFE0C00  # bits of a header that stay the same in a stream: sync, version, layer, sampling rate

# What follows the frames that were counted: more frames, which are not needed; nothing of the stream; a part of a
# frame; or a stream of another rate or number of channels.
Rest = Literal["more", "end", "cut", "other"]


@dataclass(frozen=True)
class FrameHeader:
    """The header of a frame.

    Attributes:
      word: the header's 32 bits.
      mpeg1: whether it is MPEG-1; else MPEG-2 or 2.5.
      layer: 1, 2 or 3.
      rate: sampling rate, Hz.
      mono: whether the frame has one channel; else two.
      samples: samples of a channel in the frame.
      size: bytes of the frame, header included; for a free bitrate those of the padding alone.
      free: whether the bitrate is free, so that no header gives it.
    """

    word: int
    mpeg1: bool
    layer: int
    rate: int
    mono: bool
    samples: int
    size: int
    free: bool

    def is_like(self, other: "FrameHeader") -> bool:
        """Whether both may belong to one stream."""
        return (self.word ^ other.word) & STREAM_BITS == 0 and self.mono == other.mono


@dataclass(frozen=True)
class LengthTag:
    """A first frame that holds no sound but gives the length of the stream.

    Attributes:
      count_at: offset of the number of frames, four bytes; None: there is none that libsndfile would read.
      frames: number of frames; 0 if it is not given.
      bytes_at: offset of the number of bytes, four bytes; None: there is none that libsndfile would read.
      bytes: number of bytes, this frame included; 0 if it is not given.
    """

    count_at: int | None
    frames: int
    bytes_at: int | None
    bytes: int


@dataclass(frozen=True)
class MpegStream:
    """The part of a stream that is in a file.

    Attributes:
      header: header of the first frame.
      start: offset of the first frame, be it a tag.
      sound: offset of the first frame that holds sound.
      tag: frame that gives the length, if there is one.
      frames: number of whole frames with sound up to `end`.
      end: offset behind the last of them.
      rest: what follows.
    """

    header: FrameHeader
    start: int
    sound: int
    tag: LengthTag | None
    frames: int
    end: int
    rest: Rest


@lru_cache(maxsize=4096)  # a stream has thousands of headers, and few differ
def read_header(content: bytes) -> FrameHeader | None:
    """The header of a frame; None: these bytes are no header.

    Args:
      content: four bytes.
    """
    # From the highest bit down: sync (11 bits, all ones), version (2), layer (2), no checksum (1), bitrate (4),
    # sampling rate (2), padding (1), private (1), channel mode (2), and 6 bits that do not matter here.
    word = int.from_bytes(content[:HEADER_BYTES], "big")
    version, layer = word >> 19 & 0b11, 4 - (word >> 17 & 0b11)  # version 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    bitrate, rate = word >> 12 & 0b1111, word >> 10 & 0b11
    if len(content) < HEADER_BYTES or word >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate == 15 or rate == 3:
        return None
    mpeg1 = version == 3
    hertz = MPEG1_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits_per_second = 1000 * BITRATES[layer, mpeg1][bitrate]
    padding = word >> 9 & 1
    samples = {1: 384, 2: 1152, 3: 1152 if mpeg1 else 576}[layer]
    # A frame lasts samples / rate seconds. Its bytes are whole slots, of four bytes in layer 1.
    slot = 4 if layer == 1 else 1
    size = (samples // 8 // slot * bits_per_second // hertz + padding) * slot
    return FrameHeader(word, mpeg1, layer, hertz, word >> 6 & 0b11 == 3, samples, size, bitrate == 0)


def walk_frames(file: OpenFile, needed: Callable[[int], int]) -> MpegStream | None:
    """Count the frames of a stream from the start, as far as they are needed.

    Args:
      file: open file; its position changes.
      needed: `needed(rate)`, samples of a channel at that rate, after which no more frames are counted.

    Returns:
      The stream; None: no MPEG audio stream begins in the first 64 KiB behind the tags.
    """
    size = file_size(file)
    start = _next_frame(file, skip_tags(file, 0), size)
    if start is None:
        return None
    first = _header_at(file, start)
    assert first is not None
    free_size = _free_size(file, start, first)
    first_size = _frame_size(first, free_size)
    tag = _length_tag(read_at(file, start, first_size), first, start)
    sound = position = start if tag is None else start + first_size
    most_frames = -(-(needed(first.rate) + SPARE_SAMPLES) // first.samples)
    frames = 0
    rest: Rest = "more"
    sizes: dict[bytes, int] = {}  # sizes of frames by their headers, which are read once each
    while frames < most_frames:
        head = read_at(file, position, HEADER_BYTES)
        length = sizes.get(head)
        if length is None:
            header = read_header(head)
            if header is None or not header.is_like(first):
                position, rest = _resume(file, position, size, first)
                if rest != "more":
                    break
                continue
            length = sizes[head] = _frame_size(header, free_size)
        if position + length > size:
            rest = "cut"
            break
        frames += 1
        position += length
    return MpegStream(first, start, sound, tag, frames, position, rest)


def skip_tags(file: OpenFile, position: int) -> int:
    """The offset behind all ID3v2 tags that begin at an offset.

    Args:
      file: open file; its position changes.
      position: offset at which a tag may begin.
    """
    # Layout: "ID3", version (2 bytes), flags (1), size without this header (4).
    while (head := read_at(file, position, TAG_HEADER_BYTES))[:3] == b"ID3" and len(head) == TAG_HEADER_BYTES:
        length = 0
        for byte in head[6:]:  # seven bits each, so that no tag looks like the start of a frame
            length = length << 7 | byte & 0x7F
        footer = TAG_HEADER_BYTES if head[5] & 0x10 else 0  # it repeats the header
        position += TAG_HEADER_BYTES + length + footer
    return position


def _header_at(file: OpenFile, offset: int) -> FrameHeader | None:
    return read_header(read_at(file, offset, HEADER_BYTES))


def _frame_size(header: FrameHeader, free_size: int) -> int:
    return header.size + (free_size if header.free else 0)


def _free_size(file: OpenFile, start: int, first: FrameHeader) -> int:
    """Bytes of a frame of a free bitrate without padding, by the distance of the first two; 0: not free, or alone."""
    if not first.free:
        return 0
    block = read_at(file, start, LONGEST_FREE_FRAME + HEADER_BYTES)
    for offset in _sync_offsets(block, HEADER_BYTES):
        second = read_header(block[offset : offset + HEADER_BYTES])
        if second is not None and second.free and second.is_like(first):
            return offset - first.size
    return 0


def _sync_offsets(block: bytes, offset: int = 0) -> Iterator[int]:
    """Offsets at which a header could begin."""
    while (offset := block.find(b"\xff", offset)) >= 0:
        yield offset
        offset += 1


def _next_frame(file: OpenFile, position: int, size: int) -> int | None:
    """The offset of the next frame, at the position or behind junk; None: there is none."""
    if _is_frame(file, position, size, 1):  # as nearly always: no need to search
        return position
    for offset in _sync_offsets(read_at(file, position, JUNK_BYTES)):
        if _is_frame(file, position + offset, size, FRAMES_IN_A_ROW):
            return position + offset
    return None


def _is_frame(file: OpenFile, offset: int, size: int, row: int) -> bool:
    """Whether a row of frames begins at an offset, or a shorter one that a tag or the end of the file follows."""
    header = _header_at(file, offset)
    # The size of free frames takes a search, which among junk would be made at every offset; free bitrates are rare.
    free_size = 0 if header is None or row > 1 else _free_size(file, offset, header)
    for number in range(1, row + 1):
        if header is None or (header.free and not free_size):
            return False
        offset += _frame_size(header, free_size)
        following = read_at(file, offset, TAG_HEADER_BYTES)
        if (offset == size or following.startswith(END_TAGS)) and number >= min(row, 2):
            return True
        if offset > size and number >= FRAMES_IN_A_ROW // 2:  # the last frame is cut
            return True
        following_header = read_header(following[:HEADER_BYTES])
        header = following_header if following_header is not None and following_header.is_like(header) else None
    return header is not None


def _resume(file: OpenFile, position: int, size: int, first: FrameHeader) -> tuple[int, Rest]:
    """The offset of the next frame and what follows, where no frame of the stream begins at a position."""
    head = read_at(file, position, TAG_HEADER_BYTES)
    if 0 < len(head) < HEADER_BYTES and head == first.word.to_bytes(HEADER_BYTES, "big")[: len(head)]:
        return position, "cut"  # the file ends within a header
    if not head or head.startswith(END_TAGS):
        return position, "end"
    offset = _next_frame(file, skip_tags(file, position), size)  # files that were joined have tags within
    if offset is None:
        return position, "end"
    header = _header_at(file, offset)
    return offset, "more" if header is not None and header.is_like(first) else "other"


def _length_tag(frame: bytes, header: FrameHeader, start: int) -> LengthTag | None:
    """The tag in a first frame of layer 3, if there is one."""
    if header.layer != 3:
        return None
    # Xing or Info takes the place of the sound, behind the header, the checksum and the side information.
    side_bytes = (17 if header.mono else 32) if header.mpeg1 else (9 if header.mono else 17)
    checksum_bytes = 0 if header.word >> 16 & 1 else 2
    at = HEADER_BYTES + checksum_bytes + side_bytes
    if frame[at : at + 4] in (b"Xing", b"Info"):
        # Name (4 bytes), flags (4), then what the flags announce: number of frames (flag 1), number of bytes (flag 2).
        flags = _number(frame, at + 4)
        count_at, bytes_at = at + 8, at + 8 + 4 * (flags & 1)
        return LengthTag(
            start + count_at if flags & 1 else None,
            _number(frame, count_at) if flags & 1 else 0,
            start + bytes_at if flags & 2 else None,
            _number(frame, bytes_at) if flags & 2 else 0,
        )
    if frame[36:40] == b"VBRI":  # always 32 bytes behind the header; libsndfile takes it for a frame of silence
        # Name (4 bytes), version (2), delay (2), quality (2), number of bytes (4), number of frames (4).
        return LengthTag(None, _number(frame, 50), None, _number(frame, 46))
    return None


def _number(content: bytes, offset: int) -> int:
    return int.from_bytes(content[offset : offset + 4], "big")
