"""Sound and pictures in formats that a browser plays and shows, as bytes."""

import io
import struct
import zlib
from dataclasses import dataclass

import jax
import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Int16, UInt8

from jaxdissect.audio.log_mel import LogMel, log_mel, mel_filters
from jaxdissect.audio.pcm import samples_as_float
from jaxdissect.errors import require

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz
COMPRESSION = {"OPUS": 0.8, "VORBIS": 0.6}  # libsndfile's, 0 to 1; Opus: about 47 kbit/s; smaller takes twice as long
GREY_LEVELS = 28  # of a log-mel picture: fewer levels compress better
PICTURE_RANGE = 60.0  # dB below the loudest that a picture shows
GAMMA = 1.5  # above 1: darker pictures, so that an activation over them stands out
WHITE = 225  # grey value of the loudest, of 255
MAX_COLUMNS = 256  # columns of a picture
PICTURE_BANDS = 80  # mel bands of a picture if the encoder has none
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class AudioFormat:
    """A format of sound files.

    Attributes:
      container: libsndfile's name of the container.
      subtype: libsndfile's name of the coding.
      mime: media type for a browser.
      ending: ending of a file name.
    """

    container: str
    subtype: str
    mime: str
    ending: str


FORMATS = (
    AudioFormat("OGG", "OPUS", "audio/ogg; codecs=opus", "opus"),
    AudioFormat("OGG", "VORBIS", "audio/ogg; codecs=vorbis", "ogg"),
    AudioFormat("WAV", "PCM_16", "audio/wav", "wav"),
)


def audio_format() -> AudioFormat:
    """The smallest format that the installed libsndfile can write."""
    return next(form for form in FORMATS if soundfile.check_format(form.container, form.subtype))


def encode_audio(
    pcm: Float[np.ndarray, " sample"] | Int16[np.ndarray, " sample"], rate: int, form: AudioFormat
) -> bytes:
    """A clip as a sound file; samples outside [-1, 1] are clipped.

    Args:
      pcm: samples in [-1, 1], or 16-bit integers.
      rate: sample rate of `pcm`, Hz.
      form: format of the file.
    """
    pcm = samples_as_float(pcm)
    if form.subtype == "OPUS" and rate not in OPUS_RATES:
        target = next((known for known in OPUS_RATES if known >= rate), OPUS_RATES[-1])
        pcm, rate = soxr.resample(pcm, rate, target), target
    buffer = io.BytesIO()
    # libsndfile refuses a compression level, None too, for a format without compression.
    options = {"compression_level": COMPRESSION[form.subtype]} if form.subtype in COMPRESSION else {}
    soundfile.write(buffer, np.clip(pcm, -1, 1), rate, format=form.container, subtype=form.subtype, **options)
    return buffer.getvalue()


def encode_png(grey: UInt8[np.ndarray, "row column"]) -> bytes:
    """A grey picture as PNG, 8 bits a pixel, the top row first.

    Source: RFC 2083.
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = grey.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), grey], axis=1)  # a row begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), 9)
    return PNG_MAGIC + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class Pictures:
    """Log-mel pictures of clips; the program is compiled once for clips of one length."""

    def __init__(self, front_end: LogMel) -> None:
        filters = mel_filters(front_end)
        self.front_end = front_end
        self._log_mel = jax.jit(lambda pcm: log_mel(pcm, filters, front_end))

    def __call__(self, pcm: Float[np.ndarray, " sample"] | Int16[np.ndarray, " sample"]) -> bytes:
        """PNG of a clip: time to the right, frequency up; white is loud, black 60 dB less."""
        samples = samples_as_float(pcm)
        mel = np.asarray(self._log_mel(samples[None])[0])  # (frame, band), natural logarithm of power
        # Each column of the picture is the mean of `step` frames; the last frame fills up the last column.
        step = -(-len(mel) // MAX_COLUMNS)
        padded = np.pad(mel, ((0, -len(mel) % step), (0, 0)), mode="edge")
        decibels = padded.reshape(-1, step, mel.shape[1]).mean(axis=1) * (10 / np.log(10))
        relative = 1 + np.clip(decibels - decibels.max(), -PICTURE_RANGE, 0) / PICTURE_RANGE  # 0 to 1
        levels = np.rint(relative**GAMMA * (GREY_LEVELS - 1))
        grey = np.rint(levels * (WHITE / (GREY_LEVELS - 1))).astype(np.uint8)
        return encode_png(np.ascontiguousarray(grey.T[::-1]))  # rows are bands, the highest on top


def picture_front_end(sample_rate: int, encoder: object = None) -> LogMel:
    """The log-mel front end of the encoder, or a usual one: 25 ms windows every 10 ms, 80 bands from 50 Hz up.

    Args:
      sample_rate: sample rate of the clips, Hz.
      encoder: encoder that may have a front end `log_mel`.

    Raises:
      InputError: the encoder has no log-mel front end, and the sample rate is below 1000 Hz.
    """
    front_end = getattr(encoder, "log_mel", None)
    if isinstance(front_end, LogMel):
        return front_end
    require(sample_rate >= 1000, f"A log-mel picture needs a sample rate of at least 1000 Hz, got {sample_rate}.")
    n_fft = 2 * round(sample_rate * 0.0125)
    return LogMel(sample_rate, n_fft, round(sample_rate * 0.01), PICTURE_BANDS, 50.0, sample_rate / 2)
