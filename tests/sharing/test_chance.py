"""Overlaps and what chance makes of them: against sets, every outcome of small cases, scipy and simulation."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jaxdissect.selection.overlap import jaccard, overlap
from jaxdissect.sharing.chance import chance_overlap, rate_strata
from jaxdissect.sharing.clusters import cluster, linkage


def masks(classes):
    return arrays.arrays(bool, st.tuples(classes, st.just(2), st.just(5)), elements=st.booleans())


def sets_of(mask):
    return [set(map(tuple, np.argwhere(one).tolist())) for one in mask]


@settings(max_examples=100, deadline=None)
@given(masks(st.integers(1, 4)), masks(st.integers(1, 3)))
def test_overlap_is_that_of_sets(a, b):
    found = overlap(a, b)
    assert found.size_a.tolist() == [len(one) for one in sets_of(a)]
    assert found.size_b.tolist() == [len(one) for one in sets_of(b)]
    for (i, one), (j, other) in itertools.product(enumerate(sets_of(a)), enumerate(sets_of(b))):
        assert found.shared[i, j] == len(one & other)
        assert found.jaccard[i, j] == (len(one & other) / len(one | other) if one | other else 0)


def test_overlap_counts_more_than_a_byte_holds():
    everything = np.ones((2, 12, 3072), bool)
    found = overlap(everything, everything)
    assert (found.shared == 36_864).all()
    assert (found.jaccard == 1).all()
    assert jaccard(np.array(0), np.array(0), np.array(0)) == 0


# --- clustering


def merges(similar):
    """Heights of average linkage, by its definition: mean distance of all pairs of two clusters."""
    clusters, heights = [[number] for number in range(len(similar))], []
    while len(clusters) > 1:
        distance = {
            (i, j): math.fsum(1 - similar[a, b] for a in clusters[i] for b in clusters[j])
            / (len(clusters[i]) * len(clusters[j]))
            for i, j in itertools.combinations(range(len(clusters)), 2)
        }
        i, j = min(distance, key=distance.get)
        heights.append((distance[i, j], sorted(clusters[i] + clusters[j])))
        clusters = [one for number, one in enumerate(clusters) if number not in (i, j)] + [clusters[i] + clusters[j]]
    return heights


def leaves(tree, classes):
    """Classes below every merge."""
    found = {number: [number] for number in range(classes)}
    for number, (a, b, _, size) in enumerate(tree):
        found[classes + number] = sorted(found[int(a)] + found[int(b)])
        assert len(found[classes + number]) == size
    return [found[classes + number] for number in range(classes - 1)]


def test_cluster_is_average_linkage_and_puts_similar_classes_together():
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random((6, 2, 60)) < rng.uniform(0.2, 0.6, (6, 1, 1))
        similar = overlap(mask, mask).jaccard
        expected, tree = merges(similar), linkage(similar)
        np.testing.assert_allclose(tree[:, 2], [height for height, _ in expected], atol=1e-12)
        assert leaves(tree, 6) == [below for _, below in expected]
        order = cluster(mask)
        assert sorted(order) == list(range(6))
        together = [set(below) for _, below in expected]

        def length(order, similar=similar):
            return math.fsum(1 - similar[a, b] for a, b in itertools.pairwise(order))

        def stand_together(order, together=together):
            return all(
                any(set(order[at : at + len(below)]) == below for at in range(7 - len(below))) for below in together
            )

        assert stand_together(order)
        lengths = [length(other) for other in itertools.permutations(range(6)) if stand_together(other)]
        assert len(lengths) == 2**5
        assert length(order) <= np.quantile(lengths, 0.25)  # SciPy's order is not always the best


def test_cluster_of_few_classes_and_of_classes_without_neurons():
    none = np.zeros((5, 1, 4), bool)
    assert sorted(cluster(none)) == [0, 1, 2, 3, 4]
    assert cluster(none[:2]) == [0, 1]
    assert cluster(none[:1]) == [0]
    assert cluster(none[:0]) == []
    two = np.array([1, 0, 1, 0], bool)[:, None, None] == np.array([True, True, False, False])
    assert {frozenset(cluster(two)[:2])} <= {frozenset({0, 2}), frozenset({1, 3})}


# --- strata


def test_rate_strata_are_fifths_of_the_rates_within_a_layer():
    rng = np.random.default_rng(0)
    rates = rng.random((2, 3, 20))
    rates[0, :, :6] = 0.0  # ties
    found = rate_strata(*rates)

    def fifth(rate):
        return [sum((other, at) < (rate[n], n) for at, other in enumerate(rate)) // 4 for n in range(20)]

    names = [
        (layer, *pair)
        for layer in range(3)
        for pair in zip(fifth(rates[0, layer].tolist()), fifth(rates[1, layer].tolist()), strict=True)
    ]
    numbers = found.ravel().tolist()
    assert len(set(zip(numbers, names, strict=True))) == len(set(numbers)) == len(set(names))
    alone = rate_strata(rates[1], rates[1])
    assert sorted(Counter(alone.ravel().tolist()).values()) == [4] * 15


# --- chance


def placements(sizes, strata):
    """Every set that has so many neurons in each stratum."""
    places = [[n for n, one in enumerate(strata) if one == stratum] for stratum in range(len(sizes))]
    choices = (itertools.combinations(inside, size) for inside, size in zip(places, sizes, strict=True))
    return [frozenset(itertools.chain.from_iterable(parts)) for parts in itertools.product(*choices)]


@pytest.mark.parametrize(("size_a", "size_b"), [((2, 1), (1, 2)), ((0, 2), (2, 2)), ((3, 1), (2, 1)), ((2, 0), (0, 1))])
def test_chance_overlap_matches_enumeration(size_a, size_b):
    strata = [0, 1, 0, 1, 1, 0, 0, 1]
    ways_a, ways_b = placements(size_a, strata), placements(size_b, strata)
    shared = [len(a & b) for a in ways_a for b in ways_b]
    mean = Fraction(sum(shared), len(shared))
    layout = np.array(strata)
    seen = set()
    for a, b in itertools.product(ways_a[::3], ways_b[::2]):
        masks = (np.isin(np.arange(8), list(one)).reshape(1, 2, 4) for one in (a, b))
        expected, p_value = chance_overlap(*masks, layout.reshape(2, 4))
        assert expected.item() == pytest.approx(float(mean), rel=1e-12)
        reached = sum(number >= len(a & b) for number in shared) / len(shared)
        assert p_value.item() == pytest.approx(reached, rel=1e-12)
        seen.add(len(a & b))
    assert len(seen) > 1 or max(shared) == 0


def test_chance_overlap_in_one_stratum_is_scipys_hypergeometric():
    rng = np.random.default_rng(0)
    a, b = (rng.random((3, 12, 3072)) < rate for rate in (0.01, 0.003))
    b[0] = a[0] & (rng.random((12, 3072)) < 0.2)
    expected, p_value = chance_overlap(a, b, np.zeros((12, 3072), int))
    found, total = overlap(a, b), 12 * 3072
    for i, j in np.ndindex(3, 3):
        law = scipy.stats.hypergeom(total, found.size_a[i], found.size_b[j])
        assert expected[i, j] == pytest.approx(law.mean(), rel=1e-12)
        assert p_value[i, j] == pytest.approx(law.sf(found.shared[i, j] - 1), rel=1e-9)
    assert p_value[0, 0] < 1e-30
    assert p_value[1:, 1:].min() > 1e-4


def test_chance_overlap_over_strata_matches_simulation():
    """5,000 random sets with the same number in each stratum; shares are known to 0.007."""
    rng = np.random.default_rng(3)
    rate_a, rate_b = rng.random((2, 2, 100))
    strata = rate_strata(rate_a, rate_b, bins=3)
    a, b = (rng.random((1, 2, 100)) < 0.5 * rate[None] for rate in (rate_a, rate_b))
    expected, p_value = chance_overlap(a, b, strata)
    drawn = []
    for _ in range(5000):
        shuffled = a[0].copy()
        for stratum in np.unique(strata):
            inside = strata == stratum
            shuffled[inside] = rng.permutation(shuffled[inside])
        drawn.append(int((shuffled & b[0]).sum()))
    assert expected.item() == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / math.sqrt(5000))
    share = np.mean(np.array(drawn) >= (a & b).sum())
    assert 0.02 < share < 0.98
    assert p_value.item() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 5000))


def test_chance_overlap_of_random_sets_reaches_a_level_as_often_as_it_may():
    rng = np.random.default_rng(4)
    strata = rate_strata(rng.random((2, 60)), rng.random((2, 60)), bins=2)
    p = []
    for _ in range(30):
        a, b = rng.random((2, 6, 2, 60)) < 0.2
        p.append(chance_overlap(a, b, strata)[1])
    p = np.array(p)
    for level in (0.05, 0.2):
        share = (p <= level).mean(axis=(1, 2))
        assert level / 4 < share.mean() < level + 3 * share.std(ddof=1) / math.sqrt(30)


def test_chance_overlap_of_an_empty_set_is_nothing():
    some = np.zeros((2, 2, 3), bool)
    some[1, 0, 0] = True
    expected, p_value = chance_overlap(some, some, np.zeros((2, 3), int))
    assert p_value.ravel().tolist() == pytest.approx([1, 1, 1, 1 / 6])
    assert expected.ravel().tolist() == pytest.approx([0, 0, 0, 1 / 6])
