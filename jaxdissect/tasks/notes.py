"""`notes` and `notes2`: labelled musical notes, synthesised here, in place of Surge and NSynth, for any machine.

A variant is 8 instruments x 60 pitches (5 octaves of 12) x 2 takes = 960 clips of 2 s at 16 kHz. Variant, instrument,
pitch and take determine a clip. Splits hold out combinations of pitch and instrument, never a take.

Sources: METHODS of Chowning, "The Synthesis of Complex Audio Spectra by Means of Frequency Modulation" (JAES 1973),
and of Karplus and Strong, "Digital Synthesis of Plucked-String and Drum Timbres" (CMJ 1983).
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float

from jaxdissect.errors import require
from jaxdissect.runtime.files import new_folder, require_space

SAMPLE_RATE = 16000  # Hz
SECONDS = 2.0  # length of a clip
MIDI_PITCHES = range(36, 96)  # 69 is 440 Hz
PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
HIGHEST_HZ = 0.95 * SAMPLE_RATE / 2  # partials above it are left out, so that none folds back, not even with vibrato
SPLIT_CYCLE = ("train", "train", "train", "valid", "test")  # splits of five neighbouring pitches
TABLE_COLUMNS = ("file_name", "octave", "pitch_class", "instrument", "split")

Samples = Float[np.ndarray, " sample"]
Modes = Float[np.ndarray, " mode"]
Rng = np.random.Generator
Timbre = Callable[[float, Samples, Rng], Samples]  # frequency in Hz, time of each sample in s, randomness -> samples


@dataclass(frozen=True)
class Note:
    """One clip.

    Attributes:
      variant: "notes" or "notes2".
      instrument: one of the variant's eight instruments.
      midi: MIDI pitch; 69 is 440 Hz.
      take: 1 or 2.
    """

    variant: str
    instrument: str
    midi: int
    take: int

    @property
    def file_name(self) -> str:
        """Path of the clip inside the data set's folder."""
        return f"audio/{self.instrument}_{self.midi:03d}_{self.take}.wav"

    @property
    def frequency(self) -> float:
        """Fundamental in Hz, before the take's few cents of detuning."""
        return 440.0 * math.exp2((self.midi - 69) / 12)

    @property
    def octave(self) -> int:
        """2 to 6; middle C begins octave 4."""
        return self.midi // 12 - 1

    @property
    def pitch_class(self) -> str:
        """Name of the pitch within its octave, "C" to "B"."""
        return PITCH_CLASSES[self.midi % 12]

    @property
    def split(self) -> str:
        """Of the five octaves of a pitch class on an instrument, three are for training, one each for the others."""
        # An octave is 12 pitches, 2 more than two cycles, so that five octaves meet all five places of the cycle. Each
        # instrument begins three places later than the one before it.
        return SPLIT_CYCLE[(self.midi - MIDI_PITCHES[0] + 3 * list(VARIANTS[self.variant]).index(self.instrument)) % 5]


def all_notes(variant: str) -> tuple[Note, ...]:
    """The 960 notes of a variant.

    Args:
      variant: "notes" or "notes2".

    Raises:
      InputError: there is no such variant.
    """
    known = ", ".join(VARIANTS)
    require(variant in VARIANTS, f"There is no synthetic data set {variant!r}: choose one of {known}.")
    return tuple(
        Note(variant, name, midi, take) for name in VARIANTS[variant] for midi in MIDI_PITCHES for take in (1, 2)
    )


def synthesise(note: Note) -> Samples:
    """The clip of a note: 2 s of float32, peak between -15 and -3 dB, onset within 150 ms, tuned within 5 cents.

    Args:
      note: note to synthesise.
    """
    # Seeded by the note's own name, so that a clip does not depend on the order or the process it is made in.
    rng = np.random.default_rng(list(f"{note.variant}/{note.file_name}".encode()))
    peak, cents, onset = 10 ** (rng.uniform(-15, -3) / 20), rng.uniform(-5, 5), int(SAMPLE_RATE * rng.uniform(0, 0.15))
    samples = np.zeros(int(SECONDS * SAMPLE_RATE))
    time_s = np.arange(len(samples) - onset) / SAMPLE_RATE
    samples[onset:] = VARIANTS[note.variant][note.instrument](note.frequency * 2 ** (cents / 1200), time_s, rng)
    samples[-160:] *= np.linspace(1, 0, 160)  # fades out in 10 ms, so that no click ends the clip
    return (samples * (peak / np.abs(samples).max())).astype(np.float32)


