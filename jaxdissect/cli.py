"""The command line: parses, calls, prints."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import tyro

import jaxdissect
from jaxdissect.ablation.stage import AblateOptions, AblateResult, check_ahead, run_ablate, run_ablate_part
from jaxdissect.ablation.summary import ablation_summary, part_summary
from jaxdissect.bench import BenchOptions, run_bench
from jaxdissect.bench_summary import bench_summary
from jaxdissect.choosing import NeuronsOptions, run_neurons
from jaxdissect.comparing import ShareOptions, run_share
from jaxdissect.demo import DemoOptions, demo_report, run_demo
from jaxdissect.dissect import ActivationsOptions, ActivationsResult, run_activations
from jaxdissect.encoder.convert import convert_checkpoint
from jaxdissect.errors import InputError, LostProcessError, TrainingError
from jaxdissect.figures import draw_sharing
from jaxdissect.probing import ProbeOptions, ProbeResult, run_probe
from jaxdissect.processes import here
from jaxdissect.report.stage import ReportOptions, run_report
from jaxdissect.report.summary import report_summary
from jaxdissect.reproduce import ReproduceOptions, run_reproduce
from jaxdissect.reproduction_summary import reproduction_summary
from jaxdissect.run import Run
from jaxdissect.selectors import FROM_CLIPS
from jaxdissect.stage_inputs import load_inputs, stage_inputs
from jaxdissect.start import prepare_process, require_once
from jaxdissect.summary import (
    activations_summary,
    demo_summary,
    neurons_summary,
    preparation_summary,
    probe_summary,
    sharing_summary,
    training_summary,
)
from jaxdissect.tasks.preparing import PrepareOptions, PrepareResult, run_prepare, verify
from jaxdissect.training.options import TrainOptions
from jaxdissect.training.train import run_train

FAILED, USER_ERROR, LOST_PROCESS, INTERRUPTED, BROKEN_PIPE = 1, 2, 75, 130, 141  # 75: "try again" in sysexits.h


@dataclasses.dataclass(frozen=True)
class ConvertCommand:
    """Convert a PyTorch checkpoint of M2D into an encoder directory, without running pickled code.

    Example: jaxdissect convert checkpoint-300.pth m2d_base --name m2d_vit_base-80x608p16x16

    Attributes:
      checkpoint: the .pth file.
      out: encoder directory to make.
      name: carries the sizes: input bands x frames, p, patch bands x frames; a third part p32k means 32 kHz.
        Default: the file's name, or its folder's.
      heads: attention heads. Default: width / 64.
      licence: of the weights, recorded in encoder.json.
    """

    checkpoint: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    name: str | None = None
    heads: int | None = None
    licence: str = "unknown"

    def __call__(self) -> int:
        print(f"Converting {self.checkpoint} ...", file=sys.stderr)
        encoder = convert_checkpoint(self.checkpoint, self.out, self.name, self.heads, self.licence)
        vit, head = encoder.config, encoder.variables.get("head")
        print(
            f"{self.out}: {encoder.name}, {vit.depth} layers of {vit.mlp} neurons ({vit.depth * vit.mlp:,}), width "
            f"{vit.width}, {vit.heads} heads, input {vit.bands} bands x {vit.frames} frames in patches of "
            f"{vit.patch_bands}x{vit.patch_frames}, {encoder.sample_rate} Hz"
            + (f", task head of {len(head['bias'])} classes." if head else ".")
        )
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationsCommand(ActivationsOptions):
    """Count how often every neuron fires for every class.

    Example: jaxdissect activations --encoder m2d_base --task esc50 --data ESC-50 --run runs/esc50
    """

    def __call__(self) -> int:
        result = run_activations(self)
        if not here().first:
            return 0
        print(activations_summary(result))
        return _bad_clips(result, "everything else was counted and saved. See clips.csv.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronsCommand(NeuronsOptions):
    """Choose the class-specific neurons of what was counted.

    Example: jaxdissect neurons --run runs/esc50 --preset lape
    """

    def __call__(self) -> int:
        print(neurons_summary(run_neurons(self)))
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareCommand(ShareOptions):
    """Compare the neuron sets of classes, within a run and with other runs, beside what chance would share.

    Example: jaxdissect share --run runs/esc50 --with runs/gise51
    """

    with_: Annotated[tuple[Path, ...], tyro.conf.arg(name="with")] = ()

    def __call__(self) -> int:
        sharing = run_share(self)
        print(sharing_summary(sharing))
        print(f"Written to {self.run}: sharing.csv, sharing.nc.")
        if self.figures:
            print(f"Figures: {', '.join(map(str, draw_sharing(sharing, self.run / 'figures')))}.")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DissectCommand(ActivationsOptions, NeuronsOptions):
    """Count, then choose the class-specific neurons: `activations` and `neurons` in one go, more on demand.

    Example: jaxdissect dissect --encoder m2d_base --task cremad --data CREMA-D --run runs/cremad

    Attributes:
      ablate: then train a probe and silence every class's neurons on the test split, as `probe` and `ablate` do by
        default; that takes (1 + controls) passes of the test split for each class.
      controls: random neuron sets that each class's neurons are compared with.
      report: at the end, compare the neuron sets of classes and write report.html, as `share` and `report` do.
    """

    ablate: bool = False
    controls: int = 200
    report: bool = False

    def __call__(self) -> int:
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
            return 0
        print(activations_summary(result), flush=True)
        code = 0
        if result.activations.bad_clips < len(result.activations.clips):
            print(neurons_summary(run_neurons(self)), flush=True)
            if ablation is not None:
                probed = run_probe(
                    ProbeOptions(run=self.run, batch_size=self.batch_size, max_bad_clips=self.max_bad_clips)
                )
                print(probe_summary(probed), flush=True)
                ablated = run_ablate(ablation)
                print(ablation_summary(ablated))
                code = _bad_clips(ablated, "the others were judged and saved. See run.json.")
            if self.report:
                print(sharing_summary(run_share(ShareOptions(run=self.run))), flush=True)
                print(report_summary(run_report(ReportOptions(run=self.run))), flush=True)
        print(f"Written to {self.run}.")
        return max(code, _bad_clips(result, "everything else was counted and saved. See clips.csv."))

    def _ablation(self) -> AblateOptions:
        """The checked options of the ablation, before the long count."""
        encoder, task = load_inputs(stage_inputs(self, Run(self.run), "activations"))
        options = AblateOptions(
            run=self.run, controls=self.controls, match=check_ahead(encoder, task), max_bad_clips=self.max_bad_clips
        )
        _ = options.ablation
        return options


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoCommand(DemoOptions):
    """Dissect the encoders that ship with the project, and an untrained one, on synthesised notes, side by side.

    Example: jaxdissect demo --run runs/demo
    """

    def __call__(self) -> int:
        print(
            "Three encoders of one architecture: self-supervised on ESC-50's sounds, supervised on the same, and with\n"
            "random weights, which shows what chance gives. None has heard these notes.",
            flush=True,
        )
        results = run_demo(self)
        print(demo_summary(results), flush=True)
        report = demo_report(results)
        print(f"Written to {results[0].run.parent}. To see and hear the neurons, open {report.path}.")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeCommand(ProbeOptions):
    """Train a linear probe on an encoder's clip embeddings, by the protocol of the M2D and AAPE papers.

    Example: jaxdissect probe --run runs/esc50
    """

    def __call__(self) -> int:
        result = run_probe(self)
        print(probe_summary(result))
        print(f"Written to {self.run / 'probe'}.")
        return _bad_clips(result, "the probes of the others were saved. See probe.json.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblateCommand(AblateOptions):
    """Silence, attenuate or amplify neuron sets, and see what it does to each class, beside matched controls.

    Example: jaxdissect ablate --run runs/cremad --neurons 'ANG & HAP' --controls 200
    """

    def __call__(self) -> int:
        if self.part is not None:
            print(part_summary(run_ablate_part(self)))
            return 0
        result = run_ablate(self)
        print(ablation_summary(result))
        print(f"Written to {self.run}: ablation.csv, ablation_controls.csv, ablation_suite.csv, ablation_sets.csv.")
        return _bad_clips(result, "the others were judged and saved. See run.json.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportCommand(ReportOptions):
    """Write a page on which the neurons of a run can be seen and heard; it opens from the disk, without a network.

    Example: jaxdissect report --run runs/esc50 --with runs/supervised
    """

    with_: Annotated[Path | None, tyro.conf.arg(name="with")] = None

    def __call__(self) -> int:
        print(report_summary(run_report(self)))
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceCommand(ReproduceOptions):
    """Print the paper's published figures beside what is found with this encoder and data set.

    Example: jaxdissect reproduce --encoder m2d_base --task cremad --data CREMA-D --run runs/reproduce
    """

    def __call__(self) -> int:
        result = run_reproduce(self)
        print(reproduction_summary(result))
        print(f"Written to {self.run}: reproduction.csv and the files of each stage.")
        code = _bad_clips(result.counted, "everything else was counted and saved. See clips.csv.")
        if result.ablation is not None:
            code = max(code, _bad_clips(result.ablation, "the others were judged and saved. See run.json."))
        return code


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareCommand(PrepareOptions):
    """Decode a task's clips once, into shards of 16-bit PCM that take the place of the data folder.

    Example: jaxdissect prepare --task esc50 --data ESC-50 --out ESC-50-16k
    """

    def __call__(self) -> int:
        result = run_prepare(self)
        print(preparation_summary(self.out, result))
        return _bad_clips(result, f"everything else was prepared. See {self.out}/shard-*.json.")


@dataclasses.dataclass(frozen=True)
class VerifyCommand:
    """Read a prepared folder and compare every shard, list and table with its SHA-256.

    Example: jaxdissect verify ESC-50-16k

    Attributes:
      folder: that `jaxdissect prepare` has made.
    """

    folder: tyro.conf.Positional[Path]

    def __call__(self) -> int:
        wrong = verify(self.folder)
        for sentence in wrong:
            print(sentence)
        print(f"{self.folder}: {len(wrong) or 'no'} file{'s' * (len(wrong) != 1)} not as written.")
        return FAILED if wrong else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchCommand(BenchOptions):
    """Measure how fast this machine decodes, encodes and counts, stage by stage, and what limits it.

    Example: jaxdissect bench --encoder m2d_tiny --task esc50 --data ESC-50 --out bench.json
    """

    def __call__(self) -> int:
        print(bench_summary(run_bench(self)))
        if self.out is not None:
            print(f"Written to {self.out}.")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainCommand(TrainOptions):
    """Train an encoder on a task's training split, self-supervised or supervised.

    Example: jaxdissect train --objective msm_mae --task esc50 --data ESC-50 --out msm_mae_tiny --size tiny
    --input 80x208p16x16 --epochs 400
    """

    def __call__(self) -> int:
        print(training_summary(self.out, *run_train(self)))
        return 0


Command = (
    Annotated[ConvertCommand, tyro.conf.subcommand("convert")]
    | Annotated[ActivationsCommand, tyro.conf.subcommand("activations")]
    | Annotated[NeuronsCommand, tyro.conf.subcommand("neurons")]
    | Annotated[ShareCommand, tyro.conf.subcommand("share")]
    | Annotated[DissectCommand, tyro.conf.subcommand("dissect")]
    | Annotated[ProbeCommand, tyro.conf.subcommand("probe")]
    | Annotated[AblateCommand, tyro.conf.subcommand("ablate")]
    | Annotated[ReportCommand, tyro.conf.subcommand("report")]
    | Annotated[ReproduceCommand, tyro.conf.subcommand("reproduce")]
    | Annotated[PrepareCommand, tyro.conf.subcommand("prepare")]
    | Annotated[VerifyCommand, tyro.conf.subcommand("verify")]
    | Annotated[TrainCommand, tyro.conf.subcommand("train")]
    | Annotated[BenchCommand, tyro.conf.subcommand("bench")]
    | Annotated[DemoCommand, tyro.conf.subcommand("demo")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0: done. 1: too many unreadable clips, or a training went wrong. 2: a user's mistake. 75: another process of the job
    failed or died, and 130: stopped by a signal; the same command goes on. 141: the reader of the output has gone.
    """
    prepare_process()
    try:
        require_once(sys.argv[1:] if arguments is None else arguments)
        command = tyro.cli(
            Command,
            prog="jaxdissect",
            args=arguments,
            description=jaxdissect.__doc__,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        code = command()
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"jaxdissect: {error}", file=sys.stderr)
        return USER_ERROR
    except TrainingError as error:
        print(f"jaxdissect: {error}", file=sys.stderr)
        return FAILED
    except LostProcessError as error:
        print(f"jaxdissect: {error} What was counted is kept: the same command goes on.", file=sys.stderr)
        return LOST_PROCESS
    except KeyboardInterrupt:
        print(
            "jaxdissect: stopped; finished stages and states of unfinished ones are kept, the same command goes on.",
            file=sys.stderr,
        )
        return INTERRUPTED
    except BrokenPipeError:  # the reader of what is printed has gone, perhaps before all stages were run
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _bad_clips(result: ActivationsResult | ProbeResult | AblateResult | PrepareResult, saved: str) -> int:
    if not result.too_many_bad:
        return 0
    share = result.max_bad_clips
    print(
        f"jaxdissect: more than {share:.1%} of the clips could not be read (--max-bad-clips {share}); {saved}",
        file=sys.stderr,
    )
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
