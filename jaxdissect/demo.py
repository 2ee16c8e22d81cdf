"""`jaxdissect demo`: the whole path on synthesised notes, with what ships with the project."""

import dataclasses
import tempfile
from pathlib import Path

from jaxdissect.dissect import ActivationsOptions, ActivationsResult, NeuronsOptions, run_activations, run_neurons
from jaxdissect.encoder.m2d import M2D, untrained_m2d
from jaxdissect.encoder.vit import vit_config
from jaxdissect.results import Neurons


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Dissect a small encoder on synthesised notes: no audio and no weights needed.

    Attributes:
      run: run directory to write. Default: a new temporary one.
      batch_size: clips per device and step.
    """

    run: Path | None = None
    batch_size: int = 32


def untrained_tiny(dtype: object) -> M2D:
    """The demo's encoder: M2D's architecture at width 192 with seeded random weights. It has learned nothing."""
    return dataclasses.replace(untrained_m2d(vit_config("tiny", frames=208), name="untrained m2d_tiny"), dtype=dtype)


def run_demo(options: DemoOptions) -> tuple[Path, ActivationsResult, Neurons]:
    """Count and select on the training split of `notes`; returns the run directory and the results."""
    run = options.run or Path(tempfile.mkdtemp(prefix="jaxdissect-demo-"))
    done = run_activations(
        ActivationsOptions(encoder=f"{__name__}:untrained_tiny", task="notes", run=run, batch_size=options.batch_size)
    )
    return run, done, run_neurons(NeuronsOptions(run=run))
