"""Neuron sets: (layer, neuron) pairs, named by expressions over classes and files.

An expression joins names by `&` (in both), `|` (in either), `-` (in the first only) and brackets. As between Python's
sets, `-` binds before `&`, and `&` before `|`. A name is a class, `label_set:class` where a class name is ambiguous,
`@file` for a set from a file (`neuron_set_files`), or `@name` for a set that ships with the package. Names with blanks
or any of `& | - ( ) : @ "` are put in double quotes.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

import numpy as np
from jaxtyping import Int

from jaxdissect.errors import InputError, require

# An operator, a file or a name. A file and a name may have a part after a colon, and either may be quoted; a plain file
# name may hold a minus sign, which in a plain class name would be the operator.
TOKEN = re.compile(
    r"\s*(?:(?P<operator>[&|()\-])"
    r'|(?P<file>@(?:"[^"]*"|[^\s&|()":]+)(?::(?:"[^"]*"|[^\s&|()":@\-]+))?)'
    r'|(?P<name>(?:"[^"]*"|[^\s&|()":@\-]+)(?::(?:"[^"]*"|[^\s&|()":@\-]+))?))'
)
QUOTED_OR_PLAIN = re.compile(r'"([^"]*)"|([^":]+)')  # the parts of a name, before and after its colon
OPERATORS = ("|", "&", "-")  # the one that binds last comes first
CLASSES_SHOWN = 8  # class names in an error message
Pair = tuple[int, int]  # (layer, neuron)
ClassName = tuple[str, str]  # (label set, class)


@dataclasses.dataclass(frozen=True)
class NeuronSet:
    """A set of (layer, neuron) pairs.

    Attributes:
      name: name for people; the expression that gave the set.
      neurons: pairs, sorted, each once.
      classes: classes whose neurons these are meant to be, as (label set, class).
      gain: gain that a file asks for; None if it asks for none.
    """

    name: str
    neurons: tuple[Pair, ...]
    classes: tuple[ClassName, ...] = ()
    gain: float | None = None

    @property
    def pairs(self) -> Int[np.ndarray, "changed 2"]:
        """The neurons as an array: layer, neuron."""
        return np.array(self.neurons, np.int64).reshape(-1, 2)  # reshaped, for an empty set has no second axis


def neuron_set(name: str, neurons: Iterable[Pair], classes: Iterable[ClassName] = ()) -> NeuronSet:
    """Make a set of pairs, sorted and each once.

    Args:
      name: name for people.
      neurons: (layer, neuron) pairs.
      classes: classes whose neurons these are meant to be, as (label set, class).
    """
    pairs = sorted({(int(layer), int(neuron)) for layer, neuron in neurons})
    return NeuronSet(name, tuple(pairs), tuple(dict.fromkeys(classes)))


def require_neurons(chosen: NeuronSet, shape: tuple[int, int]) -> NeuronSet:
    """Check that a set is not empty and that an encoder has all its neurons; returns the set.

    Args:
      chosen: set to check.
      shape: layers of the encoder, and neurons per layer.

    Raises:
      InputError: the set is empty, or a layer or neuron is out of range.
    """
    require(
        len(chosen.neurons) > 0,
        f"The neuron set {chosen.name!r} is empty: there is nothing to intervene on. Choose other classes, or keep "
        f"more neurons (`jaxdissect neurons --keep`, --preset lape).",
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
      expression: text such as `ANG & HAP`, `(dog | "crow") - @other/neurons.csv:cow`, `emotion:ANG`.
      specific: neurons of every class, also of the classes that have none.
      read_file: function of the path or name after `@` and of the text after its colon; default: no files.

    Raises:
      InputError: the expression cannot be read, or a name is unknown or ambiguous.
    """
    return _Parser(expression, specific, read_file).parse()


def names_a_class(expression: str) -> bool:
    """Whether an expression needs the class-specific neurons of a run, and not only files."""
    return any(match["name"] for match in TOKEN.finditer(expression))


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(
        self,
        expression: str,
        specific: Mapping[ClassName, Iterable[Pair]],
        read_file: Callable[[str, str | None], NeuronSet] | None,
    ) -> None:
        self.expression, self.specific, self.read_file = expression, specific, read_file
        self.tokens = self._tokens()  # what is still to be read; an empty one marks the end

    def parse(self) -> NeuronSet:
        result = self._joined(0)
        if self.tokens[0]:
            self._refuse(f"{self.tokens[0]!r} does not belong there")
        return dataclasses.replace(result, name=self.expression.strip())

    def _tokens(self) -> list[str]:
        tokens, position = [], 0
        while rest := self.expression[position:].strip():
            match = TOKEN.match(self.expression, position)
            if match is None:
                self._refuse(f"{rest!r} cannot be read")
            tokens.append(match.group().strip())
            position = match.end()
        return [*tokens, ""]

    def _joined(self, level: int) -> NeuronSet:
        """Sets joined by the operator of a level, whose parts are joined by the operators that bind before it."""
        if level == len(OPERATORS):
            return self._single()
        operator = OPERATORS[level]
        result = self._joined(level + 1)
        while self.tokens[0] == operator:
            self.tokens.pop(0)
            right = self._joined(level + 1)
            a, b = set(result.neurons), set(right.neurons)
            neurons = {"|": a | b, "&": a & b, "-": a - b}[operator]
            # A file's gain holds for the file's set alone, so a joined set has none.
            result = neuron_set("", neurons, result.classes if operator == "-" else (*result.classes, *right.classes))
        return result

    def _single(self) -> NeuronSet:
        """A class, a file, or an expression in brackets."""
        token = self.tokens[0]
        if not token or token in "&|-)":
            self._refuse(f"a class or a file is missing {f'before {token!r}' if token else 'at its end'}")
        self.tokens.pop(0)
        if token == "(":
            inside = self._joined(0)
            if self.tokens[0] != ")":
                self._refuse("a bracket is not closed")
            self.tokens.pop(0)
            return inside
        names = [quoted or plain for quoted, plain in QUOTED_OR_PLAIN.findall(token.removeprefix("@"))]
        if not token.startswith("@"):
            return self._of_class(names)
        if self.read_file is None:
            self._refuse("files cannot be read here")
        return self.read_file(names[0], names[1] if len(names) > 1 else None)

    def _of_class(self, names: list[str]) -> NeuronSet:
        """The neurons of a class, named alone or after its label set."""
        label_set, name = names if len(names) > 1 else (None, names[0])
        keys = [key for key in self.specific if key[1] == name and label_set in (None, key[0])]
        if not keys:
            label_sets = list(dict.fromkeys(label_set for label_set, _ in self.specific))
            subject = f"set {label_sets[0]} has" if len(label_sets) == 1 else f"sets {', '.join(label_sets)} have"
            classes = [name for _, name in self.specific]
            shown = ", ".join(classes[:CLASSES_SHOWN]) + (", ..." if len(classes) > CLASSES_SHOWN else "")
            self._refuse(f"there is no class {':'.join(names)!r}; the label {subject} {shown}")
        if len(keys) > 1:
            self._refuse(f"the class {name!r} is ambiguous: write {' or '.join(map(':'.join, keys))}")
        return neuron_set("", self.specific[keys[0]], keys)

    def _refuse(self, reason: str) -> NoReturn:
        raise InputError(
            f"The neuron set {self.expression!r}: {reason}. Join classes by &, |, - and brackets; put names with other "
            f"characters than letters, digits and _ in double quotes."
        )
