"""Which classes share neurons, in one run and across runs, and how much chance would share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from jaxdissect.errors import require
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.runtime.run_directory import Run, require_same_run
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.selection.neuron_table import read_specific
from jaxdissect.selection.overlap import overlap
from jaxdissect.sharing.breadth import RandomClasses, breadth_overlap, random_classes
from jaxdissect.sharing.chance import chance_overlap, rate_strata
from jaxdissect.sharing.clusters import cluster
from jaxdissect.significance.p_values import benjamini_hochberg

# Values of the column `null`: what the classes of a row are compared with.
PERMUTED_LABELS, LAYER_AND_RATE = "permuted labels", "layer and rate"
SHARING_VARIABLES = {  # of `sharing.nc`, with the axes (class_a, class_b)
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
      run: name of the run directory.
      label_set: name of the label set.
      classes: names of its classes, also of those without neurons.
      specific: neurons of each class.
      rate: activation rate of every neuron on the label set: share of active tokens, from 0 to 1, mean over classes.
      encoder: SHA-256 of the encoder.
    """

    run: str
    label_set: str
    classes: tuple[str, ...]
    specific: Bool[np.ndarray, "class layer neuron"]
    rate: Float[np.ndarray, "layer neuron"]
    encoder: str


@dataclasses.dataclass(frozen=True, eq=False)
class Sharing:
    """What classes share.

    Attributes:
      table: table with a row for every two classes.
      matrices: the same numbers as arrays (class_a, class_b): classes of the run, and classes of it and all others.
      order: classes of each label set of the run, clustered by the neurons that they share.
      other_encoders: runs whose encoder differs from the run's.
    """

    table: pd.DataFrame
    matrices: xr.Dataset
    order: dict[str, list[str]]
    other_encoders: tuple[str, ...]


def share(
    own: Sequence[Sets], others: Sequence[Sets] = (), permuted: Mapping[str, xr.Dataset] | None = None
) -> Sharing:
    """Which classes share neurons.

    Two questions are asked of every two classes. First, whether they share more than chance. Classes of one label set
    are compared with permuted labels, where these were drawn; all others with random sets of as many neurons in each
    layer and range of activation rates. Second, whether these two in particular share: they are compared with random
    sets in which every neuron has as many classes, and every class as many neurons. q-values are over the pairs of each
    two label sets.

    Source: Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307), for Jaccard coefficients of
    neuron sets; the comparisons with chance are not from there.

    Args:
      own: label sets of one run.
      others: label sets of other runs, whose encoders have the same shape.
      permuted: results of permuted labels by label set of `own`, as in `permutations.nc`.
    """
    everything, permuted = [*own, *others], permuted or {}
    # Classes of all label sets lie on one axis: those of a label set begin where the set before it ends.
    ends = np.cumsum([0, *(len(sets.classes) for sets in everything)])
    matrices = {name: np.full((int(ends[len(own)]), int(ends[-1])), np.nan) for name in SHARING_VARIABLES}
    tables, pairs = [], [(i, j) for i in range(len(own)) for j in range(i, len(everything))]
    # One fit for each label set, used in all of its comparisons.
    with under_way("Fitting random sets to the breadth of the neurons"):
        drawn = [random_classes(sets.specific.reshape(len(sets.classes), -1)) for sets in everything]
    with progress_bar(what="Sharing", total=2 * sum(len(own[i].classes) for i, _ in pairs), unit="class") as bar:
        for i, j in pairs:
            # Permuted labels say nothing of classes of two label sets.
            null = permuted.get(own[i].label_set) if i == j else None
            columns = _compare(own[i], everything[j], null, (drawn[i], drawn[j]), bar.update)
            block = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
            for name, matrix in matrices.items():
                matrix[block] = columns[name]
                if j < len(own):  # both label sets are on both axes: the mirrored block
                    matrix[block[::-1]] = columns[name].T
            tables.append(_table(own[i], everything[j], columns))
    return Sharing(
        pd.concat(tables, ignore_index=True),
        _dataset(own, everything, matrices),
        {sets.label_set: [sets.classes[index] for index in cluster(sets.specific)] for sets in own},
        # Each run once, in the order given.
        tuple(dict.fromkeys(sets.run for sets in others if sets.encoder != own[0].encoder)),
    )


def read_sets(run: Run) -> list[Sets]:
    """The neuron sets of a run, by label set.

    Args:
      run: run directory with the stage `neurons`.

    Raises:
      InputError: no neurons were selected, or the files are damaged or of another run.
    """
    record = run.require("neurons")
    scores, counts = read_netcdf(run.file("scores.nc")), read_netcdf(run.file("activations.nc"))
    for dataset in (counts, scores):
        require_same_run(run, dataset.attrs, run.require("activations"))
    keys = list(zip(counts["label_set"].values.tolist(), counts["class"].values.tolist(), strict=True))
    pairs = read_specific(run, tuple(keys))
    result = []
    for label_set in scores["label_set"].values.tolist():
        classes = tuple(name for of_set, name in keys if of_set == label_set)
        rate, kept = (scores[name].sel(label_set=label_set).values for name in ("rate", "kept"))
        # The table lists pairs; as masks, the sets of all classes are one array.
        specific = np.zeros((len(classes), *rate.shape), bool)
        for index, name in enumerate(classes):
            for layer, neuron in pairs[label_set, name]:
                specific[index, layer, neuron] = True
        require(
            bool(kept.astype(bool)[specific.any(axis=0)].all()),
            f"{run.path}: neurons.csv and scores.nc are of different selections: run `jaxdissect neurons --run "
            f"{run.path}` again.",
        )
        result.append(Sets(str(run.path), label_set, classes, specific, rate, record["fingerprints"]["encoder"]))
    return result


