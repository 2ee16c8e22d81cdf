"""Interventions: neuron sets with a gain, each with its matched controls; and suites of them over all classes."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jaxdissect.ablation.edits import Edit
from jaxdissect.ablation.matched_controls import (
    MATCHES,
    Activity,
    draw_controls_of_any_layer,
    draw_matched_controls,
    in_one_layer,
    require_control_pools,
    shifted_control,
)
from jaxdissect.errors import InputError, require
from jaxdissect.options.ablate import LARGEST_GAIN
from jaxdissect.selection.neuron_sets import TOKEN, ClassName, NeuronSet, Pair, neuron_set, require_neurons

MODES = ("gain", "mean", "patch")
SUITES = ("classes", "pairs")


@dataclasses.dataclass(frozen=True)
class AblationOptions:
    """How neuron sets are intervened on, and what they are compared with.

    Source: gain 0 and the control "shift" are those of Kawamura, Niizumi and Ono, "What Do Neurons Listen To?"
    (arXiv:2602.15307); mean ablation, other gains and drawn controls are not from there.

    Attributes:
      gains: factors put on the activations: 0 ablates, 0 to 1 attenuates, above 1 amplifies. None: what a set's file
        asks for, else 0.
      mode: "gain"; "mean", which replaces activations by the neuron's mean; or "patch", which replaces those of a clip
        of another class by those of a clip of the class that is judged.
      controls: number of matched control sets of each neuron set.
      match: what controls are matched in: "layer"; "activity", which is layer, activation rate and size of what neurons
        write; "any", nothing but their number; or "shift", the one published control, every neuron index + 1.
      seed: seed of controls and resampling.
      resamples: bootstrap resamples of sources.

    Raises:
      InputError: a number or a name breaks a rule, or gains are given for another mode than "gain".
    """

    gains: tuple[float, ...] | None = None
    mode: Literal["gain", "mean", "patch"] = "gain"
    controls: int = 200
    match: Literal["activity", "layer", "any", "shift"] = "activity"
    seed: int = 0
    resamples: int = 1000

    def __post_init__(self) -> None:
        require(self.mode in MODES, f"mode must be one of {', '.join(MODES)}, got {self.mode!r}.")
        require(self.match in MATCHES, f"match must be one of {', '.join(MATCHES)}, got {self.match!r}.")
        if self.gains is not None:
            require(self.mode == "gain", f"mode {self.mode} replaces activations: leave gains out.")
            shown = ", ".join(map(str, self.gains)) or "none"
            small = all(abs(gain) <= LARGEST_GAIN for gain in self.gains)  # not so for NaN
            require(small, f"gains must be finite, and at most {LARGEST_GAIN:,.0f} in size, got {shown}.")
            # An empty tuple is refused, too.
            require(0 < len(self.gains) == len(set(self.gains)), f"gains must be numbers that differ, got {shown}.")
        require(self.controls >= 0, f"controls must not be negative, got {self.controls}.")
        require(self.resamples >= 1, f"resamples must be positive, got {self.resamples}.")
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Intervention:
    """A neuron set with its gain, plus its matched controls.

    Attributes:
      name: name, unique in a suite.
      neurons: the neuron set.
      mode: "gain", "mean" or "patch".
      gain: factor on the activations; 0 for the other modes.
      controls: neuron sets of the same sizes per layer, as (layer, neuron) pairs.
    """

    name: str
    neurons: NeuronSet
    mode: str
    gain: float
    controls: Int[np.ndarray, "control changed 2"]

    def edits(self, means: Float[np.ndarray, "layer neuron"] | None) -> list[Edit]:
        """The intervention itself, then its controls.

        Args:
          means: mean activation of every neuron over the training tokens; needed for mode "mean" alone.

        Raises:
          InputError: the mode is "mean", and there are no means.
        """
        if self.mode != "mean":
            means = None
        elif means is None:
            raise InputError("Mode 'mean' needs the mean of every neuron over the training tokens: give `means`.")
        edits = []
        # (changed, 2) pairs transposed are the layers and the neurons.
        for layer, neuron in (pairs.T for pairs in (self.neurons.pairs, *self.controls)):
            offset = np.zeros(len(layer)) if means is None else means[layer, neuron]
            edits.append(Edit(layer, neuron, self.gain, offset.astype(np.float32)))
        return edits


def class_name(label_set: str, name: str, classes: Iterable[ClassName]) -> str:
    """A class as an expression names it: with its label set only where the name alone would be ambiguous."""
    return f"{_quoted(label_set)}:{_quoted(name)}" if _is_ambiguous(name, classes) else _quoted(name)


def plain_name(label_set: str, name: str, classes: Iterable[ClassName]) -> str:
    """A class in a table: with its label set only where the name alone would be ambiguous."""
    return f"{label_set}:{name}" if _is_ambiguous(name, classes) else name


def suite_sets(suite: str, specific: Mapping[ClassName, Iterable[Pair]]) -> tuple[list[NeuronSet], list[str]]:
    """The neuron sets of a suite, and the names of those that are empty and so left out.

    Args:
      suite: "classes", the class-specific neurons of each class; "pairs", those that two classes of a label set share.
      specific: class-specific neurons of every class.

    Raises:
      InputError: there is no such suite.
    """
    require(suite in SUITES, f"suite must be one of {', '.join(SUITES)}, got {suite!r}.")
    names = {key: class_name(*key, specific) for key in specific}
    if suite == "classes":
        sets = [neuron_set(names[key], pairs, [key]) for key, pairs in specific.items()]
    else:
        sets = [
            neuron_set(
                f"{names[first]} & {names[second]}", set(specific[first]) & set(specific[second]), [first, second]
            )
            for first, second in itertools.combinations(specific, 2)
            if first[0] == second[0]
        ]
    return [each for each in sets if each.neurons], [each.name for each in sets if not each.neurons]


def make_interventions(
    sets: Sequence[NeuronSet], shape: tuple[int, int], options: AblationOptions, activity: Activity | None = None
) -> list[Intervention]:
    """Every set at every gain, with controls that are the same at each gain.

    With "activity" and "layer" a control has as many neurons in each layer as its set; with "any" it has as many in
    total. It contains no neuron of any set. The k-th controls of all sets come from one draw.

    Source: Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307), for silencing neuron sets and
    the control "shift"; drawn controls are not from there.

    Args:
      sets: neuron sets, of different names.
      shape: layers, and neurons per layer, of the encoder.
      options: gains and controls.
      activity: activity of the neurons, needed to match by it.

    Raises:
      InputError: `check_sets` refuses a set.
    """
    check_sets(sets, shape, options)
    if options.match == "shift":
        controls = [shifted_control(target, shape) for target in sets]
    elif options.match == "any":
        controls = draw_controls_of_any_layer(sets, shape, options.controls, options.seed)
    else:
        matched = activity if options.match == "activity" else None
        controls = draw_matched_controls(sets, shape, options.controls, options.seed, matched)
    interventions = []
    for target, drawn in zip(sets, controls, strict=True):
        gains = options.gains if options.gains is not None else (target.gain or 0.0,)
        for gain in gains:
            text = np.format_float_positional(gain, trim="-")  # 2 rather than 2.0, and no exponent
            name = target.name if len(gains) == 1 else f"{target.name} x {text}"
            gain = gain if options.mode == "gain" else 0.0
            interventions.append(Intervention(name, target, options.mode, gain, drawn))
    return interventions


def check_sets(sets: Sequence[NeuronSet], shape: tuple[int, int], options: AblationOptions) -> None:
    """Refuse sets that `make_interventions` would refuse, before what their controls are matched by is measured.

    Args:
      sets: neuron sets.
      shape: layers, and neurons per layer, of the encoder.
      options: gains and controls.

    Raises:
      InputError: there is no set, one is empty, out of range or given twice, or a control pool is too small.
    """
    require(len(sets) > 0, "An ablation needs a neuron set at least.")
    # Tables and files know sets by their names.
    names = [target.name for target in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, f"The neuron set {twice!r} is given twice: give it once.")
    for target in sets:
        require_neurons(target, shape)
        require(
            target.gain is None or abs(target.gain) <= LARGEST_GAIN,
            f"The neuron set {target.name!r} asks for the gain {target.gain}: it must be at most {LARGEST_GAIN:,.0f} "
            f"in size.",
        )
    if options.match == "any":
        require_control_pools(in_one_layer(sets, shape), (1, math.prod(shape)), options.controls)
    elif options.match != "shift":
        require_control_pools(sets, shape, options.controls)


def _is_ambiguous(name: str, classes: Iterable[ClassName]) -> bool:
    """Whether several label sets have a class of that name."""
    return sum(other == name for _, other in classes) > 1


def _quoted(name: str) -> str:
    """A class name as an expression writes it: in double quotes unless it is a plain word."""
    # A plain word is what the parser of expressions reads as one name, and not as a label set and a class.
    match = TOKEN.fullmatch(name)
    return name if match and match["name"] == name and ":" not in name and '"' not in name else f'"{name}"'
