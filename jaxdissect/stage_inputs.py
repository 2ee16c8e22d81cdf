"""Encoder, task and their options, as given to a stage or as an earlier stage of the run recorded them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdissect.encoder.base import Encoder
from jaxdissect.encoder.checkpoint import load_encoder
from jaxdissect.errors import InputError
from jaxdissect.progress import progress_bar, under_way
from jaxdissect.run import Run, absolute
from jaxdissect.tasks.known import load_task, task_in_full
from jaxdissect.tasks.table import Task

DEFAULTS: Mapping[str, Any] = {
    "encoder": None, "task": None, "data": None, "label": None, "test_fold": 5, "unit_seconds": None,
    "multi_label": False, "dtype": "float32",
}  # fmt: skip
OF_TASK = ("data", "label", "test_fold", "unit_seconds", "multi_label")
TEXT, NUMBER = (str, type(None)), (int, float, type(None))
TYPES = {
    "encoder": TEXT, "task": TEXT, "data": TEXT, "label": TEXT, "test_fold": NUMBER, "unit_seconds": NUMBER,
    "multi_label": (bool,), "dtype": (str,),
}  # fmt: skip


def stage_inputs(options: Any, run: Run, stage: str) -> dict[str, Any]:
    """Encoder, task and their options: as given, else as the run was counted (or `stage` ran), else the defaults.

    Where another task is given than the recorded one, its options are not the recorded ones either.

    Args:
      options: with attributes for names of `DEFAULTS`; none, None or False: not given.
      run: the run directory.
      stage: the one that asks.

    Raises:
      InputError: encoder or task is neither given nor recorded, or the record is damaged.
    """
    stages = run.stages()
    recorded = stages.get("activations", stages.get(stage, {})).get("inputs", {})
    if not isinstance(recorded, dict):
        raise InputError(f"{run.file('run.json')} cannot be read: a stage's inputs are no object.")
    recorded = {name: value for name, value in recorded.items() if name in DEFAULTS and value is not None}
    for name, value in recorded.items():
        if not isinstance(value, TYPES[name]):
            raise InputError(f"{run.file('run.json')} cannot be read: a stage's {name} is {value!r}.")
    given: dict[str, Any] = {name: getattr(options, name, None) for name in DEFAULTS}
    given = {name: value for name, value in given.items() if value is not None and value is not False}
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
    labels = [name.strip() for name in (inputs["label"] or "").split(",") if name.strip()]
    return load_task(
        inputs["task"], inputs["data"], labels, inputs["unit_seconds"], inputs["multi_label"], inputs["test_fold"],
        lambda notes: progress_bar(notes, what=f"Synthesising {inputs['task']}"),
    )  # fmt: skip


def recorded_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """As later stages are to find them: paths in full, for the working folder may be another then."""
    return {
        **inputs,
        "encoder": absolute(inputs["encoder"]),
        "task": task_in_full(inputs["task"]),
        "data": absolute(inputs["data"]),
    }
