"""What the documentation shows works, and names what is there."""

import re
import runpy
from pathlib import Path

import pandas as pd

import jaxdissect
from jaxdissect.cli import main

ROOT = Path(__file__).parent.parent


def test_the_encoder_of_the_docs_can_be_dissected(data_folder, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "encoders.md").read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        data_folder.write(f"{number}.wav", [0.1 * (-1) ** number] * 3200)
    rows = "".join(f"{number}.wav,{'ab'[number % 2]},train\n" for number in range(4))
    table = data_folder.table("t.csv", "file_name,label,split\n" + rows)
    options = ["--task", str(table), "--unit-seconds", "0.2", "--batch-size", "1", "--tokens", "sounding"]
    assert main(["dissect", "--encoder", "mine:factory", *options, "--keep", "0.1", "--run", "run"]) == 0
    assert pd.read_csv("run/coverage.csv")["kept_neurons"].tolist() == [19]


def test_public_names_agree_and_are_documented():
    assert sorted(jaxdissect.__all__) == sorted(jaxdissect._MODULE_OF)
    for name in jaxdissect.__all__:
        assert name in dir(jaxdissect)
        assert getattr(jaxdissect, name).__doc__


def test_the_readme_names_every_file_of_a_run(tmp_path):
    readme = (ROOT / "README.md").read_text()
    code = [ROOT / "jaxdissect" / name for name in ("choosing.py", "dissect.py", "ablation/files.py", "reproduce.py")]
    written = re.findall(r'file\("(\w+\.\w+)"\)', "".join(path.read_text() for path in code))
    assert {"activations.nc", "neurons.csv", "clip_counts.npy", "ablation.csv", "reproduction.csv"} <= set(written)
    for name in [*written, "run.json"]:
        assert f"`{name}`" in readme


def test_the_code_of_the_embedding_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "embedding.md").read_text(), re.DOTALL)
    (tmp_path / "embedding.py").write_text("\n".join(blocks))
    found = runpy.run_path("embedding.py", run_name="embedding")
    assert len(blocks) > 10
    assert (found["effect"] != 0).any()
