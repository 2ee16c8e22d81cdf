"""`jaxdissect train`: train an encoder on a task."""

from collections.abc import Iterator

from jaxdissect.commands.convert import encoder_results
from jaxdissect.commands.outcome import Outcome
from jaxdissect.options.train import TrainOptions
from jaxdissect.training.train import run_train
from jaxdissect.types import Record


def run(options: TrainOptions) -> Iterator[Outcome]:
    """Train, and answer with the encoder and the first and last point of the curve."""
    encoder, record = run_train(options)
    results = {
        **encoder_results(encoder),
        "task": record["task"],
        "clips": record["data"]["clips"],
        "clips_left_out": len(record["data"]["unreadable"]),
        "steps": record["steps"],
        "crops_per_step": record["batch_size"],
        "hours": record["hours"],
        "crops_per_second": record["clips_per_second"],
        "first_point": record["curve"][0],
        "last_point": record["curve"][-1],
    }
    yield Outcome(stage="train", results=results, summary=train_summary(results), files=(options.out,))


def train_summary(results: Record) -> str:
    """What was trained, on what, for how long, and how the loss changed.

    Args:
      results: JSON object of the command `train`.
    """
    first, last = results["first_point"], results["last_point"]
    # Losses and accuracies depend on the objective; step and learning rate are in every point.
    metrics = [name for name in last if name not in ("step", "learning_rate")]
    course = ", ".join(f"{name.replace('_', ' ')} {first[name]:.3f} -> {last[name]:.3f}" for name in metrics)
    return (
        f"Trained {results['encoder']}: {results['layers']} layers of {results['neurons_per_layer']} neurons, width "
        f"{results['width']}, on {results['clips']:,} clips of {results['task']}.\n"
        f"{results['steps']:,} steps of {results['crops_per_step']} crops in {results['hours']:.2f} h, "
        f"{results['crops_per_second']:,.0f} crops/s; {course}."
    )
