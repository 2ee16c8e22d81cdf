"""What the page shows of sharing, of ablation, and of two runs side by side, as JSON values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.cluster.hierarchy
import xarray as xr

from jaxdissect.errors import InputError
from jaxdissect.report.numbers import packed, short
from jaxdissect.report.payload import Frame
from jaxdissect.report.payload_checks import probe_scores
from jaxdissect.report.run_contents import Contents
from jaxdissect.selection.neuron_set_files import published_sets
from jaxdissect.selection.neuron_sets import ClassName, NeuronSet, neuron_set, parse_neuron_set
from jaxdissect.sharing.clusters import linkage

MEASURES = {
    "shared": np.uint32, "jaccard": np.float32, "expected_shared": np.float32, "q_value": np.float32,
    "expected_by_breadth": np.float32, "q_by_breadth": np.float32,
}  # fmt: skip
BINS = 40  # of a histogram of normalised AAPE, from 0 to 1
MATRICES = ("margin_change", "control_mean", "control_sd", "p_value", "q_value", "ci_low", "ci_high", "change_clips")
MANY = 40_000  # rows of an ablation, of which fewer columns are shown
SUITE = ("gain", "interventions", "margin_change", "controls", "control_mean", "control_sd", "p_value")


def sharing_payload(contents: Contents, axes: Frame) -> list[dict[str, Any]]:
    """A matrix for every two label sets that were compared, of classes with neurons in clustered order.

    Those of one label set come first, then two of the run, then one of the run and one of another run. Rows are
    classes of the run; columns are too, or names only where they are of another run.
    """
    sharing = contents.data.get("sharing")
    if sharing is None:
        return []
    foreign = contents.stages.get("share", {}).get("other_encoders", [])
    columns = _column_sets(sharing)
    own = {name: _in_order(sharing, name) for name in axes.label_sets}
    within = [_shared(sharing, axes, name, own[name], own[name]) for name in axes.label_sets]
    across = [
        _shared(sharing, axes, name, own[name], own[other])
        for number, name in enumerate(axes.label_sets)
        for other in axes.label_sets[number + 1 :]
    ]
    beyond = [
        _shared(sharing, axes, name, own[name], _beside(sharing, own[name], place))
        | {"run": Path(run).name, "label_set": other, "foreign": run in foreign}
        for name in axes.label_sets
        for (run, other), place in columns.items()
    ]
    return [entry for entry in (*within, *across, *beyond) if entry["rows"] and entry["columns"]]


def _column_sets(sharing: xr.Dataset) -> dict[tuple[str, str], np.ndarray]:
    """Places among the columns of the label sets of other runs, by run and label set."""
    own = sharing.sizes["class_a"]
    kinds = (sharing[f"{kind}_b"].values.tolist() for kind in ("run", "label_set"))
    names = [(str(run), str(label_set)) for run, label_set in zip(*kinds, strict=True)]
    return {
        key: np.array([place for place in range(own, len(names)) if names[place] == key])
        for key in dict.fromkeys(names[own:])
    }


def _in_order(sharing: xr.Dataset, label_set: str) -> np.ndarray:
    """Places of the classes of a label set that have neurons, clustered by what they share."""
    own = np.flatnonzero(sharing["label_set_a"].values == label_set)
    kept = own[sharing["size_a"].values[own] > 0]
    return kept[_clustered(sharing["jaccard"].values[np.ix_(kept, kept)])]


def _beside(sharing: xr.Dataset, rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Columns of another run in the order of the rows: each by its namesake, or the class that it shares most with."""
    place = place[sharing["size_b"].values[place] > 0]
    if not len(rows) or not len(place):
        return place
    names = {name: number for number, name in enumerate(sharing["class_a"].values[rows].tolist())}
    nearest = np.nan_to_num(sharing["jaccard"].values[np.ix_(rows, place)]).argmax(axis=0)
    own = [names.get(name, row) for name, row in zip(sharing["class_b"].values[place].tolist(), nearest, strict=True)]
    return place[np.argsort(own, kind="stable")]


def _shared(sharing: xr.Dataset, axes: Frame, label_set: str, rows: np.ndarray, columns: np.ndarray) -> dict[str, Any]:
    """One matrix: which classes stand where, and what they share."""
    own = sharing.sizes["class_a"]
    numbers = axes.class_numbers(sharing["label_set_a"].values.tolist(), sharing["class_a"].values.tolist())
    found: dict[str, Any] = {
        "set": axes.label_sets.index(label_set),
        "rows": [numbers[row] for row in rows],
        "columns": [numbers[column] if column < own else -1 for column in columns],
        "names": [str(name) for name in sharing["class_b"].values[columns]],
        "sizes": short(sharing["size_b"].values[columns]),
    }
    for key, kind in MEASURES.items():
        if key in sharing and found["rows"] and found["columns"]:
            values = sharing[key].values[np.ix_(rows, columns)]
            found[key] = packed((np.nan_to_num(values) if kind is np.uint32 else values).astype(kind))
    return found


def _clustered(jaccard: np.ndarray) -> np.ndarray:
    """An order in which classes that share neurons stand together."""
    if len(jaccard) < 3:
        return np.arange(len(jaccard))
    return scipy.cluster.hierarchy.leaves_list(linkage(np.nan_to_num(jaccard)))


