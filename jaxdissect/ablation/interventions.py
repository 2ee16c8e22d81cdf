"""Suites of interventions: every class, every pair of classes, many gains; each with its matched controls."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from jaxdissect.ablation.controls import MATCHES, Activity, draw_controls, require_pools, shifted_control
from jaxdissect.ablation.engine import Edit
from jaxdissect.errors import InputError
from jaxdissect.selection.neuron_sets import TOKEN, ClassName, NeuronSet, Pair, neuron_set, require_neurons

SUITES = ("classes", "pairs")
LARGEST_GAIN = 1e6  # beyond it float32 keeps nothing of the rest


@dataclasses.dataclass(frozen=True)
class AblationOptions:
    """How neuron sets are intervened on, and against what.

    Source: gain 0 and the control "shift" are those of Kawamura, Niizumi and Ono, "What Do Neurons Listen To?"
    (arXiv:2602.15307); mean ablation, other gains and drawn controls are not from there.

    Attributes:
      gains: factors put on the activations: 0 ablates, 0 to 1 attenuates, above 1 amplifies. None: what a set's file
        asks for, else 0.
      mode: "gain"; "mean" replaces activations by the neuron's mean instead.
      controls: matched control sets of each intervention.
      match: controls matched by "layer"; by layer, activation rate and size of what neurons write ("activity"); or the
        one published control, every neuron index + 1 ("shift").
      seed: of controls and resampling.
      resamples: bootstrap resamples of sources.

    Raises:
      InputError: a number or a name breaks a rule, or gains are given for mode "mean".
    """

    gains: tuple[float, ...] | None = None
    mode: Literal["gain", "mean"] = "gain"
    controls: int = 200
    match: Literal["activity", "layer", "shift"] = "activity"
    seed: int = 0
    resamples: int = 1000

    def __post_init__(self) -> None:
        if self.mode not in ("gain", "mean"):
            raise InputError(f"--mode must be gain or mean, got {self.mode!r}.")
        if self.match not in MATCHES:
            raise InputError(f"--match must be one of {', '.join(MATCHES)}, got {self.match!r}.")
        for gain in self.gains or ():
            if not abs(gain) <= LARGEST_GAIN:
                raise InputError(f"--gain must be a finite number, at most {LARGEST_GAIN:,.0f} in size, got {gain}.")
        if self.gains is not None and len(set(self.gains)) != max(len(self.gains), 1):
            raise InputError(f"--gain needs numbers that differ, got {', '.join(map(str, self.gains)) or 'none'}.")
        if self.gains is not None and self.mode == "mean":
            raise InputError("--mode mean replaces activations by their mean: leave --gain out.")
        if self.controls < 0:
            raise InputError(f"--controls must not be negative, got {self.controls}.")
        if self.resamples < 1:
            raise InputError(f"--resamples must be positive, got {self.resamples}.")
        if self.seed < 0:
            raise InputError(f"--seed must not be negative, got {self.seed}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Intervention:
    """A neuron set with its gain, plus its matched controls.

    Attributes:
      name: unique in a suite.
      neurons: the set.
      mode: "gain" or "mean".
      gain: 0 for mode "mean".
      controls: neuron sets of the same sizes per layer, (layer, neuron) pairs.
    """

    name: str
    neurons: NeuronSet
    mode: str
    gain: float
    controls: Int[np.ndarray, "control changed 2"]

    def edits(self, means: Float[np.ndarray, "layer neuron"] | None) -> list[Edit]:
        """The intervention itself, then its controls.

        Args:
          means: of every neuron's activation over the training tokens; needed for mode "mean" alone.

        Raises:
          InputError: the mode is "mean", and there are no means.
        """
        return [self._edit(pairs, means) for pairs in (self.neurons.pairs, *self.controls)]

    def _edit(self, pairs: np.ndarray, means: np.ndarray | None) -> Edit:
        layer, neuron = pairs.T
        offset = np.zeros(len(pairs), np.float32)
        if self.mode == "mean":
            if means is None:
                raise InputError("Mode 'mean' needs the mean of every neuron over the training tokens: give `means`.")
            offset = means[layer, neuron].astype(np.float32)
        return Edit(layer, neuron, self.gain, offset)


def class_name(label_set: str, name: str, classes: Iterable[ClassName]) -> str:
    """A class as an expression names it: with its label set only where the name alone would be ambiguous."""
    ambiguous = sum(other == name for _, other in classes) > 1
    return f"{_quoted(label_set)}:{_quoted(name)}" if ambiguous else _quoted(name)


def plain_name(label_set: str, name: str, classes: Iterable[ClassName]) -> str:
    """A class in a table: with its label set only where the name alone would be ambiguous."""
    return f"{label_set}:{name}" if sum(other == name for _, other in classes) > 1 else name


def suite_sets(suite: str, specific: Mapping[ClassName, Iterable[Pair]]) -> tuple[list[NeuronSet], list[str]]:
    """The neuron sets of a suite, and the names of those that are empty and so left out.

    Args:
      suite: "classes", the class-specific neurons of each class; "pairs", those that two classes of a label set share.
      specific: the neurons of every class.
    """
    names = {key: class_name(*key, specific) for key in specific}
    if suite == "classes":
        sets = [neuron_set(names[key], pairs, [key]) for key, pairs in specific.items()]
    elif suite == "pairs":
        sets = [
            neuron_set(f"{names[one]} & {names[other]}", set(specific[one]) & set(specific[other]), [one, other])
            for one, other in itertools.combinations(specific, 2)
            if one[0] == other[0]
        ]
    else:
        raise InputError(f"--suite must be one of {', '.join(SUITES)}, got {suite!r}.")
    return [found for found in sets if found.neurons], [found.name for found in sets if not found.neurons]


def make_interventions(
    sets: Sequence[NeuronSet], shape: tuple[int, int], options: AblationOptions, activity: Activity | None = None
) -> list[Intervention]:
    """Every set at every gain, with controls that are the same at each gain.

    With "activity" and "layer" a control has as many neurons in each layer as its set, and none of any set; the k-th
    controls of all sets come from one draw.

    Source: Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307), for silencing neuron sets and
    the control "shift"; drawn controls are not from there.

    Args:
      sets: of different names.
      shape: layers, and neurons per layer, of the encoder.
      options: gains and controls.
      activity: of the neurons, needed to match by it.

    Raises:
      InputError: `check_sets` refuses a set.
    """
    check_sets(sets, shape, options)
    found = []
    if options.match == "shift":
        drawn = [shifted_control(chosen, shape) for chosen in sets]
    else:
        matched = activity if options.match == "activity" else None
        drawn = draw_controls(sets, shape, options.controls, options.seed, matched)
    for chosen, controls in zip(sets, drawn, strict=True):
        gains = options.gains if options.gains is not None else (chosen.gain or 0.0,)
        for gain in gains:
            text = np.format_float_positional(gain, trim="-")
            name = chosen.name if len(gains) == 1 else f"{chosen.name} x {text}"
            found.append(Intervention(name, chosen, options.mode, 0.0 if options.mode == "mean" else gain, controls))
    return found


def balance(chosen: Sequence[Intervention], activity: Activity) -> tuple[float, float]:
    """Activation rate and impact of the controls over those of the targets, means over the interventions.

    NaN where there are no controls.
    """

    def ratio(values: np.ndarray) -> float:
        def total(pairs: np.ndarray) -> Any:
            return values[pairs[..., 0], pairs[..., 1]].sum(axis=-1)

        return float(
            np.mean([total(one.controls).mean() / total(one.neurons.pairs) for one in chosen if len(one.controls)])
        )

    if not any(len(one.controls) for one in chosen):
        return np.nan, np.nan
    return ratio(activity.rate), ratio(activity.impact)


def check_sets(sets: Sequence[NeuronSet], shape: tuple[int, int], options: AblationOptions) -> None:
    """Refuse sets that `make_interventions` would refuse, before what their controls are matched by is measured.

    Raises:
      InputError: there is no set, one is empty, out of range or there twice, or a control pool is too small.
    """
    if not sets:
        raise InputError("An ablation needs a neuron set at least.")
    names = [chosen.name for chosen in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"--neurons, --suite: the neuron set {twice!r} is there twice: give it once.")
    for chosen in sets:
        require_neurons(chosen, shape)
        if chosen.gain is not None and not abs(chosen.gain) <= LARGEST_GAIN:
            raise InputError(
                f"The neuron set {chosen.name!r} asks for the gain {chosen.gain}: it must be at most "
                f"{LARGEST_GAIN:,.0f} in size."
            )
    if options.match != "shift":
        require_pools(sets, shape, options.controls)


def _quoted(name: str) -> str:
    match = TOKEN.fullmatch(name)
    return name if match and match["name"] == name and ":" not in name and '"' not in name else f'"{name}"'
