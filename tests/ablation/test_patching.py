"""Patching: pairs of clips, and verdicts against Flax's own capture and interceptors, in NumPy loops."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from noises import CLIPS, FEATURES, SHAPE, clip_samples, random_judge
from test_engine import Hidden, head_logits, margins, random_edits, slow_margins
from test_heads import SHAPES
from tolerances import assert_within

from jaxdissect import AblationOptions, InputError
from jaxdissect.ablation import engine
from jaxdissect.ablation.edits import plan
from jaxdissect.ablation.stream import draw_recipients, judge_edits
from jaxdissect.encoder.directory import with_units
from jaxdissect.runtime.sharding import local_mesh

RECIPIENTS = np.array([1, 2, 0, 4, 3, 6, 2])


@pytest.fixture
def judges(task):
    return {labels.name: random_judge(FEATURES, labels.table(), seed=len(labels.name)) for labels in task.label_sets}


def patches(number, shape=SHAPE):
    """Edits that replace activations: gain 0, no offset."""
    edits = random_edits(number, shape=shape, most=min(20, shape[1]))
    return [dataclasses.replace(edit, gain=0.0, offset=np.zeros(len(edit.layer))) for edit in edits]


def is_neurons(module, _=None):
    return module.name == "act"


def slow_embedding(encoder, recipient, donor, edit):
    """The recipient's embedding with the donor's activations in the edit's neurons."""

    def inputs(clip):
        return encoder.front_end(encoder.variables, jnp.asarray(clip_samples(clip)[None]))

    params = {"params": encoder.variables["params"]}
    _, state = encoder.module.apply(params, inputs(donor), capture_intermediates=is_neurons, mutable=["intermediates"])
    calls = {}

    def patch(run, args, kwargs, context):
        output = run(*args, **kwargs)
        if context.method_name != "__call__" or not is_neurons(context.module):
            return output
        block = context.module.path[0]
        call = calls[block] = calls.get(block, -1) + 1
        neurons = edit.neuron[edit.layer == int(block.removeprefix("blocks_"))]
        theirs = state["intermediates"][block]["mlp"]["act"]["__call__"][call]
        return output.at[..., neurons].set(theirs[..., neurons])

    with nn.intercept_methods(patch):
        output = encoder.module.apply(params, inputs(recipient))
    return np.asarray(encoder.embed(output), np.float64)


def test_judge_edits_with_recipients_equals_patching_by_hand(encoder, task, judges):
    edits = patches(4)
    judged = judge_edits(encoder, task, judges, edits, SHAPE, batch_size=4, at_once=3, recipients=RECIPIENTS)
    assert judged.usable.all()
    for number, edit in enumerate(edits[:3]):
        pairs = enumerate(RECIPIENTS)
        embeddings = np.concatenate([slow_embedding(encoder, into, donor, edit) for donor, into in pairs])
        for labels in task.label_sets:  # judged by the donor's classes
            wanted = slow_margins(head_logits(judges[labels.name].head, embeddings), labels.table())
            error = np.abs(judged.after[labels.name].margin[number] - wanted).max()
            assert_within("margin under an edit against edited weights, logits", error)


@pytest.mark.parametrize("kind", ["mlp", *SHAPES])
def test_judge_edits_with_recipients_layer_by_layer_equals_whole_runs(encoder, kind, task, judges):
    chosen, shape = with_units(encoder, kind), {"mlp": SHAPE, **SHAPES}[kind]
    edits = patches(6, shape)
    given = task, judges, edits, shape
    resumed = judge_edits(chosen, *given, batch_size=2, at_once=2, recipients=RECIPIENTS)
    whole = judge_edits(Hidden(chosen), *given, recipients=RECIPIENTS)
    assert_within("margin, resumed against whole, logits", np.abs(margins(resumed) - margins(whole)).max())


