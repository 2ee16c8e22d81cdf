"""The ViT and M2D's use of it, against transformers' ViT and against plain loops."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tolerances import assert_within, relative_error
from torch_reference import Reference, encoder_of, random_state, reference_chunk, reference_chunks

from jaxdissect import InputError, ViTConfig, untrained_m2d, vit_config
from jaxdissect.encoder.families import blocks
from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.encoder.families.vit import ViT, chunk_frames, clip_embedding, frame_embeddings

SMALL = {"width": 64, "depth": 2, "heads": 4, "mlp": 128}
CONFIGS = {
    "80x208p16x16": ViTConfig(80, 208, 16, 16, **SMALL),
    "80x608p16x16": ViTConfig(80, 608, 16, 16, **SMALL),
    "80x608p80x2": ViTConfig(80, 608, 80, 2, **SMALL),
    "80x1001p16x16": ViTConfig(80, 1001, 16, 16, **SMALL),
}


@pytest.fixture(scope="module")
def models():
    """For each size: its random weights, and the package's encoder with them."""
    states = {name: random_state(config) for name, config in CONFIGS.items()}
    return {name: (states[name], encoder_of(states[name], config)) for name, config in CONFIGS.items()}


def noise(clips: int, frames: int, bands: int = 80, seed: int = 0) -> np.ndarray:
    """A normalised spectrogram."""
    return np.random.default_rng(seed).normal(size=(clips, frames, bands)).astype(np.float32)


@partial(jax.jit, static_argnames="module")
def apply(module: ViT, params: dict, spectrogram: jax.Array) -> tuple:
    return module.apply(
        {"params": params},
        spectrogram,
        capture_intermediates=lambda submodule, _: submodule.name == "act",
        mutable=["intermediates"],
    )


def run(encoder: M2D, spectrogram: np.ndarray) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """The output of every call, and the neurons of every layer and call."""
    output, captured = apply(encoder.module, encoder.variables["params"], spectrogram)
    layers = [
        captured["intermediates"][f"blocks_{layer}"]["mlp"]["act"]["__call__"] for layer in range(encoder.config.depth)
    ]
    return [np.asarray(part, np.float32) for part in output], [[np.asarray(p, np.float32) for p in c] for c in layers]


def in_time_order(parts: list[np.ndarray]) -> list[np.ndarray]:
    """(clip, chunk, token, feature) of every call -> (clip, token, feature) of every chunk."""
    return [part[:, chunk] for part in parts for chunk in range(part.shape[1])]


def assert_parity(encoder: M2D, spectrogram: np.ndarray, chunks: list[Reference]) -> None:
    tokens, neurons = run(encoder, spectrogram)
    for found, reference in zip(in_time_order(tokens), chunks, strict=True):
        assert_within("tokens against torch, relative", relative_error(found, reference.tokens))
    for layer, calls in enumerate(neurons):
        for found, reference in zip(in_time_order(calls), chunks, strict=True):
            assert_within("neurons against torch, relative", relative_error(found, reference.neurons[layer]))


@pytest.mark.parametrize("name", CONFIGS)
def test_vit_has_parity_with_torch_at_its_width(models, name):
    state, encoder = models[name]
    config = encoder.config
    spectrogram = noise(2, config.frames)
    whole = config.grid[1] * config.patch_frames
    assert_parity(encoder, spectrogram, [reference_chunk(state, config, spectrogram[:, :whole])])


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("80x208p16x16", 1),
        ("80x208p16x16", 16),
        ("80x208p16x16", 101),
        ("80x608p16x16", 501),
        ("80x608p80x2", 501),
        ("80x1001p16x16", 501),
    ],
)
def test_vit_takes_the_first_time_columns_of_short_inputs(models, name, frames):
    state, encoder = models[name]
    spectrogram = noise(2, frames)
    missing = -frames % encoder.config.patch_frames
    padded = np.pad(spectrogram, ((0, 0), (0, missing), (0, 0)))
    assert_parity(encoder, spectrogram, [reference_chunk(state, encoder.config, padded)])


@pytest.mark.parametrize(
    ("name", "frames", "chunks"),
    [
        ("80x208p16x16", 209, 2),
        ("80x208p16x16", 416, 2),
        ("80x608p16x16", 3001, 5),
        ("80x608p80x2", 1217, 3),
        ("80x1001p16x16", 993, 1),
        ("80x1001p16x16", 1002, 2),
        ("80x1001p16x16", 3001, 3),
    ],
)
def test_vit_cuts_long_inputs_into_chunks(models, name, frames, chunks):
    state, encoder = models[name]
    spectrogram = noise(2, frames)
    alone = reference_chunks(state, encoder.config, spectrogram)
    assert len(alone) == chunks
    assert_parity(encoder, spectrogram, alone)


