"""Any checkpoint that is known -> an encoder directory: files of PyTorch, folders of Hugging Face, names of its hub."""

from pathlib import Path

from jaxdissect.encoder.convert.hub import HUB, download
from jaxdissect.encoder.convert.huggingface import convert_folder
from jaxdissect.encoder.convert.m2d import encoder_from_state, m2d_name, sizes_from_name
from jaxdissect.encoder.convert.state import load_state
from jaxdissect.encoder.directory import save_encoder
from jaxdissect.encoder.families.linen import LinenEncoder
from jaxdissect.errors import require
from jaxdissect.runtime.files import require_new, sha256_file


def convert_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    name: str | None = None,
    heads: int | None = None,
    licence: str | None = None,
) -> LinenEncoder:
    """Convert a checkpoint of PyTorch and write it as an encoder directory, without running pickled code.

    Source: checkpoints of Niizumi et al., "Masked Modeling Duo" (arXiv:2404.06095), and of fine-tuning by EVAR; the
    families of docs/zoo.md.

    Args:
      checkpoint: a folder of Hugging Face; "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION", which is downloaded; or a file,
        in any of the layouts in which the checkpoints of M2D are published.
      out: encoder directory to make.
      name: name of the encoder. For M2D it carries the sizes, "m2d_vit_base-80x608p16x16". Default: the folder's or
        the file's name.
      heads: number of attention heads of an M2D, which no checkpoint holds; default: width / 64, as in every published
        ViT.
      licence: licence of the weights, recorded in `encoder.json`. Default: that of the folder's README.md, or unknown.

    Raises:
      InputError: the file holds foreign objects, settings are not supported, keys are unknown or missing, or sizes
        disagree.
    """
    require_new(Path(out))
    path = download(str(checkpoint)) if str(checkpoint).startswith(HUB) else Path(checkpoint)
    require(path.exists(), f"{path} is not a file: give the checkpoint's path, a folder, or {HUB}OWNER/NAME.")
    if path.is_dir():
        require(heads is None, "heads is for files of M2D only: the config.json of a folder says them.")
        encoder = convert_folder(path, name, licence)
    else:
        name = m2d_name(path) if name is None else name
        sizes = sizes_from_name(name)
        source = {"file": path.name, "sha256": sha256_file(path), "licence": licence or "unknown"}
        encoder = encoder_from_state(load_state(path), name, sizes, heads, source)
    save_encoder(encoder, out)
    return encoder
