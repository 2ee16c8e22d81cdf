"""The three training objectives against PyTorch with the same weights, and what each promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from programs import all_that_is_traced
from tolerances import assert_within, relative_error

from benchmarks.speed import torch_training
from jaxdissect import InputError, ViTConfig, untrained_m2d
from jaxdissect.encoder.families.vit import ViT, split_patches
from jaxdissect.training.fit import COLLAPSED
from jaxdissect.training.m2d import MaskedModelingDuo, over_batch, spread, unit
from jaxdissect.training.masked_prediction import standardised
from jaxdissect.training.masking import Decoder, chosen, decoder_config, random_mask, sin_cos_positions, visible_patches
from jaxdissect.training.msm_mae import MSMMAE
from jaxdissect.training.objective import encode_patches, is_weight, shown_positions, spectrogram_patches
from jaxdissect.training.supervised import Supervised, masked_stripes, mixed

CONFIG = ViTConfig(frames=64, width=32, depth=2, heads=2, mlp=64)  # 5 x 4 patches
SAMPLES = 63 * 160
CLIPS = 3


@pytest.fixture(scope="module")
def encoder():
    return untrained_m2d(CONFIG)


@pytest.fixture(scope="module")
def pcm():
    return jax.random.normal(jax.random.key(7), (CLIPS, SAMPLES)) * 0.1


def objectives(encoder):
    return {
        "msm_mae": MSMMAE(encoder, decoder_width=32, decoder_depth=2),
        "msm_mae, standardised": MSMMAE(encoder, decoder_width=32, decoder_depth=2, standardise_patches=True),
        "m2d": MaskedModelingDuo(encoder, decoder_width=32, decoder_depth=2),
        "supervised": Supervised(encoder, classes=4, mixup=0.0, stripes=0),
    }


PARAMS, GRADIENTS = {}, {}


def params_of(objective):
    """Random parameters, the same for objectives of one loss."""
    key = all_that_is_traced(objective)
    if key not in PARAMS:
        PARAMS[key] = jax.jit(objective.init)(jax.random.key(0))
    return PARAMS[key]


def gradients_of(objective):
    """One program for all objectives of one loss: `((loss, metrics), gradients)`."""
    key = all_that_is_traced(objective)
    if key not in GRADIENTS:
        GRADIENTS[key] = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    return GRADIENTS[key]


def randomised(params, seed):
    """Parameters of which none keeps a default such as zero or one."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten(
        [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


def torch_batch(encoder, pcm, key, members):
    """What PyTorch is shown: the same spectrogram, the same mask."""
    spectrogram = np.asarray(encoder.front_end(encoder.variables, pcm))
    patches = CONFIG.grid[0] * CONFIG.grid[1]
    visible, masked = (torch.from_numpy(np.array(part, np.int64)) for part in random_mask(key, len(pcm), patches, 0.7))
    labels = torch.from_numpy(np.asarray(members).argmax(axis=1))
    return torch_training.Batch(torch.from_numpy(spectrogram.swapaxes(1, 2).copy())[:, None], visible, masked, labels)


def torch_module(name, objective):
    if name == "supervised":
        return torch_training.Supervised(CONFIG, 4)
    decoder = decoder_config(CONFIG, 32, 2)
    if name == "m2d":
        return torch_training.M2D(CONFIG, decoder)
    return torch_training.MSMMAE(CONFIG, decoder, objective.standardise_patches)


@pytest.mark.parametrize("name", ["msm_mae", "msm_mae, standardised", "m2d", "supervised"])
def test_objective_loss_and_gradients_equal_pytorchs(name, encoder, pcm):
    objective = objectives(encoder)[name]
    members = jnp.eye(4, dtype=bool)[jnp.array([2, 0, 3])]
    key = jax.random.key(3)
    params = randomised(params_of(objective), 1)
    target = {} if objective.ema is None else params["encoder"]
    (loss, _), gradients = gradients_of(objective)(params, target, pcm, members, key)

    module = torch_module(name, objective)
    torch_training.load_params(module, jax.device_get(params))
    torch_loss = module(torch_batch(encoder, pcm, key, members))
    torch_loss.backward()
    assert_within("loss against torch, relative", relative_error(loss, torch_loss.item()))

    theirs = torch_module(name, objective)
    torch_training.load_params(theirs, jax.device_get(gradients))  # the gradients in PyTorch's layout
    compared = 0
    for (path, parameter), wanted in zip(module.named_parameters(), theirs.parameters(), strict=True):
        if path.startswith("target.") or "pos_embed" in path:
            continue
        error = (parameter.grad - wanted).abs().max() / max(parameter.grad.abs().max(), 1e-3)
        assert_within("gradient against torch, relative", error.item())
        compared += 1
    assert compared == len(jax.tree.leaves(params)) - 1


@pytest.mark.parametrize("name", ["msm_mae", "m2d", "supervised"])
def test_objective_computes_in_bfloat16_and_keeps_float32_parameters(name, encoder, pcm):
    half = dataclasses.replace(encoder, dtype=jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):  # flax's own LayerNorm mixes types
        compare_precisions(name, encoder, half, pcm)


def compare_precisions(name, encoder, half, pcm):
    members, key = jnp.eye(4, dtype=bool)[jnp.array([2, 0, 3])], jax.random.key(3)
    found = []
    for one in (encoder, half):
        objective = objectives(one)[name]
        params = params_of(objective)
        target = {} if objective.ema is None else params["encoder"]
        found.append(gradients_of(objective)(params, target, pcm, members, key))
    ((whole, _), exact), ((rounded, _), gradients) = found
    assert rounded.dtype == jnp.float32
    assert_within("loss in bfloat16, relative", relative_error(rounded, whole))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))
    norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(exact)))
    apart = jnp.sqrt(
        sum(jnp.square(a - b).sum() for a, b in zip(*map(jax.tree.leaves, (exact, gradients)), strict=True))
    )
    assert_within("gradient in bfloat16, relative", float(apart / norm))


