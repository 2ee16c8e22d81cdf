"""The stage `neurons`: choose class-specific neurons from the counts, and test them against permuted labels."""

import dataclasses
import time

import numpy as np
import pandas as pd
import xarray as xr

from jaxdissect.errors import InputError
from jaxdissect.options.neurons import NeuronsOptions
from jaxdissect.runtime.files import sha256_file, writing
from jaxdissect.runtime.machine import computed_by
from jaxdissect.runtime.progress import under_way
from jaxdissect.runtime.resume import remove_states
from jaxdissect.runtime.run_directory import Run, record_attributes, require_same_run
from jaxdissect.runtime.tables import read_netcdf, write_csv, write_netcdf
from jaxdissect.selection.aape import SelectionRule
from jaxdissect.selection.auroc import AurocRule
from jaxdissect.selection.labelled import Neurons
from jaxdissect.selection.score_tables import SCORES, agreement_table
from jaxdissect.significance.assess import LEVEL, CertaintyOptions
from jaxdissect.significance.clips import read_clips
from jaxdissect.significance.tables import DRAWN, PAIR_SCORES
from jaxdissect.stages.choice import Test, choose_by_counts, choose_by_ranks
from jaxdissect.types import Record

SELECTION_FILES = (
    "scores.nc",
    "neurons.csv",
    "coverage.csv",
    "classes.csv",
    "layers.csv",
    "agreement.csv",
    "permutations.nc",
)
DRAW_NUMBERS = ("permutations", "resamples", "splits")  # 0 asks for none, which needs no clip counts
DRAW_OPTIONS = (*DRAW_NUMBERS, "seed", "save_minutes")


def run_neurons(options: NeuronsOptions) -> Neurons:
    """Select, and write the files in `SELECTION_FILES`; `permutations.nc` only where labels were permuted.

    Args:
      options: options of the stage.

    Returns:
      The neurons; with p-values, intervals and stability where every clip's counts were kept.

    Raises:
      InputError: nothing was counted in this run directory, or its files are of different runs.
    """
    run = Run(options.run)
    counted = run.require("activations")
    certainty = CertaintyOptions(**given_draws(options))
    started, states = time.perf_counter(), run.file("state") / "neurons"
    rule = selection_rule(options, counted.get("keep", SelectionRule.keep))
    with under_way("Reading the counts"):
        counts = read_netcdf(run.file("activations.nc"))
        require_same_run(run, counts.attrs, counted)
        # None where it was not kept: then there is nothing to permute, to resample or to judge by.
        ranked = isinstance(rule, AurocRule)
        clips = read_clips(run, counts, needed=ranked or certainty.permutations > 0)
    if clips is None:
        _require_no_clips(options)
    recorded = dataclasses.asdict(rule) | {"preset": options.preset, "selector": selector_of(options)}
    test = Test(certainty, states, _identity(run, recorded, certainty.seed) if clips else {})
    if isinstance(rule, AurocRule):
        assert clips is not None
        choice = choose_by_ranks(clips, counts, rule, test)
    else:
        choice = choose_by_counts(clips, counts, rule, options.selector, test)
    neurons = choice.neurons
    recorded |= {name: neurons.scores.attrs[name] for name in DRAWN if name in neurons.scores.attrs}
    keep = rule.keep if isinstance(rule, SelectionRule) else SelectionRule.keep
    agreement = agreement_table(choice.scores, choice.by_aape.selections, keep)
    with run.locked(), under_way("Writing scores and tables"):
        of_ablation = _ablation_scores(run, counted)  # read before the file is replaced
        forget_neurons(run)
        scores = xr.merge([neurons.scores, choice.scores, of_ablation], compat="override", combine_attrs="override")
        scores.attrs |= record_attributes(counted)
        write_netcdf(scores, run.file("scores.nc"))
        write_csv(neurons.neurons, run.file("neurons.csv"))
        write_csv(neurons.coverage, run.file("coverage.csv"))
        write_csv(neurons.classes, run.file("classes.csv"))
        write_csv(layer_table(neurons), run.file("layers.csv"))
        write_csv(agreement, run.file("agreement.csv"))
        if choice.null is not None:
            write_netcdf(choice.null.assign_attrs(record_attributes(counted)), run.file("permutations.nc"))
        record = {
            "options": recorded,
            "fingerprints": counted["fingerprints"],
            "seconds": round(time.perf_counter() - started, 3),
            "status": "done",
        }
        run.finish("neurons", record)
    remove_states(states)
    return neurons


