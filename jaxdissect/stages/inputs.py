"""Encoder, task and their options, as given to a stage or as an earlier stage of the run recorded them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdissect.encoder.directory import load_encoder
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.runtime.run_directory import Run, absolute
from jaxdissect.tasks.known import label_names, load_task, task_in_full
from jaxdissect.tasks.table import TEST_FOLD, Task

DEFAULTS: Mapping[str, Any] = {
    "encoder": None, "task": None, "data": None, "label": None, "test_fold": "default", "unit_seconds": None,
    "multi_label": None, "dtype": "float32",
}  # fmt: skip
OF_TASK = ("data", "label", "test_fold", "unit_seconds", "multi_label")
TEXT, NUMBER = (str, type(None)), (int, float, type(None))
TYPES = {
    "encoder": TEXT, "task": TEXT, "data": TEXT, "label": TEXT, "test_fold": NUMBER, "unit_seconds": NUMBER,
    "multi_label": (bool,), "commas": (str,), "dtype": (str,),
}  # fmt: skip
COMMAS = {True: "separate labels", False: "belong to labels"}  # by `multi_label` where it was given


def stage_inputs(options: Any, run: Run, stage: str) -> dict[str, Any]:
    """Encoder, task and their options: as given, else as the run was counted (or `stage` ran), else the defaults.

    Where another task is given than the recorded one, its options are not the recorded ones either.

    Args:
      options: with attributes for names of `DEFAULTS`; none or None: not given.
      run: the run directory.
      stage: the one that asks.

    Raises:
      InputError: encoder or task is neither given nor recorded, or the record is damaged.
    """
    stages = run.stages()
    recorded = stages.get("activations", stages.get(stage, {})).get("inputs", {})
    if not isinstance(recorded, dict):
        raise InputError(f"{run.file('run.json')} cannot be read: a stage's inputs are no object.")
    for name, kinds in TYPES.items():
        value = recorded.get(name)
        if value is not None and not isinstance(value, kinds):
            raise InputError(f"{run.file('run.json')} cannot be read: a stage's {name} is {value!r}.")
    recorded = given_before(recorded)
    given: dict[str, Any] = {name: getattr(options, name, None) for name in DEFAULTS}
    given = {name: value for name, value in given.items() if value is not None}
    if "task" in given and Path(given["task"]).name != Path(recorded.get("task") or "").name:  # its folder may move
        recorded = {name: value for name, value in recorded.items() if name not in OF_TASK}
    inputs = {**DEFAULTS, **recorded, **given}
    missing = [name for name in ("encoder", "task") if inputs[name] is None]
    if missing:
        raise InputError(
            f"--{missing[0]} is needed: nothing was counted in {run.path} that would tell which {missing[0]} it is of."
        )
    return inputs


def load_inputs(inputs: Mapping[str, Any]) -> tuple[Encoder, Task]:
    """The encoder and the whole task."""
    task = load_recorded_task(inputs)
    with under_way(f"Loading {inputs['encoder']}"):
        return load_encoder(inputs["encoder"], inputs["dtype"]), task


def load_recorded_task(inputs: Mapping[str, Any]) -> Task:
    """The whole task."""
    return load_task(
        inputs["task"],
        inputs["data"],
        label_names(inputs["label"]),
        inputs["unit_seconds"],
        inputs["multi_label"],
        inputs["test_fold"],
        lambda notes: progress_bar(notes, what=f"Synthesising {inputs['task']}"),
    )


def recorded_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """As later stages are to find them: paths in full, for the working folder may be another then.

    Args:
      inputs: a value, or None or "default" where nothing was given, for each name of `DEFAULTS`.
    """
    return {
        **{name: value for name, value in inputs.items() if name != "multi_label"},
        "encoder": absolute(inputs["encoder"]),
        "task": task_in_full(inputs["task"]),
        "data": absolute(inputs["data"]),
        "test_fold": None if inputs["test_fold"] == "default" else inputs["test_fold"],
        "commas": COMMAS.get(inputs["multi_label"]),
    }


def given_before(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that a record tells of, by the names of `DEFAULTS`, as far as they were given.

    Before `commas` was recorded, `multi_label` was false and `test_fold` 5 whether they had been given or not.
    """
    known = {name: recorded[name] for name in DEFAULTS if recorded.get(name) is not None}
    if known.get("test_fold") == TEST_FOLD:
        del known["test_fold"]
    if not known.get("multi_label"):
        known.pop("multi_label", None)
    if recorded.get("commas") in COMMAS.values():
        known["multi_label"] = recorded["commas"] == COMMAS[True]
    return known
