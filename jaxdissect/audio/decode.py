"""Audio files -> fixed-length PCM.

Mixed to mono, resampled by soxr HQ, cropped from the start, zero-padded at the end.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from jaxtyping import Float, Int16

from jaxdissect.audio.file_names import find_clip
from jaxdissect.audio.sound_files import FAILURES, read_frames
from jaxdissect.errors import UnreadableError

MARGIN_SECONDS = 0.25  # read past the crop, so that resampling does not see the end of what was read


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


def read_clip(data: Path, file_name: str, sample_rate: int, samples: int) -> Recording:
    """Read one clip of the data folder. Never raises for what is wrong with one file: that is its status.

    Args:
      data: the data folder; a name that leaves it is not opened, a link in it leads wherever its owner wants.
      file_name: relative to `data`.
      sample_rate: of the result, Hz.
      samples: unit length of the result.
    """
    try:
        pcm, rate = decode_file(find_clip(data, file_name), sample_rate, samples)
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
        return read_frames(source, lambda rate: frames_needed(rate, sample_rate, samples))
    except FAILURES as error:
        reason = str(getattr(error, "error_string", error))
        if isinstance(source, Path):
            reason = reason.replace(str(source), source.name)
        raise UnreadableError(f"cannot be decoded: {reason}") from error


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
