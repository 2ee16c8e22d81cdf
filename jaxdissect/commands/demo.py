"""`jaxdissect demo`: dissect the shipped encoders on synthesised notes, side by side."""

import math
from collections.abc import Iterator, Sequence

from jaxdissect.commands.activations import activations_results, activations_warnings, size_text
from jaxdissect.commands.neurons import WITHOUT_P_VALUES, neurons_warnings
from jaxdissect.commands.outcome import Outcome, table
from jaxdissect.commands.report import report_outcome
from jaxdissect.demo import DemoResult, demo_report, run_demo
from jaxdissect.options.demo import DemoOptions
from jaxdissect.runtime.progress import note
from jaxdissect.selection.labelled import Neurons
from jaxdissect.types import Record

READING_HELP = (
    "Coverage: share of the classes with a neuron of their own. AAPE cut-off: the highest entropy among the\n"
    "neurons kept, 1 for one that fires for all classes alike; the lower, the more selective the best neurons.\n"
    "Preset aape also keeps neurons that fire too seldom to count for any class; lape does not."
)


def run(options: DemoOptions) -> Iterator[Outcome]:
    """Dissect each encoder, then write the report of the self-supervised one."""
    note("Encoders of one architecture: self-supervised, supervised, untrained. None was trained on these notes.")
    encoders = run_demo(options)
    yield demo_outcome(encoders)
    yield report_outcome(demo_report(encoders))


def demo_outcome(encoders: Sequence[DemoResult]) -> Outcome:
    """The answer of `demo`: what was counted and chosen with every encoder.

    Args:
      encoders: results, one per encoder.
    """
    results = {"encoders": [_encoder_results(encoder) for encoder in encoders]}
    # Preset lape is the one whose neurons the run directories hold.
    warnings = [
        f"{encoder.run.name}: {sentence}"
        for encoder in encoders
        for sentence in (*activations_warnings(encoder.counted), *neurons_warnings(encoder.neurons["lape"]))
    ]
    return Outcome(
        stage="demo",
        results=results,
        summary=demo_summary(results),
        warnings=warnings,
        advice=f"{READING_HELP}\n{WITHOUT_P_VALUES}",
        files=[encoder.run for encoder in encoders],
    )


def _encoder_results(encoder: DemoResult) -> Record:
    """Counts, coverage by preset, and the AAPE cut-off of every label set, with one encoder."""
    aape = encoder.neurons["aape"]
    return {
        "encoder": encoder.run.name,
        "kind": encoder.kind,
        "run": encoder.run,
        "activations": activations_results(encoder.counted),
        "presets": {preset: neurons.coverage.to_dict("records") for preset, neurons in encoder.neurons.items()},
        "normalised_aape_cutoff": {
            str(name): normalised_cutoff(aape, str(name)) for name in aape.coverage["label_set"]
        },
    }


def normalised_cutoff(neurons: Neurons, label_set: str) -> float:
    """The highest AAPE among the neurons kept, divided by ln(classes), so that 1 is a neuron without preference.

    Args:
      neurons: neurons that were chosen.
      label_set: name of the label set.
    """
    classes = neurons.coverage.set_index("label_set")["classes"].to_dict()
    return float(neurons.scores["aape_cutoff"].sel(label_set=label_set)) / math.log(classes[label_set])


def demo_summary(results: Record) -> str:
    """What was counted with each encoder, and coverage and neurons per class side by side.

    Args:
      results: JSON object of `demo_outcome`.
    """
    encoders = results["encoders"]
    lines = [f"Counted {size_text(encoders[0]['activations'])}, with each:"]
    for encoder in encoders:
        counted = encoder["activations"]
        rate = "counted before" if counted["reused"] else f"{counted['clips_per_second']:,.1f} clips/s"
        lines.append(f"  {encoder['encoder']} ({encoder['kind']}): {rate}")
    presets = list(encoders[0]["presets"])
    header = ["label set", "classes", "encoder"]
    header += [f"{column}, {preset}" for preset in presets for column in ("coverage", "neurons/class")]
    cells = []
    # All encoders counted the same label sets, in the same order.
    for number, label_set in enumerate(encoders[0]["presets"][presets[0]]):
        for encoder in encoders:
            row: list[object] = [label_set["label_set"], label_set["classes"], encoder["kind"]]
            for preset in presets:
                coverage = encoder["presets"][preset][number]
                row += [f"{coverage['coverage']:.0%}", f"{coverage['mean_neurons_per_class']:.1f}"]
            cells.append([*row, f"{encoder['normalised_aape_cutoff'][label_set['label_set']]:.3f}"])
    return "\n".join([*lines, table([*header, "AAPE cut-off"], cells)])
