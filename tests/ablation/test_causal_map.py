"""The causal map against PyTorch's gradients, where it is exact, and how it is checked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
from noises import CLIPS, CONFIG, FEATURES, SHAPE, clip_samples, random_judge
from tolerances import assert_within, relative_error
from torch_reference import random_state, reference_model

from jaxdissect import InputError, causal_map
from jaxdissect.ablation.activity import measure_activity
from jaxdissect.ablation.causal_check import check_map, spearman
from jaxdissect.ablation.edits import Edit
from jaxdissect.ablation.stream import judge_edits


@pytest.fixture
def judges(task):
    label, parity = (labels.table() for labels in task.label_sets)
    several = np.concatenate([label, parity], axis=1)
    several[2] = False
    return {
        "label": random_judge(FEATURES, label, seed=1),
        "parity": random_judge(FEATURES, parity, seed=2),
        "several": random_judge(FEATURES, several, seed=3, multi_label=True),
    }


def torch_embeddings(encoder):
    """Clip embeddings from transformers' ViT, and the activations that they hang on: per chunk and layer."""
    model, activations = reference_model(random_state(CONFIG, seed=4), CONFIG, 48), []

    def keep(_module, _inputs, output):
        output.retain_grad()
        activations.append(output)

    for layer in model.layers:
        layer.mlp.activation_fn.register_forward_hook(keep)
    pcm = jnp.asarray(np.stack([clip_samples(clip) for clip in range(CLIPS)]))
    spectrogram = np.asarray(encoder.front_end(encoder.variables, pcm))
    spectrogram = np.pad(spectrogram, ((0, 0), (0, 96 - spectrogram.shape[1]), (0, 0)))
    frames = []
    for start in (0, 48):
        image = torch.from_numpy(spectrogram[:, start : start + 48]).mT[:, None].contiguous()
        tokens = model(image.requires_grad_()).last_hidden_state[:, 1:]
        frames.append(tokens.reshape(CLIPS, 2, 3, 32).swapaxes(1, 2).reshape(CLIPS, 3, 64))
    return torch.cat(frames, dim=1).mean(dim=1), activations


def test_causal_map_is_pytorchs_activation_times_gradient(encoder, task, judges):
    result = causal_map(encoder, task, judges, SHAPE, devices=jax.devices()[:2])
    embeddings, activations = torch_embeddings(encoder)
    for name, judge in judges.items():
        head = {part: torch.from_numpy(np.asarray(value)) for part, value in vars(judge.head).items()}
        scaled = (embeddings[None] - head["mean"][:, None]) / torch.sqrt(head["variance"] + 1e-5)[:, None]
        logits = scaled @ head["kernel"] + head["bias"][:, None]
        wanted, clips = np.zeros((judge.members.shape[1], *SHAPE)), judge.members.sum(axis=0)
        left = judge.members.copy()
        while left.any():  # one class of each clip at a time: clips do not depend on each other
            index = left.argmax(axis=1)
            rows = np.flatnonzero(left.any(axis=1))
            margins = logits[:, rows, index[rows]].mean(dim=0)
            if not judge.multi_label:
                others = torch.from_numpy(np.eye(left.shape[1], dtype=bool)[index])
                margins = margins - logits.masked_fill(others[None], -torch.inf).max(dim=2).values.mean(dim=0)[rows]
            for activation in activations:
                activation.grad = None
            margins.sum().backward(retain_graph=True)
            by_layer = [(part.detach() * part.grad).sum(dim=1).numpy() for part in activations]
            gradients = np.stack(by_layer[:3], axis=1) + np.stack(by_layer[3:], axis=1)
            for clip in rows:
                wanted[index[clip]] -= gradients[clip] / clips[index[clip]]
                left[clip, index[clip]] = False
        assert_within("causal map against torch, relative", relative_error(result[name], wanted))


def test_causal_map_is_the_same_by_any_batches_and_devices(encoder, task, judges):
    reference = causal_map(encoder, task, judges, SHAPE, batch_size=1, devices=jax.devices()[:1])
    for batch_size, devices in ((7, 1), (2, 4)):
        result = causal_map(encoder, task, judges, SHAPE, batch_size=batch_size, devices=jax.devices()[:devices])
        for name in judges:
            assert_within("causal map by batch and devices, relative", relative_error(result[name], reference[name]))


