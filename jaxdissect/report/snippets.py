"""The top clips of the class-specific neurons: sound, log-mel picture, and activation over time and frequency."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxdissect.activations.grid import GridReader, grid_reader
from jaxdissect.audio.decode import Recording
from jaxdissect.audio.log_mel import LogMel
from jaxdissect.audio.pcm import samples_as_float
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.report.media import AudioFormat, Pictures, audio_format, encode_audio, picture_front_end
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.tasks.loader import recordings, unit_samples
from jaxdissect.tasks.table import Task

TOGETHER = 16  # clips that run through the encoder at once
LEVELS = 255  # of an activation
BASE64 = 4 / 3
CLIP, GRID, NEURON = 150, 16, 8  # bytes in a page beside sound, picture and activation: elements, places, scales


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is to be seen and heard.

    Attributes:
      clips: numbers of the clips, those first that are needed most.
      neurons: layer and number of every neuron.
      of_clip: the places among `neurons` of those that a clip is shown for.
    """

    clips: tuple[int, ...]
    neurons: Int[np.ndarray, "neuron 2"]
    of_clip: Mapping[int, tuple[int, ...]]


@dataclass(frozen=True)
class Snippet:
    """A clip as a browser takes it.

    Attributes:
      audio: a file of `Snippets.form`.
      picture: its log-mel spectrogram, PNG.
      seconds: recorded; the rest of the unit length is padding.
    """

    audio: bytes
    picture: bytes
    seconds: float


@dataclass(frozen=True, eq=False)
class Grids:
    """Activations over time and frequency, whole numbers from 0 (at most zero) to 255 (the neuron's highest here).

    Attributes:
      place: the grid of a clip and a neuron, by clip and the neuron's place in `Wanted.neurons`.
      levels: of every grid; bands from the lowest up.
      highest: activation that 255 stands for, of each neuron.
      start, stop: that the columns span, s.
    """

    place: Mapping[tuple[int, int], int]
    levels: UInt8[np.ndarray, "grid band column"]
    highest: Float[np.ndarray, " neuron"]
    start: Float[np.ndarray, " column"]
    stop: Float[np.ndarray, " column"]


@dataclass(frozen=True, eq=False)
class Snippets:
    """What can be seen and heard.

    Attributes:
      form: of the sound.
      clips: by number.
      front_end: of the pictures.
      unit_seconds: that a picture spans, s.
      grids: None where the encoder was not at hand.
      unreadable: why clips cannot be heard, by number.
      left_out: clips for which there was no room.
    """

    form: AudioFormat
    clips: Mapping[int, Snippet]
    front_end: LogMel
    unit_seconds: float
    grids: Grids | None = None
    unreadable: Mapping[int, str] = field(default_factory=dict)
    left_out: int = 0


def clips_wanted(
    top: Int[np.ndarray, "neuron rank"], neurons: Int[np.ndarray, "neuron 2"], class_of: Sequence[int]
) -> Wanted:
    """In rounds: every neuron's most needed clip, then every neuron's second, and so on.

    A neuron needs the best clip of every class among its top clips first, then the second of every class.

    Args:
      top: numbers of each neuron's top clips, the best first; -1: none.
      neurons: layer and number of each.
      class_of: number of the class of every clip.
    """
    preferred = []
    for row in top:
        own = [int(clip) for clip in row if clip >= 0]
        seen: dict[int, int] = {}
        turn = []
        for clip in own:
            turn.append(seen.get(class_of[clip], 0))
            seen[class_of[clip]] = turn[-1] + 1
        preferred.append([own[place] for place in np.argsort(turn, kind="stable")])
    rounds = range(max(map(len, preferred), default=0))
    order = dict.fromkeys(row[turn] for turn in rounds for row in preferred if turn < len(row))
    of_clip: dict[int, list[int]] = {clip: [] for clip in order}
    for place, row in enumerate(preferred):
        for clip in dict.fromkeys(row):
            of_clip[clip].append(place)
    return Wanted(tuple(order), neurons, {clip: tuple(places) for clip, places in of_clip.items()})


