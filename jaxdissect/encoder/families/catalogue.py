"""Families by name, and the named sizes of which an untrained encoder can be made."""

import dataclasses
from typing import Any

from jaxdissect.encoder.families.linen import LinenEncoder, with_random_weights
from jaxdissect.encoder.families.m2d import untrained_m2d
from jaxdissect.encoder.families.vit import SIZES, vit_config
from jaxdissect.encoder.families.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from jaxdissect.errors import InputError

FAMILIES: dict[str, type[LinenEncoder]] = {family.family: family for family in (Wav2Vec2,)}

_LARGE: dict[str, Any] = {"width": 1024, "depth": 24, "heads": 16, "mlp": 4096}
# A LayerNorm in every convolution, and pre-norm blocks.
_STABLE: dict[str, Any] = {"norm_first": True, "conv_norm": "layer", "conv_bias": True}
_DATA2VEC: dict[str, Any] = {"conv_norm": "layer", "position_norm": "layer", "position_depth": 5, "position_kernel": 19}
CONFIGS: dict[str, tuple[type[LinenEncoder], Any]] = {
    "wav2vec2-base": (Wav2Vec2, Wav2Vec2Config()),
    "wav2vec2-large": (Wav2Vec2, Wav2Vec2Config(**_LARGE)),
    "wav2vec2-large-lv60": (Wav2Vec2, Wav2Vec2Config(**_LARGE, **_STABLE)),
    "xls-r-300m": (Wav2Vec2, Wav2Vec2Config(**_LARGE, **_STABLE)),
    "xls-r-1b": (Wav2Vec2, Wav2Vec2Config(width=1280, depth=48, heads=16, mlp=5120, **_STABLE)),
    "xls-r-2b": (Wav2Vec2, Wav2Vec2Config(width=1920, depth=48, heads=16, mlp=7680, **_STABLE)),
    "hubert-base": (Wav2Vec2, Wav2Vec2Config()),
    "hubert-large": (Wav2Vec2, Wav2Vec2Config(**_LARGE, **_STABLE)),
    "hubert-xlarge": (Wav2Vec2, Wav2Vec2Config(width=1280, depth=48, heads=16, mlp=5120, **_STABLE)),
    "wavlm-base": (Wav2Vec2, Wav2Vec2Config(normalise=False, buckets=320, distance=800)),
    "wavlm-large": (Wav2Vec2, Wav2Vec2Config(**_LARGE, **{**_STABLE, "conv_bias": False}, buckets=320, distance=800)),
    "data2vec-audio-base": (Wav2Vec2, Wav2Vec2Config(**_DATA2VEC)),
    "data2vec-audio-large": (Wav2Vec2, Wav2Vec2Config(**_LARGE, **_DATA2VEC)),
    "mert-95m": (Wav2Vec2, Wav2Vec2Config(sample_rate=24000)),
    "mert-330m": (Wav2Vec2, Wav2Vec2Config(sample_rate=24000, **_LARGE, **_STABLE)),
}
M2D_SIZES = {f"m2d-{size}": size for size in SIZES}


def untrained_encoder(name: str, seed: int = 0) -> LinenEncoder:
    """An encoder of a published architecture with seeded random weights: the baseline of a trained one.

    Args:
      name: name of the architecture, as "wav2vec2-base" or "m2d-base".
      seed: seed of the weights.

    Raises:
      InputError: there is no such name.
    """
    if name in M2D_SIZES:
        return untrained_m2d(vit_config(M2D_SIZES[name]), seed=seed, name=f"untrained {name}")
    if name not in CONFIGS:
        raise InputError(f"There is no architecture {name!r}; known: {', '.join([*M2D_SIZES, *CONFIGS])}.")
    family, config = CONFIGS[name]
    return with_random_weights(family(f"untrained {name}", config, {}, source=untrained_source(seed)), seed)


def untrained_twin(encoder: LinenEncoder, seed: int = 0) -> LinenEncoder:
    """The same architecture and front end with seeded random weights, and without a task head.

    Args:
      encoder: a trained encoder.
      seed: seed of the weights.
    """
    untrained = dataclasses.replace(encoder, name=f"untrained {encoder.name}", source=untrained_source(seed))
    return with_random_weights(untrained, seed)


def untrained_source(seed: int) -> dict[str, str]:
    """The source that is recorded of random weights.

    Args:
      seed: seed of the weights.
    """
    return {"file": f"none: random weights, seed {seed}"}
