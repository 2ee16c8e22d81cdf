"""Every public name says what it takes, in which shapes and units, what it raises, and where it comes from."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from public_names import CLASSES, FUNCTIONS, MODULE_OF, PUBLIC

import jaxdissect

ROOT = Path(__file__).parents[2]
INDEX = (ROOT / "docs" / "api.md").read_text()
EVERYTHING = CLASSES + FUNCTIONS
PROTOCOLS = [part for part in CLASSES if part.name in ("Encoder", "LayeredEncoder")]
# What a number of that name is counted in, told by the text that describes it.
UNITS = {
    "unit_seconds": r"\bs\b",
    "sample_rate": "Hz",
    "pcm": "full scale",
    "samples": "sample_rate|encoder's rate",
    "start": "samples",
    "stop": "samples",
    "save_minutes": "minutes",
    "max_bad_clips": "fraction",
    "keep": "fraction",
    "rate": "share|fraction",
    "warm_up": "fraction",
    "mask_ratio": "fraction",
    "batch_size": "clips|crops",
    "epochs": "passes over|that were run",
    "gains": "factor|1 leaves alone",
}
PUBLISHED = {
    "AblationOptions": "2602.15307",
    "M2D": "2404.06095",
    "SelectionRule": "2402.16438",
    "TrainOptions": "2404.06095",
    "ViTConfig": "2404.06095",
    "causal_map": "2310.10348",
    "collect_activations": "2602.15307",
    "convert_checkpoint": "2404.06095",
    "make_interventions": "2602.15307",
    "run_probe": "2602.15307",
    "select_neurons": "2602.15307",
    "share": "2602.15307",
    "train_probe": "EVAR",
}


def of(parts):
    return pytest.mark.parametrize("part", parts, ids=lambda part: part.name)


def contract(part):
    """The same method of the protocols, which describes it for those that implement it."""
    return [found for protocol in PROTOCOLS if part.owner and (found := protocol.methods.get(part.node.name))]


@of(EVERYTHING)
def test_has_a_docstring_of_its_own(part):
    described = {name for protocol in PROTOCOLS for name in protocol.sections["Attributes"]}
    assert part.doc or (part.owner in PROTOCOLS and part.is_property and part.node.name in described)


@of(FUNCTIONS)
def test_parameters_are_described(part):
    described = {name for one in (part, *contract(part)) for name in one.sections["Args"]}
    assert [one.arg for one in part.parameters if one.arg not in described] == []
    assert set(part.sections["Args"]) <= {one.arg for one in part.parameters}


@of(CLASSES)
def test_fields_are_described(part):
    fields = [one.target.id for one in part.fields]
    properties = [name for name, method in part.methods.items() if method.is_property]
    described = part.sections["Attributes"]
    assert [name for name in fields if name not in described] == []
    assert set(described) <= {*fields, *properties}


@of([*FUNCTIONS, *(method for part in CLASSES if (method := part.method("__post_init__")))])
def test_errors_are_declared(part):
    checks = part.node.name == "__post_init__"
    declared = (part.owner if checks else part).sections["Raises"]
    assert part.errors() <= set(declared)


def test_the_errors_are_found():
    """The check above sees an error at the place, in what is called, behind a helper, and not one that is caught."""
    found = {part.name: part.errors() for part in FUNCTIONS}
    assert found["run_with_gains"] == found["vit_config"] == found["Intervention.edits"] == {"InputError"}
    assert found["run_train"] == {"InputError", "TrainingError"}
    assert found["neuron_set"] == found["logits"] == set()


def annotations(part):
    if isinstance(part.node, ast.ClassDef):
        return {one.target.id: one.annotation for one in part.fields}
    found = {one.arg: one.annotation for one in part.parameters} | {"return": part.node.returns}
    return {name: annotation for name, annotation in found.items() if annotation is not None}


def arrays(annotation):
    """The shape of every array in an annotation; None for one that has none."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ("Bool", "Float", "Int", "Int16"):
        return [annotation.slice.elts[1].value]
    if ast.unparse(annotation) in ("Array", "jax.Array", "np.ndarray"):
        return [None]
    return [shape for child in ast.iter_child_nodes(annotation) for shape in arrays(child)]


@of(EVERYTHING)
def test_arrays_have_shapes_whose_axes_the_index_explains(part):
    axes = set(re.findall(r"^\| `(\w+)` \|", INDEX.partition("## Axes")[2], re.MULTILINE))
    for name, annotation in annotations(part).items():
        for shape in arrays(annotation):
            assert shape is not None, name
            assert set(re.findall(r"[a-z]+", shape)) <= axes, name


@of([part for part in CLASSES if any("struct" in ast.unparse(one) for one in part.node.decorator_list)])
def test_fields_of_pytrees_say_their_axes(part):
    """Their annotations cannot: transformations fill them with what is no array."""
    text = part.sections["Attributes"]
    for name in (one.target.id for one in part.fields):
        assert re.search(r"\((\w+(, \w+)*)?\)", text[name]), name


@of(EVERYTHING)
def test_quantities_have_units(part):
    for section in ("Args", "Attributes"):
        for name, text in part.sections[section].items():
            assert re.search(UNITS.get(name, ""), text), (name, text)


@of([part for part in PUBLIC if part.name in PUBLISHED])
def test_what_was_published_names_its_source(part):
    assert PUBLISHED[part.name] in part.doc.partition("Source:")[2]


def test_the_index_has_every_public_name_once():
    listed = re.findall(r"^- `(\w+)`: ", INDEX, re.MULTILINE)
    assert sorted(listed) == sorted(jaxdissect.__all__)


def test_public_names_agree():
    assert sorted(jaxdissect.__all__) == sorted(MODULE_OF)
    assert set(jaxdissect.__all__) <= set(dir(jaxdissect))


def test_the_generated_reference_shows_every_public_name(tmp_path):
    """As `make docs` makes it; names that are imported on first use, shapes and sections among it."""
    command = [sys.executable, "-W", "error", "docs/reference.py", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "jaxdissect.html").read_text()
    missing = [part.name for part in EVERYTHING if f'id="{part.name}"' not in page]
    assert missing == []
    assert "clip layer neuron" in page
    assert page.count(">Arguments:<") == sum(bool(part.sections["Args"]) for part in EVERYTHING)
