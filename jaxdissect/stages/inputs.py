"""Encoder and task of a stage: as given, or as an earlier stage of the run recorded them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from jaxdissect.encoder.directory import fingerprint, load_encoder
from jaxdissect.encoder.foreign import ForeignEncoder
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.encoder.sources import source_fingerprint
from jaxdissect.errors import require
from jaxdissect.runtime.files import json_fingerprint
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.runtime.run_directory import Run, absolute
from jaxdissect.tasks.known import label_names, load_task, task_in_full
from jaxdissect.tasks.table import TEST_FOLD, Task
from jaxdissect.types import Record

# The options that say what a stage works on, with their values where they are neither given nor recorded.
DEFAULTS: Record = {
    "encoder": None,
    "units": None,
    "task": None,
    "data": None,
    "label": None,
    "test_fold": "default",
    "unit_seconds": None,
    "multi_label": None,
    "dtype": "float32",
}
TASK_OPTIONS = ("data", "label", "test_fold", "unit_seconds", "multi_label")
# Types of the recorded values, which a user may have edited.
RECORDED_TYPES: Mapping[str, tuple[type, ...]] = {
    "encoder": (str,),
    "units": (str,),
    "task": (str,),
    "data": (str,),
    "label": (str,),
    "test_fold": (int, float),
    "unit_seconds": (int, float),
    "multi_label": (bool,),
    "commas": (str,),
    "dtype": (str,),
}
HELD_OUT = "test"  # the split on which neurons are judged that the split `train` has chosen
COMMAS = {True: "separate labels", False: "belong to labels"}  # by the value of multi_label, where it was given


class ClipReading(ABC):
    """Result of a stage that reads clips, some of which may be unreadable.

    Attributes:
      max_bad_clips: fraction of unreadable clips that is allowed.
    """

    max_bad_clips: float

    @abstractmethod
    def clips_read(self) -> tuple[int, int]:
        """Number of unreadable clips, and of all clips."""

    @property
    def too_many_bad(self) -> bool:
        """Whether more clips than allowed could not be read."""
        bad, clips = self.clips_read()
        return bad > self.max_bad_clips * clips


def given_inputs(options: object) -> Record:
    """Those of the options in `DEFAULTS` that were given: an attribute that is missing or None was not."""
    given = {name: getattr(options, name, None) for name in DEFAULTS}
    return {name: value for name, value in given.items() if value is not None}


def stage_inputs(options: object, run: Run, stage: str) -> Record:
    """Encoder, task and their options: as given, else as the run was counted (or `stage` ran), else the defaults.

    Where another task is given than the recorded one, its recorded options do not hold either.

    Args:
      options: options of the stage, with attributes for names in `DEFAULTS`.
      run: run directory.
      stage: name of the stage, whose own record counts where nothing was counted.

    Raises:
      InputError: encoder or task is neither given nor recorded, or the record is damaged.
    """
    stages = run.stages()
    recorded = stages.get("activations", stages.get(stage, {})).get("inputs", {})
    path = run.file("run.json")
    require(isinstance(recorded, dict), f"{path} cannot be read: a stage's inputs are no object.")
    for name, kinds in RECORDED_TYPES.items():
        value = recorded.get(name)
        require(value is None or isinstance(value, kinds), f"{path} cannot be read: a stage's {name} is {value!r}.")
    recorded, given = given_before(recorded), given_inputs(options)
    # The same table in another folder is the same task: data sets move.
    if "task" in given and Path(given["task"]).name != Path(recorded.get("task") or "").name:
        recorded = {name: value for name, value in recorded.items() if name not in TASK_OPTIONS}
    inputs = {**DEFAULTS, **recorded, **given}
    for name in ("encoder", "task"):
        require(
            inputs[name] is not None,
            f"--{name} is needed: nothing was counted in {run.path}, so its {name} is not known.",
        )
    return inputs


def load_inputs(inputs: Record) -> tuple[Encoder, Task]:
    """Load the encoder and the whole task.

    Args:
      inputs: a value for each name in `DEFAULTS`.

    Raises:
      InputError: the encoder or the task breaks a rule.
    """
    task = load_recorded_task(inputs)
    with under_way(f"Loading {inputs['encoder']}"):
        return load_encoder(inputs["encoder"], inputs["dtype"], inputs["units"]), task


def load_recorded_task(inputs: Record) -> Task:
    """Load the whole task.

    Args:
      inputs: a value for each name in `DEFAULTS`.

    Raises:
      InputError: the task breaks a rule.
    """
    return load_task(
        inputs["task"],
        inputs["data"],
        label_names(inputs["label"]),
        inputs["unit_seconds"],
        inputs["multi_label"],
        inputs["test_fold"],
        lambda notes: progress_bar(notes, what=f"Synthesising {inputs['task']}"),
    )


def counted_clips(task: Task, recorded: Mapping[str, object]) -> Task:
    """The clips of a run: those of its split, and beside them the test split where neurons are judged on it.

    Args:
      task: whole task.
      recorded: recorded options of the stage.

    Raises:
      InputError: the task has no clip in the split.
    """
    split = str(recorded.get("split", "all"))
    if not recorded.get("held_out"):  # also of older versions, which did not record it
        return task.only(split)
    return task.rows([row for row, name in enumerate(task.splits) if name in (split, HELD_OUT)])


def encoder_fingerprint(encoder: Encoder) -> str:
    """SHA-256 of an encoder; if a user's factory made it, also of the user's code.

    Args:
      encoder: encoder that was loaded.
    """
    if not isinstance(encoder, ForeignEncoder):
        return fingerprint(encoder)
    modules = encoder.user_code.factory.partition(":")[0], type(encoder.user_encoder).__module__
    return json_fingerprint([fingerprint(encoder), source_fingerprint(modules)])


def input_fingerprints(encoder: Encoder, task: Task) -> dict[str, str]:
    """SHA-256 of the encoder, the task's table and the front end, on which every result depends."""
    return {
        "encoder": encoder_fingerprint(encoder),
        "task": task.fingerprint(),
        "front_end": json_fingerprint(encoder.settings().get("front_end")),
    }


def recorded_inputs(inputs: Record) -> Record:
    """Inputs as `run.json` holds them for later stages: paths in full, since the working folder may change.

    Args:
      inputs: a value, or None or "default" where nothing was given, for each name in `DEFAULTS`.
    """
    return {
        **{name: value for name, value in inputs.items() if name != "multi_label"},
        "encoder": absolute(inputs["encoder"]),
        "task": task_in_full(inputs["task"]),
        "data": absolute(inputs["data"]),
        "test_fold": None if inputs["test_fold"] == "default" else inputs["test_fold"],
        "commas": COMMAS.get(inputs["multi_label"]),
    }


def given_before(recorded: Record) -> Record:
    """The inputs in a record, by the names in `DEFAULTS`, as far as they were given.

    Args:
      recorded: inputs as `recorded_inputs` makes them, or as older versions did.
    """
    # Older versions did not record `commas`. Their multi_label was false and their test_fold 5 where none was given.
    inputs = {name: recorded[name] for name in DEFAULTS if recorded.get(name) is not None}
    if inputs.get("test_fold") == TEST_FOLD:
        del inputs["test_fold"]
    if not inputs.get("multi_label"):
        inputs.pop("multi_label", None)
    if recorded.get("commas") in COMMAS.values():
        inputs["multi_label"] = recorded["commas"] == COMMAS[True]
    return inputs
