"""What a report shows, in words for a terminal."""

from jaxdissect.stages.report import ReportResult

LISTED = 10


def report_summary(done: ReportResult) -> str:
    """What can be seen and heard, and what cannot."""
    lines = [f"Report of {done.neurons:,} class-specific neurons with {done.clips:,} clips to hear."]
    lines += report_warnings(done)
    for entry in done.missing[:LISTED]:
        remedy = f" ({entry.command})" if entry.command else ""
        lines.append(f"Not in it: {entry.what}: {entry.why}{remedy}")
    if len(done.missing) > LISTED:
        lines.append(f"... and {len(done.missing) - LISTED} more, see the report.")
    lines.append(f"The page takes {done.size / 1e6:,.1f} MB; made in {done.seconds:,.1f} s.")
    return "\n".join(lines)


def report_warnings(done: ReportResult) -> list[str]:
    """What the page should not be read without."""
    return list(done.warnings)
