"""Where the encoders that ship with the project lie: in the installed package, or in a checkout's `weights/`."""

from pathlib import Path

PACKAGE = Path(__file__).parent.parent
FOLDERS = (PACKAGE / "weights", PACKAGE.parent / "weights")


def shipped_encoder(name: str) -> Path | None:
    """The directory of an encoder that ships with the project; None if there is none of that name."""
    plain = Path(name).name == name  # no path that leads elsewhere
    found = (folder / name for folder in FOLDERS if plain and (folder / name / "encoder.json").is_file())
    return next(found, None)


def shipped_encoders() -> tuple[str, ...]:
    """Names of the encoders that ship with the project."""
    return tuple(sorted({file.parent.name for folder in FOLDERS for file in folder.glob("*/encoder.json")}))
