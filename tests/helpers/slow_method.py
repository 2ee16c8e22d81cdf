"""The method a second time: slow, in loops and exact arithmetic, written from the paper's text and not from the code.

Probabilities are fractions and entropies have 40 decimal digits, so that two scores are tied here only if they are
tied in mathematics. Arrays of counts have the axes (class, layer, neuron); a neuron is a pair (layer, neuron).
"""

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import product
from types import SimpleNamespace

import numpy as np

DIGITS = 40


def count(clips, members, *, classes, threshold=0.0):
    """Class-conditional counts from `clips`, one array (token, layer, neuron) each, and the classes each belongs to.

    `None` in place of a clip is one that could not be read. Sums are exact (fsum), over tokens; `total_` is over clips.
    """
    layers, neurons = next(clip.shape[1:] for clip in clips if clip is not None)

    def add_up(chosen):
        part = SimpleNamespace(clips=len(chosen), tokens=sum(len(clip) for clip in chosen))
        part.active_tokens = np.zeros((layers, neurons), np.int64)
        part.sum, part.sum_squares = np.zeros((2, layers, neurons))
        for layer, neuron in product(range(layers), range(neurons)):
            values = [float(value) for clip in chosen for value in clip[:, layer, neuron]]
            for value in values:
                if value > threshold:
                    part.active_tokens[layer, neuron] += 1
            part.sum[layer, neuron] = math.fsum(values)
            part.sum_squares[layer, neuron] = math.fsum(value * value for value in values)
        return part

    readable = [number for number, clip in enumerate(clips) if clip is not None]
    per_class = [add_up([clips[number] for number in readable if one in members[number]]) for one in range(classes)]
    total = add_up([clips[number] for number in readable])
    names = ("clips", "tokens", "active_tokens", "sum", "sum_squares")
    return {name: np.array([getattr(part, name) for part in per_class]) for name in names} | {
        f"total_{name}": np.array(getattr(total, name)) for name in names
    }


def top_clips(clips, ranks, *, threshold=0.0):
    """The `ranks` clips that fire each neuron most: by active share, then highest activation, then lowest number.

    Returns clip (-1 where fewer clips fire the neuron), active share and highest activation: (rank, layer, neuron).
    """
    layers, neurons = next(clip.shape[1:] for clip in clips if clip is not None)
    best = np.full((ranks, layers, neurons), -1, np.int64)
    share, highest = np.zeros((2, ranks, layers, neurons))
    for layer, neuron in product(range(layers), range(neurons)):
        rows = []
        for number, clip in enumerate(clips):
            values = [] if clip is None else [float(value) for value in clip[:, layer, neuron]]
            active = sum(value > threshold for value in values)
            if active:
                rows.append((-Fraction(active, len(values)), -max(values), number))
        for rank, (minus_share, minus_highest, number) in enumerate(sorted(rows)[:ranks]):
            best[rank, layer, neuron] = number
            share[rank, layer, neuron] = -minus_share
            highest[rank, layer, neuron] = -minus_highest
    return best, share, highest


def probability(active_tokens, tokens):
    """{(class, layer, neuron): share of the class's tokens at which the neuron is active}, as fractions."""
    return {
        place: Fraction(int(active_tokens[place]), int(tokens[place[0]])) for place in np.ndindex(active_tokens.shape)
    }


def entropy(weights):
    """AAPE in nats of one neuron's probabilities over classes; None if they are all zero."""
    total = sum(weights)
    if total == 0:
        return None
    with localcontext() as context:
        context.prec = DIGITS + 10
        terms = []
        for weight in weights:
            share = Fraction(weight) / total
            if share > 0:
                decimal = Decimal(share.numerator) / Decimal(share.denominator)
                terms.append(-decimal * decimal.ln())
        return round(sum(sorted(terms), Decimal(0)), DIGITS)


def kth_smallest(values, rate):
    """The k-th smallest of values, k = round(rate x count), counted from 1 and so at least 1."""
    k = max(round(rate * len(values)), 1)
    return sorted(values)[k - 1]


def select(active_tokens, tokens, *, preset="aape", keep=0.01, weakest=0.05, bar_rate=0.95):
    """Selection in one label set: `kept` [(layer, neuron)], `specific` [(class, layer, neuron)] and the scores."""
    classes, layers, neurons = active_tokens.shape
    p = probability(active_tokens, tokens)
    places = list(product(range(layers), range(neurons)))  # in the order that breaks ties
    profile = {place: [p[(one, *place)] for one in range(classes)] for place in places}
    rate = {place: sum(profile[place]) / classes for place in places}
    aape = {place: entropy(profile[place]) for place in places}
    bar = kth_smallest(list(p.values()), bar_rate)

    if preset == "aape":
        weak = sorted(places, key=lambda place: (rate[place], place))[: round(weakest * len(places))]
        eligible = [place for place in places if place not in weak]
    else:
        eligible = [place for place in places if any(value > bar for value in profile[place])]
    eligible = [place for place in eligible if rate[place] > 0]
    kept = sorted(sorted(eligible, key=lambda place: (aape[place], place))[: round(keep * len(places))])
    specific = sorted((one, *place) for place in kept for one in range(classes) if profile[place][one] > bar)
    return SimpleNamespace(kept=kept, specific=specific, rate=rate, aape=aape, bar=bar, probability=p)


def coverage(specific, kept, classes):
    """The row of `coverage.csv`, without the label set's name."""
    covered = {one for one, _, _ in specific}
    return {
        "classes": classes,
        "covered": len(covered),
        "coverage": len(covered) / classes,
        "kept_neurons": len(kept),
        "mean_neurons_per_class": len(specific) / classes,
        "mean_classes_per_neuron": len(specific) / len(kept) if kept else math.nan,
    }
