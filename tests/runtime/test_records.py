"""Records of how results were made, compared."""

import pytest

from jaxdissect.runtime.records import differences, named_parts


def test_differences_of_equal_records_are_none():
    assert differences({"a": 1, "b": None}, {"a": 1}) == {}


def test_differences_name_both_values_in_the_order_of_the_second_record():
    found = differences({"gone": 1, "seed": 0, "same": "x"}, {"same": "x", "seed": 1, "new": [2]})
    assert found == {
        "seed": "seed (0 before, 1 now)",
        "new": "new (None before, [2] now)",
        "gone": "gone (1 before, None now)",
    }


def test_differences_compare_chosen_names_in_chosen_words():
    found = differences({"a": 1, "b": 1}, {"a": 2, "b": 2}, names=["b"], words=("in one", "in the other"))
    assert found == {"b": "b (1 in one, 2 in the other)"}


@pytest.mark.parametrize(("length", "shown"), [(40, "x" * 40), (41, "x" * 12 + "...")])
def test_differences_cut_long_values(length, shown):
    assert differences({}, {"a": "x" * length}) == {"a": f"a (None before, {shown} now)"}


def test_named_parts():
    record = {"options": {"batch_size": 4}, "fingerprints": {"front_end": "f"}, "status": "done"}
    assert named_parts(record) == {"--batch-size": 4, "the front end": "f"}
