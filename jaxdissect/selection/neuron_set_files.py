"""Neuron sets in files: tables, configurations of EVAR, and the published sets that ship with the package."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from jaxdissect.errors import InputError
from jaxdissect.runtime.files import require_regular, whole_file
from jaxdissect.selection.neuron_sets import ClassName, NeuronSet, neuron_set
from jaxdissect.tasks.table import WHOLE_NUMBER, read_table

PUBLISHED = Path(__file__).with_name("published_ablations.toml")
CONTROL = "_control"
SUFFIXES = (".csv", ".yaml", ".yml")


def read_neuron_set(source: str, part: str | None, classes: Sequence[ClassName] = ()) -> NeuronSet:
    """A neuron set from a file, or a published one.

    Args:
      source: a table (`.csv`) with columns `layer` and `neuron`, such as `neurons.csv`; a configuration of EVAR
        (`.yaml`) with `int_neurons`, pairs of layer and neuron, and `int_gain`; or the name of a set that ships with
        the package.
      part: class whose rows of a table are meant; None: all rows.
      classes: of the task, to which names of classes are matched.

    Raises:
      InputError: there is no such set, or the file does not hold one.
    """
    path = Path(source)
    if path.suffix.lower() not in SUFFIXES:
        return _published(source, part, classes)
    if path.suffix.lower() == ".csv":
        return _from_table(path, part, classes)
    if part is not None:
        raise InputError(f"@{source}:{part}: a configuration of EVAR holds one neuron set: leave :{part} out.")
    return _from_evar(path)


def published_sets() -> Mapping[str, Mapping[str, Any]]:
    """The published ablations, by name: task, classes, gain, neurons, and what was reported.

    `NAME_control` is the control of an ablation, every neuron index + 1 in the same layer.
    """
    sets = tomllib.loads(PUBLISHED.read_text())
    shifted = {
        f"{name}{CONTROL}": {**one, "classes": [], "neurons": [[layer, neuron + 1] for layer, neuron in one["neurons"]]}
        for name, one in sets.items()
    }
    return sets | shifted


def write_evar(path: Path, chosen: NeuronSet, gain: float) -> None:
    """Write a neuron set as EVAR's configuration has it, `int_neurons` and `int_gain`."""
    content = {"int_neurons": [list(pair) for pair in chosen.neurons], "int_gain": float(gain)}
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, default_flow_style=None, sort_keys=False))


def _published(name: str, part: str | None, classes: Sequence[ClassName]) -> NeuronSet:
    sets = published_sets()
    if name not in sets or part is not None:
        raise InputError(
            f"@{name}{f':{part}' if part else ''} is neither a file ({', '.join(SUFFIXES)}) nor a published "
            f"neuron set; published are {', '.join(f'@{known}' for known in sets)}."
        )
    own = [known for known in classes if known[1] in sets[name]["classes"]]
    found = neuron_set(name, [tuple(pair) for pair in sets[name]["neurons"]], own)
    return NeuronSet(found.name, found.neurons, found.classes, float(sets[name]["gain"]))


def _from_table(path: Path, part: str | None, classes: Sequence[ClassName]) -> NeuronSet:
    columns = read_table(path, ["layer", "neuron"] if part is None else ["layer", "neuron", "class"])
    rows = list(range(len(columns["layer"])))
    if part is not None:
        rows = [row for row in rows if columns["class"][row] == part]
        if not rows:
            raise InputError(f"@{path}:{part}: the table has no row of the class {part!r}.")
        label_sets = sorted({columns["label_set"][row] for row in rows} if "label_set" in columns else ())
        if len(label_sets) > 1:
            raise InputError(
                f"@{path}:{part}: the label sets {', '.join(label_sets)} of the table all have the class {part!r}: "
                f"keep the rows of one."
            )
    for row in rows:
        for column in ("layer", "neuron"):
            if not WHOLE_NUMBER.fullmatch(columns[column][row]):
                raise InputError(f"{path}: {column} must be a whole number, found {columns[column][row]!r}.")
    pairs = [(int(columns["layer"][row]), int(columns["neuron"][row])) for row in rows]
    return neuron_set(str(path), pairs, [known for known in classes if part is not None and known[1] == part])


def _from_evar(path: Path) -> NeuronSet:
    require_regular(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, OverflowError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as YAML ({str(error).splitlines()[0]}).") from error
    if not isinstance(content, dict) or "int_neurons" not in content:
        raise InputError(f"{path} must be a configuration of EVAR with the key int_neurons: pairs of layer and neuron.")
    pairs, gain = content["int_neurons"], content.get("int_gain")
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        odd = next((pair for pair in pairs if not _is_pair(pair)), pairs) if isinstance(pairs, list) else pairs
        raise InputError(f"{path}: int_neurons must be a list of pairs [layer, neuron], found {str(odd)[:80]}.")
    number = isinstance(gain, int | float) and not isinstance(gain, bool) and abs(gain) < math.inf
    if gain is not None and not (number and abs(gain) < 1e300):
        raise InputError(f"{path}: int_gain must be a finite number, found {gain!r}.")
    found = neuron_set(str(path), [(layer, neuron) for layer, neuron in pairs])
    return NeuronSet(found.name, found.neurons, (), None if gain is None else float(gain))


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)  # a bool is no index
    )
