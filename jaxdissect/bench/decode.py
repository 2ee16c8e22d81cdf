"""How many clips one processor core decodes in a second, by kind of file."""

import csv
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float

from jaxdissect.audio.decode import ClipStatus, Recording
from jaxdissect.bench.timings import Failure, Timing, attempt
from jaxdissect.errors import InputError
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.stages.prepare import PrepareOptions, run_prepare
from jaxdissect.tasks.known import KNOWN_TASKS, SYNTHETIC_TASKS, load_task
from jaxdissect.tasks.loader import clip_reader
from jaxdissect.tasks.shards import is_prepared, read_prepared
from jaxdissect.tasks.table import Task, make_task

TASK_CLIPS = 200
SYNTHESISED_CLIPS = 16
COMMON_RATE = 44100  # Hz, of most recordings
FORMATS = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS"}


@dataclass(frozen=True)
class DecodeRate:
    """Decoding clips of one kind with one thread: read, decode, mix to mono, resample, crop and pad.

    Attributes:
      source: the task's name, or format, rate and channels of synthesised files.
      clips, unreadable: that were decoded, and that could not be and were left out.
      audio_seconds: of all these clips together, s.
      seconds: per clip; None where nothing could be decoded, and `failure` says why.
      clips_per_second, audio_seconds_per_second: by the median, on one core.
    """

    source: str
    clips: int
    unreadable: int
    audio_seconds: float
    seconds: Timing | None
    clips_per_second: float | None
    audio_seconds_per_second: float | None
    failure: str = ""


@dataclass(frozen=True, eq=False)
class _Clips:
    """What one source has to decode, after a first pass, which also brings the files into the system's memory."""

    read: Callable[[str], Recording]
    file_names: Sequence[str]
    statuses: Sequence[ClipStatus]
    audio_seconds: float


def task_to_decode(name: str | None, data: Path | None, seconds: float) -> Task | None:
    """The first clips of a task: of the length that it brings, or that its data were prepared with, else of `seconds`.

    Raises:
      InputError: there is no such task, or only a data folder was given.
    """
    if name is None:
        if data is not None:
            raise InputError(f"--data {data} needs --task, whose files lie there.")
        return None
    unit_seconds: float | None = seconds
    if data is not None and is_prepared(data):
        unit_seconds = read_prepared(data).unit_seconds
    elif name in SYNTHETIC_TASKS or (name in KNOWN_TASKS and KNOWN_TASKS[name].unit_seconds):
        unit_seconds = None
    task = load_task(
        name, data, None, unit_seconds, test_fold=None,
        progress=lambda clips: progress_bar(clips, what=f"Synthesising {name}"),
    )  # fmt: skip
    return task.rows(range(min(len(task), TASK_CLIPS)))


def decode_rates(sample_rate: int, seconds: float, rounds: int, task: Task | None) -> tuple[DecodeRate, ...]:
    """Measure a task's clips, if one is given, and synthesised ones; all of them once in every round.

    Args:
      sample_rate: of the encoder, Hz.
      seconds: length of a synthesised clip, s.
      rounds: how many times.
      task: a few clips of it are enough.
    """
    with tempfile.TemporaryDirectory(prefix="jaxdissect-bench-") as folder:
        with under_way("Synthesising clips to decode"):
            sources = _synthesise(Path(folder), sample_rate, seconds)
        if task is not None:
            sources = {task.name: task, **sources}
        with progress_bar(what="Measuring decoding", total=(1 + rounds) * len(sources), unit="pass") as bar:
            clips: dict[str, _Clips | Failure] = {}
            for name, source in sources.items():
                clips[name] = source if isinstance(source, Failure) else attempt(partial(_warm, source, sample_rate))
                bar.update()
            times: dict[str, list[float]] = {name: [] for name in clips}
            for _ in range(rounds):
                for name, found in clips.items():
                    if isinstance(found, _Clips):
                        passed = attempt(partial(_decode, found))
                        if isinstance(passed, Failure):
                            clips[name] = passed
                        else:
                            times[name].append(passed)
                    bar.update()
    return tuple(_rate(name, found, times[name]) for name, found in clips.items())


