"""From the options of a training to its encoder, its objective, the parts of a batch, and the crops."""

import dataclasses
from pathlib import Path

import jax

from jaxdissect.encoder.convert.m2d import sizes_from_name
from jaxdissect.encoder.directory import DTYPES, load_encoder
from jaxdissect.encoder.families.m2d import M2D, untrained_m2d
from jaxdissect.encoder.families.vit import vit_config
from jaxdissect.errors import InputError, require
from jaxdissect.options.train import TrainOptions
from jaxdissect.runtime.records import differences
from jaxdissect.tasks.loader import unit_samples
from jaxdissect.tasks.table import TEST_FOLD, LabelSet, Task
from jaxdissect.training.m2d import MaskedModelingDuo
from jaxdissect.training.msm_mae import MSMMAE
from jaxdissect.training.objective import Objective
from jaxdissect.training.supervised import Supervised
from jaxdissect.types import Record

OBJECTIVES = {"m2d": MaskedModelingDuo, "msm_mae": MSMMAE, "supervised": Supervised}
DEFAULT_SIZE, DEFAULT_INPUT = "base", "80x608p16x16"
SET_BY_SIZE = ("width", "depth", "heads", "mlp")
CPU_PART = 16  # crops that fit a CPU's cache
SMALLEST_PART = 4  # crops below which parts are slow


def encoder_to_train(options: TrainOptions) -> M2D:
    """The encoder to train, with the parameters to start from.

    Raises:
      InputError: `input` is no size; there is no encoder to start from, or none of M2D's; or sizes are given that
        it has not.
    """
    dtype = DTYPES[options.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")]
    licence, start = options.licence or "unknown", options.start_from
    if start is None:
        sizes = sizes_from_name(options.input or DEFAULT_INPUT)
        grid = {name: value for name, value in vars(sizes).items() if name != "sample_rate"}
        config = vit_config(options.size or DEFAULT_SIZE, **grid)
        encoder, source = untrained_m2d(config, sizes.sample_rate, options.seed), {"licence": licence}
    else:
        loaded = load_encoder(start)
        if not isinstance(loaded, M2D):
            raise InputError(f"--start-from {start} must be an encoder directory.")
        _require_sizes(options, loaded)
        # A task head is left behind: it belongs to the parameters that are about to change.
        variables = {part: loaded.variables[part] for part in ("params", "front_end")}
        encoder = dataclasses.replace(loaded, variables=variables)
        source = {"start": loaded.name, "licence": options.licence or loaded.source.get("licence", "unknown")}
    return dataclasses.replace(encoder, name=options.out.absolute().name, dtype=dtype, source=source)


def _require_sizes(options: TrainOptions, start: M2D) -> None:
    """Refuse sizes that the encoder to start from has not."""
    of_start = vars(start.config) | {"sample_rate": start.sample_rate}
    given = {} if options.input is None else vars(sizes_from_name(options.input))
    if options.size is not None:
        given = given | {name: getattr(vit_config(options.size), name) for name in SET_BY_SIZE}
    differing = differences(of_start, given, names=given, words=("there", "given"))
    require(
        not differing,
        f"--start-from {options.start_from} is an encoder of other sizes than --size and --input say: "
        f"{', '.join(differing.values())}. Leave them out.",
    )


def build_objective(options: TrainOptions, encoder: M2D, labels: LabelSet | None) -> Objective:
    """The objective on an encoder.

    Args:
      options: options of the training.
      encoder: encoder to train.
      labels: label set to learn; None: none.
    """
    chosen: Record = dict(options.of_objective)
    if labels is not None:
        chosen |= {"classes": len(labels.classes), "multi_label": labels.multi_label}
    return OBJECTIVES[options.objective](encoder, **chosen)


def held_out_fold(options: TrainOptions) -> int:
    """The fold that is not trained on, of a table with folds."""
    return TEST_FOLD if options.test_fold is None else options.test_fold


def training_folder(options: TrainOptions) -> Path:
    """Folder in which the state of the training is kept until it is done."""
    out = options.out.absolute()
    return out.with_name(out.name + ".training")


def batch_parts(options: TrainOptions) -> tuple[int, int]:
    """Number of parts of one device's batch, and number of clips in a part.

    Raises:
      InputError: the part size does not divide the batch size, or the default is left with too small a one.
    """
    batch, size = options.batch_size, options.part_size
    if size is None:
        # The largest divisor of the batch size that is not larger than a part should be.
        largest = min(CPU_PART, batch) if jax.default_backend() == "cpu" else batch
        size = next(size for size in range(largest, 0, -1) if batch % size == 0)
        require(
            size >= min(largest, SMALLEST_PART),
            f"--batch-size {batch} falls into parts of {size} only: choose a multiple of {CPU_PART}, or give "
            f"--part-size.",
        )
    require(size >= 1 and batch % size == 0, f"--part-size must divide --batch-size {batch}, got {size}.")
    return batch // size, size


def crop_samples(encoder: M2D, task: Task) -> int:
    """Samples of a crop: the encoder's input length, or the task's clips where they are shorter.

    Raises:
      InputError: the clips, or the encoder's input, are shorter than a patch.
    """
    config, front_end = encoder.config, encoder.log_mel
    longest = (config.frames - 1) * front_end.hop  # a recording of so many samples has `frames` frames
    # One patch, and more than half a window, for the reflection at the ends.
    needed = max((config.patch_frames - 1) * front_end.hop, front_end.n_fft // 2 + 1)
    require(
        longest >= needed,
        f"An input of {config.frames} frames is too short for one patch and the front end's window: choose an --input "
        f"of more frames.",
    )
    samples = min(longest, unit_samples(task, encoder.sample_rate))
    require(
        samples >= needed,
        f"Task {task.name!r}: its clips of {task.unit_seconds:g} s are shorter than one patch of the encoder "
        f"({needed / encoder.sample_rate:g} s): raise --unit-seconds, or choose an --input of shorter patches.",
    )
    return samples
