"""Command lines that made a run, as a report repeats them."""

import json
import shlex

import pytest

from jaxdissect.cli.parsing import parse
from jaxdissect.report.run_contents import read_contents
from jaxdissect.stages.report_commands import commands


def test_commands_can_be_given_to_a_shell(dissected):
    contents = read_contents(dissected / "run")
    first, second, third = commands(contents)
    assert first.startswith("jaxdissect activations --encoder ")
    assert "--unit-seconds 0.1" in first
    assert "--label label,place" in first
    assert "--preset lape --keep 0.3" in second
    assert "--learning-rate 0.03" in third
    assert "--seeds 2" in third


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"commas": "separate labels"}, "--multi-label "),
        ({"commas": "belong to labels"}, "--no-multi-label "),
        ({"commas": None, "test_fold": None}, ""),
        ({"multi_label": False, "test_fold": 5}, ""),  # in older records, whether given or not
        ({"multi_label": True, "test_fold": 3}, "--test-fold 3 --multi-label "),
    ],
)
def test_commands_repeat_the_options_that_were_given(run, inputs, words):
    stages = json.loads((run / "run.json").read_text())
    stages["stages"]["activations"]["inputs"] |= inputs
    stages["stages"]["ablate"]["options"] |= {"controls": 0, "match": "layer"}
    (run / "run.json").write_text(json.dumps(stages))
    lines = commands(read_contents(run))
    first = "jaxdissect activations --encoder m2d_tiny --task /nowhere/no.csv --data /nowhere --label event "
    assert lines[0] == f"{first}{words}--run {run.name}"
    assert lines[-1] == f"jaxdissect ablate --controls 0 --run {run.name}"
    for line in lines[0], lines[-1]:
        _, name, *options = shlex.split(line)
        parse([name, *options])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "auroc", "selector": "auroc", "per_class": 5, "least": 0.7, "level": 0.05}, ""),
        ({"preset": "auroc", "selector": "auroc", "per_class": 3, "least": 0.8}, "--per-class 3 --least-auroc 0.8 "),
        ({"preset": "lape", "selector": "aape", "keep": 0.02, "bar": 0.95}, "--preset lape --keep 0.02 "),
        ({"preset": "aape", "selector": "aape", "drop_weakest": 0.1}, "--preset aape --drop-weakest 0.1 "),
        ({"preset": "lape", "selector": "d_prime", "keep": 0.02}, "--keep 0.02 --selector d_prime "),
    ],
)
def test_a_selection_is_repeated_by_its_preset_or_its_score(run, options, words):
    stages = json.loads((run / "run.json").read_text())
    stages["stages"]["neurons"]["options"] = options
    (run / "run.json").write_text(json.dumps(stages))
    line = commands(read_contents(run))[1]
    assert line == f"jaxdissect neurons {words}--run {run.name}"
    parse(shlex.split(line)[1:])


def test_commands_repeat_that_every_layer_was_probed(run):
    stages = json.loads((run / "run.json").read_text())
    stages["stages"]["probe"]["options"] = {"layers": "all", "seeds": 3}
    (run / "run.json").write_text(json.dumps(stages))
    line = next(line for line in commands(read_contents(run)) if " probe " in line)
    assert line == f"jaxdissect probe --layers all --run {run.name}"


def test_commands_have_every_digit_of_a_number(run):
    stages = json.loads((run / "run.json").read_text())
    stages["stages"]["activations"]["inputs"]["unit_seconds"] = 2.0
    stages["stages"]["neurons"]["options"] |= {"keep": 1 / 3, "bar": 1e-7}
    (run / "run.json").write_text(json.dumps(stages))
    text = "\n".join(commands(read_contents(run)))
    assert "--unit-seconds 2 " in text
    assert "--keep 0.3333333333333333 " in text
    assert "--bar 1e-07 " in text
