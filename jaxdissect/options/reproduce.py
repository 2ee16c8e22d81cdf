"""Options of `jaxdissect reproduce`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from jaxdissect.options.base import Count, Options, Positive, Whole

# The published ablation of each task that has one, by its name in published_ablations.toml.
PUBLISHED_ABLATIONS: Mapping[str, str] = {"cremad": "cremad_ang_hap", "gtzan": "gtzan_jazz_classical"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceOptions(Options):
    """Put the paper's published figures beside what is found here.

    The command counts all clips, chooses neurons by preset lape, and compares coverage and sizes. For emotions, genres
    and languages, and with --with, it compares which classes share neurons. For cremad and gtzan it probes and repeats
    the published ablation.

    Examples:
      jaxdissect reproduce --encoder m2d_base --task cremad --data CREMA-D --run runs/reproduce
      jaxdissect reproduce --encoder m2d_base --task esc50 --data ESC-50 --run runs/reproduce50 --dtype bfloat16
      jaxdissect reproduce --encoder m2d_base --task cremad_gender --data CREMA-D --run runs/gender --with runs/vc1

    Attributes:
      encoder: encoder directory; the paper's is m2d_vit_base-80x608p16x16-221006-mr7.
      task: one of the paper's tasks. vc1 is counted by gender and nationality, nspitch and surge by octave, and gise51
        with one label a clip.
      data: data folder of the task, as EVAR lays it out (cremad.csv, gtzan.csv; ESC-50's own layout).
      run: run directory to write.
      with_: runs of the same encoder, from this command, to compare classes with: cremad_gender with vc1, surge with
        nspitch, esc50 with gise51.
      unit_seconds: length to which clips are cropped or padded, s. gise51 needs it; other tasks bring their own.
      controls: random neuron sets that the published ablation is also compared with.
      seeds: probes, whose scores are averaged.
      learning_rate: learning rate of the probe; 3e-5 is the paper's.
      batch_size: clips per device and step of the counting; the ablation takes fewer.
      dtype: type of the computation, float32 (float32 products) or bfloat16.
      seed: seed of the controls.
    """

    encoder: str
    task: Literal["cremad", "cremad_gender", "esc50", "gise51", "gtzan", "nspitch", "surge", "vc1", "voxforge"]
    data: Path
    run: Path
    with_: tuple[Path, ...] = ()
    unit_seconds: Positive | None = None
    controls: Whole = 200
    seeds: Count = 3
    learning_rate: Positive = 3e-5
    batch_size: Count = 16
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: Whole = 0
