"""Sharing, ablation, and a run's summary for a comparison, as JSON values."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.cluster.hierarchy
import xarray as xr
from jaxtyping import Float, Int

from jaxdissect.errors import InputError
from jaxdissect.report.numbers import packed, short
from jaxdissect.report.payload import Axes
from jaxdissect.report.payload_evidence import probe_scores
from jaxdissect.report.run_contents import BREADTH, Contents
from jaxdissect.selection.neuron_set_files import published_sets
from jaxdissect.selection.neuron_sets import ClassName, NeuronSet, neuron_set, parse_neuron_set
from jaxdissect.sharing.clusters import linkage
from jaxdissect.types import Json, Record

SHARED_FRACTIONS = ("jaccard", "expected_shared", "q_value", *BREADTH)
AAPE_BINS = 40  # bins of the histogram of normalised AAPE, from 0 to 1
FIRST_CHANGES = ("margin_change", "control_mean", "control_sd", "p_value")
CHANGES = (*FIRST_CHANGES, "q_value", "ci_low", "ci_high", "change_clips")
MAX_ALL_CHANGES = 40_000  # rows of an ablation that are shown with all changes; of more, the first changes are shown
SUITE_NAMES = ("label_set", "mode", "contrast")
SUITE_NUMBERS = ("gain", "interventions", "margin_change", "controls", "control_mean", "control_sd", "p_value")
COVERAGE = ("classes", "covered", "coverage", "mean_neurons_per_class")
Places = Int[np.ndarray, " _"]  # rows or columns of a matrix


def sharing_payload(contents: Contents, axes: Axes) -> list[Record]:
    """A block for every two label sets that were compared, of classes with neurons in clustered order.

    Blocks within a label set come first, then blocks of two label sets of the run, then blocks with other runs. Rows
    are classes of the run. Columns are classes of the run, or names where they are of another run.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.

    Raises:
      InputError: a class was not counted.
    """
    sharing = contents.data.get("sharing.nc")
    if sharing is None:
        return []
    other_encoders = contents.stages.get("share", {}).get("other_encoders", [])
    order = {label_set: _clustered(sharing, label_set) for label_set in axes.label_sets}
    within = [_block(sharing, axes, name, order[name], order[name]) for name in axes.label_sets]
    across = [
        _block(sharing, axes, name, order[name], order[second])
        for number, name in enumerate(axes.label_sets)
        for second in axes.label_sets[number + 1 :]
    ]
    other_runs = [
        _block(sharing, axes, name, order[name], _beside(sharing, order[name], columns))
        | {"run": Path(run).name, "label_set": second, "foreign": run in other_encoders}
        for name in axes.label_sets
        for (run, second), columns in _columns_of_others(sharing).items()
    ]
    return [block for block in (*within, *across, *other_runs) if block["rows"] and block["columns"]]


def _columns_of_others(sharing: xr.Dataset) -> dict[tuple[str, str], Places]:
    """Columns of the label sets of other runs, by run and label set.

    The first columns of `sharing.nc` are the classes of the run itself, in the order of the rows.
    """
    keys = zip(sharing["run_b"].values.tolist(), sharing["label_set_b"].values.tolist(), strict=True)
    columns: dict[tuple[str, str], list[int]] = {}
    for column, key in enumerate(keys):
        if column >= sharing.sizes["class_a"]:
            columns.setdefault(key, []).append(column)
    return {key: np.array(places) for key, places in columns.items()}


def _clustered(sharing: xr.Dataset, label_set: str) -> Places:
    """Rows of the classes of a label set that have neurons; classes that share neurons are next to each other.

    Args:
      sharing: content of `sharing.nc`.
      label_set: name of the label set.
    """
    rows = np.flatnonzero((sharing["label_set_a"].values == label_set) & (sharing["size_a"].values > 0))
    if len(rows) < 3:
        return rows
    jaccard = np.nan_to_num(sharing["jaccard"].values[np.ix_(rows, rows)])
    return rows[scipy.cluster.hierarchy.leaves_list(linkage(jaccard))]


def _beside(sharing: xr.Dataset, rows: Places, columns: Places) -> Places:
    """Columns of another run in the order of the rows.

    A column follows the row of the same name, or else the row that it shares most with.

    Args:
      sharing: content of `sharing.nc`.
      rows: rows of a label set, in clustered order.
      columns: columns of a label set of another run; those without neurons are left out.
    """
    columns = columns[sharing["size_b"].values[columns] > 0]
    if not len(rows) or not len(columns):
        return columns
    # Columns are sorted by the place of their row; several columns of one row keep their order.
    row_of = {name: row for row, name in enumerate(sharing["class_a"].values[rows].tolist())}
    nearest = np.nan_to_num(sharing["jaccard"].values[np.ix_(rows, columns)]).argmax(axis=0)
    names = sharing["class_b"].values[columns].tolist()
    place = [row_of.get(name, row) for name, row in zip(names, nearest, strict=True)]
    return columns[np.argsort(place, kind="stable")]


def _block(sharing: xr.Dataset, axes: Axes, label_set: str, rows: Places, columns: Places) -> Record:
    """What the classes of some rows share with those of some columns.

    Args:
      sharing: content of `sharing.nc`.
      axes: numbering of classes and neurons.
      label_set: label set of the rows.
      rows: rows of the block.
      columns: columns of the block.
    """
    numbers = axes.class_numbers(sharing["label_set_a"].values.tolist(), sharing["class_a"].values.tolist())
    cells = np.ix_(rows, columns)  # every row with every column
    block: Record = {
        "set": axes.label_sets.index(label_set),
        "rows": [numbers[row] for row in rows],
        "columns": [numbers[column] if column < len(numbers) else -1 for column in columns],  # -1: of another run
        "names": [str(name) for name in sharing["class_b"].values[columns]],
        "sizes": short(sharing["size_b"].values[columns]),
        "shared": packed(np.nan_to_num(sharing["shared"].values[cells]).astype(np.uint32)),
    }
    for name in SHARED_FRACTIONS:
        if name in sharing:
            block[name] = packed(sharing[name].values[cells].astype(np.float32))
    return block


def ablation_payload(contents: Contents, axes: Axes) -> Record | None:
    """Interventions, the changes of every class by each as matrices, and the aggregate test.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.

    Returns:
      An entry for each label set, and the rows of the aggregate test; None if nothing was ablated.

    Raises:
      InputError: a class was not counted.
    """
    table, suite = contents.tables.get("ablation.csv"), contents.tables.get("ablation_suite.csv")
    if table is None or not len(table):
        return None
    changes = CHANGES if len(table) <= MAX_ALL_CHANGES else FIRST_CHANGES
    present = [label_set for label_set in axes.label_sets if (table["label_set"] == label_set).any()]
    return {
        "sets": [_changes(table[table["label_set"] == label_set], label_set, axes, changes) for label_set in present],
        "suite": [
            {name: row[name] for name in SUITE_NAMES} | {name: short(row[name]) for name in SUITE_NUMBERS}
            for row in ([] if suite is None else suite.to_dict("records"))
        ],
    }


def _changes(table: pd.DataFrame, label_set: str, axes: Axes, changes: Sequence[str]) -> Record:
    """One label set of an ablation, with a matrix for each kind of change.

    Args:
      table: rows of `ablation.csv` of the label set.
      label_set: name of the label set.
      axes: numbering of classes and neurons.
      changes: columns that become matrices: a row per intervention, a column per class, NaN where nothing was measured.
    """
    # The first row of each class and intervention: both have what does not depend on the other, and their order.
    by_class, by_intervention = (table.drop_duplicates(name) for name in ("class", "intervention"))
    matrices = (table.pivot(index="intervention", columns="class", values=name) for name in changes)
    ordered = (matrix.loc[by_intervention["intervention"], by_class["class"]] for matrix in matrices)
    return {
        "set": axes.label_sets.index(label_set),
        "classes": axes.class_numbers(by_class["label_set"].tolist(), by_class["class"].tolist()),
        "clips": short(by_class["clips"].to_numpy(np.int64)),
        "before": short(by_class["accuracy_before"].to_numpy()),
        "interventions": [_intervention(row, axes) for row in by_intervention.to_dict("records")],
        **{name: packed(matrix.to_numpy(np.float32)) for name, matrix in zip(changes, ordered, strict=True)},
    }


def classes_of(expression: str, classes: Sequence[ClassName]) -> tuple[ClassName, ...]:
    """The classes that a neuron set is meant for, by the expression that named it; none if it names no class.

    Args:
      expression: expression, or `@file`, as `ablate` reads it.
      classes: all classes of the run.
    """

    def of_file(source: str, part: str | None) -> NeuronSet:
        """The file itself may be gone, but its name says which classes it was read for."""
        meant = published_sets().get(source, {}).get("classes", [])
        if part is not None and source.lower().endswith(".csv"):
            meant = [part]
        return neuron_set(source, [(0, 0)], [key for key in classes if key[1] in meant])

    try:
        return parse_neuron_set(expression, dict.fromkeys(classes, ()), of_file).classes
    except InputError:
        return ()


def without_gain(name: str, gain: float) -> str:
    """The neuron set of an intervention; its name ends with the gain where a set has several.

    Args:
      name: name of the intervention.
      gain: gain of the intervention.
    """
    return name.removesuffix(f" x {np.format_float_positional(gain, trim='-')}")


def _intervention(row: Mapping[Hashable, Json], axes: Axes) -> Record:
    """What is known of an intervention by its row and its name.

    Args:
      row: first row of the intervention in `ablation.csv`.
      axes: numbering of classes and neurons.
    """
    base = without_gain(row["intervention"], row["gain"])
    classes = classes_of(base, axes.classes)
    return {
        "name": row["intervention"],
        "base": base,
        "gain": short(row["gain"]),
        "mode": row["mode"],
        "neurons": int(row["neurons"]),
        "controls": int(row["controls"]),
        "own": axes.class_numbers([label_set for label_set, _ in classes], [name for _, name in classes]),
    }


def summary_payload(contents: Contents, axes: Axes) -> Record:
    """A run in numbers, for a comparison with another run.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.
    """
    counting = contents.stages.get("activations", {})
    choosing = contents.stages.get("neurons", {}).get("options", {})
    return {
        "name": contents.name,
        "encoder": str(counting.get("encoder", "?")),
        "task": str(counting.get("task", "?")),
        "tokens": str(counting.get("options", {}).get("tokens", "?")),
        "preset": str(choosing.get("preset", "?")),
        "layers": axes.layers,
        "width": axes.width,
        "sets": {label_set: _set_summary(contents, axes, label_set) for label_set in axes.label_sets},
    }


def _set_summary(contents: Contents, axes: Axes, label_set: str) -> Record:
    """A label set in numbers: neurons by class and layer, coverage, probe score, histogram of normalised AAPE.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.
      label_set: name of the label set.
    """
    summary: Record = {"classes": axes.names_in(label_set)}
    pairs, coverage, scores = contents.neurons, contents.tables.get("coverage.csv"), contents.data.get("scores.nc")
    if pairs is not None:
        rows = pairs[pairs["label_set"] == label_set]
        # A neuron that is specific to several classes counts once.
        layer = rows.drop_duplicates(["layer", "neuron"])["layer"].astype(int)
        summary["size"] = short(rows["class"].value_counts().reindex(summary["classes"], fill_value=0).to_numpy())
        summary["by_layer"] = short(np.bincount(layer, minlength=axes.layers))
    if coverage is not None and (coverage["label_set"] == label_set).any():
        row = coverage[coverage["label_set"] == label_set].iloc[0]
        summary["coverage"] = {name: short(row[name]) for name in COVERAGE}
    probe = probe_scores(contents, label_set)
    if probe is not None:
        summary["probe"] = {"metric": probe.metric, "clips": probe.clips, "test": short(probe.mean["test"])}
    if scores is not None and label_set in scores["label_set"].values:
        aape: Float[np.ndarray, "layer neuron"] = scores["aape_normalised"].sel(label_set=label_set).values
        counts, _ = np.histogram(aape[np.isfinite(aape)], AAPE_BINS, (0, 1))  # NaN: a neuron that never fires
        summary["histogram"] = short(counts)
    return summary
