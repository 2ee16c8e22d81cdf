"""The published figures and findings, as rows beside what is found here.

Source: Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307; EUSIPCO 2026), and the configurations
that its authors published (`published_ablations.toml`).
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from jaxdissect.selection.labelled import Neurons
from jaxdissect.selection.neuron_set_files import CONTROL_SUFFIX
from jaxdissect.selection.neuron_sets import NeuronSet
from jaxdissect.types import Record

# Columns of `reproduction.csv`. The class is "" for a figure of all classes; `published` is NaN where the paper gives
# no number.
COLUMNS = ("figure", "class", "published", "found")
Row: TypeAlias = tuple[str, str, float, float]

NEURONS_PER_CLASS = {("cremad", "emotion"): 172.0, ("esc50", "event"): 37.9}
# From these, and the number of neurons that 1% and 2% of all keep: 172.0 x 6 / 369, and 37.9 x 50 / 737.
CLASSES_PER_NEURON = {("cremad", "emotion"): 2.8, ("esc50", "event"): 2.6}
COVERAGE = 1.0  # "about 100%" of every task, for the self-supervised encoder
SUPERVISED_COVERAGE = {("vc1", "country"): 17 / 35}  # of the supervised twin

# Classes of one label set that share neurons. A class may be written in several ways, in any case.
SHARING_WITHIN: dict[str, tuple[tuple[tuple[str, ...], ...], ...]] = {
    "emotion": ((("ang",), ("hap",)), (("dis",), ("fea",), ("neu",), ("sad",))),
    "genre": ((("classical",), ("jazz",)),),
    "language": (
        (("de", "german"), ("en", "english")),
        (("es", "spanish"), ("fr", "french"), ("it", "italian"), ("ru", "russian")),
    ),
}


class Across(NamedTuple):
    """What classes of two runs have to do with each other.

    Attributes:
      finding: what the paper says of them, as the name of a figure.
      holds: whether it is about two classes, given by their names in lower case.
    """

    finding: str
    holds: Callable[[str, str], bool]


def _contains(*words: str) -> Callable[[str], bool]:
    return lambda name: any(word in name for word in words)


def _either(first: Callable[[str], bool], second: Callable[[str], bool]) -> Callable[[str, str], bool]:
    """Whether one class is the first and the other the second, whichever run has which."""
    return lambda a, b: (first(a) and second(b)) or (second(a) and first(b))


# By the name of the label set, which both runs have; the last entry holds for all pairs that are left.
SHARING_ACROSS: dict[str, tuple[Across, ...]] = {
    "gender": (
        Across("the same gender (published: far more, for the self-supervised encoder)", lambda a, b: a[:1] == b[:1]),
        Across("the other gender", lambda a, b: True),
    ),
    "octave": (
        Across("the same octave (published: much)", lambda a, b: int(a) == int(b)),
        Across("adjacent octaves (published: much)", lambda a, b: abs(int(a) - int(b)) == 1),
        Across("octaves further apart", lambda a, b: True),
    ),
    "event": (
        Across("train and wind (published: they share)", _either(_contains("train"), _contains("wind"))),
        Across("cough and dog (published: they share)", _either(_contains("cough"), _contains("dog", "bark"))),
        Across("toilet flush with itself (published: they share)", _either(_contains("toilet"), _contains("toilet"))),
        Across("laughing with itself (published: they share)", _either(_contains("laugh"), _contains("laugh"))),
        Across("the same name otherwise", lambda a, b: a == b),
        Across("other events (published: low)", lambda a, b: True),
    ),
}


def selection_rows(task: str, neurons: Neurons, literal: Neurons) -> list[Row]:
    """Coverage and neurons per class of every label set, by both readings of the paper.

    Args:
      task: name of the task.
      neurons: neurons by preset lape, the reading that the published figures allow.
      literal: neurons by preset aape, the paper's words taken literally.
    """
    rows = []
    for (_, here), (_, words) in zip(neurons.coverage.iterrows(), literal.coverage.iterrows(), strict=True):
        key = task, here["label_set"]
        of_set = f"{here['label_set']}: " if len(neurons.coverage) > 1 else ""
        figures = [
            ("neurons per class", NEURONS_PER_CLASS.get(key, np.nan), here["mean_neurons_per_class"]),
            ("coverage", COVERAGE, here["coverage"]),
            ("classes per neuron", CLASSES_PER_NEURON.get(key, np.nan), here["mean_classes_per_neuron"]),
            ("neurons per class, preset aape", np.nan, words["mean_neurons_per_class"]),
            ("coverage, preset aape", np.nan, words["coverage"]),
        ]
        if key in SUPERVISED_COVERAGE:
            figures.insert(2, ("coverage, supervised encoder", SUPERVISED_COVERAGE[key], np.nan))
        rows += [(f"{of_set}{figure}", "", float(known), float(found)) for figure, known, found in figures]
    return rows


def sharing_rows(sharing: pd.DataFrame) -> list[Row]:
    """Mean Jaccard coefficients of the classes that the paper says share neurons, and of the others beside.

    Args:
      sharing: table of `sharing.csv`.
    """
    rows = []
    for _, pairs in sharing.groupby(["run_a", "label_set_a", "run_b", "label_set_b"], sort=False):
        run_a, set_a, run_b, set_b = pairs.iloc[0][["run_a", "label_set_a", "run_b", "label_set_b"]]
        if set_a != set_b:
            continue
        if run_a == run_b:
            rows += _within(pairs, SHARING_WITHIN.get(set_a, ()))
        else:
            rows += _across(pairs, SHARING_ACROSS.get(set_a, ()), set_b, run_b)
    return rows


def _within(pairs: pd.DataFrame, groups: Iterable[tuple[tuple[str, ...], ...]]) -> list[Row]:
    a, b = (pairs[column].str.lower() for column in ("class_a", "class_b"))
    rows, left = [], pd.Series(data=True, index=pairs.index)
    for group in groups:
        members = {name for names in group for name in names}
        inside = a.isin(members) & b.isin(members)
        names = dict.fromkeys([*pairs["class_a"][inside], *pairs["class_b"][inside]])
        if inside.any():
            rows.append(_jaccard_row(f"{' & '.join(names)} (published: they share)", pairs[inside]))
        left &= ~inside
    return [*rows, _jaccard_row("other pairs", pairs[left])] if rows and left.any() else rows


def _across(pairs: pd.DataFrame, findings: Iterable[Across], label_set: str, other_run: str) -> list[Row]:
    names = list(zip(pairs["class_a"].str.lower(), pairs["class_b"].str.lower(), strict=True))
    rows, left = [], np.ones(len(pairs), bool)
    for finding, holds in findings:
        held = left & np.array([holds(*both) for both in names], bool)
        left &= ~held
        if held.any():
            rows.append(_jaccard_row(f"{label_set} in {other_run}: {finding}", pairs[held]))
    return rows


def _jaccard_row(what: str, pairs: pd.DataFrame) -> Row:
    return f"mean Jaccard, {what}", "", np.nan, float(pairs["jaccard"].mean())


def overlap_rows(shared_here: NeuronSet, published: NeuronSet, neurons: int) -> list[Row]:
    """How much the neurons that the published classes share here have in common with the published set.

    Args:
      shared_here: neurons that the classes share with this encoder.
      published: published neuron set.
      neurons: number of neurons in a layer.
    """
    ours, theirs = set(shared_here.neurons), set(published.neurons)
    layers = {layer for layer, _ in ours | theirs}
    sizes = [[sum(pair[0] == layer for pair in pairs) for pairs in (ours, theirs)] for layer in layers]
    # Mean of a hypergeometric distribution in every layer: both sets drawn at random, with their sizes kept.
    by_chance = sum(size_here * size_published / neurons for size_here, size_published in sizes)
    classes = " & ".join(name for _, name in shared_here.classes)
    return [
        (f"neurons of {classes}", "", len(theirs), len(ours)),
        (f"of them in the published set ({by_chance:.2f} by chance, given the layers)", "", np.nan, len(ours & theirs)),
        ("Jaccard with the published set", "", np.nan, len(ours & theirs) / max(len(ours | theirs), 1)),
    ]


def ablation_rows(published: Record, table: pd.DataFrame, name: str) -> list[Row]:
    """What silencing the published set does to every class, beside its control.

    Args:
      published: published ablation.
      table: table of `ablation.csv`.
      name: name of the published set.
    """
    rows = []
    by_set = {
        kind: table[table["intervention"] == f"@{name}{kind}"].set_index("class") for kind in ("", CONTROL_SUFFIX)
    }
    for label, clips in published["test_clips"].items():
        target, control = by_set[""].loc[label], by_set[CONTROL_SUFFIX].loc[label]
        before = published["accuracy"][label] - published["change"][label]
        rows += [
            ("test clips", label, clips, target["clips"]),
            ("accuracy before", label, before, target["accuracy_before"]),
            ("accuracy after ablation", label, published["accuracy"][label], target["accuracy_after"]),
            ("change by ablation", label, published["change"][label], target["change"]),
            ("accuracy after the control", label, published["control_accuracy"][label], control["accuracy_after"]),
            ("change by the control", label, published["control_change"][label], control["change"]),
            ("margin change by ablation", label, np.nan, target["margin_change"]),
            ("margin change by random controls", label, np.nan, target["control_mean"]),
            ("p-value of the margin change", label, np.nan, target["p_value"]),
        ]
    return [(figure, str(label), float(known), float(measured)) for figure, label, known, measured in rows]
