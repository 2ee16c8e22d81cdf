"""Neuron sets: (layer, neuron) pairs, named by expressions over classes and files.

An expression joins names by `&` (in both), `|` (in either), `-` (in the first only) and brackets; as between Python's
sets `-` binds before `&`, and `&` before `|`. A name is a class, `label_set:class` where a class name is ambiguous,
`@file` for a set from a file (`neuron_set_files`), or `@name` for one that ships with the package. Names with blanks or
any of `& | - ( ) : @ "` stand in double quotes.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

import numpy as np
from jaxtyping import Int

from jaxdissect.errors import InputError

TOKEN = re.compile(
    r"\s*(?:(?P<operator>[&|()\-])"
    r'|(?P<file>@(?:"[^"]*"|[^\s&|()":]+)(?::(?:"[^"]*"|[^\s&|()":@\-]+))?)'
    r'|(?P<name>(?:"[^"]*"|[^\s&|()":@\-]+)(?::(?:"[^"]*"|[^\s&|()":@\-]+))?))'
)
PARTS = re.compile(r'"([^"]*)"|([^":]+)')
BINDS = ("|", "&", "-")  # the last one first
Pair = tuple[int, int]
ClassName = tuple[str, str]  # (label set, class)


@dataclasses.dataclass(frozen=True)
class NeuronSet:
    """A set of (layer, neuron) pairs.

    Attributes:
      name: for people; the expression that it was found by.
      neurons: sorted, each once.
      classes: whose neurons these are meant to be, as (label set, class).
      gain: that a file asks for; None if it asks for none.
    """

    name: str
    neurons: tuple[Pair, ...]
    classes: tuple[ClassName, ...] = ()
    gain: float | None = None

    @property
    def pairs(self) -> Int[np.ndarray, "changed 2"]:
        """As an array: layer, neuron."""
        return np.array(self.neurons, np.int64).reshape(-1, 2)


def neuron_set(name: str, neurons: Iterable[Pair], classes: Iterable[ClassName] = ()) -> NeuronSet:
    """A set of some pairs, in their order and each once.

    Args:
      name: for people.
      neurons: (layer, neuron) pairs.
      classes: whose neurons these are meant to be, as (label set, class).
    """
    pairs = sorted({(int(layer), int(neuron)) for layer, neuron in neurons})
    return NeuronSet(name, tuple(pairs), tuple(dict.fromkeys(classes)))


def require_neurons(chosen: NeuronSet, shape: tuple[int, int]) -> NeuronSet:
    """The set, if it is not empty and an encoder of the shape (layers, neurons per layer) has all its neurons.

    Raises:
      InputError: it is empty, or a layer or neuron is out of range.
    """
    if not chosen.neurons:
        raise InputError(
            f"The neuron set {chosen.name!r} is empty: there is nothing to intervene on. Choose other classes, or keep "
            f"more neurons (`jaxdissect neurons --keep`, --preset lape)."
        )
    for layer, neuron in chosen.neurons:
        if not (0 <= layer < shape[0] and 0 <= neuron < shape[1]):
            raise InputError(
                f"The neuron set {chosen.name!r} has the neuron {neuron} of layer {layer}: the encoder has layers 0 to "
                f"{shape[0] - 1} of neurons 0 to {shape[1] - 1}."
            )
    return chosen


def parse_neuron_set(
    expression: str,
    specific: Mapping[ClassName, Iterable[Pair]],
    read_file: Callable[[str, str | None], NeuronSet] | None = None,
) -> NeuronSet:
    """The neurons that an expression names.

    Args:
      expression: e.g. `ANG & HAP`, `(dog | "crow") - @other/neurons.csv:cow`, `emotion:ANG`.
      specific: the neurons of every class, also of those that have none.
      read_file: called with the path or name after `@`, and what stands behind its colon; default: no files.

    Raises:
      InputError: it cannot be read, or a name is unknown or ambiguous.
    """
    return _Parser(expression, specific, read_file).parse()


def names_a_class(expression: str) -> bool:
    """Whether an expression needs the class-specific neurons of a run, and not only files."""
    return any(match["name"] for match in TOKEN.finditer(expression))


@dataclasses.dataclass(eq=False)
class _Parser:
    expression: str
    specific: Mapping[ClassName, Iterable[Pair]]
    read_file: Callable[[str, str | None], NeuronSet] | None
    position: int = 0

    def parse(self) -> NeuronSet:
        found = self.joined(0)
        if self.peek():
            self.refuse(f"{self.peek()!r} does not belong there")
        return dataclasses.replace(found, name=self.expression.strip())

    def joined(self, level: int) -> NeuronSet:
        if level == len(BINDS):
            return self.single()
        found = self.joined(level + 1)
        while self.peek() == BINDS[level]:
            self.take()
            other = self.joined(level + 1)
            ours, theirs = set(found.neurons), set(other.neurons)
            joined = {"|": ours | theirs, "&": ours & theirs, "-": ours - theirs}[BINDS[level]]
            classes = found.classes if BINDS[level] == "-" else (*found.classes, *other.classes)
            found = neuron_set("", joined, classes)
        return found

    def single(self) -> NeuronSet:
        token = self.take()
        if token == "(":
            found = self.joined(0)
            if self.take() != ")":
                self.refuse("a bracket is not closed")
            return found
        if not token or token in "&|-)":
            self.refuse(f"a class or a file is missing {f'before {token!r}' if token else 'at its end'}")
        names = [quoted or plain for quoted, plain in PARTS.findall(token.removeprefix("@"))]
        if token.startswith("@"):
            if self.read_file is None:
                self.refuse("files cannot be read here")
            return self.read_file(names[0], names[1] if len(names) > 1 else None)
        return self.of_class(names)

    def of_class(self, names: list[str]) -> NeuronSet:
        label_set, name = names if len(names) > 1 else (None, names[0])
        found = [key for key in self.specific if key[1] == name and label_set in (None, key[0])]
        if not found:
            names_of_sets = list(dict.fromkeys(label_set for label_set, _ in self.specific))
            sets = f"set {names_of_sets[0]} has" if len(names_of_sets) == 1 else f"sets {', '.join(names_of_sets)} have"
            known = [name for _, name in self.specific]
            shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            self.refuse(f"there is no class {':'.join(names)!r}; the label {sets} {shown}")
        if len(found) > 1:
            ways = " or ".join(f"{label_set}:{name}" for label_set, name in found)
            self.refuse(f"the class {name!r} is ambiguous: write {ways}")
        return neuron_set("", self.specific[found[0]], found)

    def peek(self) -> str:
        match = TOKEN.match(self.expression, self.position)
        if not match and self.expression[self.position :].strip():
            self.refuse(f"{self.expression[self.position :].strip()!r} cannot be read")
        return match.group().strip() if match else ""

    def take(self) -> str:
        token = self.peek()
        match = TOKEN.match(self.expression, self.position)
        self.position = match.end() if match else len(self.expression)
        return token

    def refuse(self, reason: str) -> NoReturn:
        raise InputError(
            f"--neurons {self.expression!r}: {reason}. Join classes by &, |, - and brackets; other characters than "
            f"letters, digits and _ stand in double quotes."
        )
