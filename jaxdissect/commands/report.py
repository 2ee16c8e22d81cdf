"""`jaxdissect report`: write a page on which a run's neurons can be seen and heard."""

import dataclasses
from collections.abc import Iterator

from jaxdissect.commands.outcome import LISTED, Outcome
from jaxdissect.options.report import ReportOptions
from jaxdissect.stages.report import ReportResult, run_report
from jaxdissect.types import Record


def run(options: ReportOptions) -> Iterator[Outcome]:
    """Write the page."""
    yield report_outcome(run_report(options))


def report_outcome(report: ReportResult) -> Outcome:
    """The answer of the stage `report`.

    Args:
      report: result of the stage.
    """
    results = {
        "neurons": report.neurons,
        "clips": report.clips,
        "clips_left_out": report.left_out,
        "missing": [dataclasses.asdict(entry) for entry in report.missing],
        "size_bytes": report.size,
        "seconds": report.seconds,
    }
    return Outcome(
        stage="report",
        results=results,
        summary=report_summary(results),
        warnings=report.warnings,
        files=(report.path, *report.figures),
    )


def report_summary(results: Record) -> str:
    """What can be seen and heard, what is missing, and how to add it.

    Args:
      results: JSON object of the stage `report`.
    """
    lines = [f"Report of {results['neurons']:,} class-specific neurons with {results['clips']:,} clips to hear."]
    for entry in results["missing"][:LISTED]:
        remedy = f" ({entry['command']})" if entry["command"] else ""
        lines.append(f"Not in it: {entry['what']}: {entry['why']}{remedy}")
    if len(results["missing"]) > LISTED:
        lines.append(f"... and {len(results['missing']) - LISTED} more, see the report.")
    lines.append(f"The page takes {results['size_bytes'] / 1e6:,.1f} MB; made in {results['seconds']:,.1f} s.")
    return "\n".join(lines)
