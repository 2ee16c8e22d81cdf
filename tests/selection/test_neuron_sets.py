"""Neuron sets: expressions against Python's own sets, files, and what is wrong with them."""

import random

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jaxdissect import InputError, neuron_set
from jaxdissect.ablation.interventions import class_name, suite_sets
from jaxdissect.selection.neuron_set_files import published_sets, read_neuron_set, write_evar
from jaxdissect.selection.neuron_sets import names_a_class, parse_neuron_set, require_neurons

SPECIFIC = {
    ("emotion", "ANG"): [(0, 1), (0, 2), (3, 4)],
    ("emotion", "HAP"): [(0, 2), (3, 4), (5, 6)],
    ("emotion", "SAD"): [],
    ("emotion", "not so-good"): [(1, 1)],
    ("gender", "f"): [(0, 2), (7, 7)],
    ("speaker", "f"): [(9, 9)],
}
SETS = {name: set(pairs) for (_, name), pairs in SPECIFIC.items()}


def parse(expression):
    return parse_neuron_set(expression, SPECIFIC)


@pytest.mark.parametrize(
    ("expression", "neurons", "classes"),
    [
        ("ANG", SETS["ANG"], ["ANG"]),
        ("ANG & HAP", SETS["ANG"] & SETS["HAP"], ["ANG", "HAP"]),
        ("ANG&HAP", SETS["ANG"] & SETS["HAP"], ["ANG", "HAP"]),
        ("ANG | HAP", SETS["ANG"] | SETS["HAP"], ["ANG", "HAP"]),
        ("ANG - HAP", SETS["ANG"] - SETS["HAP"], ["ANG"]),
        ("HAP - (ANG - gender:f)", SETS["HAP"] - (SETS["ANG"] - {(0, 2), (7, 7)}), ["HAP"]),
        ('"not so-good" | SAD', {(1, 1)}, ["not so-good", "SAD"]),
        ('emotion:"not so-good"', {(1, 1)}, ["not so-good"]),
        ("speaker:f", {(9, 9)}, ["f"]),
        ("SAD", set(), ["SAD"]),
        ("((ANG))", SETS["ANG"], ["ANG"]),
    ],
)
def test_parse_neuron_set_worked_out(expression, neurons, classes):
    found = parse(expression)
    assert found.neurons == tuple(sorted(neurons))
    assert [name for _, name in found.classes] == classes
    assert found.name == expression


@given(st.integers(0, 2**32 - 1))
def test_parse_neuron_set_equals_pythons_sets(seed):
    rng = random.Random(seed)
    names = "abcde"
    sets = {name: {(rng.randrange(2), rng.randrange(4)) for _ in range(5)} for name in names}

    def build(depth):
        if depth == 0 or rng.random() < 0.2:
            return rng.choice(names)
        left, right = build(depth - 1), build(depth - 1)
        joined = f"{left} {rng.choice('&|-')} {right}"
        return f"({joined})" if rng.random() < 0.4 else joined

    expression = build(4)
    found = parse_neuron_set(expression, {("set", name): pairs for name, pairs in sets.items()})
    assert set(found.neurons) == eval(expression, {}, dict(sets))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "a class or a file is missing at its end"),
        ("ANG &", "a class or a file is missing at its end"),
        ("& ANG", "a class or a file is missing before '&'"),
        ("(ANG", "a bracket is not closed"),
        ("ANG)", r"'\)' does not belong there"),
        ("ANG HAP", "'HAP' does not belong there"),
        ("DIS", "there is no class 'DIS'; the label sets emotion, gender, speaker have ANG, HAP"),
        ("gender:ANG", "there is no class 'gender:ANG'"),
        ("f", "the class 'f' is ambiguous: write gender:f or speaker:f"),
        ("not so-good", "there is no class 'not'"),
        ('"ANG', "cannot be read"),
        ("emotion::ANG", "'::ANG' cannot be read"),
        ("@set.csv", "files cannot be read here"),
    ],
)
def test_parse_neuron_set_refuses_what_cannot_be_read(expression, message):
    with pytest.raises(InputError, match=message):
        parse(expression)


