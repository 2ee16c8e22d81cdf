"""Options of `jaxdissect activations`."""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxdissect.options.base import Count, DistributedOptions, Finite, Fraction, Positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationsOptions(DistributedOptions):
    """Count how often every neuron fires for every class.

    Examples:
      jaxdissect activations --encoder m2d_base --task esc50 --data ESC-50 --run runs/esc50
      jaxdissect activations --encoder m2d_tiny --task sounds.csv --unit-seconds 2.5 --run runs/mine --tokens sounding

    Attributes:
      encoder: encoder directory, name of a shipped encoder, or package.module:factory.
      units: what a neuron is: mlp, a hidden unit of an MLP; heads, an attention head, by the norm of its output;
        residual, a feature of a layer's output; or a name in the `units` of a factory's encoder. Default: mlp, or a
        factory's own neurons.
      task: known task (esc50, cremad, ..., notes), tfds:NAME, or a CSV in EVAR's format.
      run: run directory to write.
      data: data folder; file names are relative to it. Default for a CSV: its own folder.
      label: label sets to count, joined by commas. Default: the task's first; for a CSV the column `label`.
      split: clips that are counted: train, valid, test or all. With folds, train is every fold but the test fold.
      test_fold: fold that is held out as the test split, in a table with folds. Default: 5.
      unit_seconds: length to which clips are cropped or padded, s. A known task brings its own.
      multi_label: commas separate several labels in every label set that is counted. Default: as the known task says,
        else they do not.
      batch_size: clips per device and step.
      dtype: type of the computation, float32 (float32 products) or bfloat16.
      tokens: all; patches, without the class token; or sounding, only patches inside the recording and within 60 dB of
        its loudest patch.
      threshold: activation above which a neuron is active. Heads need one above 0.
      held_out: with --split train, also read the test split clip by clip. `neurons` then judges the neurons on it. They
        are chosen by the training split alone.
      keep_clips: also write what every neuron did on every clip, clip_*.npy. The default preset of `neurons` needs
        it. Default: where it takes at most 8 GB, and where `dissect` needs it.
      max_bad_clips: fraction of unreadable clips above which the command fails, after everything else was counted and
        saved.
      save_minutes: minutes between two saved states, from which a killed run resumes.
      profile: folder to write a trace of five steps into, after the first two; see docs/profile.md.
    """

    encoder: str
    units: str | None = None
    task: str
    run: Path
    data: Path | None = None
    label: str | None = None
    split: Literal["train", "valid", "test", "all"] = "train"
    test_fold: int | None = None
    unit_seconds: Positive | None = None
    multi_label: bool | None = None
    batch_size: Count = 16
    dtype: Literal["float32", "bfloat16"] = "float32"
    tokens: Literal["all", "patches", "sounding"] = "all"
    threshold: Finite = 0.0
    held_out: bool = True
    keep_clips: bool | None = None
    max_bad_clips: Fraction = 0.01
    save_minutes: Positive = 10.0
    profile: Path | None = None
