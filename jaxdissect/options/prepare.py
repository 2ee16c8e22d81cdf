"""Options of `jaxdissect prepare`."""

import dataclasses
from pathlib import Path

from jaxdissect.options.rules import Count, Fraction, Options, Positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions(Options):
    """Decode a task's clips once: 16-bit PCM in shards, which then take the place of the data folder.

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
