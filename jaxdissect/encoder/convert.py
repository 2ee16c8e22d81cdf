"""PyTorch checkpoints of M2D -> encoders, failing closed and without running pickled code.

Every key of the checkpoint is used, is known to be droppable, or raises; every parameter is filled, or it raises.
"""

import argparse
import functools
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdissect.audio.log_mel import m2d_front_end, mel_filters
from jaxdissect.encoder.directory import save_encoder
from jaxdissect.encoder.m2d import M2D, NORM_STATS
from jaxdissect.encoder.protocol import Variables, head_shapes
from jaxdissect.encoder.vit import ViTConfig, init_vit
from jaxdissect.errors import InputError, require
from jaxdissect.runtime.files import require_new, sha256_file
from jaxdissect.types import Json

# Longest first: fine-tuning by EVAR, a backbone, and encoder-only or full checkpoints.
PREFIXES = ("module.ar.runtime.backbone.", "backbone.", "")
# The parts of a training checkpoint that an encoder does without: M2D's predictor (named decoder) and target network,
# and the buffers of nnAudio's spectrogram.
DROPPABLE = re.compile(r"(module\.ar\.runtime\.)?(decoder|predictor|target|mask_token|to_spec)([._]|$)")
BATCHES_SEEN = "module.head.norm.num_batches_tracked"  # a BatchNorm's count, droppable too
HEAD = {
    "mean": "module.head.norm.running_mean",
    "variance": "module.head.norm.running_var",
    "kernel": "module.head.mlp.mlp.0.weight",
    "bias": "module.head.mlp.mlp.0.bias",
}
NAME = re.compile(  # the sampling rate, p32k, and marks of the weights such as pBpTI may follow the sizes
    r"(?P<bands>\d+)x(?P<frames>\d+)p(?P<patch_bands>\d+)x(?P<patch_frames>\d+)"
    r"(?:p(?P<khz>16|32)k)?(?:p[A-Za-z]+)*(?![0-9a-zA-Z])"
)
HEAD_WIDTH = 64  # features of an attention head in every published ViT


@dataclass(frozen=True)
class Sizes:
    """Sizes that an M2D checkpoint carries in its name.

    Attributes:
      bands, frames: size of the input spectrogram.
      patch_bands, patch_frames: size of a patch.
      sample_rate: sampling rate, Hz.
    """

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
    match = NAME.search(name)
    if not match:
        raise InputError(
            f"The name {name!r} carries no sizes such as 80x608p16x16: give a name that does, such as "
            f"m2d_vit_base-80x608p16x16 (a third part p32k means 32 kHz)."
        )
    sizes = {key: int(value) for key, value in match.groupdict().items() if key != "khz"}
    return Sizes(**sizes, sample_rate=1000 * int(match["khz"] or 16))


def convert_checkpoint(
    checkpoint: str | Path, out: str | Path, name: str | None = None, heads: int | None = None, licence: str = "unknown"
) -> M2D:
    """Convert a PyTorch checkpoint of M2D and write it as an encoder directory, without running pickled code.

    Source: checkpoints of Niizumi et al., "Masked Modeling Duo" (arXiv:2404.06095), and of fine-tuning by EVAR.

    Args:
      checkpoint: `.pth` file, in any of the layouts in which M2D's checkpoints are published.
      out: encoder directory to make.
      name: name that carries the sizes, "m2d_vit_base-80x608p16x16"; default: the file's or its folder's name.
      heads: number of attention heads, which no checkpoint holds; default: width / 64, as in every published ViT.
      licence: licence of the weights, recorded in `encoder.json`.

    Raises:
      InputError: the file holds foreign objects, keys are unknown or missing, or sizes disagree.
    """
    path = Path(checkpoint)
    require(path.is_file(), f"{path} is not a file: give the checkpoint's path.")
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
        import torch  # an extra of the package, needed only here
    except ImportError as error:
        raise InputError("Converting needs PyTorch: pip install 'jaxdissect[convert]'.") from error
    try:
        # weights_only: the unpickler builds tensors and the classes named here, and calls nothing else.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        # The unpickler names the object that it refused, as "GLOBAL posix.mkdir" or "class builtins.eval".
        foreign = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and foreign:
            raise InputError(
                f"{path} holds more than tensors and an argparse.Namespace ({foreign[1].rstrip('.')}); it is not "
                f"opened, since unpickling could run code. Save its state dict alone."
            ) from error
        raise InputError(
            f"{path} is not a readable PyTorch checkpoint ({type(error).__name__}): download it again."
        ) from error
    # A training checkpoint has the state dict beside the optimizer's state and the arguments.
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, Mapping) or not state or not all(map(_is_dense, state, state.values())):
        raise InputError(f"{path} must hold a state dict, or one under 'model'; got {_described(content)}.")
    # detach: a parameter on a gradient tape has no NumPy array.
    return {key: value.detach().to(torch.float32).numpy() for key, value in state.items()}


