"""The stages of a run: from an encoder and a task to files in a run directory."""

import dataclasses
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import xarray as xr

from jaxdissect.clip_store import ClipStore, new_clip_store
from jaxdissect.collect import CountOptions, neuron_shape
from jaxdissect.encoder.base import Encoder
from jaxdissect.encoder.checkpoint import fingerprint, load_encoder
from jaxdissect.errors import InputError
from jaxdissect.files import cannot_write, json_fingerprint, require_space
from jaxdissect.progress import progress_bar
from jaxdissect.results import (
    Activations,
    Neurons,
    collect_activations,
    read_netcdf,
    select_neurons,
    write_csv,
    write_netcdf,
)
from jaxdissect.run import Run, absolute, peak_memory, save_or_rescue
from jaxdissect.selection import SelectionRule
from jaxdissect.tasks.known import load_task, task_in_full
from jaxdissect.tasks.table import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationsOptions:
    """Count how often every neuron fires for every class.

    Attributes:
      encoder: encoder directory, the name of a shipped encoder, or package.module:factory.
      task: known task (esc50, cremad, ..., notes, notes2) or a CSV in EVAR's format.
      run: run directory to write.
      data: data folder; file names are relative to it. Default for a CSV: its own folder.
      label: label sets to count, joined by commas. Default: the task's first; of a CSV the column `label`.
      split: train, valid, test or all. With folds, train is every fold but the test fold.
      test_fold: the fold held out as the test split.
      unit_seconds: length to which clips are cropped or padded, s. A known task brings its own.
      multi_label: in a CSV's column `label`, commas separate several labels.
      batch_size: clips per device and step.
      dtype: of the computation, float32 (float32 products) or bfloat16.
      tokens: all; patches, without the class token; or sounding, only patches inside the recording and within 60 dB of
        its loudest patch.
      threshold: a neuron is active where its activation is above this.
      keep_clips: also write every clip's counts, clip_counts.npy.
      max_bad_clips: share of unreadable clips above which the run fails, after everything else was counted and saved.
    """

    encoder: str
    task: str
    run: Path
    data: Path | None = None
    label: str | None = None
    split: Literal["train", "valid", "test", "all"] = "train"
    test_fold: int = 5
    unit_seconds: float | None = None
    multi_label: bool = False
    batch_size: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"
    tokens: Literal["all", "patches", "sounding"] = "all"
    threshold: float = 0.0
    keep_clips: bool = False
    max_bad_clips: float = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronsOptions:
    """Choose the class-specific neurons of what was counted.

    Attributes:
      run: run directory that holds the counts.
      preset: aape, the audio paper's filters; lape, those of the language paper.
      keep: fraction of all neurons to keep. Default: the task's, 0.01, and 0.02 for esc50 and gise51.
      drop_weakest: fraction of neurons of the weakest activation rate that preset aape drops.
      bar: a kept neuron is specific to the classes whose probability exceeds this quantile of all probabilities.
      selector: score by which neurons are chosen; aape is the only one so far.
    """

    run: Path
    preset: Literal["aape", "lape"] = "aape"
    keep: float | None = None
    drop_weakest: float = 0.05
    bar: float = 0.95
    selector: Literal["aape"] = "aape"

    def rule(self, task_keep: float) -> SelectionRule:
        """The checked rule; `task_keep` serves where `keep` is not given."""
        keep = task_keep if self.keep is None else self.keep
        return SelectionRule(self.preset, keep, self.drop_weakest, self.bar)


@dataclasses.dataclass(frozen=True, eq=False)
class ActivationsResult:
    """What the stage `activations` has to show.

    Attributes:
      activations: what was counted.
      record: how, as in `run.json`.
      max_bad_clips: share of unreadable clips that is allowed.
      reused: the counts were in the run directory already.
    """

    activations: Activations
    record: dict[str, Any]
    max_bad_clips: float
    reused: bool = False

    @property
    def too_many_bad(self) -> bool:
        """Whether more clips than allowed could not be read."""
        return self.activations.bad_clips > self.max_bad_clips * len(self.activations.clips)


