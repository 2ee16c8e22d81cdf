"""PyTorch checkpoints -> encoder directories -> encoders: every layout, every refusal, and nothing left behind."""

import argparse
import dataclasses
import gc
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tolerances import assert_within, relative_error
from torch_reference import random_state, reference_chunk

from jaxdissect import Encoder, InputError, ViTConfig, convert_checkpoint, load_encoder, save_encoder
from jaxdissect.audio.log_mel import m2d_front_end
from jaxdissect.encoder.convert.m2d import sizes_from_name
from jaxdissect.encoder.directory import fingerprint
from jaxdissect.encoder.families.m2d import M2D

NAME = "m2d_vit_tiny-80x96p16x16-random"
CONFIG = ViTConfig(80, 96, 16, 16, width=64, depth=2, heads=1, mlp=96)
FEATURES, CLASSES = 5 * 64, 7
BATCH_NORM_EPSILON = 1e-5  # torch's default, with which EVAR's heads are trained

State = dict[str, torch.Tensor]


def weights(**changes: Any) -> State:
    """An encoder's state dict with its own norm_stats."""
    return random_state(CONFIG) | {"norm_stats": torch.tensor([-6.5, 3.25])} | changes


def head() -> State:
    generator = torch.Generator().manual_seed(1)
    return {
        "module.head.norm.running_mean": torch.randn(FEATURES, generator=generator),
        "module.head.norm.running_var": 0.5 + torch.rand(FEATURES, generator=generator),
        "module.head.norm.num_batches_tracked": torch.tensor(1234),
        "module.head.mlp.mlp.0.weight": torch.randn(CLASSES, FEATURES, generator=generator),
        "module.head.mlp.mlp.0.bias": torch.randn(CLASSES, generator=generator),
    }


def training_parts() -> State:
    """What a pre-training checkpoint holds beside the encoder."""
    width = CONFIG.width
    shapes = {
        "mask_token": (1, 1, 32),
        "decoder_embed.weight": (32, width),
        "decoder_embed.bias": (32,),
        "decoder_pos_embed": (1, 31, 32),
        "decoder_blocks.0.attn.qkv.weight": (96, 32),
        "decoder_norm.weight": (32,),
        "decoder_pred.weight": (width, 32),
        "predictor.0.weight": (width, width),
        "target_blocks.0.attn.qkv.weight": (3 * width, width),
        "target_norm.weight": (width,),
        "target.cls_token": (1, 1, width),
        "target.blocks.1.norm1.bias": (width,),
    }
    return {key: torch.zeros(shape) for key, shape in shapes.items()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def full(state: State) -> dict[str, Any]:
    args = argparse.Namespace(model="m2d_vit_tiny", input_size=[80, 96], lr=3e-4, resume="", dist_url=None)
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 3e-4, "betas": (0.9, 0.95)}]}
    return {"model": state | training_parts(), "optimizer": optimizer, "epoch": 300, "scaler": {}, "args": args}


def evar(state: State) -> State:
    spectrogram = {"module.ar.runtime.to_spec.mel_basis": torch.zeros(80, 201)}
    return prefixed("module.ar.runtime.backbone.", state) | head() | spectrogram


LAYOUTS: dict[str, Callable[[State], dict[str, Any]]] = {
    "full": full,
    "encoder only": lambda state: state,
    "EVAR fine-tuned": evar,
    "backbone": lambda state: prefixed("backbone.", state),
}


