"""AUROC from sums of ranks and the choice by it: against scikit-learn, by hand, and on planted neurons."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from jaxdissect import InputError
from jaxdissect.selection.auroc import AurocRule, auroc_of_sums, best_neurons, centred_ranks


@st.composite
def labelled(draw):
    """Readings of few levels, so that there are ties, and classes that overlap."""
    clips = draw(st.integers(4, 30))
    levels = draw(arrays(np.int64, (clips, 3), elements=st.integers(-3, 3)))
    members = draw(arrays(np.bool_, (clips, 2)))
    return levels.astype(np.float32), members


@given(labelled())
def test_auroc_of_sums_is_scikit_learns_with_ties_and_several_classes(case):
    values, members = case
    ranks = centred_ranks(values)
    assert ranks.sum(axis=0) == pytest.approx(0, abs=1e-9)
    sums = members.T.astype(float) @ ranks
    auroc = auroc_of_sums(sums, members.sum(axis=0), len(values))
    for label, own in enumerate(members.T):
        for neuron in range(values.shape[1]):
            if own.all() or not own.any():
                assert np.isnan(auroc[label, neuron])
            else:
                assert auroc[label, neuron] == pytest.approx(roc_auc_score(own, values[:, neuron]), abs=1e-12)


def test_auroc_of_sums_of_a_sample_is_the_difference_of_mean_ranks():
    """Clips 10, 20, 30, 40; the sample has the first twice and the last once, of which the last is of the class."""
    ranks = centred_ranks(np.array([[10.0], [20.0], [30.0], [40.0]]))
    weights, own = np.array([2, 0, 0, 1]), np.array([0, 0, 0, 1])
    auroc = auroc_of_sums(
        np.array([[ranks[3, 0]]]), np.array([1]), 4, (weights @ ranks)[None], np.array([weights.sum()])
    )
    assert auroc[0, 0] == 0.5 + (4 - 1) / 4
    assert own @ weights == 1


def test_best_neurons_takes_the_highest_that_reach_the_bar_and_are_significant():
    auroc = np.array([[[0.9, 0.8, 0.95, np.nan]], [[0.6, 0.65, 0.71, 0.71]]])
    q_value = np.array([[[0.01, 0.01, 0.2, 0.01]], [[0.01, 0.01, 0.05, 0.01]]])
    chosen = best_neurons(auroc, AurocRule(per_class=1), q_value)
    assert np.argwhere(chosen).tolist() == [[0, 0, 0], [1, 0, 2]]  # a tie goes to the first neuron
    chosen = best_neurons(auroc, AurocRule(per_class=3))
    assert np.argwhere(chosen).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [1, 0, 2], [1, 0, 3]]
    untested = np.full_like(q_value, np.nan)
    assert not best_neurons(auroc, AurocRule(), untested).any()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"per_class": 0}, "per_class must be a whole number, at least 1, got 0"),
        ({"least": 1.5}, "least must be a fraction from 0 to 1, got 1.5"),
        ({"level": -0.1}, "level must be a fraction from 0 to 1, got -0.1"),
    ],
)
def test_auroc_rule_refuses_what_breaks_a_rule(rule, message):
    with pytest.raises(InputError, match=message):
        AurocRule(**rule)
