"""`jaxdissect train`: from audio to an encoder directory; an interrupted training is resumed."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int16

from jaxdissect.audio.pcm import samples_as_float
from jaxdissect.encoder.directory import fingerprint, save_encoder
from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.errors import InputError, TrainingError, require
from jaxdissect.options.train import OBJECTIVES_OF, TrainOptions
from jaxdissect.runtime.files import json_fingerprint, locked, require_new, require_regular, write_json, writing
from jaxdissect.runtime.machine import device, versions
from jaxdissect.runtime.profiling import profiling
from jaxdissect.runtime.progress import progress_bar, under_way, warn
from jaxdissect.runtime.records import differences, named_parts
from jaxdissect.runtime.sharding import local_mesh
from jaxdissect.tasks.known import label_names, load_task
from jaxdissect.tasks.table import LabelSet, Task
from jaxdissect.training import state_folder
from jaxdissect.training.checkpoints import Checkpoints
from jaxdissect.training.crops import Clips, crops, decoded_clips, forget_clips
from jaxdissect.training.fit import Feed, Fitted, Row, fit
from jaxdissect.training.objective import Objective, Params
from jaxdissect.training.setup import (
    batch_parts,
    build_objective,
    crop_samples,
    encoder_to_train,
    held_out_fold,
    training_folder,
)
from jaxdissect.training.state_folder import CHECKPOINTS, LAST_GOOD, RECORD
from jaxdissect.training.step import Schedule, TrainState, init_state
from jaxdissect.types import Record

NORM_BATCH, NORM_BATCHES = 64, 64  # crops of a batch, and batches, that norm_stats are measured on
SMALLEST_STD = 1e-3  # of the log-mel over all training crops; below it there is nothing but rounding
# Options that may change on resuming; the content of `task` and `data` has a fingerprint.
MAY_CHANGE = ("out", "task", "data", "save_minutes", "max_bad_clips", "licence", "storage", "profile")
SHOWN_BY_THE_ENCODER = ("size", "input")  # its settings have a fingerprint


def run_train(options: TrainOptions) -> tuple[M2D, Record]:
    """Train, and write the encoder directory with `training.json`.

    Args:
      options: options of the training.

    Returns:
      the encoder, and the record that `training.json` holds.

    Raises:
      InputError: an option breaks a rule, `out` is there already, the clips are too few or too short, or the state in
        `OUT.training` belongs to another training.
      TrainingError: a loss was not finite, or the training collapsed; the last good state is kept.
    """
    parts, part_size = batch_parts(options)
    _require_place(options)
    require(jax.process_count() == 1, "jaxdissect train runs in one process, over all of its devices.")
    task, encoder, mesh = _task(options), encoder_to_train(options), local_mesh()
    # A step has the batch of every device, in parts of one size.
    feed = Feed(crop_samples(encoder, task), parts * mesh.size, part_size, options.seed)
    labels = task.label_sets[0] if task.label_sets else None
    objective = build_objective(options, encoder, labels)
    # Everything that can be refused without reading audio is refused by here.
    with under_way("Checking the objective"):
        _check_objective(objective, feed, len(task.classes))
    folder = training_folder(options)
    with locked(folder, f"--out {options.out}"):
        _require_place(options)  # another process may just have finished it
        state_folder.sweep(folder)
        described = _described(options, task, objective, feed)
        _require_same(folder, described)
        clips = _clips(task, encoder, folder, options.max_bad_clips)
        require(
            len(clips.pcm) >= feed.batch_size,
            f"Task {task.name!r}: {len(clips.pcm)} clips to train on are fewer than the {feed.batch_size} of a step "
            f"(--batch-size {options.batch_size} on {mesh.size} devices): lower --batch-size.",
        )
        if options.start_from is None:  # an encoder to start from brings its own norm_stats
            with under_way("Measuring the level of the spectrograms"):
                objective = build_objective(options, _with_norm_stats(encoder, clips, feed), labels)
        _remember_start(folder, objective.encoder)
        steps = -(-options.epochs * len(clips.pcm) // feed.batch_size)  # rounded up: epochs follow without a gap
        schedule = Schedule(steps, options.learning_rate, options.warm_up, options.weight_decay)
        with profiling(options.profile):
            fitted = _fit(options, objective, schedule, clips, feed, folder)
        encoder = _trained(options, objective, labels, fitted.state.params)
        record = described | _result(clips, schedule, feed, fitted)
        save_encoder(encoder, options.out, options.storage, {RECORD: json.dumps(record, indent=2) + "\n"})
        state_folder.remove(folder)
    return encoder, record


def _require_place(options: TrainOptions) -> None:
    """Refuse an `out` that could not be written at the end, and a state folder that is none."""
    out, folder = options.out.absolute(), training_folder(options)
    with writing(out):  # the name may be too long
        done, dangling = (out / RECORD).exists(), out.is_symlink() and not out.exists()
    require(out.resolve() != Path.cwd(), f"--out {options.out} is the folder you are in: give the name of a new one.")
    require(not dangling, f"--out {options.out} is a link to what is not there: choose another.")
    # The process was killed after the encoder was written, and before the state was removed.
    require(
        not (done and state_folder.has_state(folder)),
        f"{out} exists already: its training is done. {folder}, which was left over, can be removed.",
    )
    require_new(out)
    if folder.is_dir():
        state_folder.require_state_folder(folder)


def _task(options: TrainOptions) -> Task:
    """The training split, with one label set or, for self-supervision, none; clips without a label are left out.

    Raises:
      InputError: there is no such task, no clip to train on, or but one class.
    """
    task = load_task(
        options.task,
        options.data,
        label_names(options.label) if options.objective == "supervised" else None,
        options.unit_seconds,
        options.multi_label,
        "default" if options.test_fold is None else options.test_fold,
        lambda notes: progress_bar(notes, what=f"Synthesising {options.task}"),
    )
    require(
        "train" in task.splits,
        f"Task {task.name!r} has no clips to train on: its table's column 'split' or 'fold' says which they are.",
    )
    task = task.only("train")  # the held-out clips are for stages that judge the encoder
    if not task.label_sets:
        return task
    labels = task.label_sets[0]
    # Of several labels a clip, one without any is a negative of every class.
    labelled = [row for row, classes in enumerate(labels.members) if classes or labels.multi_label]
    require(
        len({number for row in labelled for number in labels.members[row]}) >= 2,
        f"Task {task.name!r}, label set {labels.name!r}: the training clips must be of two classes at least: choose "
        f"another --label.",
    )
    return dataclasses.replace(task, label_sets=(labels,)).rows(labelled)


def _check_objective(objective: Objective, feed: Feed, classes: int) -> None:
    """Trace the loss of a part, so that an option that does not suit the encoder is refused before audio is read.

    Args:
      objective: loss to train with.
      feed: sizes of a part.
      classes: number of classes of the label set; 0 without one.

    Raises:
      InputError: an option of the objective does not suit the encoder.
    """
    # Shapes alone: nothing is computed.
    params = jax.eval_shape(objective.init, jax.random.key(0))
    pcm = jax.ShapeDtypeStruct((feed.part_size, feed.samples), jnp.float32)
    members = jax.ShapeDtypeStruct((feed.part_size, classes), jnp.bool_)
    target = {} if objective.ema is None else params["encoder"]
    jax.eval_shape(objective.loss, params, target, pcm, members, jax.random.key(0))


def _described(options: TrainOptions, task: Task, objective: Objective, feed: Feed) -> Record:
    """What makes this training the one it is, as JSON values; defaults are replaced by their values.

    A state is resumed only by a training of the same description.
    """
    encoder = objective.encoder
    left_out = (*MAY_CHANGE, *OBJECTIVES_OF, *SHOWN_BY_THE_ENCODER)
    given = {name: value for name, value in dataclasses.asdict(options).items() if name not in left_out}
    of_objective = {name: getattr(objective, name, None) for name in OBJECTIVES_OF}
    given |= {name: value for name, value in of_objective.items() if value is not None}
    given |= {
        "start_from": encoder.source.get("start"),
        "part_size": feed.part_size,
        "test_fold": held_out_fold(options),
        "multi_label": any(labels.multi_label for labels in task.label_sets),
        "dtype": jnp.dtype(encoder.dtype).name,
    }
    return {
        # Through JSON, so that a tuple equals the list that is read back.
        "options": json.loads(json.dumps(given)),
        "encoder": encoder.settings(),
        "batch_size": feed.batch_size,
        "crop_samples": feed.samples,
        "task": task.name,
        "fingerprints": {
            "task": task.fingerprint(),
            "start": None if options.start_from is None else fingerprint(encoder),
            "encoder": json_fingerprint(encoder.settings()),
        },
    }


def _require_same(folder: Path, described: Record) -> None:
    """Compare with the training that has a state here; where there is none, record what this one is."""
    file = folder / RECORD
    require_regular(file)
    if not state_folder.has_state(folder):
        write_json(file, described)
        return
    try:
        begun = _named(json.loads(file.read_text()))
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error}): remove {folder} to start afresh.") from error
    differing = differences(begun, _named(described))
    require(
        not differing,
        f"{folder} holds a training that was begun with other options: {', '.join(differing.values())}. Repeat its "
        f"command to resume it, choose another --out, or remove {folder} to start afresh.",
    )


def _remember_start(folder: Path, encoder: M2D) -> None:
    """Record norm_stats and versions at the start; tell on resuming if they have become others since.

    Raises:
      InputError: norm_stats are others.
    """
    stats = [float(value) for value in encoder.variables["front_end"]["norm_stats"]]
    here = {"norm_stats": stats, "versions": versions(), "device": device()}
    described = json.loads((folder / RECORD).read_text())
    began = described.setdefault("began", here)
    if began.get("norm_stats") != stats:
        raise InputError(
            f"{folder} holds a training whose spectrograms were normalised by {began.get('norm_stats')}, computed here "
            f"as {stats}: go on with the versions it was begun with ({began.get('versions')}), or remove {folder}."
        )
    if (began.get("versions"), began.get("device")) != (here["versions"], here["device"]):
        warn("this training was begun with other versions or on another device: bits may differ.")
    write_json(folder / RECORD, described)


def _named(described: Record) -> Record:
    """What makes a training the one it is, by names for messages; the encoder's settings have a fingerprint."""
    return {name: value for name, value in described.items() if not isinstance(value, dict)} | named_parts(described)


