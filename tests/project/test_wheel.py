"""The wheel holds what the tree holds, asks for what it imports, and runs where nothing of the tree is."""

import ast
import re
import subprocess
import sys
import venv
import zipfile
from email.parser import HeaderParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pandas as pd
import pytest
import yaml
from few_notes import few_notes
from packaging.requirements import Requirement

import jaxdissect
from jaxdissect.demo import REPORT_MB, SELF_SUPERVISED, SUPERVISED, UNTRAINED
from jaxdissect.tasks.known import load_task

ROOT = Path(__file__).parents[2]
PITCH_CLASSES = ("C", "D", "E", "F#", "G#", "A#")


def built(kind, tree, folder):
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def content(archive, part=""):
    """Name and bytes of each file, or of those below a folder."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.startswith(part)]
        return {name: opened.read(name) for name in names}


def metadata(wheel):
    (text,) = (text for name, text in content(wheel).items() if name.endswith(".dist-info/METADATA"))
    return HeaderParser().parsestr(text.decode())


def test_the_wheel_is_the_package_with_its_weights_and_nothing_else(wheel):
    wanted = {
        str(file.relative_to(ROOT) if folder.name == "jaxdissect" else "jaxdissect" / file.relative_to(ROOT)): file
        for folder in (ROOT / "jaxdissect", ROOT / "weights")
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    found = {name: value for name, value in content(wheel).items() if ".dist-info/" not in name}
    assert sorted(found) == sorted(wanted)
    assert all(found[name] == file.read_bytes() for name, file in wanted.items())
    assert {"jaxdissect/py.typed", "jaxdissect/weights/m2d_tiny/encoder.json"} < set(found)


def test_a_wheel_from_the_sdist_is_the_same(wheel, tmp_path):
    sdist = built("sdist", ROOT, tmp_path / "sdist")
    subprocess.run(["tar", "-xf", sdist, "-C", tmp_path], check=True)
    tree = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert content(built("wheel", tree, tmp_path / "wheel")) == content(wheel)
    for name in (
        "tests/project/test_wheel.py",
        "benchmarks/common.py",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "docs/api.md",
    ):
        assert (tree / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_metadata_say_what_is_there(wheel):
    fields = metadata(wheel)
    assert fields["Version"] == jaxdissect.__version__
    assert fields["License-Expression"] == "Apache-2.0 AND CC-BY-NC-4.0"
    licences = content(wheel, f"jaxdissect-{jaxdissect.__version__}.dist-info/licenses/")
    assert [name.partition("licenses/")[2] for name in licences] == fields.get_all("License-File")
    assert set(licences.values()) == {(ROOT / "LICENSE").read_bytes(), (ROOT / "weights" / "LICENSE.md").read_bytes()}
    assert fields["Requires-Python"] == ">=3.11"


def test_the_citation_is_of_this_version(wheel):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # which CFF 1.2.0 requires
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert (citation["title"], citation["version"]) == ("jaxdissect", jaxdissect.__version__)
    assert citation["authors"] == [{"name": metadata(wheel)["Author"]}]
    assert metadata(wheel)["License-Expression"].startswith(citation["license"])
    for one in citation["references"]:
        assert {"type", "title", "authors"} <= set(one)
        (number,) = (identifier["value"].removeprefix("arXiv:") for identifier in one["identifiers"])
        assert one["url"] == f"https://arxiv.org/abs/{number}"
        assert one["year"] == 2000 + int(number[:2])
    assert "Kawamura" in {author["family-names"] for author in citation["references"][0]["authors"]}


def imports(nodes):
    """Names of the packages that some statements import, and those that stand inside functions."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_what_is_imported_is_asked_for(wheel):
    requirements = [Requirement(text) for text in metadata(wheel).get_all("Requires-Dist")]
    # An extra may ask for more of a package that is always there.
    extra = {one.name for one in requirements if "extra ==" in str(one.marker)}
    always = {one.name for one in requirements if "extra ==" not in str(one.marker)}
    provided, plain = packages_distributions(), re.compile(r"[-_.]+")
    for file in (ROOT / "jaxdissect").rglob("*.py"):
        tree = ast.parse(file.read_text())
        at_once, ever = set(imports(tree.body)), set(imports(ast.walk(tree)))
        for name in ever - {"jaxdissect", *sys.stdlib_module_names}:
            of = {plain.sub("-", found).lower() for found in provided[name]}
            assert of & (always if name in at_once else always | extra), (file.name, name)