def test_vit_makes_160_patches_of_a_five_second_clip(models):
    _, encoder = models["80x608p16x16"]
    assert chunk_frames(501, encoder.config) == (0, 512)
    spectrogram = noise(2, 501)
    (tokens,), _ = run(encoder, spectrogram)
    assert tokens.shape == (2, 1, 1 + 160, 64)
    (padded,), _ = run(encoder, np.pad(spectrogram, ((0, 0), (0, 11), (0, 0))))
    np.testing.assert_array_equal(tokens, padded)


def test_vit_makes_five_chunks_of_a_thirty_second_clip(models):
    _, encoder = models["80x608p16x16"]
    assert chunk_frames(3001, encoder.config) == (4, 576)
    (full, last), _ = run(encoder, noise(2, 3001))
    assert full.shape == (2, 4, 1 + 190, 64)
    assert last.shape == (2, 1, 1 + 180, 64)


def test_vit_drops_the_frames_after_the_last_whole_patch_of_a_full_chunk(models):
    _, encoder = models["80x1001p16x16"]
    spectrogram = noise(1, 2002)
    (tokens,), _ = run(encoder, spectrogram)
    assert tokens.shape == (1, 2, 1 + 5 * 62, 64)
    changed = spectrogram.copy()
    changed[:, 992:1001] += 10
    changed[:, 1993:] += 10
    np.testing.assert_array_equal(run(encoder, changed)[0][0], tokens)
    changed[:, 991] += 1
    assert (run(encoder, changed)[0][0][:, 0] != tokens[:, 0]).any()


@pytest.mark.parametrize(("name", "frames"), [("80x208p16x16", 501), ("80x608p80x2", 1217)])
def test_vit_chunk_does_not_depend_on_its_neighbours(models, name, frames):
    _, encoder = models[name]
    spectrogram = noise(2, frames)
    together = in_time_order(run(encoder, spectrogram)[0])
    width = encoder.config.frames
    for number, chunk in enumerate(together):
        (alone,), _ = run(encoder, spectrogram[:, number * width : (number + 1) * width])
        assert_within("tokens of a chunk in a batch against alone, relative", relative_error(chunk, alone[:, 0]))


@pytest.mark.parametrize("width", [16, 208, 304, 608, 1001, 1002])
@pytest.mark.parametrize("patch", [1, 2, 16])
def test_chunk_frames_of_every_length(width, patch):
    config = ViTConfig(80, width, 80, patch, **SMALL)
    for frames in range(1, 2001):
        full, last = chunk_frames(frames, config)
        assert full * width + last >= frames, "something is left out"
        assert full * width + last < frames + patch, "more is padded than a patch"
        assert last % patch == 0, "the last chunk is no whole number of patches"
        assert 0 <= last < width, "a chunk is wider than the model"
        assert full or last


