"""The stage `reproduce`: the paper's published figures beside those found here.

Source: arXiv:2602.15307, and the configurations that its authors published (`published_ablations.toml`).
"""

import dataclasses
from typing import TypeAlias

import numpy as np
import pandas as pd

from jaxdissect.ablation.interventions import check_sets
from jaxdissect.counting.stream import neuron_shape
from jaxdissect.encoder.directory import load_encoder
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import require
from jaxdissect.options.ablate import AblateOptions
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.options.probe import ProbeOptions
from jaxdissect.options.reproduce import PUBLISHED_ABLATIONS, ReproduceOptions
from jaxdissect.runtime.progress import under_way
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.tables import write_csv
from jaxdissect.selection.aape import SelectionRule
from jaxdissect.selection.labelled import Neurons, select_neurons
from jaxdissect.selection.neuron_set_files import CONTROL_SUFFIX, published_sets
from jaxdissect.selection.neuron_sets import NeuronSet, neuron_set, parse_neuron_set
from jaxdissect.selection.neuron_table import read_specific
from jaxdissect.stages.ablate import AblateResult, check_ahead, run_ablate
from jaxdissect.stages.ablation_plan import ablation_options
from jaxdissect.stages.activations import ActivationsResult, run_activations
from jaxdissect.stages.neurons import run_neurons
from jaxdissect.stages.probe import run_probe
from jaxdissect.tasks.known import load_task
from jaxdissect.tasks.table import Task
from jaxdissect.types import Record

# A row of reproduction.csv: name of the figure, class or "" for all classes, published value, value found here.
Row: TypeAlias = tuple[str, str, float, float]
COLUMNS = ("figure", "class", "published", "found")
PUBLISHED_NEURONS_PER_CLASS = {"cremad": 172.0, "esc50": 37.9}
# From these, and the number of neurons that 1% and 2% of all keep: 172.0 x 6 / 369, and 37.9 x 50 / 737.
PUBLISHED_CLASSES_PER_NEURON = {"cremad": 2.8, "esc50": 2.6}
PUBLISHED_COVERAGE = 1.0  # "about 100%" of every task, for the self-supervised encoder


@dataclasses.dataclass(frozen=True, eq=False)
class Reproduction:
    """Published figures and those found here.

    Attributes:
      counted: result of the stage `activations`.
      neurons: neurons that were chosen.
      figures: a row per figure (and class): `published`, NaN where nothing was published, and `found`.
      ablation: ablation of the published neuron set and of its published control; None for a task without one.
      published: published ablation; None for a task without one.
    """

    counted: ActivationsResult
    neurons: Neurons
    figures: pd.DataFrame
    ablation: AblateResult | None
    published: Record | None


def run_reproduce(options: ReproduceOptions) -> Reproduction:
    """Count, select, probe, and repeat the published ablation; writes `reproduction.csv` beside the stages' files.

    Args:
      options: options of the stage.

    Raises:
      InputError: an option or a file breaks a rule, or the encoder lacks neurons of the published set.
    """
    name, run = PUBLISHED_ABLATIONS.get(options.task), Run(options.run)
    published = None if name is None else published_sets()[name]
    task = load_task(options.task, options.data)
    with under_way(f"Loading {options.encoder}"):
        encoder = load_encoder(options.encoder, options.dtype)
    probing = ProbeOptions(
        run=options.run, seeds=options.seeds, learning_rate=options.learning_rate, batch_size=options.batch_size
    )
    ablating = AblateOptions(
        run=options.run,
        neurons=(f"@{name}", f"@{name}{CONTROL_SUFFIX}"),
        controls=options.controls,
        seed=options.seed,
        causal_map=False,
    )
    if name is not None:  # a mistake is reported before the long count, not after
        sets = _require_published(name, encoder, task)
        ablating = dataclasses.replace(ablating, match=check_ahead(encoder, task))
        check_sets(sets, neuron_shape(encoder, task), ablation_options(ablating))
    counted = run_activations(
        ActivationsOptions(
            encoder=options.encoder,
            task=options.task,
            data=options.data,
            run=options.run,
            split="all",  # as in the paper: neurons are then judged by halves of the recordings
            batch_size=options.batch_size,
            dtype=options.dtype,
        )
    )
    # The paper's selection, as its figures allow it. Labels are not permuted, which the paper does not do either.
    neurons = run_neurons(NeuronsOptions(run=options.run, preset="lape", permutations=0))
    literal = select_neurons(counted.activations, SelectionRule("aape", neurons.scores.attrs["keep"]))
    rows = _selection_rows(options.task, neurons, literal)
    ablation = None
    if published is not None and name is not None:
        shared_here = parse_neuron_set(" & ".join(published["classes"]), read_specific(run, task.classes))
        rows += _overlap_rows(shared_here, _as_set(name), neurons.scores.sizes["neuron"])
        run_probe(probing)
        ablation = run_ablate(ablating)
        rows += _ablation_rows(published, ablation.ablation.table, name)
    figures = pd.DataFrame(rows, columns=list(COLUMNS))
    write_csv(figures, run.file("reproduction.csv"))
    return Reproduction(counted, neurons, figures, ablation, published)


