"""The commands that work on a run directory, in the order of the method."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro

from jaxdissect.commands.answers import (
    ablated,
    chosen,
    counted,
    demonstrated,
    judged_part,
    outdated,
    probed,
    reported,
    reproduced,
    shared,
)
from jaxdissect.commands.outcome import Outcome, OutputOptions, without_output
from jaxdissect.demo import demo_report, run_demo
from jaxdissect.errors import InputError
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.options.demo import DemoOptions
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.options.probe import ProbeOptions
from jaxdissect.options.reproduce import ReproduceOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.runtime.processes import here
from jaxdissect.runtime.progress import note, under_way
from jaxdissect.runtime.run_directory import Run
from jaxdissect.selection.scores import FROM_CLIPS
from jaxdissect.sharing.heatmaps import draw_sharing
from jaxdissect.stages.ablate import AblateOptions, check_ahead, run_ablate, run_ablate_part
from jaxdissect.stages.activations import run_activations
from jaxdissect.stages.inputs import load_inputs, stage_inputs
from jaxdissect.stages.neurons import run_neurons
from jaxdissect.stages.probe import run_probe
from jaxdissect.stages.report import ReportOptions, run_report
from jaxdissect.stages.reproduce import run_reproduce
from jaxdissect.stages.share import run_share

PAIR = ("label_set", "class", "layer", "neuron")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoCommand(OutputOptions, DemoOptions):
    """Dissect the shipped encoders on synthesised notes, side by side.

    Three encoders of one architecture: self-supervised on ESC-50's sounds, supervised on the same, and with random
    weights, which shows what chance gives. None has heard these notes.

    Examples:
      jaxdissect demo
      jaxdissect demo --run runs/demo
    """

    def __call__(self) -> Iterator[Outcome]:
        note("Encoders of one architecture: self-supervised, supervised, untrained. None has heard these notes.")
        results = run_demo(self)
        yield demonstrated(results)
        yield reported(demo_report(results))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DissectCommand(OutputOptions, ActivationsOptions, NeuronsOptions):
    """Count, then choose: `activations` and `neurons` in one go.

    With --ablate, `probe` and `ablate` too, and with --report, `share` and `report`. --seed and --save-minutes are of
    all stages that draw or keep states.

    Examples:
      jaxdissect dissect --encoder m2d_tiny --task esc50 --data ESC-50 --preset lape --keep-clips --run runs/esc50
      jaxdissect dissect --encoder m2d_base --task cremad --data CREMA-D --run runs/cremad --ablate --report

    Attributes:
      ablate: then train a probe and silence every class's neurons on the test split, as `probe` and `ablate` do by
        default; that takes (1 + controls) passes of the test split for each class.
      controls: random neuron sets that each class's neurons are compared with.
      report: at the end, compare the neuron sets of classes and write report.html, as `share` and `report` do.
    """

    ablate: bool = False
    controls: int = 200
    report: bool = False
    save_minutes: float = 10.0

    def __call__(self) -> Iterator[Outcome]:
        self.rule(task_keep=0.01)  # a mistake is told before the long count, not after
        _ = self.certainty
        if self.selector in FROM_CLIPS and not self.keep_clips:
            raise InputError(f"--selector {self.selector} needs every clip's counts: add --keep-clips.")
        if self.ablate and self.distributed:
            raise InputError(
                "--ablate runs in one process or in parts: leave it out here, see `jaxdissect ablate --help`."
            )
        ablation = self._ablation() if self.ablate else None
        result = run_activations(self)
        if not here().first:
            return
        yield counted(self.run, result)
        if result.activations.bad_clips == len(result.activations.clips):
            return
        yield _choose(self._choosing(), alone=False)
        if ablation is not None:
            probing = ProbeOptions(run=self.run, batch_size=self.batch_size, max_bad_clips=self.max_bad_clips)
            yield dataclasses.replace(probed(self.run, run_probe(probing)), failure=None)  # of the clips counted above
            yield ablated(self.run, run_ablate(ablation))
        if self.report:
            yield shared(self.run, run_share(ShareOptions(run=self.run)), ())
            yield reported(run_report(ReportOptions(run=self.run)))

    def _choosing(self) -> NeuronsOptions:
        """The options of the choice, without those that are of the other stages where nothing is drawn for it."""
        options = without_output(NeuronsOptions, self)
        return options if self.keep_clips else dataclasses.replace(options, seed=None, save_minutes=None)

    def _ablation(self) -> AblateOptions:
        """The checked options of the ablation, before the long count."""
        encoder, task = load_inputs(stage_inputs(self, Run(self.run), "activations"))
        options = AblateOptions(
            run=self.run,
            controls=self.controls,
            match=check_ahead(encoder, task),
            max_bad_clips=self.max_bad_clips,
            seed=0 if self.seed is None else self.seed,
            save_minutes=self.save_minutes,
        )
        _ = options.ablation
        return options


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationsCommand(OutputOptions, ActivationsOptions):
    """Count how often every neuron fires for every class.

    Examples:
      jaxdissect activations --encoder m2d_base --task esc50 --data ESC-50 --run runs/esc50
      jaxdissect activations --encoder m2d_tiny --task sounds.csv --unit-seconds 2.5 --run runs/mine --tokens sounding
    """

    def __call__(self) -> Iterator[Outcome]:
        result = run_activations(self)
        if here().first:
            yield counted(self.run, result)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronsCommand(OutputOptions, NeuronsOptions):
    """Choose the class-specific neurons of what was counted.

    Examples:
      jaxdissect neurons --run runs/esc50 --preset lape
      jaxdissect neurons --run runs/esc50 --keep 0.02 --permutations 10000
    """

    def __call__(self) -> Iterator[Outcome]:
        yield _choose(self, alone=True)


def _choose(options: NeuronsOptions, alone: bool) -> Outcome:
    """Choose, and tell which results are of the neurons that were chosen before."""
    before = _listed(options.run)
    neurons = run_neurons(options)
    replaced = before is not None and before != _listed(options.run)
    return chosen(options.run, neurons, outdated(options.run) if replaced else (), alone)


def _listed(run: Path) -> set[tuple[str, ...]] | None:
    """The pairs of class and neuron in `neurons.csv`; None where there is no such file, or a damaged one."""
    try:
        table = pd.read_csv(run / "neurons.csv", dtype=str, keep_default_na=False)  # a class may be called NA
        return set(table[list(PAIR)].itertuples(index=False, name=None))
    except (OSError, ValueError, KeyError):
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareCommand(OutputOptions, ShareOptions):
    """Compare the neuron sets of classes, beside what chance shares.

    The classes of every two label sets of the run are compared, and with --with those of other runs, too.

    Examples:
      jaxdissect share --run runs/cremad --figures
      jaxdissect share --run runs/esc50 --with runs/gise51
    """

    with_: Annotated[tuple[Path, ...], tyro.conf.arg(name="with")] = ()

    def __call__(self) -> Iterator[Outcome]:
        sharing = run_share(self)
        with under_way("Drawing figures"):
            figures = draw_sharing(sharing, self.run / "figures") if self.figures else []
        yield shared(self.run, sharing, figures)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeCommand(OutputOptions, ProbeOptions):
    """Train a linear probe on an encoder's clip embeddings.

    By the protocol of the M2D and AAPE papers.

    Examples:
      jaxdissect probe --run runs/esc50
      jaxdissect probe --encoder m2d_tiny --task esc50 --data ESC-50 --run runs/probe --folds all
    """

    def __call__(self) -> Iterator[Outcome]:
        yield probed(self.run, run_probe(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblateCommand(OutputOptions, AblateOptions):
    """Silence, attenuate or amplify neuron sets, and see what it does.

    To each class of the test split, beside what matched random neuron sets do.

    Examples:
      jaxdissect ablate --run runs/esc50
      jaxdissect ablate --run runs/cremad --neurons 'ANG & HAP' --gain 0 0.5 2
    """

    def __call__(self) -> Iterator[Outcome]:
        if self.part is not None:
            yield judged_part(run_ablate_part(self))
        else:
            yield ablated(self.run, run_ablate(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportCommand(OutputOptions, ReportOptions):
    """Write a page on which a run's neurons can be seen and heard.

    It opens from the disk, without a network.

    Examples:
      jaxdissect report --run runs/esc50
      jaxdissect report --run runs/esc50 --with runs/supervised --full
    """

    with_: Annotated[Path | None, tyro.conf.arg(name="with")] = None

    def __call__(self) -> Iterator[Outcome]:
        yield reported(run_report(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceCommand(OutputOptions, ReproduceOptions):
    """Put the paper's published figures beside what is found here.

    Counts, chooses, probes, and repeats the published ablation with this encoder and data set.

    Examples:
      jaxdissect reproduce --encoder m2d_base --task cremad --data CREMA-D --run runs/reproduce
      jaxdissect reproduce --encoder m2d_base --task esc50 --data ESC-50 --run runs/reproduce50 --dtype bfloat16
    """

    def __call__(self) -> Iterator[Outcome]:
        yield reproduced(self.run, run_reproduce(self))
