"""PyTorch checkpoints of M2D -> encoders, failing closed and without running pickled code.

Every key of the checkpoint is used, is known to be droppable, or raises; every parameter is filled, or it raises.
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdissect.audio.log_mel import m2d_front_end, mel_filters
from jaxdissect.encoder.directory import save_encoder
from jaxdissect.encoder.m2d import M2D, NORM_STATS
from jaxdissect.encoder.vit import ViT, ViTConfig
from jaxdissect.errors import InputError
from jaxdissect.runtime.files import require_new, sha256_file

PREFIXES = ("", "backbone.", "module.ar.runtime.backbone.")  # encoder-only or full; backbone; EVAR fine-tuning
# The parts of a training checkpoint that an encoder does without: M2D's predictor (named decoder) and target network,
# and the buffers of nnAudio's spectrogram.
DROPPABLE = re.compile(r"(module\.ar\.runtime\.)?(decoder|predictor|target|mask_token|to_spec)([._]|$)")
HEAD = {
    "mean": "module.head.norm.running_mean",
    "variance": "module.head.norm.running_var",
    "kernel": "module.head.mlp.mlp.0.weight",
    "bias": "module.head.mlp.mlp.0.bias",
}
BATCHES_SEEN = "module.head.norm.num_batches_tracked"
NAME = re.compile(  # after the sizes may stand the sampling rate, p32k, and marks of the weights such as pBpTI
    r"(?P<bands>\d+)x(?P<frames>\d+)p(?P<patch_bands>\d+)x(?P<patch_frames>\d+)"
    r"(?:p(?P<khz>16|32)k)?(?:p[A-Za-z]+)*(?![0-9a-zA-Z])"
)


@dataclass(frozen=True)
class Sizes:
    """Sizes that an M2D checkpoint carries in its name."""

    bands: int
    frames: int
    patch_bands: int
    patch_frames: int
    sample_rate: int


def sizes_from_name(name: str) -> Sizes:
    """Parse e.g. `m2d_vit_base-80x608p16x16p32k-...`: 80 bands x 608 frames, patch 16 x 16, 32 kHz.

    Raises:
      InputError: the name carries no sizes.
    """
    found = NAME.search(name)
    if not found:
        raise InputError(
            f"The name {name!r} carries no sizes such as 80x608p16x16: give them with "
            f"--name m2d_vit_base-80x608p16x16 (a third part p32k means 32 kHz)."
        )
    numbers = {key: int(value) for key, value in found.groupdict().items() if key != "khz"}
    return Sizes(**numbers, sample_rate=1000 * int(found["khz"] or 16))


def convert_checkpoint(
    checkpoint: str | Path, out: str | Path, name: str | None = None, heads: int | None = None, licence: str = "unknown"
) -> M2D:
    """Convert a PyTorch checkpoint of M2D and write it as an encoder directory, without running pickled code.

    Source: checkpoints of Niizumi et al., "Masked Modeling Duo" (arXiv:2404.06095), and of fine-tuning by EVAR.

    Args:
      checkpoint: a `.pth` file, in any of the layouts in which M2D's checkpoints are published.
      out: the encoder directory to make.
      name: carries the sizes, "m2d_vit_base-80x608p16x16"; default: the file's or its folder's name.
      heads: attention heads, which no checkpoint tells; default: width / 64, as in every published ViT.
      licence: recorded in `encoder.json`.

    Raises:
      InputError: the file holds foreign objects, keys are unknown or missing, or sizes disagree.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise InputError(f"{path} is not a file: give the checkpoint's path.")
    if name is None:
        name = path.stem if NAME.search(path.stem) else path.resolve().parent.name
    sizes = sizes_from_name(name)
    require_new(Path(out))
    source = {"file": path.name, "sha256": sha256_file(path), "licence": licence}
    encoder = encoder_from_state(load_state(path), name, sizes, heads, source)
    save_encoder(encoder, out)
    return encoder


