"""Figures for papers of one run, as PNG and SVG with the data behind each as CSV."""

from pathlib import Path

from jaxdissect.report.contents import Contents
from jaxdissect.report.payload import Frame


def draw_paper_figures(contents: Contents, axes: Frame, folder: Path) -> tuple[Path, ...]:
    """Draw what there is data for."""
    return ()
