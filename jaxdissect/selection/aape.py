"""AAPE: which neurons fire for few classes, and for which of them.

`aape` is the formula, `SelectionRule` the rule, and `select` applies both to the counts of one label set.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.errors import require

PRESETS = ("aape", "lape")
TIE_DECIMALS = 12  # two scores that agree to these decimals are a tie, which rounding must not decide


@dataclass(frozen=True)
class SelectionRule:
    """How class-specific neurons are chosen.

    Source: Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307), after LAPE of
    Tang et al., "Language-Specific Neurons" (arXiv:2402.16438).

    Attributes:
      preset: "aape": drop the neurons of the weakest activation rate first. "lape": instead, a neuron needs some class
        whose p exceeds the bar.
      keep: fraction of ALL neurons to keep, those of the lowest AAPE.
      drop_weakest: fraction of neurons that preset "aape" drops.
      bar: quantile of all p of the label set; a kept neuron is specific to the classes whose p exceeds it.

    Raises:
      InputError: the preset is unknown, or a fraction is not from 0 to 1.
    """

    preset: str = "aape"
    keep: float = 0.01
    drop_weakest: float = 0.05
    bar: float = 0.95

    def __post_init__(self) -> None:
        require(self.preset in PRESETS, f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}.")
        for name in ("keep", "drop_weakest", "bar"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must be a fraction from 0 to 1, got {value}.")


@dataclass(frozen=True, eq=False)
class Selection:
    """Class-specific neurons of one label set.

    Attributes:
      probability: p, class-conditional activation probability.
      rate: mean of p over the classes.
      aape: AAPE in nats; NaN for a neuron that never fires.
      aape_normalised: AAPE / ln(classes); NaN for one class.
      kept: neurons that passed the first two filters.
      specific: pairs of class and neuron that belong together.
      aape_cutoff: highest AAPE kept, nats; NaN if no neuron was kept.
      rate_cutoff: highest rate of the neurons that were dropped as the weakest; -1 if none was.
      probability_bar: bar that p must exceed.
    """

    probability: Float[np.ndarray, "class layer neuron"]
    rate: Float[np.ndarray, "layer neuron"]
    aape: Float[np.ndarray, "layer neuron"]
    aape_normalised: Float[np.ndarray, "layer neuron"]
    kept: Bool[np.ndarray, "layer neuron"]
    specific: Bool[np.ndarray, "class layer neuron"]
    aape_cutoff: float
    rate_cutoff: float
    probability_bar: float


def activation_probability(
    active_tokens: Int[np.ndarray, "class layer neuron"], tokens: Int[np.ndarray, " class"]
) -> Float[np.ndarray, "class layer neuron"]:
    """Class-conditional activation probability: `p[c, l, n] = active_tokens[c, l, n] / tokens[c]`.

    Args:
      active_tokens: tokens of each class at which each neuron was active.
      tokens: tokens of each class, all above zero.
    """
    return active_tokens / tokens[:, None, None].astype(np.float64)


def aape(p: Float[np.ndarray, "class *axes"]) -> Float[np.ndarray, "*axes"]:
    """Audio Activation Probability Entropy (AAPE) of every neuron, in nats.

    With `q[c] = p[c] / sum_c p[c]`, and `0 ln 0 = 0`:

        AAPE = -sum_c q[c] ln q[c]

    It is 0 for a neuron that fires for one class, ln(classes) for one that fires alike for all classes, and NaN for one
    that never fires.

    Source: Kawamura, Niizumi and Ono, "What Do Neurons Listen To?" (arXiv:2602.15307).

    Args:
      p: class-conditional activation probability; the sum is over its first axis.
    """
    # SciPy's entropy is no substitute: its logarithm may differ from NumPy's in the last bit.
    total = p.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = p / total
        terms = np.where(q > 0, q * np.log(q), 0.0)
    return np.where(total > 0, np.abs(terms.sum(axis=0)), np.nan)  # abs: a single class gives 0, not -0


def kth_smallest(values: Float[np.ndarray, "..."], rate: float) -> float:
    """The k-th smallest value, k = round(rate x count), at least the first.

    Source: the quantile of LAPE (arXiv:2402.16438); it keeps an exact number of values.

    Args:
      values: numbers of any shape, none of them NaN.
      rate: fraction of the values, from 0 to 1.
    """
    k = min(max(round(rate * values.size), 1), values.size)
    return float(np.partition(values, k - 1, axis=None)[k - 1])


def select(
    active_tokens: Int[np.ndarray, "class layer neuron"], tokens: Int[np.ndarray, " class"], rule: SelectionRule
) -> Selection:
    """Choose the class-specific neurons of one label set.

    Scores are computed in float64. Ties are broken by (layer, neuron).

    Args:
      active_tokens: tokens of each class at which each neuron was active.
      tokens: counted tokens of each class, all above zero.
      rule: preset and fractions.

    Raises:
      InputError: there is no class, or a class without a token.
    """
    require(
        len(tokens) > 0 and bool((tokens > 0).all()),
        f"Selection needs at least one class and a token in each, got tokens {tokens.tolist()[:10]}.",
    )
    p = activation_probability(active_tokens, tokens)
    ordered = np.sort(p, axis=0)  # sums then do not depend on the order of the classes
    rate, entropy = ordered.mean(axis=0), aape(ordered)
    bar = kth_smallest(p, rule.bar)
    # First filter: neurons that may be kept. A neuron that never fires has no AAPE.
    eligible, rate_cutoff = np.isfinite(entropy), -1.0
    if rule.preset == "aape":
        weakest = np.argsort(rate.round(TIE_DECIMALS), axis=None, kind="stable")[: round(rule.drop_weakest * rate.size)]
        eligible.flat[weakest] = False
        rate_cutoff = float(rate.flat[weakest].max(initial=-1))
    else:
        eligible &= (p > bar).any(axis=0)
    # Second filter: the lowest AAPE. The stable sort of the flat array breaks ties by (layer, neuron), and the
    # neurons that are not eligible come last; those of them that are reached are not kept.
    ranked = np.where(eligible, entropy.round(TIE_DECIMALS), np.inf)
    lowest = np.argsort(ranked, axis=None, kind="stable")[: round(rule.keep * entropy.size)]
    kept = np.zeros(entropy.shape, bool)
    kept.flat[lowest] = eligible.flat[lowest]
    return Selection(
        probability=p,
        rate=rate,
        aape=entropy,
        aape_normalised=entropy / math.log(len(p)) if len(p) > 1 else np.full_like(entropy, np.nan),
        kept=kept,
        specific=(p > bar) & kept,  # third filter: the classes whose p exceeds the bar
        aape_cutoff=float(entropy[kept].max()) if kept.any() else math.nan,
        rate_cutoff=rate_cutoff,
        probability_bar=bar,
    )
