"""Audio files -> the frames that a clip needs: as many as are there, whatever length a header gives.

These rules separate a cut file from one whose header is wrong:

- uncompressed: a length is not kept, and is none of those that mean "unknown" (`pcm_headers`);
- MPEG: the last frame is not whole; or the tag promises more frames and more bytes than are there;
- FLAC: the last frame is not whole; or a finished header, with the samples' checksum, promises more samples;
- Ogg: the last page is not whole, or does not end the stream; or a page in between is missing or altered.

In all other cases the header is wrong: what is there is counted.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float

from jaxdissect.audio import flac_stream, ogg_pages, pcm_headers
from jaxdissect.audio.byte_windows import OpenFile, Window, file_size, open_source
from jaxdissect.audio.file_kinds import OGG, convert_by, describe_kind, refusal
from jaxdissect.audio.mpeg_frames import MpegStream, skip_tags, walk_frames
from jaxdissect.errors import UnreadableError

Frames = Float[np.ndarray, "frame channel"]
Needed = Callable[[int], int]  # rate in Hz -> frames at that rate that a clip needs
FAILURES = (RuntimeError, OSError, TypeError, ValueError, MemoryError)  # soundfile's own are RuntimeErrors
BLOCK_FRAMES = 4096  # frames that are decoded at once; those before an error are kept
NO_FLAC_LENGTH = 2**62  # frames; libsndfile reports more if the header gives no length
MOST_TRIMMED = 5760  # samples at the end of Ogg Opus (120 ms at 48 kHz); Ogg Vorbis: at most half a block of 8192


class _Sound(soundfile.SoundFile):
    """A sound file that is read from the start to the end, from a path or an object with the methods of `Window`.

    soundfile seeks after every piece that it reads, which fails where no length is known.
    """

    def seekable(self) -> bool:
        """Never."""
        return False

    def next_frames(self, count: int) -> Frames:
        """The next frames; fewer where there are no more."""
        return self.read(count, dtype="float32", always_2d=True)

    def exactly(self, count: int) -> Frames:
        """The next frames, all of them."""
        pcm = self.next_frames(count)
        if len(pcm) < count:
            raise UnreadableError(f"truncated or damaged: {len(pcm)} of {count} frames decode")
        return pcm

    def until_error(self, count: int) -> tuple[Frames, Exception | None]:
        """The next frames, block by block, and the error that ended them: libsndfile drops what it read before one."""
        blocks = [np.zeros((0, self.channels), np.float32)]
        while count > 0:
            try:
                blocks.append(self.next_frames(min(BLOCK_FRAMES, count)))
            except soundfile.LibsndfileError as error:
                return np.concatenate(blocks), error
            count -= len(blocks[-1])
            if len(blocks[-1]) < BLOCK_FRAMES:
                break
        return np.concatenate(blocks), None


def read_frames(source: Path | bytes, needed: Needed) -> tuple[Frames, int]:
    """The first frames of an audio file, in [-1, 1], and their rate.

    Args:
      source: path of the file, or its bytes.
      needed: `needed(rate)`, number of frames at that rate; fewer are returned where the file has fewer.

    Raises:
      UnreadableError: it cannot be decoded, or is cut off.
    """
    try:
        opened = _Sound(io.BytesIO(source) if isinstance(source, bytes) else source)
    except FAILURES as error:
        with open_source(source) as file:
            return _read_refused(file, error, needed)
    with opened as sound:
        read_compressed = COMPRESSED.get(sound.format)
        if read_compressed is None and sound.frames and sound.format not in pcm_headers.UNLOGGED_FORMATS:
            return _read_plain(sound, needed), sound.samplerate
        with open_source(source) as file:
            return (read_compressed or _read_unsure)(file, sound, needed), sound.samplerate


def _refuse_if(reason: str | None) -> None:
    """Refuse a file for a reason; None: there is none."""
    if reason is not None:
        raise UnreadableError(reason)


def _read_plain(sound: _Sound, needed: Needed) -> Frames:
    """Frames of an uncompressed file, whose length libsndfile takes from its header and from its size."""
    _refuse_if(pcm_headers.broken_promise(sound.extra_info))
    pcm = sound.exactly(min(sound.frames, needed(sound.samplerate)))
    if sound.format == "SDS":  # its log grows as it is decoded
        _refuse_if(pcm_headers.broken_promise(sound.extra_info))
    return pcm


def _read_unsure(file: OpenFile, sound: _Sound, needed: Needed) -> Frames:
    """As `_read_plain`, for a file in which libsndfile finds no frame, or would not log that it is cut."""
    _refuse_if(pcm_headers.missing_sound(file, sound.format, sound.frames))
    replaced = {} if sound.frames else pcm_headers.mended_header(file)
    if not replaced:
        return _read_plain(sound, needed)
    with _Sound(Window(file, replaced=replaced)) as mended:
        return mended.exactly(min(mended.frames, needed(mended.samplerate)))


def _read_refused(file: OpenFile, error: Exception, needed: Needed) -> tuple[Frames, int]:
    """Frames of a file that libsndfile refuses as it is: its name or its header is wrong, or it is no sound."""
    replaced = pcm_headers.mended_header(file) or ogg_pages.endless_ogg(file)
    if replaced or isinstance(error, TypeError):  # soundfile asks for the format of any file called .raw
        with contextlib.suppress(*FAILURES), _Sound(Window(file, replaced=replaced)) as sound:
            return COMPRESSED.get(sound.format, _read_unsure)(file, sound, needed), sound.samplerate
    kind = describe_kind(file)
    stream = walk_frames(file, needed) if kind is None else None
    if stream is not None:
        return _decode_mpeg(file, stream, None, needed(stream.header.rate)), stream.header.rate
    if kind is not None and kind[0] == OGG:
        _refuse_cut_ogg(file)
    raise UnreadableError(pcm_headers.missing_sound(file, "", 0) or refusal(file)) from error


def _read_mpeg(file: OpenFile, sound: _Sound, needed: Needed) -> Frames:
    """Frames of an MPEG audio stream, counted by the headers of its own frames."""
    stream = walk_frames(file, needed)
    begins = skip_tags(file, 0)
    # Bytes of other kinds may hold what looks like two frames, and libsndfile looks for them where the name is .mp3.
    if stream is None or (stream.start > begins and describe_kind(file) is not None):
        raise UnreadableError(refusal(file))
    return _decode_mpeg(file, stream, sound if stream.start == begins else None, needed(sound.samplerate))


def _decode_mpeg(file: OpenFile, stream: MpegStream, sound: _Sound | None, wanted: int) -> Frames:
    """Frames of a stream that was counted.

    Args:
      file: open file.
      stream: stream in the file.
      sound: libsndfile's view of the file, if that begins where the stream does.
      wanted: number of frames that the clip needs.
    """
    _refuse_if(_missing_mpeg(stream, file_size(file)))
    tag = stream.tag
    if tag is None or tag.count_at is None:
        window = Window(file, stream.sound, stream.end, hide_length=True)
    else:
        more_is_there = stream.rest == "more" and tag.frames > stream.frames
        if sound is not None and (tag.frames == stream.frames or more_is_there):
            return sound.exactly(min(sound.frames, wanted))
        # The tag stays, since it also gives the samples that the encoder added, but with the true length.
        replaced = {tag.count_at: stream.frames.to_bytes(4, "big")}
        if tag.bytes_at is not None:  # else the decoder complains
            replaced[tag.bytes_at] = (stream.end - stream.start).to_bytes(4, "big")
        window = Window(file, stream.start, stream.end, replaced)
    try:
        with _Sound(window) as counted:
            return counted.exactly(min(counted.frames, stream.frames * stream.header.samples, wanted))
    except soundfile.LibsndfileError as error:
        raise UnreadableError(f"damaged: the decoder fails within the first {stream.frames} MPEG frames") from error


def _missing_mpeg(stream: MpegStream, size: int) -> str | None:
    """What is missing from a stream, or how it changes within; None: nothing."""
    if stream.rest == "other":
        return (
            f"changes its rate or its number of channels after {stream.frames} frames: cut it there, or "
            f"{convert_by('mp3')}"
        )
    if stream.rest == "more":
        return None
    tag = stream.tag
    promised = 0 if tag is None or pcm_headers.is_unknown_length(tag.frames) else tag.frames
    if stream.rest == "cut" and promised != stream.frames:
        return f"truncated: it ends within an MPEG frame, after {stream.frames} whole ones"
    if tag is None or promised <= stream.frames or pcm_headers.is_unknown_length(tag.bytes):
        return None
    if tag.bytes <= size - stream.start:  # all bytes are there, so that the tag's number of frames is wrong
        return None
    return f"truncated: its header promises {promised} MPEG frames in {tag.bytes} bytes, {stream.frames} are there"


def _read_flac(file: OpenFile, sound: _Sound, needed: Needed) -> Frames:
    """Frames of a FLAC file: as many as its header gives if that is right, else as many as there are."""
    header, wanted, promised = flac_stream.read_flac_header(file), needed(sound.samplerate), sound.frames
    if header is None or wanted <= promised or not flac_stream.may_have_more(file, header, promised):
        with contextlib.suppress(soundfile.LibsndfileError):
            pcm = sound.next_frames(min(wanted, promised))
            if len(pcm) == min(wanted, promised):
                return pcm
    if header is None:
        raise UnreadableError(refusal(file))
    has_length = promised < NO_FLAC_LENGTH
    with _Sound(Window(file, header.start, header.end, header.unknown_length)) as unbounded:
        pcm, error = unbounded.until_error(min(promised, wanted))
        if has_length and len(pcm) == promised and error is None:
            more, error = unbounded.until_error(wanted - promised)
            if error is None or not len(more):  # bytes behind the last frame are no error
                return np.concatenate([pcm, more])
    if error is not None:
        raise UnreadableError(
            f"truncated or damaged: its FLAC frames decode no further than sample {len(pcm)}"
        ) from error
    if len(pcm) < wanted:
        _refuse_if(_missing_flac(file, header, pcm, promised if has_length else None))
    return pcm


def _missing_flac(file: OpenFile, header: flac_stream.FlacHeader, pcm: Frames, promised: int | None) -> str | None:
    """What is missing from a file: a part of a frame, or samples that a finished header promises; None: nothing."""
    for offset in flac_stream.cut_header_offsets(file, header):
        # The rest from there on is a cut header if the file has the same samples without it.
        with _Sound(Window(file, header.start, offset, header.unknown_length)) as shortened:
            kept, error = shortened.until_error(len(pcm) + BLOCK_FRAMES)
        if error is None and len(kept) == len(pcm):
            return f"truncated: it ends within a FLAC frame, after {len(pcm)} samples"
    if promised is None or not any(header.md5):  # a header without checksum was written before all samples were known
        return None
    with _Sound(Window(file, header.start, header.end, header.unknown_length)) as unbounded:
        samples = unbounded.read(len(pcm), dtype="int32", always_2d=True)
    if flac_stream.samples_md5(samples, header.bits) == header.md5:
        return None
    return f"truncated: its header promises {promised} frames, {len(pcm)} are there"


def _read_ogg(file: OpenFile, sound: _Sound, needed: Needed) -> Frames:
    """Frames of the streams of an Ogg file, one after the other."""
    _refuse_cut_ogg(file)
    wanted = needed(sound.samplerate)
    if wanted <= sound.frames:
        pcm, _ = sound.until_error(wanted)
        if len(pcm) == wanted:
            return pcm
    parts: list[Frames] = []
    for number, link in enumerate(ogg_pages.ogg_links(file)):
        promised = sound.frames if number == 0 else _ogg_length(file, link)
        parts.append(_read_ogg_link(file, link, sound, promised, wanted))
        wanted -= len(parts[-1])
        if wanted <= 0:
            break
    return np.concatenate(parts)


def _refuse_cut_ogg(file: OpenFile) -> None:
    """Refuse a file whose last page is not whole, or does not end its stream."""
    if not ogg_pages.ogg_ends(file):
        raise UnreadableError(
            "truncated: the last Ogg page does not end the stream; if nothing is missing, write it anew: "
            "ffmpeg -i NAME.ogg -c copy NEW.ogg"
        )


def _ogg_length(file: OpenFile, link: ogg_pages.Link) -> int:
    """Frames of a stream by the position of its last page; 0 where that is impossible."""
    try:
        with _Sound(Window(file, link.pages[0].offset, link.end)) as stream:
            return stream.frames
    except soundfile.LibsndfileError:
        return 0


def _read_ogg_link(file: OpenFile, link: ogg_pages.Link, first: _Sound, promised: int, wanted: int) -> Frames:
    """Frames of one of the streams that follow one another.

    The position of the last page trims fewer samples from the end than a packet has; else it is wrong.

    Args:
      file: open file.
      link: stream to read.
      first: libsndfile's view of the first stream.
      promised: frames by the position of the last page.
      wanted: number of frames that the clip still needs.
    """
    if not link.complete:
        raise UnreadableError("damaged: an Ogg page is missing or altered")
    begin, end, last = link.pages[0].offset, link.end, link.pages[-1]
    try:
        opened = _Sound(Window(file, begin, end, ogg_pages.without_end(file, last)))
    except soundfile.LibsndfileError:  # Opus with one page of sound, from which the stream's begin is reckoned, too
        exact = ogg_pages.without_end(file, last, ogg_pages.opus_duration(file, last))
        opened = _Sound(Window(file, begin, end, exact))
    with opened as stream:
        if (stream.samplerate, stream.channels) != (first.samplerate, first.channels):
            raise UnreadableError(
                f"its streams differ in rate or channels: {first.samplerate} Hz, {first.channels}; {stream.samplerate} "
                f"Hz, {stream.channels}; {convert_by('ogg')}"
            )
        pcm = stream.next_frames(wanted + MOST_TRIMMED)
    trimmed = len(pcm) - promised
    return pcm[: min(wanted, promised if 0 <= trimmed <= MOST_TRIMMED else len(pcm))]


COMPRESSED = {"MP3": _read_mpeg, "FLAC": _read_flac, "OGG": _read_ogg}