@pytest.fixture
def convert(tmp_path):
    """Save a content as a checkpoint, and convert it to `tmp_path / "out"`."""

    def converted(content: Any, name: str | None = NAME, **options: Any) -> M2D:
        torch.save(content, tmp_path / "checkpoint.pth")
        return convert_checkpoint(tmp_path / "checkpoint.pth", tmp_path / "out", name, **options)

    return converted


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    """An encoder directory with a task head; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("saved")
    torch.save(evar(weights()), folder / "checkpoint.pth")
    convert_checkpoint(folder / "checkpoint.pth", folder / "encoder", NAME, licence="CC0")
    return folder / "encoder"


@pytest.fixture
def copy(saved, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(saved, tmp_path / "encoder"))


def leaves(encoder: Encoder) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.variables)
    }


def assert_same(one: Encoder, other: Encoder) -> None:
    """Bit for bit."""
    assert leaves(one).keys() == leaves(other).keys()
    for path, value in leaves(one).items():
        assert value.dtype == leaves(other)[path].dtype == np.float32
        assert value.tobytes() == leaves(other)[path].tobytes(), path


def assert_refused(convert: Callable, tmp_path: pathlib.Path, content: Any, match: str, **options: Any) -> None:
    with pytest.raises(InputError, match=match):
        convert(content, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"], "something is left behind"


def spectrogram(frames: int = CONFIG.frames) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(2, frames, CONFIG.bands)).astype(np.float32)


# What is accepted.


@pytest.mark.parametrize("layout", LAYOUTS)
def test_convert_checkpoint_gives_the_same_encoder_from_every_layout(layout, convert, tmp_path):
    state = weights()
    encoder = convert(LAYOUTS[layout](state))
    assert encoder.config == CONFIG
    assert encoder.log_mel == m2d_front_end(16000)
    assert encoder.name == NAME
    assert (encoder.variables.get("head") is not None) == (layout == "EVAR fine-tuned")
    params = encoder.variables["params"]
    np.testing.assert_array_equal(params["cls_token"], state["cls_token"][0, 0])
    np.testing.assert_array_equal(params["pos_embed"], state["pos_embed"][0])
    np.testing.assert_array_equal(params["blocks_1"]["attn"]["qkv"]["kernel"], state["blocks.1.attn.qkv.weight"].T)
    np.testing.assert_array_equal(params["blocks_0"]["norm2"]["scale"], state["blocks.0.norm2.weight"])
    np.testing.assert_array_equal(encoder.variables["front_end"]["norm_stats"], np.array([-6.5, 3.25], np.float32))
    torch.save(state, tmp_path / "plain.pth")
    plain = convert_checkpoint(tmp_path / "plain.pth", tmp_path / "plain", NAME)
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(plain.variables["params"]), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_convert_checkpoint_has_parity_with_torch(layout, convert, tmp_path):
    state = weights()
    convert(LAYOUTS[layout](state))
    encoder = load_encoder(tmp_path / "out")
    (tokens,) = jax.jit(encoder.module.apply)({"params": encoder.variables["params"]}, spectrogram())
    reference = reference_chunk(state, CONFIG, spectrogram())
    assert_within("tokens against torch, relative", relative_error(tokens[:, 0], reference.tokens))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_convert_checkpoint_without_norm_stats_takes_the_published_ones(layout, convert):
    state = weights()
    del state["norm_stats"]
    stats = convert(LAYOUTS[layout](state)).variables["front_end"]["norm_stats"]
    np.testing.assert_array_equal(stats, np.array([-7.1, 4.2], np.float32))


def test_convert_checkpoint_keeps_a_head_that_gives_torchs_logits(saved):
    encoder = load_encoder(saved)
    (tokens,) = jax.jit(encoder.module.apply)({"params": encoder.variables["params"]}, spectrogram(53))
    embedding = np.array(encoder.embed((tokens,)))
    norm, linear, state = (
        torch.nn.BatchNorm1d(FEATURES, affine=False).eval(),
        torch.nn.Linear(FEATURES, CLASSES),
        head(),
    )
    norm.load_state_dict({key.removeprefix("module.head.norm."): state[key] for key in state if "norm" in key})
    linear.load_state_dict({key.removeprefix("module.head.mlp.mlp.0."): state[key] for key in state if "mlp" in key})
    with torch.no_grad():
        reference = linear(norm(torch.from_numpy(embedding))).numpy()
    kept = {entry: np.asarray(value, np.float64) for entry, value in encoder.variables["head"].items()}
    standardised = (embedding - kept["mean"]) / np.sqrt(kept["variance"] + BATCH_NORM_EPSILON)
    assert_within(
        "head's logits against torch, relative", relative_error(standardised @ kept["kernel"] + kept["bias"], reference)
    )


def test_convert_checkpoint_reads_half_precision_and_the_old_file_format(tmp_path):
    state = weights()
    torch.save(
        {key: value.half() for key, value in state.items()}, tmp_path / "half.pth", _use_new_zipfile_serialization=False
    )
    encoder = convert_checkpoint(tmp_path / "half.pth", tmp_path / "out", NAME)
    np.testing.assert_array_equal(encoder.variables["params"]["pos_embed"], state["pos_embed"][0].half().float())


def test_convert_checkpoint_reads_a_parameter_on_a_gradient_tape(convert):
    assert convert({key: torch.nn.Parameter(value) for key, value in weights().items()}).config == CONFIG


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("m2d_vit_base-80x608p16x16-221006-mr7", (80, 608, 16, 16, 16000)),
        ("m2d_vit_base-80x608p16x16", (80, 608, 16, 16, 16000)),
        ("m2d_as_vit_base-80x1001p16x16p32k-240413_AS-FT_enconly", (80, 1001, 16, 16, 32000)),
        ("m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025", (80, 1001, 16, 16, 16000)),
        ("m2d_s_vit_base-80x608p80x2-230220", (80, 608, 80, 2, 16000)),
        ("m2d_vit_base-80x208p16x8_x", (80, 208, 16, 8, 16000)),
    ],
)
def test_sizes_from_name_reads_published_names(name, sizes):
    found = sizes_from_name(name)
    assert (found.bands, found.frames, found.patch_bands, found.patch_frames, found.sample_rate) == sizes


@pytest.mark.parametrize("name", ["m2d_vit_base", "80x608", "", "80x608p16x16p44k", "80x608p16", "80x608p16x16k"])
def test_sizes_from_name_refuses_names_without_sizes(name):
    with pytest.raises(InputError, match=r"carries no sizes such as 80x608p16x16: give a name that does"):
        sizes_from_name(name)


def test_convert_checkpoint_reads_p32k_as_32_khz(convert, tmp_path):
    encoder = convert(weights(), name="m2d_vit_tiny-80x96p16x16p32k-random")
    assert encoder.log_mel == load_encoder(tmp_path / "out").log_mel == m2d_front_end(32000)
    assert encoder.sample_rate == 32000


@pytest.mark.parametrize("file", [f"{NAME}.pth", f"{NAME}/checkpoint-300.pth"])
def test_convert_checkpoint_takes_the_name_of_the_file_or_its_folder(file, tmp_path, monkeypatch):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    torch.save(weights(), path)
    monkeypatch.chdir(path.parent)
    assert convert_checkpoint(path, tmp_path / "one").name == NAME
    assert convert_checkpoint(path.name, tmp_path / "two").name == NAME
    assert load_encoder(tmp_path / "two").name == NAME


def test_convert_checkpoint_takes_the_number_of_heads(convert):
    assert convert(weights(), heads=4).config.heads == 4


def test_save_encoder_and_load_encoder_are_bit_exact(saved, tmp_path):
    encoder = load_encoder(saved)
    save_encoder(encoder, tmp_path / "once more")
    again = load_encoder(tmp_path / "once more")
    assert_same(encoder, again)
    assert (again.name, again.config, again.log_mel, again.source) == (
        encoder.name,
        encoder.config,
        encoder.log_mel,
        encoder.source,
    )
    assert fingerprint(again) == fingerprint(encoder)


def test_convert_checkpoint_returns_what_it_saves(convert, tmp_path):
    encoder = convert(evar(weights()), licence="CC BY 4.0")
    again = load_encoder(tmp_path / "out")
    assert_same(encoder, again)
    assert fingerprint(again) == fingerprint(encoder)
    assert again.source == encoder.source
    assert again.source["licence"] == "CC BY 4.0"


def test_convert_checkpoint_returns_an_encoder_that_runs(convert):
    encoder = convert(weights())
    pcm = jnp.zeros((1, 1600))
    output = encoder.module.apply(encoder.variables, encoder.front_end(encoder.variables, pcm))
    assert encoder.embed(output).shape == (1, FEATURES)


def test_save_encoder_writes_the_description(saved):
    description = json.loads((saved / "encoder.json").read_text())
    assert description["name"] == NAME
    assert description["vit"]["mlp"] == 96
    assert description["norm_stats"] == [-6.5, 3.25]
    assert description["head_classes"] == CLASSES
    assert description["licence"] == "CC0"
    assert description["source"]["file"] == "checkpoint.pth"
    assert len(description["source"]["sha256"]) == 64


# What is refused: keys, shapes and values.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "key", ["blocks.0.attn.q_norm.weight", "blocks.7.mlp.fc1.weight", "fc_norm.weight", "adapter.weight", "head.weight"]
)
def test_convert_checkpoint_refuses_an_unknown_key(layout, key, convert, tmp_path):
    assert_refused(convert, tmp_path, LAYOUTS[layout](weights(**{key: torch.zeros(64)})), key.replace(".", r"\."))


@pytest.mark.parametrize("key", ["backbone.extra", "module.ar.extra", "module.head.extra", "extra", "targets.weight"])
def test_convert_checkpoint_refuses_an_unknown_key_beside_the_encoder(key, convert, tmp_path):
    assert_refused(convert, tmp_path, evar(weights()) | {key: torch.zeros(3)}, key.replace(".", r"\."))


@pytest.mark.parametrize("key", sorted(weights().keys() - {"norm_stats"}))
def test_convert_checkpoint_refuses_a_missing_key(key, convert, tmp_path):
    state = weights()
    del state[key]
    match = "cls_token" if key == "cls_token" else key.replace(".", r"\.")
    assert_refused(convert, tmp_path, state, match)


def test_convert_checkpoint_refuses_a_missing_block(convert, tmp_path):
    state = {key: value for key, value in weights().items() if not key.startswith("blocks.0.")}
    assert_refused(convert, tmp_path, state, r"blocks\.0\.")


def test_convert_checkpoint_refuses_a_state_without_blocks(convert, tmp_path):
    state = {key: value for key, value in weights().items() if not key.startswith("blocks.")}
    assert_refused(convert, tmp_path, state, r"blocks\.0\.|depth")


def test_convert_checkpoint_refuses_an_incomplete_extra_block(convert, tmp_path):
    assert_refused(convert, tmp_path, weights(**{"blocks.2.norm1.bias": torch.zeros(64)}), r"missing.*blocks\.2\.")


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("cls_token", (1, 1, 65)),
        ("cls_token", ()),
        ("pos_embed", (1, 31, 32)),
        ("pos_embed", (2, 31, 64)),
        ("patch_embed.proj.weight", (64, 3, 16, 16)),
        ("patch_embed.proj.weight", (64, 256)),
        ("patch_embed.proj.bias", (63,)),
        ("blocks.0.attn.qkv.weight", (64, 192)),
        ("blocks.0.attn.qkv.weight", (192, 8, 8)),
        ("blocks.0.attn.qkv.bias", (64,)),
        ("blocks.0.mlp.fc1.weight", (64, 96)),
        ("blocks.1.mlp.fc1.weight", (128, 64)),
        ("blocks.1.mlp.fc2.weight", (64, 64)),
        ("blocks.1.norm1.weight", (1, 1, 32)),
        ("norm.bias", ()),
        ("norm_stats", (3,)),
        ("norm_stats", ()),
    ],
)
def test_convert_checkpoint_refuses_another_shape(key, shape, convert, tmp_path):
    assert_refused(convert, tmp_path, weights(**{key: torch.ones(shape)}), r"shape|axes|channel|mlp\.fc|positions")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["blocks.1.mlp.fc2.weight", "patch_embed.proj.bias", "norm_stats", "cls_token"])
def test_convert_checkpoint_refuses_weights_that_are_not_finite(key, value, convert, tmp_path):
    state = weights()
    state[key] = state[key].clone()
    state[key].view(-1)[-1] = value
    assert_refused(convert, tmp_path, state, rf"{key.split('.')[-1]}.*not finite.*damaged")


def test_convert_checkpoint_refuses_weights_too_large_for_float32(convert, tmp_path):
    state = weights(**{"norm.weight": torch.full((64,), 1e300, dtype=torch.float64)})
    assert_refused(convert, tmp_path, state, r"norm\.weight.*not finite")


@pytest.mark.parametrize("std", [0.0, -4.2])
def test_convert_checkpoint_needs_a_positive_standard_deviation(std, convert, tmp_path):
    assert_refused(
        convert, tmp_path, weights(norm_stats=torch.tensor([-7.1, std])), r"positive standard deviation, got \[-7\."
    )


@pytest.mark.parametrize("key", [key for key in head() if "tracked" not in key])
def test_convert_checkpoint_refuses_an_incomplete_head(key, convert, tmp_path):
    state = evar(weights())
    del state[key]
    assert_refused(convert, tmp_path, state, rf"head is incomplete.*{key}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm.running_mean", torch.zeros(64)),
        ("norm.running_var", torch.full((FEATURES,), float("nan"))),
        ("mlp.mlp.0.weight", torch.zeros(CLASSES + 1, FEATURES)),
        ("mlp.mlp.0.weight", torch.zeros(CLASSES, 64)),
        ("mlp.mlp.0.bias", torch.tensor(0.0)),
    ],
)
def test_convert_checkpoint_refuses_a_head_of_other_sizes(key, value, convert, tmp_path):
    assert_refused(convert, tmp_path, evar(weights()) | {f"module.head.{key}": value}, r"shape|finite")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (
            "80x208p16x16",
            r"80x208 \(bands x frames\) in patches of 16x16, that is 65 positions; .* and 30 positions: give the",
        ),
        ("64x96p16x16", r"64x96 .* 24 positions; .* and 30 positions"),
        (
            "80x96p16x8",
            r"patches of 16x8, .* has patches of 16x16 in 1 channel\(s\) and 30 positions: give the right name",
        ),
        ("80x96p80x2", r"patches of 80x2"),
        ("0x96p16x16", r"bands"),
        ("81x96p16x16", r"multiple of the patch's bands"),
        ("80x8p16x16", r"at least the patch's frames"),
        ("m2d_vit_tiny", r"carries no sizes"),
    ],
)
def test_convert_checkpoint_refuses_a_name_with_other_sizes(name, match, convert, tmp_path):
    assert_refused(convert, tmp_path, weights(), match, name=name)


def test_convert_checkpoint_needs_sizes_in_some_name(convert, tmp_path):
    assert_refused(convert, tmp_path, weights(), r"carries no sizes", name=None)


def test_convert_checkpoint_needs_heads_if_the_width_is_unusual(convert, tmp_path):
    config = ViTConfig(80, 96, 16, 16, width=96, depth=1, heads=3, mlp=32)
    state = random_state(config)
    assert_refused(convert, tmp_path, state, r"width / 64, but the width is 96: give the number of heads")
    assert_refused(convert, tmp_path, state, r"multiple of the heads, got 96 and 5", heads=5)
    assert_refused(convert, tmp_path, state, r"heads|positive", heads=-3)
    assert_refused(convert, tmp_path, state, r"heads|positive", heads=0)
    assert convert(state, heads=3).config == config


# What is refused: files.


class Mine:
    """Makes a folder when it is unpickled by a loader that runs what it finds."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Evaluated(Mine):
    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({str(self.path)!r})",)


