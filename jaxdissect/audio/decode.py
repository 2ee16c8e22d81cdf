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

EXTRA_SECONDS = 0.25  # read beyond the crop, so that resampling does not see the end of what was read


@dataclass(frozen=True)
class ClipStatus:
    """The outcome of reading one clip's file.

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
      pcm: samples of the task's unit length: float32, or 16-bit integers as in shards; all zero if unreadable.
      clip: outcome of reading its file.
    """

    pcm: Float[np.ndarray, " sample"] | Int16[np.ndarray, " sample"]
    clip: ClipStatus


def read_clip(data: Path, file_name: str, sample_rate: int, samples: int) -> Recording:
    """Read one clip of the data folder. A fault of the file is the clip's status and raises nothing.

    Args:
      data: data folder; a name that leaves it is not opened, but a link in it may lead anywhere.
      file_name: path of the file, relative to `data`.
      sample_rate: rate of the result, Hz.
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
      source: path of the file, or its bytes.
      sample_rate: rate of the clip, Hz.
      samples: unit length of the clip.

    Raises:
      UnreadableError: it cannot be decoded, or is cut off.
    """
    try:
        return read_frames(source, lambda rate: frames_needed(rate, sample_rate, samples))
    except FAILURES as error:
        reason = str(getattr(error, "error_string", error))  # soundfile's own text, without the path
        if isinstance(source, Path):
            reason = reason.replace(str(source), source.name)
        raise UnreadableError(f"cannot be decoded: {reason}") from error


def frames_needed(rate: int, sample_rate: int, samples: int) -> int:
    """Frames of a file from which a clip is resampled.

    Args:
      rate: rate of the file, Hz.
      sample_rate: rate of the clip, Hz.
      samples: unit length of the clip.
    """
    return -(-samples * rate // sample_rate) + int(EXTRA_SECONDS * rate)


def make_recording(pcm: Float[np.ndarray, "frame channel"], rate: int, sample_rate: int, samples: int) -> Recording:
    """Mix to mono, resample, crop from the start, zero-pad at the end. A fault is the clip's status, and never raises.

    Args:
      pcm: samples in [-1, 1].
      rate: rate of `pcm`, Hz.
      sample_rate: rate of the result, Hz.
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
    """Zero-pad a clip at the end, and note its status.

    Args:
      mono: at most `samples` samples.
      sample_rate: rate of the clip, Hz.
      samples: unit length of the result.
    """
    recorded = len(mono)
    padded = np.pad(mono, (0, samples - recorded))
    status = ClipStatus(recorded, "ok")
    if not padded.any():
        status = ClipStatus(recorded, "silent", "every sample is zero")
    elif recorded < samples:
        reason = f"{recorded / sample_rate:.3f} s, padded to {samples / sample_rate:g} s"
        status = ClipStatus(recorded, "short", reason)
    return Recording(padded, status)


def unreadable(reason: str, samples: int) -> Recording:
    """A clip that is not to be counted.

    Args:
      reason: why it is not.
      samples: unit length of the result, which is silence.
    """
    return Recording(np.zeros(samples, np.float32), ClipStatus(0, "unreadable", reason))
