"""Layers that run one by one are compared with the whole module: post-norm layers are refused, or run rightly."""

import dataclasses

import jax
import numpy as np
import pytest
from noises import random_judge
from post_norm import HIDDEN, LAYERS, WIDTH, PostNorm
from test_engine import Hidden, margins
from tolerances import assert_within

from jaxdissect import InputError, LayeredEncoder
from jaxdissect.ablation.edits import Edit
from jaxdissect.ablation.stream import judge_edits

SHAPE = (LAYERS, HIDDEN)


@pytest.fixture
def judges(task):
    return {labels.name: random_judge(WIDTH, labels.table(), seed=len(labels.name)) for labels in task.label_sets}


def some_edits():
    rng = np.random.default_rng(0)
    edits = []
    for gain in (0.0, 2.0, 0.5, 0.0):
        layer, neuron = np.divmod(rng.choice(LAYERS * HIDDEN, 5, replace=False), HIDDEN)
        edits.append(Edit(layer, neuron, gain, rng.normal(size=5).astype(np.float32)))
    return edits


@pytest.mark.parametrize("encoder", [PostNorm(), PostNorm(norm=False), PostNorm("second", order=(0, 2, 1))])
def test_judge_edits_refuses_layers_that_are_not_as_they_say(encoder, task, judges):
    """A norm behind the neurons' output, a scale, layers in another order."""
    assert isinstance(encoder, LayeredEncoder)
    with pytest.raises(InputError, match=r"post-norm: run layer by layer.*a norm.*outgoing_module.*docs/encoders\.md"):
        judge_edits(encoder, task, judges, some_edits(), SHAPE)


@pytest.mark.parametrize("outgoing", ["second", "nothing"])
@pytest.mark.parametrize("norm", [True, False])
def test_judge_edits_runs_post_norm_layers_rightly(outgoing, norm, task, judges):
    encoder = PostNorm(outgoing, norm)
    resumed = judge_edits(encoder, task, judges, some_edits(), SHAPE, batch_size=2, at_once=2)
    whole = judge_edits(Hidden(encoder), task, judges, some_edits(), SHAPE)
    assert_within("margin, resumed against whole, logits", np.abs(margins(resumed) - margins(whole)).max())
    untouched = np.concatenate([resumed.before[name].margin for name in sorted(judges)], axis=1)
    assert np.abs(margins(resumed) - untouched).max() > 0.1


def test_judge_edits_equals_edited_weights_of_post_norm_layers(task, judges):
    encoder = PostNorm("second")
    edits = [dataclasses.replace(edit, offset=np.zeros(5)) for edit in some_edits()]
    nothing = Edit(np.array([0]), np.array([0]), 1.0, np.zeros(1))
    judged = judge_edits(encoder, task, judges, edits, SHAPE)
    for number, edit in enumerate(edits):
        params = jax.tree.map(np.array, encoder.variables["params"])
        for layer, neuron in zip(edit.layer, edit.neuron, strict=True):
            params[f"layer_{layer}"]["second"]["kernel"][neuron] *= edit.gain
        edited = Hidden(dataclasses.replace(encoder, params=params))
        expected = judge_edits(edited, task, judges, [nothing], SHAPE)
        for name in judges:
            error = np.abs(judged.after[name].margin[number] - expected.before[name].margin[0]).max()
            assert_within("margin under an edit against edited weights, logits", error)