def _compare(
    a: Sets,
    b: Sets,
    permuted: xr.Dataset | None,
    drawn: tuple[RandomClasses, RandomClasses],
    progress: Callable[[int], object],
) -> dict[str, np.ndarray]:
    """Columns of `sharing.csv` for two label sets, as arrays (class_a, class_b)."""
    observed = overlap(a.specific, b.specific)
    null, low, high = LAYER_AND_RATE, *np.full((2, *observed.shared.shape), np.nan)
    # A selection that is not by AAPE was permuted, but has no p-values of sharing.
    if permuted is None or np.isnan(permuted["p_value"].values).all():
        expected, p_value = chance_overlap(a.specific, b.specific, rate_strata(a.rate, b.rate), progress)
    else:
        null, expected, p_value = PERMUTED_LABELS, permuted["expected_shared"].values, permuted["p_value"].values
        low, high = permuted["jaccard_low"].values, permuted["jaccard_high"].values
        progress(len(a.classes))
    by_breadth, p_by_breadth = breadth_overlap(observed.shared, *drawn, progress)
    if a is b:
        np.fill_diagonal(by_breadth, np.nan)  # without meaning
    tested, q_value = _tested(a, b, p_value)
    tested_by_breadth, q_by_breadth = _tested(a, b, p_by_breadth)
    return {
        "size_a": np.broadcast_to(observed.size_a[:, None], expected.shape),
        "size_b": np.broadcast_to(observed.size_b, expected.shape),
        "shared": observed.shared,
        "jaccard": observed.jaccard,
        "expected_shared": expected,
        "p_value": tested,
        "q_value": q_value,
        "null": np.full(expected.shape, null, object),
        "jaccard_low": low,
        "jaccard_high": high,
        "expected_by_breadth": by_breadth,
        "p_by_breadth": tested_by_breadth,
        "q_by_breadth": q_by_breadth,
    }


def _tested(
    a: Sets, b: Sets, p_value: Float[np.ndarray, "class_a class_b"]
) -> tuple[Float[np.ndarray, "class_a class_b"], Float[np.ndarray, "class_a class_b"]]:
    """p- and q-values of classes that have neurons; within a label set every two classes count once."""
    # A class without neurons shares nothing by construction; it must not count as a test.
    have_neurons = np.logical_and.outer(a.specific.any(axis=(1, 2)), b.specific.any(axis=(1, 2)))
    tested = np.where(have_neurons, p_value, np.nan)
    if a is b:
        tested[np.tril_indices(len(tested))] = np.nan  # the upper triangle is tested, and mirrored below
    q_value = benjamini_hochberg(tested.ravel()).reshape(tested.shape)
    # fmax takes the number where one side is NaN.
    return (np.fmax(tested, tested.T), np.fmax(q_value, q_value.T)) if a is b else (tested, q_value)


def _table(a: Sets, b: Sets, columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Rows of `sharing.csv` for two label sets; within a label set every two classes have one row."""
    # Within a label set the pairs above the diagonal, else all pairs.
    shape = columns["jaccard"].shape
    row, column = np.triu_indices(shape[0], 1) if a is b else (axis.ravel() for axis in np.indices(shape))
    names = {
        "run_a": a.run,
        "label_set_a": a.label_set,
        "class_a": np.array(a.classes, object)[row],
        "run_b": b.run,
        "label_set_b": b.label_set,
        "class_b": np.array(b.classes, object)[column],
    }
    return pd.DataFrame(names | {name: matrix[row, column] for name, matrix in columns.items()})


def _dataset(own: Sequence[Sets], everything: Sequence[Sets], matrices: Mapping[str, np.ndarray]) -> xr.Dataset:
    """The dataset of `sharing.nc`, with class, label set and run on both axes."""
    arrays: dict[str, tuple[object, ...]] = {
        name: (("class_a", "class_b"), matrix, {"long_name": SHARING_VARIABLES[name]})
        for name, matrix in matrices.items()
    }
    coordinates = {}
    for side, label_sets in (("a", own), ("b", everything)):
        axis = f"class_{side}"
        size = np.concatenate([sets.specific.sum(axis=(1, 2)) for sets in label_sets])
        arrays[f"size_{side}"] = (axis, size, {"long_name": "neurons of the class"})
        names = [(name, sets.label_set, sets.run) for sets in label_sets for name in sets.classes]
        for kind, values in zip(("class", "label_set", "run"), zip(*names, strict=True), strict=True):
            coordinates[f"{kind}_{side}"] = (axis, np.array(values, object))
    return xr.Dataset(arrays, coordinates)
