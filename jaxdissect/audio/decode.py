"""Audio files -> fixed-length PCM.

Mixed to mono, resampled by soxr HQ, cropped from the start, zero-padded at the end.
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Int16

MARGIN_SECONDS = 0.25  # read past the crop, so that resampling does not see the end of what was read
# What libsndfile logs of a chunk that is shorter than it says: of WAV, of AU, and of a whole W64 file.
PROMISED = re.compile(r"^(?:data|\s*Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
UNKNOWN_LENGTH = 0x7FFFF000  # written into a WAV header by programs that stream
OGG_HEADER = 27  # bytes
OGG_PAGE = 2**16 + 512  # bytes; no page is longer


@dataclass(frozen=True)
class ClipStatus:
    """What became of one clip's file.

    Attributes:
      samples: recorded samples within the unit length, at the encoder's rate; the rest is padding.
      status: "ok", "short" (padded), "silent" (all zero) or "unreadable" (not to be counted).
      reason: why it is not "ok", else empty.
    """

    samples: int
    status: str
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Recording:
    """One clip, ready for the front end.

    Attributes:
      pcm: of the task's unit length, float32, or 16-bit integers as in shards; all zero if unreadable.
      clip: what became of its file.
    """

    pcm: Float[np.ndarray, " sample"] | Int16[np.ndarray, " sample"]
    clip: ClipStatus


class UnreadableError(Exception):
    """A recording that cannot be counted; the message says why."""


def read_clip(data: Path, file_name: str, sample_rate: int, samples: int) -> Recording:
    """Read one clip of the data folder. Never raises for what is wrong with one file: that is its status.

    Args:
      data: the data folder; a file that lies outside it, also by a symbolic link, is not opened.
      file_name: relative to `data`.
      sample_rate: of the result, Hz.
      samples: unit length of the result.
    """
    try:
        pcm, rate = decode_file(_inside(data, file_name), sample_rate, samples)
    except UnreadableError as error:
        return unreadable(str(error), samples)
    return make_recording(pcm, rate, sample_rate, samples)


def decode_file(source: Path | bytes, sample_rate: int, samples: int) -> tuple[Float[np.ndarray, "frame channel"], int]:
    """The frames of an audio file that a clip of `samples` samples needs, in [-1, 1], and their rate.

    Args:
      source: path of the file, or what it holds.
      sample_rate: of the clip, Hz.
      samples: unit length of the clip.

    Raises:
      UnreadableError: it cannot be decoded, or is cut off.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            _refuse_truncated(file, source)
            rate = file.samplerate
            wanted = min(file.frames, frames_needed(rate, sample_rate, samples))
            pcm = file.read(wanted, dtype="float32", always_2d=True)
    except (RuntimeError, OSError, TypeError, ValueError, MemoryError) as error:  # soundfile's own are RuntimeErrors
        reason = str(getattr(error, "error_string", error))
        if isinstance(source, Path):
            reason = reason.replace(str(source), source.name)
        raise UnreadableError(f"cannot be decoded: {reason}") from error
    if len(pcm) < wanted:
        raise UnreadableError(f"truncated: {len(pcm)} of {wanted} frames decode")
    return pcm, rate


def frames_needed(rate: int, sample_rate: int, samples: int) -> int:
    """Frames at `rate` that resampling to `samples` samples at `sample_rate` takes."""
    return -(-samples * rate // sample_rate) + int(MARGIN_SECONDS * rate)


def make_recording(pcm: Float[np.ndarray, "frame channel"], rate: int, sample_rate: int, samples: int) -> Recording:
    """Mix to mono, resample, crop from the start, zero-pad at the end. Never raises: what is wrong is the status.

    Args:
      pcm: samples in [-1, 1].
      rate: of `pcm`, Hz.
      sample_rate: of the result, Hz.
      samples: unit length of the result.
    """
    if not len(pcm):
        return unreadable("holds no samples", samples)
    if not np.isfinite(pcm).all():
        return unreadable("holds samples that are NaN or infinite", samples)
    mono = pcm.mean(axis=1, dtype=np.float32)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    if not len(mono):
        return unreadable("is shorter than one sample of the encoder", samples)
    return pad_recording(mono[:samples], sample_rate, samples)


def pad_recording(
    mono: Float[np.ndarray, " sample"] | Int16[np.ndarray, " sample"], sample_rate: int, samples: int
) -> Recording:
    """Zero-pad a clip of at most `samples` samples at the end, and say what became of it."""
    recorded = len(mono)
    padded = np.pad(mono, (0, samples - recorded))
    if not padded.any():
        return Recording(padded, ClipStatus(recorded, "silent", "every sample is zero"))
    if recorded < samples:
        reason = f"{recorded / sample_rate:.3f} s, padded to {samples / sample_rate:g} s"
        return Recording(padded, ClipStatus(recorded, "short", reason))
    return Recording(padded, ClipStatus(recorded, "ok"))


def unreadable(reason: str, samples: int) -> Recording:
    """A clip that is not to be counted, and why."""
    return Recording(np.zeros(samples, np.float32), ClipStatus(0, "unreadable", reason))


def _inside(data: Path, file_name: str) -> Path:
    try:
        root, path = data.resolve(), (data / file_name).resolve()
        if not path.is_relative_to(root):
            raise UnreadableError("lies outside the data folder")
        if not path.exists():
            raise UnreadableError("missing")
        if not path.is_file():  # reading a pipe or a device could wait for ever
            raise UnreadableError("is not a regular file")
        if not path.stat().st_size:
            raise UnreadableError("empty file")
    except (OSError, RuntimeError, ValueError) as error:  # no permission, a name too long, a loop of links
        raise UnreadableError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    return path


def _refuse_truncated(file: soundfile.SoundFile, source: Path | bytes) -> None:
    """Refuse a cut file, of which libsndfile plays what is left without a word."""
    log = file.extra_info
    claimed = PROMISED.search(log)
    if claimed and int(claimed[2]) < int(claimed[1]) < UNKNOWN_LENGTH:
        raise UnreadableError(f"truncated: its header promises {claimed[1]} bytes, {claimed[2]} are there")
    if "not equal to frame count" in log or "*** Calculated frame count" in log:
        raise UnreadableError("truncated: its header promises more frames than are there")
    if file.format == "OGG" and not _ogg_ends(source):
        raise UnreadableError("truncated: the last Ogg page does not end the stream")


def _ogg_ends(source: Path | bytes) -> bool:
    """Whether the last page is whole and carries the end-of-stream flag (RFC 3533, section 6)."""
    if isinstance(source, bytes):
        tail = source[-OGG_PAGE:]
    else:
        with source.open("rb") as file:
            file.seek(max(0, source.stat().st_size - OGG_PAGE))
            tail = file.read()
    page = tail[tail.rfind(b"OggS") :]  # without any: the last byte, too short for one
    if len(page) < OGG_HEADER or not page[5] & 4:
        return False
    whole = OGG_HEADER + page[26]  # with the table of the segments' sizes
    return len(page) >= whole + sum(page[OGG_HEADER:whole])
