"""From arguments to a command, with help that shows units and examples, and mistakes in one paragraph."""

import contextlib
import dataclasses
import difflib
import inspect
import io
import os
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_type_hints

import tyro

from jaxdissect.commands.outcome import OutputOptions
from jaxdissect.commands.unheard import require_heard
from jaxdissect.errors import InputError
from jaxdissect.runtime.processes import DistributedOptions

UNITS = {
    "unit_seconds": "s", "seconds": "s", "save_minutes": "min", "sample_rate": "Hz", "max_mb": "MB",
}  # fmt: skip
ONE_WAY = [field.name for field in dataclasses.fields(OutputOptions)]  # options without a --no-
GIVEN_ONCE = (  # lists: of an option given twice the last counts, which would lose some
    "--with", "--neurons", "--suite", "--gain", "--batch-sizes", "--dtypes",
)  # fmt: skip
KINDS = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "a text"}


def parse(command: type, name: str, arguments: Sequence[str]) -> Any:
    """The command with its options.

    Args:
      command: a dataclass; its docstring has a paragraph and examples.
      name: of the command.
      arguments: that follow the name.

    Raises:
      InputError: there is no such option, one is missing or would have no effect, or a value breaks a rule.
      SystemExit: help was asked for, and printed.
    """
    known, more = _flags(command), f"`jaxdissect {name} --help` shows its options."
    asks = any(word in ("-h", "--help") for word in arguments)
    given = [word.partition("=")[0].replace("_", "-") for word in arguments if re.match(r"--\w", word)]
    if not asks:
        for flag in given:
            if flag not in known:
                raise InputError(f"{name} has no option {flag}{nearest(flag, [*known])} {more}")
        for flag in GIVEN_ONCE:
            if given.count(flag) > 1:
                raise InputError(f"{flag} was given twice: give it once, its values one after another.")
            if flag in arguments and [*arguments, "--"][arguments.index(flag) + 1].startswith("--"):
                raise InputError(f"{flag} stands without a value: give one or several behind it, or leave it out.")
        missing = [flag for flag, field in known.items() if _required(field) and flag not in given]
        if missing:
            raise InputError(f"{name} needs {' and '.join(missing)}, as in `{examples(command)[0]}`. {more}")
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            parsed: Any = tyro.cli(
                with_units(command),
                prog=f"jaxdissect {name}",
                args=list(arguments),
                description=described(command),
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName),
            )
    except SystemExit as stop:
        if stop.code:
            mistake = _mistake(told.getvalue(), arguments, examples(command)[0])
            raise InputError(f"{name}: {mistake} {more}") from None
        raise
    require_heard(name, parsed, {known[flag].name for flag in given})
    return parsed


def nearest(word: str, words: Sequence[str]) -> str:
    """The end of a sentence: the word that was probably meant, if one is near."""
    found = difflib.get_close_matches(word, words, n=1)
    return f": did you mean {found[0]}?" if found else "."


def examples(command: type) -> list[str]:
    """Command lines that a command's docstring shows."""
    section = re.search(r"^Examples:\n((?:  .*\n?)+)", inspect.getdoc(command) or "", re.MULTILINE)
    return [] if section is None else [line.strip() for line in section[1].splitlines()]


def first_sentence(command: type) -> str:
    """What a command does, in one line."""
    return (inspect.getdoc(command) or "").partition("\n")[0]


def described(command: type) -> str:
    """What a command does, and how it is called."""
    text = (inspect.getdoc(command) or "").partition("\nExamples:")[0].strip()
    return "\n".join([text, "", "Examples:", *(f"  {line}" for line in examples(command))])


def with_units(command: type) -> type:
    """The same options for help: what must be given first, defaults with units, and no default where there is none."""
    hints = get_type_hints(command, include_extras=True)
    units = UNITS | ({"patience": "s"} if issubclass(command, DistributedOptions) else {})
    shown = {}
    fields = sorted(dataclasses.fields(command), key=lambda field: (not _required(field), field.name in ONE_WAY))
    for field in fields:
        hint = _default_shown(field, units.get(field.name))
        if hint is not None:
            shown[field.name] = Annotated[hints[field.name], tyro.conf.arg(help_behavior_hint=hint)]
    space: dict[str, Any] = {"__annotations__": shown, "__doc__": command.__doc__, "__module__": command.__module__}
    space["__dataclass_fields__"] = {field.name: field for field in fields}
    return type(command.__name__, (command,), space)


