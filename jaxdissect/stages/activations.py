"""The stage `activations`: count how often every neuron fires for every class, and write the counts."""

import dataclasses
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from jaxdissect.counting.clip_store import BYTES, STORE_FILES, publish_clip_store
from jaxdissect.counting.job import end_job, follow_job, job
from jaxdissect.counting.labelled import Activations, label_activations
from jaxdissect.counting.resumable import CountJob, count_job, room_needed, whole_store
from jaxdissect.counting.stream import Counted, CountOptions, neuron_shape
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError, require
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.runtime.files import json_fingerprint, require_space, sweep
from jaxdissect.runtime.machine import computed_by, peak_memory
from jaxdissect.runtime.processes import join, leave, require_agreement, this_process, together
from jaxdissect.runtime.profiling import profiling
from jaxdissect.runtime.progress import note, progress_bar, under_way
from jaxdissect.runtime.pulse import Pulse
from jaxdissect.runtime.resume import remove_states
from jaxdissect.runtime.run_directory import Run, record_attributes, require_same_run, save_or_rescue
from jaxdissect.runtime.tables import read_netcdf, write_csv, write_netcdf
from jaxdissect.stages.inputs import (
    DEFAULTS,
    HELD_OUT,
    ClipReading,
    counted_clips,
    given_inputs,
    input_fingerprints,
    load_inputs,
    recorded_inputs,
)
from jaxdissect.stages.neurons import forget_neurons
from jaxdissect.tasks.loader import data_fingerprint
from jaxdissect.tasks.table import TEST_FOLD, Task
from jaxdissect.types import Record

# Parts of the stage's record on which no count depends. They are renewed where the counts are reused.
RENEWED_PARTS = ("sample_rate", "splits", "recordings")
MOST_KEPT = 8e9  # bytes of what is kept of every clip where nobody asked for it


@dataclasses.dataclass(frozen=True, eq=False)
class ActivationsResult(ClipReading):
    """Result of the stage `activations`.

    Attributes:
      activations: counts per class and neuron, with the clips that they come from.
      record: record of the stage, as in `run.json`.
      max_bad_clips: fraction of unreadable clips that is allowed.
      reused: whether the counts were in the run directory already.
    """

    activations: Activations
    record: Record
    max_bad_clips: float
    reused: bool = False

    def clips_read(self) -> tuple[int, int]:
        """Number of unreadable clips, and of all clips."""
        return self.activations.bad_clips, len(self.activations.clips)


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """A count that is to be made, and the record of the stage before it has run."""

    job: CountJob
    run: Run
    record: Record


def run_activations(options: ActivationsOptions) -> ActivationsResult:
    """Count, and write `activations.nc`, `top_clips.nc`, `clips.csv`, `clip_labels.nc` and `clip_*.npy`.

    Counts of the same encoder, task and options that are in the run directory already are read instead, unless too
    many clips were unreadable then. An interrupted count resumes from its state, `state/activations/` in the run
    directory. With `distributed`, every process calls this function; the first one writes, and all return the same.

    Args:
      options: options of the stage.

    Raises:
      InputError: an option, the encoder or the task breaks a rule, the run directory holds another run, or the
        processes disagree.
      LostProcessError: another process failed or died.
    """
    join(options)
    plan = together(lambda: _plan(options))
    require_agreement({"whether the results are there": isinstance(plan, ActivationsResult)})
    if isinstance(plan, ActivationsResult):
        leave()
        with profiling(options.profile):  # says that there is nothing to trace
            pass
        if this_process().first:
            # A job that was killed between saving its results and its end has left its states.
            remove_states(_states(Run(options.run)))
        return plan
    with job(plan.run, plan.job.folder, plan.job.identity, options.patience) as pulse:
        with profiling(options.profile):
            counted, measured = _count(plan.job, pulse)
        if counted is None:  # not the first process: it reads what the first one writes
            follow_job(pulse)
            return ActivationsResult(read_activations(plan.run), plan.run.require("activations"), options.max_bad_clips)
        with under_way("Writing the counts"):
            activations = label_activations(counted, plan.job.task, _attrs(plan), plan.job.chooses)
        result = ActivationsResult(activations, plan.record | measured, options.max_bad_clips)
        result.record["status"] = "too many unreadable clips" if result.too_many_bad else "done"
        store = whole_store(plan.job)
        with under_way("Writing the counts"):
            save_or_rescue(plan.run, lambda place: _save(result, store, place), "what was counted")
        end_job(pulse)
    return result