def make_snippets(
    task: Task, encoder: Encoder | None, wanted: Wanted, budget: float, sample_rate: int = 16000
) -> Snippets:
    """Decode, encode and look at clips until the budget is used up.

    Args:
      task: the clips that were counted.
      encoder: None: activations are not shown.
      wanted: clips and neurons.
      budget: bytes that everything may take in a page, as base64.
      sample_rate: without an encoder, Hz.

    Raises:
      InputError: the data folder does not suit, or the encoder's patches lie on no grid.
    """
    rate = sample_rate if encoder is None else encoder.sample_rate
    form, front_end = audio_format(), picture_front_end(rate, encoder)
    picture = Pictures(front_end)
    read = None
    if encoder is not None and len(wanted.neurons):
        read = grid_reader(encoder, unit_samples(task, rate), wanted.neurons)
    cells = 0 if read is None else read.bands * len(read.start)
    clips: dict[int, Snippet] = {}
    unreadable: dict[int, str] = {}
    raw: dict[tuple[int, int], np.ndarray] = {}
    used, full = 0.0 if read is None else float(NEURON * len(wanted.neurons)), False
    bar = progress_bar(what="Clips to see and hear", total=len(wanted.clips))
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:  # encoding sound leaves the interpreter free
        for first in range(0, len(wanted.clips), TOGETHER):
            found = list(recordings(task, rate, wanted.clips[first : first + TOGETHER]))
            bar.update(len(found))
            unreadable |= {clip: one.clip.reason for clip, one in found if one.clip.status == "unreadable"}
            batch = [(clip, one) for clip, one in found if clip not in unreadable]
            encoded = pool.map(lambda item: _snippet(item[1], rate, form, picture), batch)
            for (clip, _), made in zip(batch, list(encoded), strict=True):
                grids = 0 if read is None else len(wanted.of_clip[clip])
                used += BASE64 * (len(made.audio) + len(made.picture) + cells * grids) + CLIP + GRID * grids
                full = used > budget
                if full:
                    break
                clips[clip] = made
            if read is not None:
                raw |= _activations(read, [item for item in batch if item[0] in clips], wanted)
            if full:
                break
    left_out = len(wanted.clips) - len(clips) - len(unreadable)
    activations = None if read is None else _grids(raw, read, rate, len(wanted.neurons))
    return Snippets(form, clips, front_end, task.unit_seconds, activations, unreadable, left_out)


def _snippet(recording: Recording, rate: int, form: AudioFormat, picture: Pictures) -> Snippet:
    recorded = recording.pcm[: max(recording.clip.samples, 1)]
    return Snippet(encode_audio(recorded, rate, form), picture(recording.pcm), recording.clip.samples / rate)


def _activations(
    read: GridReader, batch: Sequence[tuple[int, Recording]], wanted: Wanted
) -> dict[tuple[int, int], np.ndarray]:
    """Activations of the neurons that each clip is shown for; batches are filled up, so that one program serves all."""
    if not batch:
        return {}
    filled = [*batch, *[batch[0]] * (TOGETHER - len(batch))]
    pcm = np.stack([recording.pcm for _, recording in filled])
    values = read(samples_as_float(pcm))
    return {
        (clip, place): np.maximum(values[row, place], 0)
        for row, (clip, _) in enumerate(batch)
        for place in wanted.of_clip[clip]
    }


def _grids(raw: Mapping[tuple[int, int], np.ndarray], read: GridReader, rate: int, neurons: int) -> Grids:
    highest = np.zeros(neurons)
    for (_, place), values in raw.items():
        highest[place] = max(highest[place], float(values.max()))
    if not np.isfinite(highest).all():
        raise InputError("The encoder gives activations that are not finite: they cannot be shown.")
    scale = LEVELS / np.where(highest > 0, highest, 1)
    levels = [np.rint(values * scale[place]).astype(np.uint8) for (_, place), values in raw.items()]
    shape = (0, read.bands, len(read.start))
    return Grids(
        {key: number for number, key in enumerate(raw)},
        np.stack(levels) if levels else np.zeros(shape, np.uint8),
        highest,
        read.start / rate,
        read.stop / rate,
    )
