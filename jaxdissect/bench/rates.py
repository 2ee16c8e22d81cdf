"""`jaxdissect bench`: how fast this machine counts with an encoder and decodes clips."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxdissect.activations.read import read_neurons
from jaxdissect.bench.matrix_products import MatrixProduct, matrix_products, product_seconds, repeated_seconds
from jaxdissect.counting.stream import Counter, CountOptions, neuron_shape
from jaxdissect.encoder.directory import load_encoder
from jaxdissect.encoder.protocol import Encoder, module_input, named_units
from jaxdissect.errors import InputError, require
from jaxdissect.options.bench import BenchOptions
from jaxdissect.runtime.files import require_folder, require_regular, whole_file
from jaxdissect.runtime.machine import device, versions
from jaxdissect.runtime.profiling import STEPS, WARM_UP, profiling, step_done
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.runtime.sharding import shard_clips
from jaxdissect.tasks.known import KNOWN_TASKS, SYNTHETIC_TASKS, load_task
from jaxdissect.tasks.loader import clip_reader, unit_samples
from jaxdissect.tasks.shards import is_prepared, read_prepared
from jaxdissect.tasks.table import LONGEST_SECONDS, LabelSet, Task
from jaxdissect.types import Record

CLASSES = 50  # of the noise that is counted; a step takes as long with ten times as many
DECODED_CLIPS = 200  # at most, from the beginning of a task's table
LEAST_SECONDS = 0.1  # of one repetition, which runs a short step several times


def run_bench(options: BenchOptions) -> Record:
    """Measure on the first device of this process and on one of its cores; write `out` if it is given.

    Returns:
      A JSON object: the `options`; the `encoder` by name, its `layers`, `neurons` of a layer and `sample_rate` in Hz;
      the `device`, the `cores` that this process may use and the `versions` of packages; in `rows`, for every type and
      batch size, its `dtype` and `batch_size`, what `measure_step` has `measured` (null if it does not fit), and the
      `failure`, if any; in `decode` the result of `measure_decoding` (null without a task).

    Raises:
      InputError: an option, the encoder or the task breaks a rule, or `out` cannot be written.
    """
    limit = f"a positive number of seconds, at most {LONGEST_SECONDS:g}"
    require(0 < options.seconds <= LONGEST_SECONDS, f"--seconds must be {limit}, got {options.seconds}.")
    if options.out is not None:
        require_regular(options.out)
        require_folder(options.out.parent)
    with under_way(f"Loading {options.encoder}"):
        encoders = {dtype: load_encoder(options.encoder, dtype) for dtype in options.dtypes}
    encoder = encoders[options.dtypes[0]]
    layers, neurons = neuron_shape(encoder, _noise_task(options.seconds, 1))
    task = task_to_decode(options)
    decode = None if task is None else measure_decoding(task, encoder.sample_rate, options.rounds)
    rows: list[Record] = []
    cases = [(dtype, clips) for dtype in options.dtypes for clips in options.batch_sizes]
    for dtype, clips in progress_bar(cases, what=f"Measuring {encoder.name}", unit="batch size"):
        row: Record = {"dtype": dtype, "batch_size": clips, "measured": None, "failure": ""}
        try:
            row["measured"] = measure_step(encoders[dtype], options.seconds, clips, options.rounds)
        except Exception as error:  # compilers and allocators raise many kinds; another batch size may fit
            row["failure"] = _first_line(error)
        rows.append(row)
    if options.profile is not None:
        _trace(_step_on_noise(encoder, options.seconds, options.batch_sizes[-1]), options.profile)
    result = {
        "options": {**vars(options)},
        "encoder": encoder.name,
        "layers": layers,
        "neurons": neurons,
        "sample_rate": encoder.sample_rate,
        "device": device(),
        # A container or a batch system may allow a process fewer cores than the machine has.
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "versions": versions(),
        "rows": rows,
        "decode": decode,
    }
    if options.out is not None:
        with whole_file(options.out) as temporary:
            temporary.write_text(json.dumps(result, indent=1, allow_nan=False, default=str) + "\n")
    return result


def measure_step(encoder: Encoder, clip_seconds: float, clips: int, rounds: int) -> Record:
    """Measure the step of a run, from 16-bit PCM on the device to counts, and its matrix products alone.

    Args:
      encoder: any `Encoder`.
      clip_seconds: length of a clip, s.
      clips: batch size.
      rounds: repetitions of the step.

    Returns:
      A JSON object: seconds of the `step` as `timing` returns them; by their median `clips_per_second`,
      `audio_seconds_per_second` and `flop_per_second`, which counts the products only; in `ceiling` the products
      alone, with null for rates if there are none, and `notes` on what was left out; and `share_of_ceiling`, the
      step's rate divided by the ceiling's.
    """
    # The products right after the step, so that other programs on the machine slow both alike.
    step = timing(repeated_seconds(_step_on_noise(encoder, clip_seconds, clips), rounds, LEAST_SECONDS))
    products, notes = step_products(encoder, clip_seconds, clips)
    seconds = sum(times * product_seconds(product, jax.local_devices()[0]) for product, times in products.items())
    flop_per_clip = sum(times * product.flop for product, times in products.items()) / clips
    rate = clips / step["median"]
    return {
        "step": step,
        "clips_per_second": rate,
        "audio_seconds_per_second": rate * clip_seconds,
        "flop_per_second": rate * flop_per_clip,
        "ceiling": {
            "flop_per_clip": flop_per_clip,
            "seconds": seconds or None,
            "clips_per_second": clips / seconds if seconds else None,
            "notes": notes,
        },
        "share_of_ceiling": seconds / step["median"] if seconds else None,
    }


def step_products(encoder: Encoder, clip_seconds: float, clips: int) -> tuple[dict[MatrixProduct, int], list[str]]:
    """The matrix products of front end and encoder for a batch that the counts depend on; see `matrix_products`."""

    def read(variables: PyTree, pcm: Array) -> PyTree:
        inputs = module_input(encoder, variables, pcm)
        # Only the readings: counting does not need what follows the last layer's neurons.
        return read_neurons(encoder.module, variables, inputs, **named_units(encoder))[1]

    samples = round(clip_seconds * encoder.sample_rate)
    return matrix_products(read, encoder.variables, jax.ShapeDtypeStruct((clips, samples), jnp.int16))


def task_to_decode(options: BenchOptions) -> Task | None:
    """The first clips of the task that the options name, or None.

    The clips have the length of the prepared data or of the known task; else of `options.seconds`.

    Raises:
      InputError: there is no such task, or only a data folder was given.
    """
    name, data = options.task, options.data
    if name is None:
        require(data is None, f"--data {data} needs --task: name the task whose files are in this folder.")
        return None
    unit_seconds: float | None = options.seconds
    if data is not None and is_prepared(data):
        unit_seconds = read_prepared(data).unit_seconds
    elif name in SYNTHETIC_TASKS or (name in KNOWN_TASKS and KNOWN_TASKS[name].unit_seconds):
        unit_seconds = None  # a known task brings its own
    progress = partial(progress_bar, what=f"Synthesising {name}")
    task = load_task(name, data, None, unit_seconds, test_fold=None, progress=progress)
    return task.rows(range(min(len(task), DECODED_CLIPS)))


def measure_decoding(task: Task, sample_rate: int, rounds: int) -> Record:
    """Measure how fast one thread decodes clips: read, decode, mix to mono, resample, crop and pad.

    Args:
      task: clips to decode.
      sample_rate: rate of the decoded samples, Hz.
      rounds: number of passes over all clips.

    Returns:
      A JSON object: the `source`, which is the task's name; numbers of `clips` decoded and of `unreadable` clips left
      out; `audio_seconds` of all clips; `seconds` for one clip as `timing` returns them; by their median
      `clips_per_second` and `audio_seconds_per_second`.

    Raises:
      InputError: the data do not suit the task, or none of the clips can be read.
    """
    read = clip_reader(task, sample_rate)
    # The first pass is not timed: it finds the unreadable clips and brings the files into the system's memory.
    clips = {name: read(name).clip for name in progress_bar(task.file_names, what="Reading clips")}
    readable = {name: clip for name, clip in clips.items() if clip.status != "unreadable"}
    reason = next(iter(clips.values())).reason
    require(bool(readable), f"--task {task.name}: none of {len(clips)} clips can be read, the first: {reason}")
    repetitions = []
    for _ in progress_bar(range(rounds), what="Measuring decoding", unit="pass"):
        start = time.perf_counter()
        for name in readable:
            read(name)
        repetitions.append((time.perf_counter() - start) / len(readable))
    seconds, audio_seconds = timing(repetitions), sum(clip.samples for clip in readable.values()) / sample_rate
    return {
        "source": task.name,
        "clips": len(readable),
        "unreadable": len(clips) - len(readable),
        "audio_seconds": audio_seconds,
        "seconds": seconds,
        "clips_per_second": 1 / seconds["median"],
        "audio_seconds_per_second": audio_seconds / len(readable) / seconds["median"],
    }


def timing(repetitions: Sequence[float]) -> Record:
    """Median, least and most of a measurement in s, with all repetitions in their order."""
    median, least, most = float(np.median(repetitions)), min(repetitions), max(repetitions)
    return {"median": median, "least": least, "most": most, "repetitions": list(repetitions)}


def _step_on_noise(encoder: Encoder, clip_seconds: float, clips: int) -> Callable[[], Mapping[str, Array]]:
    """A call that launches the step of a run on a batch of noise, which is on the device already."""
    task = _noise_task(clip_seconds, clips)
    samples = unit_samples(task, encoder.sample_rate)
    counter = Counter(encoder, task, CountOptions(batch_size=clips), False, jax.local_devices()[:1], clips)
    batch = {
        # Noise of a quarter of full scale, since some devices compute zeros faster.
        "pcm": np.random.default_rng(0).integers(-8000, 8000, (clips, samples), np.int16),
        "samples": np.full(clips, samples, np.int32),
        "clip": np.arange(clips, dtype=np.int32),
        # The last column is the class of all clips.
        "members": np.append(task.members(range(clips)), np.ones((clips, 1), bool), axis=1),
    }
    return partial(counter.start, shard_clips(batch, counter.mesh))


def _trace(call: Callable[[], PyTree], folder: Path) -> None:
    """Write a trace of some steps."""
    with profiling(folder):
        for _ in range(WARM_UP + STEPS):
            jax.block_until_ready(call())
            step_done()


def _noise_task(seconds: float, clips: int) -> Task:
    """Clips without files; clip n is in class n modulo `CLASSES`."""
    names = tuple(map(str, range(clips)))
    labels = LabelSet("class", tuple(map(str, range(CLASSES))), tuple((clip % CLASSES,) for clip in range(clips)))
    return Task("noise", Path(), seconds, names, ("train",) * clips, (None,) * clips, (labels,))


def _first_line(error: Exception) -> str:
    """The first line of an error's message, with the kind of the error unless it is a broken rule."""
    text = (str(error).strip() or "no reason given").splitlines()[0][:300]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