def _clips(task: Task, encoder: M2D, folder: Path, max_bad_clips: float) -> Clips:
    """The decoded clips; those left out are named in warnings.

    Raises:
      InputError: too many clips cannot be read, or the disk has no room.
    """
    with progress_bar(what=f"Decoding {task.name}", total=len(task)) as bar:
        clips = decoded_clips(task, encoder.sample_rate, folder, bar.update_to)
    bad = clips.unreadable
    if len(bad) > max_bad_clips * len(task):
        forget_clips(folder)  # so that the next attempt reads the files again
        file, reason = next(iter(bad.items()))
        raise InputError(
            f"Task {task.name!r}: {len(bad)} of {len(task)} clips cannot be read, more than --max-bad-clips "
            f"{max_bad_clips}; the first is {file} ({reason}). Mend the files, give another --data, or allow more."
        )
    for file, reason in bad.items():
        warn(f"left out: {file} ({reason})")
    return clips


def _with_norm_stats(encoder: M2D, clips: Clips, feed: Feed) -> M2D:
    """The encoder with mean and standard deviation of the log-mel of crops as the training will see them.

    Raises:
      InputError: the standard deviation is zero, as of silence.
    """
    # The identity in the place of the normalisation that is to be found.
    front_end = {**encoder.variables["front_end"], "norm_stats": np.array([0.0, 1.0], np.float32)}
    variables = {**encoder.variables, "front_end": front_end}

    @jax.jit
    def moments(pcm: Int16[Array, "clip sample"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        values = encoder.front_end(variables, samples_as_float(pcm))
        mean = values.mean()
        return mean, jnp.square(values - mean).mean()

    batches = range(min(NORM_BATCHES, -(-len(clips.pcm) // NORM_BATCH)))
    # The crops of the first steps, or all clips once where they are fewer.
    of_batches = [moments(crops(clips, feed.seed, step, NORM_BATCH, feed.samples).pcm) for step in batches]
    means, variances = np.array(jax.device_get(of_batches), np.float64).T
    # Law of total variance, over batches of one size.
    std = np.sqrt(variances.mean() + means.var())
    require(
        bool(std > SMALLEST_STD),
        "Every spectrogram of the training clips is the same everywhere: are all clips silent?",
    )
    front_end["norm_stats"] = np.array([means.mean(), std], np.float32)
    return dataclasses.replace(encoder, variables=variables)


def _fit(
    options: TrainOptions, objective: Objective, schedule: Schedule, clips: Clips, feed: Feed, folder: Path
) -> Fitted:
    """Train to the end, under a progress bar.

    Raises:
      InputError: as `fit`.
      TrainingError: as `fit`; the message says where the encoder of the newest state is kept.
    """
    start = None if options.start_from is None else objective.encoder.variables["params"]
    state = init_state(objective, schedule, options.seed, start)
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    mesh, total = local_mesh(), schedule.steps * feed.batch_size
    with progress_bar(what=f"Training {options.objective}", total=total, at_once=True) as bar:

        def progress(step: int, point: Row) -> None:
            bar.set_postfix(loss=f"{point['loss']:.3f}", step=f"{step}/{schedule.steps}", refresh=False)
            if bar.n == 0:  # clips of before an interruption are no part of the rate
                bar.initial = bar.n = max(0, step - options.log_steps) * feed.batch_size
            bar.update_to(step * feed.batch_size)

        try:
            times = (options.log_steps, options.save_minutes)
            return fit(objective, schedule, clips, feed, state, checkpoints, mesh, *times, progress)
        except TrainingError as error:  # the message of `fit` says why, this one what is left
            kept = _last_good(options, objective, checkpoints, state, folder)
            raise TrainingError(f"Training stopped: {error} {kept}") from error
        finally:
            checkpoints.close()


def _last_good(
    options: TrainOptions, objective: Objective, checkpoints: Checkpoints, like: TrainState, folder: Path
) -> str:
    """Keep the encoder of the newest state, and say where."""
    kept = folder / LAST_GOOD
    shutil.rmtree(kept, ignore_errors=True)  # of an earlier failure
    try:
        saved = checkpoints.restore(like, local_mesh())
        if saved is None:
            return "No good state had been saved yet: begin again with other options."
        state = saved[0]
        save_encoder(_trained(options, objective, None, state.params), kept)
    except InputError as error:
        return f"The last good state could not be kept: {error}"
    return (
        f"The last good state, of step {int(state.step)}, is kept in {folder}, its encoder in {kept}: start from it by "
        f"--start-from {kept}, another --out and a lower --learning-rate."
    )


def _trained(options: TrainOptions, objective: Objective, labels: LabelSet | None, params: Params) -> M2D:
    """The encoder with what it has learned, on the host; a supervised one with its head."""
    params = jax.device_get(params)
    encoder = objective.encoder
    variables = {**encoder.variables, "params": params["encoder"]}
    source = {"file": f"none: trained by jaxdissect, --objective {options.objective}", **encoder.source}
    if labels is not None:
        # A head standardises its embedding; this one was trained without, so it is given moments that do nothing.
        features = len(params["head"]["kernel"])
        moments = {"mean": np.zeros(features, np.float32), "variance": np.ones(features, np.float32)}
        variables["head"] = {**moments, **params["head"]}
        test_fold = held_out_fold(options)
        source["head"] = {"label_set": labels.name, "classes": list(labels.classes), "test_fold": test_fold}
    return dataclasses.replace(encoder, variables=variables, dtype=jnp.float32, source=source)


def _result(clips: Clips, schedule: Schedule, feed: Feed, fitted: Fitted) -> Record:
    """What `training.json` has beside the description: data, speed, machine and curve."""
    return {
        "data": {"clips": len(clips.pcm), "unreadable": clips.unreadable, "pcm_sha256": clips.sha256},
        "steps": schedule.steps,
        "clip_norm": schedule.clip_norm,
        "hours": round(fitted.seconds / 3600, 4),
        # Over the whole training, also before an interruption.
        "clips_per_second": round(schedule.steps * feed.batch_size / fitted.seconds, 1),
        "device": device(),
        "versions": versions(),
        "curve": fitted.curve,
    }
