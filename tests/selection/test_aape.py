"""Selection against the slow version in exact arithmetic, and on cases small enough to work out on paper."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import slow_method as slow
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdissect import InputError, SelectionRule
from jaxdissect.selection.aape import aape, activation_probability, kth_smallest, select

SCORE_TOLERANCE = 1e-12  # measured over the examples below: 9e-16
LN2, LN3, LN4 = 0.6931471805599453, 1.0986122886681098, 1.3862943611198906

rules = st.builds(
    SelectionRule,
    preset=st.sampled_from(["aape", "lape"]),
    keep=st.sampled_from([0.2, 0.25, 0.5, 0.75, 1.0]),
    drop_weakest=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
    bar=st.sampled_from([0.0, 0.5, 0.75, 0.95, 1.0]),
)


@st.composite
def counted(draw):
    """Counts (class, layer, neuron) and tokens (class), rich in ties, dead and always active neurons."""
    classes, layers, neurons = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(2, 6))
    some_tokens = st.sampled_from([1, 2, 3, 10, 17, 160, 20_000])
    tokens = draw(
        st.one_of(some_tokens.map(lambda n: [n] * classes), st.lists(some_tokens, min_size=classes, max_size=classes))
    )
    profiles: list[list[int]] = []
    for _ in range(layers * neurons):
        kind = draw(st.sampled_from(["any", "few", "dead", "always", "one class", "copy", "shuffled copy"]))
        if kind in ("copy", "shuffled copy") and profiles:
            profile = draw(st.sampled_from(profiles))
            if kind == "shuffled copy" and len(set(tokens)) == 1:
                profile = draw(st.permutations(profile))
        elif kind == "dead":
            profile = [0] * classes
        elif kind == "always":
            profile = tokens
        else:
            profile = [draw(st.integers(0, min(most, 3) if kind == "few" else most)) for most in tokens]
            if kind == "one class":
                here = draw(st.integers(0, classes - 1))
                profile = [value if one == here else 0 for one, value in enumerate(profile)]
        profiles.append(list(profile))
    return np.array(profiles).T.reshape(classes, layers, neurons), np.array(tokens)


def places(mask):
    return [tuple(place) for place in np.argwhere(mask).tolist()]


def many(*profiles):
    """Counts of neurons in one layer, from each neuron's counts per class."""
    return np.array(profiles).T[:, None, :]


def neurons_of(mask):
    assert mask.shape[-2] == 1
    return np.flatnonzero(mask).tolist()


# --- against the slow version


@settings(max_examples=300, deadline=None)
@given(counted(), rules)
def test_select_equals_the_slow_selection(counts, rule):
    active_tokens, tokens = counts
    expected = slow.select(
        active_tokens, tokens, preset=rule.preset, keep=rule.keep, weakest=rule.drop_weakest, bar_rate=rule.bar
    )
    found = select(active_tokens, tokens, rule)
    assert places(found.kept) == expected.kept
    assert places(found.specific) == expected.specific
    assert found.probability_bar == float(expected.bar)
    for place, value in expected.probability.items():
        assert found.probability[place] == float(value)
    for place, value in expected.rate.items():
        assert found.rate[place] == pytest.approx(float(value), rel=SCORE_TOLERANCE)
    for place, value in expected.aape.items():
        if value is None:
            assert np.isnan(found.aape[place])
            assert np.isnan(found.aape_normalised[place])
        else:
            assert found.aape[place] == pytest.approx(float(value), abs=SCORE_TOLERANCE)
            assert 0 <= found.aape[place] <= math.log(len(tokens)) + SCORE_TOLERANCE
    highest = max((expected.aape[place] for place in expected.kept), default=math.nan)
    assert found.aape_cutoff == pytest.approx(float(highest), abs=SCORE_TOLERANCE, nan_ok=True)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1), min_size=1, max_size=40), st.floats(0, 1))
def test_kth_smallest_equals_the_slow_one(values, rate):
    assert kth_smallest(np.array(values), rate) == slow.kth_smallest(values, rate)


@settings(max_examples=100, deadline=None)
@given(counted())
def test_aape_equals_scipys_entropy(counts):
    p = activation_probability(*counts)
    alive = p.sum(axis=0) > 0
    found = aape(p)
    np.testing.assert_array_equal(np.isnan(found), ~alive)
    np.testing.assert_allclose(found[alive], scipy.stats.entropy(p[:, alive], axis=0), atol=SCORE_TOLERANCE)


# --- what must not change the result


