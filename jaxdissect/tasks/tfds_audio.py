"""The sound in the records of a data set that tensorflow-datasets (TFDS) has prepared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdissect.audio.decode import decode_file, frames_needed
from jaxdissect.audio.pcm import FULL_SCALE
from jaxdissect.errors import InputError, UnreadableError
from jaxdissect.tasks.tfds_records import FEATURES, DataSet

RATES = {  # Hz, where features.json does not tell
    "crema_d": 16000, "gtzan": 22050, "nsynth": 16000, "voxforge": 16000, "speech_commands": 16000,
    "spoken_digit": 8000,
}  # fmt: skip
HIGHEST_RATE = 10_000_000  # Hz
TYPES = ("int16", "int32", "int64", "float16", "float32", "float64")
# TFDS keeps integers as its decoder gives them, in whatever type, and does not tell their full scale. Nearly always it
# is that of 16 bits, and is taken to be so until a record is beyond it: then the set is refused as a whole, since quiet
# records of 24 bits look like loud ones of 16.


@dataclass(frozen=True)
class Audio:
    """How the records of a data set keep their sound.

    Attributes:
      feature: its name.
      form: "integers", "floats", or "file" for whole audio files, which tell the rest themselves.
      rate: Hz.
      channels: how many, interleaved.
      described: the file that says so.
    """

    feature: str
    form: str
    rate: int
    channels: int
    described: Path


def find_audio(data_set: DataSet) -> Audio:
    """The one Audio feature of a data set, or else its tensor "audio".

    Raises:
      InputError: there is none, or several, or it is kept in a form that cannot be read.
    """
    leaves = {name: feature for name, (feature, _) in data_set.features.items()}
    found = {name: feature.audio for name, feature in leaves.items() if feature.WhichOneof("content") == "audio"}
    if not found and "audio" in leaves and leaves["audio"].WhichOneof("content") == "tensor":
        found = {"audio": leaves["audio"].tensor}
    path = data_set.folder / FEATURES
    if len(found) != 1:
        raise InputError(
            f"{path}: a task needs one Audio feature, found {', '.join(found) or 'none'} among the features "
            f"{', '.join(leaves) or '(none)'}: choose another data set."
        )
    [(name, kept)] = found.items()
    if getattr(kept, "lazy_decode", False):
        return Audio(name, "file", 0, 0, path)
    form = {"i": "integers", "f": "floats"}.get(kept.dtype[:1], "") if kept.dtype in TYPES else ""
    shape = tuple(kept.shape.dimensions)
    channels = (*shape, 1)[1] if len(shape) in (1, 2) else 0
    if not form or channels < 1 or kept.encoding.lower() not in ("", "none"):
        raise InputError(
            f"{path}: the feature {name!r} must be of shape (frames) or (frames, channels), not encoded, and of the "
            f"type {', '.join(TYPES)}; found {shape}, encoding {kept.encoding or 'none'!r}, {kept.dtype or 'no type'}: "
            f"it cannot be read."
        )
    rate = getattr(kept, "sample_rate", 0) or RATES.get(data_set.name, 0)
    if not 0 < rate <= HIGHEST_RATE:
        raise InputError(f"{path}: the feature {name!r} must tell its sampleRate in Hz, found {rate}: write it there.")
    return Audio(name, form, rate, channels, path)


def decode(stored: Any, audio: Audio, sample_rate: int, samples: int) -> tuple[Float[np.ndarray, "frame channel"], int]:
    """The frames of a record that a clip of `samples` samples needs, in [-1, 1], and their rate.

    Args:
      stored: what the record stores, by feature.
      audio: of its data set.
      sample_rate: of the clip, Hz.
      samples: unit length of the clip.

    Raises:
      UnreadableError: the record has no such sound, or it is damaged.
      InputError: the record shows that the set's integers have more than 16 bits.
    """
    if audio.feature not in stored:
        raise UnreadableError(f"holds no feature {audio.feature!r}")
    kept = stored[audio.feature]
    if audio.form == "file":
        return decode_file(b"".join(kept.bytes_list.value), sample_rate, samples)
    if audio.form == "floats":
        values, scale = np.array(kept.float_list.value, np.float32), 1
    else:
        values, scale = np.array(kept.int64_list.value, np.int64), FULL_SCALE
        if len(values) and (values.min() < -FULL_SCALE or values.max() >= FULL_SCALE):
            raise InputError(
                f"{audio.described}: the feature {audio.feature!r} holds integers of more than 16 bits, whose full "
                f"scale is not told: the whole set cannot be read. Prepare it from 16-bit recordings."
            )
    if len(values) % audio.channels:
        raise UnreadableError(f"truncated: {len(values)} samples of {audio.channels} channels")
    wanted = frames_needed(audio.rate, sample_rate, samples) * audio.channels
    pcm = values[:wanted].astype(np.float32) / np.float32(scale)
    return pcm.reshape(-1, audio.channels), audio.rate
