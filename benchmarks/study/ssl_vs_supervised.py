"""The paper's comparison: do self-supervised encoders grow more class-specific neurons than supervised ones?

`python -m benchmarks.study.ssl_vs_supervised --esc50 ESC-50 --fsdd FSDD --out
benchmarks/results/ssl_vs_supervised.json`, for the recorded results with `--encoders m2d_tiny DIR/msm_mae_tiny
supervised_tiny jaxdissect.demo:untrained_tiny`.

For each encoder and task: coverage and neurons per class by the presets aape and lape, over all tokens and over
sounding ones, the AAPE cut-off, and linear-probe accuracy on the test split. Tasks that no encoder was trained on
come first; their neurons are chosen on the training split. Of ESC-50 the encoders have heard folds 1-4, so its
neurons are chosen on fold 5.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.common import table, write_record
from benchmarks.study.probes import RATES, mel_statistics, probe_rows
from jaxdissect.commands.demo import normalised_cutoff
from jaxdissect.demo import both_presets
from jaxdissect.encoder.directory import fingerprint, load_encoder
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.probe.embeddings import embed_clips
from jaxdissect.selection.aape import PRESETS
from jaxdissect.stages.activations import run_activations
from jaxdissect.tasks.known import load_task

COLUMNS = ("coverage", "kept_neurons", "mean_neurons_per_class", "mean_classes_per_neuron")
TOKENS: tuple[Literal["all", "sounding"], ...] = ("all", "sounding")
WAYS = tuple(f"{preset}, {tokens}" for preset in PRESETS for tokens in TOKENS)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare."""

    esc50: Path  # the ESC-50 folder
    fsdd: Path  # the folder with fsdd.csv
    out: Path  # the JSON file to write
    encoders: tuple[str, ...] = ("m2d_tiny", "supervised_tiny", "jaxdissect.demo:untrained_tiny")
    seeds: int = 5  # probes per encoder and label set


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A task, the label sets to compare on, the split whose neurons are chosen; `heard` in training by the encoders."""

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


def counted(encoder: str, chosen: Comparison, tokens: Literal["all", "sounding"]) -> dict[str, dict[str, Any]]:
    """What both presets find, for every label set."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        done = run_activations(
            ActivationsOptions(
                encoder=encoder,
                task=chosen.task,
                data=chosen.data,
                label=chosen.label,
                split=chosen.split,
                unit_seconds=chosen.unit_seconds,
                tokens=tokens,
                run=run,
            )
        )
        neurons = both_presets(run, done)
    found: dict[str, dict[str, Any]] = {}
    for preset, chosen_neurons in neurons.items():
        for _, row in chosen_neurons.coverage.iterrows():
            of_label_set = found.setdefault(row["label_set"], {"classes": int(row["classes"])})
            of_label_set[f"{preset}, {tokens}"] = {column: float(row[column]) for column in COLUMNS} | {
                "aape_cutoff_normalised": normalised_cutoff(chosen_neurons, row["label_set"])
            }
    return found


def compare(options: Options) -> list[dict[str, Any]]:
    """One row per label set and encoder."""
    rows = []
    for chosen in comparisons(options):
        task = load_task(chosen.task, chosen.data, chosen.label.split(","), chosen.unit_seconds)
        found = probe_rows("log-mel", embed_clips(mel_statistics(), task), task, options.seeds)
        for name in options.encoders:
            probed = probe_rows(short(name), embed_clips(load_encoder(name), task), task, options.seeds)
            for tokens in TOKENS:
                of_label_set = counted(name, chosen, tokens)
                for row in probed:
                    row |= of_label_set[row["label_set"]]
            found += probed
        rows += [row | {"heard": chosen.heard, "split": chosen.split} for row in found]
    return rows


def short(encoder: str) -> str:
    """The last part of a directory's or factory's name."""
    return Path(encoder.rpartition(":")[2]).name


def line(row: dict[str, Any]) -> list[str]:
    """One row of the table."""
    cells = [
        f"{row[way]['coverage']:.0%}, {row[way]['mean_neurons_per_class']:.1f}" if way in row else "" for way in WAYS
    ]
    cutoff = f"{row[WAYS[0]]['aape_cutoff_normalised']:.3f}" if WAYS[0] in row else ""
    return [
        f"{row['task']} {row['label_set']}" + (" (in-domain)" if row["heard"] else ""),
        row["encoder"],
        *cells,
        cutoff,
        f"{row['accuracy']:.1%} ± {row['standard_error']:.1%}",
        f"{row['accuracy_at_the_papers_rate']:.1%}",
    ]


def main(options: Options) -> None:
    """Compare, print a table and write everything."""
    rows = compare(options)
    head = ["task", "encoder", *WAYS, "AAPE cut-off", "probe accuracy ± standard error", "at rate 3e-5"]
    order = {(row["task"], row["label_set"]): None for row in rows}
    print(table(head, [line(row) for place in order for row in rows if (row["task"], row["label_set"]) == place]))
    for row in rows:
        if row["at_the_edge_of_the_rates"]:
            print(f"{row['encoder']}, {row['label_set']}: the best rate is the last tried, {row['learning_rate']}")
    encoders = {short(name): fingerprint(load_encoder(name)) for name in options.encoders}
    packages = ("jax", "flax", "jaxdissect")
    write_record(options.out, packages, encoders=encoders, seeds=options.seeds, rates=RATES, rows=rows)


if __name__ == "__main__":
    main(tyro.cli(Options))
