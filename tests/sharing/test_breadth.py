"""Sharing beyond sizes and breadth: against every outcome of small cases, closed forms, simulation, known answers."""

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tolerances import assert_within, relative_error

from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.selection.overlap import overlap
from jaxdissect.sharing.breadth import breadth_overlap, random_classes
from jaxdissect.sharing.share import LAYER_AND_RATE, Sets, share
from jaxdissect.stages.activations import run_activations
from jaxdissect.stages.neurons import run_neurons
from jaxdissect.stages.share import run_share

FSDD = Path(__file__).resolve().parents[3] / "shared" / "data" / "fsdd" / "fsdd.csv"
ENUMERATED = "sharing by breadth by enumeration, relative"


def some_sets(classes, neurons, rng):
    """Sets of which some classes are large, and some neurons broad."""
    chance = np.outer(rng.uniform(0.2, 1, classes), rng.uniform(0.1, 1, neurons))
    return rng.random((classes, neurons)) < chance


def probabilities(drawn, neuron):
    """Of every set of classes that a neuron may have: by the fitted odds, which inclusion determines up to a factor."""
    kind, classes = drawn.kind[neuron], drawn.has.shape[1]
    alone = random_breadth_one(drawn)
    breadth = round(drawn.has[kind].sum())
    ways = list(itertools.combinations(np.flatnonzero(alone), breadth))
    weights = np.array([math.prod(alone[one] for one in way) for way in ways])
    assert classes == len(alone)
    return dict(zip(ways, weights / weights.sum(), strict=True))


def random_breadth_one(drawn):
    """Odds of the classes: a neuron of breadth 1 has a class with a probability in proportion to them."""
    return drawn.has[0]


@pytest.mark.parametrize("seed", range(4))
def test_breadth_overlap_matches_enumeration(seed):
    rng = np.random.default_rng(seed)
    sets = some_sets(4, 4, rng)
    sets[:, 0] = np.arange(4) == seed  # a neuron of one class, whose probabilities are the odds
    other = some_sets(3, 4, rng)
    other[:, 0] = np.arange(3) == 1
    a, b = random_classes(sets), random_classes(other)
    ways_a, ways_b = (
        [probabilities(drawn, n) if drawn.kind[n] >= 0 else {(): 1.0} for n in range(4)] for drawn in (a, b)
    )
    for within, (second, ways) in ((True, (sets, ways_a)), (False, (other, ways_b))):
        shared = overlap(sets, second).shared
        expected, p_value = breadth_overlap(shared, a, a if within else b)
        for i, j in np.ndindex(shared.shape):
            if within and i == j:
                continue
            chances = []  # of each neuron, that both have it
            for neuron in range(4):
                if within:
                    both = sum(p for way, p in ways_a[neuron].items() if i in way and j in way)
                else:
                    both = sum(p for way, p in ways_a[neuron].items() if i in way)
                    both *= sum(p for way, p in ways[neuron].items() if j in way)
                chances.append(both)
            assert_within(ENUMERATED, relative_error(expected[i, j], sum(chances)) if sum(chances) else 0)
            reached = sum(
                math.prod(p if hit else 1 - p for hit, p in zip(hits, chances, strict=True))
                for hits in itertools.product((False, True), repeat=4)
                if sum(hits) >= shared[i, j]
            )
            assert_within(ENUMERATED, relative_error(p_value[i, j], reached))


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.booleans()))
def test_random_classes_keep_breadths_and_their_pairs_add_up(sets):
    drawn = random_classes(sets)
    breadth = sets.sum(axis=0)
    assert ((drawn.kind >= 0) == (breadth > 0)).all()
    for neuron in np.flatnonzero(breadth):
        has, both = drawn.has[drawn.kind[neuron]], drawn.has_both[drawn.kind[neuron]].copy()
        assert has.sum() == pytest.approx(breadth[neuron], rel=1e-9)
        assert (has[~sets.any(axis=1)] == 0).all()
        np.fill_diagonal(both, 0)
        np.testing.assert_allclose(both.sum(axis=1), (breadth[neuron] - 1) * has, atol=1e-9)
        assert both.min() > -1e-12
        assert has.max() < 1 + 1e-12