def _is_dense(key: object, value: object) -> bool:
    """Whether an entry of a state dict is a name and a dense tensor with values."""
    import torch

    return (
        isinstance(key, str)
        and isinstance(value, torch.Tensor)
        and value.layout is torch.strided  # not sparse
        and value.device.type == "cpu"  # not "meta", whose tensors have no values
    )


def _described(content: object) -> str:
    """The type of a checkpoint's content; of a dict five entries, those first that no state dict has."""
    if not isinstance(content, Mapping):
        return type(content).__name__
    entries = sorted(content.items(), key=lambda entry: _is_dense(*entry))[:5]
    return "a dict of " + ", ".join(f"{key} ({type(value).__name__})" for key, value in entries)


def encoder_from_state(
    state: Mapping[str, np.ndarray], name: str, sizes: Sizes, heads: int | None, source: Mapping[str, Json]
) -> M2D:
    """Sort a state dict into the encoder's variables.

    Args:
      state: arrays of the checkpoint, by key.
      name: name of the encoder.
      sizes: sizes that the name carries.
      heads: number of attention heads; None: width / 64.
      source: origin of the checkpoint, to record.

    Raises:
      InputError: a key is neither used nor droppable, or is missing, or has another shape than the sizes demand.
    """
    prefix = next((prefix for prefix in PREFIXES if f"{prefix}cls_token" in state), None)
    if prefix is None:
        raise InputError(
            f"{name}: no key is 'cls_token' behind one of the prefixes {', '.join(map(repr, PREFIXES))}; the first "
            f"keys are {', '.join(sorted(state)[:5])}."
        )
    # Every key goes into exactly one of: dropped, head, weights, norm_stats, or is refused.
    used = {
        key: array
        for key, array in state.items()
        if key != BATCHES_SEEN and not DROPPABLE.match(key) and not DROPPABLE.match(key.removeprefix(prefix))
    }
    head = {entry: used.pop(key) for entry, key in HEAD.items() if key in used}
    foreign = sorted(key for key in used if not key.startswith(prefix))
    require(
        not foreign,
        f"{name}: unknown keys {', '.join(foreign[:5])} ({len(foreign)} in all); nothing is converted, because they "
        f"may matter.",
    )
    weights = {key.removeprefix(prefix): array for key, array in used.items()}
    # Some checkpoints keep them as (1, 2) or in another shape; some have none.
    norm_stats = weights.pop("norm_stats", np.asarray(NORM_STATS, np.float32)).reshape(-1)
    config = _config(weights, name, sizes, heads)
    front_end = m2d_front_end(sizes.sample_rate, sizes.bands)
    variables = {
        "params": _params(weights, config, name),
        "front_end": {
            "mel_filters": mel_filters(front_end),
            "norm_stats": _checked(norm_stats, (2,), f"{name}: norm_stats"),
        },
    }
    if norm_stats[1] <= 0:
        raise InputError(f"{name}: norm_stats must have a positive standard deviation, got {norm_stats.tolist()}.")
    if head:
        variables["head"] = _head(head, config, name)
    return M2D(name, config, front_end, variables, source=source)


