"""What the documentation shows works, and names what is there."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from few_notes import few_notes

from jaxdissect.cli import main
from jaxdissect.counting.clip_store import STORE_FILES

ROOT = Path(__file__).parents[2]


def test_the_encoder_of_the_docs_can_be_dissected(data_folder, tmp_path, monkeypatch, capsys):
    _, code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "encoders.md").read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("mine.py", run_name="__main__")
    shown = (ROOT / "docs" / "encoders.md").read_text()
    parts = [re.findall(r"^ok   ([a-z_ ]+):", text, re.MULTILINE) for text in (capsys.readouterr().out, shown)]
    assert parts[0] == parts[1]
    for number in range(4):
        data_folder.write(f"{number}.wav", [0.1 * (-1) ** number] * 3200)
    rows = "".join(f"{number}.wav,{'ab'[number % 2]},train\n" for number in range(4))
    table = data_folder.table("t.csv", "file_name,label,split\n" + rows)
    options = ["--task", str(table), "--unit-seconds", "0.2", "--batch-size", "1", "--tokens", "sounding"]
    choice = ["--preset", "aape", "--keep", "0.1", "--run", "run"]
    assert main(["dissect", "--encoder", "mine:factory", *options, *choice]) == 0
    assert pd.read_csv("run/coverage.csv")["kept_neurons"].tolist() == [19]


def test_the_page_of_the_run_directory_names_every_file(tmp_path):
    page = (ROOT / "docs" / "run-directory.md").read_text()
    stages = [f"stages/{name}.py" for name in ("neurons", "activations", "probe", "reproduce")]
    code = [ROOT / "jaxdissect" / name for name in (*stages, "ablation/files.py")]
    written = re.findall(r'file\("(\w+\.\w+)"\)', "".join(path.read_text() for path in code))
    written += STORE_FILES.values()
    assert {"activations.nc", "neurons.csv", "probe_layers.csv", "ablation.csv", "reproduction.csv"} <= set(written)
    assert "clip_counts.npy" in written
    for name in [*written, "run.json"]:
        assert f"`{name}`" in page


def test_the_code_of_the_embedding_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "embedding.md").read_text(), re.DOTALL)
    (tmp_path / "embedding.py").write_text("\n".join(blocks))
    found = runpy.run_path("embedding.py", run_name="embedding")
    assert len(blocks) > 10
    assert (found["effect"] != 0).any()


def test_tutorial_runs_from_top_to_bottom(tmp_path, fast_programs):
    """On an eighth of its notes, which it takes as its own of an earlier run."""
    few_notes(tmp_path / "jaxdissect-tutorial" / "notes")
    program = [sys.executable, "-W", "error", str(ROOT / "docs" / "tutorial.py")]
    where = fast_programs | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(program, cwd=tmp_path, env=where, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "jaxdissect-tutorial" / "trained" / "report.html").is_file()
    assert "Silencing the " in result.stdout


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.M):
        yield re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


PAGES = sorted(path for folder in (".", "docs", "weights", "weights/recipes") for path in (ROOT / folder).glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    for path in (ROOT / "docs").iterdir():
        if path.is_file() and path.name != "README.md":
            assert f"({path.name})" in index