def sizes_of(drawn):
    return drawn.has[drawn.kind[drawn.kind >= 0]].sum(axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_random_classes_meet_sizes(seed):
    sets = some_sets(12, 80, np.random.default_rng(seed))
    np.testing.assert_allclose(sizes_of(random_classes(sets)), sets.sum(axis=1), rtol=1e-5)


def test_random_classes_meet_sizes_where_most_neurons_have_every_class():
    """3,500 neurons of both classes say nothing of the odds, which the 186 others do, of whom 2 have the first."""
    sets = np.ones((2, 3686), bool)
    sets[0, 3502:] = sets[1, 3500:3502] = False
    drawn = random_classes(sets)
    np.testing.assert_allclose(sizes_of(drawn), sets.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(drawn.has[0], [2 / 186, 184 / 186], rtol=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(1, 30), st.integers(0, 1000))
def test_random_classes_meet_sizes_where_a_class_has_every_neuron_or_hardly_any(classes, neurons, seed):
    rng = np.random.default_rng(seed)
    sets = rng.random((classes, neurons)) < rng.choice([0, 0.03, 0.5, 1], classes)[:, None]
    np.testing.assert_allclose(sizes_of(random_classes(sets)), sets.sum(axis=1), rtol=1e-5, atol=1e-9)


def test_random_classes_of_one_size_are_alike():
    """Every neuron has two of four classes, every class half of the neurons."""
    sets = np.array([[one in pair for pair in itertools.combinations(range(4), 2)] for one in range(4)])
    drawn = random_classes(sets)
    np.testing.assert_allclose(drawn.has, 1 / 2, rtol=1e-12)
    np.testing.assert_allclose(drawn.has_both[0][~np.eye(4, dtype=bool)], 2 / 4 * 1 / 3, rtol=1e-12)


def test_breadth_overlap_of_neurons_of_every_class_says_nothing():
    everything = np.ones((3, 5), bool)
    drawn = random_classes(everything)
    expected, p_value = breadth_overlap(overlap(everything, everything).shared, drawn, drawn)
    np.testing.assert_allclose(expected[~np.eye(3, dtype=bool)], 5)
    np.testing.assert_allclose(p_value[~np.eye(3, dtype=bool)], 1)
    for shape in ((3, 4), (0, 5), (1, 4)):
        none = np.zeros(shape, bool)
        drawn = random_classes(none)
        expected, p_value = breadth_overlap(np.zeros((shape[0],) * 2, int), drawn, drawn)
        assert (expected == 0).all()
        assert (p_value == 1).all()


def test_random_classes_of_many_classes_have_float64s_precision():
    """527 classes as in AudioSet: probabilities that two are drawn add up."""
    sets = some_sets(527, 12, np.random.default_rng(0))
    drawn = random_classes(sets)
    for kind in range(len(drawn.has)):
        both = drawn.has_both[kind].copy()
        np.fill_diagonal(both, 0)
        breadth = round(drawn.has[kind].sum())
        np.testing.assert_allclose(both.sum(axis=1), (breadth - 1) * drawn.has[kind], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("within", [True, False])
def test_breadth_overlap_of_random_sets_reaches_a_level_no_more_often(within):
    """They reach it less often, since the sizes vary in the random sets that they are compared with."""
    rng = np.random.default_rng(5)
    weights, breadths = rng.uniform(0.3, 1, 8), rng.integers(1, 5, 60)

    def draw():
        sets = np.zeros((8, 60), bool)
        for neuron, breadth in enumerate(breadths):
            sets[rng.choice(8, breadth, replace=False, p=weights / weights.sum()), neuron] = True
        return sets

    p = []
    for _ in range(60):
        a = draw()
        b = a if within else draw()
        of_a = random_classes(a)
        found = breadth_overlap(overlap(a, b).shared, of_a, of_a if within else random_classes(b))[1]
        p.append(found[np.triu_indices(8, 1)] if within else found.ravel())
    for level in (0.05, 0.2):
        share = (np.array(p) <= level).mean(axis=1)
        assert 0 < share.mean() < level


# --- known answers


SPEAKERS, DIGITS = 6, 10
ACCENT = (0, 0, 1, 2, 2, 3)  # of each speaker


def spoken_digits(rng, neurons=400):
    """Neurons as an encoder of spoken digits may have them: of voices, of digits, and broad ones of either.

    Accent follows from the speaker: what answers to a speaker answers to that accent, more or less. Broad neurons
    answer to many digits and many speakers, chosen by themselves.
    """
    voice, digit = np.zeros((SPEAKERS, neurons), bool), np.zeros((DIGITS, neurons), bool)
    for neuron in range(60):
        voice[rng.choice(SPEAKERS, rng.integers(1, 3), replace=False), neuron] = True
    for neuron in range(60, 120):
        digit[rng.choice(DIGITS, rng.integers(1, 4), replace=False), neuron] = True
    for neuron in range(120, 200):
        voice[rng.choice(SPEAKERS, rng.integers(2, 5), replace=False), neuron] = True
        digit[rng.choice(DIGITS, rng.integers(2, 7), replace=False), neuron] = True
    where = rng.permutation(neurons)
    voice, digit = voice[:, where], digit[:, where]
    accent = np.stack([voice[np.array(ACCENT) == one].any(axis=0) for one in range(4)])
    rate = rng.uniform(0.1, 0.5, neurons)

    def sets(label_set, chosen):
        names = tuple(f"{label_set} {one}" for one in range(len(chosen)))
        shape = (len(chosen), 2, neurons // 2)
        return Sets("run", label_set, names, chosen.reshape(shape), rate.reshape(shape[1:]), "encoder")

    return sets("speaker", voice), sets("digit", digit), sets("accent", accent)


def test_share_finds_accents_with_their_speakers_and_digits_alone():
    own = {(f"speaker {speaker}", f"accent {accent}") for speaker, accent in enumerate(ACCENT)}
    for seed in range(5):
        speaker, digit, accent = spoken_digits(np.random.default_rng(seed))
        table = share([speaker, digit, accent]).table.set_index(["label_set_a", "label_set_b"])
        pairs = table.loc[[("speaker", "accent")]]
        found = pairs[pairs["q_by_breadth"] <= 0.05]
        assert set(zip(found["class_a"], found["class_b"], strict=True)) == own
        assert (pairs["q_value"] <= 0.05).mean() > 0.5
        pairs = table.loc[[("speaker", "digit")]]
        assert set(pairs["null"]) == {LAYER_AND_RATE}
        assert (pairs["q_value"] <= 0.05).mean() > 0.5, "broad neurons are shared by many"
        assert (pairs["q_by_breadth"] > 0.05).all(), "by no two in particular"
        assert (table.loc[[("digit", "accent")]]["q_by_breadth"] > 0.05).all()


def test_share_finds_a_pair_among_broad_neurons():
    rng = np.random.default_rng(0)
    speaker, digit, _ = spoken_digits(rng)
    digit.specific[3] |= speaker.specific[2]
    found = share([speaker, digit]).table
    found = found[(found["label_set_a"] != found["label_set_b"]) & (found["q_by_breadth"] <= 0.05)]
    assert found[["class_a", "class_b"]].to_numpy().tolist() == [["speaker 2", "digit 3"]]


@pytest.mark.skipif(not FSDD.exists(), reason="real audio, which is not part of the repository")
def test_share_finds_real_speakers_with_their_accents_and_digits_alone(tmp_path):
    """FSDD with the shipped encoder: whatever two classes are found to share in particular belongs together."""
    run_activations(
        ActivationsOptions(
            encoder="m2d_tiny",
            task=str(FSDD),
            data=FSDD.parent,
            label="digit,speaker,accent",
            unit_seconds=1.0,
            run=tmp_path / "run",
            keep_clips=False,
        )
    )
    run_neurons(NeuronsOptions(run=tmp_path / "run", preset="lape"))
    table = run_share(ShareOptions(run=tmp_path / "run")).table.set_index(["label_set_a", "label_set_b"])
    rows = pd.read_csv(FSDD)
    own = set(zip(rows["speaker"], rows["accent"], strict=True))
    assert len(own) == rows["speaker"].nunique() == 6
    for other in ("speaker", "accent"):
        assert (table.loc[[("digit", other)]]["q_by_breadth"] > 0.05).all()
    found = table.loc[[("speaker", "accent")]].query("q_by_breadth <= 0.05")
    assert len(found)
    assert set(zip(found["class_a"], found["class_b"], strict=True)) <= own


def test_share_finds_octaves_of_one_set_of_notes_with_those_of_another(tmp_path):
    """The shipped encoder on synthesised notes of other instruments: the ends of the range find each other."""
    for task in ("notes", "notes2"):
        run = tmp_path / task
        run_activations(
            ActivationsOptions(encoder="m2d_tiny", task=task, label="octave", split="test", run=run, keep_clips=False)
        )
        run_neurons(NeuronsOptions(run=run, preset="lape"))
    table = run_share(ShareOptions(run=tmp_path / "notes", with_=(tmp_path / "notes2",))).table
    across = table[(table["run_b"] == str(tmp_path / "notes2")) & (table["size_a"] > 0) & (table["size_b"] > 0)]
    found = across[across["q_by_breadth"] <= 0.05]
    assert len(across) >= 16
    assert len(found) >= 2
    assert (found["class_a"] == found["class_b"]).all()
