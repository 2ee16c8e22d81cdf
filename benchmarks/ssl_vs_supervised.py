"""The paper's comparison: do self-supervised encoders grow more class-specific neurons than supervised ones?

`python -m benchmarks.ssl_vs_supervised --esc50 ESC-50 --fsdd FSDD --out benchmarks/results/ssl_vs_supervised.json`

For each encoder and task: coverage and neurons per class (AAPE), over all tokens and over sounding ones, and
linear-probe accuracy on the test split. Tasks that no encoder was trained on come first; their neurons are chosen on
the training split. Of ESC-50 the encoders have heard folds 1-4, so its neurons are chosen on fold 5.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import pandas as pd
import tyro

from benchmarks.common import machine, table, versions
from benchmarks.probes import RATES, mel_statistics, probe_rows
from jaxdissect.dissect import ActivationsOptions, NeuronsOptions, run_activations, run_neurons
from jaxdissect.embeddings import embed_clips
from jaxdissect.encoder.checkpoint import load_encoder
from jaxdissect.files import whole_file
from jaxdissect.tasks.known import load_task

COLUMNS = ("coverage", "kept_neurons", "mean_neurons_per_class", "mean_classes_per_neuron")
TOKENS: tuple[Literal["all", "sounding"], ...] = ("all", "sounding")


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


def coverage(encoder: str, chosen: Comparison, tokens: Literal["all", "sounding"]) -> pd.DataFrame:
    """The coverage table of every label set."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run_activations(
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
        return run_neurons(NeuronsOptions(run=run)).coverage.set_index("label_set")


def compare(options: Options) -> list[dict[str, Any]]:
    """One row per label set and encoder."""
    rows = []
    for chosen in comparisons(options):
        task = load_task(chosen.task, chosen.data, chosen.label.split(","), chosen.unit_seconds)
        found = probe_rows("log-mel", embed_clips(mel_statistics(), task), task, options.seeds)
        for name in options.encoders:
            probed = probe_rows(short(name), embed_clips(load_encoder(name), task), task, options.seeds)
            for tokens in TOKENS:
                table_of = coverage(name, chosen, tokens)
                for row in probed:
                    row["classes"] = int(table_of.loc[row["label_set"], "classes"])
                    row[tokens] = {column: float(table_of.loc[row["label_set"], column]) for column in COLUMNS}
            found += probed
        rows += [row | {"heard": chosen.heard, "split": chosen.split} for row in found]
    return rows


def short(encoder: str) -> str:
    """The last part of a directory's or factory's name."""
    return Path(encoder.rpartition(":")[2]).name


def line(row: dict[str, Any]) -> list[str]:
    """One row of the table."""
    counted = [
        text
        for tokens in TOKENS
        for text in (
            (f"{row[tokens]['coverage']:.0%}", f"{row[tokens]['mean_neurons_per_class']:.1f}")
            if tokens in row
            else ("", "")
        )
    ]
    return [
        f"{row['task']} {row['label_set']}" + (" (in-domain)" if row["heard"] else ""),
        row["encoder"],
        *counted,
        f"{row['accuracy']:.1%} ± {row['standard_error']:.1%}",
        f"{row['accuracy_at_the_papers_rate']:.1%}",
    ]


def main(options: Options) -> None:
    """Compare, print a table and write everything."""
    rows = compare(options)
    head = ["task", "encoder"]
    head += [f"{what}, {tokens} tokens" for tokens in TOKENS for what in ("coverage", "neurons per class")]
    head += ["probe accuracy ± standard error", "at rate 3e-5"]
    order = {(row["task"], row["label_set"]): None for row in rows}
    print(table(head, [line(row) for place in order for row in rows if (row["task"], row["label_set"]) == place]))
    for row in rows:
        if row["at_the_edge_of_the_rates"]:
            print(f"{row['encoder']}, {row['label_set']}: the best rate is the last tried, {row['learning_rate']}")
    record = {
        "encoders": [short(name) for name in options.encoders],
        "seeds": options.seeds,
        "rates": RATES,
        "machine": machine(),
        "device": jax.devices()[0].device_kind,
        "versions": versions("jax", "flax", "jaxdissect"),
        "rows": rows,
    }
    with whole_file(options.out) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
