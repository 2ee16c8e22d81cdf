"""The permutation test a second time: in loops and exact fractions, written from its description and not from the code.

A unit keeps its labels together when labels are exchanged. Arrays of units have the axes (unit, neuron)
for active tokens, (unit,) for tokens and strata, and (unit, class) for the classes a unit belongs to.
"""

import itertools
import math
from collections import Counter, defaultdict
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import slow_method as slow

BIN = 1 / 64
ROUNDING = 1e-9  # statistics that are equal in mathematics are, in float64


def units(members, sources, folds):
    """The units of clips: `clips` (a set of clips each), `classes` (a set each) and `stratum` (a name each).

    Clips of one fold and source that have the same classes are one unit, whose stratum is the fold and the number of
    these clips. Where the clips of a fold and source differ, each is a unit, whose stratum is that recording. Clips of
    no class are in no unit.
    """
    recordings = defaultdict(list)
    for clip, row in enumerate(np.asarray(members).tolist()):
        if any(row):
            recordings[folds[clip], sources[clip]].append(clip)
    found = []
    for (fold, source), clips in recordings.items():
        kinds = {frozenset(np.flatnonzero(members[clip]).tolist()) for clip in clips}
        if len(kinds) == 1:
            found.append((frozenset(clips), next(iter(kinds)), ("fold", fold, len(clips)), (fold, source)))
        else:
            for clip in clips:
                kind = frozenset(np.flatnonzero(members[clip]).tolist())
                found.append((frozenset([clip]), kind, ("recording", fold, source), (fold, source)))
    return [SimpleNamespace(clips=a, classes=b, stratum=c, recording=d) for a, b, c, d in found]


def groups(members, sources, folds):
    """{(fold, source): the group within which that recording is drawn}.

    The group is fold and class where every clip has at most one class and all clips of the recording have the same;
    else it is the fold's group of recordings of several classes, which is the whole fold if some clip has several.
    Recordings that are alone in their group make one group of their fold.
    """
    single = all(sum(row) <= 1 for row in np.asarray(members).tolist())
    kinds = defaultdict(set)
    for clip, row in enumerate(np.asarray(members).tolist()):
        if any(row):
            kinds[folds[clip], sources[clip]].add(tuple(row))
    found = {
        (fold, source): (fold, row.index(True) if single and len(several) == 1 else "several")
        for (fold, source), several in kinds.items()
        for row in [next(iter(several))]
    }
    size = Counter(found.values())
    return {key: group if size[group] > 1 else (group[0], "alone") for key, group in found.items()}


def excess(active, tokens):
    """Active tokens of every unit and neuron above what the neuron's rate over all units would give, as fractions."""
    rate = [Fraction(sum(int(a) for a in column), sum(int(t) for t in tokens)) for column in active.T]
    return [[int(active[u, n]) - rate[n] * int(tokens[u]) for n in range(active.shape[1])] for u in range(len(active))]


def moments(member, part, stratum):
    """Mean and variance, as fractions, of the sum of `part` over a class's units when labels are exchanged in strata.

    `member` is 1 for units of the class and 0 for other units, `part` is what each unit adds to the sum.
    """
    mean = variance = Fraction(0)
    for one in set(stratum):
        inside = [u for u, other in enumerate(stratum) if other == one]
        x, e = [Fraction(member[u]) for u in inside], [part[u] for u in inside]
        mean_x, mean_e = sum(x) / len(x), sum(e) / len(e)
        mean += mean_x * sum(e)
        if len(inside) > 1:
            spread = sum((a - mean_x) ** 2 for a in x) * sum((b - mean_e) ** 2 for b in e)
            variance += spread / (len(inside) - 1)
    return mean, variance


def every_exchange(member, stratum):
    """Every distinct way (with its number of permutations) to exchange the 0s and 1s of `member` within strata."""
    strata = sorted(set(stratum))
    places = [[u for u, other in enumerate(stratum) if other == one] for one in strata]
    ways = [Counter(itertools.permutations([int(member[u]) for u in inside])).items() for inside in places]
    for choice in itertools.product(*ways):
        row, number = [0] * len(stratum), 1
        for inside, (values, count) in zip(places, choice, strict=True):
            number *= count
            for u, value in zip(inside, values, strict=True):
                row[u] = value
        yield row, number


def statistic(active, tokens, classes, stratum):
    """Studentised excess of every class and neuron, NaN where it cannot vary or the class has fewer than two units."""
    parts = excess(active, tokens)
    result = np.full((classes.shape[1], active.shape[1]), math.nan)
    for one, neuron in np.ndindex(result.shape):
        member = [int(x) for x in classes[:, one]]
        part = [row[neuron] for row in parts]
        mean, variance = moments(member, part, stratum)
        if variance > 0 and sum(member) > 1:
            found = sum((x * e for x, e in zip(member, part, strict=True)), Fraction(0))
            result[one, neuron] = float(found - mean) / math.sqrt(variance)
    return result