def write_notes(variant: str, folder: Path, progress: Callable[[Iterable[Note]], Iterable[Note]] = iter) -> None:
    """Write 16-bit WAV files and a table `<variant>.csv`, whole or not at all.

    Args:
      variant: "notes" or "notes2".
      folder: new or empty folder to write to.
      progress: wrapper of the iteration over notes, as `tqdm` is one.

    Raises:
      InputError: there is no such variant, `folder` exists and is not empty, or it cannot be written.
    """
    notes = all_notes(variant)
    require_space(folder, len(notes) * (int(SECONDS * SAMPLE_RATE) * 2 + 1000), f"the data set {variant}")
    with new_folder(folder) as temporary:
        (temporary / "audio").mkdir()
        for note in progress(notes):
            buffer = io.BytesIO()  # so that Python meets a full disk, and not libsndfile
            soundfile.write(buffer, synthesise(note), SAMPLE_RATE, format="WAV", subtype="PCM_16")
            (temporary / note.file_name).write_bytes(buffer.getvalue())
        with (temporary / f"{variant}.csv").open("w", newline="") as file:
            rows = ([getattr(note, column) for column in TABLE_COLUMNS] for note in notes)
            csv.writer(file, lineterminator="\n").writerows([TABLE_COLUMNS, *rows])


def _harmonics(frequency_hz: float, time_s: Samples, rng: Rng, level: Callable[[int], float | Samples]) -> Samples:
    """`sum_k level(k) sin(2 pi k f t + phase_k)` by Horner's rule in `exp(2 pi i f t)`; a warped time is vibrato."""
    turn = np.exp(2j * math.pi * frequency_hz * time_s)
    total = np.zeros_like(turn)
    # From the highest harmonic down, total = (total + a_k) turn: each a_k is so multiplied by turn k times.
    for k in range(int(HIGHEST_HZ / frequency_hz), 0, -1):
        total += level(k) * np.exp(2j * math.pi * rng.random())
        total *= turn
    return total.imag


def _modes(modes_hz: Modes, levels: Modes, decays_s: Modes, time_s: Samples, rng: Rng) -> Samples:
    """`sum_m level exp(-t / decay) sin(2 pi f t + phase)`: blocks of 256 samples, each the first one times a factor."""
    # exp(rate (t0 + t)) = exp(rate t0) exp(rate t), with t0 the start of a block and t the time within it: one matrix
    # product (block, mode) @ (mode, sample) in place of an exponential for every sample.
    rates = 2j * math.pi * modes_hz - 1 / decays_s
    starts = levels * (modes_hz < HIGHEST_HZ) * np.exp(2j * math.pi * rng.random(len(rates)))
    blocks = starts * np.exp(np.multiply.outer(time_s[::256], rates))
    return (blocks @ np.exp(np.multiply.outer(rates, time_s[:256]))).ravel()[: len(time_s)].imag


def _fm(frequency_hz: float, ratio: float, index: Samples, time_s: Samples, rng: Rng) -> Samples:
    """`sin(c + I sin m)` as its partials `sum_n J_n(I) sin(c + n m)` (Chowning), `m` at `ratio` times the carrier."""
    carrier, modulator = rng.random(2)
    grid, angle = np.linspace(0, index.max(), 200), np.linspace(0, 2 * math.pi, 64, endpoint=False)
    total = np.zeros_like(time_s)
    for n in range(-12, 13):  # partials further away are weaker than can be heard
        hz = frequency_hz * (1 + n * ratio)
        if 0 < abs(hz) < HIGHEST_HZ:
            # J_n(I) is the mean of cos(n x - I sin x) over a period; here for a grid of I, interpolated in between.
            bessel = np.cos(n * angle - np.multiply.outer(grid, np.sin(angle))).mean(axis=1)
            total += np.interp(index, grid, bessel) * np.sin(2 * math.pi * (hz * time_s + carrier + n * modulator))
    return total


