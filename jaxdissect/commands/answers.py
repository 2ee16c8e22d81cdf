"""What every stage's results are as an outcome: summary, results for programs, files, warnings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from jaxdissect.bench.rates import BenchOptions
from jaxdissect.commands.ablation_summary import ablation_summary, ablation_warnings, part_summary
from jaxdissect.commands.bench_summary import bench_summary
from jaxdissect.commands.outcome import Outcome
from jaxdissect.commands.report_summary import report_summary, report_warnings
from jaxdissect.commands.reproduction_summary import reproduction_summary
from jaxdissect.commands.summary import (
    activations_summary,
    activations_warnings,
    demo_summary,
    encoder_summary,
    neurons_summary,
    neurons_warnings,
    normalised_cutoff,
    preparation_summary,
    preparation_warnings,
    probe_summary,
    probe_warnings,
    sharing_summary,
    sharing_warnings,
    training_summary,
)
from jaxdissect.demo import DemoResult
from jaxdissect.encoder.m2d import M2D
from jaxdissect.runtime.run_directory import Run
from jaxdissect.selection.labelled import Neurons
from jaxdissect.sharing.share import LABELS, Sharing
from jaxdissect.significance.assess import LEVEL
from jaxdissect.significance.cautions import (
    counting_cautions,
    has_p_values,
    independence_cautions,
    read_basis,
    recording_cautions,
)
from jaxdissect.stages.ablate import AblateResult, PartResult
from jaxdissect.stages.activations import ActivationsResult
from jaxdissect.stages.prepare import PrepareResult
from jaxdissect.stages.probe import ProbeResult
from jaxdissect.stages.report import ReportResult
from jaxdissect.stages.reproduce import Reproduction
from jaxdissect.types import Record

COUNTED = ("activations.nc", "top_clips.nc", "clips.csv", "clip_labels.nc", "clip_counts.npy")
CHOSEN = ("scores.nc", "neurons.csv", "coverage.csv", "layers.csv", "agreement.csv", "permutations.nc")
ABLATED = ("ablation.csv", "ablation_controls.csv", "ablation_suite.csv", "ablation_sets.csv", "causal_map.csv")
CLIPS_CSV = "everything else was counted and saved. See clips.csv."


@runtime_checkable
class Judged(Protocol):
    """A result that knows how many clips could not be read."""

    @property
    def max_bad_clips(self) -> float:
        """Share that is allowed."""
        ...

    @property
    def too_many_bad(self) -> bool:
        """Whether there were more."""
        ...


def bad_clips(result: Judged, rest: str) -> str | None:
    """Why a command fails whose results are there; `rest` tells what is saved and where to look."""
    if not result.too_many_bad:
        return None
    share = result.max_bad_clips
    return f"more than {share:.1%} of the clips could not be read (--max-bad-clips {share}); {rest}"


def there(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Those of some files that are in a folder."""
    return tuple(folder / name for name in names if (folder / name).exists())


def counted(run: Path, done: ActivationsResult) -> Outcome:
    """Of the stage `activations`."""
    return Outcome(
        "activations", activations_summary(done), counts_results(done), there(run, COUNTED),
        tuple(activations_warnings(done)), bad_clips(done, CLIPS_CSV),
    )  # fmt: skip


def counts_results(done: ActivationsResult) -> dict[str, Any]:
    """How much was counted, and how fast."""
    counts = done.activations.counts
    active, tokens = counts["total_active_tokens"], int(counts["total_tokens"])
    return {
        "clips": int(counts["total_clips"]),
        "clips_by_status": done.activations.clips["status"].value_counts().to_dict(),
        "tokens": tokens,
        "layers": counts.sizes["layer"],
        "neurons_per_layer": counts.sizes["neuron"],
        "active_share": float(active.mean()) / max(tokens, 1),
        "neurons_that_never_fire": int((active == 0).sum()),
        "reused": done.reused,
        **{name: done.record.get(name) for name in ("seconds", "clips_per_second", "peak_memory_mb")},
    }


def chosen(run: Path, neurons: Neurons, beside: Sequence[str] = (), alone: bool = False) -> Outcome:
    """Of the stage `neurons`.

    Args:
      run: the run directory.
      neurons: that were chosen.
      beside: what else to warn of.
      alone: the stage `activations`, which warns of what it counted, has not answered before it.
    """
    basis = read_basis(Run(run))
    further = counting_cautions(basis.record, basis.clips) if alone else []
    if has_p_values(neurons.coverage):
        further += recording_cautions(basis, int(neurons.coverage["classes"].max()))
    further += beside
    return Outcome(
        "neurons", neurons_summary(neurons, further), neurons_results(neurons), there(run, CHOSEN),
        (*neurons_warnings(neurons), *further),
    )  # fmt: skip


