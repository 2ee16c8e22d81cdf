"""Matched controls: sizes per layer, never the target, all different, and alike in what they are matched by."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdissect import Activity, InputError, neuron_set
from jaxdissect.ablation.matched_controls import control_overlap, draw_matched_controls, shifted_control
from jaxdissect.significance.p_values import empirical_p

SHAPE = (3, 40)


def activity(seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    return Activity(rng.random(shape), rng.lognormal(size=shape))


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 2), st.integers(0, 39)), min_size=1, max_size=30), st.booleans(), st.integers(0, 5)
)
def test_draw_matched_controls_keeps_sizes_and_avoids_the_target(pairs, matched, seed):
    target = neuron_set("target", pairs)
    try:
        (controls,) = draw_matched_controls([target], SHAPE, 25, seed, activity() if matched else None)
    except InputError:
        assert any(2 * size > 40 for size in np.bincount([layer for layer, _ in pairs]))
        return
    assert controls.shape == (25, len(pairs), 2)
    sets = [frozenset(map(tuple, control)) for control in controls.tolist()]
    assert len(set(sets)) == 25
    for chosen in sets:
        assert len(chosen) == len(pairs)
        assert not chosen & pairs
        assert all(0 <= neuron < SHAPE[1] for _, neuron in chosen)
        assert sorted(layer for layer, _ in chosen) == sorted(layer for layer, _ in pairs)


def test_draw_matched_controls_follows_from_the_seed():
    target = neuron_set("target", [(0, 1), (2, 3)])
    first, again, other = (draw_matched_controls([target], SHAPE, 10, seed, activity())[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_draw_matched_controls_by_layer_is_uniform():
    target = neuron_set("target", [(1, 0), (1, 1)])
    drawn = np.concatenate([draw_matched_controls([target], SHAPE, 500, seed)[0][..., 1].ravel() for seed in range(4)])
    counts = np.bincount(drawn, minlength=40)
    assert counts[:2].sum() == 0
    expected = 4 * 500 * 2 / 38
    assert np.square(counts[2:] - expected).sum() / expected < 75  # chi-square of 37 degrees: 75 has p = 2e-4


def test_draw_matched_controls_finds_all_sets_where_all_are_wanted():
    target = neuron_set("target", [(0, 0), (0, 1)])
    (drawn,) = draw_matched_controls([target], (1, 7), 10, 0)  # of 5 choose 2
    result = {tuple(sorted(control[:, 1])) for control in drawn}
    assert result == set(itertools.combinations(range(2, 7), 2))
    with pytest.raises(InputError, match=r"pool of 'target' is too small: .* have 10 neuron sets .* 11 different ones"):
        draw_matched_controls([target], (1, 7), 11, 0)
    with pytest.raises(InputError, match="have 0 neuron sets"):
        draw_matched_controls([neuron_set("most", [(0, neuron) for neuron in range(4)])], (1, 7), 1, 0)
    assert draw_matched_controls([target], (1, 7), 0, 0)[0].shape == (0, 2, 2)


@pytest.mark.parametrize("size", [2, 30])
def test_draw_matched_controls_by_activity_balances_rate_and_impact(size):
    """The target's neurons are the most active ones, as class-specific neurons can be."""
    shape = (2, 3072)
    measured = activity(1, shape)
    target = neuron_set(
        "target", [(0, int(neuron)) for neuron in np.argsort(-measured.impact[0])[50 : 50 + 4 * size : 4]]
    )
    ratios = {}
    for name, matched in (("activity", measured), ("layer", None)):
        (drawn,) = draw_matched_controls([target], shape, 200, 0, matched)
        for what in ("rate", "impact"):
            values = getattr(measured, what)
            own = values[target.pairs[:, 0], target.pairs[:, 1]].sum()
            ratios[name, what] = values[drawn[..., 0], drawn[..., 1]].sum(axis=1).mean() / own
    assert 0.8 < ratios["activity", "impact"] < 1.25
    assert ratios["layer", "impact"] < 0.5
    assert 0.8 < ratios["activity", "rate"] < 1.25