@settings(max_examples=150, deadline=None)
@given(counted(), rules, st.data())
def test_select_does_not_depend_on_the_order_of_classes(counts, rule, data):
    active_tokens, tokens = counts
    order = data.draw(st.permutations(range(len(tokens))))
    before = select(active_tokens, tokens, rule)
    after = select(active_tokens[order], tokens[order], rule)
    np.testing.assert_array_equal(after.kept, before.kept)
    np.testing.assert_array_equal(after.specific, before.specific[order])
    np.testing.assert_array_equal(after.probability, before.probability[order])
    np.testing.assert_allclose(after.aape, before.aape, atol=SCORE_TOLERANCE)
    np.testing.assert_allclose(after.rate, before.rate, rtol=SCORE_TOLERANCE)
    assert after.probability_bar == before.probability_bar


@settings(max_examples=100, deadline=None)
@given(counted(), rules, st.integers(2, 10**9))
def test_select_depends_on_fractions_of_tokens_only(counts, rule, factor):
    active_tokens, tokens = counts
    before = select(active_tokens, tokens, rule)
    after = select(active_tokens * factor, tokens * factor, rule)
    for name, value in vars(before).items():
        np.testing.assert_array_equal(getattr(after, name), value, err_msg=name)


# --- cases worked out on paper


@pytest.mark.parametrize(
    ("p", "entropy"),
    [
        ([1.0], 0.0),
        ([0.3, 0.0, 0.0, 0.0], 0.0),  # one class only
        ([0.0, 1e-9, 0.0], 0.0),
        ([0.2, 0.2, 0.2, 0.2], LN4),  # uniform: ln C
        ([1.0, 1.0, 1.0], LN3),
        ([0.4, 0.4, 0.0, 0.0], LN2),
        ([0.5, 0.25, 0.25], 1.5 * LN2),
        ([0.3, 0.1], 2 * LN2 - 0.75 * LN3),  # -(3/4) ln(3/4) - (1/4) ln(1/4)
    ],
)
def test_aape_worked_out(p, entropy):
    assert aape(np.array(p)[:, None])[0] == pytest.approx(entropy, abs=SCORE_TOLERANCE)


def test_aape_is_never_a_negative_zero():
    assert math.copysign(1, aape(np.array([[0.5], [0.0]]))[0]) == 1


def test_aape_of_a_dead_neuron_is_nan():
    np.testing.assert_array_equal(aape(np.zeros((3, 2))), [math.nan, math.nan])


@pytest.mark.parametrize(
    ("rate", "expected"), [(0, 10), (0.1, 10), (0.25, 10), (0.3, 20), (0.5, 20), (0.8, 30), (1, 40)]
)
def test_kth_smallest_worked_out(rate, expected):
    """Of 40, 10, 30, 20, 20: k = round(5 rate) = 0 (taken as 1), 0, 1, 2 (1.5 to even), 2, 4, 5."""
    assert kth_smallest(np.array([[40.0, 10.0, 30.0, 20.0, 20.0]]), rate) == expected


def test_select_divides_normalised_aape_by_that_of_a_uniform_neuron():
    found = select(many((1, 1, 1, 1), (1, 1, 0, 0), (1, 0, 0, 0)), np.full(4, 10), SelectionRule(keep=1))
    np.testing.assert_allclose(found.aape_normalised, [[1.0, 0.5, 0.0]], atol=SCORE_TOLERANCE)
    np.testing.assert_array_equal(found.rate, [[0.1, 0.05, 0.025]])


def test_select_of_one_class_has_no_normalised_aape():
    found = select(many([3], [0], [5]), np.array([10]), SelectionRule(keep=1, drop_weakest=0, bar=0.5))
    np.testing.assert_array_equal(found.aape, [[0.0, math.nan, 0.0]])
    np.testing.assert_array_equal(found.aape_normalised, [[math.nan] * 3])
    assert neurons_of(found.kept) == [0, 2]  # p = 0.3, 0, 0.5; the bar is the 2nd smallest (1.5 to even), 0.3
    assert places(found.specific) == [(0, 0, 2)]


@pytest.mark.parametrize("preset", ["aape", "lape"])
def test_select_never_keeps_dead_neurons(preset):
    active_tokens = many((0, 0), (9, 1), (0, 0), (1, 9), (0, 0))
    found = select(active_tokens, np.array([10, 10]), SelectionRule(preset, keep=1, drop_weakest=0, bar=0))
    assert neurons_of(found.kept) == [1, 3]
    nothing = select(0 * active_tokens, np.array([10, 10]), SelectionRule(preset, keep=1, drop_weakest=0, bar=0))
    assert not nothing.kept.any()
    assert not nothing.specific.any()
    assert math.isnan(nothing.aape_cutoff)