@pytest.fixture
def run_installed(wheel, tmp_path, fast_programs):
    """Runs a command of an environment that has the dependencies of this one and, of jaxdissect, only the wheel."""
    venv.create(tmp_path / "venv", symlinks=True)
    programs = tmp_path / "venv" / "bin"
    (packages,) = tmp_path.glob("venv/lib/python*/site-packages")
    # A path in a .pth file is searched last, and .pth files there, such as an editable install's, are not read.
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in sys.path if "site-packages" in path))
    place = tmp_path / "empty"
    place.mkdir()
    environment = fast_programs | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}

    def run(program, *options):
        command = [programs / program, *options]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    install = ["--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", programs / "python", "install", *install], check=True)
    file = run("python", "-W", "error", "-c", "import jaxdissect, jaxdissect.cli; print(jaxdissect.cli.__file__)")
    assert Path(file.strip()) == packages / "jaxdissect" / "cli" / "__init__.py"
    return run


def test_the_demo_runs_where_nothing_of_the_tree_is(run_installed, tmp_path):
    place = tmp_path / "empty"
    (place / SUPERVISED).mkdir()  # somebody's own, which the demo is not about
    # A quarter of the notes, as if of an earlier run.
    notes = few_notes(tmp_path / "cache" / "jaxdissect" / load_task("notes").data.name, PITCH_CLASSES)
    printed = run_installed("jaxdissect", "demo", "--run", "demo")
    assert f"Counted {(pd.read_csv(notes)['split'] == 'train').sum()} clips" in printed
    found = {}
    for kind, name in (("self-supervised", SELF_SUPERVISED), ("supervised", SUPERVISED), ("untrained", UNTRAINED)):
        found[kind] = pd.read_csv(place / "demo" / name / "coverage.csv").set_index("label_set")
        assert found[kind]["classes"].to_dict() == {"instrument": 8, "octave": 5, "pitch_class": len(PITCH_CLASSES)}
        assert (found[kind]["mean_neurons_per_class"] <= 5).all()
        assert f"{name} ({kind}):\n" in printed
    for name in found["untrained"].index:
        lines = [line.split() for line in printed.splitlines() if line.startswith(f"{name} ")]
        assert [line[2] for line in lines] == ["self-supervised", "supervised", "untrained"]
        for line in lines:
            row = found[line[2]].loc[name]
            told = [f"{row['classes']:.0f}", f"{row['classes_held_out']:.0f}", f"{row['held_out_auroc']:.2f}"]
            assert [line[1], *line[3:]] == told
    # What the shipped encoders are known for: notes of other pitches tell the octaves, on neurons of their own.
    assert found["self-supervised"].loc["octave", "classes_held_out"] == 5
    assert found["self-supervised"].loc["octave", "held_out_auroc"] > found["untrained"].loc["octave", "held_out_auroc"]
    assert re.search(r"^  octave \d: layer \d+, neuron \d+, by its \w+: AUROC [01]\.\d\d \[", printed, re.MULTILINE)
    report = place / "demo" / SELF_SUPERVISED / "report.html"
    assert f"demo/{SELF_SUPERVISED}/report.html" in printed
    assert 1e6 < report.stat().st_size < 1e6 * REPORT_MB
    page = report.read_text()
    assert SUPERVISED in page
    for file in (ROOT / "jaxdissect" / "report" / "templates").rglob("*.[jc]s*"):
        assert file.read_text().strip() in page, file
