"""The frames of an MPEG audio stream (MP3, MP2, MP1), counted by their headers.

Nothing else tells how long such a stream is: it is a row of frames, each of which says its own size, and a first frame
that may say how many follow (Xing or Info; VBRI) is left out by many programs and wrong after others. libsndfile then
estimates the length from the size of the file and of the first frame.

Source: ISO/IEC 11172-3 and 13818-3, section 2.4 (frame headers); the Xing and LAME tags as their encoders write them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from jaxdissect.audio.byte_windows import Content, content_size, read_at

BITRATES = {  # kbit/s by layer, of MPEG-1 and of MPEG-2 and 2.5; 0: "free", told nowhere
    (1, True): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (2, True): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, True): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (1, False): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, False): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (3, False): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = (44100, 48000, 32000)  # Hz, of MPEG-1; MPEG-2 has half, MPEG-2.5 a quarter
HEADER = 4  # bytes
JUNK = 2**16  # bytes that may stand before or between frames; libsndfile gives up there too
ROW = 8  # frames one behind the other, by which one is known among junk: chance makes rows of two
FREE_FRAME = 2**13  # bytes; no frame of a free bitrate is longer
TAG_HEADER = 10  # bytes, of ID3v2
TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")  # that stand behind the last frame
DELAYS = 3 * 2**12  # samples that an encoder's delay and padding may take, and that frames overlap
# The bits of a header that stay the same in one stream: sync, version, layer, sampling rate.
SAME = 0xFFFE0C00


class Rest(Enum):
    """What follows the frames that were counted."""

    MORE = "more frames"
    END = "nothing of the stream"
    CUT = "a part of a frame"
    OTHER = "a stream of another rate or number of channels"


@dataclass(frozen=True)
class FrameHeader:
    """What the header of a frame says.

    Attributes:
      word: the header itself.
      mpeg1: MPEG-1, else MPEG-2 or 2.5.
      layer: 1, 2 or 3.
      rate: sampling rate, Hz.
      mono: one channel, else two.
      size: bytes of the frame, header included; of a free bitrate: of the padding alone.
      free: of a bitrate that is told nowhere.
    """

    word: int
    mpeg1: bool
    layer: int
    rate: int
    mono: bool
    size: int
    free: bool

    @property
    def samples(self) -> int:
        """Samples of a channel."""
        return {1: 384, 2: 1152, 3: 1152 if self.mpeg1 else 576}[self.layer]

    def like(self, other: "FrameHeader") -> bool:
        """Whether both may be of one stream."""
        return (self.word ^ other.word) & SAME == 0 and self.mono == other.mono


@dataclass(frozen=True)
class LengthTag:
    """A first frame that holds no sound but says how much follows.

    Attributes:
      count_at: offset of the number of frames, four bytes; None: it says none that libsndfile would read.
      frames: that number.
      bytes_at: offset of the number of bytes, this frame included; None: it says none.
      bytes: that number.
    """

    count_at: int | None
    frames: int
    bytes_at: int | None
    bytes: int


@dataclass(frozen=True)
class MpegStream:
    """What is there of a stream.

    Attributes:
      header: of the first frame.
      start: offset of the first frame, a tag's included.
      sound: offset of the first frame that holds sound.
      tag: what says the length, if anything does.
      frames: whole frames with sound up to `end`.
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

    @property
    def samples(self) -> int:
        """Samples of a channel in all frames that were counted."""
        return self.frames * self.header.samples