@pytest.mark.parametrize("where", ["beside", "in args", "in the state dict"])
@pytest.mark.parametrize(("mine", "named"), [(Mine, r"posix\.mkdir|nt\.mkdir"), (Evaluated, "eval")])
def test_convert_checkpoint_runs_no_pickled_code(mine, named, where, convert, tmp_path):
    marker = tmp_path / "marker"
    content = full(weights())
    if where == "beside":
        content["config"] = mine(marker)
    elif where == "in args":
        content["args"].hook = mine(marker)
    else:
        content["model"]["blocks.0.norm1.bias"] = mine(marker)
    assert_refused(convert, tmp_path, content, rf"checkpoint\.pth holds more than tensors.*({named})")
    assert not marker.exists()
    torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert marker.exists(), "the mine has no charge, so the test shows nothing"


def test_convert_checkpoint_refuses_a_path_in_the_settings(convert, tmp_path):
    content = full(weights())
    content["args"].output_dir = pathlib.PurePosixPath("/somewhere")
    assert_refused(convert, tmp_path, content, r"holds more than tensors.*pathlib\S*\.PurePosixPath.*state dict alone")


def test_convert_checkpoint_refuses_a_module_saved_whole(convert, tmp_path):
    assert_refused(convert, tmp_path, torch.nn.Linear(2, 3), r"holds more than tensors.*torch\.nn\.modules\.linear")


