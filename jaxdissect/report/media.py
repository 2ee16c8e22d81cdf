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
from jaxdissect.errors import InputError

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz
COMPRESSION = {"OPUS": 0.8, "VORBIS": 0.6}  # of libsndfile, 0 to 1; Opus: some 47 kbit/s; smaller takes twice as long
GREYS = 28  # of a log-mel picture: fewer compress better
RANGE = 60.0  # dB below the loudest that a picture shows
GAMMA, BRIGHTEST = 1.5, 225  # darker pictures, so that what is laid over them stands out
WIDEST = 256  # columns of a picture
BANDS = 80
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class AudioFormat:
    """How sound is embedded.

    Attributes:
      container, subtype: names of libsndfile.
      mime: type for a browser.
      ending: of a file.
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
    """The smallest that the installed libsndfile can write."""
    return next(one for one in FORMATS if soundfile.check_format(one.container, one.subtype))


def encode_audio(
    pcm: Float[np.ndarray, " sample"] | Int16[np.ndarray, " sample"], rate: int, form: AudioFormat
) -> bytes:
    """A clip as a file; what lies outside [-1, 1] is clipped.

    Args:
      pcm: samples in [-1, 1], or 16-bit integers.
      rate: of `pcm`, Hz.
      form: of the file.
    """
    pcm = samples_as_float(pcm)
    if form.subtype == "OPUS" and rate not in OPUS_RATES:
        target = next((one for one in OPUS_RATES if one >= rate), OPUS_RATES[-1])
        pcm, rate = soxr.resample(pcm, rate, target), target
    buffer = io.BytesIO()
    level = COMPRESSION.get(form.subtype)
    options = {} if level is None else {"compression_level": level}
    soundfile.write(buffer, np.clip(pcm, -1, 1), rate, format=form.container, subtype=form.subtype, **options)
    return buffer.getvalue()


def encode_png(grey: UInt8[np.ndarray, "row column"]) -> bytes:
    """A grey picture as PNG (RFC 2083): 8 bits a pixel, the top row first."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = grey.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), grey], axis=1)  # a row begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), 9)
    return PNG_MAGIC + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class Pictures:
    """Log-mel pictures of clips, compiled once for clips of one length."""

    def __init__(self, front_end: LogMel) -> None:
        filters = mel_filters(front_end)
        self.front_end = front_end
        self._log_mel = jax.jit(lambda pcm: log_mel(pcm, filters, front_end))

    def __call__(self, pcm: Float[np.ndarray, " sample"] | Int16[np.ndarray, " sample"]) -> bytes:
        """PNG of a clip: time to the right, frequency up; white is loud, black 60 dB less."""
        samples = samples_as_float(pcm)
        mel = np.asarray(self._log_mel(samples[None])[0])
        step = -(-len(mel) // WIDEST)
        padded = np.pad(mel, ((0, -len(mel) % step), (0, 0)), mode="edge")
        columns = padded.reshape(-1, step, mel.shape[1]).mean(axis=1)
        decibels = columns * (10 / np.log(10))
        relative = 1 + np.clip(decibels - decibels.max(), -RANGE, 0) / RANGE
        grey = np.rint(np.rint(relative**GAMMA * (GREYS - 1)) * (BRIGHTEST / (GREYS - 1))).astype(np.uint8)
        return encode_png(np.ascontiguousarray(grey.T[::-1]))


def picture_front_end(sample_rate: int, encoder: object = None) -> LogMel:
    """The encoder's own log-mel front end, or one of its kind: 25 ms windows every 10 ms, 80 bands."""
    own = getattr(encoder, "log_mel", None)
    if isinstance(own, LogMel):
        return own
    if sample_rate < 1000:
        raise InputError(f"A log-mel picture needs a rate of at least 1000 Hz, got {sample_rate}.")
    n_fft = 2 * round(sample_rate * 0.0125)
    return LogMel(sample_rate, n_fft, round(sample_rate * 0.01), BANDS, 50.0, sample_rate / 2)
