"""Encoder directories: `encoder.json` (sizes, front end, origin) and `params/` (orbax), and loading any encoder."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdissect.audio.log_mel import LogMel
from jaxdissect.encoder.families.catalogue import FAMILIES, untrained_encoder, untrained_twin
from jaxdissect.encoder.families.linen import LinenEncoder
from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.encoder.families.vit import ViTConfig
from jaxdissect.encoder.foreign import ForeignEncoder, load_foreign
from jaxdissect.encoder.protocol import Encoder, Variables, head_shapes
from jaxdissect.encoder.shipped import shipped_encoder, shipped_encoders
from jaxdissect.errors import InputError, require
from jaxdissect.runtime.array_trees import read_arrays, write_arrays
from jaxdissect.runtime.files import new_folder, require_regular
from jaxdissect.types import Record

UNTRAINED = "untrained:"
FORMAT = 1  # of encoder.json and params/; raised when their meaning changes
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
STORAGES = {"float32": jnp.float32, "float16": jnp.float16}


def save_encoder(
    encoder: LinenEncoder, path: str | Path, storage: str = "float32", files: Mapping[str, str] | None = None
) -> None:
    """Write an encoder directory; it appears whole or not at all.

    Args:
      encoder: encoder to write.
      path: directory to make.
      storage: type in which parameters are kept; "float16" halves the size and rounds them. They compute in float32
        all the same.
      files: further text files of the directory, by name.

    Raises:
      InputError: `path` exists already, or cannot be written; `storage` is unknown, or cannot hold the parameters.
    """
    require(storage in STORAGES, f"storage must be one of {', '.join(STORAGES)}, got {storage!r}.")
    stored = _cast_params(encoder.variables, STORAGES[storage])
    require(
        _finite(stored) or not _finite(encoder.variables),
        f"storage {storage!r} cannot hold parameters as large as this encoder's: choose 'float32'.",
    )
    # The fingerprint is that of the encoder as it will be read: with its parameters rounded.
    encoder = dataclasses.replace(encoder, variables=_cast_params(stored, jnp.float32))
    head = encoder.variables.get("head")
    description = {
        "format": FORMAT,
        "name": encoder.name,
        **encoder.settings(),
        **_readable(encoder),
        "head_classes": None if head is None else len(head["bias"]),
        "storage": storage,
        "fingerprint": fingerprint(encoder),
        "source": {key: value for key, value in encoder.source.items() if key != "licence"},
        "licence": encoder.source.get("licence", "unknown"),
    }
    # The description last of the texts, so that no file of the caller's takes its place.
    with new_folder(Path(path)) as folder:
        for name, text in {**(files or {}), "encoder.json": json.dumps(description, indent=2) + "\n"}.items():
            (folder / name).write_text(text)
        write_arrays(folder / "params", stored)


def load_encoder(path: str | Path, dtype: str = "float32", units: str | None = None) -> Encoder:
    """Load an encoder directory or one that ships with the project, make an untrained one, or call a factory.

    Args:
      path: directory; name of a shipped encoder ("supervised_tiny"); or "package.module:factory", which is called as
        `factory(dtype=jnp.float32)`, or with `jnp.bfloat16`, and returns an `Encoder`. Or "untrained:NAME", where NAME
        is an architecture ("wav2vec2-base") or a directory, whose sizes are taken; ":1" behind it is another seed
        than 0.
      dtype: type of the computation, "float32" (float32 products) or "bfloat16".
      units: kind of its neurons: "mlp", "heads" or "residual"; for a factory's encoder a name in its `units`. Default:
        the hidden units of the MLPs, or the `neurons` of the factory's encoder.

    Raises:
      InputError: no encoder is there, it is not what its `encoder.json` says, or it has no such units.
    """
    encoder = _load(path, dtype)
    return encoder if units is None else with_units(encoder, units)


def with_units(encoder: Encoder, name: str) -> Encoder:
    """The encoder with other values as its neurons.

    Args:
      encoder: an encoder that was loaded.
      name: a name in its attribute `units`.

    Raises:
      InputError: it has no units of that name.
    """
    known = getattr(encoder, "units", None) or {}
    require(
        name in known,
        f"units must be one of {', '.join(known) or 'none'} for {encoder.name}, got {name!r}. Your own encoder names "
        f"its units in the attribute `units`; see docs/encoders.md.",
    )
    if isinstance(encoder, LinenEncoder):
        return dataclasses.replace(encoder, kind=name)
    if isinstance(encoder, ForeignEncoder):
        return encoder.with_units(known[name])
    raise TypeError(f"{type(encoder).__name__} was not loaded by load_encoder.")


def _load(path: str | Path, dtype: str) -> Encoder:
    require(dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    if str(path).startswith(UNTRAINED):
        return dataclasses.replace(_untrained(str(path).removeprefix(UNTRAINED)), dtype=DTYPES[dtype])
    folder = Path(path)
    if not folder.exists():
        if ":" in str(path):
            return load_foreign(str(path), DTYPES[dtype])
        folder = shipped_encoder(str(path)) or folder
    return dataclasses.replace(read_encoder(folder), dtype=DTYPES[dtype])


def _untrained(name: str) -> LinenEncoder:
    """An encoder with random weights: of an architecture, or of an encoder directory, and perhaps of another seed."""
    start, _, end = name.rpartition(":")
    name, seed = (start, int(end)) if start and end.isdecimal() else (name, 0)
    folder = Path(name) if Path(name).exists() else shipped_encoder(name)
    return untrained_encoder(name, seed) if folder is None else untrained_twin(read_encoder(folder), seed)


def read_encoder(folder: Path) -> LinenEncoder:
    """Read an encoder directory.

    Args:
      folder: the directory.

    Raises:
      InputError: it is none, or was changed after it was written.
    """
    description = _read_description(folder)
    try:
        encoder = _without_variables(description)
        storage = STORAGES[description.get("storage", "float32")]
        target = _shapes(encoder, description["head_classes"], storage)
        stored = read_arrays(folder / "params", target, "encoder.json", "convert the checkpoint again")
        encoder = dataclasses.replace(encoder, variables=_cast_params(stored, jnp.float32))
        expected = {name: description[name] for name in ("fingerprint", *_readable(encoder))}
    except (KeyError, TypeError, AttributeError) as error:  # of a description that somebody has edited
        raise InputError(
            f"{folder / 'encoder.json'} lacks or misnames an entry ({error}): convert the checkpoint again."
        ) from error
    require(
        expected == {"fingerprint": fingerprint(encoder), **_readable(encoder)},
        f"{folder} was changed after it was converted: its numbers do not match the fingerprint in encoder.json. "
        f"Convert the checkpoint again.",
    )
    return encoder


def _without_variables(description: Record) -> LinenEncoder:
    """The encoder that a description tells of, before its arrays are read."""
    name, source = description["name"], {**description["source"], "licence": description["licence"]}
    if "family" not in description:
        config, front_end = ViTConfig(**description["vit"]), LogMel(**description["front_end"])
        return M2D(name, config, {}, source=source, log_mel=front_end)
    family = FAMILIES.get(description["family"])
    if family is None:
        raise InputError(
            f"{name} is an encoder of the family {description['family']!r}; this version knows {', '.join(FAMILIES)}."
        )
    # JSON has lists where a config has tuples.
    settings = description["config"].items()
    config = family.config_type(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings})
    return family(name, config, {}, source=source)


def fingerprint(encoder: Encoder) -> str:
    """SHA-256 over everything that defines an encoder: its settings, and every array's path, type, shape and bytes."""
    digest = hashlib.sha256(
        json.dumps([encoder.neurons, encoder.sample_rate, encoder.settings()], sort_keys=True).encode()
    )
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(encoder.variables))
    # Sorted by path, so that kinds of mapping that flatten in different orders give one fingerprint.
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        # The keys of random numbers that an NNX model keeps are no arrays of numbers.
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) if hasattr(leaf, "dtype") else False
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        # Path, type and shape too: by their bytes alone, two arrays are the same as one of both.
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _read_description(folder: Path) -> Record:
    file = folder / "encoder.json"
    require_regular(file)
    try:
        description = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} is no encoder directory (no {file.name} in it): make one with "
            f"`jaxdissect convert CHECKPOINT OUT` or `jaxdissect train`, take one that ships with the project "
            f"({', '.join(shipped_encoders()) or 'none here'}), or give package.module:factory."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): convert the checkpoint again.") from error
    require(
        isinstance(description, dict) and description.get("format") == FORMAT,
        f"{file} must be an encoder description of format {FORMAT}: convert the checkpoint again with this version.",
    )
    return description


def _shapes(encoder: LinenEncoder, head_classes: int | None, dtype: DTypeLike) -> Variables:
    """Shapes and types of everything in `params/`."""
    shapes: Record = {}
    if constants := encoder.constant_shapes():
        shapes["front_end"] = constants
    if head_classes is not None:
        shapes["head"] = head_shapes(encoder.features, head_classes)

    def variables() -> Variables:  # traced, never computed
        zeros = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda node: isinstance(node, tuple))
        return _cast_params({"params": encoder.init(jax.random.key(0)), **zeros}, dtype)

    target: Variables = jax.eval_shape(variables)
    return target


def _cast_params(variables: Variables, dtype: DTypeLike) -> Variables:
    """Variables with the parameters of the ViT in another type; the front end and a task head stay float32."""
    return {**variables, "params": jax.tree.map(lambda leaf: leaf.astype(dtype), variables["params"])}


def _finite(variables: Variables) -> bool:
    return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(variables["params"]))


def _readable(encoder: LinenEncoder) -> Record:
    """Constants that `encoder.json` shows, too."""
    norm_stats = encoder.variables.get("front_end", {}).get("norm_stats")
    return {} if norm_stats is None else {"norm_stats": [float(value) for value in norm_stats]}
