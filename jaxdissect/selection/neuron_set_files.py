"""Neuron sets in files: tables, configurations of EVAR, and the published sets that ship with the package."""

import dataclasses
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from jaxdissect.errors import InputError, require
from jaxdissect.runtime.files import require_regular, whole_file
from jaxdissect.selection.neuron_sets import ClassName, NeuronSet, neuron_set
from jaxdissect.tasks.table import WHOLE_NUMBER, read_table
from jaxdissect.types import Record

PUBLISHED_FILE = Path(__file__).with_name("published_ablations.toml")
CONTROL_SUFFIX = "_control"  # of the name of a published set's control
FILE_SUFFIXES = (".csv", ".yaml", ".yml")


def read_neuron_set(source: str, part: str | None, classes: Sequence[ClassName] = ()) -> NeuronSet:
    """A neuron set from a file, or a published one.

    Args:
      source: path of a table (`.csv`) with columns `layer` and `neuron`, such as `neurons.csv`; path of a configuration
        of EVAR (`.yaml`) with `int_neurons`, pairs of layer and neuron, and `int_gain`; or the name of a set that ships
        with the package.
      part: class whose rows of a table are meant; None: all rows.
      classes: classes of the task, to which names of classes are matched.

    Raises:
      InputError: there is no such set, or the file does not hold one.
    """
    path = Path(source)
    if path.suffix.lower() not in FILE_SUFFIXES:
        return _published(source, part, classes)
    if path.suffix.lower() == ".csv":
        return _from_table(path, part, classes)
    require(part is None, f"@{source}:{part}: a configuration of EVAR holds one neuron set: leave :{part} out.")
    return _from_evar(path)


def published_sets() -> Mapping[str, Record]:
    """The published ablations by name, each with its task, classes, gain, neurons, and reported result.

    `NAME_control` is the control of an ablation: every neuron index + 1 in the same layer.
    """
    sets = tomllib.loads(PUBLISHED_FILE.read_text())
    controls = {
        name + CONTROL_SUFFIX: {
            **published,
            "classes": [],
            "neurons": [[layer, neuron + 1] for layer, neuron in published["neurons"]],
        }
        for name, published in sets.items()
    }
    return sets | controls


def write_evar(path: Path, chosen: NeuronSet, gain: float) -> None:
    """Write a neuron set as a configuration of EVAR has it, with `int_neurons` and `int_gain`.

    Args:
      path: file to write.
      chosen: neuron set.
      gain: factor put on its activations.
    """
    content = {"int_neurons": [list(pair) for pair in chosen.neurons], "int_gain": float(gain)}
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, default_flow_style=None, sort_keys=False))


def _published(name: str, part: str | None, classes: Sequence[ClassName]) -> NeuronSet:
    sets = published_sets()
    # Whatever has no known suffix is the name of a published set, and such a set has no parts.
    require(
        name in sets and part is None,
        f"@{name}{f':{part}' if part else ''} is neither a file ({', '.join(FILE_SUFFIXES)}) nor a published neuron "
        f"set; published are {', '.join(f'@{published}' for published in sets)}.",
    )
    matching = [key for key in classes if key[1] in sets[name]["classes"]]
    chosen = neuron_set(name, [(layer, neuron) for layer, neuron in sets[name]["neurons"]], matching)
    return dataclasses.replace(chosen, gain=float(sets[name]["gain"]))


def _from_table(path: Path, part: str | None, classes: Sequence[ClassName]) -> NeuronSet:
    columns = read_table(path, ["layer", "neuron"] if part is None else ["layer", "neuron", "class"])
    rows = list(range(len(columns["layer"])))
    if part is not None:
        rows = [row for row in rows if columns["class"][row] == part]
        require(len(rows) > 0, f"@{path}:{part}: the table has no row of the class {part!r}.")
        # Two label sets may have classes of one name, whose neurons must not be mixed.
        label_sets = sorted({columns["label_set"][row] for row in rows} if "label_set" in columns else ())
        require(
            len(label_sets) < 2,
            f"@{path}:{part}: the label sets {', '.join(label_sets)} of the table all have the class {part!r}: keep "
            f"the rows of one.",
        )
    # Cells are text: int would also accept blanks and underscores.
    for row in rows:
        for column in ("layer", "neuron"):
            cell = columns[column][row]
            require(
                WHOLE_NUMBER.fullmatch(cell) is not None, f"{path}: {column} must be a whole number, found {cell!r}."
            )
    pairs = [(int(columns["layer"][row]), int(columns["neuron"][row])) for row in rows]
    return neuron_set(str(path), pairs, [key for key in classes if part is not None and key[1] == part])


def _from_evar(path: Path) -> NeuronSet:
    require_regular(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, OverflowError, yaml.YAMLError, RecursionError) as error:  # all that a file may cause
        raise InputError(f"{path} cannot be read as YAML ({str(error).splitlines()[0]}).") from error
    if not isinstance(content, dict) or "int_neurons" not in content:
        raise InputError(f"{path} must be a configuration of EVAR with the key int_neurons: pairs of layer and neuron.")
    pairs, gain = content["int_neurons"], content.get("int_gain")
    # What is shown is the first item that is no pair, or all of what is no list.
    wrong = [pair for pair in pairs if not _is_pair(pair)] if isinstance(pairs, list) else [pairs]
    if wrong:
        raise InputError(f"{path}: int_neurons must be a list of pairs [layer, neuron], found {str(wrong[0])[:80]}.")
    # A bool is an int to Python. NaN, infinity, and an int that is no float64 fail the comparison.
    is_number = isinstance(gain, int | float) and not isinstance(gain, bool)
    if gain is not None and not (is_number and abs(gain) <= sys.float_info.max):
        raise InputError(f"{path}: int_gain must be a finite number, found {gain!r}.")
    chosen = neuron_set(str(path), [(layer, neuron) for layer, neuron in pairs])
    return dataclasses.replace(chosen, gain=None if gain is None else float(gain))


def _is_pair(pair: object) -> bool:
    """Whether a value is a list of two whole numbers; a bool is none."""
    return isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