def load_state(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.pth` file by name, as float32. Of Python objects only `argparse.Namespace` is admitted.

    Raises:
      InputError: the file is not a checkpoint, or holds other objects.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("Converting needs PyTorch: pip install 'jaxdissect[convert]'.") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        foreign = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and foreign:
            raise InputError(
                f"{path} holds more than tensors and an argparse.Namespace ({foreign[1].rstrip('.')}); it is not "
                f"opened, since unpickling could run code. Save its state dict alone."
            ) from error
        raise InputError(
            f"{path} is not a readable PyTorch checkpoint ({type(error).__name__}): download it again."
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, Mapping) or not state or not all(map(_is_plain, state, state.values())):
        raise InputError(f"{path} must hold a state dict, or one under 'model'; got {_describe(content)}.")
    return {key: value.detach().to(torch.float32).numpy() for key, value in state.items()}


def encoder_from_state(
    state: Mapping[str, np.ndarray], name: str, sizes: Sizes, heads: int | None, source: Mapping[str, Any]
) -> M2D:
    """Sort a state dict into the encoder's variables.

    Raises:
      InputError: a key is neither used nor droppable, or is missing, or has another shape than the sizes demand.
    """
    prefix = next((prefix for prefix in reversed(PREFIXES) if f"{prefix}cls_token" in state), None)
    if prefix is None:
        raise InputError(
            f"{name}: no key ends an M2D encoder's prefix ({', '.join(repr(p) for p in PREFIXES)}) with "
            f"'cls_token'; the first keys are {', '.join(sorted(state)[:5])}."
        )
    kept = {
        key: value
        for key, value in state.items()
        if not DROPPABLE.match(key) and not DROPPABLE.match(key.removeprefix(prefix)) and key != BATCHES_SEEN
    }
    head = {entry: kept.pop(key) for entry, key in HEAD.items() if key in kept}
    foreign = sorted(key for key in kept if not key.startswith(prefix))
    if foreign:
        raise InputError(
            f"{name}: unknown keys {', '.join(foreign[:5])} ({len(foreign)} in all); nothing is converted, "
            f"because they may matter."
        )
    weights = {key.removeprefix(prefix): value for key, value in kept.items()}
    norm_stats = weights.pop("norm_stats", np.asarray(NORM_STATS, np.float32)).reshape(-1)
    config = _config(weights, name, sizes, heads)
    front_end = m2d_front_end(sizes.sample_rate, sizes.bands)
    variables: dict[str, Any] = {
        "params": _params(weights, config, name),
        "front_end": {
            "mel_filters": mel_filters(front_end),
            "norm_stats": _shaped("norm_stats", norm_stats, (2,), name),
        },
    }
    if norm_stats[1] <= 0:
        raise InputError(f"{name}: norm_stats must have a positive standard deviation, got {norm_stats.tolist()}.")
    if head:
        variables["head"] = _head(head, config, name)
    return M2D(name, config, front_end, variables, source=source)


def _config(weights: Mapping[str, np.ndarray], name: str, sizes: Sizes, heads: int | None) -> ViTConfig:
    def shape(key: str, axes: int) -> tuple[int, ...]:
        if key not in weights or weights[key].ndim != axes:
            found = weights[key].shape if key in weights else "nothing"
            raise InputError(f"{name}: the key {key!r} must hold an array of {axes} axes, found {found}.")
        return weights[key].shape

    width, channels, *patch = shape("patch_embed.proj.weight", 4)
    if [channels, *patch] != [1, sizes.patch_bands, sizes.patch_frames]:
        raise InputError(
            f"{name}: the name says patches of {sizes.patch_bands}x{sizes.patch_frames} (bands x frames), "
            f"the checkpoint's patch_embed.proj.weight has {channels} channel(s) and {patch[0]}x{patch[1]}: "
            f"give the right --name."
        )
    if heads is None and width % 64:
        raise InputError(f"{name}: attention heads are taken as width / 64, but the width is {width}: give --heads.")
    blocks = {int(key.split(".")[1]) for key in weights if re.match(r"blocks\.\d+\.", key)}
    config = ViTConfig(
        sizes.bands,
        sizes.frames,
        sizes.patch_bands,
        sizes.patch_frames,
        width,
        depth=len(blocks),
        heads=width // 64 if heads is None else heads,
        mlp=shape("blocks.0.mlp.fc1.weight", 2)[0],
    )
    positions = shape("pos_embed", 3)[1] - 1
    if positions != config.grid[0] * config.grid[1]:
        raise InputError(
            f"{name}: the name says {sizes.bands}x{sizes.frames} in patches of {sizes.patch_bands}x"
            f"{sizes.patch_frames}, that is {config.grid[0] * config.grid[1]} positions; the checkpoint's "
            f"pos_embed has {positions}: give the right --name."
        )
    return config


def _params(weights: Mapping[str, np.ndarray], config: ViTConfig, name: str) -> dict[str, Any]:
    """Fill every parameter of the ViT from exactly one key, and use every key."""
    dummy = jax.ShapeDtypeStruct((1, config.patch_frames, config.bands), np.float32)
    wanted = flatten_dict(jax.eval_shape(ViT(config).init, jax.random.key(0), dummy)["params"])
    keys = {path: _torch_key(path) for path in wanted}
    missing = sorted(set(keys.values()) - set(weights))
    unknown = sorted(set(weights) - set(keys.values()))
    if missing or unknown:
        raise InputError(
            f"{name}: the checkpoint's keys are not those of a ViT of {config.depth} blocks: "
            f"{len(missing)} missing ({', '.join(missing[:5]) or '-'}), "
            f"{len(unknown)} unknown ({', '.join(unknown[:5]) or '-'})."
        )
    arrays = {path: _to_flax(path, weights[key], wanted[path].shape) for path, key in keys.items()}
    return unflatten_dict(
        {path: _shaped(keys[path], array, wanted[path].shape, name) for path, array in arrays.items()}
    )


def _torch_key(path: tuple[str, ...]) -> str:
    leaf = {"kernel": "weight", "scale": "weight"}.get(path[-1], path[-1])
    key = ".".join((*path[:-1], leaf)).replace("blocks_", "blocks.")
    return key.replace("patch_embed.", "patch_embed.proj.")


def _to_flax(path: tuple[str, ...], array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """PyTorch's layout -> Flax's: kernels transposed, the patch convolution as a matrix, leading ones dropped."""
    if path[-1] == "kernel":
        return (array.reshape(len(array), -1) if path[0] == "patch_embed" else array).T
    return (
        array.reshape(array.shape[array.ndim - len(shape) :])
        if set(array.shape[: array.ndim - len(shape)]) <= {1}
        else array
    )


def _head(head: Mapping[str, np.ndarray], config: ViTConfig, name: str) -> dict[str, np.ndarray]:
    missing = [HEAD[entry] for entry in HEAD if entry not in head]
    if missing:
        raise InputError(f"{name}: the task head is incomplete, missing {', '.join(missing)}.")
    features, classes = config.grid[0] * config.width, head["bias"].size
    shapes = {"mean": (features,), "variance": (features,), "kernel": (features, classes), "bias": (classes,)}
    return {entry: _shaped(HEAD[entry], head[entry].T, shape, name) for entry, shape in shapes.items()}


def _shaped(key: str, array: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    if array.shape != tuple(shape):
        raise InputError(f"{name}: {key} must have the shape {tuple(shape)} (in Flax's layout), found {array.shape}.")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: {key} holds values that are not finite: the checkpoint is damaged.")
    return np.ascontiguousarray(array, np.float32)


def _is_plain(key: Any, value: Any) -> bool:
    """Whether an entry of a state dict is a name and a dense tensor with values."""
    import torch

    return (
        isinstance(key, str)
        and isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
    )


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    odd = [key for key, value in content.items() if not _is_plain(key, value)]
    shown = [*odd, *(key for key in content if key not in odd)][:5]
    return "a dict of " + ", ".join(f"{key} ({type(content[key]).__name__})" for key in shown)