@pytest.mark.parametrize(
    "damage", ["text", "empty", "zip cut in half", "zip cut at its end", "old format cut", "zeros"]
)
def test_convert_checkpoint_refuses_a_damaged_file(damage, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(weights(), path, _use_new_zipfile_serialization=damage != "old format cut")
    content = path.read_bytes()
    path.write_bytes(
        {
            "text": b"<!DOCTYPE html><html>Sign in to download</html>\n",
            "empty": b"",
            "zip cut in half": content[: len(content) // 2],
            "zip cut at its end": content[:-10],
            "old format cut": content[: len(content) // 2],
            "zeros": bytes(1000),
        }[damage]
    )
    with pytest.raises(InputError, match=r"checkpoint\.pth is not a readable PyTorch checkpoint.*download it again"):
        convert_checkpoint(path, tmp_path / "out", NAME)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_convert_checkpoint_refuses_a_missing_file_and_an_empty_folder(tmp_path):
    for path, rule in ((tmp_path / "absent.pth", "is not a file: give"), (tmp_path, "has no config.json: give")):
        with pytest.raises(InputError, match=f"{path} {rule}"):
            convert_checkpoint(path, tmp_path / "out", NAME)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "described"),
    [
        ([torch.zeros(2)], "list"),
        (torch.zeros(3), "Tensor"),
        ("text", "str"),
        (None, "NoneType"),
        ({}, "dict"),
        ({"model": {}}, r"model \(dict\)"),
        ({"model": [1]}, r"model \(list\)"),
        ({"model": weights() | {"epoch": 3}}, r"model \(dict\)"),
        (weights() | {"epoch": 3}, r"cls_token \(Tensor\)"),
        ({"state_dict": weights()}, r"state_dict \(dict\)"),
    ],
    ids=str,
)
def test_convert_checkpoint_refuses_a_content_that_is_no_state_dict(content, described, convert, tmp_path):
    assert_refused(convert, tmp_path, content, rf"must hold a state dict, or one under 'model'; got .*{described}")


def test_convert_checkpoint_refuses_another_models_state_dict(convert, tmp_path):
    assert_refused(convert, tmp_path, torch.nn.Linear(2, 3).state_dict(), r"cls_token.*first keys are bias, weight")


@pytest.mark.parametrize(
    "content",
    [
        {0: torch.zeros(2), 1: torch.zeros(2)},
        weights() | {3: torch.zeros(2)},
        weights(**{"norm.bias": torch.zeros(64).to_sparse()}),
        weights(**{"norm.bias": torch.zeros(64, device="meta")}),
    ],
    ids=["numbers for keys", "a number among the keys", "a sparse tensor", "a tensor without values"],
)
def test_convert_checkpoint_refuses_tensors_and_keys_that_no_encoder_has(content, convert, tmp_path):
    assert_refused(convert, tmp_path, content, r"checkpoint\.pth|random")


# Where it is written.


@pytest.mark.parametrize("kind", ["folder", "encoder", "file"])
def test_convert_checkpoint_leaves_what_exists_untouched(kind, convert, saved, tmp_path):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "encoder":
        shutil.copytree(saved, out)
    else:
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"{out} exists already.*choose another, or remove it first"):
        convert(weights())
    assert {path: data for path, data in contents(tmp_path).items() if path != "checkpoint.pth"} == before


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_convert_checkpoint_leaves_nothing_if_saving_fails(convert, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise OSError(28, "No space left on device")

    import orbax.checkpoint

    monkeypatch.setattr(orbax.checkpoint.StandardCheckpointer, "save", fail)
    assert_refused(convert, tmp_path, weights(), r"out cannot be written \(No space left on device\)")


# Loading.


def test_load_encoder_refuses_other_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(InputError, match=rf"{path} is no encoder directory.*jaxdissect convert"):
            load_encoder(path)


def test_load_encoder_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        load_encoder(tmp_path / "file")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[1]", b"null", b"{}", b'{"format": 2}', b'{"format": "1"}'], ids=str
)
def test_load_encoder_refuses_a_broken_description(content, copy):
    (copy / "encoder.json").write_bytes(content)
    with pytest.raises(InputError, match=r"encoder\.json.*convert the checkpoint again"):
        load_encoder(copy)