def _noise(frequency_hz: float, time_s: Samples, rng: Rng, gain: Callable[[Samples], Samples]) -> Samples:
    """White noise through a filter given by its gain at each multiple of the frequency; standard deviation 1."""
    hz = np.fft.rfftfreq(2**15, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(2**15)) * gain(hz / frequency_hz) * (hz < HIGHEST_HZ))
    return noise[: len(time_s)] / noise.std()


def _rise(time_s: Samples, seconds: float) -> Samples:
    """An onset, which reaches 63% after so many seconds."""
    return 1 - np.exp(-time_s / seconds)


def _resonances(frequency_hz: float, centres_hz: Sequence[float], width_hz: float) -> float:
    """Gain of a body or a vocal tract, a sum of resonances over a floor."""
    return 0.05 + sum(1 / (1 + ((frequency_hz - centre) / width_hz) ** 2) for centre in centres_hz)


def _sustained(rise_s: float, level: Callable[[int, float], float], cents: float = 0.0, tremolo: float = 0.0) -> Timbre:
    """Harmonics at the level given for their number and Hz; a vibrato of so many cents after 0.5 s, and a tremolo."""
    # A warped time t + s sin(2 pi v t) plays at the rate 1 + 2 pi v s cos(2 pi v t), here with v = 5.5 Hz.
    swing_s = (2 ** (cents / 1200) - 1) / (2 * math.pi * 5.5)

    def timbre(frequency_hz: float, time_s: Samples, rng: Rng) -> Samples:
        sway = np.sin(2 * math.pi * (5.5 * time_s + rng.random()))
        warped_s = time_s + swing_s * np.minimum(time_s / 0.5, 1) * sway
        tone = _harmonics(frequency_hz, warped_s, rng, lambda k: level(k, k * frequency_hz))
        return _rise(time_s, rise_s) * (1 + tremolo * sway) * tone

    return timbre


def _struck(ratios: Modes, levels: Modes, decay_s: float) -> Timbre:
    """Modes at `ratios` to the lowest, which decays by 1 / e in `decay_s` at 200 Hz; the higher, the shorter."""
    return lambda f, t, rng: _rise(t, 0.001) * _modes(ratios * f, levels, decay_s * (200 / f) ** 0.4 / ratios, t, rng)


def _electric_piano(frequency_hz: float, time_s: Samples, rng: Rng) -> Samples:
    """A body, and a tine 14 times as high that decays fast."""
    body = _fm(frequency_hz, 1.0, 1.3 * np.exp(-time_s / 0.4), time_s, rng)
    tine = _fm(frequency_hz, 14.0, 0.6 * np.exp(-time_s / 0.08), time_s, rng)
    return _rise(time_s, 0.002) * np.exp(-time_s / 0.9) * (body + 0.4 * tine)


def _guitar(frequency_hz: float, time_s: Samples, rng: Rng) -> Samples:
    """Karplus-Strong, solved in frequency: the loop delays by exactly a period, its average's half sample included."""
    period, omega = SAMPLE_RATE / frequency_hz, np.linspace(0, math.pi, 2**15 + 1)
    burst = np.cos(np.linspace(0, 2 * math.pi, math.ceil(period))) + rng.standard_normal(math.ceil(period))
    average = np.cos(omega / 2)
    loss = 10 ** (-3 / (2.5 * frequency_hz)) * average ** min(1.0, 150 / frequency_hz)  # at least 60 dB in 2.5 s
    pick = np.fft.rfft(burst - burst.mean(), 2**16) * average**4  # 4 s, so that no more than -98 dB wraps around
    return np.fft.irfft(pick / (1 - loss * np.exp(-1j * omega * period)))[: len(time_s)]


def _breath(frequency_hz: float, time_s: Samples, rng: Rng) -> Samples:
    """Noise in narrow bands round the harmonics, the lowest the loudest."""
    air = _noise(frequency_hz, time_s, rng, lambda x: 0.001 + (x * np.exp(-x)) ** 2 * np.cos(math.pi * x) ** 400)
    return _rise(time_s, 0.08) * air


def _saw_lead(frequency_hz: float, time_s: Samples, rng: Rng) -> Samples:
    """A saw through two one-pole low-passes that close, `1 / (1 + (k f / cutoff)^2)`."""
    closing = 1 / (1.5 + 5000 / frequency_hz * np.exp(-time_s / 0.25))
    return _rise(time_s, 0.004) * _harmonics(frequency_hz, time_s, rng, lambda k: 1 / (k + k**3 * closing**2))


