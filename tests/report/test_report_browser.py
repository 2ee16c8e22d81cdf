"""The report in headless Chromium: every section, sound, search and sort; and nothing leaves the page."""

import base64
import itertools
import json
import shutil
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from browser import Browser, browser_is_required
from few_notes import few_notes
from made_runs import HOSTILE, make_run

from jaxdissect.cli import main
from jaxdissect.options.report import ReportOptions
from jaxdissect.stages.report import run_report

SECTIONS = ("overview", "classes", "neurons", "layers", "sharing", "ablation", "compare")
CHOOSING = ("--preset", "lape", "--keep-clips", "--permutations", "20", "--resamples", "5", "--splits", "2")
ESC50 = Path(__file__).resolve().parents[3] / "shared" / "data" / "esc50"
OWN = ("file:", "data:", "blob:", "about:")
CONTRAST = """
(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = channels(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0.99) return found;
    }
    return [255, 255, 255];
  };
  const ratio = (node) => {
    const style = getComputedStyle(node);
    const text = channels(node instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(text), light(behind(node))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const hasText = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  return [...document.querySelectorAll('body *')]
    .filter((node) => hasText(node) && node.checkVisibility() && !node.closest('script, style, .mel, canvas'))
    .filter((node) => ratio(node) < 4.5)
    .map((node) => `${node.tagName} ${node.textContent.slice(0, 30)} ${ratio(node).toFixed(2)}`);
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Without Chromium this fails; it is never skipped."""
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser):
    """The browser, at the size of a desk; whatever goes wrong on a page fails its test."""
    browser.problems.clear()
    browser.look()
    yield browser
    assert browser.problems == []
    assert [address for address in browser.requests if not address.startswith(OWN)] == []


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """The report of a run of the shipped encoder on synthesised notes, with every stage."""
    folder = tmp_path_factory.mktemp("notes")
    few_notes(folder / "notes")
    data = ["--task", "notes", "--data", str(folder / "notes")]
    counting = ["--encoder", "m2d_tiny", *data, "--split", "test", "--label", "octave,instrument"]
    run = ["--run", str(folder / "run")]
    assert main(["dissect", *counting, *CHOOSING, *run]) == 0
    assert main(["share", *run]) == 0
    assert main(["probe", *run, "--learning-rate", "0.01", "--epochs", "20", "--layers", "all"]) == 0
    silencing = ["--neurons", "octave:4", "--gain", "0", "2", "--controls", "2", "--no-causal-map"]
    assert main(["ablate", *run, *silencing]) == 0
    made = make_run(folder / "made", ("2", "3", "4"), label_set="octave")
    assert main(["report", *run, "--with", str(made), "--no-figures"]) == 0
    return folder / "run" / "report.html"


@pytest.fixture(scope="module")
def esc50(tmp_path_factory):
    """The report of a run of the shipped encoder on ESC-50's test fold, by one command."""
    run = tmp_path_factory.mktemp("esc50") / "run"
    counting = ["--encoder", "m2d_tiny", "--task", "esc50", "--data", str(ESC50), "--split", "test"]
    assert main(["dissect", *counting, *CHOOSING, "--report", "--run", str(run)]) == 0
    return run / "report.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("hostile") / "run<b>&", HOSTILE)
    return run_report(ReportOptions(run=run, with_=run, figures=False)).path


def data_of(page):
    return json.loads(page.run("document.getElementById('data').textContent"))


def text(page, selector="#view"):
    return page.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")


def count(page, selector):
    return page.run(f"document.querySelectorAll({json.dumps(selector)}).length")


def click(page, selector):
    page.run(f"document.querySelector({json.dumps(selector)}).click()")


def class_hash(data, c):
    label_set = data["label_sets"][data["classes"]["set"][c]]
    return f"#class/{quote(label_set, safe='')}/{quote(data['classes']['name'][c], safe='')}"


def neuron_hash(data, n=0):
    return f"#neuron/{data['neurons']['layer'][n]}/{data['neurons']['neuron'][n]}"


