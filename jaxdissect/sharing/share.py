"""Which classes share neurons, in one run and across runs, and how much chance would share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from jaxdissect.errors import InputError
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.runtime.run_directory import Run, require_same_run
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.selection.neuron_table import read_specific
from jaxdissect.selection.overlap import overlap
from jaxdissect.sharing.breadth import RandomClasses, margin_overlap, random_classes
from jaxdissect.sharing.chance import chance_overlap, rate_strata
from jaxdissect.sharing.clusters import cluster
from jaxdissect.significance.p_values import benjamini_hochberg

LABELS, RATE = "permuted labels", "layer and rate"  # what chance is


MEANINGS = {
    "shared": "neurons that both classes have",
    "jaccard": "shared / neurons of either",
    "expected_shared": "neurons that both would have by chance",
    "p_value": "that chance shares as much; NaN: a class has no neurons",
    "q_value": "false discovery rate over the pairs of the two label sets",
    "expected_by_breadth": "neurons that both would have if the classes of every neuron were drawn, as many as it has",
    "p_by_breadth": "that such classes share as much; NaN: a class has no neurons",
    "q_by_breadth": "false discovery rate over the pairs of the two label sets",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Sets:
    """The neuron sets of one label set of a run.

    Attributes:
      run: name of its directory.
      label_set: name.
      classes: of the label set, also those without neurons.
      specific: their neurons.
      rate: activation rate of every neuron on the label set, mean over its classes; a share of tokens, from 0 to 1.
      encoder: SHA-256.
    """

    run: str
    label_set: str
    classes: tuple[str, ...]
    specific: Bool[np.ndarray, "class layer neuron"]
    rate: Float[np.ndarray, "layer neuron"]
    encoder: str

    @property
    def label_sets(self) -> tuple[str, ...]:
        """Of each class."""
        return (self.label_set,) * len(self.classes)

    @property
    def runs(self) -> tuple[str, ...]:
        """Of each class."""
        return (self.run,) * len(self.classes)


@dataclasses.dataclass(frozen=True, eq=False)
class Sharing:
    """What classes share.

    Attributes:
      table: a row for every two classes.
      matrices: the same as arrays (class_a, class_b): classes of the run, and of it and all others.
      order: classes of each label set of the run, clustered by the neurons that they share.
      other_encoders: runs whose encoder is another one.
    """

    table: pd.DataFrame
    matrices: xr.Dataset
    order: dict[str, list[str]]
    other_encoders: tuple[str, ...]


def share(
    own: Sequence[Sets], others: Sequence[Sets] = (), permuted: Mapping[str, xr.Dataset] | None = None
) -> Sharing:
    """Which classes share neurons.

    Whether two classes share at all: those of one label set are compared with permuted labels, where these were drawn,
    all others with random sets of as many neurons in each layer and activation rate. Whether these two in particular
    share: with random sets in which every neuron has as many classes, and every class as many neurons. q-values are
    over the pairs of each two label sets.

    Source: Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307), for Jaccard coefficients of
    neuron sets; what chance would share is not from there.

    Args:
      own: label sets of one run.
      others: of other runs, of encoders of the same shape.
      permuted: by own label set what permuted labels have shown, as in `permutations.nc`.
    """
    everything = [*own, *others]
    matrices, tables = _blocks(own, everything, permuted or {})
    return Sharing(
        pd.concat(tables, ignore_index=True),
        _dataset(own, everything, matrices),
        {sets.label_set: [sets.classes[index] for index in cluster(sets.specific)] for sets in own},
        tuple(dict.fromkeys(sets.run for sets in others if sets.encoder != own[0].encoder)),
    )


def _blocks(
    own: Sequence[Sets], everything: Sequence[Sets], permuted: Mapping[str, xr.Dataset]
) -> tuple[dict[str, np.ndarray], list[pd.DataFrame]]:
    """Matrices (class of `own`, class of `everything`), and the tables of every two label sets."""
    ends = np.cumsum([0, *(len(sets.classes) for sets in everything)])
    matrices = {name: np.full((int(ends[len(own)]), int(ends[-1])), np.nan) for name in MEANINGS}
    tables, pairs = [], [(i, j) for i in range(len(own)) for j in range(i, len(everything))]
    with under_way("Fitting random sets to the breadth of the neurons"):
        drawn = [random_classes(sets.specific.reshape(len(sets.classes), -1)) for sets in everything]
    with progress_bar(what="Sharing", total=2 * sum(len(own[i].classes) for i, _ in pairs), unit="class") as bar:
        for i, j in pairs:
            null = permuted.get(own[i].label_set) if i == j else None
            found = _compare(own[i], everything[j], null, bar.update)
            found |= _in_particular(own[i], everything[j], drawn[i], drawn[j], bar.update)
            rows, columns = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
            for name, matrix in matrices.items():
                matrix[rows, columns] = found[name]
                if j < len(own):
                    matrix[columns, rows] = found[name].T
            tables.append(_table(own[i], everything[j], found))
    return matrices, tables


def _dataset(own: Sequence[Sets], everything: Sequence[Sets], matrices: Mapping[str, np.ndarray]) -> xr.Dataset:
    arrays: dict[str, Any] = {
        name: (("class_a", "class_b"), matrix, {"long_name": MEANINGS[name]}) for name, matrix in matrices.items()
    }
    names = {}
    for side, some in (("a", own), ("b", everything)):
        axis = f"class_{side}"
        size = np.concatenate([sets.specific.sum(axis=(1, 2)) for sets in some])
        arrays[f"size_{side}"] = (axis, size, {"long_name": "neurons of the class"})
        for name, of in (("class", "classes"), ("label_set", "label_sets"), ("run", "runs")):
            names[f"{name}_{side}"] = (axis, np.array([one for sets in some for one in getattr(sets, of)], object))
    return xr.Dataset(arrays, names)


def read_sets(run: Run) -> list[Sets]:
    """The neuron sets of a run, by label set.

    Args:
      run: its directory, with the stage `neurons`.

    Raises:
      InputError: no neurons were selected, or the files are damaged or of another run.
    """
    record = run.require("neurons")
    scores, counts = read_netcdf(run.file("scores.nc")), read_netcdf(run.file("activations.nc"))
    for dataset in (counts, scores):
        require_same_run(run, dataset.attrs, run.require("activations"))
    classes = list(zip(counts["label_set"].values.tolist(), counts["class"].values.tolist(), strict=True))
    pairs = read_specific(run, tuple(classes))
    found = []
    for name in scores["label_set"].values.tolist():
        own = [label for label_set, label in classes if label_set == name]
        rate = scores["rate"].sel(label_set=name).values
        specific = np.zeros((len(own), *rate.shape), bool)
        for index, label in enumerate(own):
            for layer, neuron in pairs[name, label]:
                specific[index, layer, neuron] = True
        if not scores["kept"].sel(label_set=name).values.astype(bool)[specific.any(axis=0)].all():
            raise InputError(
                f"--run {run.path}: neurons.csv and scores.nc are of different selections: run `jaxdissect neurons "
                f"--run {run.path}` again."
            )
        found.append(Sets(str(run.path), name, tuple(own), specific, rate, record["fingerprints"]["encoder"]))
    return found


def _compare(a: Sets, b: Sets, permuted: xr.Dataset | None, progress: Callable[[int], object]) -> dict[str, np.ndarray]:
    """What two label sets share, and would by chance."""
    found = overlap(a.specific, b.specific)
    nothing = np.full(found.shared.shape, np.nan)
    if permuted is None or np.isnan(permuted["p_value"].values).all():
        expected, p_value = chance_overlap(a.specific, b.specific, rate_strata(a.rate, b.rate), progress)
        null, low, high = RATE, nothing, nothing
    else:
        expected, p_value = permuted["expected_shared"].values, permuted["p_value"].values
        null, low, high = LABELS, permuted["jaccard_low"].values, permuted["jaccard_high"].values
        progress(len(a.classes))
    tested, q_value = _tested(a, b, p_value)
    return {
        "size_a": np.broadcast_to(found.size_a[:, None], expected.shape),
        "size_b": np.broadcast_to(found.size_b, expected.shape),
        "shared": found.shared,
        "jaccard": found.jaccard,
        "expected_shared": expected,
        "p_value": tested,
        "q_value": q_value,
        "null": np.full(expected.shape, null, object),
        "jaccard_low": low,
        "jaccard_high": high,
    }


def _in_particular(
    a: Sets, b: Sets, drawn_a: RandomClasses, drawn_b: RandomClasses, progress: Callable[[int], object]
) -> dict[str, np.ndarray]:
    """What random sets of as many neurons share, in which every neuron has as many classes."""
    expected, p_value = margin_overlap(overlap(a.specific, b.specific).shared, drawn_a, drawn_b, progress)
    tested, q_value = _tested(a, b, p_value)
    if a is b:
        np.fill_diagonal(expected, np.nan)
    return {"expected_by_breadth": expected, "p_by_breadth": tested, "q_by_breadth": q_value}


def _tested(a: Sets, b: Sets, p_value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p- and q-values of classes that have neurons; within a label set every two count once."""
    have_neurons = np.logical_and.outer(a.specific.any(axis=(1, 2)), b.specific.any(axis=(1, 2)))
    tested = np.where(have_neurons, p_value, np.nan)
    if a is not b:
        return tested, benjamini_hochberg(tested.ravel()).reshape(tested.shape)
    tested[np.tril_indices(len(tested))] = np.nan
    q_value = benjamini_hochberg(tested.ravel()).reshape(tested.shape)
    return np.fmax(tested, tested.T), np.fmax(q_value, q_value.T)


def _table(a: Sets, b: Sets, found: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row for every two classes; within a label set every two once."""
    shape = found["jaccard"].shape
    row, column = np.triu_indices(shape[0], 1) if a is b else (axis.ravel() for axis in np.indices(shape))
    values = {name: matrix[row, column] for name, matrix in found.items()}
    return pd.DataFrame(
        {
            "run_a": a.run, "label_set_a": a.label_set, "class_a": np.array(a.classes, object)[row],
            "run_b": b.run, "label_set_b": b.label_set, "class_b": np.array(b.classes, object)[column],
            **values,
        }
    )  # fmt: skip