def test_draw_matched_controls_matches_neuron_by_neuron():
    """One loud and one quiet neuron are stood for by a loud and a quiet one, not by two middling ones."""
    measured = Activity(np.linspace(0, 1, 1000)[None], np.linspace(0, 1, 1000)[None])
    target = neuron_set("target", [(0, 10), (0, 990)])
    drawn = np.sort(draw_matched_controls([target], (1, 1000), 50, 0, measured)[0][..., 1], axis=1)
    assert drawn[:, 0].max() < 100
    assert drawn[:, 1].min() > 900


def test_control_overlap_worked_out():
    assert control_overlap(np.array([[[0, 1], [1, 2]], [[0, 1], [1, 3]], [[0, 4], [1, 3]]])) == pytest.approx(
        (0.5 + 0.5 + 0) / 3
    )
    assert control_overlap(np.array([[[0, 1]], [[0, 2]]])) == 0
    assert control_overlap(np.array([[[0, 1]], [[0, 1]]])) == 1
    assert control_overlap(np.zeros((1, 3, 2), int)) == 0
    target = neuron_set("target", [(0, neuron) for neuron in range(10)])
    (drawn,) = draw_matched_controls([target], (1, 110), 300, 0)
    assert control_overlap(drawn) == pytest.approx(0.1, abs=0.01)  # 10 of the 100 others


def test_draw_matched_controls_where_all_neurons_are_alike():
    measured = Activity(np.zeros(SHAPE), np.zeros(SHAPE))
    assert len(draw_matched_controls([neuron_set("target", [(0, 0)])], SHAPE, 30, 0, measured)[0]) == 30


def test_shifted_control_is_the_next_neuron():
    target = neuron_set("target", [(0, 1), (0, 39), (2, 5)])
    np.testing.assert_array_equal(shifted_control(target, SHAPE), [[[0, 2], [0, 0], [2, 6]]])


def test_draw_matched_controls_share_neurons_as_their_targets_do():
    targets = [
        neuron_set("a", [(0, 1), (0, 2), (1, 5)]), neuron_set("b", [(0, 2), (1, 5), (2, 7)]), neuron_set("c", [(2, 7)]),
    ]  # fmt: skip
    drawn = draw_matched_controls(targets, SHAPE, 30, 0, activity())
    union = {pair for target in targets for pair in target.neurons}
    for one in range(30):
        images = [[tuple(pair) for pair in controls[one].tolist()] for controls in drawn]
        stand_ins = {}
        for target, image in zip(targets, images, strict=True):
            for neuron, stand_in in zip(target.neurons, image, strict=True):
                assert stand_ins.setdefault(neuron, stand_in) == stand_in
                assert stand_in[0] == neuron[0]
        assert len(set(stand_ins.values())) == len(union)
        assert not set(stand_ins.values()) & union
    for controls in drawn:
        assert len({frozenset(map(tuple, control)) for control in controls.tolist()}) == 30


def test_draw_matched_controls_give_a_valid_aggregate_test_of_overlapping_targets():
    """Under the null hypothesis p <= 0.05 comes up as often as it should; additive effects with a common part."""
    rng, hits, runs = np.random.default_rng(0), 0, 300
    for run in range(runs):
        effects = rng.normal(size=600) + 0.3
        pool = rng.choice(600, 20, replace=False)
        targets = [
            neuron_set(str(one), [(0, n) for n in rng.choice(pool, 9, replace=False).tolist()]) for one in range(5)
        ]
        drawn = draw_matched_controls(targets, (1, 600), 19, run)
        observed = np.mean([effects[target.pairs[:, 1]].sum() for target in targets])
        controls = np.mean([effects[control[..., 1]].sum(axis=1) for control in drawn], axis=0)
        hits += empirical_p(np.array(observed), controls) <= 0.05
    assert hits / runs < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs) + 0.01


def test_draw_matched_controls_refuses_targets_that_fill_a_layer():
    targets = [
        neuron_set(name, [(1, neuron) for neuron in range(start, 21 + start)]) for name, start in (("a", 0), ("b", 9))
    ]
    with pytest.raises(InputError, match=r"hold 30 of the 40 neurons of layer 1|'a' is too small: its layers have 0"):
        draw_matched_controls(targets, SHAPE, 5, 0)
    halves = [
        neuron_set(name, [(1, neuron) for neuron in range(start, 12 + start)]) for name, start in (("a", 0), ("b", 12))
    ]
    with pytest.raises(InputError, match="the neuron sets together hold 24 of the 40 neurons of layer 1"):
        draw_matched_controls(halves, SHAPE, 5, 0)
