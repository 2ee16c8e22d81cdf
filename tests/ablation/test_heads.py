"""Units beyond MLP neurons, heads and features of the residual stream: read and silenced, against PyTorch."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from noises import CLIPS, CONFIG, FEATURES, clip_samples, random_judge
from test_engine import Hidden, head_logits, margins, slow_margins
from tolerances import assert_within, relative_error
from torch_reference import random_state, reference_model

from jaxdissect import InputError, LayeredEncoder, load_encoder, read_neurons, run_with_gains, stack_layers
from jaxdissect.ablation.edits import Edit
from jaxdissect.ablation.stream import judge_edits
from jaxdissect.encoder.directory import with_units
from jaxdissect.encoder.protocol import named_units

SHAPES = {"heads": (CONFIG.depth, CONFIG.heads), "residual": (CONFIG.depth, CONFIG.width)}
THRESHOLD = 1.0
WIDTH_OF_HEAD = CONFIG.width // CONFIG.heads


@pytest.fixture(params=SHAPES)
def kind(request):
    return request.param


@pytest.fixture
def judges(task):
    return {labels.name: random_judge(FEATURES, labels.table(), seed=len(labels.name)) for labels in task.label_sets}


def spectrograms():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, CONFIG.frames, CONFIG.bands)), jnp.float32)


def reference(kind, x, gains):
    """Output (clip, token, width) and units' activations by layer (clip, token, unit), of PyTorch under hooks."""
    model, seen = reference_model(random_state(CONFIG, seed=4), CONFIG, x.shape[1]), []

    def see_heads(_, inputs, gain):
        heads = inputs[0].reshape(*inputs[0].shape[:-1], CONFIG.heads, WIDTH_OF_HEAD)
        seen.append(heads.norm(dim=-1).numpy())
        return ((heads * gain[:, None]).reshape(inputs[0].shape),)

    def see_residual(output, gain):
        output = output[0] if isinstance(output, tuple) else output
        seen.append(output.numpy())
        return output * gain

    for layer, gain in zip(model.layers, torch.from_numpy(gains), strict=True):
        if kind == "heads":
            layer.attention.o_proj.register_forward_pre_hook(lambda m, inputs, gain=gain: see_heads(m, inputs, gain))
        else:
            layer.register_forward_hook(lambda _m, _i, output, gain=gain: see_residual(output, gain))
    with torch.no_grad():
        output = model(torch.from_numpy(np.array(x)).mT[:, None].contiguous()).last_hidden_state.numpy()
    return output, seen


def test_read_neurons_reads_units_as_pytorch_has_them(encoder, kind):
    chosen, x = with_units(encoder, kind), spectrograms()
    params = {"params": encoder.variables["params"]}
    (output,), readings = read_neurons(chosen.module, params, x, threshold=THRESHOLD, **named_units(chosen))
    expected, seen = reference(kind, x, np.ones(SHAPES[kind], np.float32))
    assert_within("tokens against torch, relative", relative_error(output[:, 0], expected))
    reading = stack_layers(readings)
    assert reading.sum.shape == (2, *SHAPES[kind])
    for layer, activation in enumerate(seen):
        near = np.abs(activation - THRESHOLD).min(axis=1) < 1e-4  # which rounding may turn
        counts = np.asarray(reading.active_tokens[:, layer])
        np.testing.assert_array_equal(counts[~near], (activation > THRESHOLD).sum(axis=1)[~near])
        assert_within("tokens against torch, relative", relative_error(reading.sum[:, layer], activation.sum(axis=1)))


def test_run_with_gains_on_units_equals_pytorch_under_hooks(encoder, kind):
    chosen, x = with_units(encoder, kind), spectrograms()
    gains = np.random.default_rng(1).choice([0.0, 0.5, 1.0, 2.0], SHAPES[kind]).astype(np.float32)
    params = {"params": encoder.variables["params"]}
    (found,) = run_with_gains(chosen.module, params, x, gains=gains, **named_units(chosen))
    expected, _ = reference(kind, x, gains)
    assert_within("tokens under gains against torch, relative", relative_error(found[:, 0], expected))


def test_run_with_gains_on_a_head_equals_zeroed_rows_of_the_projection(encoder):
    chosen, x = with_units(encoder, "heads"), spectrograms()
    params = {"params": encoder.variables["params"]}
    gains = np.ones(SHAPES["heads"], np.float32)
    gains[1, 1] = 0
    (found,) = run_with_gains(chosen.module, params, x, gains=gains, **named_units(chosen))
    block = encoder.variables["params"]["blocks_1"]
    kernel = jnp.asarray(block["attn"]["proj"]["kernel"]).at[WIDTH_OF_HEAD : 2 * WIDTH_OF_HEAD].set(0)
    block = {**block, "attn": {**block["attn"], "proj": {**block["attn"]["proj"], "kernel": kernel}}}
    (expected,) = encoder.module.apply({"params": {**encoder.variables["params"], "blocks_1": block}}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_judge_edits_of_units_equals_pytorch_and_whole_runs(encoder, kind, task, judges):
    chosen, shape = with_units(encoder, kind), SHAPES[kind]
    rng = np.random.default_rng(2)
    edits = []
    for _ in range(5):
        flat = rng.choice(np.prod(shape), 3, replace=False)
        edits.append(Edit(*np.divmod(flat, shape[1]), 0.0, np.zeros(3)))
    resumed = judge_edits(chosen, task, judges, edits, shape, batch_size=2, at_once=2)
    whole = judge_edits(Hidden(chosen), task, judges, edits, shape)
    assert isinstance(chosen, LayeredEncoder)
    assert_within("margin, resumed against whole, logits", np.abs(margins(resumed) - margins(whole)).max())
    # PyTorch runs the chunks of a clip alone: these clips of 91 frames have one of 48, and one of 48 with padding.
    pcm = np.stack([clip_samples(clip) for clip in range(CLIPS)])
    inputs = np.asarray(encoder.front_end(encoder.variables, jnp.asarray(pcm)))
    gains = np.ones(shape, np.float32)
    gains[edits[0].layer, edits[0].neuron] = 0
    padded = np.pad(inputs, ((0, 0), (0, 2 * CONFIG.frames - inputs.shape[1]), (0, 0)))
    chunks = [reference(kind, chunk, gains)[0] for chunk in np.split(padded, 2, axis=1)]
    embeddings = np.asarray(encoder.embed(tuple(jnp.asarray(np.stack(chunks, 1))[None])))
    for labels in task.label_sets:
        wanted = slow_margins(head_logits(judges[labels.name].head, embeddings), labels.table())
        error = np.abs(resumed.after[labels.name].margin[0] - wanted).max()
        assert_within("margin under an edit against edited weights, logits", error)


def test_load_encoder_says_which_units_there_are(tmp_path):
    with pytest.raises(InputError, match="units must be one of mlp, heads, residual for m2d_tiny, got 'neurons'"):
        load_encoder("m2d_tiny", units="neurons")
    assert load_encoder("m2d_tiny", units="mlp").neurons == load_encoder("m2d_tiny").neurons
    with pytest.raises(InputError, match="units must be one of mlp, heads, residual, got 'head'"):
        dataclasses.replace(load_encoder("m2d_tiny"), kind="head")
