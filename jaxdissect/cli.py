"""The command line: parses, calls, prints."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jaxdissect
from jaxdissect.commands.outcome import FAILED, Answer, OutputOptions
from jaxdissect.commands.overview import COMMANDS, overview
from jaxdissect.commands.parsing import heed_no_color, nearest, parse
from jaxdissect.errors import InputError, LostProcessError, TrainingError
from jaxdissect.runtime.processes import here
from jaxdissect.runtime.progress import listening
from jaxdissect.runtime.startup import missing_platform, prepare_process

USER_ERROR, LOST_PROCESS, INTERRUPTED, BROKEN_PIPE = 2, 75, 130, 141  # 75: "try again" in sysexits.h


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0: done. 1: too many unreadable clips, or a training went wrong. 2: a user's mistake. 75: another process of the job
    failed or died, and 130: stopped by a signal; the same command goes on. 141: the reader of the output has gone.
    """
    prepare_process()
    heed_no_color()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] in ("-h", "--help", "--version"):
            print(f"jaxdissect {jaxdissect.__version__}" if arguments[0] == "--version" else overview())
            code = 0
        elif arguments:
            code = _answer(arguments)
        else:
            print(overview(), file=sys.stderr)
            code = USER_ERROR
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of what is printed has gone, perhaps before all stages were run
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _answer(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names, and tell of it as its options say."""
    name = arguments[0] if arguments[0] in COMMANDS else None
    answer, command = Answer(name, None, OutputOptions(json="--json" in arguments)), None
    error, warned = None, list[str]()
    try:
        command = _parsed(arguments)
        answer.folder, answer.options = _folder(command), command
        with listening(command.quiet) as warned, _stdout_free(command.json), _platforms(command):
            code = answer.take(command())
    except SystemExit as stop:
        if command is None:  # help was printed
            return int(stop.code or 0)
        code, error = _exit_code(stop), f"the code that --encoder names ended the program (sys.exit({stop.code!r}))."
    except InputError as mistake:
        code, error = USER_ERROR, str(mistake)
    except TrainingError as failure:
        code, error = FAILED, str(failure)
    except LostProcessError as failure:
        code, error = LOST_PROCESS, f"{failure} What was counted is kept: the same command goes on."
    except KeyboardInterrupt:
        code = INTERRUPTED
        error = "stopped; finished stages and states of unfinished ones are kept, the same command goes on."
    if error is not None:
        print(f"jaxdissect: {error}", file=sys.stderr)
    if answer.options.json and _speaks(command):
        print(answer.to_json(code, error, warned))
    return code


@contextlib.contextmanager
def _platforms(command: Any) -> Iterator[None]:
    """Tell a platform that the environment asks for and that is not here, before JAX fails on it in some way.

    Processes of one job must meet before JAX may look for devices, so there it is told behind what has failed.

    Raises:
      InputError: there is no such platform.
    """
    if not getattr(command, "distributed", False):
        _require_platform(None)
    try:
        yield
    except Exception as error:
        _require_platform(error)
        raise


def _require_platform(cause: Exception | None) -> None:
    missing = missing_platform(os.environ)
    if missing is not None:
        raise InputError(missing) from cause


def _exit_code(stop: SystemExit) -> int:
    """The code that the user's program asked for, but never 0: nothing was done."""
    return stop.code if isinstance(stop.code, int) and stop.code else USER_ERROR


def _stdout_free(json: bool) -> contextlib.AbstractContextManager[Any]:
    """With --json only the object goes to stdout: what somebody else's encoder prints goes to stderr."""
    return contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext()


def _parsed(arguments: Sequence[str]) -> Any:
    """The command with its options.

    Raises:
      InputError: there is no such command, or an option breaks a rule.
    """
    name, *options = arguments
    if name.startswith("-"):
        raise InputError(
            f"the command comes first, its options follow, as in `jaxdissect neurons --quiet`; got {name}."
        )
    if name not in COMMANDS:
        raise InputError(
            f"there is no command {name}{nearest(name, [*COMMANDS])} `jaxdissect --help` shows all commands."
        )
    return parse(COMMANDS[name], name, options)


def _folder(command: Any) -> Path | None:
    """Where a command writes, or what it looks at."""
    return next(
        (found for name in ("run", "out", "folder") if (found := getattr(command, name, None)) is not None), None
    )


def _speaks(command: Any) -> bool:
    """Whether this is the process that answers for all of its job."""
    if not getattr(command, "distributed", False):
        return True
    try:
        return not command.process and here().first
    except (RuntimeError, AssertionError):  # JAX has no devices
        return not command.process
