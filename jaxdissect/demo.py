"""`jaxdissect demo`: the whole path on synthesised notes, with the encoders that ship with the project."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxdissect.choosing import NeuronsOptions, run_neurons
from jaxdissect.dissect import ActivationsOptions, ActivationsResult, run_activations
from jaxdissect.encoder.checkpoint import load_encoder
from jaxdissect.encoder.m2d import M2D
from jaxdissect.encoder.shipped import shipped_encoder
from jaxdissect.errors import InputError
from jaxdissect.results import Neurons, select_neurons
from jaxdissect.selection import SelectionRule
from jaxdissect.training.objective import initial_encoder

SELF_SUPERVISED, SUPERVISED, UNTRAINED = "m2d_tiny", "supervised_tiny", "untrained_tiny"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Dissect a self-supervised, a supervised and an untrained encoder on synthesised notes, side by side.

    Attributes:
      run: folder to write, one run directory per encoder in it. Default: a new temporary one.
      batch_size: clips per device and step.
    """

    run: Path | None = None
    batch_size: int = 32


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """One encoder of the demo.

    Attributes:
      kind: how it was trained.
      run: its run directory.
      counted: what was counted.
      neurons: what was chosen by each preset; the run directory holds those of `aape`.
    """

    kind: str
    run: Path
    counted: ActivationsResult
    neurons: Mapping[str, Neurons]


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
    """Count and select on the training split of `notes`, for each of the three encoders."""
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
        results.append(DemoResult(kind, run, counted, both_presets(run, counted)))
    return results


def both_presets(run: Path, counted: ActivationsResult) -> dict[str, Neurons]:
    """Neurons by preset `aape`, as the stage `neurons` writes them, and by `lape` from the same counts."""
    aape = run_neurons(NeuronsOptions(run=run))
    lape = select_neurons(counted.activations, SelectionRule("lape", aape.scores.attrs["keep"]))
    return {"aape": aape, "lape": lape}