def _synthesise(folder: Path, sample_rate: int, seconds: float) -> dict[str, Task | Failure]:
    """Noise with tones in every format, stereo at 44.1 kHz and mono at the encoder's rate, and the latter in shards."""
    sources: dict[str, Task | Failure] = {}
    for rate, channels in ((COMMON_RATE, 2), (sample_rate, 1)):
        for kind in FORMATS:
            name = f"{kind} {rate / 1000:g} kHz {'stereo' if channels == 2 else 'mono'}"
            sources[name] = attempt(partial(_write_clips, folder / name, kind, rate, channels, seconds))
    files = folder / f"WAV {sample_rate / 1000:g} kHz mono"
    sources[f"shards {sample_rate / 1000:g} kHz"] = attempt(partial(_prepare, files, sample_rate, seconds))
    return sources


def _write_clips(folder: Path, kind: str, rate: int, channels: int, seconds: float) -> Task:
    folder.mkdir()
    names = [f"{clip}.{kind.lower()}" for clip in range(SYNTHESISED_CLIPS)]
    for clip, name in enumerate(names):
        with soundfile.SoundFile(
            folder / name, "w", samplerate=rate, channels=channels, format=kind, subtype=FORMATS[kind]
        ) as file:
            samples = _sound(clip, rate, channels, seconds)
            for start in range(0, len(samples), rate):  # libsndfile overflows its stack on long pieces of Vorbis
                file.write(samples[start : start + rate])
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([["file_name", "label", "split"], *([name, "noise", "train"] for name in names)])
    return _as_task(folder, names, seconds)


def _prepare(files: Path, sample_rate: int, seconds: float) -> Task:
    """Shards of WAV files that were written before."""
    out = files.with_name("shards")
    table = files / "clips.csv"
    run_prepare(
        PrepareOptions(task=str(table), data=files, out=out, sample_rate=sample_rate, unit_seconds=float(seconds))
    )
    return _as_task(out, [f"{clip}.wav" for clip in range(SYNTHESISED_CLIPS)], seconds)


def _as_task(folder: Path, names: Sequence[str], seconds: float) -> Task:
    return make_task("synthesised", folder, seconds, names, ["train"] * len(names), [None] * len(names), [])


def _sound(clip: int, rate: int, channels: int, seconds: float) -> Float[np.ndarray, "frame channel"]:
    """Pink enough for a lossy coder to have work at all frequencies: white noise under three tones."""
    random = np.random.default_rng(clip)
    time_axis = np.arange(round(seconds * rate))[:, None] / rate
    tones = sum(np.sin(2 * np.pi * pitch * time_axis) for pitch in random.uniform(100, 3000, 3))
    noise = random.standard_normal((len(time_axis), channels), np.float32)
    return (0.1 * tones + 0.05 * noise).astype(np.float32)


def _warm(task: Task, sample_rate: int) -> _Clips:
    read = clip_reader(task, sample_rate)
    statuses = [read(file_name).clip for file_name in task.file_names]
    pairs = zip(task.file_names, statuses, strict=True)
    names = [file_name for file_name, status in pairs if status.status != "unreadable"]
    if not names:
        raise InputError(f"none of {len(statuses)} clips can be read, the first: {statuses[0].reason}")
    return _Clips(read, names, statuses, sum(status.samples for status in statuses) / sample_rate)


def _decode(clips: _Clips) -> float:
    """Seconds per clip of one pass."""
    start = time.perf_counter()
    for file_name in clips.file_names:
        clips.read(file_name)
    return (time.perf_counter() - start) / len(clips.file_names)


def _rate(source: str, clips: _Clips | Failure, seconds: Sequence[float]) -> DecodeRate:
    if isinstance(clips, Failure):
        return DecodeRate(source, 0, 0, 0.0, None, None, None, clips.reason)
    timing, count = Timing.of(seconds), len(clips.file_names)
    per_second = 1 / timing.median
    audio = per_second * clips.audio_seconds / count
    return DecodeRate(
        source, count, len(clips.statuses) - count, clips.audio_seconds, timing, per_second, audio
    )  # fmt: skip
