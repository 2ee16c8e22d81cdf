"""PyTorch checkpoints of M2D -> encoders, failing closed and without running pickled code.

Every key of the checkpoint is used, is known to be droppable, or raises; every parameter is filled, or it raises.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from jaxdissect.audio.log_mel import m2d_front_end, mel_filters
from jaxdissect.encoder.convert.layout import checked_array, fill_params
from jaxdissect.encoder.families.m2d import M2D, NORM_STATS
from jaxdissect.encoder.families.vit import ViTConfig
from jaxdissect.encoder.protocol import head_shapes
from jaxdissect.errors import InputError, require
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
NAMES = {"patch_embed": "patch_embed.proj"} | {  # all others have the same names there
    f"blocks_{{}}/{module}": f"blocks.{{}}.{module.replace('/', '.')}"
    for module in ("norm1", "norm2", "attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")
}
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


def m2d_name(path: Path) -> str:
    """Name of a checkpoint that was given none: the file's, or that of its folder if the file's has no sizes.

    Args:
      path: the file.
    """
    return path.stem if NAME.search(path.stem) else path.resolve().parent.name


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
    encoder = M2D(name, config, {}, source=source, log_mel=front_end)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    variables = {
        "params": fill_params(name, shapes, weights, NAMES),
        "front_end": {
            "mel_filters": mel_filters(front_end),
            "norm_stats": checked_array(norm_stats, (2,), f"{name}: norm_stats"),
        },
    }
    if norm_stats[1] <= 0:
        raise InputError(f"{name}: norm_stats must have a positive standard deviation, got {norm_stats.tolist()}.")
    if head:
        variables["head"] = _head(head, config, name)
    return dataclasses.replace(encoder, variables=variables)


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


def _head(head: Mapping[str, np.ndarray], config: ViTConfig, name: str) -> dict[str, np.ndarray]:
    missing = [HEAD[entry] for entry in HEAD if entry not in head]
    require(not missing, f"{name}: the task head is incomplete, missing {', '.join(missing)}.")
    shapes = head_shapes(config.grid[0] * config.width, head["bias"].size)
    return {entry: checked_array(head[entry].T, shape, f"{name}: {HEAD[entry]}") for entry, shape in shapes.items()}
