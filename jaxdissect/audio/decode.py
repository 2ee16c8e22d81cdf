"""Audio files -> fixed-length PCM.

Mixed to mono, resampled by soxr HQ, cropped from the start, zero-padded at the end.
"""

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
        pcm, rate = _decode(_inside(data, file_name), sample_rate, samples)
    except UnreadableError as error:
        return unreadable(str(error), samples)
    return make_recording(pcm, rate, sample_rate, samples)


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


def _decode(path: Path, sample_rate: int, samples: int) -> tuple[Float[np.ndarray, "frame channel"], int]:
    """The frames that a clip of `samples` samples needs, and their rate."""
    try:
        with soundfile.SoundFile(path) as file:
            _refuse_truncated(file, path)
            wanted = min(
                file.frames, -(-samples * file.samplerate // sample_rate) + int(MARGIN_SECONDS * file.samplerate)
            )
            pcm = file.read(wanted, dtype="float32", always_2d=True)
            rate = file.samplerate
    except (RuntimeError, OSError, ValueError, MemoryError) as error:  # soundfile's own errors are RuntimeErrors
        raise UnreadableError(f"cannot be decoded: {error}".replace(str(path), path.name)) from error
    if len(pcm) < wanted:
        raise UnreadableError(f"truncated: {len(pcm)} of {wanted} frames decode")
    return pcm, rate


def _refuse_truncated(file: soundfile.SoundFile, path: Path) -> None:
    """Refuse a cut file, of which libsndfile plays what is left without a word."""
    log = file.extra_info
    claimed = PROMISED.search(log)
    if claimed and int(claimed[2]) < int(claimed[1]) < UNKNOWN_LENGTH:
        raise UnreadableError(f"truncated: its header promises {claimed[1]} bytes, {claimed[2]} are there")
    if "not equal to frame count" in log or "*** Calculated frame count" in log:
        raise UnreadableError("truncated: its header promises more frames than are there")
    if file.format == "OGG" and not _ogg_ends(path):
        raise UnreadableError("truncated: the last Ogg page does not end the stream")


def _ogg_ends(path: Path) -> bool:
    """Whether the last page carries the end-of-stream flag (RFC 3533, section 6)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16 - 512))
        tail = file.read()
    page = tail.rfind(b"OggS")
    return 0 <= page < len(tail) - 5 and bool(tail[page + 5] & 4)