def _identity(run: Run, recorded: Record, seed: int) -> Record:
    """What a killed permutation test resumes with only: the same rule, seed, files and software."""
    files = {name: sha256_file(run.file(name)) for name in ("activations.nc", "clip_labels.nc")}
    return {**recorded, "--seed": seed, **computed_by(), **files}


def selector_of(options: NeuronsOptions) -> str:
    """Name of the score that chooses, as the files of the run have it."""
    return options.selector or ("auroc" if options.preset == "auroc" else "aape")


def selection_rule(options: NeuronsOptions, task_keep: float) -> SelectionRule | AurocRule:
    """The rule by which neurons are chosen.

    Args:
      options: options of the stage.
      task_keep: fraction of all neurons to keep where the options give none.
    """
    keep = task_keep if options.keep is None else options.keep
    if options.selector is not None:
        return SelectionRule(keep=keep)
    if options.preset == "auroc":
        return AurocRule(options.per_class, options.least_auroc)
    return SelectionRule(options.preset, keep, options.drop_weakest, options.bar)


def given_draws(options: NeuronsOptions) -> Record:
    """Those of the options of permutations, resamples and splits that were given."""
    return {name: getattr(options, name) for name in DRAW_OPTIONS if getattr(options, name) is not None}


def _require_no_clips(options: NeuronsOptions) -> None:
    """Refuse a preset and draws that need what every neuron did on every clip, which was not kept.

    Raises:
      InputError: names the option.
    """
    if selector_of(options) == "auroc":
        raise InputError(
            "--preset auroc needs what every neuron did on every clip, which this run has not kept: count again with "
            "--keep-clips into another --run, or take --preset lape."
        )
    given = given_draws(options)
    asked = [name for name, value in given.items() if value or name not in DRAW_NUMBERS]
    if asked:
        raise InputError(
            f"--{asked[0].replace('_', '-')} {given[asked[0]]} needs every clip's counts, which this run has "
            f"not kept: leave it out, or count again with --keep-clips into another --run."
        )


def layer_table(neurons: Neurons) -> pd.DataFrame:
    """For every layer, neurons that were kept, neurons specific to some class, and pairs of class and neuron."""
    tables = []
    for name, selection in neurons.selections.items():
        columns: Record = {
            "label_set": name,
            "layer": np.arange(selection.specific.shape[1]),
            # kept is (layer, neuron), specific (class, layer, neuron)
            "kept": selection.kept.sum(axis=1),
            "neurons": selection.specific.any(axis=0).sum(axis=1),
            "pairs": selection.specific.sum(axis=(0, 2)),
        }
        if "q_value" in neurons.neurons:
            pairs = neurons.neurons
            significant = pairs[(pairs["label_set"] == name) & (pairs["q_value"] <= LEVEL)]
            columns["pairs_significant"] = np.bincount(significant["layer"], minlength=len(columns["layer"]))
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _ablation_scores(run: Run, counted: Record) -> xr.Dataset:
    """Scores that the stage `ablate` added to `scores.nc`; they do not depend on the neurons that are chosen."""
    ablated = run.stages().get("ablate", {}).get("fingerprints", {})
    if any(ablated.get(name) != value for name, value in counted["fingerprints"].items()):
        return xr.Dataset()
    try:
        scores = read_netcdf(run.file("scores.nc"))
    except InputError:
        return xr.Dataset()
    made_here = (*PAIR_SCORES, *SCORES, "auroc", "auroc_reading")
    kept = [name for name in scores if "class" in scores[name].dims and name not in made_here]
    return scores[kept].drop_attrs(deep=False)


def forget_neurons(run: Run) -> None:
    """Strike the stage `neurons` from the record and remove its files, before new ones are written."""
    run.reopen("neurons")
    for name in SELECTION_FILES:
        with writing(run.file(name)):
            run.file(name).unlink(missing_ok=True)
