"""The front end of M2D: PCM -> log-mel spectrogram, on the device.

Source: Niizumi et al., "Masked Modeling Duo" (TASLP 2024); the reference implementation is nnAudio's
`MelSpectrogram` (periodic Hann window, centred frames with reflect padding, power 2, Slaney mel bands).
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdissect.errors import require

EPSILON = float(np.finfo(np.float32).eps)  # added to the mel power, so that silence has a logarithm


@dataclass(frozen=True)
class LogMel:
    """Sizes of a log-mel front end.

    Attributes:
      sample_rate: Hz.
      n_fft: samples in a frame and in its window, an even number.
      hop: samples from the start of one frame to that of the next.
      bands: number of mel bands.
      f_min, f_max: edges of the lowest and the highest band, Hz.
    """

    sample_rate: int = 16000
    n_fft: int = 400
    hop: int = 160
    bands: int = 80
    f_min: float = 50.0
    f_max: float = 8000.0

    def __post_init__(self) -> None:
        sizes_fit = min(self.sample_rate, self.n_fft, self.hop, self.bands) >= 1 and self.n_fft % 2 == 0
        require(sizes_fit, f"A front end needs positive sizes and an even n_fft, got {self}.")
        edges_fit = 0 <= self.f_min < self.f_max <= self.sample_rate / 2
        require(edges_fit, f"A front end needs 0 <= f_min < f_max <= sample_rate / 2, got {self}.")

    def frames(self, samples: int) -> int:
        """Frames of a recording of `samples` samples."""
        return 1 + samples // self.hop


def m2d_front_end(sample_rate: int, bands: int = 80) -> LogMel:
    """The front end of M2D's public models, which exist at 16 and at 32 kHz.

    Args:
      sample_rate: 16000 or 32000, Hz.
      bands: number of mel bands.

    Raises:
      InputError: the rate is another.
    """
    defined = sample_rate in (16000, 32000)
    require(defined, f"M2D's front end is defined at 16000 and 32000 Hz, not at {sample_rate} Hz.")
    scale = sample_rate // 16000
    return LogMel(sample_rate, 400 * scale, 160 * scale, bands, 50.0, 8000.0 * scale)


def mel_filters(front_end: LogMel) -> Float[np.ndarray, "bin band"]:
    """Triangular mel filters (Slaney scale and norm) from librosa.

    Args:
      front_end: sizes of the front end.
    """
    import librosa  # only here: an encoder directory keeps its filters, so that a bare host needs no librosa

    return librosa.filters.mel(
        sr=front_end.sample_rate,
        n_fft=front_end.n_fft,
        n_mels=front_end.bands,
        fmin=front_end.f_min,
        fmax=front_end.f_max,
    ).T.astype(np.float32)


def log_mel(
    pcm: Float[Array, "clip sample"], filters: Float[Array | np.ndarray, "bin band"], front_end: LogMel
) -> Float[Array, "clip frame band"]:
    """Natural log of the mel power, `log(mel + eps)` with float32's machine epsilon; jit-safe.

    Args:
      pcm: samples in [-1, 1] at `front_end.sample_rate`, more than `n_fft / 2` of them.
      filters: mel filters, from `mel_filters`.
      front_end: sizes of the front end.

    Returns:
      `1 + samples // hop` frames; frame `f` is centred on sample `f * hop`.

    Raises:
      InputError: there are too few samples.
    """
    half = front_end.n_fft // 2
    require(
        pcm.shape[-1] > half,
        f"The front end reflects {half} samples at each end and needs more than that, "
        f"got {pcm.shape[-1]} samples: choose a longer unit length.",
    )
    frames = _frame(jnp.pad(pcm, ((0, 0), (half, half)), mode="reflect"), front_end.n_fft, front_end.hop)
    spectrum = jnp.fft.rfft(frames * _periodic_hann(front_end.n_fft)[None, None])
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    mel = jnp.matmul(power, filters, precision="highest")
    return jnp.log(mel + EPSILON)


def _periodic_hann(length: int) -> Float[np.ndarray, " length"]:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def _frame(signal: Float[Array, "clip sample"], length: int, hop: int) -> Float[Array, "clip frame length"]:
    """Overlapping frames as a few strided slices of blocks, which is cheaper than gathering every sample."""
    # Frames and hops are whole numbers of blocks. The i-th blocks of all frames are `stride` blocks apart, so that one
    # strided slice takes them; a frame is the concatenation of its blocks.
    block = math.gcd(length, hop)
    count = 1 + (signal.shape[-1] - length) // hop
    stride, per_frame = hop // block, length // block
    blocks_needed = (count - 1) * stride + per_frame
    blocks = signal[:, : blocks_needed * block].reshape(len(signal), blocks_needed, block)
    last = (count - 1) * stride + 1
    return jnp.concatenate([blocks[:, i : i + last : stride] for i in range(per_frame)], axis=-1)