@pytest.mark.parametrize(
    "name",
    [
        "notes",
        pytest.param(
            "esc50",
            marks=pytest.mark.skipif(not ESC50.exists(), reason="real audio, which is not part of the repository"),
        ),
    ],
)
def test_page_of_a_real_run_is_walked_through(page, request, name):
    """Every section of a run that the commands have made, as a reader goes: by links, search, sort, and ear."""
    file = request.getfixturevalue(name)
    assert file.stat().st_size < 25e6
    page.open(file)
    data = data_of(page)
    classes, found = data["classes"]["name"], data["pairs"]["class"]
    largest = max(set(found), key=found.count)
    shown = {section: section_text(page, section) for section in SECTIONS[1:]}
    assert "Permuted labels" in shown["neurons"]
    assert "Agreement of selectors" in shown["neurons"]
    assert "Neurons and pairs by layer" in shown["layers"]
    assert ("Probe accuracy by layer (octave)" in shown["layers"]) == (name == "notes")
    assert "Sharing in particular" in shown["sharing"]
    if name == "notes":
        assert "Specificity matrix" in shown["ablation"]
        assert "Dose and response" in shown["ablation"]
        assert "linear probe" not in shown["compare"].lower().split("made")[1], "the other run has no probe"
        assert "octave: coverage" in shown["compare"]
    else:
        assert len(classes) == 50
        assert "This report has no ablation" in shown["ablation"]
    click(page, "nav a[data-section=classes]")
    page.wait("document.querySelector('#view input[type=search]') !== null")
    page.run("document.querySelector('#view input[type=search]').focus()")
    page.send("Input.insertText", text=classes[largest])
    page.run(
        f"[...document.querySelectorAll('#view tbody th a')].find((a) => a.textContent === "
        f"{json.dumps(classes[largest])} && a.getAttribute('href') === {json.dumps(class_hash(data, largest))}).click()"
    )
    page.wait(f"document.querySelector('#view h1').textContent === {json.dumps(classes[largest])}")
    click(page, "#view table tbody th a")
    page.wait("document.querySelector('article.clip audio') !== null")
    page.run("window.player = document.querySelector('audio'); player.muted = true; player.play()")
    page.wait("player.currentTime > 0.2")
    page.go("#sharing")
    click(page, "#view tbody th a")
    page.wait("document.querySelector('#view h1').textContent.includes(' and ')")
    assert "Expected by breadth" in text(page)


def section_text(page, section):
    click(page, f"nav a[data-section={section}]")
    page.wait(f"document.querySelector('#view h1')?.textContent.toLowerCase() === '{section}'")
    return text(page)


def test_page_shows_evidence_and_published_figures(page, hostile):
    page.open(hostile)
    assert "Published figures" in text(page, "main")
    assert "accuracy <after> ablation" in text(page, "main")
    assert "Linear probe" in text(page, "main")
    assert "Probe" in section_text(page, "classes")
    assert "observed" in section_text(page, "neurons")
    assert count(page, "#view [aria-label^='Agreement'] tbody tr") == 2
    section_text(page, "layers")
    assert count(page, "#view [aria-label^='Kept'] tbody tr") == 3
    assert "Rank correlation" in section_text(page, "ablation")


