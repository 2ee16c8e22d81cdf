"""The stage `reproduce`: the paper's published figures beside those found here.

Source: arXiv:2602.15307, and the configurations that its authors published (`published_ablations.toml`).
"""

import dataclasses

import pandas as pd

from jaxdissect.ablation.confusion import confusion
from jaxdissect.ablation.interventions import check_sets, make_interventions
from jaxdissect.counting.stream import neuron_shape
from jaxdissect.encoder.directory import load_encoder
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import require
from jaxdissect.options.ablate import AblateOptions
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.options.probe import ProbeOptions
from jaxdissect.options.reproduce import PUBLISHED_ABLATIONS, ReproduceOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.runtime.run_directory import Run
from jaxdissect.runtime.tables import write_csv
from jaxdissect.selection.aape import SelectionRule
from jaxdissect.selection.labelled import Neurons, select_neurons
from jaxdissect.selection.neuron_set_files import CONTROL_SUFFIX, published_sets
from jaxdissect.selection.neuron_sets import NeuronSet, neuron_set, parse_neuron_set
from jaxdissect.selection.neuron_table import read_specific
from jaxdissect.selection.published_figures import (
    COLUMNS,
    SHARING_WITHIN,
    ablation_rows,
    overlap_rows,
    selection_rows,
    sharing_rows,
)
from jaxdissect.sharing.share import read_sets
from jaxdissect.stages.ablate import AblateResult, check_ahead, run_ablate
from jaxdissect.stages.ablation_plan import ablation_options, read_plan
from jaxdissect.stages.activations import ActivationsResult, run_activations
from jaxdissect.stages.neurons import run_neurons
from jaxdissect.stages.probe import run_probe
from jaxdissect.stages.share import require_different, run_share
from jaxdissect.tasks.known import label_names, load_task
from jaxdissect.tasks.table import Task
from jaxdissect.types import Record

LABELS = {"vc1": "gender,country", "nspitch": "octave", "surge": "octave"}  # of the others, the task's first


@dataclasses.dataclass(frozen=True, eq=False)
class Reproduction:
    """Published figures and those found here.

    Attributes:
      counted: result of the stage `activations`.
      neurons: neurons that were chosen.
      figures: a row per figure (and class): `published`, NaN where nothing was published, and `found`.
      ablation: ablation of the published neuron set and of its published control; None for a task without one.
      confusion: confusion matrices before and after, as `confusion.csv`; None for a task without one.
      published: published ablation; None for a task without one.
    """

    counted: ActivationsResult
    neurons: Neurons
    figures: pd.DataFrame
    ablation: AblateResult | None
    confusion: pd.DataFrame | None
    published: Record | None


def run_reproduce(options: ReproduceOptions) -> Reproduction:
    """Count, select, share, probe, and repeat the published ablation; writes `reproduction.csv` beside their files.

    Args:
      options: options of the stage.

    Raises:
      InputError: an option or a file breaks a rule, the encoder lacks neurons of the published set, or a run to share
        with has no neurons or another shape.
    """
    name, run = PUBLISHED_ABLATIONS.get(options.task), Run(options.run)
    counting = _counting(options)
    task = load_task(
        options.task, options.data, label_names(counting.label), options.unit_seconds, counting.multi_label
    )
    _require_one_label(task)
    with under_way(f"Loading {options.encoder}"):
        encoder = load_encoder(options.encoder, options.dtype)
    # Mistakes are reported before the long count, not after.
    require_different([options.run, *options.with_])
    shape = neuron_shape(encoder, task)
    for folder in options.with_:
        layers, width = read_sets(Run(folder))[0].rate.shape
        require(
            (layers, width) == shape,
            f"--with {folder}: its encoder has {layers} layers of {width:,} neurons, --encoder {options.encoder} "
            f"{shape[0]} of {shape[1]:,}: they cannot be compared.",
        )
    ablating = AblateOptions(
        run=options.run,
        neurons=(f"@{name}", f"@{name}{CONTROL_SUFFIX}"),
        controls=options.controls,
        seed=options.seed,
        causal_map=False,
    )
    if name is not None:
        sets = _require_published(name, encoder, task)
        ablating = dataclasses.replace(ablating, match=check_ahead(encoder, task))
        check_sets(sets, shape, ablation_options(ablating))
    counted = run_activations(counting)
    # The paper's selection, as its figures allow it. Labels are not permuted, which the paper does not do either.
    neurons = run_neurons(NeuronsOptions(run=options.run, preset="lape", permutations=0))
    literal = select_neurons(counted.activations, SelectionRule("aape", neurons.scores.attrs["keep"]))
    rows = selection_rows(options.task, neurons, literal)
    if options.with_ or any(labels.name in SHARING_WITHIN for labels in task.label_sets):
        rows += sharing_rows(run_share(ShareOptions(run=options.run, with_=options.with_)).table)
    ablation = matrices = published = None
    if name is not None:
        published = published_sets()[name]
        shared_here = parse_neuron_set(" & ".join(published["classes"]), read_specific(run, task.classes))
        rows += overlap_rows(shared_here, _as_set(name), neurons.scores.sizes["neuron"])
        run_probe(
            ProbeOptions(
                run=options.run, seeds=options.seeds, learning_rate=options.learning_rate, batch_size=options.batch_size
            )
        )
        ablation, matrices = run_ablate(ablating), _confusion(ablating)
        rows += ablation_rows(published, ablation.ablation.table, name)
        write_csv(matrices, run.file("confusion.csv"))
    figures = pd.DataFrame(rows, columns=list(COLUMNS))
    write_csv(figures, run.file("reproduction.csv"))
    return Reproduction(counted, neurons, figures, ablation, matrices, published)


def _counting(options: ReproduceOptions) -> ActivationsOptions:
    return ActivationsOptions(
        encoder=options.encoder,
        task=options.task,
        data=options.data,
        run=options.run,
        label=LABELS.get(options.task),
        unit_seconds=options.unit_seconds,
        # The paper counts the isolated events of GISE-51, each with one label.
        multi_label=False if options.task == "gise51" else None,
        split="all",  # as in the paper: neurons are then judged by halves of the recordings
        batch_size=options.batch_size,
        dtype=options.dtype,
    )


def _require_one_label(task: Task) -> None:
    """Refuse mixtures of GISE-51, whose clips have several labels.

    Raises:
      InputError: names the first such label.
    """
    several = next((name for _, name in task.classes if "," in name), None)
    require(
        task.name != "gise51" or several is None,
        f"--data {task.data}: a clip has the labels {several!r}. The paper counts isolated events: give the table of "
        f"these, one label a clip.",
    )


def _confusion(ablating: AblateOptions) -> pd.DataFrame:
    """Confusion matrices of the untouched encoder, and with the published set and its control silenced."""
    plan = read_plan(ablating)
    chosen = make_interventions(plan.sets, plan.shape, dataclasses.replace(plan.ablation, controls=0))
    with progress_bar(what="Confusion matrices", total=len(chosen) * len(plan.task), unit="pass") as bar:
        return confusion(
            plan.encoder,
            plan.task,
            plan.judges,
            chosen,
            plan.shape,
            batch_size=ablating.batch_size,
            progress=bar.update_to,
        )


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
