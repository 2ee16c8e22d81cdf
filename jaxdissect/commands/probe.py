"""`jaxdissect probe`: train a linear probe on an encoder's clip embeddings."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from jaxdissect.commands.outcome import Outcome, bad_clips, existing, left_out, percent, table
from jaxdissect.options.probe import ProbeOptions
from jaxdissect.stages.probe import ProbeResult, run_probe
from jaxdissect.types import Record

FILES = ("probe.json", "scores.csv", "class_scores.csv", "head")  # of the folder `probe`


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
        files=(*existing(run / "probe", FILES), *existing(run, ("probe_layers.csv",))),
        failure=bad_clips(probes, "the probes of the others were saved. See probe.json."),
    )


def probe_results(probes: ProbeResult) -> Record:
    """Mean and standard deviation of the scores of every label set's probes, by split and, if probed, by depth.

    Args:
      probes: result of the stage.
    """
    label_sets = []
    for evaluation in probes.evaluations:
        # A probe has a row for each of its splits.
        test = evaluation.scores[evaluation.scores["split"] == "test"]
        label_sets.append(
            {
                "label_set": evaluation.labels.name,
                "classes": len(evaluation.labels.classes),
                "metric": evaluation.scores["metric"].iloc[0],
                "probes": len(test),
                "test_clips": test["clips"].mean(),
                **_by_split(evaluation.scores),
            }
        )
        if probes.layer_scores is not None:
            own = probes.layer_scores[probes.layer_scores["label_set"] == evaluation.labels.name]
            by_depth = enumerate(rows for _, rows in own.groupby("depth"))
            label_sets[-1]["by_depth"] = [{"depth": depth, **_by_split(rows)} for depth, rows in by_depth]
    return {"label_sets": label_sets, "clips_left_out": len(probes.unusable)}


def _by_split(rows: pd.DataFrame) -> Record:
    """Mean and standard deviation of the scores of some probes, by split."""
    scores = rows.groupby("split", sort=False)["score"]
    # The deviation is that of these probes, not an estimate for further ones.
    return {"mean_score": scores.mean().to_dict(), "sd_score": scores.std(ddof=0).to_dict()}


def probe_summary(results: Record) -> str:
    """The scores as a table, and those after every layer as another.

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
                _test_score(row),
                f"{row['test_clips']:.0f}",
                row["probes"],
            ]
        )
    return "\n\n".join([table(header, cells), *_layers_summary(results)])


def _layers_summary(results: Record) -> list[str]:
    """The test scores at every depth, a column for each label set; nothing if only the last layer was probed."""
    label_sets = [row for row in results["label_sets"] if "by_depth" in row]
    if not label_sets:
        return []
    header = ["test score by layers run", *(row["label_set"] for row in label_sets)]
    by_depth = zip(*(row["by_depth"] for row in label_sets), strict=True)
    cells = [[scores[0]["depth"], *map(_test_score, scores)] for scores in by_depth]
    return [table(header, cells)]


def _test_score(row: Record) -> str:
    """Mean and standard deviation of the test scores."""
    return f"{percent(row['mean_score']['test'])} +- {100 * row['sd_score']['test']:.1f}"