def test_judge_edits_with_recipients_patching_everything_gives_the_donor(encoder, task, judges):
    """All features of the last layer, on all clips: nothing of the recipient is left."""
    chosen, shape = with_units(encoder, "residual"), SHAPES["residual"]
    neurons = np.arange(shape[1])
    whole = patches(1)[0]
    edit = dataclasses.replace(
        whole, layer=np.full(len(neurons), shape[0] - 1), neuron=neurons, offset=np.zeros(len(neurons))
    )
    patched = judge_edits(chosen, task, judges, [edit], shape, recipients=RECIPIENTS)
    untouched = judge_edits(chosen, task, judges, [edit], shape)
    for name in judges:
        error = np.abs(patched.after[name].margin[0] - untouched.before[name].margin[0]).max()
        assert_within("margin, many at once against few, logits", error)
        # Untouched, a recipient is judged by the donor's classes.
        other = judges[name].members[RECIPIENTS]
        same = (other == judges[name].members).all(axis=1)
        assert (patched.before[name].margin[0][~same] != untouched.before[name].margin[0][~same]).all()


def test_judge_edits_leaves_out_clips_whose_recipient_cannot_be_read(encoder, task, judges):
    (task.data / "6.wav").write_bytes(b"no sound")
    judged = judge_edits(encoder, task, judges, patches(1), SHAPE, recipients=RECIPIENTS)
    assert np.flatnonzero(~judged.usable).tolist() == [5, 6]  # 6 itself, and 5, whose recipient it is
    assert judged.reasons[5].startswith("its recipient cannot be read")


@pytest.mark.parametrize("whole", [False, True])
def test_judge_edits_leaves_out_donors_whose_activations_are_no_numbers(encoder, task, judges, whole):
    runner = engine.runner_of(Hidden(encoder) if whole else encoder, dict.fromkeys(judges, False), SHAPE, local_mesh())
    pcm = jnp.asarray(np.stack([clip_samples(clip) for clip in range(8)]))
    heads = {name: judge.head for name, judge in judges.items()}
    members = {name: jnp.asarray(judge.members)[np.arange(8) % CLIPS] for name, judge in judges.items()}
    judged = runner.run(encoder.variables, heads, pcm, members, plan(patches(1), 1), pcm.at[2].set(jnp.nan))
    finite = {tuple(numbers): np.asarray(found) for numbers, (_, found) in judged}
    assert np.flatnonzero(~finite[(engine.UNTOUCHED,)][0]).tolist() == [2]


def test_draw_recipients_shares_no_class_in_any_label_set(task):
    numbers = np.arange(CLIPS)
    members = {"label": np.eye(3, dtype=bool)[numbers % 3], "parity": np.eye(2, dtype=bool)[numbers % 2]}
    judges = {name: random_judge(FEATURES, classes) for name, classes in members.items()}
    recipients = draw_recipients(task, judges, 0)
    for classes in members.values():
        assert not (classes & classes[recipients]).any()
    np.testing.assert_array_equal(recipients, draw_recipients(task, judges, 0))
    assert len({tuple(draw_recipients(task, judges, seed)) for seed in range(5)}) > 1
    alone = {"label": random_judge(FEATURES, np.ones((CLIPS, 1), bool))}
    with pytest.raises(InputError, match=r"Patching needs a clip that shares no class with '0\.wav'"):
        draw_recipients(task, alone, 0)


def test_ablation_options_refuse_gains_beside_patching():
    with pytest.raises(InputError, match="mode patch replaces activations: leave gains out"):
        AblationOptions(gains=(0.5,), mode="patch")


def test_ablate_patches_on_the_command_line(ablate):
    code, printed, errors = ablate("--mode", "patch", "--controls", "5", "--match", "layer", "--no-causal-map")
    assert code == 0, errors
    assert "patch" in printed
    table = pd.read_csv(ablate.path / "ablation.csv")
    assert set(table["mode"]) == {"patch"}
    assert (table.groupby("label_set")["accuracy_before"].mean() < 0.5).all()  # judged by another clip's class
    code, _, errors = ablate("--mode", "patch", "--gain", "0.5")
    assert code == 2
    assert "--mode patch replaces activations: leave --gain out." in errors
