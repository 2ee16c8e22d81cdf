"""The page: one HTML file that holds its style, script and data, and asks for nothing from elsewhere."""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import markupsafe

from jaxdissect.report.numbers import to_json
from jaxdissect.report.overview import Overview
from jaxdissect.report.snippets import Snippets

SCRIPTS = (
    "data", "dom", "colour", "tables", "heatmap", "charts", "clips", "checks", "classes", "neurons", "layers",
    "sharing", "ablation", "compare", "router",
)  # fmt: skip
STYLES = ("base", "parts", "figures")
PLAIN = jinja2.Environment(
    loader=jinja2.PackageLoader("jaxdissect.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """What a page is made of.

    Attributes:
      title: of the run.
      overview: its first section.
      payload: everything else.
      sections: names of the sections that have something to show, and their titles.
      made: when and by what.
    """

    title: str
    overview: Overview
    payload: Mapping[str, Any]
    sections: Mapping[str, str]
    made: str


def render(page: Page, snippets: Snippets | None = None, beside: bool = False) -> str:
    """The page as HTML.

    Args:
      page: its content.
      snippets: sound and pictures to embed; None: none, or they lie in files beside.
      beside: sound and pictures lie in files beside the page.
    """
    script, style = script_text(), "\n".join(_text(f"{name}.css") for name in STYLES)
    return PLAIN.get_template("report.html.j2").render(
        page=page,
        policy=policy(script, style, beside),
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        data=markupsafe.Markup(to_json(page.payload)),
        media=[] if snippets is None else list(_media(snippets)),
    )


def policy(script: str, style: str, beside: bool = False) -> str:
    """Content security policy: this script and this style, pictures and sound of the page itself, or also beside it."""
    files = " 'self' file:" if beside else ""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            f"img-src data:{files}",
            f"media-src blob:{files}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def script_text() -> str:
    """All scripts, as one strict function."""
    parts = [_text(f"js/{name}.js") for name in SCRIPTS]
    return "(() => {\n'use strict';\n" + "\n".join(parts) + "\n})();"


def _media(snippets: Snippets) -> Iterator[tuple[int, str, str]]:
    for clip, snippet in snippets.clips.items():
        yield clip, base64.b64encode(snippet.audio).decode(), base64.b64encode(snippet.picture).decode()


def _text(name: str) -> str:
    return PLAIN.loader.get_source(PLAIN, name)[0] if PLAIN.loader is not None else ""


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
