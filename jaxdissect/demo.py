"""`jaxdissect demo`: the whole path on synthesised notes, with the encoders that ship with the project."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdissect.encoder.directory import load_encoder
from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.encoder.shipped import shipped_encoder
from jaxdissect.errors import InputError
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.options.demo import DemoOptions
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.options.report import ReportOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.selection.labelled import Neurons
from jaxdissect.stages.activations import ActivationsResult, run_activations
from jaxdissect.stages.neurons import run_neurons
from jaxdissect.stages.report import ReportResult, run_report
from jaxdissect.stages.share import run_share
from jaxdissect.training.objective import initial_encoder

SELF_SUPERVISED, SUPERVISED, UNTRAINED = "m2d_tiny", "supervised_tiny", "untrained_tiny"
PERMUTATIONS, RESAMPLES, SPLITS = 200, 50, 5  # enough for neurons that stand out, and made in seconds
REPORT_MB = 5.0  # enough for the best clips of every neuron, and made in seconds


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """One encoder of the demo.

    Attributes:
      kind: how it was trained.
      run: its run directory.
      counted: what was counted.
      neurons: neurons that were chosen by the default preset.
    """

    kind: str
    run: Path
    counted: ActivationsResult
    neurons: Neurons


def untrained_tiny(dtype: Any) -> M2D:
    """As the shipped encoders were before training: their sizes and front end, random weights of the same kind."""
    like = load_encoder(_shipped(SUPERVISED))
    assert isinstance(like, M2D)
    variables = {
        "params": initial_encoder(like, jax.random.key(0), None),
        "front_end": like.variables["front_end"],
    }
    source = {"file": "none: random weights, seed 0"}
    return dataclasses.replace(like, name=UNTRAINED, dtype=dtype, variables=variables, source=source)


def _shipped(name: str) -> str:
    """The directory that ships, whatever the working folder holds under that name."""
    folder = shipped_encoder(name)
    if folder is None:
        raise InputError(f"The encoder {name} is missing from this installation: install jaxdissect again.")
    return str(folder)


def run_demo(options: DemoOptions) -> list[DemoResult]:
    """Choose neurons on the training split of `notes` and judge them on its test split, for each of the encoders."""
    folder = options.run or Path(tempfile.mkdtemp(prefix="jaxdissect-demo-"))
    encoders = {
        "self-supervised": _shipped(SELF_SUPERVISED),
        "supervised": _shipped(SUPERVISED),
        "untrained": f"{__name__}:{UNTRAINED}",
    }
    results = []
    for kind, encoder in encoders.items():
        run = folder / (UNTRAINED if kind == "untrained" else Path(encoder).name)
        counted = run_activations(
            ActivationsOptions(encoder=encoder, task="notes", run=run, batch_size=options.batch_size)
        )
        neurons = run_neurons(NeuronsOptions(run=run, permutations=PERMUTATIONS, resamples=RESAMPLES, splits=SPLITS))
        results.append(DemoResult(kind, run, counted, neurons))
    return results


def demo_report(results: Sequence[DemoResult]) -> ReportResult:
    """The report of the self-supervised encoder, with the supervised one beside it."""
    own, beside = (next(one.run for one in results if one.kind == kind) for kind in ("self-supervised", "supervised"))
    run_share(ShareOptions(run=own))
    return run_report(ReportOptions(run=own, with_=beside, max_mb=REPORT_MB, figures=False))
