"""Command lines that made a run."""

import dataclasses
import shlex
from pathlib import Path

from jaxdissect.options.ablate import AblateOptions
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.options.base import Options, flag
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.options.probe import ProbeOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.report.overview import chosen_by_preset
from jaxdissect.report.run_contents import Contents
from jaxdissect.stages.inputs import TASK_OPTIONS, given_before
from jaxdissect.types import Json, Record

OPTIONS: dict[str, type[Options]] = {
    "activations": ActivationsOptions,
    "neurons": NeuronsOptions,
    "share": ShareOptions,
    "probe": ProbeOptions,
    "ablate": AblateOptions,
}
# Names in run.json that differ from the option's. The probe does not record its own `batch_size`, the number of clips
# that run through the encoder together: it changes no result.
RECORDED_AS = {
    "neurons": {"least_auroc": "least"},
    "probe": {"probe_batch_size": "batch_size", "batch_size": ""},
    "ablate": {"gain": "gains"},
    "share": {"with_": "with"},
}


def commands(contents: Contents) -> list[str]:
    """A command line for each stage that the run records, in the order of the stages; defaults are left out.

    Args:
      contents: files of the run.
    """
    return [shlex.join(_words(contents, stage)) for stage in OPTIONS if stage in contents.stages]


def _words(contents: Contents, stage: str) -> list[str]:
    """The words of the command line of a stage.

    Args:
      contents: files of the run.
      stage: name of the stage.
    """
    values = _recorded(contents.stages[stage], stage)
    words = ["jaxdissect", stage]
    for field in dataclasses.fields(OPTIONS[stage]):
        value = values.get(field.name)
        # A list in run.json was a tuple of options.
        if value is not None and field.default != (tuple(value) if isinstance(value, list) else value):
            words += _option(field.name, value)
    return [*words, "--run", contents.name]


def _recorded(record: Record, stage: str) -> Record:
    """Values of the options of a stage, by the names of the options; None for an option that was not given.

    Args:
      record: record of the stage in `run.json`.
      stage: name of the stage.
    """
    names = {field.name: field.name for field in dataclasses.fields(OPTIONS[stage])} | RECORDED_AS.get(stage, {})
    values = {name: record["options"].get(recorded) for name, recorded in names.items()}
    if stage == "activations":
        # Labels and test fold are recorded as they were counted; the inputs say whether they were given.
        if "inputs" in record:
            values |= dict.fromkeys(TASK_OPTIONS) | given_before(record["inputs"])
        values |= {name: record.get(name) for name in ("encoder", "task") if values.get(name) is None}
    if stage == "neurons":
        values["selector" if chosen_by_preset(values) else "preset"] = None  # a command line takes one of them
    if stage == "ablate" and not values["controls"]:
        values["match"] = None  # it has no effect without controls, and the command line refuses it
    return values


def _option(name: str, value: Json) -> list[str]:
    """The words of an option.

    Args:
      name: name of its field.
      value: value, which is not the default.
    """
    if isinstance(value, bool):
        return [flag(name) if value else f"--no-{flag(name)[2:]}"]
    if name == "label" and isinstance(value, list):
        value = ",".join(value)
    values = value if isinstance(value, list) else [value]
    if name == "with_":  # without the folders above the other run, which are private
        values = [Path(folder).name for folder in values]
    # Every digit of a number, so that the command computes the same; a whole number as it would be typed.
    return [flag(name), *(str(word).removesuffix(".0") for word in values)]