def _require_published(name: str, encoder: Encoder, task: Task) -> list[NeuronSet]:
    """The published neuron set and its control.

    Raises:
      InputError: the task lacks a published class, or the encoder a neuron of the set.
    """
    classes = [class_name for _, class_name in task.classes]
    missing = sorted(set(published_sets()[name]["test_clips"]) - set(classes))
    require(
        not missing,
        f"--data {task.data}: the table of {task.name} lacks the published classes {', '.join(missing)}; it has "
        f"{', '.join(classes[:12])}.",
    )
    return [_as_set(name), _as_set(f"{name}{CONTROL_SUFFIX}")]


def _as_set(name: str) -> NeuronSet:
    """A published neuron set, or its control, by its name."""
    return neuron_set(f"@{name}", [tuple(pair) for pair in published_sets()[name]["neurons"]])


def _selection_rows(task: str, neurons: Neurons, literal: Neurons) -> list[Row]:
    """Coverage and neurons per class of the first label set, by both readings of the paper.

    Args:
      task: name of the task.
      neurons: neurons by preset lape, the reading that the published figures allow.
      literal: neurons by preset aape, the paper's words taken literally.
    """
    coverage, words = neurons.coverage.iloc[0], literal.coverage.iloc[0]
    return [
        (
            "neurons per class",
            "",
            PUBLISHED_NEURONS_PER_CLASS.get(task, np.nan),
            float(coverage["mean_neurons_per_class"]),
        ),
        ("coverage", "", PUBLISHED_COVERAGE, float(coverage["coverage"])),
        (
            "classes per neuron",
            "",
            PUBLISHED_CLASSES_PER_NEURON.get(task, np.nan),
            float(coverage["mean_classes_per_neuron"]),
        ),
        ("neurons per class, preset aape", "", np.nan, float(words["mean_neurons_per_class"])),
        ("coverage, preset aape", "", np.nan, float(words["coverage"])),
    ]


def _overlap_rows(shared_here: NeuronSet, published: NeuronSet, neurons: int) -> list[Row]:
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


def _ablation_rows(published: Record, table: pd.DataFrame, name: str) -> list[Row]:
    rows = []
    by_set = {
        kind: table[table["intervention"] == f"@{name}{kind}"].set_index("class") for kind in ("", CONTROL_SUFFIX)
    }
    for label, clips in published["test_clips"].items():
        target, control = by_set[""].loc[label], by_set[CONTROL_SUFFIX].loc[label]
        before = published["accuracy"][label] - published["change"][label]
        of_control = published.get("control_change", {}).get(label, np.nan)
        rows += [
            ("test clips", label, clips, target["clips"]),
            ("accuracy before", label, before, target["accuracy_before"]),
            ("accuracy after ablation", label, published["accuracy"][label], target["accuracy_after"]),
            ("change by ablation", label, published["change"][label], target["change"]),
            ("change by the control", label, of_control, control["change"]),
            ("margin change by ablation", label, np.nan, target["margin_change"]),
            ("margin change by random controls", label, np.nan, target["control_mean"]),
            ("p-value of the margin change", label, np.nan, target["p_value"]),
        ]
    return [(figure, str(label), float(known), float(measured)) for figure, label, known, measured in rows]