def change(folder: pathlib.Path, edit: Callable[[dict], Any]) -> None:
    description = json.loads((folder / "encoder.json").read_text())
    edit(description)
    (folder / "encoder.json").write_text(json.dumps(description))


@pytest.mark.parametrize("entry", ["name", "vit", "front_end", "source", "licence", "head_classes"])
def test_load_encoder_refuses_a_description_that_lacks_an_entry(entry, copy):
    change(copy, lambda description: description.pop(entry))
    with pytest.raises(InputError, match=rf"encoder\.json.*{entry}.*convert the checkpoint again"):
        load_encoder(copy)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("vit", {"colour": 3}),
        ("vit", {"width": "64"}),
        ("vit", {"heads": 5}),
        ("vit", {"depth": 0}),
        ("front_end", {"colour": 3}),
        ("front_end", {"hop": None}),
    ],
)
def test_load_encoder_refuses_a_description_of_no_encoder(section, values, copy):
    change(copy, lambda description: description[section].update(values))
    with pytest.raises(InputError):
        load_encoder(copy)


def assert_params_refused(folder: pathlib.Path) -> None:
    """One clear message; what a failed restore leaves to the garbage collector complains here, not in a later test."""
    rule = r"params does not hold the arrays that encoder\.json describes.*convert the checkpoint again"
    try:
        with pytest.raises(InputError, match=rule):
            load_encoder(folder)
    finally:
        time.sleep(0.1)
        gc.collect()


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("vit", {"width": 128}),
        ("vit", {"depth": 1}),
        ("vit", {"depth": 3}),
        ("vit", {"mlp": 48}),
        ("front_end", {"n_fft": 512}),
        (None, {"head_classes": None}),
        (None, {"head_classes": 8}),
    ],
)
def test_load_encoder_refuses_params_of_other_sizes(section, values, copy):
    change(copy, lambda description: (description[section] if section else description).update(values))
    assert_params_refused(copy)