def test_layers_view_draws_the_scores_of_probes(page, hostile):
    """The heights of the line and of its band, read off the picture, are the scores of probe_layers.csv."""
    page.open(hostile, "#layers")
    (entry,) = data_of(page)["evidence"]["depths"]
    chart = "#view svg[aria-label^='Probe accuracy by layer']"
    points, band = (
        page.run(f"[...document.querySelector({json.dumps(f'{chart} {part}')}).points].map(({{x, y}}) => [x, y])")
        for part in ("polyline", "polygon")
    )
    score, deviation = np.array(entry["test"]), np.array(entry["deviation"])
    heights = np.array(band)[:, 1]
    # The least and the most of the band are the ends of the scale.
    drawn = [*np.array(points)[:, 1], *heights]
    meant = [*score, *(score + deviation), *(score - deviation)[::-1]]
    scale = (max(drawn) - min(drawn)) / (max(meant) - min(meant))
    assert drawn == pytest.approx([min(drawn) + (max(meant) - value) * scale for value in meant], abs=0.1)
    assert np.diff(np.array(points)[:, 0]) == pytest.approx((points[-1][0] - points[0][0]) / 3, abs=0.1)
    rows = "[...document.querySelectorAll(\"#view [aria-label*='probe_layers.csv'] tbody tr\")]"
    cells = page.run(f"{rows}.map((row) => [...row.cells].map((cell) => cell.textContent))")
    assert cells == [
        [
            str(depth),
            f"{100 * score[depth]:.1f}%",
            f"{100 * deviation[depth]:.1f}%",
            "\u2013",
            f"{70 + 10 * depth:.1f}%",
        ]
        for depth in range(4)
    ]


def test_layers_view_has_no_scores_without_their_file(page, tmp_path):
    run = make_run(tmp_path / "run", ("a", "b"))
    (run / "probe_layers.csv").unlink()
    page.open(run_report(ReportOptions(run=run, figures=False)).path, "#layers")
    assert data_of(page)["evidence"]["depths"] == []
    assert "by layer" in text(page)
    assert "Probe" not in text(page)


def test_sharing_view_changes_between_label_sets(page, notes):
    page.open(notes, "#sharing")
    names = page.run("[...document.querySelectorAll('#view select option')].map((option) => option.textContent)")
    assert names == ["octave", "instrument", "octave x instrument"]
    page.run(
        "(() => { const select = document.querySelector('#view select'); select.focus(); select.value = '2'; "
        "select.dispatchEvent(new Event('change')); })()"
    )
    assert page.run("document.activeElement.tagName") == "SELECT", "the choice keeps the focus"
    assert "octave x instrument" in page.run("document.querySelector('.heat canvas').getAttribute('aria-label')")
    click(page, "#view tbody th a")
    page.wait("document.querySelector('#view h1').textContent.includes('(instrument)')")
    shared = page.run("Number(document.querySelector('#view dd b').textContent)")
    assert count(page, "#view tbody tr") == shared > 0


def test_menu_opens_every_section(page, notes):
    page.open(notes)
    assert "Class-specific neurons of m2d_tiny on notes" in text(page, "main")
    for section in SECTIONS[1:]:
        click(page, f"nav a[data-section={section}]")
        page.wait(f"document.querySelector('nav a[aria-current]').dataset.section === '{section}'")
        assert text(page, "#view h1").lower() == section
        assert page.run("document.activeElement.tagName") == "H1", "a screen reader reads the title"
    click(page, "nav a[data-section=overview]")
    page.wait("document.getElementById('view').hidden")


def test_overview_begins_with_classes_neurons_and_a_player(page, notes):
    """The first screen shows what was found; cautions come after it."""
    page.look(1280, 800)
    page.open(notes)
    rect = "document.querySelector('{}').getBoundingClientRect().toJSON()"
    assert count(page, "#findings tbody tr") > 3
    assert count(page, "#findings tbody tr:first-child td a") > 0, "links to the best neurons"
    assert page.run(rect.format("#findings table"))["bottom"] < 800
    assert page.run(rect.format("#findings audio"))["bottom"] < 800
    assert page.run(rect.format("#overview-view .note"))["top"] > page.run(rect.format("#findings"))["bottom"]
    before = text(page, "#findings .player h2")
    click(page, "#findings tbody tr:last-child button")
    assert text(page, "#findings .player h2") != before
    page.run("window.player = document.querySelector('#findings audio'); player.muted = true; player.play()")
    page.wait("player.currentTime > 0.1")
    page.go("#classes")
    assert count(page, "audio") == 0