def test_random_mask_parts_the_patches_and_differs_from_clip_to_clip():
    visible, masked = random_mask(jax.random.key(0), 100, 20, 0.7)
    assert visible.shape == (100, 6)
    assert (np.sort(np.concatenate([visible, masked], axis=1)) == np.arange(20)).all()
    assert len({tuple(row) for row in np.sort(visible).tolist()}) > 90
    share = np.bincount(np.asarray(visible).ravel(), minlength=20) / 100
    assert np.abs(share - 0.3).max() < 4 * np.sqrt(0.3 * 0.7 / 100)


@pytest.mark.parametrize(("patches", "ratio"), [(20, 0.99), (20, 0.01), (1, 0.5)])
def test_random_mask_needs_patches_on_both_sides(patches, ratio):
    with pytest.raises(InputError, match=r"--mask-ratio .* at least one must stay visible"):
        visible_patches(patches, ratio)


def test_sin_cos_positions_are_the_textbooks():
    table = sin_cos_positions((3, 4), 16)
    assert table.shape == (13, 16)
    assert not table[0].any()
    for band in range(3):
        for frame in range(4):
            row = table[1 + 4 * band + frame]
            rates = [10000 ** (-i / 4) for i in range(4)]
            wanted = [
                f(p * r) for p, f in ((frame, np.sin), (frame, np.cos), (band, np.sin), (band, np.cos)) for r in rates
            ]
            np.testing.assert_allclose(row, wanted, atol=1e-7)
    with pytest.raises(InputError, match="divisible by 4, got 6"):
        sin_cos_positions((3, 4), 6)


def test_encode_patches_of_all_patches_is_the_encoders_own_pass(encoder, pcm):
    patches = spectrogram_patches(encoder, pcm)
    index = jnp.broadcast_to(shown_positions(encoder, 20)[None], (CLIPS, 20))
    (whole,) = encoder.module.apply(encoder.variables, encoder.front_end(encoder.variables, pcm))
    some = encode_patches(encoder, encoder.variables["params"], patches, index)
    assert_within("tokens of chosen patches against the encoder's pass, relative", relative_error(some, whole[:, 0]))