def _default_shown(field: dataclasses.Field, unit: str | None) -> str | Callable[[str], str] | None:
    """What help says of a default; None for as tyro says it."""
    if field.default is None or field.default == () or field.default is False:
        return ""
    if field.default is True:
        return f"(default: --{field.name.replace('_', '-')})"
    if unit is not None:
        return lambda value: f"(default: {float(value):g} {unit})"
    return None


def _flags(command: type) -> dict[str, dataclasses.Field]:
    """A command's options as they are given; its positional arguments have none."""
    found: dict[str, dataclasses.Field] = {}
    hints = get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        if tyro.conf.Positional in getattr(hints[field.name], "__metadata__", ()):
            continue
        flag = field.name.strip("_").replace("_", "-")
        found[f"--{flag}"] = field
        if (isinstance(field.default, bool) or hints[field.name] == bool | None) and field.name not in ONE_WAY:
            found[f"--no-{flag}"] = field
    return found


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _mistake(told: str, arguments: Sequence[str], example: str) -> str:
    """What the parser has told in a box, as a sentence."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", told).splitlines()
    rows = [re.sub(r"^[╭+][─-]*|[─-]*[╮+]$", "", line.strip("│| ")).strip() for line in lines]
    text = " ".join(row for row in rows if re.search(r"\w", row))
    if found := re.search(r"invalid choice '(.*?)' for argument '(--[\w-]+)'. Expected one of \((.*?)\)", text):
        choices = re.findall(r"'(.*?)'", found[3])
        return f"{found[2]} must be {' or '.join(choices)}, got {found[1]}{nearest(found[1], choices)}"
    if found := re.search(r"Error parsing \w+Command: (.*?)(?: For full helptext.*)?$", text):  # the options' own check
        return found[1]
    if found := re.search(r"Error parsing (--[\w-]+):", text):
        kinds = re.search(r"Argument helptext: --[\w-]+ ([\[{]*)((?:(?:INT|FLOAT|PATH|STR) ?)+)", text)
        return f"{found[1]} must be {_kinds(kinds)}, got {_value(found[1], arguments)}."
    if found := re.search(r"Missing from .*?: (.*)\(required\)", text):
        names = re.findall(r"(?<![-\w])[A-Z]{3,}(?![-\w])", found[1])
        return f"{' and '.join(names)} must be given, as in `{example}`."
    if found := re.search(r"Missing value for argument '(--[\w-]+)'. Expected (\d+)", text):
        return f"{found[1]} needs {found[2]} value{'s' * (found[2] != '1')}."
    if found := re.search(r"Unrecognized options: (.*?) (?:Perhaps you|For full)", text):
        return f"{found[1]} belongs to no option: a value with spaces needs quotes, a list stands behind its option."
    return text.partition("For full helptext")[0].strip()


def _kinds(found: re.Match | None) -> str:
    """What an option takes, from how help names it."""
    if found is None:
        return "another value"
    words = found[2].split()
    many = "[" in found[1]
    if many or len(words) > 1:
        return f"{'' if many else len(words)} {KINDS[words[0]].removeprefix('a ')}s".strip()
    return KINDS[words[0]]


def _value(flag: str, arguments: Sequence[str]) -> str:
    for number, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            rest = arguments[number + 1 :]
            end = next((at for at, one in enumerate(rest) if one.startswith("--")), len(rest))
            return value if equals else " ".join(rest[:end])
    return "nothing"


def heed_no_color() -> None:
    """No colours where NO_COLOR is set, wherever help is printed; elsewhere tyro colours what a terminal shows."""
    if os.environ.get("NO_COLOR"):
        tyro._experimental_options["ansi_codes"] = False
