"""`jaxdissect reproduce`: the paper's published figures beside those found here."""

import math
from collections.abc import Iterator

from jaxdissect.commands.ablate import ABLATION_FILES, ablation_warnings, unjudged
from jaxdissect.commands.activations import COUNT_FILES, activations_warnings, unread
from jaxdissect.commands.neurons import neurons_warnings
from jaxdissect.commands.outcome import Outcome, existing, p_text, percent, signed, table
from jaxdissect.options.reproduce import ReproduceOptions
from jaxdissect.stages.neurons import SELECTION_FILES
from jaxdissect.stages.reproduce import Reproduction, run_reproduce
from jaxdissect.types import Record


def run(options: ReproduceOptions) -> Iterator[Outcome]:
    """Count, choose, probe, and repeat the published ablation.

    Args:
      options: options of the command.
    """
    reproduction = run_reproduce(options)
    results = reproduce_results(reproduction)
    warnings = [*activations_warnings(reproduction.counted), *neurons_warnings(reproduction.neurons)]
    failures = [unread(reproduction.counted)]
    files = ["reproduction.csv", *COUNT_FILES, *SELECTION_FILES, "sharing.csv", "sharing.nc"]
    if reproduction.ablation is not None:
        warnings += ablation_warnings(reproduction.ablation)
        failures.append(unjudged(reproduction.ablation))
        files += ["confusion.csv", *ABLATION_FILES]
    yield Outcome(
        stage="reproduce",
        results=results,
        summary=reproduce_summary(results),
        warnings=warnings,
        files=existing(options.run, files),
        failure=" ".join(filter(None, failures)) or None,
    )


def reproduce_results(reproduction: Reproduction) -> Record:
    """The rows of `reproduction.csv` and of `confusion.csv`, and the published neuron set that was ablated.

    Args:
      reproduction: result of the stage.
    """
    published = reproduction.published
    published_set = published and {"classes": published["classes"], "neurons": len(published["neurons"])}
    matrices = reproduction.confusion
    return {
        "figures": reproduction.figures.to_dict("records"),
        "published_set": published_set,
        "confusion": None if matrices is None else matrices.to_dict("records"),
    }


def reproduce_summary(results: Record) -> str:
    """Published figures beside those found here, class by class for the published ablation.

    Args:
      results: JSON object of `reproduce_results`.
    """
    overall = [row for row in results["figures"] if not row["class"]]
    cells = [[row["figure"], _figure(row["published"]), _figure(row["found"])] for row in overall]
    lines = [table(["figure", "published", "here"], cells)]
    published = results["published_set"]
    if published is not None:
        lines.append(
            f"The published set of {published['neurons']} neurons ({' & '.join(published['classes'])}) silenced, "
            f"published | here; control: every neuron index + 1"
        )
        lines.append(_ablation_table(results["figures"]))
        lines.append("Clips of each class (rows) that the probes name as each class, before | with the set silenced")
        lines.append(_confusion_table(results["confusion"]))
    return "\n".join(lines)


def _ablation_table(figures: list[Record]) -> str:
    """What silencing the published set does to every class: in the paper, here, and by random control sets."""
    # Figures of single classes; those of all classes have an empty class.
    by_figure = {(row["figure"], row["class"]): row for row in figures if row["class"]}
    header = ["class", "before", "after", "change", "change by control", "margin change", "random controls", "p"]
    columns = ("accuracy before", "accuracy after ablation", "change by ablation", "change by the control")
    cells = []
    for name in dict.fromkeys(row["class"] for row in figures if row["class"]):
        row = [name]
        for column in columns:
            sides = (by_figure[column, name][side] for side in ("published", "found"))
            row.append(" | ".join(percent(value, sign=column.startswith("change")) for value in sides))
        row.append(signed(by_figure["margin change by ablation", name]["found"], 3))
        row.append(signed(by_figure["margin change by random controls", name]["found"], 3))
        cells.append([*row, p_text(by_figure["p-value of the margin change", name]["found"])])
    return table(header, cells)


def _confusion_table(rows: list[Record]) -> str:
    """The confusion matrix of the untouched encoder, and with the published set silenced, in the same cells."""
    matrices: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        matrices.setdefault(row["intervention"], {})[row["class"], row["named"]] = row["clips"]
    before, after, *_ = matrices.values()
    names = list(dict.fromkeys(row["class"] for row in rows))
    cells = [
        [own, *(f"{round(before[own, named], 1):g} | {round(after[own, named], 1):g}" for named in names)]
        for own in names
    ]
    return table(["class", *names], cells)


def _figure(value: float) -> str:
    """A figure with three significant digits below 1, with one digit behind the point above, "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.3g}" if value < 1 else f"{value:.1f}"
