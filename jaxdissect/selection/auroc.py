"""AUROC: which neurons tell the clips of a class from all others, by one of three readings of their activation.

The AUROC of a neuron and a class is the probability that a clip of the class has the larger reading than a clip of the
rest; ties count half. It is a sum over ranks: with R the sum of the class's ranks less its mean under no preference,

    AUROC = 1/2 + R / (clips of the class x clips of the rest)

Neurons differ in what they answer by. A sound that fills its clip shows in the mean over tokens, and a short one in the
peak. The excess is the mean over tokens of what the activation exceeds the threshold by: how strongly the neuron fires,
whatever it does below. Each pair of class and neuron takes the reading that separates best.

Source: Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the other"
(1947). Choosing single neurons by it is this project's, not the audio paper's.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.errors import require
from jaxdissect.selection.aape import TIE_DECIMALS

READINGS = ("mean", "peak", "excess")


@dataclass(frozen=True)
class AurocRule:
    """How neurons are chosen by AUROC, for every class.

    Attributes:
      per_class: most neurons of a class, those of the highest AUROC.
      least: AUROC that a neuron must reach.
      level: q-value that a pair must not exceed, where labels were permuted.

    Raises:
      InputError: a number breaks a rule.
    """

    per_class: int = 5
    least: float = 0.7
    level: float = 0.05

    def __post_init__(self) -> None:
        require(self.per_class >= 1, f"per_class must be a whole number, at least 1, got {self.per_class}.")
        for name in ("least", "level"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must be a fraction from 0 to 1, got {value}.")


def centred_ranks(values: Float[np.ndarray, "clip *axes"]) -> Float[np.ndarray, "clip *axes"]:
    """Ranks over clips less their mean: they add up to 0; ties share the mean of their ranks.

    Args:
      values: reading of every clip.
    """
    from scipy.stats import rankdata  # a tenth of what every command takes to start

    return rankdata(values, axis=0) - (len(values) + 1) / 2


def auroc_of_sums(
    class_sum: Float[np.ndarray, "*draw class neuron"],
    class_clips: Float[np.ndarray, "*draw class"] | Int[np.ndarray, "*draw class"],
    clips: int,
    total: Float[np.ndarray, "*draw 1 neuron"] | float = 0.0,
    counted: Float[np.ndarray, "*draw 1"] | Int[np.ndarray, "*draw 1"] | None = None,
) -> Float[np.ndarray, "*draw class neuron"]:
    """AUROC from sums of centred ranks. NaN for a class that has no clip, or all.

    Of a sample of the clips, whose ranks are those among all clips, it is the mean rank of the class less that of the
    rest, in fractions of all clips. For all clips the two are equal.

    Args:
      class_sum: sum of the centred ranks over the clips of each class.
      class_clips: number of clips of each class.
      clips: number of clips that were ranked.
      total, counted: sum and number over the sample; default: all clips that were ranked.
    """
    inside = class_clips[..., None].astype(np.float64)
    outside = (clips if counted is None else counted[..., None]) - inside
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = 0.5 + (class_sum / inside - (total - class_sum) / outside) / clips
    return np.where((inside > 0) & (outside > 0), auroc, np.nan)


def best_neurons(
    auroc: Float[np.ndarray, "class layer neuron"],
    rule: AurocRule,
    q_value: Float[np.ndarray, "class layer neuron"] | None = None,
) -> Bool[np.ndarray, "class layer neuron"]:
    """The neurons of every class by the rule. Ties are broken by (layer, neuron).

    Args:
      auroc: AUROC of every pair; NaN is never chosen.
      rule: rule of the selection.
      q_value: q-value of every pair, NaN where a pair could not be tested; None: no labels were permuted.
    """
    eligible = auroc >= rule.least  # False for NaN
    if q_value is not None:
        eligible &= q_value <= rule.level
    chosen = np.zeros(auroc.shape, bool)
    for of_class, scores, may in zip(chosen, auroc, eligible, strict=True):
        places = np.flatnonzero(may)  # few of all neurons are left to be sorted
        order = np.argsort(-scores.flat[places].round(TIE_DECIMALS), kind="stable")
        of_class.flat[places[order[: rule.per_class]]] = True
    return chosen