def passing(active, tokens, classes, cut):
    """The neurons within the cut-offs of AAPE and rate, and the pairs (class, neuron) of them above the bar."""
    neurons, pairs = set(), set()
    for neuron in range(active.shape[1]):
        p = []
        for one in range(classes.shape[1]):
            inside = np.flatnonzero(classes[:, one])
            p.append(Fraction(int(active[inside, neuron].sum()), int(tokens[inside].sum())))
        entropy = slow.entropy(p)
        if entropy is None or float(entropy) > cut.aape or float(sum(p) / len(p)) <= cut.rate:
            continue
        above = {(one, neuron) for one, value in enumerate(p) if float(value) > cut.probability}
        pairs |= above
        if above:
            neurons.add(neuron)
    return neurons, pairs


def overlaps(pairs, classes):
    """Neurons that every two classes share: (class, class)."""
    sets = [{neuron for one, neuron in pairs if one == number} for number in range(classes)]
    return np.array([[len(a & b) for b in sets] for a in sets], np.int64)


def pools(active):
    """The pool of every neuron; neurons that fire in 1, 2-3, 4-7, ... units belong together.

    Beginning with the groups that fire most, groups are put together until they hold a sixteenth of the neurons that
    fire. What is left at the end, and what never fires, is the last pool.
    """
    fires = [sum(int(number) > 0 for number in column) for column in active.T]
    firing = sum(number > 0 for number in fires)
    groups = [[]]
    for bits in sorted({max(1, number).bit_length() for number in fires}, reverse=True):
        groups[-1] += [n for n, number in enumerate(fires) if max(1, number).bit_length() == bits]
        if 16 * sum(fires[n] > 0 for n in groups[-1]) >= firing:
            groups.append([])
    return [next(number for number, group in enumerate(groups) if neuron in group) for neuron in range(len(fires))]


def permutation_test(active, tokens, classes, stratum, cut, exchanged, overlap):
    """The whole test, given the classes (unit, class) of every permutation in `exchanged`.

    `p_value` counts exactly the statistics that reach the observed one, over the class's tested neurons of the same
    pool. `at_most` also counts those that are lower by less than a bin of 1/64 and a twentieth of a bin, the most that
    a histogram may count whose first bin holds all up to 1/64. `highest_at_most` is `p_highest` with a twentieth more.
    """
    observed = statistic(active, tokens, classes, stratum)
    pool = pools(active)
    tested = ~np.isnan(observed)
    null = np.stack([statistic(active, tokens, rows, stratum) for rows in exchanged])
    assert (np.isnan(null) == ~tested).all(), "which pairs can be tested does not depend on the labels"
    p_value, at_most, p_highest, highest_at_most = np.full((4, *observed.shape), math.nan)
    highest = np.array([rows[tested].max() for rows in null]) if tested.any() else np.zeros(0)
    for place in zip(*np.nonzero(tested), strict=True):
        like_it = [pool[neuron] == pool[place[1]] for neuron in range(len(pool))]
        pooled = null[:, place[0]][:, tested[place[0]] & like_it].ravel()
        value = observed[place]
        reach = value - 1.05 * BIN if value >= 1.05 * BIN else -math.inf
        p_value[place] = (1 + np.count_nonzero(pooled >= value - ROUNDING)) / (1 + pooled.size)
        at_most[place] = (1 + np.count_nonzero(pooled >= reach - ROUNDING)) / (1 + pooled.size)
        p_highest[place] = (1 + np.count_nonzero(highest >= value - ROUNDING)) / (1 + len(exchanged))
        reach = value - 0.05 * BIN if value > 0 else -math.inf
        highest_at_most[place] = (1 + np.count_nonzero(highest >= reach - 0.01 * BIN)) / (1 + len(exchanged))
    pairs, neurons = [], []
    shared = np.zeros((classes.shape[1],) * 2, np.int64)
    as_many = np.zeros((classes.shape[1],) * 2, np.int64)
    for rows in exchanged:
        kept, specific = passing(active, tokens, rows, cut)
        pairs.append(len(specific))
        neurons.append(len(kept))
        both = overlaps(specific, classes.shape[1])
        shared += both
        as_many += both >= overlap
    return SimpleNamespace(
        statistic=observed,
        null=null,
        p_value=p_value,
        at_most=at_most,
        p_highest=p_highest,
        highest_at_most=highest_at_most,
        pairs=np.array(pairs),
        neurons=np.array(neurons),
        shared=shared,
        as_many=as_many,
    )