def test_shown_positions_of_a_short_crop_are_the_first_time_columns(encoder):
    assert shown_positions(encoder, 10).tolist() == [0, 1, 4, 5, 8, 9, 12, 13, 16, 17]


def test_decoder_gives_each_masked_patch_its_answer_whatever_the_order(encoder):
    config = decoder_config(CONFIG, 32, 1)
    decoder = Decoder(config, 7)
    tokens = jax.random.normal(jax.random.key(0), (1, 5, 32))
    visible, masked = jnp.array([[3, 9, 0, 17]]), jnp.array([[1, 2, 19]])
    params = decoder.init(jax.random.key(1), tokens, visible, masked)
    answer = decoder.apply(params, tokens, visible, masked)
    swapped = decoder.apply(
        params, tokens[:, jnp.array([0, 3, 1, 4, 2])], visible[:, jnp.array([2, 0, 3, 1])], masked[:, ::-1]
    )
    assert_within("answers in another order, relative", relative_error(swapped[:, ::-1], answer))
    assert not np.allclose(answer[0, 0], answer[0, 1])


def test_m2d_sides_do_not_see_each_others_patches(encoder):
    """Predictions have no gradient by the masked patches, targets none by the visible ones."""
    objective = objectives(encoder)["m2d"]
    params = params_of(objective)
    patches = jax.random.normal(jax.random.key(1), (CLIPS, 20, 256))
    visible, masked = random_mask(jax.random.key(5), CLIPS, 20, 0.7)

    def predicted(patches):
        tokens = encode_patches(encoder, params["encoder"], chosen(patches, visible), visible)
        return objective.decoder.apply({"params": params["decoder"]}, tokens, visible, masked)

    def targets(patches):
        return encode_patches(encoder, params["encoder"], chosen(patches, masked), masked)

    for side, seen, hidden in ((predicted, visible, masked), (targets, masked, visible)):
        gradient = jax.jit(jax.grad(lambda patches, side=side: jnp.square(side(patches)).sum()))(patches)
        assert not chosen(gradient, hidden).any()
        assert jnp.abs(chosen(gradient, seen)).max() > 1e-6


def test_m2d_loss_predicts_from_the_visible_and_compares_with_the_masked(encoder, pcm):
    objective = objectives(encoder)["m2d"]
    params = params_of(objective)
    answers = objective.answers(params, pcm, jax.random.key(4))
    visible, masked = random_mask(jax.random.key(4), CLIPS, 20, 0.7)
    np.testing.assert_array_equal(answers.position, masked)
    np.testing.assert_array_equal(answers.patches, chosen(spectrogram_patches(encoder, pcm), masked))
    assert answers.predicted.shape == (CLIPS, 14, 32)
    assert visible.shape == (CLIPS, 6)


def test_m2d_gives_its_target_no_gradient(encoder, pcm):
    objective = objectives(encoder)["m2d"]
    params = params_of(objective)
    members = jnp.zeros((CLIPS, 0), bool)
    of_target = jax.grad(lambda target: objective.loss(params, target, pcm, members, jax.random.key(1))[0])(
        params["encoder"]
    )
    assert all(not leaf.any() for leaf in jax.tree.leaves(of_target))


def test_m2d_targets_may_be_standardised_over_the_batch(encoder, pcm):
    objective = dataclasses.replace(objectives(encoder)["m2d"], standardise="batch")
    params, key = params_of(objective), jax.random.key(4)
    answers = objective.answers(params, pcm, key)
    tokens = np.asarray(
        encode_patches(encoder, params["encoder"], answers.patches, answers.position)[:, 1:], np.float64
    )
    wanted = (tokens - tokens.mean(axis=(0, 1))) / np.sqrt(tokens.var(axis=(0, 1)) + 1e-6)
    cosine = (np.asarray(unit(answers.predicted)) * wanted / np.linalg.norm(wanted, axis=-1, keepdims=True)).sum(
        axis=-1
    )
    loss, _ = objective.loss(params, params["encoder"], pcm, jnp.zeros((CLIPS, 0), bool), key)
    assert_within("M2D's loss by the batch, relative", relative_error(loss, (2 - 2 * cosine).mean()))


