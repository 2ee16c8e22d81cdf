"""The program `jaxdissect`: it parses, runs a command, prints its answer, and returns an exit code."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jaxdissect
from jaxdissect.cli.answer import FAILED, Answer
from jaxdissect.cli.catalogue import COMMANDS, overview
from jaxdissect.cli.parsing import parse
from jaxdissect.errors import InputError, LostProcessError, TrainingError
from jaxdissect.options.base import Options, OutputOptions
from jaxdissect.runtime.progress import listening
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.startup import missing_platform, prepare_process

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
LOST_PROCESS = 75  # "try again" in sysexits.h


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0: done. 1: too many unreadable clips, or a training went wrong. 2: a user's mistake. 75: another process of the job
    failed or died. 130: a signal stopped the command. 141: the reader of the output has gone. After 75 and 130 the same
    command resumes.

    Args:
      arguments: words of the command line behind `jaxdissect`. Default: those of this process.
    """
    prepare_process()  # before anything imports JAX, which reads environment variables once
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
    except BrokenPipeError:  # perhaps before all stages were run
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _answer(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names, and answer as its options say."""
    name = arguments[0] if arguments[0] in COMMANDS else None
    # A mistake in the options is answered as JSON, too, so --json is looked up before they are parsed.
    answer = Answer(name, None, OutputOptions(json="--json" in arguments))
    options, error, warned = None, None, list[str]()
    try:
        options, answer.output = parse(arguments)
        answer.folder = _folder(options)
        with listening(answer.output.quiet) as warned, _stdout_kept_for_json(answer.output.json):
            code = _run(arguments[0], options, answer)
    except SystemExit as stop:
        if options is None:  # help was printed
            return int(stop.code or 0)
        # Never 0: the user's program asked for the end before anything was done.
        code = stop.code if isinstance(stop.code, int) and stop.code else USER_ERROR
        error = f"the code that --encoder names ended the program (sys.exit({stop.code!r}))."
    except InputError as mistake:
        code, error = USER_ERROR, str(mistake)
    except TrainingError as failure:
        code, error = FAILED, str(failure)
    except LostProcessError as failure:
        code, error = LOST_PROCESS, f"{failure} The counts so far are kept: the same command resumes."
    except KeyboardInterrupt:
        code = INTERRUPTED
        error = "stopped. Finished stages and the states of unfinished ones are kept: the same command resumes."
    if error is not None:
        print(f"jaxdissect: {error}", file=sys.stderr)
    # Of several processes, the first one answers for all. A mistake in the options is made in each of them.
    if answer.output.json and (options is None or _is_first_process(options)):
        print(answer.to_json(code, error, warned))
    return code


def _run(name: str, options: Options, answer: Answer) -> int:
    """Run a command and print its outcomes; returns the exit code.

    Raises:
      InputError: a mistake of the user's.
    """
    for stage in options.NEEDS:  # looked up before JAX is imported, which takes seconds
        Run(vars(options)["run"]).require(stage)
    with _known_platform(distributed=bool(getattr(options, "distributed", False))):
        return answer.print_outcomes(COMMANDS[name].run()(options))


@contextlib.contextmanager
def _known_platform(distributed: bool) -> Iterator[None]:
    """Name a platform that the environment asks for and this machine lacks, before JAX fails on it in some way.

    Args:
      distributed: whether processes of one job must meet before JAX may look for devices, so that the platform is named
        after the failure.

    Raises:
      InputError: there is no such platform.
    """

    def require_platform(cause: Exception | None) -> None:
        missing = missing_platform(os.environ)
        if missing is not None:
            raise InputError(missing) from cause

    if not distributed:
        require_platform(None)
    try:
        yield
    except Exception as error:
        require_platform(error)
        raise


def _stdout_kept_for_json(json: bool) -> contextlib.AbstractContextManager[object]:
    """With --json only the object goes to stdout; what a user's encoder prints goes to stderr."""
    return contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext()


def _folder(options: Options) -> Path | None:
    """The folder that a command writes, or looks at."""
    folders = (getattr(options, name, None) for name in ("run", "out", "folder"))
    return next((folder for folder in folders if folder is not None), None)


def _is_first_process(options: Options) -> bool:
    """Whether this process answers for all processes of its job."""
    if not getattr(options, "distributed", False):
        return True
    from jaxdissect.runtime.processes import this_process

    first_by_options = not vars(options)["process"]
    try:
        return first_by_options and this_process().first
    except (RuntimeError, AssertionError):  # JAX has no devices
        return first_by_options
