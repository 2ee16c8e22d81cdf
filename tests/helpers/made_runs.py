"""Run directories made by hand, with any class names, without an encoder or sound."""

import numpy as np
import pandas as pd
import xarray as xr

from jaxdissect.ablation.files import with_effects
from jaxdissect.ablation.tables import SuiteRow
from jaxdissect.options.share import ShareOptions
from jaxdissect.runtime.run_directory import Run, record_attributes
from jaxdissect.runtime.tables import read_netcdf, write_csv, write_netcdf
from jaxdissect.selection.aape import SelectionRule
from jaxdissect.selection.labelled import select_neurons
from jaxdissect.stages.neurons import layer_table
from jaxdissect.stages.share import run_share
from jaxdissect.tasks.table import CLIP_COLUMNS

ABLATION_HEADER = (
    "label_set,intervention,mode,gain,neurons,class,clips,accuracy_before,accuracy_after,change,change_clips,"
    "margin_before,margin_after,margin_change,ci_low,ci_high,controls,control_mean,control_sd,p_value,q_value"
)
PRINTS = {"encoder": "e" * 64, "task": "f" * 64, "front_end": "0" * 64}
HOSTILE = (
    "<script>alert(1)</script>", "a&b", "</script><!--", "🦜 parrot", "long " * 40, "'\"`${x}", "a,b|c", "\u2028line",
    "<img src=x onerror=alert(1)>", "javascript:alert(1)", "__proto__", "constructor", "../..", "#neuron/0/0", "%00%zz",
    "NaN",
)  # fmt: skip


def make_run(folder, names, *, label_set="event", layers=3, width=40, seed=0, ablated=True, shared=True, keep=0.2):
    """Write a run of some classes, whose counts are drawn; returns the folder."""
    rng, run = np.random.default_rng(seed), Run(folder)
    folder.mkdir(parents=True)
    counts = _counts(rng, names, label_set, layers, width)
    record = {
        "options": {"label": [label_set], "split": "train", "tokens": "all"}, "fingerprints": PRINTS, "task": "made",
        "encoder": "made", "unit_seconds": 1.0, "status": "done",
        "inputs": {
            "encoder": "m2d_tiny", "task": "/nowhere/no.csv", "data": "/nowhere", "label": label_set,
        },
    }  # fmt: skip
    counts.attrs = record_attributes(record)
    write_netcdf(counts, run.file("activations.nc"))
    clips = 2 * len(names)
    write_csv(_clips(names, label_set, clips), run.file("clips.csv"))
    top = rng.integers(0, clips, (layers, width, 10)).astype(np.int32)
    axes = ("layer", "neuron", "rank")
    arrays = {
        "clip": (axes, top),
        "active_share": (axes, rng.random(top.shape)),
        "max_activation": (axes, rng.random(top.shape, np.float32)),
    }
    write_netcdf(xr.Dataset(arrays, attrs=counts.attrs), run.file("top_clips.nc"))
    run.finish("activations", record)
    neurons = select_neurons(counts, SelectionRule("lape", keep, bar=0.8))
    write_netcdf(neurons.scores.assign_attrs(neurons.scores.attrs | counts.attrs), run.file("scores.nc"))
    for name, table in (("neurons", neurons.neurons), ("coverage", neurons.coverage), ("layers", layer_table(neurons))):
        write_csv(table, run.file(f"{name}.csv"))
    chosen = {"preset": "lape", "keep": keep, "drop_weakest": 0.05, "bar": 0.8, "selector": "aape"}
    run.finish("neurons", {"options": chosen, "fingerprints": PRINTS, "status": "done"})
    if shared:
        run_share(ShareOptions(run=folder))
    _check(rng, run, label_set, len(neurons.neurons))
    if ablated:
        _probe(rng, run, names, label_set)
        _ablate(rng, run, names, label_set, neurons.neurons)
        _map(rng, run, names, label_set, (layers, width))
    return folder


def _counts(rng, names, label_set, layers, width):
    shape, tokens = (len(names), layers, width), 1000
    active = (tokens * rng.beta(0.4, 1.6, shape)).astype(np.int64)
    axes = ("class", "layer", "neuron")
    return xr.Dataset(
        {
            "active_tokens": (axes, active),
            "total_active_tokens": (axes[1:], active.sum(axis=0)),
            "tokens": ("class", np.full(len(names), tokens)),
            "clips": ("class", np.full(len(names), 2)),
            "total_clips": ((), 2 * len(names) - 1),
            "total_tokens": ((), tokens * len(names)),
        },
        {
            "class": np.array(names, object),
            "label_set": ("class", np.array([label_set] * len(names), object)),
            "layer": np.arange(layers),
            "neuron": np.arange(width),
        },
    )


