"""Published figures beside those found, for a terminal."""

import math

from jaxdissect.commands.ablation_summary import p_text, signed
from jaxdissect.commands.summary import table
from jaxdissect.stages.reproduce import Reproduction


def reproduction_summary(result: Reproduction) -> str:
    """Published figures beside what was found, class by class for the published ablation."""
    overall = result.figures[result.figures["class"] == ""]
    lines = [
        table(
            ["figure", "published", "here"],
            [[row["figure"], _figure(row["published"]), _figure(row["found"])] for _, row in overall.iterrows()],
        )
    ]
    if result.published is None or result.ablation is None:
        return lines[0]
    of_class = result.figures[result.figures["class"] != ""].set_index(["figure", "class"])
    cells = []
    for name in result.published["test_clips"]:
        cell = [name]
        for figure in ("accuracy before", "accuracy after ablation", "change by ablation", "change by the control"):
            change = figure.startswith("change")
            row = of_class.loc[(figure, name)]
            cell.append(" | ".join(_percent(row[side], change) for side in ("published", "found")))
        cell.append(signed(of_class.loc[("margin change by ablation", name), "found"], 3))
        cell.append(signed(of_class.loc[("margin change by random controls", name), "found"], 3))
        cells.append([*cell, p_text(of_class.loc[("p-value of the margin change", name), "found"])])
    header = ["class", "before", "after", "change", "change by control", "margin change", "random controls", "p"]
    lines.append(
        f"The published set of {len(result.published['neurons'])} neurons ({' & '.join(result.published['classes'])}) "
        f"silenced, published | here; control: every neuron index + 1"
    )
    lines.append(table(header, cells))
    return "\n".join(lines)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if value < 1 else f"{value:.1f}"


def _percent(value: float, change: bool) -> str:
    return signed(100 * value, 1) if change else "-" if math.isnan(value) else f"{100 * value:.1f}%"
