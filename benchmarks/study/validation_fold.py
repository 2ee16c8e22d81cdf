"""Which of several trainings to keep: probes on ESC-50 fold 4, trained on folds 1-3; fold 5 is not looked at.

`python -m benchmarks.study.validation_fold --esc50 ESC-50 --encoders DIR ...`
"""

import dataclasses
from pathlib import Path

import tyro

from benchmarks.common import table
from benchmarks.study.probes import mel_statistics, probe_rows
from jaxdissect.encoder.directory import load_encoder
from jaxdissect.probe.embeddings import embed_clips
from jaxdissect.tasks.known import load_task

TEST_FOLD, VALIDATION_FOLD = 5, 4


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare."""

    esc50: Path  # the ESC-50 folder
    encoders: tuple[str, ...]
    seeds: int = 3


def main(options: Options) -> None:
    """Print the accuracies."""
    task = load_task("esc50", options.esc50, ["event"], test_fold=VALIDATION_FOLD)
    task = task.rows([clip for clip, fold in enumerate(task.folds) if fold != TEST_FOLD])
    named = {"log-mel": mel_statistics()} | {name: load_encoder(name) for name in options.encoders}
    lines = []
    for name, encoder in named.items():
        (row,) = probe_rows(name, embed_clips(encoder, task), task, options.seeds)
        by_rate = {rate: sum(found) / len(found) for rate, found in row["test_accuracy_by_rate"].items()}
        lines.append([name, f"{row['accuracy']:.1%}", *(f"{accuracy:.1%}" for accuracy in by_rate.values())])
    print(table(["encoder", "rate best on validation clips", *map(str, by_rate)], lines))


if __name__ == "__main__":
    main(tyro.cli(Options))
