"""AAPE: which neurons fire for few classes, and for which.

Source: Kawamura, Niizumi, Ono, "What Do Neurons Listen To?" (arXiv:2602.15307), after Tang et al., "Language-Specific
Neurons" (LAPE, arXiv:2402.16438). With `p[c]` the share of tokens of class c at which a neuron is active and
`q[c] = p[c] / sum_c p[c]`, AAPE is the entropy `-sum_c q[c] ln q[c]` in nats: low for a neuron that answers to few
classes. Everything is computed in float64; quantiles are k-th smallest with k = round(rate x count), which keeps an
exact number of neurons; ties are broken by (layer, neuron).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdissect.errors import InputError

PRESETS = ("aape", "lape")
TIE_DIGITS = 12  # what agrees to these decimals is a tie, which rounding must not decide


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
      bar: a kept neuron is specific to the classes whose p exceeds this quantile of all p of the label set.

    Raises:
      InputError: the preset is unknown, or a fraction is not from 0 to 1.
    """

    preset: str = "aape"
    keep: float = 0.01
    drop_weakest: float = 0.05
    bar: float = 0.95

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"--preset must be one of {', '.join(PRESETS)}, got {self.preset!r}.")
        for name, value in (("--keep", self.keep), ("--drop-weakest", self.drop_weakest), ("--bar", self.bar)):
            if not 0 <= value <= 1:
                raise InputError(f"{name} must be a fraction from 0 to 1, got {value}.")


@dataclass(frozen=True, eq=False)
class Selection:
    """Class-specific neurons of one label set.

    Attributes:
      probability: p, class-conditional activation probability.
      rate: mean of p over classes.
      aape: in nats; NaN for a neuron that never fires.
      aape_normalised: AAPE / ln(classes), NaN for one class.
      kept: neurons that passed the first two filters.
      specific: which neurons are specific to which classes.
      aape_cutoff: the highest AAPE kept, nats; NaN if none was.
      rate_cutoff: the highest rate of the neurons that were dropped as the weakest; -1 if none was.
      probability_bar: p must exceed this.
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
    """`p[c, l, n] = active_tokens[c, l, n] / tokens[c]`. Every class needs a token."""
    return active_tokens / tokens[:, None, None].astype(np.float64)


def activation_probability_entropy(p: Float[np.ndarray, "class *axes"]) -> Float[np.ndarray, "*axes"]:
    """AAPE in nats over the first axis, with 0 ln 0 = 0; NaN where all p are zero."""
    total = p.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = p / total
        terms = np.where(q > 0, q * np.log(q), 0.0)
    return np.where(total > 0, np.abs(terms.sum(axis=0)), np.nan)


def kth_smallest(values: Float[np.ndarray, "..."], rate: float) -> float:
    """The k-th smallest value, k = round(rate x count), at least the first: LAPE's quantile."""
    k = min(max(round(rate * values.size), 1), values.size)
    return float(np.partition(values, k - 1, axis=None)[k - 1])


def select(
    active_tokens: Int[np.ndarray, "class layer neuron"], tokens: Int[np.ndarray, " class"], rule: SelectionRule
) -> Selection:
    """Choose the class-specific neurons of one label set.

    Args:
      active_tokens: per class the tokens at which each neuron was active.
      tokens: per class the tokens counted, all above zero.
      rule: the preset and its rates.

    Raises:
      InputError: there is no class, or a class without a token.
    """
    if not len(tokens) or (tokens <= 0).any():
        raise InputError(f"Selection needs at least one class and a token in each, got tokens {tokens.tolist()[:10]}.")
    p = activation_probability(active_tokens, tokens)
    ordered = np.sort(p, axis=0)  # sums then do not depend on the order of the classes
    rate, aape = ordered.mean(axis=0), activation_probability_entropy(ordered)
    bar = kth_smallest(p, rule.bar)
    eligible, rate_cutoff = np.isfinite(aape), -1.0
    if rule.preset == "aape":
        weakest = np.argsort(rate.round(TIE_DIGITS), axis=None, kind="stable")[: round(rule.drop_weakest * rate.size)]
        eligible.flat[weakest] = False
        rate_cutoff = float(rate.flat[weakest].max(initial=-1))
    else:
        eligible &= (p > bar).any(axis=0)
    ranked = np.where(eligible, aape.round(TIE_DIGITS), np.inf)
    order = np.argsort(ranked, axis=None, kind="stable")[: round(rule.keep * aape.size)]
    kept = np.zeros(aape.shape, bool)
    kept.flat[order] = eligible.flat[order]
    return Selection(
        probability=p,
        rate=rate,
        aape=aape,
        aape_normalised=aape / math.log(len(p)) if len(p) > 1 else np.full_like(aape, np.nan),
        kept=kept,
        specific=(p > bar) & kept,
        aape_cutoff=float(aape[kept].max()) if kept.any() else math.nan,
        rate_cutoff=rate_cutoff,
        probability_bar=bar,
    )
