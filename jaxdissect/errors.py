"""What the command line prints as a paragraph: a mistake (exit code 2), a training gone wrong (1), a lost process."""


class InputError(ValueError):
    """A file, option or argument breaks a rule.

    The message names the file or option, the rule, the value found and what to do.
    """


class TrainingError(RuntimeError):
    """A training cannot go on; the message says at which step, why, and what is kept."""


class LostProcessError(RuntimeError):
    """Another process of the job has failed or died; the message says which."""


class UnreadableError(Exception):
    """A recording that cannot be counted; the message says why, and becomes the clip's reason."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters of it; the error's type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def require(condition: bool, message: str) -> None:
    """Refuse what breaks a rule.

    Args:
      condition: whether the rule is kept.
      message: file, option or argument, the rule, the value found and what to do.

    Raises:
      InputError: the rule is broken.
    """
    if not condition:
        raise InputError(message)
