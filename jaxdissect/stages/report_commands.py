"""The commands that made a run, as a shell takes them."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdissect.options.ablate import AblateOptions
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.options.probe import ProbeOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.report.run_contents import Contents
from jaxdissect.significance.assess import CertaintyOptions
from jaxdissect.stages.inputs import TASK_OPTIONS, given_before

OPTIONS = {
    "activations": ActivationsOptions, "neurons": NeuronsOptions, "share": ShareOptions, "probe": ProbeOptions,
    "ablate": AblateOptions,
}  # fmt: skip
RECORDED_AS = {  # other names than the options have
    "probe": {"probe_batch_size": "batch_size"},
    "ablate": {"gain": "gains"},
    "share": {"with_": "with"},
}
DRAWS = ("permutations", "resamples", "splits", "seed")  # of the stage `neurons`, kept with the scores


def commands(contents: Contents) -> list[str]:
    """A command line for every stage that the run records, in their order; what is the default is left out."""
    return [shlex.join(_command(contents, stage)) for stage in OPTIONS if stage in contents.stages]


def _command(contents: Contents, stage: str) -> list[str]:
    record, options = contents.stages[stage], OPTIONS[stage]
    renamed = RECORDED_AS.get(stage, {})
    found = {field.name: record["options"].get(renamed.get(field.name, field.name)) for field in _fields(options)}
    if "batch_size" in found and "batch_size" in renamed.values():
        found["batch_size"] = None
    if stage == "activations":
        inputs = record.get("inputs")
        if isinstance(inputs, dict):
            found |= dict.fromkeys(TASK_OPTIONS) | given_before(inputs)
        found |= {name: record.get(name) for name in ("encoder", "task") if found.get(name) is None}
    if stage == "neurons" and "scores" in contents.data:
        attrs, default = contents.data["scores"].attrs, vars(CertaintyOptions())
        found |= {name: attrs[name] for name in DRAWS if attrs.get(name, default[name]) != default[name]}
    if stage == "ablate" and not found["controls"]:
        found["match"] = None  # what there is none of is not matched
    words = ["jaxdissect", stage]
    for field in _fields(options):
        words += _words(field, found.get(field.name))
    return [*words, "--run", contents.name]


def _fields(options: Any) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(options) if field.name != "run"]


def _words(field: dataclasses.Field, value: Any) -> list[str]:
    """An option as given, or nothing where it is the default."""
    flag = "--" + field.name.strip("_").replace("_", "-")
    if isinstance(value, list) and field.name == "label":
        value = ",".join(map(str, value))
    if value is None or value == field.default or (isinstance(value, list) and tuple(value) == field.default):
        return []
    if isinstance(value, bool):
        return [flag] if value else [f"--no-{flag[2:]}"]
    if isinstance(value, Mapping):
        return []
    values = [Path(one).name for one in value] if field.name == "with_" else value
    return [flag, *(map(_word, values) if isinstance(values, list) else [_word(values)])]


def _word(value: Any) -> str:
    return str(value).removesuffix(".0")  # every digit of a number, so that the command does the same again
