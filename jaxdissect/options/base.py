"""What all options share: rules for their values, written into their types, as in `batch_size: Count = 16`.

`Options` checks every field against the rule in its type, so that a rule and its message exist once. The commands and
the Python API make the same objects; both get the same `InputError`, which names the option as the command line has it.
"""

import dataclasses
import math
from collections.abc import Iterator
from numbers import Integral
from typing import Annotated, ClassVar, TypeAlias, get_args, get_type_hints

from jaxdissect.errors import InputError


@dataclasses.dataclass(frozen=True)
class Rule:
    """A range of numbers.

    Attributes:
      says: end of the sentence "--option must be ...".
      least: smallest allowed value.
      most: largest allowed value; infinity itself is never allowed.
      above: whether `least` itself is refused.
      whole: whether only whole numbers are allowed.
    """

    says: str
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    whole: bool = False

    def broken_by(self, value: float) -> bool:
        """Whether a value is outside the range. NaN always is."""
        inside = self.least <= value <= self.most and math.isfinite(value)
        return not inside or (self.above and value == self.least) or (self.whole and not isinstance(value, Integral))


Count: TypeAlias = Annotated[int, Rule("a whole number, at least 1", least=1, whole=True)]
Whole: TypeAlias = Annotated[int, Rule("a whole number, at least 0", least=0, whole=True)]
Positive: TypeAlias = Annotated[float, Rule("a positive number", least=0, above=True)]
Fraction: TypeAlias = Annotated[float, Rule("a fraction from 0 to 1", least=0, most=1)]
Finite: TypeAlias = Annotated[float, Rule("a finite number")]


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a command, checked when they are made.

    Attributes:
      NEEDS: stages that must have run in the run directory before the command can.

    Raises:
      InputError: a value breaks the rule in its type; the message names option, rule and value.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check every field against its rule; subclasses add what concerns several options."""
        hints = get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for rule in _rules(hints[field.name]):
                # A list of numbers obeys the rule number by number; None means that the option was not given.
                for number in value if isinstance(value, tuple) else (value,):
                    if number is not None and rule.broken_by(number):
                        raise InputError(f"{flag(field.name)} must be {rule.says}, got {number}.")


def flag(name: str) -> str:
    """The option of a field on the command line: `--batch-size` of `batch_size`, `--with` of `with_`."""
    return f"--{name.strip('_').replace('_', '-')}"


def _rules(hint: object) -> Iterator[Rule]:
    """The rules in a type, also inside `... | None` and `tuple[..., ...]`."""
    yield from (entry for entry in getattr(hint, "__metadata__", ()) if isinstance(entry, Rule))
    for part in get_args(hint):
        yield from _rules(part)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """How a command answers; every command has these options beside its own.

    Attributes:
      quiet: no progress and no summary; warnings and errors are still printed.
      json: one JSON object in place of the summary; see docs/command-line.md.
    """

    quiet: bool = False
    json: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedOptions(Options):
    """One job in several processes, each with its own devices.

    Attributes:
      distributed: this is one process of several, started with the same command on every host. SLURM, Open MPI, GKE and
        Cloud TPU tell JAX which one; elsewhere the next three options do.
      coordinator: host:port of process 0.
      processes: number of processes.
      process: number of this process, from 0.
      patience: seconds without a sign of life after which another process counts as dead.
    """

    distributed: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    patience: Positive = 60.0