def test_require_neurons_refuses_empty_sets_and_neurons_out_of_range():
    with pytest.raises(InputError, match="'SAD' is empty"):
        require_neurons(parse("SAD"), (12, 768))
    assert require_neurons(parse("HAP"), (6, 7)) == parse("HAP")
    with pytest.raises(InputError, match="neuron 6 of layer 5: the encoder has layers 0 to 5 of neurons 0 to 5"):
        require_neurons(parse("HAP"), (6, 6))
    with pytest.raises(InputError, match="neuron 6 of layer 5: the encoder has layers 0 to 4 of neurons 0 to 6"):
        require_neurons(parse("HAP"), (5, 7))
    with pytest.raises(InputError, match="neuron -1 of layer 0"):
        require_neurons(neuron_set("odd", [(0, -1)]), (5, 7))


def from_file(expression):
    return parse_neuron_set(expression, SPECIFIC, lambda source, part: read_neuron_set(source, part, tuple(SPECIFIC)))


def test_read_neuron_set_of_a_table(tmp_path):
    path = tmp_path / "my-neurons.csv"
    path.write_text("label_set,class,layer,neuron,probability\nemotion,ANG,3,4,0.5\nemotion,ANG,0,1,0.5\nx,y,3,4,0.1\n")
    assert from_file(f"@{path}").neurons == ((0, 1), (3, 4))
    assert from_file(f"@{path}:ANG").neurons == ((0, 1), (3, 4))
    assert from_file(f"@{path}:ANG").classes == (("emotion", "ANG"),)
    assert from_file(f'@"{path}":y').neurons == ((3, 4),)
    assert from_file(f"ANG - @{path}:y").neurons == ((0, 1), (0, 2))
    twice = tmp_path / "twice.csv"
    twice.write_text("label_set,class,layer,neuron\nx,yes,3,4\ny,yes,0,1\n")
    with pytest.raises(InputError, match="the label sets x, y of the table all have the class 'yes'"):
        from_file(f"@{twice}:yes")
    with pytest.raises(InputError, match="no row of the class 'z'"):
        from_file(f"@{path}:z")
    path.write_text("layer,neuron\n1.5,2\n")
    with pytest.raises(InputError, match=r"layer must be a whole number, found '1\.5'"):
        from_file(f"@{path}")
    path.write_text("layer,unit\n1,2\n")
    with pytest.raises(InputError, match="column 'neuron' is missing"):
        from_file(f"@{path}")
    with pytest.raises(InputError, match=r"nothing\.csv is missing"):
        from_file(f"@{tmp_path / 'nothing.csv'}")


