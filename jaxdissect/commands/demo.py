"""`jaxdissect demo`: dissect the shipped encoders on synthesised notes, side by side."""

from collections.abc import Iterator, Sequence

from jaxdissect.commands.activations import activations_results, activations_warnings, size_text
from jaxdissect.commands.neurons import best_neuron, neurons_results, neurons_warnings
from jaxdissect.commands.outcome import Outcome, table
from jaxdissect.commands.report import report_outcome
from jaxdissect.demo import DemoResult, demo_report, run_demo
from jaxdissect.options.demo import DemoOptions
from jaxdissect.runtime.progress import note
from jaxdissect.significance.held_out_tables import GOOD_AUROC
from jaxdissect.types import Record

READING_HELP = (
    "AUROC: the probability that a note of the class moves the neuron more than another note does, on notes of the\n"
    "test split, which did not choose the neuron; 0.5 is chance. The untrained encoder shows what architecture and\n"
    "front end give without any learning."
)
BEST_CLASSES = 3  # classes of each encoder whose best neuron is named


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
    warnings = [
        f"{encoder.run.name}: {sentence}"
        for encoder in encoders
        for sentence in (*activations_warnings(encoder.counted), *neurons_warnings(encoder.neurons))
    ]
    return Outcome(
        stage="demo",
        results=results,
        summary=demo_summary(results),
        warnings=warnings,
        advice=READING_HELP,
        files=[encoder.run for encoder in encoders],
    )


def _encoder_results(encoder: DemoResult) -> Record:
    """Counts and neurons with one encoder."""
    return {
        "encoder": encoder.run.name,
        "kind": encoder.kind,
        "run": encoder.run,
        "activations": activations_results(encoder.counted),
        **neurons_results(encoder.neurons),
    }


def demo_summary(results: Record) -> str:
    """Classes that a neuron tells on held-out notes, for each encoder, and the best neurons in words.

    Args:
      results: JSON object of `demo_outcome`.
    """
    encoders = results["encoders"]
    header = ["label set", "classes", "encoder", f"classes with AUROC >= {GOOD_AUROC}", "median AUROC"]
    cells = [
        [of_set["label_set"], of_set["classes"], encoder["kind"], of_set["classes_held_out"], _auroc(of_set)]
        # All encoders have the same label sets, in the same order.
        for of_sets in zip(*(encoder["label_sets"] for encoder in encoders), strict=True)
        for encoder, of_set in zip(encoders, of_sets, strict=True)
    ]
    lines = ["Neurons that tell a class from the others, on held-out notes:", table(header, cells)]
    for encoder in encoders:
        lines.append(f"{encoder['encoder']} ({encoder['kind']}):")
        lines += [f"  {sentence}" for sentence in _best_sentences(encoder)]
    return "\n".join([*lines, f"Counted {size_text(encoders[0]['activations'])}, with each encoder."])


def _auroc(of_set: Record) -> str:
    return "-" if of_set["classes_judged"] == 0 else f"{of_set['held_out_auroc']:.2f}"


def _best_sentences(encoder: Record) -> list[str]:
    """The classes that a neuron tells best, over all label sets; of each label set one before any has a second."""
    ranked = [
        (place, -one["held_out_auroc"], f"{of_set['label_set']} {best_neuron(one)} held out")
        for of_set in encoder["label_sets"]
        for place, one in enumerate(sorted(of_set["best"], key=lambda one: -one["held_out_auroc"]))
        if one["held_out_auroc"] == one["held_out_auroc"]  # NaN: not judged
    ]
    return [sentence for _, _, sentence in sorted(ranked)[:BEST_CLASSES]]