def test_spread_shows_an_encoder_that_has_stopped_to_listen(encoder, pcm):
    objective = objectives(encoder)["m2d"]
    params = params_of(objective)
    members = jnp.zeros((CLIPS, 0), bool)
    deaf = params["encoder"] | {"patch_embed": jax.tree.map(jnp.zeros_like, params["encoder"]["patch_embed"])}
    found = [
        float(gradients_of(objective)(params, target, pcm, members, jax.random.key(1))[0][1]["spread"])
        for target in (params["encoder"], deaf)  # the positions of both are as they were
    ]
    assert found[1] < COLLAPSED < found[0]


def test_spread_by_a_loop():
    rng = np.random.default_rng(0)
    vectors, position = rng.normal(size=(6, 4, 9)), np.stack([rng.permutation(7)[:4] for _ in range(6)])
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    total, count = 0.0, 0
    for place in range(7):
        there = vectors[position == place]
        if len(there) > 1:
            total += np.square(there - there.mean(axis=0)).sum() * len(there) / (len(there) - 1)
            count += len(there)
    found = spread(jnp.asarray(vectors, jnp.float32), jnp.asarray(position), 7)
    assert_within("spread by a loop, relative", relative_error(found, np.sqrt(total / count)))
    many = jax.random.normal(jax.random.key(0), (500, 3, 64))
    many = unit(many)
    assert float(spread(many, jnp.tile(jnp.arange(3)[None], (500, 1)), 3)) == pytest.approx(1, abs=0.01)


def test_m2d_loss_is_two_minus_twice_the_cosine():
    one, two = jax.random.normal(jax.random.key(0), (2, 4, 5, 8))
    cosine = (unit(one) * unit(two)).sum(axis=-1)
    np.testing.assert_allclose(jnp.square(unit(one) - unit(two)).sum(axis=-1), 2 - 2 * cosine, atol=1e-5)