def test_read_neuron_set_of_what_write_evar_wrote(tmp_path):
    chosen, path = parse("ANG | HAP"), tmp_path / "set.yaml"
    write_evar(path, chosen, 0.5)
    assert yaml.safe_load(path.read_text()) == {"int_neurons": [[0, 1], [0, 2], [3, 4], [5, 6]], "int_gain": 0.5}
    found = from_file(f"@{path}")
    assert (found.neurons, found.gain) == (chosen.neurons, 0.5)
    assert from_file(f"@{path} - ANG").gain is None
    assert from_file(f"(@{path})").gain == 0.5
    path.write_text("weight_file: a.pth\nbatch: 16\nint_neurons: [[3, 4], [0, 1]]\n")
    assert (from_file(f"@{path}").neurons, from_file(f"@{path}").gain) == (((0, 1), (3, 4)), None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("int_gain: 0", "with the key int_neurons"),
        ("[1, 2]", "with the key int_neurons"),
        ("int_neurons: 5", r"must be a list of pairs \[layer, neuron\], found 5"),
        ("int_neurons: [[1, 2], [3]]", r"must be a list of pairs \[layer, neuron\], found \[3\]"),
        ("int_neurons: [[1, 2.5]]", r"found \[1, 2.5\]"),
        ("int_neurons: [[1, true]]", r"found \[1, True\]"),
        ("int_neurons: [[1, 2]]\nint_gain: .nan", "int_gain must be a finite number, found nan"),
        ("int_neurons: [[1, 2]]\nint_gain: 1" + 400 * "0", "int_gain must be a finite number"),
        ("int_neurons: [[1, 2]]\nint_gain: 2020-13-45", "cannot be read as YAML"),
        ("int_neurons: [[1, 2]]\nint_gain: [0]", r"int_gain must be a finite number, found \[0\]"),
        ("int_neurons: [[1, 2", "cannot be read as YAML"),
        ("int_neurons: !!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ],
)
def test_read_neuron_set_refuses_yaml_without_a_neuron_set(tmp_path, content, message):
    path = tmp_path / "set.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        from_file(f"@{path}")


def test_published_sets_ship_here():
    sets = published_sets()
    names = {"cremad_ang_hap", "gtzan_jazz_classical"}
    assert set(sets) == names | {f"{name}_control" for name in names}
    assert from_file("@cremad_ang_hap_control").neurons[:2] == ((0, 2), (0, 113))
    found = from_file("@cremad_ang_hap")
    assert (len(found.neurons), found.gain) == (22, 0.0)
    assert found.classes == (("emotion", "ANG"), ("emotion", "HAP"))
    assert from_file("@cremad_ang_hap_control").classes == ()
    assert (10, 2663) in found.neurons
    assert len(from_file("@gtzan_jazz_classical").neurons) == 26
    assert len((from_file("@gtzan_jazz_classical | @cremad_ang_hap")).neurons) == 48
    with pytest.raises(InputError, match=r"@cremad is neither a file .* published are @cremad_ang_hap"):
        from_file("@cremad")
    with pytest.raises(InputError, match=r"@masks\.pth:0 is neither a file \(\.csv, \.yaml, \.yml\)"):
        from_file("@masks.pth:0")


def test_names_a_class_where_the_neurons_of_a_run_are_needed():
    assert not names_a_class("@a.csv - (@b.csv | @cremad_ang_hap)")
    assert names_a_class("@a.csv - dog")
    assert names_a_class('"a dog"')
    assert not names_a_class("@a.csv:dog")


def test_suite_sets_worked_out():
    sets, empty = suite_sets("classes", SPECIFIC)
    assert [found.name for found in sets] == ["ANG", "HAP", '"not so-good"', "gender:f", "speaker:f"]
    assert empty == ["SAD"]
    pairs, empty = suite_sets("pairs", SPECIFIC)
    assert [(found.name, found.neurons) for found in pairs] == [("ANG & HAP", ((0, 2), (3, 4)))]
    assert len(empty) == 5
    for found in (*sets, *pairs):  # a suite's names are expressions for the same sets
        assert parse(found.name).neurons == found.neurons
        assert parse(found.name).classes == found.classes
    with pytest.raises(InputError, match="suite must be one of classes, pairs, got 'all'"):
        suite_sets("all", SPECIFIC)


@given(
    st.text(alphabet=st.characters(exclude_characters='"', codec="utf-8"), min_size=1).filter(lambda t: t.strip() == t)
)
def test_class_name_is_read_back_whatever_the_class(name):
    specific = {("set", name): [(0, 1)], ("other", "plain"): []}
    assert parse_neuron_set(class_name("set", name, specific), specific).neurons == ((0, 1),)


def test_neuron_set_sorts_pairs_and_has_each_once():
    assert neuron_set("x", [(1, 0), (0, 5), (1, 0)]).neurons == ((0, 5), (1, 0))
    np.testing.assert_array_equal(neuron_set("x", []).pairs, np.zeros((0, 2)))