def read_activations(run: Run) -> Activations:
    """Read the files of the stage `activations`.

    Args:
      run: run directory.

    Raises:
      InputError: the stage has not been run, or a file is missing, damaged or of another run.
    """
    record = run.require("activations")
    counts, top = read_netcdf(run.file("activations.nc")), read_netcdf(run.file("top_clips.nc"))
    for dataset in (counts, top):
        require_same_run(run, dataset.attrs, record)
    try:
        clips = pd.read_csv(run.file("clips.csv"), keep_default_na=False, dtype=str)
        clips = clips.astype({"clip": int, "samples": int})
        clips["fold"] = pd.to_numeric(clips["fold"]).astype("Int64")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{run.file('clips.csv')} cannot be read ({error}): run the stage activations again."
        ) from error
    labels = read_netcdf(run.file("clip_labels.nc"))
    require_same_run(run, labels.attrs, record)
    return Activations(counts, top, clips, labels)


def held_out_split(options: ActivationsOptions, task: Task) -> str | None:
    """The split on which neurons are judged that another split has chosen; None: there is none."""
    wanted = options.held_out and options.split == "train" and HELD_OUT in task.splits
    return HELD_OUT if wanted and "train" in task.splits else None


def clips_are_kept(options: ActivationsOptions, encoder: Encoder, task: Task) -> bool:
    """Whether what every neuron did on every clip is kept: as the options say, else where it is not too much."""
    if options.keep_clips is not None:
        return options.keep_clips
    layers, neurons = neuron_shape(encoder, task)
    return BYTES * len(task) * layers * neurons <= MOST_KEPT


def _held_out(options: ActivationsOptions) -> int:
    """The fold that is the test split, in a table with folds."""
    return TEST_FOLD if options.test_fold is None else options.test_fold


def _record(options: ActivationsOptions, encoder: Encoder, task: Task, keep_clips: bool) -> Record:
    """The record of the stage in `run.json`, before it has run."""
    return {
        "options": {
            "label": [labels.name for labels in task.label_sets],
            "split": options.split,
            "test_fold": None if None in task.folds else _held_out(options),
            "dtype": options.dtype,
            "tokens": options.tokens,
            "threshold": options.threshold,
            "keep_clips": keep_clips,
            "held_out": keep_clips and held_out_split(options, task) is not None,
        },
        "fingerprints": input_fingerprints(encoder, task),
        "task": task.name,
        "encoder": encoder.name,
        "unit_seconds": task.unit_seconds,
        "sample_rate": encoder.sample_rate,
        "splits": dict(Counter(task.splits)),
        "recordings": {"from": task.recordings_from, "sha256": json_fingerprint(task.sources)},
        "keep": task.keep,
        # Later stages take encoder, task and their options from here, unless they are given.
        "inputs": recorded_inputs({name: getattr(options, name) for name in DEFAULTS}),
    }


