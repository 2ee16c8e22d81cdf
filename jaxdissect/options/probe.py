"""Options of `jaxdissect probe`."""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxdissect.errors import require
from jaxdissect.options.base import Count, Fraction, Options, Positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeOptions(Options):
    """Train a linear probe on an encoder's clip embeddings.

    The protocol is that of the M2D and AAPE papers.

    Examples:
      jaxdissect probe --run runs/esc50
      jaxdissect probe --run runs/esc50 --layers all
      jaxdissect probe --encoder m2d_tiny --task esc50 --data ESC-50 --run runs/probe --folds all

    Attributes:
      run: run directory; its stage `activations`, if there is one, gives encoder, task and their options.
      encoder: encoder directory, name of a shipped encoder, or package.module:factory.
      task: known task (esc50, cremad, ..., notes), tfds:NAME, or a CSV in EVAR's format.
      data: data folder; file names are relative to it. Default for a CSV: its own folder.
      label: label sets, joined by commas. Default: the task's first; for a CSV the column `label`.
      test_fold: fold that is held out as the test split, in a table with folds; with --folds all, the one that `ablate`
        judges on. Default: the run's, or 5.
      unit_seconds: length to which clips are cropped or padded, s. A known task brings its own.
      multi_label: commas separate several labels in every label set. Default: as the run or the known task says, else
        they do not.
      head: trained, a new one; or encoder, the encoder's own task head, whose outputs must be the task's classes in
        order.
      layers: last, to probe the encoder's own embedding; or all, to probe also the embedding after every layer of a
        LayeredEncoder. This takes 4 bytes x clips x (layers + 1) x features of memory.
      folds: test, to hold out the test fold; or all, to hold out every fold in turn.
      seeds: probes per fold, each with its own initial weights, order and validation clips.
      learning_rate: learning rate of Adam.
      epochs: largest number of passes over the training clips.
      patience: epochs without a better validation score after which training stops.
      probe_batch_size: largest number of clips in a step of the probe.
      batch_size: clips per device and step of the encoder.
      dtype: type of the encoder's computation. Default: the run's, or float32.
      max_bad_clips: fraction of unreadable clips above which the command fails, after the probes of the others were
        saved.

    Raises:
      InputError: an option breaks a rule, or the encoder's own head is combined with all folds or layers.
    """

    run: Path
    encoder: str | None = None
    task: str | None = None
    data: Path | None = None
    label: str | None = None
    test_fold: int | None = None
    unit_seconds: Positive | None = None
    multi_label: bool | None = None
    head: Literal["trained", "encoder"] = "trained"
    layers: Literal["last", "all"] = "last"
    folds: Literal["test", "all"] = "test"
    seeds: Count = 3
    learning_rate: Positive = 3e-5
    epochs: Count = 200
    patience: Count = 20
    probe_batch_size: Count = 200
    batch_size: Count = 16
    dtype: Literal["float32", "bfloat16"] | None = None
    max_bad_clips: Fraction = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.head == "trained" or self.folds == "test",
            "--head encoder: its head was trained once, on some of the folds: leave --folds all out.",
        )
        require(
            self.head == "trained" or self.layers == "last",
            "--head encoder: its head reads the last layer only: leave --layers all out.",
        )
