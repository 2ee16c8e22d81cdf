"""The top clips of the class-specific neurons: sound, log-mel picture, and activation over time and frequency."""

import itertools
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
from jaxdissect.errors import require
from jaxdissect.report.media import AudioFormat, Pictures, audio_format, encode_audio, picture_front_end
from jaxdissect.runtime.progress import progress_bar
from jaxdissect.tasks.loader import recordings, unit_samples
from jaxdissect.tasks.table import Task

BATCH = 16  # clips that run through the encoder together
MAX_LEVEL = 255  # of an activation
BASE64 = 4 / 3  # bytes in a page for each byte of sound or picture
CLIP_BYTES = 150  # in a page beside a clip's sound and picture: elements, and what is known of it
GRID_BYTES = 16  # in a page beside an activation: its clip and neuron
NEURON_BYTES = 8  # in a page for the highest activation of a neuron


@dataclass(frozen=True, eq=False)
class Wanted:
    """Clips that should be seen and heard.

    Attributes:
      clips: numbers of the clips, the most needed first.
      neurons: layer and number of each neuron.
      of_clip: for each clip, the places among `neurons` of the neurons that it is shown for.
    """

    clips: tuple[int, ...]
    neurons: Int[np.ndarray, "neuron 2"]
    of_clip: Mapping[int, tuple[int, ...]]


@dataclass(frozen=True)
class Snippet:
    """A clip in formats of a browser.

    Attributes:
      audio: sound file, in the format `Snippets.form`.
      picture: log-mel spectrogram, as PNG.
      seconds: recorded time, s; the rest of the unit length is padding.
    """

    audio: bytes
    picture: bytes
    seconds: float


@dataclass(frozen=True, eq=False)
class Grids:
    """Activations over time and frequency, as whole numbers.

    Attributes:
      place: number of the grid of each clip and neuron; a neuron is given by its place in `Wanted.neurons`.
      levels: activations from 0 (zero or less) to 255 (the neuron's highest on the clips shown); bands from the lowest
        up.
      highest: activation for which 255 stands, for each neuron.
      start: first second of each column.
      stop: last second of each column.
    """

    place: Mapping[tuple[int, int], int]
    levels: UInt8[np.ndarray, "grid band column"]
    highest: Float[np.ndarray, " neuron"]
    start: Float[np.ndarray, " column"]
    stop: Float[np.ndarray, " column"]