def test_select_gives_the_highest_aape_to_a_neuron_that_always_fires():
    found = select(many((10, 20), (10, 19)), np.array([10, 20]), SelectionRule(keep=0.5, drop_weakest=0))
    np.testing.assert_allclose(found.aape[0, 0], LN2, atol=SCORE_TOLERANCE)
    assert neurons_of(found.kept) == [1]


def test_select_weighs_classes_alike_whatever_their_tokens():
    """100 of 1000 and 1 of 10 tokens are the same share, so the entropy is ln 2 and the rate 0.1."""
    found = select(many((100, 1)), np.array([1000, 10]), SelectionRule(keep=1))
    assert found.aape[0, 0] == pytest.approx(LN2, abs=SCORE_TOLERANCE)
    assert found.rate[0, 0] == pytest.approx(0.1, rel=SCORE_TOLERANCE)


def test_select_breaks_ties_by_layer_then_neuron():
    one_class = np.zeros((2, 3, 4), int)
    one_class[0] = 5  # twelve neurons of AAPE 0 and equal rate
    found = select(one_class, np.array([10, 10]), SelectionRule(keep=0.5, drop_weakest=0))
    assert places(found.kept) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    dropped = select(one_class, np.array([10, 10]), SelectionRule(keep=0.25, drop_weakest=0.25))
    assert places(dropped.kept) == [(0, 3), (1, 0), (1, 1)]  # the weakest three: (0, 0), (0, 1), (0, 2)


def test_select_does_not_break_ties_of_aape_by_rounding():
    """Neurons that answer equally to all of six classes all have AAPE ln 6, at whatever rate."""
    uniform = many(*([level] * 6 for level in range(1, 9)))
    found = select(uniform, np.full(6, 160), SelectionRule(keep=0.5, drop_weakest=0))
    assert neurons_of(found.kept) == [0, 1, 2, 3]


def test_select_does_not_break_ties_by_the_order_of_classes():
    """24 neurons with the same four shares, each in another order."""
    shuffled = many(*itertools.permutations([1, 2, 3, 7]))
    found = select(shuffled, np.full(4, 10), SelectionRule(keep=0.25, drop_weakest=0))
    assert neurons_of(found.kept) == [0, 1, 2, 3, 4, 5]
    dropped = select(shuffled, np.full(4, 10), SelectionRule(keep=0.25, drop_weakest=0.25))
    assert neurons_of(dropped.kept) == [6, 7, 8, 9, 10, 11]
    for order in itertools.permutations(range(4)):
        again = select(shuffled[list(order)], np.full(4, 10), SelectionRule(keep=0.25, drop_weakest=0.25))
        np.testing.assert_array_equal(again.kept, dropped.kept, err_msg=str(order))


@pytest.mark.parametrize(("keep", "kept"), [(0.01, 369), (0.02, 737), (0.9, 33_178), (1.0, 35_021)])
def test_select_keeps_an_exact_number_of_vit_base(keep, kept):
    """Of 12 x 3072 = 36,864: round(368.64), round(737.28), round(33,177.6), all but the weakest round(1843.2)."""
    active_tokens = np.random.default_rng(0).integers(1, 101, (3, 12, 3072))
    found = select(active_tokens, np.full(3, 100), SelectionRule(keep=keep))
    assert found.kept.sum() == kept
    assert found.aape[found.kept].max() == found.aape_cutoff
    assert (found.probability <= found.probability_bar).sum() >= round(0.95 * 3 * 36_864)  # the bar is one of them
    assert (found.probability < found.probability_bar).sum() < round(0.95 * 3 * 36_864)


def test_select_needs_the_bar_to_be_exceeded():
    """The shares are 0 0 .1 .2 .3 .5 .5 .8 .8 .9: the 8th smallest is 0.8, which only 0.9 exceeds."""
    active_tokens = many((9, 0), (8, 0), (5, 5), (8, 1), (3, 2))
    found = select(active_tokens, np.array([10, 10]), SelectionRule(keep=0.4, drop_weakest=0.2, bar=0.8))
    assert neurons_of(found.kept) == [0, 1]
    assert found.probability_bar == 0.8
    assert places(found.specific) == [(0, 0, 0)]  # neuron 1 is kept and specific to no class
    assert found.aape_cutoff == 0


