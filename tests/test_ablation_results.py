"""What `ablate` returns against the slow version, and on cases that can be worked out."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import slow_ablation as slow
import soundfile
from foreign import HOP, IntegerEncoder
from tolerances import assert_within, relative_error

from jaxdissect import AblationOptions, Head, Judge, ablate, neuron_set
from jaxdissect.ablation.suites import interventions
from jaxdissect.significance import benjamini_hochberg, bootstrap_means, empirical_p
from jaxdissect.tasks.table import label_set, make_task

CLIPS, SAMPLES, SHAPE = 30, 4 * HOP, (2, 12)
PROBES, CONTROLS, RESAMPLES = 2, 9, 10_000
UNREADABLE, SHORT = (7, 20), 4
OPTIONS = AblationOptions(gains=(0.0, 0.5, 3.0), controls=CONTROLS, match="layer", resamples=RESAMPLES)
SETS = (
    ("first", [(0, 1), (0, 5), (1, 2)], [("kind", "a")]),
    ("second", [(1, 0), (1, 7)], [("kind", "b"), ("kind", "c"), ("place", "x")]),
    ("third", [(0, 3)], [("sounds", "siren"), ("place", "y")]),
    ("aimless", [(0, 8), (1, 8)], []),
)


def kind(clip):
    return ["abc"[clip % 3]]


def place(clip):
    return [] if clip % 7 == 3 else ["xy"[clip % 2]]


def sounds(clip):
    """Several, one or none; `a` is a name that another label set has too."""
    named = {"a": clip % 4 == 0, "siren": clip % 15 == 2, "horn": clip % 3 != 0}
    return [name for name, there in named.items() if there]


def recording(clip):
    """Five, of which class c of `kind` has three and `siren` one."""
    return "r2" if clip % 15 == 2 else f"r{clip // 3 % 3 if kind(clip) == ['c'] else clip % 5}"


def signal(clip):
    """Of three patterns that a linear layer can tell, under noise, as float32."""
    patterns = np.random.default_rng(0).uniform(-0.4, 0.4, (3, 16))
    noise = np.random.default_rng(100 + clip).uniform(-0.5, 0.5, SAMPLES)
    pcm = np.tile(np.repeat(patterns[clip % 3], HOP // 16), SAMPLES // HOP) + noise
    return (pcm[:1100] if clip == SHORT else pcm).astype(np.float32)


def heads_of(embeddings, members, seed):
    """Probes that know the classes' mean embeddings, less than well."""
    random = np.random.default_rng(seed)
    scaled = (embeddings - embeddings.mean(axis=0)) / embeddings.std(axis=0)
    ideal = np.stack([scaled[own].mean(axis=0) - scaled[~own].mean(axis=0) for own in members.T], axis=1)
    heads = []
    for _ in range(PROBES):
        kernel = ideal + random.normal(size=ideal.shape)
        head = {"mean": embeddings.mean(axis=0) + random.normal(size=16), "variance": embeddings.var(axis=0),
                "kernel": kernel, "bias": random.normal(size=ideal.shape[1])}  # fmt: skip
        heads.append({name: leaf.astype(np.float32) for name, leaf in head.items()})
    return tuple(heads)


def judge_of(labels, task_labels):
    head = Head(**{name: np.stack([head[name] for head in labels.heads]) for name in labels.heads[0]})
    return Judge(head, task_labels.table(), labels.multi_label)


def chosen_of(options=OPTIONS, suffix="", sets=SETS):
    return interventions([neuron_set(name + suffix, *rest) for name, *rest in sets], SHAPE, options)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A task with two label sets of one class a clip and one of several, probes of each, and the slow version's clips."""
    folder, encoder = tmp_path_factory.mktemp("data"), IntegerEncoder()
    clips = [signal(clip) for clip in range(CLIPS)]
    for number, pcm in enumerate(clips):
        soundfile.write(folder / f"{number}.wav", pcm, encoder.sample_rate, subtype="FLOAT")
    for number in UNREADABLE:
        (folder / f"{number}.wav").write_bytes(b"no recording")
    clips = [None if number in UNREADABLE else np.pad(pcm, (0, SAMPLES - len(pcm))) for number, pcm in enumerate(clips)]
    readable = [number for number in range(CLIPS) if number not in UNREADABLE]
    embeddings = np.array([slow.embedding(encoder, clips[number]) for number in readable])

    task_labels = [
        label_set("kind", [kind(clip) for clip in range(CLIPS)]),
        label_set("place", [place(clip) for clip in range(CLIPS)]),
        label_set("sounds", [sounds(clip) for clip in range(CLIPS)], multi_label=True),
    ]
    labels = [
        slow.Labels(one.name, one.classes, one.members, one.multi_label,
                    heads_of(embeddings, one.table(readable), seed))
        for seed, one in enumerate(task_labels)
    ]  # fmt: skip
    names = [f"{number}.wav" for number in range(CLIPS)]
    recordings = [recording(clip) for clip in range(CLIPS)]
    seconds = SAMPLES / encoder.sample_rate
    splits, folds = ["test"] * CLIPS, [None] * CLIPS
    task = make_task("world", folder, seconds, names, splits, folds, task_labels, recordings=recordings)
    judges = {one.name: judge_of(one, own) for one, own in zip(labels, task_labels, strict=True)}
    means = np.random.default_rng(9).uniform(0, 60, SHAPE)
    chosen = chosen_of() + chosen_of(dataclasses.replace(OPTIONS, gains=None, mode="mean"), " by mean")
    return SimpleNamespace(encoder=encoder, clips=clips, labels=labels, task=task, judges=judges, means=means,
                           chosen=chosen, readable=readable)  # fmt: skip


@pytest.fixture(scope="module")
def found(world):
    return ablate(world.encoder, world.task, world.judges, world.chosen, OPTIONS, world.means)


@pytest.fixture(scope="module")
def expected(world):
    done = slow.ablate(world.encoder, world.clips, world.labels, world.chosen, world.means)
    return SimpleNamespace(table=pd.DataFrame(done.rows), controls=pd.DataFrame(done.controls),
                           suite=pd.DataFrame(done.suite), logit_gap=done.logit_gap, p_gap=done.p_gap)  # fmt: skip


def test_x(found, expected):
    for n in ("table", "controls", "suite"):
        f, e = getattr(found, n), getattr(expected, n)
        print(n, len(f), len(e))
        for c in f.columns:
            if c not in e:
                print("missing", c)
                continue
            if f[c].dtype == float:
                print(c, np.abs(f[c] - e[c]).max(), np.abs(e[c]).max(), (f[c].isna() == e[c].isna()).all())
            else:
                print(c, (f[c] == e[c]).all())
    print(expected.logit_gap, expected.p_gap)
    print(found.table.to_string())
    print(found.suite.to_string())
    print(found.reasons)
    f, e = found.table, expected.table
    one = (f.label_set != "sounds").to_numpy()
    for c in ("accuracy_before", "accuracy_after", "change", "change_clips"):
        print(c, (f[c][one] - e[c][one]).abs().max())
    f, e = found.controls, expected.controls
    i = np.flatnonzero((f["class"] != e["class"]).to_numpy())
    print(i[:10], len(i))
    print(f.iloc[i[:5]], e.iloc[i[:5]])
    print(f.columns, f[:30].to_string())
    assert 0