def test_standardised_patches_and_batches():
    tokens = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 64))
    by_token, by_feature = standardised(tokens), over_batch(tokens)
    np.testing.assert_allclose(by_token.mean(axis=-1), 0, atol=1e-6)
    np.testing.assert_allclose(by_token.var(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(by_feature.mean(axis=(0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(by_feature.var(axis=(0, 1)), 1, atol=1e-5)
    assert np.isfinite(standardised(jnp.ones((1, 2, 3)))).all()


def test_objective_of_silence_has_finite_losses_and_gradients(encoder):
    for name, objective in objectives(encoder).items():
        params = params_of(objective)
        target = {} if objective.ema is None else params["encoder"]
        silence, members = jnp.zeros((CLIPS, SAMPLES)), jnp.ones((CLIPS, 4), bool)
        (loss, _), gradients = gradients_of(objective)(params, target, silence, members, jax.random.key(0))
        assert np.isfinite(loss), name
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients)), name


def test_objective_of_self_supervision_looks_at_no_labels(encoder, pcm):
    for name in ("m2d", "msm_mae"):
        objective = objectives(encoder)[name]
        params = params_of(objective)
        losses = {
            float(gradients_of(objective)(params, params["encoder"], pcm, members, jax.random.key(1))[0][0])
            for members in (jnp.zeros((CLIPS, 4), bool), jnp.ones((CLIPS, 4), bool), jnp.zeros((CLIPS, 0), bool))
        }
        assert len(losses) == 1


def test_supervised_loss_by_hand(encoder, pcm):
    members = jnp.array([[True, False], [False, True], [True, True]])
    objective = Supervised(encoder, classes=2, mixup=0.0, stripes=0)
    params = randomised(params_of(objective), 2)
    embedding = encoder.embed(
        encoder.module.apply({"params": params["encoder"]}, encoder.front_end(encoder.variables, pcm))
    )
    outputs = np.asarray(embedding, np.float64) @ np.asarray(params["head"]["kernel"], np.float64) + np.asarray(
        params["head"]["bias"]
    )
    share = np.asarray(members) / np.asarray(members).sum(axis=1, keepdims=True)
    log_probability = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
    loss, metrics = objective.loss(params, {}, pcm, members, jax.random.key(0))
    by_hand = -(share * log_probability).sum(axis=1).mean()
    assert_within("supervised loss by hand, relative", relative_error(loss, by_hand))
    hits = np.asarray(members)[np.arange(3), outputs.argmax(axis=1)]
    assert float(metrics["accuracy"]) == pytest.approx(hits.mean())
    several = dataclasses.replace(objective, multi_label=True)
    sigmoid = 1 / (1 + np.exp(-outputs))
    wanted = -np.where(members, np.log(sigmoid), np.log(1 - sigmoid)).mean()
    found, _ = several.loss(params, {}, pcm, members, jax.random.key(0))
    assert_within("supervised loss by hand, relative", relative_error(found, wanted))


def test_mixed_waveforms_have_labels_mixed_alike():
    pcm = jnp.eye(6)  # every clip is its own number
    members = jnp.eye(6, dtype=bool)
    waves, labels = mixed(jax.random.key(0), pcm, members, 0.5)
    np.testing.assert_allclose(waves, labels, atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    assert ((labels > 0).sum(axis=1) <= 2).all()
    assert (labels.max(axis=1) < 1).any()
    same, plain = mixed(jax.random.key(0), pcm, members, 0.0)
    np.testing.assert_array_equal(same, pcm)
    np.testing.assert_array_equal(plain, members)


def test_masked_stripes_cover_whole_rows_and_columns_and_no_more_than_asked():
    spectrogram = jnp.ones((200, 50, 40))
    masked = np.asarray(masked_stripes(jax.random.key(0), spectrogram, 2, 0.2)) == 0
    frames, bands = masked.all(axis=2), masked.all(axis=1)
    np.testing.assert_array_equal(masked, frames[:, :, None] | bands[:, None, :])
    assert 0 < frames.sum(axis=1).max() <= 2 * (0.2 * 50 + 1)
    assert 0 < bands.sum(axis=1).max() <= 2 * (0.2 * 40 + 1)
    assert frames.sum(axis=1).mean() == pytest.approx(2 * 0.1 * 50, rel=0.25)
    np.testing.assert_array_equal(masked_stripes(jax.random.key(0), spectrogram, 0, 0.2), spectrogram)


def test_is_weight_marks_kernels_only(encoder):
    params = params_of(objectives(encoder)["m2d"])
    decayed = {
        jax.tree_util.keystr(path) for path, yes in jax.tree_util.tree_leaves_with_path(is_weight(params)) if yes
    }
    assert decayed == {
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
        if jax.tree_util.keystr(path).endswith("['kernel']")
    }
    assert len(decayed) == 2 * 4 * 2 + 1 + 2


def test_objective_init_begins_where_it_is_told(encoder):
    start = randomised(encoder.variables["params"], 9)
    for objective in objectives(encoder).values():
        params = objective.init(jax.random.key(0), start)
        for one, other in zip(jax.tree.leaves(params["encoder"]), jax.tree.leaves(start), strict=True):
            np.testing.assert_array_equal(one, other)
        fresh = params_of(objective)["encoder"]["pos_embed"]
        np.testing.assert_allclose(fresh, sin_cos_positions(CONFIG.grid, CONFIG.width))


def test_spectrogram_patches_are_the_encoders(encoder, pcm):
    spectrogram = encoder.front_end(encoder.variables, pcm)
    np.testing.assert_array_equal(spectrogram_patches(encoder, pcm), split_patches(spectrogram[:, None], CONFIG)[:, 0])
    assert ViT(CONFIG).apply(encoder.variables, spectrogram)[0].shape == (CLIPS, 1, 21, 32)
