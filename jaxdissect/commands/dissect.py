"""`jaxdissect dissect`: count and choose in one go, and on demand probe, ablate and report."""

import dataclasses
from collections.abc import Iterator
from typing import TypeVar

from jaxdissect.commands.ablate import ablate_outcome
from jaxdissect.commands.activations import activations_outcome
from jaxdissect.commands.neurons import choose
from jaxdissect.commands.outcome import Outcome
from jaxdissect.commands.probe import probe_outcome
from jaxdissect.commands.report import report_outcome
from jaxdissect.commands.share import share_outcome
from jaxdissect.options.ablate import AblateOptions
from jaxdissect.options.base import Options
from jaxdissect.options.dissect import DissectOptions
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.options.probe import ProbeOptions
from jaxdissect.options.report import ReportOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.runtime.processes import this_process
from jaxdissect.runtime.run_directory import Run
from jaxdissect.stages.ablate import check_ahead, run_ablate
from jaxdissect.stages.activations import run_activations
from jaxdissect.stages.inputs import load_inputs, stage_inputs
from jaxdissect.stages.probe import run_probe
from jaxdissect.stages.report import run_report
from jaxdissect.stages.share import run_share

Kind = TypeVar("Kind", bound=Options)


def run(options: DissectOptions) -> Iterator[Outcome]:
    """Run the stages one after another; each answers as soon as it is done."""
    ablation = ablation_ahead(options) if options.ablate else None  # a mistake is reported before the long count
    # The preset auroc needs every clip, however much room that takes.
    needed = True if options.preset == "auroc" and options.selector is None else options.keep_clips
    counted = run_activations(dataclasses.replace(options, keep_clips=needed))
    if not this_process().first:
        return
    yield activations_outcome(options.run, counted)
    if counted.activations.bad_clips == len(counted.activations.clips):
        return
    kept = counted.record["options"]["keep_clips"]
    yield choose(selection_options(options, kept), warn_of_counts=False)
    if ablation is not None:
        probing = ProbeOptions(run=options.run, batch_size=options.batch_size, max_bad_clips=options.max_bad_clips)
        # Clips that cannot be embedded are those that could not be counted, which have been reported.
        yield dataclasses.replace(probe_outcome(options.run, run_probe(probing)), failure=None)
        yield ablate_outcome(options.run, run_ablate(ablation))
    if options.report:
        yield share_outcome(options.run, run_share(ShareOptions(run=options.run)))
        yield report_outcome(run_report(ReportOptions(run=options.run)))


def selection_options(options: DissectOptions, kept: bool) -> NeuronsOptions:
    """Options of the stage `neurons`; seed and save_minutes only where it draws random numbers.

    Args:
      options: options of the command.
      kept: whether what every neuron did on every clip was kept.
    """
    chosen = _part(NeuronsOptions, options)
    return chosen if kept else dataclasses.replace(chosen, seed=None, save_minutes=None)


def ablation_ahead(options: DissectOptions) -> AblateOptions:
    """Options of the stage `ablate`, checked against encoder and task before anything is counted.

    Raises:
      InputError: the encoder or the task cannot be ablated.
    """
    encoder, task = load_inputs(stage_inputs(options, Run(options.run), "activations"))
    return AblateOptions(
        run=options.run,
        controls=options.controls,
        match=check_ahead(encoder, task),
        max_bad_clips=options.max_bad_clips,
        seed=0 if options.seed is None else options.seed,
        save_minutes=options.save_minutes,
    )


def _part(kind: type[Kind], options: Options) -> Kind:
    """Those of the options that a stage has."""
    return kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})