def test_select_may_give_a_neuron_several_classes():
    """The shares are 0 0 .1 .1 .1 .1 .1 .2 .7 .8 .9 1: the 6th smallest is 0.1. Neuron 2 has the highest entropy."""
    active_tokens = many((9, 7, 0), (0, 10, 2), (1, 1, 1), (1, 1, 8))
    found = select(active_tokens, np.full(3, 10), SelectionRule(keep=0.75, drop_weakest=0, bar=0.5))
    assert neurons_of(found.kept) == [0, 1, 3]
    assert found.probability_bar == 0.1
    assert places(found.specific) == [(0, 0, 0), (1, 0, 0), (1, 0, 1), (2, 0, 1), (2, 0, 3)]


def test_select_takes_the_bar_from_neurons_that_are_not_kept_too():
    """Of 16 shares eleven are 0, so the 8th smallest is 0; of the four kept neurons' shares alone it would be 0.5."""
    active_tokens = many(*[(0, 0)] * 4, (5, 0), (6, 0), (0, 5), (5, 5))
    found = select(active_tokens, np.array([10, 10]), SelectionRule(keep=0.5, drop_weakest=0, bar=0.5))
    assert neurons_of(found.kept) == [4, 5, 6, 7]
    assert found.probability_bar == 0
    assert places(found.specific) == [(0, 0, 4), (0, 0, 5), (0, 0, 7), (1, 0, 6), (1, 0, 7)]


def test_select_by_presets_differs_in_the_first_step():
    """Neuron 0 has the lowest rate (7.5 %) and the only share above the bar (30 %)."""
    active_tokens = many((30, 0, 0, 0), *[(20, 20, 20, 20)] * 4)
    tokens = np.full(4, 100)
    aape = select(active_tokens, tokens, SelectionRule("aape", keep=0.2, drop_weakest=0.2, bar=0.8))
    lape = select(active_tokens, tokens, SelectionRule("lape", keep=0.2, drop_weakest=0.2, bar=0.8))
    assert aape.probability_bar == lape.probability_bar == 0.2  # the 16th of 20: three zeros, then sixteen times 0.2
    assert neurons_of(aape.kept) == [1]
    assert places(aape.specific) == []
    assert neurons_of(lape.kept) == [0]
    assert places(lape.specific) == [(0, 0, 0)]


def test_select_by_lape_keeps_fewer_where_fewer_exceed_the_bar():
    active_tokens = many((30, 0, 0, 0), *[(20, 20, 20, 20)] * 4)
    assert neurons_of(select(active_tokens, np.full(4, 100), SelectionRule("lape", keep=1, bar=0.8)).kept) == [0]


def test_select_by_lape_drops_nothing_for_its_rate():
    active_tokens = many((30, 0, 0, 0), *[(20, 20, 20, 20)] * 4)
    found = select(active_tokens, np.full(4, 100), SelectionRule("lape", keep=0.2, drop_weakest=1.0, bar=0.8))
    assert neurons_of(found.kept) == [0]


# --- the user's mistakes


def test_selection_rule_defaults_are_the_papers():
    assert SelectionRule() == SelectionRule(preset="aape", keep=0.01, drop_weakest=0.05, bar=0.95)


def test_selection_rule_names_an_unknown_preset():
    with pytest.raises(InputError, match=r"^preset must be one of aape, lape, got 'entropy'"):
        SelectionRule(preset="entropy")


@pytest.mark.parametrize("option", ["keep", "drop_weakest", "bar"])
@pytest.mark.parametrize("value", [-0.01, 1.01, 5.0, math.nan, math.inf])
def test_selection_rule_refuses_fractions_outside_0_to_1(option, value):
    with pytest.raises(InputError, match=rf"^{option} must be .* 0 to 1, got {value}"):
        SelectionRule(**{option: value})


def test_select_refuses_a_class_without_tokens():
    with pytest.raises(InputError, match=r"token in each.*\[10, 0\]"):
        select(np.zeros((2, 1, 3), int), np.array([10, 0]), SelectionRule())
    with pytest.raises(InputError, match="at least one class"):
        select(np.zeros((0, 1, 3), int), np.array([], int), SelectionRule())


def test_select_keeps_none_where_the_fraction_rounds_to_none():
    found = select(np.ones((2, 2, 3), int), np.array([10, 10]), SelectionRule())
    assert not found.kept.any()
    assert math.isnan(found.aape_cutoff)
