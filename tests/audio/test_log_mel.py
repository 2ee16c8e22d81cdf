"""The log-mel front end, against nnAudio (what M2D's authors use) and against the same written out in float64."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import soxr
import torch
from nnAudio.features import MelSpectrogram
from tolerances import assert_within, relative_error

from jaxdissect.audio.log_mel import LogMel, log_mel, m2d_front_end, mel_filters
from jaxdissect.errors import InputError

EPSILON = np.finfo(np.float32).eps
RATES = (16000, 32000)
SECONDS = 2.0
ESC50 = Path(__file__).resolve().parents[3] / "shared" / "data" / "esc50" / "audio"
REAL = sorted(ESC50.glob("*.ogg"))[::400]  # none where the data set is not there


def noise_bursts(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pink noise at the pace of syllables, over a floor 60 dB below."""
    spectrum = np.fft.rfft(rng.normal(size=len(time))) / np.sqrt(1 + np.arange(len(time) // 2 + 1))
    noise = np.fft.irfft(spectrum, len(time))
    return 0.8 * noise / np.abs(noise).max() * (np.clip(np.sin(2 * np.pi * 4 * time), 0, None) ** 2 + 1e-3)


def tones(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A harmonic tone with vibrato, in faint noise."""
    phase = 2 * np.pi * 220 * time + 3 * np.sin(2 * np.pi * 5 * time)
    return 0.2 * sum(np.sin(n * phase) / n for n in range(1, 12)) + 1e-3 * rng.normal(size=len(time))


def pure_tone(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 1000 * time)


def silence(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(time)


def impulses(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (np.arange(len(time)) % (len(time) // 19) == 0) * 0.9


def decaying_chirp(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return chirp_over_noise(time, rng, floor=3e-3)


def chirp_over_noise(time: np.ndarray, rng: np.random.Generator, floor: float) -> np.ndarray:
    chirp = 0.9 * np.exp(-3 * time) * np.sin(2 * np.pi * (60 * time + 1500 * time**2))
    return chirp + floor * rng.normal(size=len(time))


def quiet_noise(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 1e-3 * rng.normal(size=len(time))


def clipped_noise(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.normal(size=len(time)), -1, 1)


SYNTHETIC = (noise_bursts, tones, pure_tone, silence, impulses, decaying_chirp, quiet_noise, clipped_noise)
CLIPS = [*SYNTHETIC, *REAL]
COMPILED = jax.jit(log_mel, static_argnames="front_end")


def clip(source, rate: int) -> np.ndarray:
    """A clip of 16 bits, as recordings are; one of ESC-50's, or synthetic."""
    if isinstance(source, Path):
        samples, own_rate = soundfile.read(source, dtype="float32")
        samples = samples if own_rate == rate else soxr.resample(samples, own_rate, rate, quality="HQ")
    else:
        samples = source(np.arange(int(SECONDS * rate)) / rate, np.random.default_rng(7))
    return (np.round(samples * 32767) / 32768).astype(np.float32)


def slaney_filters(front_end: LogMel) -> np.ndarray:
    """Triangles on Slaney's mel scale (linear below 1 kHz, 27 steps per factor 6.4 above), of unit area in Hz."""
    breaks, step = 1000 / (200 / 3), np.log(6.4) / 27

    def mel(hz: float) -> float:
        return hz / (200 / 3) if hz < 1000 else breaks + np.log(hz / 1000) / step

    mels = np.linspace(mel(front_end.f_min), mel(front_end.f_max), front_end.bands + 2)
    edges = np.where(mels < breaks, mels * 200 / 3, 1000 * np.exp(step * (mels - breaks)))
    bins = np.arange(front_end.n_fft // 2 + 1) * front_end.sample_rate / front_end.n_fft
    filters = np.zeros((len(bins), front_end.bands))
    for band, (low, middle, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
        filters[:, band] = np.clip(np.minimum(rising, falling), 0, None) * 2 / (high - low)
    return filters


def slow_mel_power(pcm: np.ndarray, front_end: LogMel) -> np.ndarray:
    """Mel power of one clip in float64, frame by frame."""
    n_fft, hop = front_end.n_fft, front_end.hop
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(pcm.astype(np.float64), n_fft // 2, mode="reflect")
    starts = range(0, len(padded) - n_fft + 1, hop)
    power = np.stack([np.abs(np.fft.rfft(window * padded[start : start + n_fft])) ** 2 for start in starts])
    return power @ slaney_filters(front_end)


def nnaudio_mel_power(pcm: np.ndarray, front_end: LogMel) -> np.ndarray:
    layer = MelSpectrogram(
        sr=front_end.sample_rate,
        n_fft=front_end.n_fft,
        win_length=front_end.n_fft,
        hop_length=front_end.hop,
        n_mels=front_end.bands,
        fmin=front_end.f_min,
        fmax=front_end.f_max,
        center=True,
        pad_mode="reflect",
        power=2.0,
        norm=1,
        htk=False,
        verbose=False,
    )
    with torch.no_grad():
        return layer(torch.from_numpy(pcm)[None])[0].numpy().T


def run(pcm: np.ndarray, front_end: LogMel) -> np.ndarray:
    return np.asarray(COMPILED(pcm, mel_filters(front_end), front_end))


def assert_close(found: np.ndarray, mel_power: np.ndarray, comparison: str) -> None:
    assert found.shape == mel_power.shape
    error = np.abs(found - np.log(mel_power + EPSILON))
    assert_within(f"{comparison}, maximum", error[mel_power > 1e-8].max(initial=0))
    assert_within(f"{comparison}, mean", error.mean())


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("source", CLIPS, ids=lambda source: getattr(source, "stem", None) or source.__name__)
def test_log_mel_equals_nnaudio_and_float64(source, rate):
    front_end, pcm = m2d_front_end(rate), clip(source, rate)
    found = run(pcm[None], front_end)
    assert found.dtype == np.float32
    assert_close(found[0], nnaudio_mel_power(pcm, front_end), "log-mel against nnAudio")
    assert_close(found[0], slow_mel_power(pcm, front_end), "log-mel against float64")


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("floor", [0.0, 1e-5, 1e-4, 3e-4])
def test_log_mel_of_a_tone_far_above_its_floor(rate, floor):
    """The hardest case for float32: nnAudio is as far from float64 here as this front end is."""
    front_end = m2d_front_end(rate)
    pcm = clip(lambda time, rng: chirp_over_noise(time, rng, floor), rate)
    exact, name = slow_mel_power(pcm, front_end), "log-mel of a loud chirp against float64"
    assert_close(run(pcm[None], front_end)[0], exact, name)
    assert_close(np.log(nnaudio_mel_power(pcm, front_end) + EPSILON), exact, name)


@pytest.mark.parametrize(
    "front_end", [m2d_front_end(16000), m2d_front_end(32000), LogMel(22050, 1024, 320, 64, 0.0, 11025.0)], ids=str
)
def test_mel_filters_equal_float64(front_end):
    found = mel_filters(front_end)
    assert found.shape == (front_end.n_fft // 2 + 1, front_end.bands)
    assert_within("mel filters against float64, relative", relative_error(found, slaney_filters(front_end)))
    assert (found.sum(axis=0) > 0).all(), "a band without a bin would be silent for ever"


def test_m2d_front_end_is_the_published_one():
    assert m2d_front_end(16000) == LogMel(16000, 400, 160, 80, 50.0, 8000.0)
    assert m2d_front_end(32000) == LogMel(32000, 800, 320, 80, 50.0, 16000.0)


@pytest.mark.parametrize(("n_fft", "hop"), [(400, 160), (256, 256), (256, 320), (64, 7)])
def test_log_mel_with_any_hop(n_fft, hop):
    front_end = LogMel(16000, n_fft, hop, 10, 0.0, 8000.0)
    pcm = clip(noise_bursts, 16000)[: 4 * n_fft + 3]
    assert_close(run(pcm[None], front_end)[0], slow_mel_power(pcm, front_end), "log-mel against float64")


@pytest.mark.parametrize("samples", [201, 319, 320, 321, 400, 1599, 1600, 16000, 80000])
def test_log_mel_has_the_number_of_frames_of_its_front_end(samples):
    front_end = m2d_front_end(16000)
    filters = jax.ShapeDtypeStruct((201, 80), jnp.float32)
    shape = jax.eval_shape(
        lambda pcm, filters: log_mel(pcm, filters, front_end), jax.ShapeDtypeStruct((3, samples), jnp.float32), filters
    ).shape
    assert shape == (3, 1 + samples // 160, 80)
    assert front_end.frames(samples) == 1 + samples // 160


def test_m2d_front_end_has_501_frames_for_five_seconds():
    assert m2d_front_end(16000).frames(5 * 16000) == m2d_front_end(32000).frames(5 * 32000) == 501


@pytest.mark.parametrize("rate", RATES)
def test_log_mel_centres_frames(rate):
    front_end = m2d_front_end(rate)
    pcm = np.zeros((5, rate), np.float32)
    frames = [0, 1, 40, 99, 100]
    for row, frame in enumerate(frames):
        pcm[row, min(frame * front_end.hop, rate - 1)] = 1.0
    assert run(pcm, front_end).sum(axis=-1).argmax(axis=-1).tolist() == frames


@pytest.mark.parametrize("rate", RATES)
def test_log_mel_of_silence_is_the_log_of_epsilon(rate):
    np.testing.assert_array_equal(run(np.zeros((2, rate), np.float32), m2d_front_end(rate)), np.log(EPSILON))


def test_log_mel_of_a_clip_does_not_depend_on_others():
    front_end = m2d_front_end(16000)
    pcm = np.stack([clip(source, 16000) for source in SYNTHETIC])
    together = run(pcm, front_end)
    for row in range(len(pcm)):
        np.testing.assert_array_equal(together[row], run(pcm[row : row + 1], front_end)[0])


def test_log_mel_compiles_once_and_computes_the_same():
    front_end, traces = m2d_front_end(16000), []

    @jax.jit
    def compiled(pcm, filters):
        traces.append(pcm.shape)
        return log_mel(pcm, filters, front_end)

    filters = jnp.asarray(mel_filters(front_end))
    for source in (noise_bursts, tones):
        pcm = jnp.asarray(clip(source, 16000))[None]
        error = np.abs(np.asarray(compiled(pcm, filters)) - np.asarray(log_mel(pcm, filters, front_end)))
        assert_within("log-mel, compiled against not", error.max())
    assert traces == [(1, 32000)]


def test_log_mel_can_be_vmapped():
    front_end, filters = m2d_front_end(16000), jnp.asarray(mel_filters(m2d_front_end(16000)))
    pcm = np.stack([clip(noise_bursts, 16000)[:3200], clip(tones, 16000)[:3200]])
    mapped = jax.jit(jax.vmap(lambda one: log_mel(one[None], filters, front_end)[0]))(pcm)
    assert_within("log-mel, compiled against not", np.abs(np.asarray(mapped) - run(pcm, front_end)).max())


@pytest.mark.parametrize("samples", [0, 1, 199, 200])
def test_log_mel_refuses_a_clip_too_short_to_reflect(samples):
    with pytest.raises(InputError, match=rf"200 samples.*got {samples} samples.*longer unit length"):
        run(np.zeros((1, samples), np.float32), m2d_front_end(16000))


def test_log_mel_of_the_shortest_clip():
    pcm = clip(noise_bursts, 16000)[:201]
    found = run(pcm[None], m2d_front_end(16000))
    assert found.shape == (1, 2, 80)
    assert_close(found[0], slow_mel_power(pcm, m2d_front_end(16000)), "log-mel against float64")


@pytest.mark.parametrize(
    "sizes",
    [{"sample_rate": 0}, {"n_fft": 0}, {"n_fft": 401}, {"hop": 0}, {"hop": -160}, {"bands": 0}],
    ids=str,
)
def test_log_mel_refuses_sizes_that_make_no_front_end(sizes):
    with pytest.raises(InputError, match=r"positive sizes and an even n_fft, got LogMel"):
        LogMel(**sizes)


@pytest.mark.parametrize(
    "edges",
    [
        {"f_min": -1.0},
        {"f_min": 8000.0},
        {"f_min": 50.0, "f_max": 40.0},
        {"f_max": 8000.5},
        {"f_min": float("nan")},
        {"f_max": float("nan")},
    ],
    ids=str,
)
def test_log_mel_refuses_band_edges_outside_the_spectrum(edges):
    with pytest.raises(InputError, match=r"0 <= f_min < f_max <= sample_rate / 2, got LogMel"):
        LogMel(**edges)


@pytest.mark.parametrize("rate", [0, 8000, 22050, 44100, 48000])
def test_m2d_front_end_refuses_other_rates(rate):
    with pytest.raises(InputError, match=rf"16000 and 32000 Hz, not at {rate} Hz"):
        m2d_front_end(rate)
