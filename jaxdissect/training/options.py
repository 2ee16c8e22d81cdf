"""What the options of `jaxdissect train` stand for: encoder to train, objective, parts of a batch, crop length."""

import dataclasses
from pathlib import Path

import jax

from jaxdissect.encoder.convert import sizes_from_name
from jaxdissect.encoder.directory import DTYPES, load_encoder
from jaxdissect.encoder.m2d import M2D, untrained_m2d
from jaxdissect.encoder.vit import vit_config
from jaxdissect.errors import InputError, require
from jaxdissect.options.train import TrainOptions
from jaxdissect.runtime.records import differences
from jaxdissect.tasks.loader import unit_samples
from jaxdissect.tasks.table import TEST_FOLD, LabelSet, Task
from jaxdissect.training.m2d import MaskedModelingDuo
from jaxdissect.training.msm_mae import MSMMAE
from jaxdissect.training.objective import Objective
from jaxdissect.training.supervised import Supervised

OBJECTIVES = {"m2d": MaskedModelingDuo, "msm_mae": MSMMAE, "supervised": Supervised}
CPU_PART, SMALLEST_PART = 16, 4
SIZE, INPUT = "base", "80x608p16x16"
OF_SIZE = ("width", "depth", "heads", "mlp")


def held_out_fold(options: TrainOptions) -> int:
    """The fold that is not trained on, of a table with folds."""
    return TEST_FOLD if options.test_fold is None else options.test_fold


def batch_parts(options: TrainOptions) -> tuple[int, int]:
    """Parts of one device's batch, and clips in a part.

    Raises:
      InputError: the part size does not divide the batch size, or the default is left with too small a one.
    """
    if options.part_size is not None:
        if options.part_size < 1 or options.batch_size % options.part_size:
            raise InputError(f"--part-size must divide --batch-size {options.batch_size}, got {options.part_size}.")
        return options.batch_size // options.part_size, options.part_size
    most = min(CPU_PART, options.batch_size) if jax.default_backend() == "cpu" else options.batch_size
    size = next(size for size in range(most, 0, -1) if options.batch_size % size == 0)
    if size < min(most, SMALLEST_PART):
        raise InputError(
            f"--batch-size {options.batch_size} falls into parts of {size} only: choose a multiple of {CPU_PART}, or "
            f"give --part-size."
        )
    return options.batch_size // size, size


def training_folder(options: TrainOptions) -> Path:
    """Where the state of the training is kept until it is done."""
    out = options.out.absolute()
    return out.with_name(out.name + ".training")


def encoder_to_train(options: TrainOptions) -> M2D:
    """The encoder to train, with the parameters to start from.

    Raises:
      InputError: `input` is no size; there is no encoder to start from, or none of M2D's; or sizes are given that
        it has not.
    """
    dtype = DTYPES[options.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")]
    name = options.out.absolute().name
    if options.start_from is None:
        sizes = sizes_from_name(options.input or INPUT)
        grid = {name: value for name, value in vars(sizes).items() if name != "sample_rate"}
        encoder = untrained_m2d(vit_config(options.size or SIZE, **grid), sizes.sample_rate, options.seed)
        return dataclasses.replace(encoder, name=name, dtype=dtype, source={"licence": options.licence or "unknown"})
    start = load_encoder(options.start_from)
    if not isinstance(start, M2D):
        raise InputError(f"--start-from {options.start_from} must be an encoder directory.")
    _require_sizes(options, start)
    variables = {part: start.variables[part] for part in ("params", "front_end")}  # a head is another's
    source = {"start": start.name, "licence": options.licence or start.source.get("licence", "unknown")}
    return dataclasses.replace(start, name=name, dtype=dtype, variables=variables, source=source)


def _require_sizes(options: TrainOptions, start: M2D) -> None:
    wanted = vars(start.config) | {"sample_rate": start.sample_rate}
    given = {} if options.input is None else vars(sizes_from_name(options.input))
    given |= {} if options.size is None else {name: vars(vit_config(options.size))[name] for name in OF_SIZE}
    differing = differences(wanted, given, names=given, words=("there", "given"))
    require(
        not differing,
        f"--start-from {options.start_from} is an encoder of other sizes than --size and --input say: "
        f"{', '.join(differing.values())}. Leave them out.",
    )


def build_objective(options: TrainOptions, encoder: M2D, labels: LabelSet | None) -> Objective:
    """The objective on an encoder.

    Args:
      encoder: to train.
      labels: the label set to learn; None: none.
    """
    chosen = options.of_objective
    if labels is not None:
        chosen |= {"classes": len(labels.classes), "multi_label": labels.multi_label}
    return OBJECTIVES[options.objective](encoder, **chosen)


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
