"""Where the encoders that ship with the project lie: in the installed package, or in a checkout's `weights/`."""

from pathlib import Path

PACKAGE = Path(__file__).parent.parent
WEIGHT_FOLDERS = (PACKAGE / "weights", PACKAGE.parent / "weights")


def shipped_encoder(name: str) -> Path | None:
    """The directory of an encoder that ships with the project; None if no such encoder ships."""
    is_plain_name = Path(name).name == name  # no path that leads elsewhere
    folders = [folder / name for folder in WEIGHT_FOLDERS if is_plain_name]
    return next((folder for folder in folders if (folder / "encoder.json").is_file()), None)


def shipped_encoders() -> tuple[str, ...]:
    """Names of the encoders that ship with the project."""
    return tuple(sorted({file.parent.name for folder in WEIGHT_FOLDERS for file in folder.glob("*/encoder.json")}))
