"""`jaxdissect activations`: count how often every neuron fires for every class."""

from collections.abc import Iterator
from pathlib import Path

from jaxdissect.commands.outcome import Outcome, bad_clips, existing, left_out
from jaxdissect.counting.clip_store import STORE_FILES
from jaxdissect.options.activations import ActivationsOptions
from jaxdissect.runtime.processes import this_process
from jaxdissect.significance.cautions import counting_cautions
from jaxdissect.stages.activations import ActivationsResult, run_activations
from jaxdissect.types import Record

COUNT_FILES = ("activations.nc", "top_clips.nc", "clips.csv", "clip_labels.nc", *STORE_FILES.values())


def run(options: ActivationsOptions) -> Iterator[Outcome]:
    """Count; of several processes, the first one answers."""
    counted = run_activations(options)
    if this_process().first:
        yield activations_outcome(options.run, counted)


def activations_outcome(run: Path, counted: ActivationsResult) -> Outcome:
    """The answer of the stage `activations`.

    Args:
      run: run directory.
      counted: result of the stage.
    """
    results = activations_results(counted)
    return Outcome(
        stage="activations",
        results=results,
        summary=activations_summary(results),
        warnings=activations_warnings(counted),
        files=existing(run, COUNT_FILES),
        failure=unread(counted),
    )


def unread(counted: ActivationsResult) -> str | None:
    """Why counting fails although its results are there."""
    return bad_clips(counted, "everything else was counted and saved. See clips.csv.")


def activations_results(counted: ActivationsResult) -> Record:
    """How much was counted, and how fast.

    Args:
      counted: result of the stage.

    Returns:
      A JSON object; `active_share` is the fraction of all pairs of neuron and token that are active.
    """
    counts = counted.activations.counts
    active, tokens = counts["total_active_tokens"], int(counts["total_tokens"])  # active: (layer, neuron)
    return {
        "clips": int(counts["total_clips"]),
        "clips_by_status": counted.activations.clips["status"].value_counts().to_dict(),
        "tokens": tokens,
        "layers": counts.sizes["layer"],
        "neurons_per_layer": counts.sizes["neuron"],
        # Every neuron sees every token, so the mean over neurons divided by tokens is the mean over pairs.
        "active_share": float(active.mean()) / max(tokens, 1),
        "neurons_that_never_fire": int((active == 0).sum()),
        "reused": counted.reused,
        **{name: counted.record.get(name) for name in ("seconds", "clips_per_second", "peak_memory_mb")},
    }


def activations_summary(results: Record) -> str:
    """How much was counted, and how fast, in three lines.

    Args:
      results: JSON object of `activations_results`.
    """
    status = ", ".join(f"{clips} {name}" for name, clips in results["clips_by_status"].items())
    lines = [
        f"Counted {size_text(results)} ({status}).",
        f"Active: {100 * results['active_share']:.1f}% of neuron-token pairs; "
        f"{results['neurons_that_never_fire']:,} neurons never fire.",
    ]
    if results["reused"]:  # rate and memory are those of the earlier run
        lines.append("These counts were in the run directory already.")
    else:
        lines.append(
            f"{results['clips_per_second']:,.1f} clips/s, {results['seconds']:,.1f} s in all, "
            f"peak memory {results['peak_memory_mb']:,} MB."
        )
    return "\n".join(lines)


def size_text(results: Record) -> str:
    """How many clips, tokens, neurons and layers were counted.

    Args:
      results: JSON object of `activations_results`.
    """
    neurons = results["layers"] * results["neurons_per_layer"]
    return (
        f"{results['clips']:,} clips, {results['tokens']:,} tokens, {neurons:,} neurons in {results['layers']} layers"
    )


def activations_warnings(counted: ActivationsResult) -> list[str]:
    """Clips that could not be read, padding that makes up most of the clips, and splits that are missing.

    Args:
      counted: result of the stage.
    """
    clips = counted.activations.clips
    bad = clips[clips["status"] == "unreadable"]
    unreadable = left_out("Not counted", zip(bad["file_name"], bad["reason"], strict=True), "clips.csv")
    # First what is missing from the counts, then how to read them.
    return [*unreadable, *counting_cautions(counted.record, clips)]
