"""What an ablation intervenes on: encoder, test split, probes and neuron sets, as the run directory has them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxdissect.ablation.interventions import suite_sets
from jaxdissect.ablation.tables import require_clips
from jaxdissect.counting.stream import neuron_shape
from jaxdissect.encoder.directory import fingerprint
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import require
from jaxdissect.probe.files import read_judges
from jaxdissect.probe.judge import Judge
from jaxdissect.runtime.files import json_fingerprint
from jaxdissect.runtime.run_directory import Run
from jaxdissect.selection.neuron_set_files import read_neuron_set
from jaxdissect.selection.neuron_sets import NeuronSet, names_a_class, parse_neuron_set, require_neurons
from jaxdissect.selection.neuron_table import read_specific
from jaxdissect.stages.activations import read_activations
from jaxdissect.stages.inputs import load_inputs, stage_inputs
from jaxdissect.tasks.table import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What is intervened on.

    Attributes:
      encoder: the run's encoder.
      task: test split of the run's task.
      judges: judge of each label set, with the test clips as its members.
      shape: layers, and neurons per layer, of the encoder.
      dtype: type of the encoder's computation.
      fingerprints: SHA-256 of encoder, task and front end.
    """

    encoder: Encoder
    task: Task
    judges: Mapping[str, Judge]
    shape: tuple[int, int]
    dtype: str
    fingerprints: dict[str, str]


def read_subject(options: object, run: Run) -> Subject:
    """Encoder, test split and probes of a run.

    Args:
      options: options of a stage, as `stage_inputs` takes them.
      run: run directory.

    Raises:
      InputError: a stage is missing or of another encoder or task, or a class has no test clip.
    """
    run.require("probe")
    inputs = stage_inputs(options, run, "probe")
    encoder, task = load_inputs(inputs)
    prints = {
        "encoder": fingerprint(encoder),
        "task": task.fingerprint(),
        "front_end": json_fingerprint(encoder.settings().get("front_end")),
    }
    for stage, what in (("activations", "counts"), ("neurons", "neurons")):
        run.require_inputs(stage, what, prints)
    judges = read_judges(run, encoder, task, prints)
    # Judges know the classes of all clips; the test split takes its rows, in its order.
    test = [row for row, split in enumerate(task.splits) if split == "test"]
    judges = {name: dataclasses.replace(judge, members=judge.members[test]) for name, judge in judges.items()}
    task = task.only("test")
    for labels in task.label_sets:
        require_clips(task, labels)
    return Subject(encoder, task, judges, neuron_shape(encoder, task), inputs["dtype"], prints)


def chosen_sets(
    neurons: Sequence[str], suites: Sequence[str], run: Run, subject: Subject
) -> tuple[list[NeuronSet], list[str]]:
    """The neuron sets to intervene on, and the names of empty ones that a suite leaves out.

    Args:
      neurons: expressions over classes and files.
      suites: names of suites; default without expressions: "classes".
      run: run directory.
      subject: encoder and task.

    Raises:
      InputError: an expression is wrong, a neuron is out of range, or there is no neuron to intervene on.
    """
    classes = subject.task.classes
    suites = suites or (() if neurons else ("classes",))
    needed = suites or any(map(names_a_class, neurons))
    specific = read_specific(run, classes) if needed else dict.fromkeys(classes, ())
    read_file = functools.partial(read_neuron_set, classes=classes)
    sets = [require_neurons(parse_neuron_set(expression, specific, read_file), subject.shape) for expression in neurons]
    left_out = []
    for suite in dict.fromkeys(suites):
        found, empty = suite_sets(suite, specific)
        sets += [require_neurons(chosen, subject.shape) for chosen in found]
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
    means = counts["total_sum"].values / float(counts["total_tokens"])
    require(
        means.shape == shape and bool(np.isfinite(means).all()),
        f"{run.file('activations.nc')} has no finite mean for each neuron: run `activations` again.",
    )
    return means