def _reuse(run: Run, record: Record, task: Task, max_bad_clips: float) -> ActivationsResult | None:
    """The counts in the run directory, if they are whole and few enough clips were unreadable.

    Counts do not depend on which clips come from one recording. Results that do are struck if the table now groups
    clips otherwise.

    Args:
      run: run directory.
      record: record of the count that is asked for.
      task: clips that are to be counted.
      max_bad_clips: fraction of unreadable clips that is allowed.
    """
    if not run.is_done("activations", record["options"], record["fingerprints"]):
        return None
    if record["options"]["keep_clips"] and not all(run.file(name).is_file() for name in STORE_FILES.values()):
        return None
    try:
        reused = ActivationsResult(read_activations(run), run.require("activations"), max_bad_clips, reused=True)
    except InputError:  # a file is missing or damaged
        return None
    if reused.too_many_bad:
        return None
    if this_process().first:
        _remember_inputs(run, reused.record.get("inputs", {}), record["inputs"])
        _renew(run, record, reused.activations.clip_labels, task)
    labels = _grouped(reused.activations.clip_labels, task)
    return dataclasses.replace(
        reused,
        activations=dataclasses.replace(reused.activations, clip_labels=labels),
        record=reused.record | {name: record[name] for name in RENEWED_PARTS},
    )


def _grouped(labels: xr.Dataset, task: Task) -> xr.Dataset:
    """The labels of clips with their recordings as the table names them now."""
    # An object array, because the new names may be longer than the width of the old text array.
    return labels.assign(source=("clip", np.array(task.sources, object), labels["source"].attrs))


def _renew(run: Run, record: Record, labels: xr.Dataset, task: Task) -> None:
    """Renew what the counts do not depend on, and strike results of clips that were grouped otherwise.

    Args:
      run: run directory.
      record: record of the count that is asked for.
      labels: labels of the clips that were counted.
      task: the same clips as the table has them now.
    """
    before = run.require("activations")
    now = record["recordings"]
    recordings = before.get("recordings") or now  # older versions did not record them
    regrouped = recordings["sha256"] != now["sha256"]
    regrouped |= labels["source"].values.tolist() != list(task.sources)
    if not regrouped and all(before.get(name) == record[name] for name in RENEWED_PARTS):
        return
    with run.locked():
        if regrouped:
            _forget_selection(run)
            for stage in ("share", "ablate"):
                run.reopen(stage)
            write_netcdf(_grouped(labels, task), run.file("clip_labels.nc"))
        run.amend("activations", {name: record[name] for name in RENEWED_PARTS})


def _remember_inputs(run: Run, before: Record, given: Record) -> None:
    """Record the inputs that are given now, for later stages: the data folder may have moved since."""
    renewed = {**before, **{name: value for name, value in given.items() if value is not None}}
    if renewed != before:
        with run.locked():
            run.amend("activations", {"inputs": renewed})


def _forget_selection(run: Run) -> None:
    """Remove the neurons that were chosen, and states of permutations on their way."""
    forget_neurons(run)
    remove_states(run.file("state") / "neurons")


def _plan(options: ActivationsOptions) -> "_Plan | ActivationsResult":
    """The count that is to be made, checked; or the counts that are in the run directory already."""
    count = CountOptions(options.tokens, options.threshold, options.batch_size)
    encoder, task = load_inputs(DEFAULTS | given_inputs(options))
    _require_threshold(options, encoder)
    keep_clips = clips_are_kept(options, encoder, task)
    run, record = Run(options.run), _record(options, encoder, task, keep_clips)
    chosen = counted_clips(task, record["options"])
    reused = _reuse(run, record, chosen, options.max_bad_clips)
    if reused is not None:
        return reused
    run.require_inputs("probe", "a probe", record["fingerprints"])
    layers, neurons = neuron_shape(encoder, chosen)
    identity = _identity(options, record, chosen)
    chooses = np.array(chosen.splits) == options.split if record["options"]["held_out"] else None
    counting = CountJob(encoder, chosen, count, _states(run), identity, keep_clips, chooses, options.save_minutes)
    # Three arrays of 8-byte numbers with a row per class and one for all clips, and a megabyte for everything else.
    room = 3 * 8 * (len(task.classes) + 1) * layers * neurons + 2**20
    while_counting = room_needed(counting, this_process())
    require_space(run.path, room, "a file of the run's counts")
    require_space(run.path, room + while_counting, "the state of the count")
    if keep_clips and this_process().first:
        size = BYTES * len(chosen) * layers * neurons
        note(
            f"{run.file('clip_*.npy')} will take {size / 1e6:,.1f} MB. Counting takes another "
            f"{while_counting / 1e6:,.1f} MB until it ends."
        )
    return _Plan(counting, run, record)