def _trumpet(frequency_hz: float, time_s: Samples, rng: Rng) -> Samples:
    """Harmonics that fall off less steeply the louder it is blown."""
    effort = _rise(time_s, 0.05) * (0.75 + 0.25 * np.exp(-time_s / 0.3))
    dullness = frequency_hz / (300 + 2200 * effort**2)
    return effort * _harmonics(frequency_hz, time_s, rng, lambda k: np.exp((1 - k) * dullness))


def _pan_pipe(frequency_hz: float, time_s: Samples, rng: Rng) -> Samples:
    """Closed at one end: odd harmonics, in air that resonates at odd multiples."""
    pipe = _harmonics(frequency_hz, time_s, rng, lambda k: k**-3.0 if k % 2 else 0.0)
    air = _noise(frequency_hz, time_s, rng, lambda x: (0.2 + np.abs(np.sin(math.pi * x / 2)) ** 9) / (2 + x))
    return _rise(time_s, 0.05) * pipe + (0.06 + 0.3 * np.exp(-time_s / 0.06)) * air


def _string_pad(frequency_hz: float, time_s: Samples, rng: Rng) -> Samples:
    """Three saws, 8 cents apart, which beat."""
    voices_hz = frequency_hz * 2 ** (np.array([-8, 0, 8]) / 1200)
    low, middle, high = (_harmonics(hz, time_s, rng, lambda k: 1 / k) for hz in voices_hz)
    return _rise(time_s, 0.25) * (0.5 * low + middle + 0.5 * high)


DRAWBARS = {1: 1.0, 2: 0.8, 3: 0.5, 4: 0.5, 5: 0.15, 6: 0.3, 8: 0.4}  # level of a harmonic
BODY_HZ, VOWEL_HZ = (280.0, 460.0, 1000.0, 2500.0, 3200.0), (700.0, 1150.0, 2700.0, 3500.0)  # resonances
# Modes: their frequencies over the lowest one's, and their levels.
BAR, BAR_LEVELS = np.array([[1, 3.98, 9.2, 16.1], [1, 0.35, 0.2, 0.1]])
GLASS, GLASS_LEVELS = np.array([[1, 2.32, 4.25, 6.63, 9.38], [1, 0.6, 0.4, 0.25, 0.15]])
HARMONIC = np.arange(1, 117)
STRING = HARMONIC * np.sqrt((1 + 3e-4 * HARMONIC**2) / (1 + 3e-4))  # a stiff string's are sharper, the higher
STRING_LEVELS = np.sin(0.13 * math.pi * HARMONIC) / HARMONIC  # plucked at 13% of its length

VARIANTS: Mapping[str, Mapping[str, Timbre]] = {  # an instrument's place in its variant decides its splits
    "notes": {
        "organ": _sustained(0.006, lambda k, hz: DRAWBARS.get(k, 0.0)),
        "electric_piano": _electric_piano,
        "guitar": _guitar,
        "saw_lead": _saw_lead,
        "trumpet": _trumpet,
        "breath": _breath,
        "marimba": _struck(BAR, BAR_LEVELS, 0.45),
        "violin": _sustained(0.06, lambda k, hz: _resonances(hz, BODY_HZ, 250.0) / k, cents=14.0),
    },
    "notes2": {
        "clarinet": _sustained(0.03, lambda k, hz: (1.0 if k % 2 else 0.03) * k**-1.1),
        "horn": lambda f, t, rng: _rise(t, 0.09) * _fm(f, 1.0, 2.4 * _rise(t, 0.09), t, rng),
        "voice": _sustained(0.1, lambda k, hz: _resonances(hz, VOWEL_HZ, 90.0) * k**-1.5, cents=18.0),
        "zither": _struck(STRING, STRING_LEVELS, 1.3),
        "pan_pipe": _pan_pipe,
        "string_pad": _string_pad,
        "harmonium": _sustained(0.04, lambda k, hz: math.sin(0.22 * math.pi * k) / k, tremolo=0.35),
        "glass": _struck(GLASS, GLASS_LEVELS, 1.4),
    },
}
