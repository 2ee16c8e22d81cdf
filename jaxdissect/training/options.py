"""Options of `jaxdissect train`, and what they stand for: encoder, objective, schedule."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import jax

from jaxdissect.encoder.convert import sizes_from_name
from jaxdissect.encoder.directory import DTYPES, load_encoder
from jaxdissect.encoder.m2d import M2D, untrained_m2d
from jaxdissect.encoder.vit import vit_config
from jaxdissect.errors import InputError, require
from jaxdissect.runtime.records import differences
from jaxdissect.tasks.known import label_names
from jaxdissect.tasks.loader import unit_samples
from jaxdissect.tasks.table import TEST_FOLD, LabelSet, Task
from jaxdissect.training.m2d import MaskedModelingDuo
from jaxdissect.training.msm_mae import MSMMAE
from jaxdissect.training.objective import Objective
from jaxdissect.training.step import Schedule
from jaxdissect.training.supervised import Supervised

OBJECTIVES = {"m2d": MaskedModelingDuo, "msm_mae": MSMMAE, "supervised": Supervised}
SPECIFIC = (  # to some of the objectives
    "mask_ratio",
    "decoder_width",
    "decoder_depth",
    "ema",
    "standardise",
    "standardise_patches",
    "mixup",
)
CPU_PART, SMALLEST_PART = 16, 4
SIZE, INPUT = "base", "80x608p16x16"
OF_SIZE = ("width", "depth", "heads", "mlp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train an encoder on a task's training split.

    Source: Niizumi et al., "Masked Modeling Duo" (arXiv:2404.06095), and "Masked Spectrogram Modeling using Masked
    Autoencoders" (arXiv:2204.12260).

    Attributes:
      objective: m2d and msm_mae look at no labels; supervised learns one label set.
      task: known task (esc50, cremad, ..., notes), tfds:NAME, or a CSV in EVAR's format.
      out: encoder directory to make. Until it is complete, the training's state is kept in OUT.training, and the same
        command goes on from there.
      data: data folder; file names are relative to it. Default for a CSV: its own folder.
      label: label set to learn. Default: the task's first; of a CSV the column `label`.
      test_fold: of a table with folds, the one held out as the test split; it is not trained on. Default: 5.
      unit_seconds: length to which clips are cropped or padded, s. A known task brings its own.
      multi_label: supervised: commas separate several labels. Default: as a known task says, else they do not.
      size: of the ViT: tiny, small, base or large. Default: base.
      input: mel bands x frames, p, patch bands x frames, as in M2D's names; a third part p32k means 32 kHz. Default:
        80x608p16x16.
      start_from: encoder directory, or the name of a shipped encoder, to start from instead of random weights; its
        sizes and its front end are kept.
      epochs: passes over the clips, one random crop of each a pass.
      batch_size: crops per device and step.
      part_size: crops of which gradients are taken at once, and within which mixup and --standardise batch stay; a
        divisor of the batch size. Default: on a CPU 16, which fit its cache, else the whole batch.
      learning_rate: the highest, after the warm-up.
      warm_up: share of the steps during which the learning rate rises; then it falls along a cosine.
      weight_decay: of AdamW.
      dtype: of the computation; parameters stay float32. Default: bfloat16 on an accelerator, else float32.
      mask_ratio: m2d, msm_mae: share of the patches that is masked. Default: 0.7.
      decoder_width: m2d, msm_mae: width of the predictor or decoder. Default: 96.
      decoder_depth: m2d, msm_mae: its blocks. Default: 4.
      ema: m2d: how much of the target encoder a step keeps, at the first and at the last step. Default: 0.996 1.
      standardise: m2d: targets by the features of each token, or each feature over the part of the batch that is
        computed at once. Default: token.
      standardise_patches: msm_mae: predict each patch less its own mean and over its own deviation.
      mixup: supervised: parameter of mixup's Beta distribution; 0 for none. Default: 0.5.
      storage: type in which the parameters are written.
      licence: of the weights, recorded in encoder.json. Default: that of the encoder to start from, or unknown.
      max_bad_clips: share of unreadable clips above which training is refused.
      log_steps: steps between two points of the curve.
      save_minutes: minutes between two states on the disk, from which a training that was killed goes on.
      seed: of all that is drawn.
    """

    objective: Literal["m2d", "msm_mae", "supervised"]
    task: str
    out: Path
    data: Path | None = None
    label: str | None = None
    test_fold: int | None = None
    unit_seconds: float | None = None
    multi_label: bool | None = None
    size: Literal["tiny", "small", "base", "large"] | None = None
    input: str | None = None
    start_from: Path | None = None
    epochs: int = 100
    batch_size: int = 128
    part_size: int | None = None
    learning_rate: float = 1e-3
    warm_up: float = 0.05
    weight_decay: float = 0.05
    dtype: Literal["float32", "bfloat16"] | None = None
    mask_ratio: float | None = None
    decoder_width: int | None = None
    decoder_depth: int | None = None
    ema: tuple[float, float] | None = None
    standardise: Literal["token", "batch"] | None = None
    standardise_patches: bool | None = None
    mixup: float | None = None
    storage: Literal["float32", "float16"] = "float32"
    licence: str | None = None
    max_bad_clips: float = 0.01
    log_steps: int = 20
    save_minutes: float = 5.0
    seed: int = 0

    def check(self) -> None:
        """Refuse what makes no sense, before anything is read.

        Raises:
          InputError: an option breaks a rule, or is not one of the objective's.
        """
        for name in ("epochs", "batch_size", "log_steps", "decoder_width", "decoder_depth"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be positive, got {getattr(self, name)}.")
        Schedule(1, self.learning_rate, self.warm_up, self.weight_decay)
        _ = self.parts  # which checks them
        if self.mask_ratio is not None and not 0 < self.mask_ratio < 1:
            raise InputError(f"--mask-ratio must be a share between 0 and 1, got {self.mask_ratio}.")
        if self.decoder_width is not None and self.decoder_width % 4:
            raise InputError(f"--decoder-width must be a multiple of 4, got {self.decoder_width}.")
        if self.ema is not None and not all(0 <= decay <= 1 for decay in self.ema):
            raise InputError(f"--ema must be two shares from 0 to 1, got {self.ema[0]} {self.ema[1]}.")
        if not 0 <= self.max_bad_clips <= 1:
            raise InputError(f"--max-bad-clips must be a share from 0 to 1, got {self.max_bad_clips}.")
        for name in ("mixup", "save_minutes", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"--{name.replace('_', '-')} must be 0 or a positive number, got {value}.")
        if self.seed >= 2**32:
            raise InputError(f"--seed must be below 2**32, got {self.seed}.")
        if self.objective == "m2d" and self.parts[1] < 2:
            raise InputError("--objective m2d compares the clips of a part: --part-size must be 2 at least, got 1.")
        for name in ("label", "multi_label"):
            if self.objective != "supervised" and getattr(self, name) is not None:
                raise InputError(
                    f"--{name.replace('_', '-')}: --objective {self.objective} looks at no labels: leave it out."
                )
        names = label_names(self.label)
        if len(names) > 1:
            raise InputError(f"--label: a training learns one label set, got {', '.join(names)}: name one.")
        fields = {field.name for field in dataclasses.fields(OBJECTIVES[self.objective])}
        foreign = [name for name in self.specific if name not in fields]
        if foreign:
            raise InputError(
                f"--{foreign[0].replace('_', '-')} is not an option of --objective {self.objective}: leave it out."
            )

    @property
    def held_out(self) -> int:
        """The fold that is not trained on, of a table with folds."""
        return TEST_FOLD if self.test_fold is None else self.test_fold

    @property
    def specific(self) -> dict[str, Any]:
        """Options given that belong to some of the objectives."""
        found = {name: getattr(self, name) for name in SPECIFIC}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def parts(self) -> tuple[int, int]:
        """Parts of one device's batch, and clips in a part.

        Raises:
          InputError: the part size does not divide the batch size, or the default is left with too small a one.
        """
        if self.part_size is not None:
            if self.part_size < 1 or self.batch_size % self.part_size:
                raise InputError(f"--part-size must divide --batch-size {self.batch_size}, got {self.part_size}.")
            return self.batch_size // self.part_size, self.part_size
        most = min(CPU_PART, self.batch_size) if jax.default_backend() == "cpu" else self.batch_size
        size = next(size for size in range(most, 0, -1) if self.batch_size % size == 0)
        if size < min(most, SMALLEST_PART):
            raise InputError(
                f"--batch-size {self.batch_size} falls into parts of {size} only: choose a multiple of {CPU_PART}, or "
                f"give --part-size."
            )
        return self.batch_size // size, size

    @property
    def folder(self) -> Path:
        """Where the state of the training is kept until it is done."""
        out = self.out.absolute()
        return out.with_name(out.name + ".training")

    def encoder(self) -> M2D:
        """The encoder to train, with the parameters to start from.

        Raises:
          InputError: `input` is no size; there is no encoder to start from, or none of M2D's; or sizes are given that
            it has not.
        """
        dtype = DTYPES[self.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")]
        name = self.out.absolute().name
        if self.start_from is None:
            sizes = sizes_from_name(self.input or INPUT)
            grid = {name: value for name, value in vars(sizes).items() if name != "sample_rate"}
            encoder = untrained_m2d(vit_config(self.size or SIZE, **grid), sizes.sample_rate, self.seed)
            return dataclasses.replace(encoder, name=name, dtype=dtype, source={"licence": self.licence or "unknown"})
        start = load_encoder(self.start_from)
        if not isinstance(start, M2D):
            raise InputError(f"--start-from {self.start_from} must be an encoder directory.")
        self._require_sizes(start)
        variables = {part: start.variables[part] for part in ("params", "front_end")}  # a head is another's
        source = {"start": start.name, "licence": self.licence or start.source.get("licence", "unknown")}
        return dataclasses.replace(start, name=name, dtype=dtype, variables=variables, source=source)

    def _require_sizes(self, start: M2D) -> None:
        wanted = vars(start.config) | {"sample_rate": start.sample_rate}
        given = {} if self.input is None else vars(sizes_from_name(self.input))
        given |= {} if self.size is None else {name: vars(vit_config(self.size))[name] for name in OF_SIZE}
        differing = differences(wanted, given, names=given, words=("there", "given"))
        require(
            not differing,
            f"--start-from {self.start_from} is an encoder of other sizes than --size and --input say: "
            f"{', '.join(differing.values())}. Leave them out.",
        )

    def build(self, encoder: M2D, labels: LabelSet | None) -> Objective:
        """The objective on an encoder.

        Args:
          encoder: to train.
          labels: the label set to learn; None: none.
        """
        chosen = self.specific
        if labels is not None:
            chosen |= {"classes": len(labels.classes), "multi_label": labels.multi_label}
        return OBJECTIVES[self.objective](encoder, **chosen)


def crop_samples(encoder: M2D, task: Task) -> int:
    """Samples of a crop: the encoder's input length, or the task's clips where they are shorter.

    Raises:
      InputError: the clips, or the encoder's input, are shorter than a patch.
    """
    hop, config = encoder.log_mel.hop, encoder.config
    samples = min((config.frames - 1) * hop, unit_samples(task, encoder.sample_rate))
    needed = max((config.patch_frames - 1) * hop, encoder.log_mel.n_fft // 2 + 1)
    if (config.frames - 1) * hop < needed:
        raise InputError(
            f"An input of {config.frames} frames is too short for one patch and the front end's window: choose an "
            f"--input of more frames."
        )
    if samples < needed:
        raise InputError(
            f"Task {task.name!r}: its clips of {task.unit_seconds:g} s are shorter than one patch of the encoder "
            f"({needed / encoder.sample_rate:g} s): raise --unit-seconds, or choose an --input of shorter patches."
        )
    return samples