def _require_threshold(options: ActivationsOptions, encoder: Encoder) -> None:
    """Refuse to count units that would be active at every token."""
    require(
        options.threshold > 0 or not getattr(encoder, "vectors", False),
        f"--units {options.units or 'of vectors'}: the activation of such a unit is the norm of its output, which "
        f"is above --threshold {options.threshold:g} at every token. Give a threshold above 0, near the median norm. "
        f"The median is 5.4 for the heads of m2d_tiny.",
    )


def _states(run: Run) -> Path:
    return run.file("state") / "activations"


def _identity(options: ActivationsOptions, record: Record, task: Task) -> Record:
    """Facts on which the processes of a job must agree, and a state with the run that resumes from it.

    The names are words for messages.
    """
    return {
        **{f"--{name.replace('_', '-')}": value for name, value in record["options"].items()},
        "--batch-size": options.batch_size,
        "the encoder": record["fingerprints"]["encoder"],
        "the front end": record["fingerprints"]["front_end"],
        "the task's table": record["fingerprints"]["task"],
        "the number of clips": len(task),
        "the prepared data": data_fingerprint(task) or "files",
        **computed_by(),
    }


def _count(counting: CountJob, pulse: Pulse) -> tuple[Counted | None, Record]:
    """Count with a progress bar.

    Returns:
      The counts, None in all processes but the first; and time, rate and memory that counting took.
    """
    task, me = counting.task, pulse.processes
    begun, finished = time.perf_counter(), list[tuple[float, int]]()  # (time, clips so far) after every batch
    what = f"Counting {task.name}" + (f" in {me.count} processes" if me.count > 1 else "")
    with progress_bar(what=what, total=len(task), at_once=True, shown=me.first) as bar:

        def progress(clips: int) -> None:
            pulse.note(clips)
            finished.append((time.perf_counter(), pulse.clips()))
            bar.update_to(finished[-1][1])

        counted = count_job(counting, pulse, progress)
        if counted is not None:  # all other processes have finished, too
            finished.append((time.perf_counter(), len(task)))
            bar.update_to(len(task))
    # The rate leaves out the first batch, which compiles, where enough others are left.
    first, last = finished[1 if len(finished) > 4 else 0], finished[-1]
    return counted, {
        "seconds": round(time.perf_counter() - begun, 3),
        "clips_per_second": round((last[1] - first[1]) / max(last[0] - first[0], 1e-9), 3),
        "peak_memory_mb": round(peak_memory() / 1e6),
        "batch_size": counting.options.batch_size,
        "processes": me.count,
    }


def _attrs(plan: _Plan) -> Record:
    """Attributes of the netCDF files: what was counted, and how."""
    task, encoder = plan.job.task, plan.job.encoder
    of_task = {"task": task.name, "encoder": encoder.name, "unit_seconds": task.unit_seconds}
    return {**of_task, "neurons": encoder.neurons, **record_attributes(plan.record)}


def _save(result: ActivationsResult, store: Path | None, run: Run) -> None:
    """Write the files of the stage; it is struck from the record first, and recorded last.

    Args:
      result: result of the stage.
      store: counts of every clip, to be moved into the run directory; None if they are not kept.
      run: run directory.
    """
    _forget_selection(run)
    run.reopen("activations")
    for name in ("activations.nc", "top_clips.nc", "clips.csv", "clip_labels.nc", "run.json"):
        sweep(run.file(name))
    write_netcdf(result.activations.counts, run.file("activations.nc"))
    write_netcdf(result.activations.top_clips, run.file("top_clips.nc"))
    write_csv(result.activations.clips, run.file("clips.csv"))
    write_netcdf(result.activations.clip_labels, run.file("clip_labels.nc"))
    if store is not None:
        publish_clip_store(store, run.path)
    run.finish("activations", result.record)