@pytest.mark.parametrize(("name", "frames"), [("80x608p16x16", 501), ("80x208p16x16", 501), ("80x608p80x2", 1217)])
def test_frame_embeddings_and_clip_embedding_match_a_loop(models, name, frames):
    """`rearrange(x, "b (f t) d -> b t (f d)")` of the patches, chunks in time order, then the mean over time."""
    _, encoder = models[name]
    config = encoder.config
    output, _ = run(encoder, noise(2, frames))
    rows = []
    for chunk in in_time_order(output):
        columns = (chunk.shape[1] - 1) // config.grid[0]
        bands = [chunk[:, 1 + band * columns : 1 + (band + 1) * columns] for band in range(config.grid[0])]
        rows += [np.concatenate([band[:, column] for band in bands], axis=-1) for column in range(columns)]
    by_hand = np.stack(rows, axis=1)
    tokens = tuple(jnp.asarray(part) for part in output)
    np.testing.assert_array_equal(frame_embeddings(tokens, config), by_hand)
    np.testing.assert_array_equal(encoder.embed_frames(tokens), by_hand)
    assert by_hand.shape == (2, -(-frames // config.patch_frames), config.grid[0] * config.width)
    mean = by_hand.astype(np.float64).mean(axis=1)
    assert_within("embedding against numpy, relative", relative_error(clip_embedding(tokens, config), mean))
    assert_within("embedding against numpy, relative", relative_error(encoder.embed(tokens), mean))


def test_clip_embedding_has_the_published_size():
    config = vit_config("base")
    tokens = (jax.ShapeDtypeStruct((1, 1, 161, 768), jnp.float32),)
    assert jax.eval_shape(lambda tokens: clip_embedding(tokens, config), tokens).shape == (1, 3840)
    assert config.depth * config.mlp == 36864


def slow_layout(encoder: M2D, samples: int) -> list[list[tuple[bool, int, int]]]:
    """(is_patch, start, stop) of the tokens of every chunk, in the order of the encoder's sequence."""
    config, hop = encoder.config, encoder.log_mel.hop
    frames, chunks = 1 + samples // hop, []
    for first in range(0, frames, config.frames):
        columns = min(-(-(frames - first) // config.patch_frames), config.frames // config.patch_frames)
        tokens = [(False, 0, 0)]
        for _ in range(config.bands // config.patch_bands):
            for column in range(columns):
                start = (first + column * config.patch_frames) * hop
                tokens.append((True, start, start + config.patch_frames * hop))
        chunks.append(tokens)
    return chunks


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("samples", [201, 15999, 16000, 80000, 96999, 97120, 160000, 160160, 480000])
def test_token_layout_matches_a_loop(models, name, samples):
    _, encoder = models[name]
    layout = encoder.token_layout(samples)
    found = [
        list(zip(part.is_patch[chunk].tolist(), part.start[chunk].tolist(), part.stop[chunk].tolist(), strict=True))
        for part in layout
        for chunk in range(len(part.start))
    ]
    assert found == slow_layout(encoder, samples)
    output = jax.eval_shape(
        lambda variables, pcm: encoder.module.apply(variables, encoder.front_end(variables, pcm)),
        encoder.variables,
        jax.ShapeDtypeStruct((1, samples), jnp.float32),
    )
    assert [part.is_patch.shape for part in layout] == [part.shape[1:3] for part in output]


def test_vit_neurons_are_captured_per_block(models):
    _, encoder = models["80x208p16x16"]
    capture_all = partial(encoder.module.apply, capture_intermediates=True, mutable=["intermediates"])
    _, captured = jax.jit(capture_all)({"params": encoder.variables["params"]}, noise(1, 300))
    paths = {"/".join(path[:-1]): calls for path, calls in flatten_dict(captured["intermediates"]).items()}
    acts = {path: calls for path, calls in paths.items() if path.endswith("act")}
    assert list(acts) == [f"blocks_{layer}/mlp/act" for layer in range(2)]
    assert all([call.shape for call in calls] == [(1, 1, 66, 128), (1, 1, 31, 128)] for calls in acts.values())


def test_front_end_normalises_by_the_checkpoints_statistics(models):
    _, encoder = models["80x208p16x16"]
    variables = encoder.variables | {
        "front_end": encoder.variables["front_end"] | {"norm_stats": np.array([-3.0, 2.0], np.float32)}
    }
    silence = jnp.zeros((1, 1600))
    expected = (np.log(np.finfo(np.float32).eps) + 3.0) / 2.0
    np.testing.assert_allclose(encoder.front_end(variables, silence), np.full((1, 11, 80), expected), rtol=1e-6)


def test_qkv_by_three_products_is_that_by_one():
    """The form for CUDA, run here; whole numbers add up exactly."""
    rng = np.random.default_rng(0)
    x, kernel, bias = (jnp.asarray(rng.integers(-4, 5, shape), jnp.float32) for shape in ((2, 5, 7, 6), (6, 18), (18,)))
    one, three = blocks._one_product(x, kernel, bias), blocks._three_products(x, kernel, bias)
    for found, expected in zip(three, one, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.shape == x.shape
    mapped = jax.vmap(lambda x: blocks._three_products(x, kernel, bias))(x)
    np.testing.assert_array_equal(mapped[2], blocks._one_product(x, kernel, bias)[2])


def test_m2d_device_variables_cast_kernels_and_nothing_else():
    config = ViTConfig(frames=32, width=32, depth=1, heads=2, mlp=64)
    encoder = dataclasses.replace(untrained_m2d(config), dtype=jnp.bfloat16)
    spectrogram = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 80)), jnp.float32)
    variables = {"params": encoder.device_variables["params"]}
    types = {path[-1].key: leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    assert {name for name, kind in types.items() if kind == jnp.bfloat16} == {"kernel"}
    with jax.numpy_dtype_promotion("standard"):  # Flax's layers mix types
        cast_ahead, cast_inside = (
            encoder.module.apply({"params": given["params"]}, spectrogram) for given in (variables, encoder.variables)
        )
    np.testing.assert_array_equal(*(np.asarray(part[0], np.float32) for part in (cast_ahead, cast_inside)))


def test_vit_in_bfloat16_stays_near(models):
    _, encoder = models["80x208p16x16"]
    half, spectrogram = dataclasses.replace(encoder, dtype=jnp.bfloat16), noise(2, 501)
    with jax.numpy_dtype_promotion("standard"):  # Flax's own LayerNorm promotes bfloat16 to float32
        output, _ = apply(half.module, half.variables["params"], spectrogram)
        near, near_neurons = run(half, spectrogram)
    assert [part.dtype for part in output] == [jnp.bfloat16] * 2
    tokens, neurons = run(encoder, spectrogram)
    for exact, rounded in zip(tokens, near, strict=True):
        error = relative_error(rounded, exact)
        assert error > 1e-4, "this is float32"
        assert_within("tokens in bfloat16 against float32, relative", error)
    for layer, near_layer in zip(neurons, near_neurons, strict=True):
        for exact, rounded in zip(layer, near_layer, strict=True):
            assert_within("neurons in bfloat16 against float32, relative", relative_error(rounded, exact))
    embedding = encoder.embed(tuple(jnp.asarray(part) for part in tokens))
    rounded = half.embed(output).astype(jnp.float32)
    assert_within("embedding in bfloat16 against float32, relative", relative_error(rounded, embedding))


@pytest.mark.parametrize(
    ("size", "width", "depth", "heads", "mlp"),
    [
        ("tiny", 192, 12, 3, 768),
        ("small", 384, 12, 6, 1536),
        ("base", 768, 12, 12, 3072),
        ("large", 1024, 24, 16, 4096),
    ],
)
def test_vit_config_of_named_sizes(size, width, depth, heads, mlp):
    assert vit_config(size) == ViTConfig(80, 608, 16, 16, width, depth, heads, mlp)


def test_vit_config_changes_a_named_size():
    config = vit_config("tiny", frames=208, patch_bands=80, patch_frames=2, depth=2)
    assert config == ViTConfig(80, 208, 80, 2, 192, 2, 3, 768)
    assert config.grid == (1, 104)


def test_vit_config_refuses_an_unknown_size():
    with pytest.raises(InputError, match="'huge'; known: tiny, small, base, large"):
        vit_config("huge")


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        ({"depth": 0}, "positive sizes"),
        ({"heads": 0}, "positive sizes"),
        ({"patch_frames": 0}, "positive sizes"),
        ({"mlp": -1}, "positive sizes"),
        ({"width": 100, "heads": 3}, "multiple of the heads, got 100 and 3"),
        ({"patch_bands": 32}, "multiple of the patch's bands"),
        ({"bands": 64, "patch_bands": 80}, "multiple of the patch's bands"),
        ({"frames": 15}, "at least the patch's frames"),
    ],
    ids=str,
)
def test_vit_config_refuses_sizes_that_make_no_vit(sizes, rule):
    with pytest.raises(InputError, match=rule):
        ViTConfig(**sizes)


def test_vit_refuses_a_spectrogram_of_other_bands(models):
    _, encoder = models["80x208p16x16"]
    with pytest.raises(InputError, match="takes 80 mel bands, got 64"):
        encoder.module.apply({"params": encoder.variables["params"]}, jnp.asarray(noise(1, 100, bands=64)))


def test_m2d_front_end_must_fit_the_vit(models):
    _, encoder = models["80x208p16x16"]
    with pytest.raises(InputError, match=r"bands must be the ViT's, got 80 and 64"):
        dataclasses.replace(encoder, config=ViTConfig(64, 208, 16, 16, **SMALL))


def test_untrained_m2d_is_seeded():
    config = ViTConfig(80, 32, 80, 16, width=8, depth=1, heads=1, mlp=8)
    one, same, other = (untrained_m2d(config, seed=seed) for seed in (0, 0, 1))
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(same.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.variables["params"]["pos_embed"] != other.variables["params"]["pos_embed"]).any()
    np.testing.assert_array_equal(one.variables["front_end"]["norm_stats"], np.array([-7.1, 4.2], np.float32))