def test_causal_map_predicts_the_effect_of_small_gains(encoder, task, judges):
    """Attenuated by a hundredth, a hundredth of the estimate."""
    estimate = causal_map(encoder, task, {"label": judges["label"]}, SHAPE)["label"].mean(axis=0)
    strongest = np.argsort(-np.abs(estimate), axis=None)[:6]
    places = [np.unravel_index(place, SHAPE) for place in strongest]
    edits = [Edit(np.array([layer]), np.array([neuron]), 0.99, np.zeros(1)) for layer, neuron in places]
    judged = judge_edits(encoder, task, {"label": judges["label"]}, edits, SHAPE)
    change = judged.after["label"].margin - judged.before["label"].margin
    members = judges["label"].members
    exact = np.mean([change[:, members[:, index]].mean(axis=1) for index in range(3)], axis=0) * 100
    assert_within(
        "hundredfold change of a hundredth against the map, relative", relative_error(exact, estimate.flat[strongest])
    )


def test_causal_map_leaves_out_clips_that_cannot_be_read(encoder, task, judges):
    kept = task.rows([clip for clip in range(CLIPS) if clip != 2])
    fewer = {name: dataclasses.replace(judge, members=np.delete(judge.members, 2, 0)) for name, judge in judges.items()}
    wanted = causal_map(encoder, kept, fewer, SHAPE)
    (task.data / "2.wav").write_bytes(b"no audio")
    result = causal_map(encoder, task, judges, SHAPE)
    for name in judges:
        assert_within("causal map by batch and devices, relative", relative_error(result[name], wanted[name]))


def test_check_map_compares_with_silencing_one_by_one(encoder, task, judges):
    passes = []
    check = check_map(encoder, task, judges, SHAPE, 5, clips=4, progress=passes.append)
    assert check.columns.tolist() == [
        "label_set", "layer", "neurons", "clips", "rank_correlation", "exact_sd", "estimate_sd",
    ]  # fmt: skip
    assert check["label_set"].tolist() == ["label"] * 3 + ["parity"] * 3 + ["several"] * 3
    assert check["layer"].tolist() == [0, 1, 2] * 3
    assert set(check["neurons"]) == {5}
    assert set(check["clips"]) == {4}
    assert passes[-1] == 3 * 5 * 4
    assert check["rank_correlation"].between(-1, 1).all()
    last = check[check["layer"] == 2]
    assert (last["rank_correlation"] > 0.9).all()  # only a LayerNorm lies between the last layer and the heads
    ratio = last["exact_sd"] / last["estimate_sd"]
    assert ratio.between(0.5, 2).all()


def test_spearman_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(5):
        one, other = rng.integers(0, 6, 30).astype(float), rng.integers(0, 6, 30).astype(float)
        assert spearman(one, other) == pytest.approx(scipy.stats.spearmanr(one, other).statistic)
    assert spearman(np.array([1.0, np.nan, 3.0, 2.0]), np.array([1.0, 9.0, 3.0, 2.0])) == pytest.approx(1)
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_causal_map_needs_a_positive_batch_size(encoder, task, judges):
    with pytest.raises(InputError, match="batch_size must be positive, got 0"):
        causal_map(encoder, task, judges, SHAPE, batch_size=0)


def test_measure_activity_by_hand(encoder, task):
    """Every activation kept, in plain numpy; one clip that cannot be read."""
    (task.data / "5.wav").write_bytes(b"")
    result = measure_activity(encoder, task, batch_size=2)
    pcm = jnp.asarray(np.stack([clip_samples(clip) for clip in range(CLIPS) if clip != 5]))
    _, kept = encoder.module.apply(
        {"params": encoder.variables["params"]}, encoder.front_end(encoder.variables, pcm),
        capture_intermediates=lambda module, _: module.name == "act", mutable=["intermediates"],
    )  # fmt: skip
    for layer in range(3):
        calls = kept["intermediates"][f"blocks_{layer}"]["mlp"]["act"]["__call__"]
        every = np.concatenate([np.asarray(call, np.float64).reshape(-1, CONFIG.mlp) for call in calls])
        kernel = np.asarray(encoder.variables["params"][f"blocks_{layer}"]["mlp"]["fc2"]["kernel"], np.float64)
        impact = np.abs(every).mean(axis=0) * np.sqrt(np.square(kernel).sum(axis=1))
        np.testing.assert_allclose(result.rate[layer], (every > 0).mean(axis=0), rtol=1e-9)
        assert_within("impact by hand, relative", relative_error(result.impact[layer], impact))
