"""Options of `jaxdissect ablate`."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from jaxdissect.errors import require
from jaxdissect.options.base import Count, Finite, Fraction, Options, Positive, Whole

LARGEST_GAIN = 1e6  # beyond it float32 keeps nothing of the other neurons


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblateOptions(Options):
    """Silence, attenuate or amplify neurons, and measure the effect.

    The effect is measured on each class of the test split, beside that of matched random neuron sets.

    Examples:
      jaxdissect ablate --run runs/esc50
      jaxdissect ablate --run runs/cremad --neurons 'ANG & HAP' --gain 0 0.5 2

    Attributes:
      run: run directory with the stages `neurons` and `probe`; encoder and task are theirs.
      neurons: neuron sets: classes joined by &, |, - and brackets; label_set:class; @file.csv or @file.yaml (EVAR);
        @name of a published set.
      suite: further sets: classes, the neurons of each class; pairs, those that two classes share. Default without
        --neurons: classes.
      gain: factors put on the activations: 0 ablates, 0 to 1 attenuates, above 1 amplifies. Default: what a .yaml asks
        for, else 0.
      mode: gain; mean, which replaces activations by the neuron's mean over the tokens that were counted; or patch,
        which replaces those of a clip of another class by those of a clip of the class that is judged.
      controls: random neuron sets that each set is compared with; 0: none. With --match shift there is one.
      match: activity, for controls of the same layer, activation rate and size of what neurons write; layer; any, for
        controls from all layers, if layers have few units; or shift, the published shift of every index by one.
      causal_map: also estimate, for every single neuron, what silencing it does to each class's margin.
      map_sample: neurons per layer that are silenced one by one, on 64 clips, to check that estimate; 0: none.
      evar: folder to which every neuron set is written in EVAR's YAML.
      data: data folder, if it has moved.
      resamples: bootstrap resamples of the intervals.
      seed: seed of controls and resamples.
      batch_size: clips per device and step.
      at_once: interventions that run together on a device. Default: 16 / batch size on a CPU, else 256 / batch size.
      dtype: type of the encoder's computation. Default: the run's.
      max_bad_clips: fraction of unreadable test clips above which the command fails, after the others were judged.
      save_minutes: minutes between two saved states, from which a killed ablation resumes.
      profile: folder to write a trace of five steps into, after the first two; see docs/profile.md.
      part: I/N: judge the I-th of N parts of the interventions, as one of N independent jobs on any hosts. The same
        command without it then joins the parts, and heeds --causal-map, --map-sample, --evar and --max-bad-clips.

    Raises:
      InputError: an option breaks a rule, or two contradict each other.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ("probe",)

    run: Path
    neurons: tuple[str, ...] = ()
    suite: tuple[Literal["classes", "pairs"], ...] = ()
    gain: tuple[Finite, ...] | None = None
    mode: Literal["gain", "mean", "patch"] = "gain"
    controls: Whole = 200
    match: Literal["activity", "layer", "any", "shift"] = "activity"
    causal_map: bool = True
    map_sample: Whole = 12
    evar: Path | None = None
    data: Path | None = None
    resamples: Count = 1000
    seed: Whole = 0
    batch_size: Count = 4
    at_once: Count | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    max_bad_clips: Fraction = 0.01
    save_minutes: Positive = 10.0
    profile: Path | None = None
    part: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for gain in self.gain or ():
            require(
                abs(gain) <= LARGEST_GAIN,
                f"--gain must be a finite number, at most {LARGEST_GAIN:,.0f} in size, got {gain}.",
            )
        require(
            self.gain is None or len(set(self.gain)) == max(len(self.gain), 1),
            f"--gain needs numbers that differ, got {', '.join(map(str, self.gain or ())) or 'none'}.",
        )
        require(
            self.gain is None or self.mode == "gain",
            f"--mode {self.mode} replaces activations: leave --gain out.",
        )
        require(
            self.evar is None or self.mode == "gain",
            f"--evar: a configuration of EVAR has gains only: leave --evar or --mode {self.mode} out.",
        )
        require(self.map_sample != 1, f"--map-sample must be 0 or at least 2, got {self.map_sample}.")
