"""The page: one HTML file that holds its style, script and data, and requests nothing from elsewhere."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import jinja2
import markupsafe

from jaxdissect.report.numbers import to_json
from jaxdissect.report.overview import Overview
from jaxdissect.report.run_contents import Missing
from jaxdissect.report.snippets import Snippets
from jaxdissect.types import Record

TEMPLATES = resources.files("jaxdissect.report") / "templates"
HELPERS = ("data", "dom", "colour", "tables", "heatmap", "charts", "clips", "evidence")
VIEWS = ("overview", "classes", "neurons", "layers", "sharing", "ablation", "compare")  # in the order of the menu
STYLES = ("base", "parts", "figures")


@dataclass(frozen=True)
class Page:
    """What a page is made of.

    Attributes:
      title: name of the run.
      overview: the first section.
      payload: everything else, as a JSON object.
      missing: what the page does without.
      commands: command lines that made the run.
      made: version and time of the page.
    """

    title: str
    overview: Overview
    payload: Record
    missing: tuple[Missing, ...]
    commands: tuple[str, ...]
    made: str


def render(page: Page, snippets: Snippets | None = None, beside: bool = False) -> str:
    """The page as HTML.

    Args:
      page: content of the page.
      snippets: sound and pictures to embed; None if there are none, or if they are in files beside the page.
      beside: whether sound and pictures are in files beside the page.
    """
    # Whatever comes from files is escaped; only style, script and JSON, which `to_json` has escaped, are not.
    html = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    script, style = script_text(), "\n".join(_text(f"{name}.css") for name in STYLES)
    return html.from_string(_text("report.html.j2")).render(
        page=page,
        sections={name: name.capitalize() for name in VIEWS},
        policy=policy(script, style, beside),
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        data=markupsafe.Markup(to_json(page.payload)),
        media=[] if snippets is None else list(_media(snippets)),
    )


def policy(script: str, style: str, beside: bool = False) -> str:
    """Content security policy: the page's own script, style, pictures and sound, and no network.

    Args:
      script: text of the only script that may run.
      style: text of the only style that applies.
      beside: whether pictures and sound may also come from files beside the page.
    """
    # Clips in the page are `data:` pictures and `blob:` sound; "file:" is for a page opened from the disk.
    files = " 'self' file:" if beside else ""
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        f"img-src data:{files}; media-src blob:{files}; base-uri 'none'; form-action 'none'"
    )


def script_text() -> str:
    """All scripts as one strict function, so that their names are not global."""
    # The router comes last: it draws the page as soon as it is read.
    parts = [_text(f"js/{name}.js") for name in (*HELPERS, *VIEWS, "router")]
    return "(() => {\n'use strict';\n" + "\n".join(parts) + "\n})();"


def _media(snippets: Snippets) -> Iterator[tuple[int, str, str]]:
    """Number, sound and picture of each clip, as base64."""
    for clip, snippet in snippets.clips.items():
        yield clip, base64.b64encode(snippet.audio).decode(), base64.b64encode(snippet.picture).decode()


def _text(name: str) -> str:
    """Text of a file of the folder `templates`."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Hash of a script or style, as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