@lru_cache(maxsize=4096)  # one stream has a few different ones, a thousand times
def read_header(content: bytes) -> FrameHeader | None:
    """The header of a frame; None: these bytes are none.

    Args:
      content: four bytes.
    """
    word = int.from_bytes(content[:HEADER], "big")
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    bitrate, rate = word >> 12 & 15, word >> 10 & 3
    if len(content) < HEADER or word >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate == 15 or rate == 3:
        return None
    mpeg1 = version == 3
    hertz = RATES[rate] >> (0 if mpeg1 else 1 if version == 2 else 2)
    bits = 1000 * BITRATES[layer, mpeg1][bitrate]
    padding = word >> 9 & 1
    if layer == 1:
        size = (12 * bits // hertz + padding) * 4
    else:
        size = (72 if layer == 3 and not mpeg1 else 144) * bits // hertz + padding
    return FrameHeader(word, mpeg1, layer, hertz, word >> 6 & 3 == 3, size, bitrate == 0)


def walk_frames(content: Content, needed: Callable[[int], int]) -> MpegStream | None:
    """Count the frames of a stream from the start, as far as they are needed.

    Args:
      content: the file; its position changes.
      needed: `needed(rate)`, samples of a channel at that rate, after which no more frames are counted.

    Returns:
      What is there; None: no MPEG audio stream begins in the first 64 KiB behind the tags.
    """
    size = content_size(content)
    start = _next_frame(content, skip_tags(content, 0), size)
    if start is None:
        return None
    first = _header_at(content, start)
    assert first is not None
    free = _free_size(content, start, first)
    tag = _length_tag(read_at(content, start, first.size + free), first, start)
    sound = position = start + (first.size + free if tag is not None else 0)
    longest = -(-(needed(first.rate) + DELAYS) // first.samples)
    frames, rest = 0, Rest.MORE
    sizes: dict[bytes, int] = {}  # by header: a stream has few different ones
    while frames < longest:
        head = read_at(content, position, HEADER)
        length = sizes.get(head)
        if length is None:
            header = read_header(head)
            if header is None or not header.like(first):
                position, rest = _resume(content, position, size, first)
                if rest is not Rest.MORE:
                    break
                continue
            length = sizes[head] = _frame_size(header, free)
        if position + length > size:
            rest = Rest.CUT
            break
        frames += 1
        position += length
    return MpegStream(first, start, sound, tag, frames, position, rest)


def skip_tags(content: Content, position: int) -> int:
    """The offset behind all ID3v2 tags that begin at an offset.

    Args:
      content: the file; its position changes.
      position: the offset.
    """
    while (head := read_at(content, position, TAG_HEADER))[:3] == b"ID3" and len(head) == TAG_HEADER:
        length = 0
        for byte in head[6:]:  # seven bits each, so that no tag looks like the start of a frame
            length = length << 7 | byte & 0x7F
        position += TAG_HEADER + length + (TAG_HEADER if head[5] & 0x10 else 0)  # a footer repeats the header
    return position


def _header_at(content: Content, offset: int) -> FrameHeader | None:
    return read_header(read_at(content, offset, HEADER))


def _frame_size(header: FrameHeader, free: int) -> int:
    return header.size + (free if header.free else 0)


def _free_size(content: Content, start: int, first: FrameHeader) -> int:
    """Bytes of a frame of a free bitrate without padding, by the distance of the first two; 0: it is told, or none."""
    if not first.free:
        return 0
    block = read_at(content, start, FREE_FRAME + HEADER)
    for offset in _sync_offsets(block, HEADER):
        second = read_header(block[offset : offset + HEADER])
        if second is not None and second.free and second.like(first):
            return offset - first.size
    return 0


def _sync_offsets(block: bytes, offset: int = 0) -> Iterator[int]:
    """Where a header could begin."""
    while (offset := block.find(b"\xff", offset)) >= 0:
        yield offset
        offset += 1


def _next_frame(content: Content, position: int, size: int) -> int | None:
    """The offset of the next frame, at the position or behind junk."""
    if _is_frame(content, position, size, 1):  # as nearly always: no need to search
        return position
    block = read_at(content, position, JUNK)
    return next(
        (position + offset for offset in _sync_offsets(block) if _is_frame(content, position + offset, size, ROW)), None
    )


def _is_frame(content: Content, offset: int, size: int, row: int) -> bool:
    """Whether a frame begins at an offset, and others, a tag or the end of the file follow it."""
    header = _header_at(content, offset)
    free = 0 if header is None or row > 1 else _free_size(content, offset, header)  # a free bitrate is rare
    for number in range(row):
        if header is None or (header.free and not free):
            return False
        offset += _frame_size(header, free)
        following = read_at(content, offset, TAG_HEADER)
        if (offset == size or following.startswith(TAGS)) and number + 1 >= min(row, 2):
            return True
        if offset > size and number + 1 >= ROW // 2:  # the last one is cut
            return True
        other = read_header(following[:HEADER])
        header = other if other is not None and other.like(header) else None
    return header is not None


def _resume(content: Content, position: int, size: int, first: FrameHeader) -> tuple[int, Rest]:
    """What follows where no frame does: the offset of the next frame, or why there is none."""
    head = read_at(content, position, TAG_HEADER)
    if 0 < len(head) < HEADER and head == first.word.to_bytes(HEADER, "big")[: len(head)]:
        return position, Rest.CUT
    if not head or head.startswith(TAGS):
        return position, Rest.END
    offset = _next_frame(content, skip_tags(content, position), size)  # files that were joined have tags within
    if offset is None:
        return position, Rest.END
    header = _header_at(content, offset)
    return offset, Rest.MORE if header is not None and header.like(first) else Rest.OTHER


def _length_tag(frame: bytes, header: FrameHeader, start: int) -> LengthTag | None:
    """The tag in a first frame: Xing or Info behind the room for side information, VBRI always 32 bytes on."""
    if header.layer != 3:
        return None
    room = (17 if header.mono else 32) if header.mpeg1 else (9 if header.mono else 17)
    at = HEADER + room + (0 if header.word >> 16 & 1 else 2)  # a checksum takes two bytes
    if frame[at : at + 4] in (b"Xing", b"Info"):
        flags = _number(frame, at + 4)
        count_at, bytes_at = at + 8, at + 8 + 4 * (flags & 1)
        return LengthTag(
            start + count_at if flags & 1 else None,
            _number(frame, count_at) if flags & 1 else 0,
            start + bytes_at if flags & 2 else None,
            _number(frame, bytes_at) if flags & 2 else 0,
        )
    if frame[36:40] == b"VBRI":  # libsndfile takes it for a frame of silence
        return LengthTag(None, _number(frame, 50), None, _number(frame, 46))
    return None


def _number(content: bytes, offset: int) -> int:
    return int.from_bytes(content[offset : offset + 4], "big")
