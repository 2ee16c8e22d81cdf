"""Folders of Hugging Face: `config.json`, `preprocessor_config.json` and weights -> encoders."""

import re
from pathlib import Path
from typing import Any

from jaxdissect.encoder.convert import wav2vec2
from jaxdissect.encoder.convert.recipe import Recipe, checkpoint_name, follow_recipe
from jaxdissect.encoder.convert.settings import Settings
from jaxdissect.encoder.convert.state import load_folder, read_json
from jaxdissect.encoder.families.linen import LinenEncoder
from jaxdissect.errors import InputError, require
from jaxdissect.types import Record

RECIPES: dict[str, Recipe] = {**wav2vec2.RECIPES}
FRONT_ENDS = ("preprocessor_config.json", "processor_config.json")  # where the settings of a front end may be
QUANTISED = ("quantization_config", "compression_config")


def convert_folder(folder: Path, name: str | None, licence: str | None) -> LinenEncoder:
    """The encoder of a folder.

    Args:
      folder: folder of Hugging Face.
      name: name of the encoder; None: the folder's.
      licence: licence of the weights; None: that of the folder's README.md.

    Raises:
      InputError: the folder is of no family that is known, or its settings or keys are not supported.
    """
    values = _model_settings(folder)
    kind = values.get("model_type")
    if kind not in RECIPES:
        raise InputError(
            f"{folder / 'config.json'}: model_type is {kind!r}; supported are {', '.join(map(repr, RECIPES))}. "
            f"An encoder of your own comes in as package.module:factory; see docs/encoders.md."
        )
    for setting in QUANTISED:
        found = values.get(setting)
        require(not found, f"{folder / 'config.json'}: {setting} is set; give the weights before they were quantised.")
    front_end = _front_end_settings(folder)
    state, source = load_folder(folder)
    source["licence"] = licence or _licence(folder)
    return follow_recipe(
        RECIPES[kind], name or checkpoint_name(folder), Settings("config.json", values), front_end, state, source
    )


def _model_settings(folder: Path) -> Record:
    """Content of `config.json`; without it the message says what the folder seems to be."""
    file = folder / "config.json"
    if file.is_file():
        return read_json(file)
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder} holds an adapter (LoRA) and no model: merge it into its model and save that, with config.json."
        )
    if (folder / "encoder.json").is_file():
        raise InputError(f"{folder} is an encoder directory already: give it as --encoder.")
    raise InputError(f"{folder} has no config.json: give the folder of a model, or a checkpoint file.")


def _front_end_settings(folder: Path) -> Settings:
    for name in FRONT_ENDS:
        if (folder / name).is_file():
            values: Any = read_json(folder / name)
            # A processor holds its feature extractor's settings beside those of a tokenizer.
            return Settings(name, values.get("feature_extractor", values))
    raise InputError(
        f"{folder} has no {FRONT_ENDS[0]}, which says the sampling rate and how sound is prepared: "
        f"take it from the model's page."
    )


def _licence(folder: Path) -> str:
    """The licence that the head of a model card names."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    named = re.search(r"^license:\s*(\S.*)$", head[1], re.MULTILINE) if head else None
    return named[1].strip().strip("'\"") if named else "unknown"