def run_activations(options: ActivationsOptions) -> ActivationsResult:
    """Count, and write `activations.nc`, `top_clips.nc`, `clips.csv` and on demand `clip_counts.npy`.

    Results of the same encoder, task and options that are there already are read instead, unless too many clips could
    not be read then.

    Raises:
      InputError: an option, the encoder or the task breaks a rule, or the run directory is another run's.
    """
    count = CountOptions(options.tokens, options.threshold, options.batch_size)
    if not 0 <= options.max_bad_clips <= 1:
        raise InputError(f"--max-bad-clips must be a share from 0 to 1, got {options.max_bad_clips}.")
    encoder = load_encoder(options.encoder, options.dtype)
    labels = [name.strip() for name in (options.label or "").split(",") if name.strip()]
    task = load_task(
        options.task,
        options.data,
        labels,
        options.unit_seconds,
        options.multi_label,
        options.test_fold,
        lambda notes: progress_bar(notes, what=f"Synthesising {options.task}"),
    )
    chosen = task.only(options.split)
    run, record = Run(options.run), _record(options, encoder, task)
    reused = _reuse(run, record, options.max_bad_clips)
    if reused is not None:
        return reused
    run.require_own("probe", "a probe", record["fingerprints"])
    layers, neurons = neuron_shape(encoder, chosen)
    with run.locked():
        room = 3 * 8 * (len(task.classes) + 1) * layers * neurons + 2**20
        require_space(run.path, room, "a file of the run's counts")
        with _clip_store(run, (len(chosen), layers, neurons), options.keep_clips) as store:
            activations, measured = _count(encoder, chosen, count, store, record)
            result = ActivationsResult(activations, record | measured, options.max_bad_clips)
            result.record["status"] = "too many unreadable clips" if result.too_many_bad else "done"
            save_or_rescue(run, lambda place: _save(result, store, place), "what was counted")
    return result


def run_neurons(options: NeuronsOptions) -> Neurons:
    """Select, and write `scores.nc`, `neurons.csv` and `coverage.csv`.

    Raises:
      InputError: nothing was counted in this run directory, or its files are of different runs.
    """
    run = Run(options.run)
    counted = run.require("activations")
    rule = options.rule(counted.get("keep", SelectionRule.keep))
    started = time.perf_counter()
    counts = read_netcdf(run.file("activations.nc"))
    _require_same_run(run, counts.attrs, counted)
    neurons = select_neurons(counts, rule)
    with run.locked():
        beside = _scores_of_classes(run, counted)
        _forget_neurons(run)
        write_netcdf(neurons.scores.merge(beside), run.file("scores.nc"))
        write_csv(neurons.neurons, run.file("neurons.csv"))
        write_csv(neurons.coverage, run.file("coverage.csv"))
        record = {
            "options": dataclasses.asdict(rule) | {"selector": options.selector},
            "fingerprints": counted["fingerprints"],
            "seconds": round(time.perf_counter() - started, 3),
            "status": "done",
        }
        run.finish("neurons", record)
    return neurons


def read_activations(run: Run) -> Activations:
    """What the stage `activations` wrote.

    Raises:
      InputError: the stage has not been run, or a file is missing, damaged or of another run.
    """
    record = run.require("activations")
    counts, top = read_netcdf(run.file("activations.nc")), read_netcdf(run.file("top_clips.nc"))
    for dataset in (counts, top):
        _require_same_run(run, dataset.attrs, record)
    try:
        clips = pd.read_csv(run.file("clips.csv"), keep_default_na=False, dtype=str)
        clips = clips.astype({"clip": int, "samples": int})
        clips["fold"] = pd.to_numeric(clips["fold"]).astype("Int64")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{run.file('clips.csv')} cannot be read ({error}): run the stage activations again."
        ) from error
    return Activations(counts, top, clips)


def _record(options: ActivationsOptions, encoder: Encoder, task: Task) -> dict[str, Any]:
    """What `run.json` says of the stage `activations` before it has run."""
    return {
        "options": {
            "label": [labels.name for labels in task.label_sets],
            "split": options.split,
            "test_fold": None if None in task.folds else options.test_fold,
            "dtype": options.dtype,
            "tokens": options.tokens,
            "threshold": options.threshold,
            "keep_clips": options.keep_clips,
        },
        "fingerprints": {
            "encoder": fingerprint(encoder),
            "task": task.fingerprint(),
            "front_end": json_fingerprint(encoder.settings().get("front_end")),
        },
        "task": task.name,
        "encoder": encoder.name,
        "unit_seconds": task.unit_seconds,
        "keep": task.keep,
        "inputs": {  # where the later stages look first
            "encoder": absolute(options.encoder),
            "task": task_in_full(options.task),
            "data": absolute(options.data),
            "label": options.label,
            "test_fold": options.test_fold,
            "unit_seconds": options.unit_seconds,
            "multi_label": options.multi_label,
            "dtype": options.dtype,
        },
    }


