"""The paper's comparison: do self-supervised encoders grow more class-specific neurons than supervised ones?

`python -m benchmarks.study.ssl_vs_supervised --esc50 ESC-50 --fsdd FSDD --out
benchmarks/results/ssl_vs_supervised.json`; the recorded results also had `--encoders m2d_tiny DIR/msm_mae_tiny
supervised_tiny jaxdissect.demo:untrained_tiny`.

For each encoder and task it compares coverage and neurons per class by the presets aape and lape, over all tokens and
over sounding ones, the AAPE cut-off, and linear-probe accuracy on the test split. Tasks that no encoder was trained on
come first; their neurons are chosen on the training split. The encoders have heard folds 1-4 of ESC-50, so its neurons
are chosen on fold 5. Expected time: an hour.
"""

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.common import short_name, table, write_record
from benchmarks.study.probes import RATES, mel_statistics, probe_rows
from jaxdissect.encoder.directory import fingerprint, load_encoder
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.probe.embeddings import embed_clips
from jaxdissect.selection.aape import PRESETS, SelectionRule
from jaxdissect.selection.labelled import select_neurons
from jaxdissect.stages.activations import run_activations
from jaxdissect.tasks.known import load_task
from jaxdissect.types import Record

COLUMNS = ("coverage", "kept_neurons", "mean_neurons_per_class", "mean_classes_per_neuron")
Tokens = Literal["all", "sounding"]
TOKENS: tuple[Tokens, ...] = ("all", "sounding")
SELECTIONS = tuple(f"{preset}, {tokens}" for preset in PRESETS for tokens in TOKENS)


@dataclasses.dataclass(frozen=True)
class Options:
    """Encoders and data to compare on."""

    esc50: Path  # the ESC-50 folder
    fsdd: Path  # the folder with fsdd.csv
    out: Path  # the JSON file to write
    encoders: tuple[str, ...] = ("m2d_tiny", "supervised_tiny", "jaxdissect.demo:untrained_tiny")
    seeds: int = 5  # probes per encoder and label set


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A task to compare on.

    Attributes:
      task: known task or table.
      data: data folder of the task.
      label: label sets, joined by commas.
      unit_seconds: length of a clip, s; None for that of a known task.
      split: clips on which neurons are chosen.
      heard: whether encoders were trained on the task.
    """

    task: str
    data: Path | None
    label: str
    unit_seconds: float | None
    split: Literal["train", "test"]
    heard: bool


def comparisons(options: Options) -> list[Comparison]:
    """Unseen tasks first."""
    return [
        Comparison(str(options.fsdd / "fsdd.csv"), options.fsdd, "digit,speaker,accent", 1.0, "train", heard=False),
        Comparison("notes", None, "octave,pitch_class,instrument", None, "train", heard=False),
        Comparison("esc50", options.esc50, "event", None, "test", heard=True),
    ]


def choose_neurons(encoder: str, comparison: Comparison, tokens: Tokens) -> dict[str, Record]:
    """Coverage and cut-offs of both presets, by label set."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        counting = ActivationsOptions(
            encoder=encoder,
            task=comparison.task,
            data=comparison.data,
            label=comparison.label,
            split=comparison.split,
            unit_seconds=comparison.unit_seconds,
            tokens=tokens,
            run=run,
            keep_clips=False,
        )
        keep = load_task(comparison.task, comparison.data, unit_seconds=comparison.unit_seconds).keep
        counts = run_activations(counting).activations
        by_preset = {preset: select_neurons(counts, SelectionRule(preset, keep)) for preset in PRESETS}
    by_label_set: dict[str, Record] = {}
    for preset, neurons in by_preset.items():
        for _, row in neurons.coverage.iterrows():
            highest = float(neurons.scores["aape_cutoff"].sel(label_set=row["label_set"]))
            cutoff = highest / math.log(row["classes"])  # 1 is a neuron without preference
            selection = {column: float(row[column]) for column in COLUMNS} | {"aape_cutoff_normalised": cutoff}
            label_set = by_label_set.setdefault(row["label_set"], {"classes": int(row["classes"])})
            label_set[f"{preset}, {tokens}"] = selection
    return by_label_set


def compare(options: Options) -> list[Record]:
    """One row per label set and encoder."""
    rows = []
    for comparison in comparisons(options):
        task = load_task(comparison.task, comparison.data, comparison.label.split(","), comparison.unit_seconds)
        of_task = probe_rows("log-mel", embed_clips(mel_statistics(), task), task, options.seeds)
        for name in options.encoders:
            of_encoder = probe_rows(short_name(name), embed_clips(load_encoder(name), task), task, options.seeds)
            for tokens in TOKENS:
                by_label_set = choose_neurons(name, comparison, tokens)
                for row in of_encoder:
                    row |= by_label_set[row["label_set"]]
            of_task += of_encoder
        rows += [row | {"heard": comparison.heard, "split": comparison.split} for row in of_task]
    return rows


def cells(row: Record) -> list[str]:
    """One row of the table; the baseline has no neurons."""
    selections = [
        f"{row[name]['coverage']:.0%}, {row[name]['mean_neurons_per_class']:.1f}" if name in row else ""
        for name in SELECTIONS
    ]
    cutoff = f"{row[SELECTIONS[0]]['aape_cutoff_normalised']:.3f}" if SELECTIONS[0] in row else ""
    return [
        f"{row['task']} {row['label_set']}" + (" (in-domain)" if row["heard"] else ""),
        row["encoder"],
        *selections,
        cutoff,
        f"{row['accuracy']:.1%} ± {row['standard_error']:.1%}",
        f"{row['accuracy_at_the_papers_rate']:.1%}",
    ]


def main(options: Options) -> None:
    """Compare, print a table and write the record."""
    rows = compare(options)
    head = ["task", "encoder", *SELECTIONS, "AAPE cut-off", "probe accuracy ± standard error", "at rate 3e-5"]
    # Encoders of one label set below each other: the sort is stable.
    label_sets = list(dict.fromkeys((row["task"], row["label_set"]) for row in rows))
    by_label_set = sorted(rows, key=lambda row: label_sets.index((row["task"], row["label_set"])))
    print(table(head, list(map(cells, by_label_set))))
    for row in rows:
        if row["at_the_edge_of_the_rates"]:
            print(f"{row['encoder']}, {row['label_set']}: the best rate is the last tried, {row['learning_rate']}")
    encoders = {short_name(name): fingerprint(load_encoder(name)) for name in options.encoders}
    packages = ("jax", "flax", "jaxdissect")
    write_record(options.out, packages, encoders=encoders, seeds=options.seeds, rates=RATES, rows=rows)


if __name__ == "__main__":
    main(tyro.cli(Options))
