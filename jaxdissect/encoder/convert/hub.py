"""Names on Hugging Face's hub -> folders on this machine, by its own library."""

import re
from pathlib import Path

from jaxdissect.errors import InputError, first_line

HUB = "hf:"
NAME = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
FILES = ("*.json", "README.md", "*.safetensors")  # descriptions and weights
PICKLED = ("pytorch_model*.bin",)  # wanted only where there are no safetensors


def download(name: str) -> Path:
    """Download a model, or find it in the hub's cache.

    Args:
      name: "hf:OWNER/NAME", or "hf:OWNER/NAME@REVISION".

    Raises:
      InputError: the name is malformed, the library is missing, or the hub does not give the model.
    """
    match = NAME.fullmatch(name.removeprefix(HUB))
    if match is None:
        raise InputError(f"{name!r} is no name on the hub: give {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION.")
    try:
        import huggingface_hub  # an extra of the package, needed only here
    except ImportError as error:
        raise InputError("Downloading needs huggingface_hub: pip install 'jaxdissect[hub]'.") from error

    def snapshot(patterns: tuple[str, ...]) -> Path:
        repo, revision = match["repo"], match["revision"]
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))

    try:
        folder = snapshot(FILES)
        return folder if any(folder.glob("*.safetensors")) else snapshot(FILES + PICKLED)
    except Exception as error:  # of the network, of rights, of names: many kinds
        raise InputError(
            f"{name} could not be downloaded ({type(error).__name__}: {first_line(error).rstrip('.')})."
        ) from error