def _reuse(run: Run, record: dict[str, Any], max_bad_clips: float) -> ActivationsResult | None:
    """The counts that are there already, if they are whole and few enough clips were unreadable."""
    if not run.is_done("activations", record["options"], record["fingerprints"]):
        return None
    if record["options"]["keep_clips"] and not run.file("clip_counts.npy").is_file():
        return None
    try:
        reused = ActivationsResult(read_activations(run), run.require("activations"), max_bad_clips, reused=True)
    except InputError:  # a file is missing or damaged
        return None
    return None if reused.too_many_bad else reused


def _scores_of_classes(run: Run, counted: Mapping[str, Any]) -> xr.Dataset:
    """What the stage `ablate` has put into `scores.nc`, which does not depend on the neurons that are chosen."""
    ablated = run.stages().get("ablate", {}).get("fingerprints", {})
    if any(ablated.get(name) != value for name, value in counted["fingerprints"].items()):
        return xr.Dataset()
    try:
        scores = read_netcdf(run.file("scores.nc"))
    except InputError:
        return xr.Dataset()
    return scores[[name for name in scores if "class" in scores[name].dims]].drop_attrs(deep=False)


def _forget_neurons(run: Run) -> None:
    """Strike the stage `neurons` and remove its files, before others take their place."""
    run.reopen("neurons")
    for name in ("scores.nc", "neurons.csv", "coverage.csv"):
        try:
            run.file(name).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(run.file(name), error) from error


def _count(
    encoder: Encoder, task: Task, count: CountOptions, store: ClipStore | None, record: dict[str, Any]
) -> tuple[Activations, dict[str, Any]]:
    """Count with a progress bar; returns what was counted, and the time, rate and memory that it took."""
    attrs = {
        "task": task.name,
        "encoder": encoder.name,
        "unit_seconds": task.unit_seconds,
        "neurons": encoder.neurons,
        **_attributes(record),
    }
    finished = [(time.perf_counter(), 0)]
    with progress_bar(what=f"Counting {task.name}", total=len(task), at_once=True) as bar:

        def progress(clips: int) -> None:
            finished.append((time.perf_counter(), clips))
            bar.update(clips - bar.n)

        clip_counts = None if store is None else store.counts
        activations = collect_activations(encoder, task, count, attrs, clip_counts=clip_counts, progress=progress)
    first, last = finished[1 if len(finished) > 4 else 0], finished[-1]  # the first batch compiles
    return activations, {
        "seconds": round(time.perf_counter() - finished[0][0], 3),
        "clips_per_second": round((last[1] - first[1]) / (last[0] - first[0]), 3),
        "peak_memory_mb": round(peak_memory() / 1e6),
        "batch_size": count.batch_size,
    }


@contextmanager
def _clip_store(run: Run, shape: tuple[int, int, int], keep: bool) -> Iterator[ClipStore | None]:
    if not keep:
        yield None
        return
    path = run.file("clip_counts.npy")
    print(f"{path} will take {2 * math.prod(shape) / 1e6:,.1f} MB.", file=sys.stderr)
    with new_clip_store(path, shape) as store:
        yield store


def _save(result: ActivationsResult, store: ClipStore | None, run: Run) -> None:
    _forget_neurons(run)
    run.reopen("activations")
    write_netcdf(result.activations.counts, run.file("activations.nc"))
    write_netcdf(result.activations.top_clips, run.file("top_clips.nc"))
    write_csv(result.activations.clips, run.file("clips.csv"))
    if store is not None:
        store.publish(run.file("clip_counts.npy"))
    run.finish("activations", result.record)


def _attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    """What was counted, as attributes of netCDF files."""
    options = {name: _attribute(value) for name, value in record["options"].items()}
    return options | {f"{name}_sha256": value for name, value in record["fingerprints"].items()}


def _require_same_run(run: Run, attrs: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    differing = [name for name, value in _attributes(record).items() if attrs.get(name) != value]
    if differing:
        raise InputError(
            f"--run {run.path}: its files are of different runs, {', '.join(differing)} differ from run.json's. "
            f"Choose another --run, or remove {run.path} to start afresh."
        )


def _attribute(value: Any) -> Any:
    """Attributes of netCDF hold numbers and strings."""
    if value is None:
        return "none"
    return ",".join(value) if isinstance(value, list) else int(value) if isinstance(value, bool) else value