def test_clip_plays_and_its_cursor_follows(page, notes):
    page.open(notes)
    data = data_of(page)
    page.go(neuron_hash(data))
    assert count(page, "article.clip audio") > 1
    assert count(page, ".mel canvas.overlay") == count(page, "article.clip audio")
    page.wait("[...document.querySelectorAll('.mel img')].every((img) => img.complete && img.naturalWidth > 10)")
    page.run("window.player = document.querySelector('audio'); player.muted = true; player.play()")
    page.wait("player.currentTime > 0.3 && !player.paused")
    at = "parseFloat(document.querySelector('.cursor').style.left)"
    before = page.run(at)
    page.wait(f"{at} > {before}")
    assert page.run("player.duration") == pytest.approx(2.0, abs=0.1)
    page.run("window.other = document.querySelectorAll('audio')[1]; other.muted = true; other.play()")
    page.wait("player.paused && !other.paused")
    page.run("document.querySelector('.mel').scrollIntoView({block: 'center'})")
    rect = page.run("document.querySelector('.mel').getBoundingClientRect().toJSON()")
    place = rect["left"] + 0.75 * rect["width"], rect["top"] + 9
    for kind in ("mousePressed", "mouseReleased"):
        page.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
    page.wait("player.currentTime >= 1.4")
    page.go("#classes")
    assert count(page, "audio") == 0


def test_overlay_is_strongest_at_the_strongest_patch(page, notes):
    """The strongest patch of a clip is the strongest on its canvas."""
    page.open(notes)
    data = data_of(page)
    page.go(neuron_hash(data))
    found = page.run("""(() => {
      const canvas = document.querySelector('.overlay');
      const {data, width, height} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let best = [0, 0, 0];
      for (let y = 16; y < height; y += 32) for (let x = 4; x < width; x += 8) {
        const alpha = data[4 * (y * width + x) + 3];
        if (alpha > best[0]) best = [alpha, x / width, 1 - y / height];
      }
      return best;
    })()""")
    grids, clip = data["clips"]["grids"], next(clip for clip in data["top"]["clip"][0] if clip >= 0)
    shape = grids["levels"]["shape"]
    levels = np.frombuffer(base64.b64decode(grids["levels"]["data"]), np.uint8).reshape(shape)
    own = levels[grids["place"].index([clip, 0])]
    band, column = (
        int(found[2] * shape[1]),
        np.searchsorted(grids["stop"], found[1] * data["clips"]["unit_seconds"], "right"),
    )
    assert own[band, column] == own.max()


def test_table_sorts_and_searches(page, notes):
    page.open(notes, "#classes")
    sizes = "[...document.querySelectorAll('#view tbody tr')].map((row) => Number(row.cells[3].innerText))"
    falling = page.run(sizes)
    assert falling == sorted(falling, reverse=True)
    click(page, "#view thead th:nth-child(4) button")
    assert page.run(sizes) == falling[::-1] or page.run(sizes) == sorted(falling)
    assert page.run("document.querySelector('#view thead th:nth-child(4)').getAttribute('aria-sort')") == "ascending"
    page.run("document.querySelector('input[type=search]').focus()")
    page.send("Input.insertText", text="INSTRU")
    assert 0 < count(page, "#view tbody tr") < len(falling)
    page.send("Input.insertText", text=" nothing like it")
    assert "No row matches" in text(page)


def test_heatmap_is_used_by_keys(page, notes):
    page.open(notes, "#sharing")
    page.run("document.querySelector('.heat canvas').focus()")
    page.press("ArrowRight")
    page.press("ArrowDown")
    page.press("ArrowRight")
    sentence = text(page, ".readout")
    assert " and " in sentence or "neuron" in sentence
    assert text(page, "#status") == sentence
    page.press("Enter")
    page.wait("/^#(pair|class)/.test(location.hash)")
    page.wait("document.activeElement.tagName === 'H1'")


