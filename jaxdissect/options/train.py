"""Options of `jaxdissect train`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from jaxdissect.errors import require
from jaxdissect.options.base import Count, Fraction, Options, Positive, Rule, Whole, flag

NotNegative: TypeAlias = Annotated[float, Rule("0 or a positive number", least=0)]

# Options that only some of the objectives have.
OBJECTIVES_OF: Mapping[str, tuple[str, ...]] = {
    "mask_ratio": ("m2d", "msm_mae"),
    "decoder_width": ("m2d", "msm_mae"),
    "decoder_depth": ("m2d", "msm_mae"),
    "ema": ("m2d",),
    "standardise": ("m2d",),
    "standardise_patches": ("msm_mae",),
    "mixup": ("supervised",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Train an encoder on a task, self-supervised or supervised.

    The training split is used. A training that was stopped resumes by the same command.

    Source: Niizumi et al., "Masked Modeling Duo" (arXiv:2404.06095), and "Masked Spectrogram Modeling using Masked
    Autoencoders" (arXiv:2204.12260).

    Examples:
      jaxdissect train --objective m2d --task esc50 --data ESC-50 --out mine --size tiny --input 80x208p16x16
      jaxdissect train --objective supervised --task esc50 --data ESC-50 --out mine --start-from m2d_tiny --epochs 50

    Attributes:
      objective: m2d and msm_mae look at no labels; supervised learns one label set.
      task: known task (esc50, cremad, ..., notes), tfds:NAME, or a CSV in EVAR's format.
      out: encoder directory to make. Until it is complete, the training's state is kept in OUT.training, from which the
        same command resumes.
      data: data folder; file names are relative to it. Default for a CSV: its own folder.
      label: label set to learn. Default: the task's first; for a CSV the column `label`.
      test_fold: fold that is held out as the test split, in a table with folds; it is not trained on. Default: 5.
      unit_seconds: length to which clips are cropped or padded, s. A known task brings its own.
      multi_label: supervised: commas separate several labels. Default: as the known task says, else they do not.
      size: size of the ViT: tiny, small, base or large. Default: base.
      input: mel bands x frames, p, patch bands x frames, as in M2D's names; a third part p32k means 32 kHz. Default:
        80x608p16x16.
      start_from: encoder directory, or name of a shipped encoder, to start from instead of random weights; its sizes
        and its front end are kept.
      epochs: passes over the clips; each pass takes one random crop of every clip.
      batch_size: crops per device and step.
      part_size: crops of which gradients are taken at once, and within which mixup and --standardise batch stay; a
        divisor of the batch size. Default: on a CPU 16, which fit its cache, else the whole batch.
      learning_rate: highest learning rate, after the warm-up.
      warm_up: fraction of the steps during which the learning rate rises; then it falls along a cosine.
      weight_decay: weight decay of AdamW.
      dtype: type of the computation; parameters stay float32. Default: bfloat16 on an accelerator, else float32.
      mask_ratio: m2d, msm_mae: fraction of the patches that is masked. Default: 0.7.
      decoder_width: m2d, msm_mae: width of the predictor or decoder. Default: 96.
      decoder_depth: m2d, msm_mae: blocks of the predictor or decoder. Default: 4.
      ema: m2d: fraction of the target encoder that a step keeps, at the first and at the last step. Default: 0.996 1.
      standardise: m2d: targets by the features of each token, or each feature over the part of the batch that is
        computed at once. Default: token.
      standardise_patches: msm_mae: predict each patch less its own mean and over its own deviation.
      mixup: supervised: parameter of mixup's Beta distribution; 0 for none. Default: 0.5.
      storage: type in which the parameters are written.
      licence: licence of the weights, recorded in encoder.json. Default: that of the encoder to start from, or unknown.
      max_bad_clips: fraction of unreadable clips above which training is refused.
      log_steps: steps between two points of the curve.
      save_minutes: minutes between two saved states, from which a killed training resumes.
      profile: folder to write a trace of five steps into, after the first two; see docs/profile.md.
      seed: seed of initial weights, crops, masks and order.

    Raises:
      InputError: an option breaks a rule, or is not one of the objective's.
    """

    objective: Literal["m2d", "msm_mae", "supervised"]
    task: str
    out: Path
    data: Path | None = None
    label: str | None = None
    test_fold: int | None = None
    unit_seconds: Positive | None = None
    multi_label: bool | None = None
    size: Literal["tiny", "small", "base", "large"] | None = None
    input: str | None = None
    start_from: Path | None = None
    epochs: Count = 100
    batch_size: Count = 128
    part_size: int | None = None
    learning_rate: Positive = 1e-3
    warm_up: Annotated[float, Rule("a fraction of the steps from 0 to below 1", least=0, most=1)] = 0.05
    weight_decay: NotNegative = 0.05
    dtype: Literal["float32", "bfloat16"] | None = None
    mask_ratio: Annotated[float, Rule("a fraction between 0 and 1", least=0, most=1, above=True)] | None = None
    decoder_width: Count | None = None
    decoder_depth: Count | None = None
    ema: tuple[Fraction, Fraction] | None = None
    standardise: Literal["token", "batch"] | None = None
    standardise_patches: bool | None = None
    mixup: NotNegative | None = None
    storage: Literal["float32", "float16"] = "float32"
    licence: str | None = None
    max_bad_clips: Fraction = 0.01
    log_steps: Count = 20
    save_minutes: NotNegative = 5.0
    profile: Path | None = None
    seed: Whole = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.warm_up < 1, f"--warm-up must be a fraction of the steps from 0 to below 1, got {self.warm_up}.")
        require(self.mask_ratio != 1, f"--mask-ratio must be a fraction between 0 and 1, got {self.mask_ratio}.")
        require(
            self.decoder_width is None or self.decoder_width % 4 == 0,
            f"--decoder-width must be a multiple of 4, got {self.decoder_width}.",
        )
        require(self.seed < 2**32, f"--seed must be below 2**32, got {self.seed}.")
        require(
            self.objective != "m2d" or 1 not in (self.part_size, self.batch_size),
            "--objective m2d compares the clips of a part: --part-size must be 2 at least, got 1.",
        )
        for name in ("label", "multi_label"):
            require(
                self.objective == "supervised" or getattr(self, name) is None,
                f"{flag(name)}: --objective {self.objective} looks at no labels: leave it out.",
            )
        names = [part.strip() for part in (self.label or "").split(",") if part.strip()]
        require(len(names) <= 1, f"--label: a training learns one label set, got {', '.join(names)}: name one.")
        for name in self.of_objective:
            require(
                self.objective in OBJECTIVES_OF[name],
                f"{flag(name)} is not an option of --objective {self.objective}: leave it out.",
            )

    @property
    def of_objective(self) -> dict[str, object]:
        """Options given that only some of the objectives have."""
        return {name: getattr(self, name) for name in OBJECTIVES_OF if getattr(self, name) is not None}
