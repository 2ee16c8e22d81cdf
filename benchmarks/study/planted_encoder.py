"""A small encoder whose planted neurons hear tones in synthesised audio: ground truth from WAV files on."""

import csv
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import soundfile
from jaxtyping import Array, Bool, Float

from benchmarks.study.planted_stores import Design, Store, Sums
from jaxdissect import CountOptions, TokenLayout, collect_activations, load_task
from jaxdissect.counting.clip_store import empty_clip_store
from jaxdissect.types import Record

RATE, HOP, FRAMES = 16000, 400, 20  # sampling rate, Hz; samples of a frame; frames of a clip
LAYERS, WIDTH = 2, 96  # layers; neurons of a layer
TONE_CLASSES, NOISE_BANDS, EACH = 8, 24, 3  # classes; bands without a tone; neurons of each class in each layer
BANDS = TONE_CLASSES + NOISE_BANDS
FIRST_BAND = 2  # frequency of the first band in units of RATE / HOP = 40 Hz
NOISE_LEVEL, TONE_LEVEL = 0.01, 0.05  # amplitudes
OWN_TONE, OTHER_TONE = 0.8, 0.05  # fraction of frames in which a tone sounds, in clips of its class and in others


class Rectifier(nn.Module):
    """The neurons' nonlinearity, as a module whose output can be read."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The positive part."""
        return nn.relu(x)


class Filters(nn.Module):
    """Layers over frames of band levels, with a residual."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Levels (clip, frame, band) -> the same shape."""
        for layer in range(LAYERS):
            hidden = Rectifier(name=f"act_{layer}")(nn.Dense(WIDTH, name=f"in_{layer}")(x))
            x = x + nn.Dense(BANDS, name=f"out_{layer}")(hidden)
        return x


