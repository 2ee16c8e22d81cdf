"""Clips of recordings that have much in common, with labels that mean nothing unless an effect is planted."""

from types import SimpleNamespace

import numpy as np


def recorded_clips(
    seed,
    *,
    folds=2,
    recordings=8,
    clips=(1, 4),
    classes=3,
    neurons=8,
    mixed=0.0,
    several=0.0,
    unlabelled=0.0,
    tokens=(6, 13),
    common=1.5,
    of_fold=0.0,
    planted=(),
    seldom=0.0,
):
    """Counts of clips whose labels are drawn by themselves, so that what they show is chance.

    Args:
      seed: seed of all random draws.
      folds: number of folds.
      recordings: number of recordings of each fold; those of two folds have the same names.
      clips: fewest and most clips of a recording.
      classes: number of classes.
      neurons: number of neurons, in two layers.
      mixed: fraction of a fold's recordings whose clips have classes of their own.
      several: probability that a clip or recording has each further class.
      unlabelled: fraction of the clips that have no class.
      tokens: fewest tokens of a clip, and one above the most.
      common: strength of what the clips of a recording have in common; half of it drives all neurons alike.
      of_fold: strength of what the recordings of a fold have in common.
      planted: pairs (class, neuron): the clips of the class drive the neuron.
      seldom: fraction of the neurons that fire in few clips: the first in hardly any, the last of them in some.
    """
    rng = np.random.default_rng(seed)
    members, sources, folds_of_clips, drive = [], [], [], []
    base, in_fold = rng.normal(-1, 0.7, neurons), rng.normal(0, of_fold, (folds, neurons))
    for fold in range(folds):
        # every class equally often, in random order: strata whose labels are all alike would show nothing
        labels = rng.permutation(np.arange(recordings) % classes)
        for recording in range(recordings):
            effect = base + in_fold[fold] + common * (rng.normal() + rng.normal(size=neurons)) / np.sqrt(2)
            number = rng.integers(clips[0], clips[1] + 1)
            own_labels = recording < mixed * recordings
            clip_labels = rng.permutation(np.arange(number) % classes) if own_labels else [labels[recording]] * number
            further = rng.random(classes) < several
            for label in clip_labels:
                if own_labels:
                    further = rng.random(classes) < several
                row = further.copy()
                row[label] = True
                members.append(row & (rng.random() >= unlabelled))
                sources.append(f"recording {recording}")
                folds_of_clips.append(fold)
                driven = {neuron for chosen_class, neuron in planted if row[chosen_class]}
                drive.append(effect + 4.0 * np.isin(np.arange(neurons), list(driven)))
    rare = round(seldom * neurons)
    drive = np.array(drive) - np.append(np.linspace(4.5, 2, rare), np.zeros(neurons - rare))
    counted = rng.integers(*tokens, len(members))
    counts = rng.binomial(counted[:, None], 1 / (1 + np.exp(-drive))).astype(np.uint16)
    counts = counts.reshape(len(counts), 2, neurons // 2)
    return SimpleNamespace(
        members=np.array(members), sources=sources, folds=folds_of_clips, tokens=counted, counts=counts
    )
