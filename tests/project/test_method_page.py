"""The worked example of docs/method.md is what the library computes."""

import re
from pathlib import Path

import numpy as np
import pytest

from jaxdissect.selection.aape import SelectionRule, select
from jaxdissect.selection.overlap import overlap
from jaxdissect.significance.p_values import benjamini_hochberg

PAGE = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
CLASSES = ("dog", "rain")
RATES = {name: float(value) for name, value in re.findall(r"--(keep|drop-weakest|bar) ([\d.]+)", PAGE)}
ROWS = [
    [cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\| \d+ \| \d+ \| \d+ \|.*$", PAGE, re.M)
]


def selected(preset):
    active = np.array([[int(row[column]) for row in ROWS] for column in (1, 2)])[:, None]
    rule = SelectionRule(preset, RATES["keep"], RATES["drop-weakest"], RATES["bar"])
    return select(active, np.array([100, 100]), rule)


def sets(page_column):
    """Classes of each neuron by the page: None where it is not kept."""
    told = [row[page_column] for row in ROWS]
    return [
        None if cell == "-" else {name for name in cell.removeprefix("kept: ").split(", ") if name in CLASSES}
        for cell in told
    ]


def test_the_table_has_the_rates_and_entropies_of_its_counts():
    assert len(ROWS) == 10
    found = selected("aape")
    assert [row[3] for row in ROWS] == [f"{rate:.3f}" for rate in found.rate[0]]
    assert [row[4].lower() for row in ROWS] == [f"{entropy:.4f}" for entropy in found.aape[0]]
    (bar,) = re.findall(r"\*\*([\d.]+)\*\*, 0\.7,", PAGE)
    assert found.probability_bar == float(bar)


@pytest.mark.parametrize(("preset", "column", "coverage"), [("aape", 5, 50), ("lape", 6, 100)])
def test_the_table_tells_which_neurons_are_kept_and_for_which_classes(preset, column, coverage):
    found = selected(preset)
    told = sets(column)
    assert found.kept[0].tolist() == [classes is not None for classes in told]
    for neuron, classes in enumerate(told):
        assert {name for name, own in zip(CLASSES, found.specific[:, 0, neuron], strict=True) if own} == (
            classes or set()
        )
    assert 100 * found.specific.any(axis=(1, 2)).mean() == coverage
    assert f"coverage {coverage}%" in PAGE


def test_the_jaccard_coefficient_is_that_of_the_sets_shown():
    specific = selected("lape").specific
    shown = [{int(number) for number in some.split(",")} for some in re.findall(r"\$ = \{([\d, ]+)\}", PAGE)]
    assert shown == [set(np.flatnonzero(own[0])) for own in specific]
    (top, bottom) = map(int, re.findall(r"\$J = (\d)/(\d)\$", PAGE)[0])
    assert (
        overlap(specific, specific).jaccard[0, 1] == top / bottom == len(shown[0] & shown[1]) / len(shown[0] | shown[1])
    )


def test_the_q_values_are_those_of_the_p_values_shown():
    ((p_values, q_values),) = re.findall(r"the \$p\$-values ([\d., ]+) have the \$q\$-values ([\d., ]+)\.", PAGE)
    found = benjamini_hochberg(np.array([float(value) for value in p_values.split(", ")]))
    np.testing.assert_allclose(found, [float(value) for value in q_values.split(", ")], atol=5e-5)
