"""What an ablation is to do: encoder, test split, probes and neuron sets, checked before anything long starts."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxdissect.ablation.interventions import AblationOptions, check_sets, suite_sets
from jaxdissect.ablation.tables import require_clips
from jaxdissect.counting.stream import neuron_shape
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import require
from jaxdissect.options.ablate import AblateOptions
from jaxdissect.probe.files import read_judges
from jaxdissect.probe.judge import Judge
from jaxdissect.runtime.files import json_fingerprint, sha256_file
from jaxdissect.runtime.run_directory import Run
from jaxdissect.selection.neuron_set_files import read_neuron_set
from jaxdissect.selection.neuron_sets import ClassName, NeuronSet, names_a_class, parse_neuron_set
from jaxdissect.selection.neuron_table import read_specific
from jaxdissect.stages.activations import read_activations
from jaxdissect.stages.inputs import input_fingerprints, load_inputs, stage_inputs
from jaxdissect.tasks.table import Task
from jaxdissect.types import Record


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What an ablation is to do.

    Attributes:
      options: options of the stage.
      ablation: those that concern the interventions.
      run: run directory.
      encoder: the run's encoder.
      task: test split of the run's task.
      judges: judge of each label set, with the test clips as its members.
      shape: layers, and neurons per layer, of the encoder.
      dtype: type of the encoder's computation.
      sets: neuron sets to intervene on.
      left_out: names of empty neuron sets, which a suite leaves out.
      means: mean activation of every neuron, for mode "mean"; else None.
      record: record of the stage for `run.json`, before it has run.
    """

    options: AblateOptions
    ablation: AblationOptions
    run: Run
    encoder: Encoder
    task: Task
    judges: Mapping[str, Judge]
    shape: tuple[int, int]
    dtype: str
    sets: Sequence[NeuronSet]
    left_out: Sequence[str]
    means: Float[np.ndarray, "layer neuron"] | None
    record: Record


def read_plan(options: AblateOptions) -> Plan:
    """Read the run directory and check everything.

    Args:
      options: options of the stage.

    Raises:
      InputError: a stage is missing or of another encoder or task, a class has no test clip, or a neuron set is empty,
        out of range, or too large for its controls.
    """
    run, ablation = Run(options.run), ablation_options(options)
    run.require("probe")
    inputs = stage_inputs(options, run, "probe")
    encoder, whole = load_inputs(inputs)
    require_mode(encoder, ablation)
    prints = input_fingerprints(encoder, whole)
    # Neurons and probes of another encoder or task would be read without an error, and mean nothing.
    for stage, what in (("activations", "counts"), ("neurons", "neurons")):
        run.require_inputs(stage, what, prints)
    judges = read_judges(run, encoder, whole, prints)
    # Judges know the classes of all clips; the test split takes its rows, in its order.
    test = [row for row, split in enumerate(whole.splits) if split == "test"]
    judges = {name: dataclasses.replace(judge, members=judge.members[test]) for name, judge in judges.items()}
    task = whole.only("test")
    for labels in task.label_sets:  # before controls are drawn: without clips nothing can be said of a class
        require_clips(task, labels)
    shape = neuron_shape(encoder, task)
    sets, left_out = chosen_sets(options.neurons, options.suite, run, task.classes)
    check_sets(sets, shape, ablation)  # also that there are enough neurons to draw controls from
    means = neuron_means(run, shape) if options.mode == "mean" else None
    neurons, dtype = run.file("neurons.csv"), inputs["dtype"]
    record = {
        "options": dataclasses.asdict(ablation)
        | {
            "neurons": list(options.neurons),
            "suite": list(options.suite),
            "causal_map": options.causal_map,
            "map_sample": options.map_sample,
            "dtype": dtype,
            "batch_size": options.batch_size,
        },
        "fingerprints": prints
        | {
            "probe": sha256_file(run.file("probe") / "probe.json"),
            "neurons": sha256_file(neurons) if neurons.is_file() else None,  # all sets may come from other files
            "recordings": json_fingerprint(task.sources),  # what intervals resample
        },
    }
    return Plan(options, ablation, run, encoder, task, judges, shape, dtype, sets, left_out, means, record)


def require_mode(encoder: Encoder, options: AblationOptions) -> None:
    """Refuse to replace vectors by the mean of their norms.

    Args:
      encoder: the encoder.
      options: options of the interventions.

    Raises:
      InputError: the mode is "mean", and the encoder's units are vectors.
    """
    require(
        options.mode != "mean" or not getattr(encoder, "vectors", False),
        "--mode mean: units of this run are vectors, as attention heads are. The run has the mean of their norms, not "
        "their mean vectors: use --mode gain or --mode patch.",
    )


def ablation_options(options: AblateOptions) -> AblationOptions:
    """The options of the stage that concern the interventions."""
    return AblationOptions(options.gain, options.mode, options.controls, options.match, options.seed, options.resamples)


def chosen_sets(
    neurons: Sequence[str], suites: Sequence[str], run: Run, classes: tuple[ClassName, ...]
) -> tuple[list[NeuronSet], list[str]]:
    """The neuron sets to intervene on, and the names of empty ones that a suite leaves out.

    Args:
      neurons: expressions over classes and files.
      suites: names of suites; default without expressions: "classes".
      run: run directory.
      classes: classes of all label sets.

    Raises:
      InputError: an expression is wrong, or there is no neuron to intervene on.
    """
    suites = suites or (() if neurons else ("classes",))
    # A run's neurons are read only where they are named: files do without the stage `neurons`.
    needed = suites or any(map(names_a_class, neurons))
    specific = read_specific(run, classes) if needed else dict.fromkeys(classes, ())
    read_file = functools.partial(read_neuron_set, classes=classes)
    sets = [parse_neuron_set(expression, specific, read_file) for expression in neurons]
    left_out = []
    for suite in dict.fromkeys(suites):  # each once
        with_neurons, empty = suite_sets(suite, specific)
        sets += with_neurons
        left_out += empty
    require(
        len(sets) > 0,
        f"--run {run.path}: no class has a class-specific neuron (or no pair shares one): there is nothing to "
        f"intervene on. Choose neurons with `jaxdissect neurons --run {run.path} --preset lape`, or a larger --keep.",
    )
    return sets, left_out


def neuron_means(run: Run, shape: tuple[int, int]) -> Float[np.ndarray, "layer neuron"]:
    """Mean activation of every neuron over the tokens that were counted.

    Args:
      run: run directory.
      shape: layers, and neurons per layer, of the encoder.

    Raises:
      InputError: the run has other neurons, or a mean is not finite.
    """
    counts = read_activations(run).counts
    # Over all clips that were counted, of the training split by default: the test clips have no part in it.
    means = counts["total_sum"].values / float(counts["total_tokens"])
    require(
        means.shape == shape and bool(np.isfinite(means).all()),
        f"{run.file('activations.nc')} has no finite mean for each neuron: run `activations` again.",
    )
    return means
