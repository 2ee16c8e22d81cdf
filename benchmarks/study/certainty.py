"""How sure the selections of real encoders on real audio are, and which neurons are duration or padding detectors.

`python -m benchmarks.study.certainty --esc50 ESC-50 --fsdd FSDD --out benchmarks/results/certainty.json --runs
FOLDER`. For every encoder and task, over all tokens and over sounding ones: pairs of class and neuron that are
selected, that would be under permuted labels, and that have q <= 0.05. A pair is called a duration detector if it is
selected and has q <= 0.05 over all tokens, and q > 0.05 over sounding ones. The runs are kept in the folder, for
`jaxdissect share` and its figures. `python -m benchmarks.study.certainty_tables RECORD` makes tables of it.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro

from benchmarks.common import write_record
from benchmarks.study.certainty_tables import tables
from jaxdissect.selection.labelled import Neurons
from jaxdissect.significance.assess import LEVEL
from jaxdissect.stages.activations import ActivationsOptions, run_activations
from jaxdissect.stages.neurons import NeuronsOptions, run_neurons
from jaxdissect.stages.share import ShareOptions, run_share

TOKENS: tuple[Literal["all", "sounding"], ...] = ("all", "sounding")
PRESETS: tuple[Literal["aape", "lape"], ...] = ("aape", "lape")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to look at."""

    esc50: Path  # the ESC-50 folder
    fsdd: Path  # the folder with fsdd.csv
    runs: Path  # folder of the run directories; what is there already is not counted again
    out: Path | None = None  # the JSON file to write
    encoders: tuple[str, ...] = ("m2d_tiny", "supervised_tiny", "jaxdissect.demo:untrained_tiny")
    permutations: int = 1000


@dataclasses.dataclass(frozen=True)
class Case:
    """A task with its options; of ESC-50 the encoders have heard folds 1-4, so its neurons are chosen on fold 5."""

    name: str
    task: str
    data: Path | None
    label: str
    unit_seconds: float | None
    split: Literal["train", "test", "all"]


def cases(options: Options) -> list[Case]:
    """All tasks."""
    return [
        Case("fsdd", str(options.fsdd / "fsdd.csv"), options.fsdd, "digit,speaker,accent", 1.0, "train"),
        Case("esc50-train", "esc50", options.esc50, "event", None, "train"),
        Case("esc50-test", "esc50", options.esc50, "event", None, "test"),
        Case("notes", "notes", None, "octave,pitch_class,instrument", None, "train"),
        Case("notes2", "notes2", None, "octave", None, "train"),
    ]


def dissect(
    options: Options, encoder: str, case: Case, tokens: Literal["all", "sounding"], preset: Literal["aape", "lape"]
) -> tuple[Path, Neurons]:
    """Count, unless that was done, and select."""
    run = options.runs / f"{short(encoder)}-{case.name}-{tokens}"
    run_activations(
        ActivationsOptions(
            encoder=encoder, task=case.task, data=case.data, label=case.label, split=case.split, run=run,
            unit_seconds=case.unit_seconds, tokens=tokens, keep_clips=True,
        )
    )  # fmt: skip
    return run, run_neurons(NeuronsOptions(run=run, preset=preset, permutations=options.permutations))


def survey(options: Options) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row per encoder, task, label set, preset and kind of tokens; and the agreement of selectors."""
    rows, agreement = list[dict[Any, Any]](), list[dict[Any, Any]]()
    for encoder in options.encoders:
        for case in cases(options):
            for preset in PRESETS:
                selected = {}
                for tokens in TOKENS:
                    run, neurons = dissect(options, encoder, case, tokens, preset)
                    selected[tokens] = neurons
                    about = {"encoder": short(encoder), "case": case.name, "preset": preset, "tokens": tokens}
                    rows += [about | row for row in neurons.coverage.to_dict("records")]
                    found = pd.read_csv(run / "agreement.csv").to_dict("records")
                    agreement += [about | row for row in found]
                detectors = duration_detectors(selected["all"], selected["sounding"])
                for row in rows[-2 * len(detectors) :]:
                    row |= detectors[row["label_set"]] if row["tokens"] == "all" else {}
    return rows, agreement


def duration_detectors(everything: Neurons, sounding: Neurons) -> dict[str, dict[str, float]]:
    """By label set, of the pairs selected over all tokens: what is left of them over sounding ones."""
    q_all, q_sounding = (_q_values(neurons) for neurons in (everything, sounding))
    own = set(_pairs(sounding.neurons))
    found = {}
    for name in everything.coverage["label_set"]:
        pairs = _pairs(everything.neurons[everything.neurons["label_set"] == name])
        significant = [pair for pair in pairs if q_all[pair[:2]][pair[2:]] <= LEVEL]
        lost = sum(not q_sounding[pair[:2]][pair[2:]] <= LEVEL for pair in significant)
        found[str(name)] = {
            "also_selected_over_sounding": _share(sum(pair in own for pair in pairs), len(pairs)),
            "duration_detectors": _share(lost, len(significant)),
        }
    return found


def _pairs(table: pd.DataFrame) -> list[tuple[str, str, int, int]]:
    return list(table[["label_set", "class", "layer", "neuron"]].itertuples(index=False, name=None))


def _q_values(neurons: Neurons) -> dict[tuple[str, str], np.ndarray]:
    """Of every layer and neuron, by label set and class."""
    scores = neurons.scores
    names = zip(scores["class_label_set"].values.tolist(), scores["class"].values.tolist(), strict=True)
    return dict(zip(names, scores["q_value"].values, strict=True))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def sharing(options: Options) -> list[dict[str, Any]]:
    """What the first encoder's classes share, within ESC-50 and FSDD, and octaves across the two sets of notes."""
    first, rows = short(options.encoders[0]), []
    for case, others in (("fsdd", ()), ("esc50-train", ()), ("notes", ("notes2",))):
        run = options.runs / f"{first}-{case}-all"
        with_ = tuple(options.runs / f"{first}-{other}-all" for other in others)
        found = run_share(ShareOptions(run=run, with_=with_)).table
        groups = found.groupby(["label_set_a", "run_b", "label_set_b"], sort=False)
        for (label_set_a, run_b, label_set_b), block in groups:
            there = block[(block["size_a"] > 0) & (block["size_b"] > 0)]
            rows.append(
                {
                    "case": case, "label_set_a": label_set_a, "with": Path(str(run_b)).name, "label_set_b": label_set_b,
                    "pairs": len(there), "mean_shared": there["shared"].mean(),
                    "mean_expected": there["expected_shared"].mean(),
                    "null": "" if not len(there) else there["null"].iloc[0],
                    "share": int((there["q_value"] <= LEVEL).sum()),
                    "in_particular": int((there["q_by_breadth"] <= LEVEL).sum()),
                }
            )  # fmt: skip
    return rows


def short(encoder: str) -> str:
    """The last part of a directory's or factory's name."""
    return Path(encoder.rpartition(":")[2]).name


def main(options: Options) -> None:
    """Look, print and write down."""
    rows, agreement = survey(options)
    shared = sharing(options)
    print(tables({"label_sets": rows, "sharing": shared, "agreement": agreement}))
    if options.out is not None:
        write_record(
            options.out, ("jax", "numpy", "scipy"), permutations=options.permutations, label_sets=rows, sharing=shared,
            agreement=agreement,
        )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options))
