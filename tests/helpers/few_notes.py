"""A few of the synthesised notes, for tests of many commands in a row."""

import shutil

import pandas as pd

from jaxdissect.tasks.known import load_task

PITCH_CLASSES = ("C", "E", "G#")


def few_notes(folder, pitch_classes=PITCH_CLASSES):
    """Put some of the notes into a folder: all instruments and octaves, the first takes; returns the table.

    Args:
      folder: new data folder, in which the commands then find `notes`.
      pitch_classes: pitch classes of the notes; three are an eighth of all.
    """
    data = load_task("notes").data
    table = pd.read_csv(data / "notes.csv")
    chosen = table["pitch_class"].isin(pitch_classes) & table["file_name"].str.endswith("_1.wav")
    for name in table[chosen]["file_name"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / name, folder / name)
    table[chosen].to_csv(folder / "notes.csv", index=False)
    return folder / "notes.csv"