@dataclass(frozen=True, eq=False)
class Snippets:
    """Clips that can be seen and heard.

    Attributes:
      form: format of the sound.
      clips: clips by number.
      front_end: front end of the pictures.
      unit_seconds: time that a picture spans, s.
      grids: activations; None without the encoder.
      unreadable: for each clip that cannot be heard, the reason.
      left_out: number of clips without room in the page.
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
    """Top clips in rounds: first each neuron's most needed clip, then each neuron's second, and so on.

    A neuron needs the best clip of every class among its top clips first, then the second best of every class.

    Args:
      top: numbers of each neuron's top clips, the best first; -1 where there is none.
      neurons: layer and number of each neuron.
      class_of: number of the class of each clip.
    """
    preferred = []
    for row in top:
        clips = [int(clip) for clip in row if clip >= 0]
        of_class = [class_of[clip] for clip in clips]
        # A clip's turn: how many better clips of its own class the neuron has.
        turns = [of_class[:place].count(number) for place, number in enumerate(of_class)]
        preferred.append([clips[place] for place in np.argsort(turns, kind="stable")])
    # Transposed, rows are rounds; a dict keeps the first place of a clip that several neurons want.
    order = dict.fromkeys(clip for turn in itertools.zip_longest(*preferred) for clip in turn if clip is not None)
    of_clip: dict[int, list[int]] = {clip: [] for clip in order}
    for neuron, clips in enumerate(preferred):
        for clip in dict.fromkeys(clips):
            of_clip[clip].append(neuron)
    return Wanted(tuple(order), neurons, {clip: tuple(places) for clip, places in of_clip.items()})


def make_snippets(
    task: Task, encoder: Encoder | None, wanted: Wanted, budget: float, sample_rate: int = 16000
) -> Snippets:
    """Decode clips and make their sound, pictures and activations until the budget is used up.

    Args:
      task: clips that were counted.
      encoder: encoder of the activations; None: no activations.
      wanted: clips and neurons.
      budget: bytes that clips may take in a page.
      sample_rate: sample rate without an encoder, Hz.

    Raises:
      InputError: the data folder does not fit the task, or the encoder's patches are on no grid.
    """
    rate = sample_rate if encoder is None else encoder.sample_rate
    form, front_end = audio_format(), picture_front_end(rate, encoder)
    picture = Pictures(front_end)
    read = None
    if encoder is not None and len(wanted.neurons):
        read = grid_reader(encoder, unit_samples(task, rate), wanted.neurons)
    clips: dict[int, Snippet] = {}
    unreadable: dict[int, str] = {}
    levels: dict[tuple[int, int], np.ndarray] = {}
    # A grid takes its cells, one byte each in base64, and its place; without an encoder there is none.
    grid_bytes = 0.0 if read is None else BASE64 * read.bands * len(read.start) + GRID_BYTES
    room = budget - (0 if read is None else NEURON_BYTES * len(wanted.neurons))
    bar = progress_bar(what="Clips to see and hear", total=len(wanted.clips))
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:  # encoding sound does not hold the interpreter's lock
        for first in range(0, len(wanted.clips), BATCH):
            decoded = list(recordings(task, rate, wanted.clips[first : first + BATCH]))
            bar.update(len(decoded))
            unreadable |= {
                clip: recording.clip.reason for clip, recording in decoded if recording.clip.status == "unreadable"
            }
            batch = [(clip, recording) for clip, recording in decoded if clip not in unreadable]
            made = list(pool.map(lambda item: _snippet(item[1], rate, form, picture), batch))
            # Clips fit in their order until one does not: the rest is less needed.
            sizes = [
                BASE64 * (len(snippet.audio) + len(snippet.picture))
                + CLIP_BYTES
                + grid_bytes * len(wanted.of_clip[clip])
                for (clip, _), snippet in zip(batch, made, strict=True)
            ]
            fitting = int(np.searchsorted(np.cumsum(sizes), room, side="right"))
            clips |= {clip: snippet for (clip, _), snippet in zip(batch[:fitting], made[:fitting], strict=True)}
            if read is not None and fitting:
                levels |= _activations(read, batch[:fitting], wanted)
            if fitting < len(batch):
                break
            room -= sum(sizes)
    left_out = len(wanted.clips) - len(clips) - len(unreadable)
    grids = None if read is None else _grids(levels, read, rate, len(wanted.neurons))
    return Snippets(form, clips, front_end, task.unit_seconds, grids, unreadable, left_out)


def _snippet(recording: Recording, rate: int, form: AudioFormat, picture: Pictures) -> Snippet:
    """Sound and picture of a recording; the picture also shows the padding, the sound does not.

    Args:
      recording: samples, filled up to the unit length.
      rate: sample rate, Hz.
      form: format of the sound.
      picture: maker of pictures.
    """
    # libsndfile writes no file without a sample.
    recorded = recording.pcm[: max(recording.clip.samples, 1)]
    return Snippet(encode_audio(recorded, rate, form), picture(recording.pcm), recording.clip.samples / rate)


def _activations(
    read: GridReader, batch: Sequence[tuple[int, Recording]], wanted: Wanted
) -> dict[tuple[int, int], Float[np.ndarray, "band column"]]:
    """Activations above zero of the neurons that each clip is shown for.

    Args:
      read: reader of all wanted neurons.
      batch: number and recording of at most `BATCH` clips.
      wanted: clips and neurons.

    Returns:
      Activations by clip and place of the neuron in `Wanted.neurons`.
    """
    # The last batch is filled up with its first clip: one program serves all batches.
    filled = [*batch, *[batch[0]] * (BATCH - len(batch))]
    values = read(samples_as_float(np.stack([recording.pcm for _, recording in filled])))
    return {
        (clip, place): np.maximum(values[row, place], 0)
        for row, (clip, _) in enumerate(batch)
        for place in wanted.of_clip[clip]
    }


def _grids(
    activations: Mapping[tuple[int, int], Float[np.ndarray, "band column"]], read: GridReader, rate: int, neurons: int
) -> Grids:
    """Activations as whole numbers; each neuron has a scale of its own.

    Args:
      activations: activations above zero, by clip and place of the neuron.
      read: reader of the neurons, which has the time spans of the columns.
      rate: sample rate, Hz.
      neurons: number of neurons.

    Raises:
      InputError: an activation is not finite.
    """
    highest = np.zeros(neurons)
    for (_, place), values in activations.items():
        highest[place] = np.maximum(highest[place], values.max())  # unlike `max`, it keeps NaN
    require(
        bool(np.isfinite(highest).all()), "The encoder gives activations that are not finite: they cannot be shown."
    )
    # A neuron that is nowhere above zero keeps zeros; dividing by 1 spares it from 0 / 0.
    scale = MAX_LEVEL / np.where(highest > 0, highest, 1)
    levels = np.zeros((len(activations), read.bands, len(read.start)), np.uint8)
    for number, ((_, place), values) in enumerate(activations.items()):
        levels[number] = np.rint(values * scale[place])
    places = {key: number for number, key in enumerate(activations)}
    return Grids(places, levels, highest, read.start / rate, read.stop / rate)