def ablation_payload(contents: Contents, axes: Frame) -> dict[str, Any] | None:
    """Interventions, what each did to every class as matrices, and the aggregate test."""
    table = contents.tables.get("ablation")
    if table is None or not len(table):
        return None
    names = MATRICES if len(table) <= MANY else MATRICES[:4]
    found: dict[str, Any] = {"sets": [], "suite": []}
    for number, label_set in enumerate(axes.label_sets):
        own = table[table["label_set"] == label_set]
        if not len(own):
            continue
        interventions = list(dict.fromkeys(own["intervention"]))
        classes = axes.class_numbers(*(own.drop_duplicates("class")[name].tolist() for name in ("label_set", "class")))
        row = own["intervention"].map({name: place for place, name in enumerate(interventions)}).to_numpy()
        column_of = {axes.classes[place][1]: column for column, place in enumerate(classes)}
        column = own["class"].map(column_of).to_numpy()
        first = own.drop_duplicates("intervention").set_index("intervention").loc[interventions]
        before = own.drop_duplicates("class")
        one: dict[str, Any] = {
            "set": number,
            "classes": classes,
            "clips": short(before["clips"].astype(int).to_numpy()),
            "before": short(before["accuracy_before"].to_numpy()),
            "interventions": [_intervention(str(name), entry, axes) for name, entry in first.iterrows()],
        }
        for name in names:
            matrix = np.full((len(interventions), len(classes)), np.nan, np.float32)
            matrix[row, column] = own[name].to_numpy()
            one[name] = packed(matrix)
        found["sets"].append(one)
    suite = contents.tables.get("ablation_suite")
    if suite is not None:
        found["suite"] = [
            {name: entry[name] for name in ("label_set", "mode", "contrast")}
            | {name: short(float(entry[name])) for name in SUITE}
            for _, entry in suite.iterrows()
        ]
    return found


def classes_of(expression: str, classes: Sequence[ClassName]) -> tuple[ClassName, ...]:
    """The classes that a neuron set is meant for, by the expression that it was found by; none if that names others."""

    def of_file(source: str, part: str | None) -> NeuronSet:
        """A file may be gone, but its name tells the classes, as it did when it was read."""
        meant = published_sets().get(source, {}).get("classes", [])
        if part is not None and source.lower().endswith(".csv"):
            meant = [part]
        return neuron_set(source, [(0, 0)], [known for known in classes if known[1] in meant])

    try:
        return parse_neuron_set(expression, dict.fromkeys(classes, ()), of_file).classes
    except InputError:
        return ()


def _intervention(name: str, entry: pd.Series, axes: Frame) -> dict[str, Any]:
    """What is known of an intervention by its row and its name, whose end tells the gain where there are several."""
    gain = float(entry["gain"])
    ending = f" x {np.format_float_positional(gain, trim='-')}"
    base = name.removesuffix(ending)

    classes = classes_of(base, axes.classes)
    own = axes.class_numbers(*zip(*classes, strict=True)) if classes else []
    return {
        "name": name, "base": base, "gain": short(gain), "mode": entry["mode"], "neurons": int(entry["neurons"]),
        "controls": int(entry["controls"]), "own": own,
    }  # fmt: skip


def summary_payload(contents: Contents, axes: Frame) -> dict[str, Any]:
    """A run in numbers, for a comparison."""
    record = contents.stages.get("activations", {})
    chosen = contents.stages.get("neurons", {}).get("options", {})
    return {
        "name": contents.name,
        "encoder": str(record.get("encoder", "?")),
        "task": str(record.get("task", "?")),
        "tokens": str(record.get("options", {}).get("tokens", "?")),
        "preset": str(chosen.get("preset", "?")),
        "layers": axes.layers,
        "width": axes.width,
        "sets": {name: _set_summary(contents, axes, name) for name in axes.label_sets},
    }


def _set_summary(contents: Contents, axes: Frame, label_set: str) -> dict[str, Any]:
    names = [name for own, name in axes.classes if own == label_set]
    found: dict[str, Any] = {"classes": names}
    table = contents.neurons
    if table is not None:
        own = table[table["label_set"] == label_set]
        size = own["class"].value_counts()
        unique = own.drop_duplicates(["layer", "neuron"])["layer"].astype(int)
        found["size"] = [int(size.get(name, 0)) for name in names]
        found["by_layer"] = short(np.bincount(unique, minlength=axes.layers))
    coverage = contents.tables.get("coverage")
    if coverage is not None and (coverage["label_set"] == label_set).any():
        row = coverage[coverage["label_set"] == label_set].iloc[0]
        found["coverage"] = {
            name: short(float(row[name])) for name in coverage.columns if name != "label_set" and _is_number(row[name])
        }
    probe = probe_scores(contents, label_set)
    if probe:
        found["probe"] = {name: probe[name] for name in ("metric", "probes", "clips")}
        found["probe"]["test"] = short(float(probe["mean"].get("test", np.nan)))
    scores = contents.data.get("scores")
    if scores is not None and label_set in scores["label_set"].values:
        found["histogram"] = _histogram(scores, label_set)
    return found


def _histogram(scores: xr.Dataset, label_set: str) -> list[int]:
    """Neurons by normalised AAPE, of all that fire."""
    row = scores["label_set"].values.tolist().index(label_set)
    values = scores["aape_normalised"].values[row]
    counts, _ = np.histogram(values[np.isfinite(values)], BINS, (0, 1))
    return [int(count) for count in counts]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))
