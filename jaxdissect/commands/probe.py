"""`jaxdissect probe`: train a linear probe on an encoder's clip embeddings."""

from collections.abc import Iterator
from pathlib import Path

from jaxdissect.commands.outcome import Outcome, bad_clips, existing, left_out, percent, table
from jaxdissect.options.probe import ProbeOptions
from jaxdissect.stages.probe import ProbeResult, run_probe
from jaxdissect.types import Record


def run(options: ProbeOptions) -> Iterator[Outcome]:
    """Train and score."""
    yield probe_outcome(options.run, run_probe(options))


def probe_outcome(run: Path, probes: ProbeResult) -> Outcome:
    """The answer of the stage `probe`.

    Args:
      run: run directory.
      probes: result of the stage.
    """
    results = probe_results(probes)
    return Outcome(
        stage="probe",
        results=results,
        summary=probe_summary(results),
        warnings=left_out("Left out", probes.unusable.items(), "probe.json"),
        files=existing(run / "probe", ("probe.json", "scores.csv", "class_scores.csv", "head")),
        failure=bad_clips(probes, "the probes of the others were saved. See probe.json."),
    )


def probe_results(probes: ProbeResult) -> Record:
    """Mean and standard deviation of the scores of every label set's probes, by split.

    Args:
      probes: result of the stage.
    """
    label_sets = []
    for evaluation in probes.evaluations:
        # A probe has a row for each of its splits.
        scores = evaluation.scores.groupby("split", sort=False)["score"]
        test = evaluation.scores[evaluation.scores["split"] == "test"]
        label_sets.append(
            {
                "label_set": evaluation.labels.name,
                "classes": len(evaluation.labels.classes),
                "metric": evaluation.scores["metric"].iloc[0],
                "probes": len(test),
                "test_clips": test["clips"].mean(),
                "mean_score": scores.mean().to_dict(),
                "sd_score": scores.std(ddof=0).to_dict(),  # of these probes, not an estimate for further ones
            }
        )
    return {"label_sets": label_sets, "clips_left_out": len(probes.unusable)}


def probe_summary(results: Record) -> str:
    """The scores as a table.

    Args:
      results: JSON object of `probe_results`.
    """
    header = ["label set", "classes", "metric", "train", "valid", "test", "test clips", "probes"]
    cells = []
    for row in results["label_sets"]:
        mean = row["mean_score"]
        cells.append(
            [
                row["label_set"],
                row["classes"],
                row["metric"].replace("_", " "),
                percent(mean["train"]),
                percent(mean["valid"]),
                f"{percent(mean['test'])} +- {100 * row['sd_score']['test']:.1f}",
                f"{row['test_clips']:.0f}",
                row["probes"],
            ]
        )
    return table(header, cells)
