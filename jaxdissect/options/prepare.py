"""Options of `jaxdissect prepare` and `jaxdissect verify`."""

import dataclasses
from pathlib import Path

import tyro

from jaxdissect.options.base import Count, Fraction, Options, Positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions(Options):
    """Decode a task's clips once, into shards of 16-bit PCM.

    The shards then take the place of the data folder.

    Examples:
      jaxdissect prepare --task esc50 --data ESC-50 --out ESC-50-16k
      jaxdissect prepare --task esc50 --data ESC-50 --out ESC-50-32k --sample-rate 32000

    Attributes:
      task: known task (esc50, cremad, ..., notes), tfds:NAME, or a CSV in EVAR's format.
      out: folder to make; afterwards the --data of every other command. An interrupted preparation resumes.
      data: data folder; file names are relative to it. Default for a CSV: its own folder.
      sample_rate: sample rate of the encoders to come, Hz: 16000 or, for M2D's 32 kHz models, 32000.
      unit_seconds: length to which clips are cropped, s. A known task brings its own.
      label: for tfds:NAME, features that its new table lists, joined by commas; other tables are copied whole.
      shard_clips: clips in a shard.
      part: I/N: work of the I-th of N processes that share the shards; run the command without it at the end.
      max_bad_clips: fraction of unreadable clips above which the command fails, after everything else was prepared.
    """

    task: str
    out: Path
    data: Path | None = None
    sample_rate: Count = 16000
    unit_seconds: Positive | None = None
    label: str | None = None
    # 655 MB for clips of 10 s at 16 kHz: little to lose or to copy again, and two million clips make 977 files.
    shard_clips: Count = 2048
    part: str | None = None
    max_bad_clips: Fraction = 0.01


@dataclasses.dataclass(frozen=True)
class VerifyOptions(Options):
    """Compare every file of a prepared folder with its SHA-256.

    Shards, lists and tables are read whole.

    Examples:
      jaxdissect verify ESC-50-16k

    Attributes:
      folder: folder that `jaxdissect prepare` made.
    """

    folder: tyro.conf.Positional[Path]