def test_load_encoder_refuses_missing_params(copy):
    shutil.rmtree(copy / "params")
    assert_params_refused(copy)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax's unfinished reads
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("the largest", "cut"),
        ("the largest", "empty"),
        ("the largest", "removed"),
        ("manifest.ocdbt", "cut"),
        ("_METADATA", "cut"),
        ("_METADATA", "removed"),
    ],
)
def test_load_encoder_refuses_a_damaged_file_of_params(name, damage, copy, saved):
    """It is refused, or, where orbax can do without that file, loaded as it was."""
    files = [path for path in (copy / "params").rglob("*") if path.is_file()]
    file = max(files, key=lambda path: path.stat().st_size) if name == "the largest" else copy / "params" / name
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 if damage == "cut" else 0])
    if (name, damage) == ("_METADATA", "removed"):
        assert_same(load_encoder(copy), load_encoder(saved))
        return
    assert_params_refused(copy)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_load_encoder_notices_a_changed_bit(place, copy):
    file = max((path for path in (copy / "params").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"was changed after it was converted|or is damaged"):
        load_encoder(copy)


@pytest.mark.parametrize("change", [{"heads": 2}, {"norm_stats": [0.0, 1.0]}])
def test_load_encoder_notices_a_changed_description(change, copy):
    file = copy / "encoder.json"
    description = json.loads(file.read_text())
    vit = {name: value for name, value in change.items() if name in description["vit"]}
    file.write_text(json.dumps({**description, **change, "vit": {**description["vit"], **vit}}))
    with pytest.raises(InputError, match="was changed after it was converted"):
        load_encoder(copy)


@pytest.mark.parametrize("dtype", ["float16", "", "float64"])
def test_load_encoder_refuses_an_unknown_dtype(dtype, saved):
    with pytest.raises(InputError, match=rf"dtype must be one of float32, bfloat16, got '{dtype}'"):
        load_encoder(saved, dtype=dtype)


def test_load_encoder_keeps_parameters_under_bfloat16(saved):
    encoder = load_encoder(saved, dtype="bfloat16")
    assert encoder.dtype == jnp.bfloat16
    assert_same(encoder, load_encoder(saved))


# Somebody else's encoder.

FACTORIES = """
import jax.numpy as jnp
from jaxdissect import ViTConfig, untrained_m2d
import dataclasses

SMALL = ViTConfig(80, 16, 80, 16, width=8, depth=1, heads=1, mlp=8)
number = 3

def good(dtype):
    return dataclasses.replace(untrained_m2d(SMALL, name="theirs"), dtype=dtype)

def nothing(dtype):
    return None

class Partial:
    name, sample_rate, module, variables, neurons = "x", 16000, None, {}, "*"
    def front_end(self, variables, pcm): ...
    def embed(self, output): ...
    def settings(self): ...

def partial(dtype):
    return Partial()

def without_dtype():
    return good(jnp.float32)
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "encoders.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return "their_package.encoders"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_load_encoder_calls_a_factory(dtype, factories):
    encoder = load_encoder(f"{factories}:good", dtype=dtype)
    assert isinstance(encoder, Encoder)
    assert (encoder.name, jnp.dtype(encoder.dtype).name) == ("theirs", dtype)


@pytest.mark.parametrize(
    "path",
    [
        "no_such_package_here:good",
        "their_package.absent:good",
        "their_package.encoders:absent",
        "their_package.encoders:",
        ":good",
        ".encoders:good",
        "their_package.encoders:number",
    ],
)
def test_load_encoder_refuses_a_factory_that_cannot_be_called(path, factories):
    with pytest.raises(InputError, match=rf"{path}"):
        load_encoder(path)


def test_load_encoder_refuses_a_factory_that_takes_no_dtype(factories):
    with pytest.raises(InputError, match=rf"{factories}:without_dtype.*dtype"):
        load_encoder(f"{factories}:without_dtype")


@pytest.mark.parametrize(
    ("name", "lacking"), [("nothing", "name, sample_rate, module"), ("partial", r"lacks token_layout\.$")]
)
def test_load_encoder_refuses_a_factory_that_makes_no_encoder(name, lacking, factories):
    with pytest.raises(InputError, match=rf"{factories}:{name} must return a jaxdissect Encoder.*{lacking}"):
        load_encoder(f"{factories}:{name}")


# Fingerprints.


def test_fingerprint_changes_with_every_array(saved):
    encoder = load_encoder(saved)
    arrays, tree = jax.tree.flatten(jax.device_get(encoder.variables))
    assert len(arrays) == 6 + 2 * 12 + 2 + 4
    seen = {fingerprint(encoder)}
    for number, array in enumerate(arrays):
        changed = array.copy()
        changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(np.inf))
        variables = jax.tree.unflatten(tree, [*arrays[:number], changed, *arrays[number + 1 :]])
        seen.add(fingerprint(M2D(encoder.name, encoder.config, variables, log_mel=encoder.log_mel)))
    assert len(seen) == 1 + len(arrays)


def test_fingerprint_changes_with_sizes_that_no_array_shows(saved):
    encoder = load_encoder(saved)
    config, front_end = vars(encoder.config), vars(encoder.log_mel)
    others = [
        M2D(encoder.name, ViTConfig(**{**config, "heads": 2}), encoder.variables, log_mel=encoder.log_mel),
        M2D(encoder.name, ViTConfig(**{**config, "frames": 97}), encoder.variables, log_mel=encoder.log_mel),
        dataclasses.replace(encoder, log_mel=type(encoder.log_mel)(**{**front_end, "hop": 161})),
    ]
    assert len({fingerprint(other) for other in (encoder, *others)}) == 4


def test_fingerprint_ignores_dtype_and_name(saved):
    encoder = load_encoder(saved)
    on_host = M2D("another name", encoder.config, jax.device_get(encoder.variables), log_mel=encoder.log_mel)
    computed = (dataclasses.replace(encoder, dtype=jnp.bfloat16), load_encoder(saved, dtype="bfloat16"), on_host)
    same = {fingerprint(other) for other in (encoder, *computed)}
    assert len(same) == 1