@dataclass(frozen=True)
class ToneEncoder:
    """An encoder in which the first neurons of each layer hear one class's tone each, and no other neuron hears any.

    Band b is the power of a frame at (b + 2) x 40 Hz. A frame holds whole periods of these frequencies, so no power
    leaks into other bands. The first bands are the classes' tones, the rest noise, which every neuron hears.

    Attributes:
      seed: seed of the weights.
      name: name of the encoder.
      sample_rate: sampling rate, Hz.
      neurons: modules whose outputs are the neurons.
    """

    seed: int
    name: str = "tones"
    sample_rate: int = RATE
    neurons: str = "act_*"

    @property
    def module(self) -> nn.Module:
        """The filters."""
        return Filters()

    @cached_property
    def truth(self) -> Bool[np.ndarray, "class layer neuron"]:
        """The planted pairs."""
        own = np.repeat(np.arange(TONE_CLASSES), EACH)
        truth = np.zeros((TONE_CLASSES, LAYERS, WIDTH), bool)
        truth[own, :, np.arange(len(own))] = True
        return truth

    @cached_property
    def variables(self) -> Mapping[str, Any]:
        """Random weights between noise bands and neurons, and one weight from and to the tone of a planted neuron."""
        rng = np.random.default_rng(self.seed)
        params: dict[str, dict[str, np.ndarray]] = {}
        for layer in range(LAYERS):
            hears = self.truth[:, layer].astype(np.float32)
            planted = hears.any(axis=0)
            noise = rng.normal(0, 1 / math.sqrt(NOISE_BANDS), (2, NOISE_BANDS, WIDTH))
            bias = np.where(planted, rng.uniform(-2.5, -1.5, WIDTH), rng.normal(-0.8, 0.6, WIDTH))
            back = np.concatenate([0.3 * hears, np.where(planted, 0, 0.3 * noise[1])])
            params[f"in_{layer}"] = {"kernel": np.concatenate([hears, noise[0]]), "bias": bias}
            params[f"out_{layer}"] = {"kernel": back.T, "bias": np.zeros(len(back))}
        return {"params": jax.tree.map(np.float32, params)}

    def front_end(self, variables: Mapping[str, Any], pcm: Float[Array, "clip sample"]) -> Array:
        """Log powers of the bands, about 0 in noise alone."""
        spectrum = jnp.fft.rfft(pcm.reshape(len(pcm), -1, HOP), axis=-1)
        power = jnp.square(jnp.abs(spectrum[..., FIRST_BAND : FIRST_BAND + BANDS])) / HOP
        return (jnp.log(power + 1e-9) - 2 * math.log(NOISE_LEVEL)) / 2

    def embed(self, output: Array) -> Array:
        """Mean over frames."""
        return output.mean(axis=1)

    def token_layout(self, samples: int) -> tuple[TokenLayout, ...]:
        """Every frame is a token."""
        start = np.arange(samples // HOP) * HOP
        return (TokenLayout(np.ones(len(start), bool), start, start + HOP),)

    def settings(self) -> Record:
        """The settings that define the encoder, for its fingerprint."""
        return {"seed": self.seed, "front_end": {"hop": HOP}}


def hear_tones(rng: np.random.Generator) -> tuple[Store, Sums]:
    """Counts and sums of the encoder on its clips, from WAV files on."""
    encoder = ToneEncoder(int(rng.integers(2**32)))
    with tempfile.TemporaryDirectory() as folder:
        path = write_tones(Path(folder), rng)
        task = load_task(str(path), unit_seconds=FRAMES * HOP / RATE, test_fold=None)
        clips = empty_clip_store((len(task), LAYERS, WIDTH))
        activations = collect_activations(encoder, task, CountOptions(batch_size=48), store=clips)
    counts = clips.counts
    labels, members = activations.clip_labels, task.members(range(len(task)))
    if not np.array_equal(counts[members[:, 0]].sum(axis=0), activations.counts["active_tokens"].values[0]):
        raise SystemExit("The counts of single clips do not add up to those of their class.")
    _, recordings = np.unique(labels["source"].values.astype(str), return_inverse=True)
    store = Store(
        counts,
        labels["tokens"].values.astype(np.int64),
        members,
        labels["fold"].values,
        recordings,
        encoder.truth,
        np.full((LAYERS, WIDTH), "ordinary"),
    )
    names = ("sum", "sum_squares", "total_sum", "total_sum_squares")
    return store, Sums(*(activations.counts[name].values for name in names))


def write_tones(folder: Path, rng: np.random.Generator) -> Path:
    """Write the clips and their table: noise with the level and colour of its recording, and tones at times."""
    time = np.arange(FRAMES * HOP) / RATE
    waves = np.sin(2 * np.pi * np.outer((np.arange(BANDS) + FIRST_BAND) * RATE / HOP, time))
    labels, folds, recordings = Design(TONE_CLASSES).clips()
    level = np.exp(rng.normal(0, 0.3, int(recordings[-1]) + 1))
    colour = NOISE_LEVEL * rng.exponential(0.2, (len(level), NOISE_BANDS))
    with (folder / "tones.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "label", "fold", "src_file"])
        for clip, (label, fold, recording) in enumerate(zip(labels, folds, recordings, strict=True)):
            samples = draw_clip(label, waves, level[recording], colour[recording], rng)
            soundfile.write(folder / f"{clip:03d}.wav", samples.astype(np.float32), RATE, subtype="FLOAT")
            rows.writerow([f"{clip:03d}.wav", f"tone {label}", fold, f"recording {recording}"])
    return folder / "tones.csv"


def draw_clip(
    label: int,
    waves: Float[np.ndarray, "band sample"],
    level: float,
    colour: Float[np.ndarray, " noise_band"],
    rng: np.random.Generator,
) -> Float[np.ndarray, " sample"]:
    """Tones, mostly that of the clip's class, over noise: white, and a hum in the bands without a tone."""
    probability = np.where(np.arange(TONE_CLASSES) == label, OWN_TONE, OTHER_TONE)
    sounds = rng.random((FRAMES, TONE_CLASSES)) < probability
    # Every tone is switched on and off frame by frame: (frame, class) -> (class, sample).
    tones = TONE_LEVEL * np.repeat(sounds, HOP, axis=0).T * waves[:TONE_CLASSES]
    hum = colour[:, None] * waves[TONE_CLASSES:]
    noise = NOISE_LEVEL * rng.normal(size=waves.shape[1])
    return tones.sum(axis=0) + level * (noise + hum.sum(axis=0))
