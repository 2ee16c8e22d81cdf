"""Sharing beyond what the sizes of classes and the breadth of neurons make of it.

The breadth of a neuron is the number of classes of a label set that it is specific to. A neuron that is broad in two
label sets is shared by most pairs of their classes. Two classes belong together in particular where they share more
neurons than in random sets. In these every neuron has as many classes as observed, drawn independently of the other
neurons, and every class has as many neurons as observed, on average. The number of neurons that two classes share is
then a sum of independent yes-or-no draws, one for each neuron, whose distribution is exact.

Sources: such draws and their fit: Chen, Dempster and Liu, "Weighted finite population sampling to maximize entropy"
(Biometrika 1994); such sets as the null of shared neighbours: Saracco et al., "Inferring monopartite projections of
bipartite networks: an entropy-based approach" (New Journal of Physics 2017).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Complex, Float, Int
from scipy.optimize import brentq
from scipy.special import expit

MOST_ROUNDS = 100  # of the fit
CLOSE_ENOUGH = 1e-6  # relative difference from the sizes at which the fit ends
LONGEST_STEP = 3.0  # of the fit, log-odds
TRACE = 1e-9  # of the sizes, added to their variances
CERTAIN = 50.0  # log-odds of a draw that is as good as certain


@dataclass(frozen=True, eq=False)
class RandomClasses:
    """Random classes of the neurons that have any; neurons of one breadth are of one kind.

    Attributes:
      kind: number of every neuron's kind, a row of the other arrays; -1 where the neuron has no class.
      has: probability that a neuron of a kind has a class.
      has_both: probability that a neuron of a kind has two classes; the diagonal has no meaning.
    """

    kind: Int[np.ndarray, " neuron"]
    has: Float[np.ndarray, "kind class"]
    has_both: Float[np.ndarray, "kind class class"]


def random_classes(sets: Bool[np.ndarray, "class neuron"]) -> RandomClasses:
    """The random sets of largest entropy that have the breadths of these sets, and their sizes on average.

    NaN where no such sets exist.

    Args:
      sets: neurons of each class.
    """
    breadth, size = sets.sum(axis=0), sets.sum(axis=1)
    breadths, counts = np.unique(breadth[breadth > 0], return_counts=True)
    nonempty = np.flatnonzero(size)
    has = np.zeros((len(breadths), len(sets)))
    has_both = np.zeros((len(breadths), len(sets), len(sets)))
    log_odds = _fit(breadths, counts, size[nonempty])
    for kind, number in enumerate(breadths.tolist()):
        draw = _draw(log_odds, number)
        has[kind, nonempty], has_both[kind][np.ix_(nonempty, nonempty)] = draw.has, draw.has_both
    return RandomClasses(np.where(breadth > 0, np.searchsorted(breadths, breadth), -1), has, has_both)


def breadth_overlap(
    shared: Int[np.ndarray, "class_a class_b"],
    a: RandomClasses,
    b: RandomClasses,
    progress: Callable[[int], object] = lambda classes: None,
) -> tuple[Float[np.ndarray, "class_a class_b"], Float[np.ndarray, "class_a class_b"]]:
    """Neurons that two classes share in random sets with these breadths and sizes: expectation and p-value.

    The p-value is the probability that the random sets share at least as many neurons as were observed.

    Args:
      shared: neurons that two classes were observed to share.
      a, b: random classes of the two label sets, drawn independently of each other. The same object: one label set,
        whose classes compete for its neurons; the diagonal then has no meaning.
      progress: function called with 1 after every class.
    """
    if a is b:
        shared = shared.copy()
        np.fill_diagonal(shared, 0)  # without meaning, and would take the most time
    # Neurons of the same kind in both label sets are alike: there are few such pairs of kinds.
    used = (a.kind >= 0) & (b.kind >= 0)
    kinds, counts = np.unique(np.stack([a.kind[used], b.kind[used]]), axis=1, return_counts=True)
    expected, p_value = np.zeros(shared.shape), np.ones(shared.shape)
    for row in range(len(shared)):
        chance = a.has_both[kinds[0], row] if a is b else a.has[kinds[0], row, None] * b.has[kinds[1]]
        expected[row], p_value[row] = counts @ chance, _reaches(chance.clip(0, 1), counts, shared[row])
        progress(1)
    return expected, p_value


def _fit(
    breadths: Int[np.ndarray, " kind"], counts: Int[np.ndarray, " kind"], size: Int[np.ndarray, " class"]
) -> Float[np.ndarray, " class"]:
    """Log-odds of the classes with which their sizes are met, by Newton's method; NaN if they are not.

    Where the sizes leave hardly a choice, as if a class has every neuron, log-odds grow without end while the sizes are
    met ever more closely. So steps are bounded, and a trace is added where the sizes do not vary.
    """
    log_odds = np.log(size / max(1, size.sum()))
    for _ in range(MOST_ROUNDS):
        # Expected sizes of the classes, and their covariances, which are the derivatives by the log-odds.
        reached, covariance = np.zeros(len(size)), np.diag(TRACE * size)
        for breadth, count in zip(breadths.tolist(), counts.tolist(), strict=True):
            draw = _draw(log_odds, breadth)
            has, both = draw.has, draw.has_both
            np.fill_diagonal(both, has)
            reached += count * has
            covariance += count * (both - np.outer(has, has))
        gap = size - reached
        if (np.abs(gap) < CLOSE_ENOUGH * size).all():
            return log_odds
        step = np.linalg.solve(covariance, gap)
        log_odds = log_odds + step / max(1.0, np.abs(step).max() / LONGEST_STEP)
    return np.full(len(size), np.nan)


@dataclass(frozen=True, eq=False)
class _Draw:
    """A number of classes drawn without replacement: independent draws of the classes, given how many are drawn.

    Attributes:
      p: probabilities of the independent draws, whose sum is the given number.
      inverse: 1 / characteristic function of each class's draw, at roots of unity.
      weight: weights of the roots, by which a mean over them is a probability given the number.
      root: roots of unity. Their number is odd, since a characteristic function may vanish at -1.
    """

    p: Float[np.ndarray, " class"]
    inverse: Complex[np.ndarray, "class root"]
    weight: Complex[np.ndarray, " root"]
    root: Complex[np.ndarray, " root"]

    @property
    def has(self) -> Float[np.ndarray, " class"]:
        """Probability that each class is drawn."""
        return self.p * (self.inverse @ (self.weight * self.root)).real

    @property
    def has_both(self) -> Float[np.ndarray, "class class"]:
        """Probability that two classes are drawn; the diagonal has no meaning."""
        return np.outer(self.p, self.p) * ((self.inverse * self.weight * self.root**2) @ self.inverse.T).real


def _draw(log_odds: Float[np.ndarray, " class"], number: int) -> _Draw:
    classes = len(log_odds)
    roots = classes + 1 + classes % 2
    root = np.exp(2j * np.pi * np.arange(roots) / roots)
    # The conditional draw is the same for any common shift of the log-odds. The one that expects the given number
    # keeps the probability of that number away from zero, by which the weights are divided.
    p = np.full(classes, 1.0 if number == classes else np.nan)
    if number < classes and np.isfinite(log_odds).all():
        ends = -log_odds.max() - CERTAIN, -log_odds.min() + CERTAIN
        p = expit(log_odds + brentq(lambda shift: float(expit(log_odds + shift).sum()) - number, *ends, xtol=1e-12))
    of_classes = 1 - p[:, None] + p[:, None] * root
    weight = of_classes.prod(axis=0) * root**-number
    return _Draw(p, 1 / of_classes, weight / weight.sum().real, root)


def _reaches(
    chance: Float[np.ndarray, "kind class_b"], counts: Int[np.ndarray, " kind"], shared: Int[np.ndarray, " class_b"]
) -> Float[np.ndarray, " class_b"]:
    """Probability that at least as many neurons are shared as observed, each neuron with its own chance.

    Column k of the state is the probability that k - last + shared neurons are shared so far. What has reached the last
    column stays there.
    """
    last = int(shared.max(initial=0))
    state = np.zeros((len(shared), last + 1))
    state[np.arange(len(shared)), last - shared] = 1
    for p in np.repeat(chance, counts, axis=0)[..., None]:
        moved = state[:, :-1] * p
        state[:, :-1] -= moved
        state[:, 1:] += moved
    return state[:, -1].clip(max=1)
