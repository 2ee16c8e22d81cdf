"""All commands, in the order of the method, and what a person sees who asks for them."""

from collections.abc import Mapping

import jaxdissect
from jaxdissect.commands.parsing import examples, first_sentence
from jaxdissect.commands.stages import (
    AblateCommand,
    ActivationsCommand,
    DemoCommand,
    DissectCommand,
    NeuronsCommand,
    ProbeCommand,
    ReportCommand,
    ReproduceCommand,
    ShareCommand,
)
from jaxdissect.commands.tools import BenchCommand, ConvertCommand, PrepareCommand, TrainCommand, VerifyCommand

GROUPS: Mapping[str, Mapping[str, type]] = {
    "To begin with": {"demo": DemoCommand},
    "Encoders": {"convert": ConvertCommand, "train": TrainCommand},
    "Data": {"prepare": PrepareCommand, "verify": VerifyCommand},
    "Class-specific neurons": {
        "dissect": DissectCommand, "activations": ActivationsCommand, "neurons": NeuronsCommand, "share": ShareCommand,
    },
    "What they do": {"probe": ProbeCommand, "ablate": AblateCommand},
    "To look at and to compare": {"report": ReportCommand, "reproduce": ReproduceCommand},
    "Speed": {"bench": BenchCommand},
}  # fmt: skip
COMMANDS: Mapping[str, type] = {name: command for group in GROUPS.values() for name, command in group.items()}
FIRST = (examples(DemoCommand)[1], examples(DissectCommand)[0], "jaxdissect report --run runs/esc50")


def overview() -> str:
    """What there is, a line each, and how one begins."""
    lines = ["usage: jaxdissect COMMAND [OPTIONS]", "", str(jaxdissect.__doc__), ""]
    width = max(map(len, COMMANDS))
    for title, group in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<{width}}  {first_sentence(one)}" for name, one in group.items())]
    lines += ["", "For example:", *(f"  {example}" for example in FIRST)]
    lines += ["", "`jaxdissect COMMAND --help` shows options and examples, `jaxdissect --version` the version."]
    return "\n".join(lines)
