"""All commands, in the order of the method, and the overview that `jaxdissect --help` shows."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jaxdissect
from jaxdissect.options.ablate import AblateOptions
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.options.base import Options
from jaxdissect.options.bench import BenchOptions
from jaxdissect.options.convert import ConvertOptions
from jaxdissect.options.demo import DemoOptions
from jaxdissect.options.dissect import DissectOptions
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.options.prepare import PrepareOptions, VerifyOptions
from jaxdissect.options.probe import ProbeOptions
from jaxdissect.options.report import ReportOptions
from jaxdissect.options.reproduce import ReproduceOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.options.train import TrainOptions

if TYPE_CHECKING:  # commands import JAX, which help need not wait for
    from jaxdissect.commands.outcome import Outcome


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
      options: options of the command; their docstring says what it does and shows examples.
      module: name of the module in `jaxdissect.commands` that runs it.
      function: name of the function in that module.
    """

    options: type[Options]
    module: str
    function: str = "run"

    def run(self) -> "Callable[..., Iterator[Outcome]]":
        """The function that runs the command. JAX is imported only here, after the options were parsed."""
        return getattr(importlib.import_module(f"jaxdissect.commands.{self.module}"), self.function)

    @property
    def purpose(self) -> str:
        """What the command does, in one line."""
        return self._docstring.partition("\n")[0]

    @property
    def description(self) -> str:
        """What the command does, with examples."""
        text = self._docstring.partition("\nExamples:")[0].strip()
        return "\n".join([text, "", "Examples:", *(f"  {line}" for line in self.examples)])

    @property
    def examples(self) -> list[str]:
        """Command lines that show how the command is called."""
        # The lines under "Examples:", which are indented by two.
        section = re.search(r"^Examples:\n((?:  .*\n?)+)", self._docstring, re.MULTILINE)
        return [] if section is None else [line.strip() for line in section[1].splitlines()]

    @property
    def _docstring(self) -> str:
        return inspect.getdoc(self.options) or ""


GROUPS: Mapping[str, Mapping[str, Command]] = {
    "First steps": {"demo": Command(DemoOptions, "demo")},
    "Encoders": {"convert": Command(ConvertOptions, "convert"), "train": Command(TrainOptions, "train")},
    "Data": {
        "prepare": Command(PrepareOptions, "prepare"),
        "verify": Command(VerifyOptions, "prepare", "run_verify"),
    },
    "Class-specific neurons": {
        "dissect": Command(DissectOptions, "dissect"),
        "activations": Command(ActivationsOptions, "activations"),
        "neurons": Command(NeuronsOptions, "neurons"),
        "share": Command(ShareOptions, "share"),
    },
    "Effects of neurons": {"probe": Command(ProbeOptions, "probe"), "ablate": Command(AblateOptions, "ablate")},
    "Reports": {"report": Command(ReportOptions, "report"), "reproduce": Command(ReproduceOptions, "reproduce")},
    "Speed": {"bench": Command(BenchOptions, "bench")},
}
COMMANDS: Mapping[str, Command] = {name: command for group in GROUPS.values() for name, command in group.items()}
FIRST_EXAMPLES = (
    COMMANDS["demo"].examples[1],
    COMMANDS["dissect"].examples[0],
    "jaxdissect report --run runs/esc50",
)


def overview() -> str:
    """All commands, one line each, and three commands to begin with."""
    lines = ["usage: jaxdissect COMMAND [OPTIONS]", "", str(jaxdissect.__doc__), ""]
    width = max(map(len, COMMANDS))
    for title, group in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<{width}}  {command.purpose}" for name, command in group.items())]
    lines += ["", "For example:", *(f"  {example}" for example in FIRST_EXAMPLES)]
    lines += ["", "`jaxdissect COMMAND --help` shows options and examples, `jaxdissect --version` the version."]
    return "\n".join(lines)
