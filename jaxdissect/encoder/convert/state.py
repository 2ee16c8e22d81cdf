"""Files of PyTorch and of Hugging Face -> arrays by key, without running pickled code."""

import argparse
import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdissect.errors import InputError, require
from jaxdissect.runtime.files import sha256_file
from jaxdissect.types import Json

# Where a folder of Hugging Face keeps its weights; the first that is there is read.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Types of tensors, as safetensors names them; whole numbers are positions and counts, which no encoder needs.
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": jnp.bfloat16, "I64": "<i8", "I32": "<i4"}


def load_content(path: Path) -> Any:
    """What a file of PyTorch holds. Of Python objects only `argparse.Namespace` is admitted beside plain containers.

    Args:
      path: the file.

    Raises:
      InputError: the file is not a checkpoint, or holds other objects, or PyTorch is missing.
    """
    try:
        import torch  # an extra of the package, needed only here
    except ImportError as error:
        raise InputError("Converting needs PyTorch: pip install 'jaxdissect[convert]'.") from error
    try:
        # weights_only: the unpickler builds tensors and the classes named here, and calls nothing else.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
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


def load_state(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.pth` file by name, as float32.

    Args:
      path: the file; its state dict may lie under "model".

    Raises:
      InputError: as `load_content`; or the file holds no state dict.
    """
    return state_dict(path, load_content(path), "model")


def state_dict(path: Path, content: Any, entry: str) -> dict[str, np.ndarray]:
    """The state dict among what a file holds, as float32.

    Args:
      path: the file, for messages.
      content: what it holds.
      entry: name under which the state dict may lie.

    Raises:
      InputError: there is no state dict, or one with values that are no dense tensors.
    """
    import torch

    # A training checkpoint has the state dict beside the optimizer's state and the arguments.
    state = content.get(entry, content) if isinstance(content, dict) else content
    if not isinstance(state, Mapping) or not state or not all(map(_is_dense, state, state.values())):
        raise InputError(f"{path} must hold a state dict, or one under {entry!r}; got {_described(content)}.")
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
        and not value.is_quantized
    )


def _described(content: object) -> str:
    """The type of a checkpoint's content; of a dict five entries, those first that no state dict has."""
    if not isinstance(content, Mapping):
        return type(content).__name__
    entries = sorted(content.items(), key=lambda entry: _is_dense(*entry))[:5]
    return "a dict of " + ", ".join(f"{key} ({type(value).__name__})" for key, value in entries)


def load_folder(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Json]]:
    """The arrays of a folder of Hugging Face by key, and the names and SHA-256 of its files of weights.

    Args:
      folder: folder with one of `WEIGHTS`.

    Raises:
      InputError: there are no weights, a file of them is missing or damaged, or they are quantised.
    """
    name = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        raise InputError(f"{folder} holds no weights: it needs one of {', '.join(WEIGHTS)}.")
    files = _shards(folder, name) if name.endswith(".json") else [name]
    state: dict[str, np.ndarray] = {}
    for file in files:
        require((folder / file).is_file(), f"{folder / file} is missing: download the folder again.")
        part = _safetensors(folder / file) if file.endswith(".safetensors") else load_state(folder / file)
        twice = sorted(state.keys() & part.keys())
        require(not twice, f"{folder}: the key {twice[:1]} is in two files: download the folder again.")
        state.update(part)
    digests = [sha256_file(folder / file) for file in files]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return state, {"file": ", ".join(files), "sha256": whole}


def _shards(folder: Path, name: str) -> list[str]:
    """The files that an index names, each once; none may lie elsewhere."""
    index = read_json(folder / name)
    mapping = index.get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(file, str) for file in mapping.values()):
        raise InputError(f"{folder / name} has no weight_map: download the folder again.")
    files = sorted(set(mapping.values()))
    outside = [file for file in files if Path(file).name != file]
    require(not outside, f"{folder / name} names a file outside of the folder ({', '.join(outside[:1])}).")
    return files


def _safetensors(file: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    try:
        tensors = dict(deserialize(file.read_bytes()))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable safetensors file ({error}): download it again.") from error
    quantised = sorted(f"{key} ({tensor['dtype']})" for key, tensor in tensors.items() if tensor["dtype"] not in TYPES)
    require(
        not quantised,
        f"{file} holds values of a type that is not supported ({', '.join(quantised[:3])}); supported are "
        f"{', '.join(TYPES)}: give the weights before they were quantised.",
    )
    return {
        key: np.frombuffer(tensor["data"], TYPES[tensor["dtype"]]).reshape(tensor["shape"]).astype(np.float32)
        for key, tensor in tensors.items()
    }


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Args:
      file: file to read.

    Raises:
      InputError: it cannot be read, or holds no object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold a JSON object, got {type(content).__name__}.")
    return content