def _clips(names, label_set, clips):
    rows = {
        "clip": range(clips), "file_name": [f"{clip}.wav" for clip in range(clips)], "split": "train", "fold": "",
        "status": ["unreadable" if clip == 0 else "ok" for clip in range(clips)],
        "reason": ["empty <b>file</b>" if clip == 0 else "" for clip in range(clips)], "samples": 16000,
    }  # fmt: skip
    assert tuple(rows) == CLIP_COLUMNS
    return pd.DataFrame({**rows, label_set: [names[clip // 2] for clip in range(clips)]})


def _check(rng, run, label_set, pairs):
    """What permuted labels and other selectors show, and published figures."""
    axes = ("label_set", "permutation")
    arrays = {"pairs": (axes, rng.integers(0, pairs // 2 + 1, (1, 30)))}
    attributes = record_attributes(run.stages()["activations"])
    permuted = xr.Dataset(arrays, {"label_set": np.array([label_set], object)}, attributes)
    write_netcdf(permuted, run.file("permutations.nc"))
    rows = [(label_set, "aape", "probability", -0.81, 0.1), (label_set, "aape", "d_prime", 0.03, 0.2),
            (label_set, "probability", "d_prime", 0.12, 0.3)]  # fmt: skip
    columns = ["label_set", "selector_a", "selector_b", "rank_correlation", "jaccard"]
    write_csv(pd.DataFrame(rows, columns=columns), run.file("agreement.csv"))
    found = pd.read_csv(run.file("coverage.csv"))["mean_neurons_per_class"][0]
    figures = [("neurons per class", "", 37.9, found), ("accuracy <after> ablation", "a&b", np.nan, 0.25)]
    write_csv(pd.DataFrame(figures, columns=["figure", "class", "published", "found"]), run.file("reproduction.csv"))


def _probe(rng, run, names, label_set):
    """Scores of two probes on four test clips of each class, after each of three layers, too."""
    rows = [
        (label_set, "", seed, split, 4 * len(names), "accuracy", score)
        for seed in (0, 1)
        for split, score in (("train", 1.0), ("valid", np.nan), ("test", 0.5 + 0.1 * seed))
    ]
    columns = ["label_set", "test_fold", "seed", "split", "clips", "metric", "score"]
    run.file("probe").mkdir()
    write_csv(pd.DataFrame(rows, columns=columns), run.file("probe") / "scores.csv")
    layers = [(label_set, depth, *row[1:-1], row[-1] - 0.1 * (3 - depth)) for depth in range(4) for row in rows]
    columns = ["label_set", "depth", *columns[1:]]
    write_csv(pd.DataFrame(layers, columns=columns), run.file("probe_layers.csv"))
    rows = [(label_set, name, "", seed, 4, rng.integers(5) / 4) for seed in (0, 1) for name in names]
    columns = ["label_set", "class", "test_fold", "seed", "clips", "score"]
    write_csv(pd.DataFrame(rows, columns=columns), run.file("probe") / "class_scores.csv")
    run.finish("probe", {"options": {}, "fingerprints": PRINTS, "status": "done"})


def _map(rng, run, names, label_set, shape):
    """A causal map, and how well it ranks single neurons."""
    scores = read_netcdf(run.file("scores.nc"))
    effects = {label_set: rng.normal(size=(len(names), *shape))}
    table = pd.DataFrame({"label_set": label_set, "class": names})
    write_netcdf(with_effects(scores, effects, table, "0" * 64), run.file("scores.nc"))
    rows = [(label_set, layer, 4, 8, 0.9, 0.1, 0.1) for layer in range(shape[0])]
    columns = ["label_set", "layer", "neurons", "clips", "rank_correlation", "exact_sd", "estimate_sd"]
    write_csv(pd.DataFrame(rows, columns=columns), run.file("causal_map.csv"))


def _ablate(rng, run, names, label_set, table):
    """An ablation of the first classes that have neurons, at three gains."""
    some = list(dict.fromkeys(table["class"]))[:4]
    rows = [
        (label_set, f'"{one}" x {gain}', "gain", gain, 3, name, 2, 0.5, 0.5, 0.0, 0.0, 1.0, 1.0 + gain, rng.normal(),
         -1.0, 1.0, 4, 0.0, 0.1 if gain else np.nan, 0.2, 0.5)
        for one in some for gain in (0, 0.5, 2) for name in names
    ]  # fmt: skip
    write_csv(pd.DataFrame(rows, columns=ABLATION_HEADER.split(",")), run.file("ablation.csv"))
    suite = [
        (label_set, "gain", 0.0, len(some), contrast, -0.1, 4, 0.0, 0.1, 0.2)
        for contrast in ("own classes", "other classes", "own - other")
    ]
    write_csv(pd.DataFrame(suite, columns=list(SuiteRow._fields)), run.file("ablation_suite.csv"))
    run.finish("ablate", {"options": {}, "fingerprints": PRINTS, "status": "done"})
