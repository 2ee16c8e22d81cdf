"""Calls of a user's code: what it raises becomes an `InputError` that names the user's own line."""

import contextlib
import functools
import inspect
import linecache
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import jax
from jaxtyping import PyTree

from jaxdissect.errors import InputError, first_line

LIBRARIES = ("jaxdissect", "jax", "jaxlib", "flax")  # top-level packages whose frames are never the user's
INSTALLED_FOLDERS = {"site-packages", "dist-packages"}
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))


@dataclass(frozen=True)
class UserCode:
    """Calls the code of one encoder that a user brings.

    Attributes:
      factory: name of the encoder's factory, "package.module:factory".
    """

    factory: str

    @contextlib.contextmanager
    def part(self, name: str, called: object = None) -> Iterator[None]:
        """Blame the user's code for what is raised inside; an `InputError` passes, since it is explained already.

        Args:
          name: name of the part of the `Encoder` protocol, for the message.
          called: function whose definition is shown where no line of the user's was reached.

        Raises:
          InputError: something was raised; the message names the part, the exception and the user's line.
        """
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # a user's code may raise anything
            place = user_line(error, self.factory.partition(":")[0].partition(".")[0]) or definition(called)
            raise InputError(
                f"Encoder {self.factory}: {name} raised {type(error).__name__}: {first_line(error).rstrip('.')}"
                f"{f'; {place}' if place else ''}. See docs/encoders.md."
            ) from error

    def wrapped(self, name: str) -> Callable[[Callable[..., PyTree]], Callable[..., PyTree]]:
        """A decorator for functions that belong to a part of the protocol; what they raise is explained.

        Args:
          name: name of the part.
        """

        def decorate(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
            @functools.wraps(function)
            def explained(*inputs: PyTree, **options: object) -> PyTree:
                with self.part(name, function):
                    return function(*inputs, **options)

            return explained

        return decorate

    def require(self, holds: bool, name: str, rule: str, *values: object) -> None:
        """Refuse a part of the protocol that is, or returns, something else than it must.

        Args:
          holds: whether the rule is kept.
          name: name of the part.
          rule: what the part must be or do, as a verb phrase.
          values: values found instead.

        Raises:
          InputError: the rule is broken.
        """
        if not holds:
            shown = ", ".join(map(described, values))
            raise InputError(f"Encoder {self.factory}: {name} must {rule}, found {shown}. See docs/encoders.md.")


def user_line(error: BaseException, package: str) -> str | None:
    """File, line and source text of the user's code in which an exception was raised; None: in none of it.

    This is the innermost line of the user's package. Without one it is the innermost line of code that is neither an
    installed package nor Python's own.

    Args:
      error: exception as it was caught, before JAX has taken frames out.
      package: top-level package of the user, e.g. "mine".
    """
    if isinstance(error, SyntaxError) and error.filename:  # its file was never run, so it has no frame
        return _place(error.filename, error.lineno or 0, error.text or "")
    # (frame, line number) from the outermost call inwards.
    frames = list(traceback.walk_tb(error.__traceback__))
    users = [frame for frame in frames if _package(frame[0]) == package] or [
        frame for frame in frames if not _is_library(frame[0])
    ]
    if not users:
        return None
    frame, line = users[-1]
    return _place(frame.f_code.co_filename, line, linecache.getline(frame.f_code.co_filename, line))


def definition(called: object) -> str | None:
    """Where a function is defined, for errors raised by the call itself, such as a missing argument."""
    code = getattr(inspect.unwrap(called), "__code__", None) if callable(called) else None
    return None if code is None else _place(code.co_filename, code.co_firstlineno, f"def {code.co_name}")


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_library(frame: FrameType) -> bool:
    return _package(frame) in LIBRARIES or is_library_file(frame.f_code.co_filename)


def is_library_file(name: str) -> bool:
    """Whether a file of code is of Python, of an installed package or of this one, and so not the user's.

    Args:
      name: name of the file, as a traceback has it.
    """
    file = Path(name)
    return (
        name.startswith("<")  # made by exec, as the methods of dataclasses are
        or not INSTALLED_FOLDERS.isdisjoint(file.parts)
        or file.is_relative_to(STANDARD_LIBRARY)
        or file.is_relative_to(Path(__file__).parents[1])
    )


def _place(file: str, line: int, text: str) -> str:
    return f"{file}, line {line}" + (f": `{text.strip()[:200]}`" if text.strip() else "")


def is_array(value: object) -> bool:
    """Whether a value is an array of NumPy's, JAX's or alike."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def holds_arrays(value: object) -> bool:
    """Whether a pytree holds arrays, and beside them nothing but numbers."""
    leaves = jax.tree.leaves(value)
    return any(map(is_array, leaves)) and all(is_array(leaf) or isinstance(leaf, (int, float)) for leaf in leaves)


def described(value: object) -> str:
    """A value in short: types and shapes of arrays, else its type, with the value where that is a text or number."""
    if holds_arrays(value):
        arrays = [leaf for leaf in jax.tree.leaves(value) if is_array(leaf)]
        return ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in arrays[:5])
    kind = type(value).__name__
    return f"{kind} {str(value)[:60]!r}" if isinstance(value, (str, int, float)) else kind
