"""The sound in the records of a data set that tensorflow-datasets (TFDS) has prepared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdissect.audio.decode import decode_file, frames_needed
from jaxdissect.audio.pcm import FULL_SCALE
from jaxdissect.errors import UnreadableError, require
from jaxdissect.tasks.tfds_records import FEATURES_FILE, KNOWN_SETS, DataSet

HIGHEST_RATE = 10_000_000  # Hz
# TFDS keeps integers as its decoder gives them, in any type, and does not note their full scale. Nearly always that is
# the one of 16 bits, which is assumed until a record goes beyond it. The set is then refused as a whole, since quiet
# records of 24 bits look like loud ones of 16.
TYPES = ("int16", "int32", "int64", "float16", "float32", "float64")


@dataclass(frozen=True)
class Audio:
    """How the records of a data set keep their sound.

    Attributes:
      feature: name of the feature with the sound.
      form: "integers", "floats", or "file" for whole audio files, which have their own rate and channels.
      rate: sampling rate, Hz.
      channels: number of channels, interleaved.
      source: file that describes it.
    """

    feature: str
    form: str
    rate: int
    channels: int
    source: Path


def find_audio(data_set: DataSet) -> Audio:
    """The one Audio feature of a data set, or else its tensor "audio".

    Args:
      data_set: data set as its JSON files describe it.

    Raises:
      InputError: there is none, or several, or it is kept in a form that cannot be read.
    """
    features = {name: feature for name, (feature, _) in data_set.features.items()}
    sounds = {name: feature.audio for name, feature in features.items() if feature.WhichOneof("content") == "audio"}
    if not sounds and "audio" in features and features["audio"].WhichOneof("content") == "tensor":
        sounds = {"audio": features["audio"].tensor}
    path = data_set.folder / FEATURES_FILE
    require(
        len(sounds) == 1,
        f"{path}: a task needs one Audio feature, found {', '.join(sounds) or 'none'} among the features "
        f"{', '.join(features) or '(none)'}: choose another data set.",
    )
    [(name, sound)] = sounds.items()
    if getattr(sound, "lazy_decode", False):  # TFDS keeps the audio files as they were
        return Audio(name, "file", 0, 0, path)
    form = {"i": "integers", "f": "floats"}.get(sound.dtype[:1], "") if sound.dtype in TYPES else ""
    shape = tuple(sound.shape.dimensions)
    channels = (*shape, 1)[1] if len(shape) in (1, 2) else 0  # (frames) is one channel
    require(
        form != "" and channels >= 1 and sound.encoding.lower() in ("", "none"),
        f"{path}: the feature {name!r} must be of shape (frames) or (frames, channels), not encoded, and of the "
        f"type {', '.join(TYPES)}; found {shape}, encoding {sound.encoding or 'none'!r}, {sound.dtype or 'no type'}: "
        f"it cannot be read.",
    )
    rate = getattr(sound, "sample_rate", 0) or KNOWN_SETS.get(data_set.name, (0, None))[0]
    require(
        0 < rate <= HIGHEST_RATE,
        f"{path}: the feature {name!r} must have its sampleRate in Hz, found {rate}: write it there.",
    )
    return Audio(name, form, rate, channels, path)


def decode(record: Any, audio: Audio, sample_rate: int, samples: int) -> tuple[Float[np.ndarray, "frame channel"], int]:
    """The frames of a record that a clip of `samples` samples needs, in [-1, 1], and their rate.

    Args:
      record: content of the record, by feature.
      audio: how the data set keeps its sound.
      sample_rate: rate of the clip, Hz.
      samples: unit length of the clip.

    Raises:
      UnreadableError: the record has no such sound, or it is damaged.
      InputError: the record shows that the set's integers have more than 16 bits.
    """
    if audio.feature not in record:
        raise UnreadableError(f"holds no feature {audio.feature!r}")
    sound = record[audio.feature]
    if audio.form == "file":
        return decode_file(b"".join(sound.bytes_list.value), sample_rate, samples)
    if audio.form == "floats":
        values, scale = np.array(sound.float_list.value, np.float32), 1
    else:
        values, scale = np.array(sound.int64_list.value, np.int64), FULL_SCALE
        require(
            not len(values) or -FULL_SCALE <= int(values.min()) <= int(values.max()) < FULL_SCALE,
            f"{audio.source}: the feature {audio.feature!r} holds integers of more than 16 bits, whose full scale is "
            f"unknown: the whole set cannot be read. Prepare it from 16-bit recordings.",
        )
    if len(values) % audio.channels:
        raise UnreadableError(f"truncated: {len(values)} samples of {audio.channels} channels")
    # Channels are interleaved. Division by a power of two is exact, so that integers become what files would give.
    wanted = frames_needed(audio.rate, sample_rate, samples) * audio.channels
    pcm = values[:wanted].astype(np.float32) / np.float32(scale)
    return pcm.reshape(-1, audio.channels), audio.rate
