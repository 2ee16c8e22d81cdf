"""`jaxdissect convert`: convert a PyTorch checkpoint into an encoder directory."""

from collections.abc import Iterator

from jaxdissect.commands.outcome import Outcome
from jaxdissect.encoder.convert.checkpoint import convert_checkpoint
from jaxdissect.encoder.families.linen import LinenEncoder
from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.options.convert import ConvertOptions
from jaxdissect.runtime.progress import under_way
from jaxdissect.types import Record


def run(options: ConvertOptions) -> Iterator[Outcome]:
    """Convert a checkpoint."""
    with under_way(f"Converting {options.checkpoint}"):
        encoder = convert_checkpoint(options.checkpoint, options.out, options.name, options.heads, options.licence)
    results = encoder_results(encoder)
    yield Outcome(stage="convert", results=results, summary=encoder_summary(results), files=(options.out,))


def encoder_results(encoder: LinenEncoder) -> Record:
    """An encoder's name and sizes.

    Args:
      encoder: encoder that was converted or trained.
    """
    config, head = encoder.config, encoder.variables.get("head")
    results = {
        "encoder": encoder.name,
        "layers": config.depth,
        "neurons_per_layer": config.mlp,
        "width": config.width,
        "heads": config.heads,
    }
    if isinstance(encoder, M2D):
        results |= {
            "input_bands": config.bands,
            "input_frames": config.frames,
            "patch_bands": config.patch_bands,
            "patch_frames": config.patch_frames,
        }
    else:
        results["family"] = encoder.family
    head_classes = None if head is None else len(head["bias"])
    return {**results, "sample_rate_hz": encoder.sample_rate, "head_classes": head_classes}


def encoder_summary(results: Record) -> str:
    """An encoder's name and sizes in one line.

    Args:
      results: JSON object of `encoder_results`.
    """
    layers, neurons, classes = results["layers"], results["neurons_per_layer"], results["head_classes"]
    head = f", task head of {classes} classes." if classes else "."
    what = f"family {results.get('family')}"
    if "input_bands" in results:
        what = (
            f"input {results['input_bands']} bands x {results['input_frames']} frames in patches "
            f"of {results['patch_bands']}x{results['patch_frames']}"
        )
    return (
        f"{results['encoder']}: {layers} layers of {neurons} neurons ({layers * neurons:,}), width {results['width']}, "
        f"{results['heads']} heads, {what}, {results['sample_rate_hz']} Hz{head}"
    )