def _config(weights: Mapping[str, np.ndarray], name: str, sizes: Sizes, heads: int | None) -> ViTConfig:
    """Sizes of the ViT: those of the name, which the arrays must confirm, and those that only the arrays have."""

    def shape(key: str, axes: int) -> tuple[int, ...]:
        array = weights.get(key)
        if array is None or array.ndim != axes:
            found_shape = "nothing" if array is None else array.shape
            raise InputError(f"{name}: the key {key!r} must hold an array of {axes} axes, found {found_shape}.")
        return array.shape

    width, *patch = shape("patch_embed.proj.weight", 4)  # (width, channel, band, frame)
    require(
        heads is not None or width % HEAD_WIDTH == 0,
        f"{name}: the heads are taken as width / {HEAD_WIDTH}, but the width is {width}: give the number of heads.",
    )
    heads = width // HEAD_WIDTH if heads is None else heads
    depth = len({key.split(".")[1] for key in weights if re.match(r"blocks\.\d+\.", key)})
    mlp = shape("blocks.0.mlp.fc1.weight", 2)[0]  # a PyTorch kernel: (out, in)
    config = ViTConfig(sizes.bands, sizes.frames, sizes.patch_bands, sizes.patch_frames, width, depth, heads, mlp)
    # Positional embeddings, less that of the class token, against the patches of the grid that the name says.
    positions, expected = shape("pos_embed", 3)[1] - 1, config.grid[0] * config.grid[1]
    require(
        patch == [1, sizes.patch_bands, sizes.patch_frames] and positions == expected,
        f"{name}: the name says {sizes.bands}x{sizes.frames} (bands x frames) in patches of {sizes.patch_bands}x"
        f"{sizes.patch_frames}, that is {expected} positions; the checkpoint has patches of {patch[1]}x{patch[2]} in "
        f"{patch[0]} channel(s) and {positions} positions: give the right name.",
    )
    return config


def _params(weights: Mapping[str, np.ndarray], config: ViTConfig, name: str) -> Variables:
    """Fill every parameter of the ViT from exactly one key, and use every key."""
    # Shapes of the ViT's parameters, by their path in the tree.
    targets = flatten_dict(jax.eval_shape(functools.partial(init_vit, config), jax.random.key(0)))
    keys = {path: _torch_key(path) for path in targets}
    missing = sorted(set(keys.values()) - set(weights))
    unknown = sorted(set(weights) - set(keys.values()))
    require(
        not missing and not unknown,
        f"{name}: the checkpoint's keys are not those of a ViT of {config.depth} blocks: "
        f"{len(missing)} missing ({', '.join(missing[:5]) or '-'}), "
        f"{len(unknown)} unknown ({', '.join(unknown[:5]) or '-'}).",
    )
    return unflatten_dict(
        {
            path: _checked(_to_flax(path, weights[key], targets[path].shape), targets[path].shape, f"{name}: {key}")
            for path, key in keys.items()
        }
    )


def _torch_key(path: tuple[str, ...]) -> str:
    """Path of a parameter in the ViT -> its key in a state dict of M2D."""
    # PyTorch calls the kernel of a linear layer and the scale of a LayerNorm "weight".
    leaf = {"kernel": "weight", "scale": "weight"}.get(path[-1], path[-1])
    key = ".".join((*path[:-1], leaf)).replace("blocks_", "blocks.")
    return key.replace("patch_embed.", "patch_embed.proj.")


def _to_flax(path: tuple[str, ...], array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """PyTorch's layout -> Flax's: kernels transposed, the patch convolution as a matrix, leading ones dropped."""
    if path[-1] == "kernel":
        # (width, 1, bands, frames) -> (width, pixel), pixels bands first as `split_patches` has them.
        return (array.reshape(len(array), -1) if path[0] == "patch_embed" else array).T
    extra = array.ndim - len(shape)  # cls_token is (1, 1, width) in PyTorch and (width,) here
    return array.reshape(array.shape[extra:]) if set(array.shape[:extra]) <= {1} else array


def _head(head: Mapping[str, np.ndarray], config: ViTConfig, name: str) -> dict[str, np.ndarray]:
    missing = [HEAD[entry] for entry in HEAD if entry not in head]
    require(not missing, f"{name}: the task head is incomplete, missing {', '.join(missing)}.")
    shapes = head_shapes(config.grid[0] * config.width, head["bias"].size)
    return {entry: _checked(head[entry].T, shape, f"{name}: {HEAD[entry]}") for entry, shape in shapes.items()}


def _checked(array: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """An array of the checkpoint as contiguous float32, if it has the right shape and is finite."""
    require(array.shape == shape, f"{name} must have the shape {shape} (in Flax's layout), found {array.shape}.")
    require(bool(np.isfinite(array).all()), f"{name} holds values that are not finite: the checkpoint is damaged.")
    return np.ascontiguousarray(array, np.float32)
