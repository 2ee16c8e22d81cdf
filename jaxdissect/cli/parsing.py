"""From arguments to a command's options by tyro, with help that shows units and examples."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Sequence
from typing import Annotated, Any, get_type_hints

import tyro

from jaxdissect.cli.catalogue import COMMANDS, Command
from jaxdissect.cli.no_effect import require_effect
from jaxdissect.errors import InputError, require
from jaxdissect.options.base import Options, OutputOptions, flag

UNITS = {"unit_seconds": "s", "seconds": "s", "save_minutes": "min", "sample_rate": "Hz", "max_mb": "MB"}
# Lists of values. Where tyro meets an option twice, it keeps the last, which would lose values of a list in silence.
GIVEN_ONCE = ("--with", "--neurons", "--suite", "--gain", "--batch-sizes", "--dtypes")


def parse(arguments: Sequence[str]) -> tuple[Options, OutputOptions]:
    """A command's options, and how it is to answer.

    Args:
      arguments: name of the command and what follows it.

    Raises:
      InputError: there is no such command or option, an option is missing or would have no effect, or a value breaks a
        rule.
      SystemExit: help was asked for, and printed.
    """
    name, *given = arguments
    require(
        not name.startswith("-"),
        f"the command comes first, its options follow, as in `jaxdissect neurons --quiet`; got {name}.",
    )
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f": did you mean {near[0]}?" if near else "."
        raise InputError(f"there is no command {name}{hint} `jaxdissect --help` shows all commands.")
    command = COMMANDS[name]
    _require_lists_once(given)
    values = vars(_parsed_by_tyro(command, name, given))  # not checked yet: the next lines make the checked options
    try:
        options = command.options(**{field.name: values[field.name] for field in dataclasses.fields(command.options)})
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    # An option that was given with its default value was given, too.
    names = {word.partition("=")[0].strip("-").replace("-", "_") for word in given if word.startswith("--")}
    require_effect(name, options, names | {one.removeprefix("no_") for one in names})
    return options, OutputOptions(quiet=values["quiet"], json=values["json"])


def _parsed_by_tyro(command: Command, name: str, given: Sequence[str]) -> Any:
    """The values of all options, not checked yet.

    Raises:
      InputError: tyro's message, on one line.
      SystemExit: help was asked for, and printed.
    """
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            return tyro.cli(
                _form(command.options),
                prog=f"jaxdissect {name}",
                args=list(given),
                description=command.description,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName),
            )
        except SystemExit as stop:
            if not stop.code:
                raise
    raise InputError(f"{name}: {_without_frame(printed.getvalue())} `jaxdissect {name} --help` shows its options.")


def _form(options: type[Options]) -> type:
    """The options as tyro is to show them, together with `OutputOptions`.

    Required options come first, defaults have units, and `None` is not shown as a default. Values are not checked, so
    that a broken rule does not reach tyro, which would put its message into a box.
    """
    kinds = (options, OutputOptions)
    types = {name: kind for options in kinds for name, kind in get_type_hints(options).items()}  # without their rules
    annotated = get_type_hints(options, include_extras=True)
    fields = [field for kind in kinds for field in dataclasses.fields(kind)]
    shown: dict[str, Any] = {}
    for field in sorted(fields, key=lambda field: field.default is not dataclasses.MISSING):  # the sort is stable
        kind: Any = types[field.name]
        if tyro.conf.Positional in getattr(annotated.get(field.name), "__metadata__", ()):
            kind = Annotated[kind, tyro.conf.Positional]
        if field.name in ("quiet", "json"):  # without --no-quiet and --no-json
            kind = Annotated[kind, tyro.conf.FlagCreatePairsOff]
        label = tyro.conf.arg(name=field.name.strip("_"), help_behavior_hint=_default(field))
        shown[field.name] = Annotated[kind, label]
    members = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    docstring = "\n".join([str(options.__doc__), *str(OutputOptions.__doc__).partition("Attributes:\n")[2:]])
    space = {**members, "__annotations__": shown, "__doc__": docstring, "__module__": options.__module__}
    return dataclasses.dataclass(frozen=True, kw_only=True)(type(options.__name__, (), space))


def _default(field: dataclasses.Field) -> str:
    """What help says about an option's default value."""
    if field.default is dataclasses.MISSING:
        return "(required)"
    if field.default is None or field.default is False or field.default == ():
        return ""
    if field.default is True:
        return f"(default: {flag(field.name)})"
    value = field.default if isinstance(field.default, tuple) else (field.default,)
    unit = UNITS.get(field.name)
    text = " ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return f"(default: {text}{f' {unit}' if unit else ''})"


def _require_lists_once(given: Sequence[str]) -> None:
    """Refuse a list that is given twice, or without a value, which tyro takes for an empty one."""
    flags = [word.partition("=")[0].replace("_", "-") for word in given]
    for option in GIVEN_ONCE:
        # `--gain=2` counts as well, but only a lone `--gain` can be without a value.
        require(flags.count(option) <= 1, f"{option} was given twice: give it once, its values one after another.")
        following = [*given, "--"][flags.index(option) + 1] if option in given else ""
        require(
            not following.startswith("--"),
            f"{option} has no value: give one or several behind it, or leave it out.",
        )


def _without_frame(box: str) -> str:
    """The message in a box that tyro printed: without colours, frame, help text and the hint at --help."""
    rows = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]  # the first one is a title
    text = "\n".join(row.strip("│| ") for row in rows)
    # Rules divide the box into the message, the option's help, and a hint at --help.
    parts = re.split(r"^[╰─╯-]{9,}$", text, flags=re.MULTILINE)
    shown = [part for part in parts if not part.strip().startswith(("For full helptext", "Argument helptext"))]
    return " ".join(" ".join(shown).partition("Got errors:")[0].split())