def outdated(run: Path) -> list[str]:
    """Which results of a run are of neurons that have just been replaced."""
    made = {"share": "sharing.csv", "ablate": "ablation.csv", "report": "report.html"}
    there_still = [stage for stage in Run(run).stages() if stage in made and (run / made[stage]).exists()]
    if not there_still:
        return []
    files = ", ".join(made[stage] for stage in made if stage in there_still)
    commands = ", ".join(f"`jaxdissect {stage}`" for stage in made if stage in there_still)
    return [f"These are other neurons than were chosen here before; {files} still tell of those: run {commands} again."]


def neurons_results(neurons: Neurons) -> dict[str, Any]:
    """A row of `coverage.csv` for every label set, with the neurons of each class and layer."""
    label_sets = []
    for row in neurons.coverage.to_dict("records"):
        own = neurons.neurons[neurons.neurons["label_set"] == row["label_set"]]
        layers = own.drop_duplicates(["layer", "neuron"])["layer"].astype(int)
        of_class = own.groupby("class", sort=False).size()
        per_layer = np.bincount(layers, minlength=neurons.scores.sizes["layer"])
        label_sets.append({**row, "neurons_by_class": of_class.to_dict(), "neurons_by_layer": per_layer})
    return {"keep": neurons.scores.attrs["keep"], "label_sets": label_sets}


def shared(run: Path, done: Sharing, figures: Sequence[Path]) -> Outcome:
    """Of the stage `share`."""
    rows = []
    for names, pairs in done.table.groupby(["label_set_a", "run_b", "label_set_b"], sort=False):
        found = pairs[(pairs["size_a"] > 0) & (pairs["size_b"] > 0)]
        rows.append(
            {
                "label_set_a": names[0],
                "run_b": names[1],
                "label_set_b": names[2],
                "pairs": len(found),
                "mean_shared_neurons": found["shared"].mean(),
                "mean_expected_shared_neurons": found["expected_shared"].mean(),
                "null": found["null"].iloc[0] if len(found) else None,
                "pairs_above_chance": int((found["q_value"] <= LEVEL).sum()),
                "pairs_above_breadth": int((found["q_by_breadth"] <= LEVEL).sum()),
            }
        )
    warnings = sharing_warnings(done)
    if (done.table["null"] == LABELS).any():  # its p-values are of permuted clips
        warnings += independence_cautions(read_basis(Run(run)).recordings_from)
    return Outcome(
        "share", sharing_summary(done, warnings), {"q_level": LEVEL, "label_set_pairs": rows},
        (*there(run, ("sharing.csv", "sharing.nc")), *figures), tuple(warnings),
    )  # fmt: skip


def probed(run: Path, done: ProbeResult) -> Outcome:
    """Of the stage `probe`."""
    label_sets = []
    for one in done.evaluations:
        scores = one.scores.groupby("split", sort=False)["score"]
        of_test = one.scores[one.scores["split"] == "test"]
        label_sets.append(
            {
                "label_set": one.labels.name,
                "classes": len(one.labels.classes),
                "metric": one.scores["metric"].iloc[0],
                "probes": len(of_test),
                "test_clips": of_test["clips"].mean(),
                "mean_score": scores.mean().to_dict(),
                "sd_score": scores.std(ddof=0).to_dict(),
            }
        )
    return Outcome(
        "probe", probe_summary(done), {"label_sets": label_sets, "clips_left_out": len(done.unusable)},
        there(run / "probe", ("probe.json", "scores.csv", "class_scores.csv", "head")), tuple(probe_warnings(done)),
        bad_clips(done, "the probes of the others were saved. See probe.json."),
    )  # fmt: skip


def ablated(run: Path, done: AblateResult) -> Outcome:
    """Of the stage `ablate`."""
    rate, impact = done.balance or (None, None)
    results = {
        "interventions": len(done.chosen),
        "own_classes": own_classes(done),
        "suite": done.ablation.suite,
        "controls_rate_over_targets": rate,
        "controls_impact_over_targets": impact,
        "controls_overlap_share": done.overlap,
        "causal_map_check": done.map_check,
        "sets_left_out": done.left_out,
        "clips": done.clips,
        "clips_left_out": len(done.unusable),
    }
    return Outcome(
        "ablate", ablation_summary(done), results, there(run, ABLATED), tuple(ablation_warnings(done)),
        bad_clips(done, "the others were judged and saved. See run.json."),
    )  # fmt: skip


def own_classes(done: AblateResult) -> pd.DataFrame:
    """The rows of `ablation.csv` that tell of a class which the intervention is meant for."""
    meant = {(one.name, *own) for one in done.chosen for own in one.neurons.classes}
    table = done.ablation.table
    rows = zip(table["intervention"], table["label_set"], table["class"], strict=True)
    return table[[row in meant for row in rows]]


def judged_part(done: PartResult) -> Outcome:
    """Of `ablate --part`."""
    results = {name: getattr(done, name) for name in ("part", "parts", "interventions", "passes")}
    return Outcome("ablate", part_summary(done), results, (done.path,))


