"""Audio files -> the frames that a clip needs: as many as are there, whatever a header says of the length.

What tells a cut file from one whose header is wrong:

- uncompressed: a length that is neither kept nor one of those that mean "unknown" (`pcm_headers`);
- MPEG: the last frame is not whole; or the tag promises more frames and more bytes than are there;
- FLAC: the last frame is not whole; or a header that was finished, with the samples' checksum, promises more samples;
- Ogg: the last page is not whole, or does not say that the stream ends; or a page in between is missing or altered.

All else is a header that is wrong: what is there is counted.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float

from jaxdissect.audio.byte_windows import Content, Window, content_size, open_content
from jaxdissect.audio.file_kinds import OGG, convert_by, describe_kind, refusal
from jaxdissect.audio.flac_stream import FlacHeader, header_begins, may_go_on, read_flac_header, samples_md5
from jaxdissect.audio.mpeg_frames import MpegStream, Rest, skip_tags, walk_frames
from jaxdissect.audio.ogg_pages import Link, endless_ogg, ogg_ends, ogg_links, without_end
from jaxdissect.audio.pcm_headers import LOGGED_NOWHERE, broken_promise, mended_header, missing_sound, unknown_length
from jaxdissect.errors import UnreadableError

Frames = Float[np.ndarray, "frame channel"]
FAILURES = (RuntimeError, OSError, TypeError, ValueError, MemoryError)  # soundfile's own are RuntimeErrors
BLOCK = 4096  # frames; what was decoded before an error is kept
UNKNOWN = 2**62  # frames, where libsndfile knows no number
TRIMMED = 5760  # samples at the end of Ogg Opus (120 ms at 48 kHz); Ogg Vorbis: half a block of 8192 at the most


class _Sound(soundfile.SoundFile):
    """A sound file that is read from the start to the end.

    soundfile seeks after every piece that it reads, which fails where no length is known.
    """

    def seekable(self) -> bool:
        """Never."""
        return False

    def next_frames(self, count: int) -> Frames:
        """The next frames; fewer where there are no more."""
        return self.read(count, dtype="float32", always_2d=True)

    def all_frames(self, count: int) -> tuple[Frames, Exception | None]:
        """As `next_frames`, block by block, and the error that ended it: libsndfile drops what it read before one."""
        blocks = [np.zeros((0, self.channels), np.float32)]
        error = None
        while count > 0 and error is None:
            try:
                blocks.append(self.next_frames(min(BLOCK, count)))
            except soundfile.LibsndfileError as ended:
                error = ended
            else:
                count -= len(blocks[-1])
                if len(blocks[-1]) < BLOCK:
                    break
        return np.concatenate(blocks), error


def read_frames(source: Path | bytes, needed: Callable[[int], int]) -> tuple[Frames, int]:
    """The first frames of an audio file, in [-1, 1], and their rate.

    Args:
      source: path of the file, or what it holds.
      needed: `needed(rate)`, how many frames at that rate; fewer are given where the file has fewer.

    Raises:
      UnreadableError: it cannot be decoded, or is cut off.
    """
    try:
        opened = _Sound(io.BytesIO(source) if isinstance(source, bytes) else source)
    except FAILURES as error:
        with open_content(source) as content:
            return _read_refused(content, error, needed)
    with opened as file:
        compressed = COMPRESSED.get(file.format)
        if compressed is None and file.frames and file.format not in LOGGED_NOWHERE:
            return _read_plain(file, needed), file.samplerate
        with open_content(source) as content:
            return (compressed or _read_unsure)(content, file, needed), file.samplerate


def _read_plain(file: _Sound, needed: Callable[[int], int]) -> Frames:
    """Frames of an uncompressed file, whose length libsndfile takes from its header and from its size."""
    broken = broken_promise(file.extra_info)
    if broken is not None:
        raise UnreadableError(broken)
    pcm = _exactly(file, min(file.frames, needed(file.samplerate)))
    if file.format == "SDS" and (broken := broken_promise(file.extra_info)) is not None:  # logged as it is decoded
        raise UnreadableError(broken)
    return pcm


def _read_unsure(content: Content, file: _Sound, needed: Callable[[int], int]) -> Frames:
    """As `_read_plain`, of a file of which libsndfile finds nothing, or would not log that it is cut."""
    missing = missing_sound(content, file.format, file.frames)
    if missing is not None:
        raise UnreadableError(missing)
    replaced = {} if file.frames else mended_header(content)
    if not replaced:
        return _read_plain(file, needed)
    with _Sound(Window(content, replaced=replaced)) as mended:
        return _exactly(mended, min(mended.frames, needed(mended.samplerate)))


def _read_refused(content: Content, error: Exception, needed: Callable[[int], int]) -> tuple[Frames, int]:
    """Frames of a file that libsndfile does not open as it is: its name misleads, or its header, or it is no sound."""
    replaced = mended_header(content) or endless_ogg(content)
    if replaced or isinstance(error, TypeError):  # soundfile asks what a file called .raw holds, whatever that is
        with contextlib.suppress(*FAILURES), _Sound(Window(content, replaced=replaced)) as file:
            return COMPRESSED.get(file.format, _read_unsure)(content, file, needed), file.samplerate
    stream = walk_frames(content, needed) if describe_kind(content) is None else None
    if stream is not None:
        return _decode_mpeg(content, stream, None, needed(stream.header.rate)), stream.header.rate
    if describe_kind(content) == OGG:
        _refuse_cut_ogg(content)
    raise UnreadableError(missing_sound(content, "", 0) or refusal(content)) from error


def _read_mpeg(content: Content, file: _Sound, needed: Callable[[int], int]) -> Frames:
    """Frames of an MPEG audio stream, counted by the headers of its own frames."""
    stream = walk_frames(content, needed)
    begins = skip_tags(content, 0)
    # Bytes of other kinds may hold what looks like two frames, and libsndfile looks for them where the name is .mp3.
    if stream is None or (stream.start > begins and describe_kind(content) is not None):
        raise UnreadableError(refusal(content))
    plain = file if stream.start == begins else None
    return _decode_mpeg(content, stream, plain, needed(file.samplerate))


def _decode_mpeg(content: Content, stream: MpegStream, file: _Sound | None, wanted: int) -> Frames:
    """Frames of a stream that was counted.

    Args:
      content: the file.
      stream: what is there.
      file: libsndfile's view of it, if that begins where the stream does.
      wanted: how many frames.
    """
    _refuse_cut_mpeg(stream, content_size(content))
    tag = stream.tag
    if tag is None or tag.count_at is None:
        window, longest = Window(content, stream.sound, stream.end, hide_length=True), stream.samples
    elif file is not None and (
        tag.frames == stream.frames or (stream.rest is Rest.MORE and tag.frames > stream.frames)
    ):
        return _exactly(file, min(file.frames, wanted))
    else:
        replaced = {tag.count_at: stream.frames.to_bytes(4, "big")}
        if tag.bytes_at is not None:  # else the decoder complains
            replaced[tag.bytes_at] = (stream.end - stream.start).to_bytes(4, "big")
        window, longest = Window(content, stream.start, stream.end, replaced), stream.samples
    try:
        with _Sound(window) as sound:
            return _exactly(sound, min(sound.frames, longest, wanted))
    except soundfile.LibsndfileError as error:
        raise UnreadableError(
            f"damaged: the decoder does not get from one to the next of the first {stream.frames} MPEG frames"
        ) from error


def _refuse_cut_mpeg(stream: MpegStream, size: int) -> None:
    """Refuse a stream of which something is missing, or that changes what a clip cannot change."""
    if stream.rest is Rest.OTHER:
        raise UnreadableError(
            f"changes its rate or its number of channels after {stream.frames} frames: cut it there, or convert it: "
            f"{convert_by('mp3')}"
        )
    if stream.rest is Rest.MORE:
        return
    tag = stream.tag
    promised = 0 if tag is None or unknown_length(tag.frames) else tag.frames
    if stream.rest is Rest.CUT and promised != stream.frames:
        raise UnreadableError(f"truncated: it ends within the MPEG frame behind the first {stream.frames}")
    if tag is None or promised <= stream.frames or unknown_length(tag.bytes):
        return
    if tag.bytes > size - stream.start:
        raise UnreadableError(
            f"truncated: its header promises {promised} MPEG frames in {tag.bytes} bytes, {stream.frames} are there"
        )


def _read_flac(content: Content, file: _Sound, needed: Callable[[int], int]) -> Frames:
    """Frames of a FLAC file: as the header has it if that is right, else as far as there are any."""
    header, wanted, promised = read_flac_header(content), needed(file.samplerate), file.frames
    known = promised < UNKNOWN
    if header is None or wanted <= promised or not may_go_on(content, header, promised):
        with contextlib.suppress(soundfile.LibsndfileError):
            pcm = file.next_frames(min(wanted, promised))
            if len(pcm) == min(wanted, promised):
                return pcm
    if header is None:
        raise UnreadableError(refusal(content))
    with _Sound(Window(content, header.start, header.end, header.unknown_length)) as sound:
        pcm, error = sound.all_frames(min(promised, wanted))
        if known and len(pcm) == promised and error is None:
            more, error = sound.all_frames(wanted - promised)
            if error is None or not len(more):  # bytes behind the last frame are no error
                return np.concatenate([pcm, more])
    if error is not None:
        raise UnreadableError(
            f"truncated or damaged: its FLAC frames decode up to sample {len(pcm)} and no further"
        ) from error
    if len(pcm) < wanted:
        _refuse_cut_flac(content, header, pcm, promised if known else None)
    return pcm


def _refuse_cut_flac(content: Content, header: FlacHeader, pcm: Frames, promised: int | None) -> None:
    """Refuse a file that ends within a frame, or that has fewer samples than a header that was finished promises."""
    for offset in header_begins(content, header):
        with _Sound(Window(content, header.start, offset, header.unknown_length)) as sound:
            kept, error = sound.all_frames(len(pcm) + BLOCK)
        if error is None and len(kept) == len(pcm):
            raise UnreadableError(f"truncated: it ends within the FLAC frame behind the first {len(pcm)} samples")
    if promised is None or not header.finished:
        return
    with _Sound(Window(content, header.start, header.end, header.unknown_length)) as sound:
        samples = sound.read(len(pcm), dtype="int32", always_2d=True)
    if samples_md5(samples, header.bits) != header.md5:
        raise UnreadableError(f"truncated: its header promises {promised} frames, {len(pcm)} are there")


def _read_ogg(content: Content, file: _Sound, needed: Callable[[int], int]) -> Frames:
    """Frames of the streams of an Ogg file, one after the other."""
    _refuse_cut_ogg(content)
    wanted = needed(file.samplerate)
    if wanted <= file.frames:
        pcm, _ = file.all_frames(wanted)
        if len(pcm) == wanted:
            return pcm
    parts: list[Frames] = []
    for number, link in enumerate(ogg_links(content)):
        promised = file.frames if number == 0 else _ogg_length(content, link)
        parts.append(_read_ogg_link(content, link, file, promised, wanted - sum(map(len, parts))))
        if sum(map(len, parts)) >= wanted:
            break
    return np.concatenate(parts)


def _refuse_cut_ogg(content: Content) -> None:
    """Refuse a file whose last page is not whole, or does not say that its stream ends."""
    if not ogg_ends(content):
        raise UnreadableError(
            "truncated: the last Ogg page does not end the stream; if nothing is missing, write it anew: "
            "ffmpeg -i NAME.ogg -c copy NEW.ogg"
        )


def _ogg_length(content: Content, link: Link) -> int:
    """Frames of a stream by the position of its last page; 0 where that is impossible."""
    try:
        with _Sound(Window(content, link.pages[0].offset, link.end)) as stream:
            return stream.frames
    except soundfile.LibsndfileError:
        return 0


def _read_ogg_link(content: Content, link: Link, first: _Sound, promised: int, wanted: int) -> Frames:
    """Frames of one of the streams that follow one another.

    The position of the last page trims some samples from the end, fewer than a packet has; else it is wrong.

    Args:
      content: the file.
      link: the stream.
      first: libsndfile's view of the first one.
      promised: frames by the position of the last page.
      wanted: how many frames.
    """
    if not link.complete:
        raise UnreadableError("damaged: an Ogg page is missing or altered")
    with _Sound(Window(content, link.pages[0].offset, link.end, without_end(content, link.pages[-1]))) as stream:
        if (stream.samplerate, stream.channels) != (first.samplerate, first.channels):
            raise UnreadableError(
                f"its streams differ in rate or channels: {first.samplerate} Hz, {first.channels}; {stream.samplerate} "
                f"Hz, {stream.channels}; convert it: {convert_by('ogg')}"
            )
        pcm = stream.next_frames(wanted + TRIMMED)
    trimmed = len(pcm) - promised
    return pcm[: min(wanted, promised if 0 <= trimmed <= TRIMMED else len(pcm))]


def _exactly(file: _Sound, count: int) -> Frames:
    pcm = file.next_frames(count)
    if len(pcm) < count:
        raise UnreadableError(f"truncated or damaged: {len(pcm)} of {count} frames decode")
    return pcm


COMPRESSED = {"MP3": _read_mpeg, "FLAC": _read_flac, "OGG": _read_ogg}