def test_address_opens_its_place(page, notes):
    page.open(notes)
    data = data_of(page)
    size = data["pairs"]["class"]
    place = class_hash(data, max(set(size), key=size.count))
    page.open(notes, place)
    assert text(page, "#view h1") == data["classes"]["name"][max(set(size), key=size.count)]
    assert count(page, "#view tbody tr") > 0
    page.open(notes, neuron_hash(data, 1))
    assert f"neuron {data['neurons']['neuron'][1]}" in text(page, "#view h1")
    page.open(notes, "#neuron/99/1")
    assert "Unknown address" in text(page)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_page_is_legible_and_nothing_is_cut(page, notes, hostile, width, dark):
    page.look(width, 800, dark)
    for file in (notes, hostile):
        page.open(file)
        data = data_of(page)
        for place in (*(f"#{name}" for name in SECTIONS), class_hash(data, 1), neuron_hash(data)):
            page.go(place)
            assert page.run("document.documentElement.scrollWidth") <= width, place
            assert page.run(CONTRAST) == [], place


NAMED = {"button", "link", "searchbox", "combobox", "checkbox", "application", "region", "image", "heading", "table"}


def test_page_names_every_control_and_headings_step_down(page, notes, hostile):
    for file in (notes, hostile):
        page.open(file)
        data = data_of(page)
        for place in (*(f"#{name}" for name in SECTIONS), class_hash(data, 1), neuron_hash(data)):
            page.go(place)
            nodes = [node for node in page.send("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]
            kinds = {node["role"]["value"] for node in nodes}
            assert {"link", "heading", "main", "navigation"} <= kinds
            nameless = [
                node["role"]["value"]
                for node in nodes
                if node["role"]["value"] in NAMED and not node.get("name", {}).get("value", "").strip()
            ]
            assert nameless == [], place
            levels = page.run(
                "[...document.querySelectorAll('main h1, main h2, main h3')].filter((one) => one.checkVisibility())"
                ".map((one) => Number(one.tagName[1]))"
            )
            assert levels[0] == 1, place
            assert levels.count(1) == 1, place
            assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), (place, levels)


def test_page_is_walked_by_tab_in_order(page, notes):
    page.open(notes, "#classes")
    places = []
    for _ in range(40):
        page.press("Tab")
        place, outline, covered = page.run("""(() => {
          const at = document.activeElement, style = getComputedStyle(at), rect = at.getBoundingClientRect();
          const bar = document.querySelector('.bar');
          return [
            [...document.querySelectorAll('*')].indexOf(at),
            style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth),
            !bar.contains(at) && !at.matches('.skip') && rect.top < bar.getBoundingClientRect().bottom,
          ];
        })()""")
        places.append(place)
        assert outline >= 2, place
        assert not covered, "behind the bar"
    assert places == sorted(set(places)), "in the order of the page, and no trap"


def test_page_prints_whole_and_nothing_moves(page, notes):
    page.open(notes, "#sharing")
    page.send("Emulation.setEmulatedMedia", media="print")
    assert page.run("getComputedStyle(document.querySelector('.bar')).display") == "none"
    boxes = "[...document.querySelectorAll('.heat, .scroll')]"
    assert page.run(f"{boxes}.every((box) => getComputedStyle(box).overflow === 'visible')")
    assert len(base64.b64decode(page.send("Page.printToPDF")["data"])) > 10_000
    page.send("Emulation.setEmulatedMedia", media="screen")
    moving = "(style) => style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0"
    assert not page.run(f"[...document.querySelectorAll('*')].map((one) => getComputedStyle(one)).some({moving})")


def test_contrast_check_finds_faint_text(page, notes):
    page.open(notes)
    page.run("document.querySelector('h1').style.color = '#888'")
    assert len(page.run(CONTRAST)) == 1


def test_page_shows_hostile_names_as_text(page, hostile):
    page.open(hostile)
    data = data_of(page)
    assert data["classes"]["name"] == list(HOSTILE)
    for place in (*(f"#{name}" for name in SECTIONS), neuron_hash(data)):
        page.go(place)
        assert count(page, "script") == 2
    for c, name in enumerate(HOSTILE):
        page.go(class_hash(data, c))
        assert page.run("document.querySelector('#view h1').textContent") == name
    page.go("#classes")
    assert "<script>alert(1)</script>" in text(page)
    assert page.run("document.querySelectorAll('#view script, #view img, #view b').length") == 0
    page.go("#compare")
    assert "<img src=x onerror=alert(1)>" in text(page)


def test_page_links_of_hostile_names_lead_to_their_places(page, hostile):
    page.open(hostile, "#classes")
    links = page.run("[...document.querySelectorAll('#view tbody a')].map((anchor) => anchor.getAttribute('href'))")
    assert len(links) > len(HOSTILE)
    for link in links[:40]:
        page.go(link)
        assert "Unknown address" not in text(page, "#view h1"), link


@pytest.mark.parametrize("classes", [1, 2, 527])
def test_page_of_few_and_of_many_classes(page, tmp_path, classes):
    run = make_run(
        tmp_path / "run",
        [f"class {c}" for c in range(classes)],
        keep=0.3 if classes < 100 else 0.1,
        ablated=classes < 100,
    )
    path = run_report(ReportOptions(run=run, figures=False)).path
    assert path.stat().st_size < 25e6
    page.open(path)
    data = data_of(page)
    for section in SECTIONS:
        page.go(f"#{section}")
        assert count(page, "#view *") < 6000, section
    if data["sharing"]:
        page.go("#sharing")
        page.run("document.querySelector('.heat canvas').focus()")
        painted = page.run("""(() => {
          const pen = CanvasRenderingContext2D.prototype, fill = pen.fillRect, draw = pen.drawImage;
          let [cells, copies] = [0, 0];
          pen.fillRect = function (...given) { cells += 1; return fill.apply(this, given); };
          pen.drawImage = function (...given) { copies += 1; return draw.apply(this, given); };
          const canvas = document.querySelector('.heat canvas');
          for (let i = 0; i < 20; i += 1) canvas.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));
          [pen.fillRect, pen.drawImage] = [fill, draw];
          return [cells, copies];
        })()""")
        assert painted == [0, 20], "a step copies the picture, however many cells there are"
    page.go("#classes")
    assert count(page, "#view tbody tr") == min(classes, 100)
    if classes > 100:
        click(page, "#view button.plain:not([hidden])")
        assert count(page, "#view tbody tr") == classes
    if data["neurons"]["layer"]:
        page.go(neuron_hash(data))
        assert "Specific to" in text(page)


def test_neuron_without_clips_has_no_colour_key(page, dissected, tmp_path):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    path = run_report(ReportOptions(run=run, figures=False, max_mb=0.225)).path
    page.open(path)
    data = data_of(page)
    assert 0 in data["clips"]["grids"]["highest"]
    page.go(neuron_hash(data, data["clips"]["grids"]["highest"].index(0)))
    assert "more top clip" in text(page)
    assert text(page, ".tools") == ""


def test_address_of_an_object_property_is_unknown(page, hostile):
    for place in ("#constructor", "#toString", "#__proto__"):
        page.open(hostile, place)
        assert text(page, "#view h1") == "Unknown address"


def test_page_with_files_beside_plays_sound(page, notes, tmp_path):
    run = shutil.copytree(notes.parent, tmp_path / "run")
    path = run_report(ReportOptions(run=run, full=True, figures=False)).path
    page.open(path)
    page.go(neuron_hash(data_of(page)))
    page.wait("[...document.querySelectorAll('.mel img')].every((img) => img.complete && img.naturalWidth > 10)")
    page.run("window.player = document.querySelector('audio'); player.muted = true; player.play()")
    page.wait("player.currentTime > 0.1")


def test_browser_that_is_not_there_is_said_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("CHROMIUM", "no-such-browser")
    with pytest.raises(RuntimeError, match=r"need Chromium.*apt-get install chromium"):
        Browser(tmp_path)


@pytest.mark.parametrize(("ci", "required"), [("", False), ("false", False), ("true", True), ("1", True)])
def test_browser_is_required_in_continuous_integration(monkeypatch, ci, required):
    monkeypatch.setenv("CI", ci)
    assert browser_is_required() == required