def reported(done: ReportResult) -> Outcome:
    """Of the stage `report`."""
    results = {
        "neurons": done.neurons,
        "clips": done.clips,
        "clips_left_out": done.left_out,
        "missing": done.missing,
        "size_bytes": done.size,
        "seconds": done.seconds,
    }
    return Outcome("report", report_summary(done), results, (done.path, *done.figures), tuple(report_warnings(done)))


def reproduced(run: Path, done: Reproduction) -> Outcome:
    """Of `reproduce`: published figures beside those found, and what the stages warn of."""
    warnings = [*activations_warnings(done.counted), *neurons_warnings(done.neurons)]
    failures = [bad_clips(done.counted, CLIPS_CSV)]
    names = [*COUNTED, *CHOSEN]
    if done.ablation is not None:
        warnings += ablation_warnings(done.ablation)
        failures.append(bad_clips(done.ablation, "the others were judged and saved. See run.json."))
        names += ABLATED
    summary = "\n".join([reproduction_summary(done), *warnings])
    return Outcome(
        "reproduce", summary, {"figures": done.figures}, there(run, ["reproduction.csv", *names]), tuple(warnings),
        " ".join(filter(None, failures)) or None,
    )  # fmt: skip


def demonstrated(results: Sequence[DemoResult]) -> Outcome:
    """Of `demo`: what was counted and chosen with every encoder."""
    encoders = [
        {
            "encoder": one.run.name,
            "kind": one.kind,
            "run": one.run,
            "activations": counts_results(one.counted),
            "presets": {preset: found.coverage for preset, found in one.neurons.items()},
            "normalised_aape_cutoff": {
                str(name): normalised_cutoff(one.neurons["aape"], str(name))
                for name in one.neurons["aape"].coverage["label_set"]
            },
        }
        for one in results
    ]
    warnings = [
        f"{one.run.name}: {sentence}"
        for one in results
        for sentence in (*activations_warnings(one.counted), *neurons_warnings(one.neurons["lape"]))
    ]
    summary = "\n".join([demo_summary(results), *warnings])
    return Outcome("demo", summary, {"encoders": encoders}, tuple(one.run for one in results), tuple(warnings))


def prepared(out: Path, done: PrepareResult) -> Outcome:
    """Of `prepare`."""
    results = {
        "clips": done.clips,
        "unreadable_clips": done.unreadable,
        "shards": done.shards,
        "size_bytes": done.size,
        "decoded_now_clips": done.made,
        "complete": done.complete,
        "read_by": done.reading,
        "seconds": done.seconds,
    }
    return Outcome(
        "prepare", preparation_summary(out, done), results, (out,), tuple(preparation_warnings(out, done)),
        bad_clips(done, f"everything else was prepared. See {out}/shard-*.json."),
    )  # fmt: skip


def verified(folder: Path, wrong: Sequence[str]) -> Outcome:
    """Of `verify`: what is not as it was written."""
    verdict = f"{folder}: {len(wrong) or 'no'} file{'s' * (len(wrong) != 1)} not as written."
    return Outcome(
        "verify", "\n".join(wrong) or verdict, {"not_as_written": wrong}, (), tuple(wrong), verdict if wrong else None
    )


def converted(out: Path, encoder: M2D) -> Outcome:
    """Of `convert`."""
    return Outcome("convert", encoder_summary(encoder), encoder_results(encoder), (out,))


def trained(out: Path, encoder: M2D, record: Mapping[str, Any]) -> Outcome:
    """Of `train`: the encoder, and the first and last point of the curve."""
    results = {
        **encoder_results(encoder),
        "clips": record["data"]["clips"],
        "clips_left_out": len(record["data"]["unreadable"]),
        "steps": record["steps"],
        "crops_per_step": record["batch_size"],
        "hours": record["hours"],
        "crops_per_second": record["clips_per_second"],
        "first_point": record["curve"][0],
        "last_point": record["curve"][-1],
    }
    return Outcome("train", training_summary(encoder, record), results, (out,))


def encoder_results(encoder: M2D) -> dict[str, Any]:
    """An encoder's name and sizes."""
    vit, head = encoder.config, encoder.variables.get("head")
    sizes = {"layers": vit.depth, "neurons_per_layer": vit.mlp, "width": vit.width, "heads": vit.heads}
    return {
        "encoder": encoder.name,
        **sizes,
        "input_bands": vit.bands,
        "input_frames": vit.frames,
        "patch_bands": vit.patch_bands,
        "patch_frames": vit.patch_frames,
        "sample_rate_hz": encoder.sample_rate,
        "head_classes": None if head is None else len(head["bias"]),
    }


def measured(options: BenchOptions, result: Record) -> Outcome:
    """Outcome of `bench`; the results are what its file holds."""
    return Outcome("bench", bench_summary(result), result, () if options.out is None else (options.out,))
