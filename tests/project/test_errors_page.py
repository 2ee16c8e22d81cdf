"""What docs/errors.md quotes is what is printed."""

import ast
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdissect.cli import main

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```\n(.*?)\n```", (ROOT / "docs" / "errors.md").read_text(), re.DOTALL)
PROVOKED = [block.split("\n") for block in BLOCKS if block.startswith("$ ")]
QUOTED = [block for block in BLOCKS if not block.startswith("$ ")]
OTHERS = """
def empty(dtype):
    return object()

def misspelt(dtype):
    found = factory(dtype)
    object.__setattr__(found, "neurons", "layer_*/act")
    return found
"""
CLIPS = "--encoder mine:factory --task clips/clips.csv --unit-seconds 0.2 --preset aape --keep 0.1 --no-keep-clips"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The folder in which the page's commands run."""
    folder = tmp_path_factory.mktemp("of") / "scene"
    with pytest.MonkeyPatch.context() as patch:
        folder.mkdir()
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        sys.modules.pop("mine", None)  # another test's
        _, code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "encoders.md").read_text(), re.DOTALL)
        Path("mine.py").write_text(code.replace("if __name__ ==", OTHERS + "\n\nif __name__ =="))
        runpy.run_path("mine.py", run_name="__main__")
        Path("checkpoint.pth").write_bytes(b"")
        write_clips(Path("clips"))
        for run, options in {"pets": "", "counted": "", "both": "--label label,place --preset lape"}.items():
            assert main(shlex.split(f"dissect {CLIPS} {options} --run runs/{run}")) == 0
        for run in ("pets", "both"):
            assert main(shlex.split(f"probe --run runs/{run} --seeds 1 --epochs 2")) == 0
        yield folder
        del sys.modules["mine"]


def write_clips(folder):
    import soundfile

    rng, rows = np.random.default_rng(0), []
    folder.mkdir()
    for number in range(12):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.normal(size=3200) * (1 + number % 3), 16000)
        sound, place = ("dog", "cat", "siren")[number % 3], ("home", "street")[number % 2]
        rows.append(f"{number}.wav,{sound},{place},{'train' if number < 9 else 'test'}")
    tables = {
        "clips": rows,
        "misspelt": [*rows[:2], "2.wav,siren,home,training"],
        "outside": ["../2.wav,siren,home,train"],
        "gone": [*rows[:3], "gone.wav,dog,home,train"],
    }
    for name, lines in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(["file_name,label,place,split", *lines, ""]))


@pytest.mark.parametrize(("command", "told"), PROVOKED, ids=[command[:60] for command, _ in PROVOKED])
def test_a_command_says_what_the_page_shows(scene, monkeypatch, capsys, command, told):
    monkeypatch.chdir(scene)
    monkeypatch.syspath_prepend(str(scene))
    capsys.readouterr()
    code = main(shlex.split(command)[2:])
    printed = [line for line in capsys.readouterr().err.split("\n") if line.startswith("jaxdissect:")]
    assert printed == [told]
    assert code == (1 if "could not be read" in told else 2)


def messages():
    """Every string of the package, with ... where it says something that is found at run time."""
    for path in (ROOT / "jaxdissect").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)


@pytest.mark.parametrize("quoted", QUOTED, ids=[quoted[:60] for quoted in QUOTED])
def test_the_package_still_says_what_the_page_quotes(quoted):
    pattern = re.compile(re.escape(quoted).replace(re.escape("..."), ".+?"), re.DOTALL)
    assert any(pattern.fullmatch(message) for message in messages())


def test_the_page_quotes_both_kinds():
    assert len(PROVOKED) > 20
    assert len(QUOTED) > 3
