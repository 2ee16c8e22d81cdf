"""`jaxdissect share`: compare the neuron sets of classes, beside what chance shares."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxdissect.commands.outcome import Outcome, existing
from jaxdissect.options.share import ShareOptions
from jaxdissect.runtime.progress import under_way
from jaxdissect.runtime.run_directory import Run
from jaxdissect.sharing.heatmaps import draw_sharing
from jaxdissect.sharing.share import PERMUTED_LABELS, Sharing
from jaxdissect.significance.assess import LEVEL
from jaxdissect.significance.cautions import independence_cautions, read_basis
from jaxdissect.stages.share import run_share
from jaxdissect.types import Record

CLOSEST_PAIRS = 3  # of classes that a summary names


def run(options: ShareOptions) -> Iterator[Outcome]:
    """Compare, and draw figures where they are asked for."""
    sharing = run_share(options)
    with under_way("Drawing figures"):
        figures = draw_sharing(sharing, options.run / "figures") if options.figures else []
    yield share_outcome(options.run, sharing, figures)


def share_outcome(run: Path, sharing: Sharing, figures: Sequence[Path] = ()) -> Outcome:
    """The answer of the stage `share`.

    Args:
      run: run directory.
      sharing: result of the stage.
      figures: files of the figures that were drawn.
    """
    results = share_results(sharing)
    warnings = [
        f"{other} belongs to another encoder: neurons of two trainings do not correspond by their numbers, unless one "
        f"began from the other."
        for other in sharing.other_encoders
    ]
    if (sharing.table["null"] == PERMUTED_LABELS).any():  # its p-values are of permuted clips
        warnings += independence_cautions(read_basis(Run(run)).recordings_from)
    return Outcome(
        stage="share",
        results=results,
        summary=share_summary(results),
        warnings=warnings,
        files=(*existing(run, ("sharing.csv", "sharing.nc")), *figures),
    )


def share_results(sharing: Sharing) -> Record:
    """For every two label sets, how much their classes share, and how much chance shares.

    Args:
      sharing: result of the stage.

    Returns:
      A JSON object; `closest_pairs` holds the rows of `sharing.csv` that share most beyond sizes and breadth.
    """
    rows = []
    # One row per pair of label sets; run_b tells the label sets of different runs apart.
    for names, pairs in sharing.table.groupby(["label_set_a", "run_b", "label_set_b"], sort=False):
        # A class without neurons shares none, which says nothing.
        filled = pairs[(pairs["size_a"] > 0) & (pairs["size_b"] > 0)]
        above_breadth = filled["q_by_breadth"] <= LEVEL
        closest = filled[above_breadth].sort_values("p_by_breadth", kind="stable").head(CLOSEST_PAIRS)
        rows.append(
            {
                "label_set_a": names[0],
                "run_b": names[1],
                "label_set_b": names[2],
                "other_run": names[1] != pairs["run_a"].iloc[0],
                "pairs": len(filled),
                "mean_shared_neurons": filled["shared"].mean(),
                "mean_expected_shared_neurons": filled["expected_shared"].mean(),
                # All pairs of two label sets are compared with chance in the same way.
                "null": filled["null"].iloc[0] if len(filled) else None,
                "pairs_above_chance": int((filled["q_value"] <= LEVEL).sum()),
                "pairs_above_breadth": int(above_breadth.sum()),
                "closest_pairs": closest.to_dict("records"),
            }
        )
    return {"q_level": LEVEL, "label_set_pairs": rows}


def share_summary(results: Record) -> str:
    """How much classes share on average, and the pairs that share most, of every two label sets.

    Args:
      results: JSON object of `share_results`.
    """
    lines = []
    for row in results["label_set_pairs"]:
        title = f"{row['label_set_a']} x {row['label_set_b']}" + (f" of {row['run_b']}" if row["other_run"] else "")
        if not row["pairs"]:
            lines.append(f"{title}: no two classes have neurons.")
            continue
        lines.append(
            f"{title}: {row['pairs']:,} pairs of classes with neurons share {row['mean_shared_neurons']:,.1f} neurons "
            f"on average; {row['pairs_above_chance']:,} of the pairs share more than chance ({row['null']}: "
            f"{row['mean_expected_shared_neurons']:,.1f}), {row['pairs_above_breadth']:,} more than their sizes and "
            f"the breadth of the neurons explain (q <= {results['q_level']}){':' if row['closest_pairs'] else '.'}"
        )
        lines += [
            f"  {pair['class_a']} and {pair['class_b']}: {pair['shared']} of {pair['size_a']} and {pair['size_b']} "
            f"neurons, {pair['expected_by_breadth']:.1f} expected, Jaccard {pair['jaccard']:.2f}"
            for pair in row["closest_pairs"]
        ]
    return "\n".join(lines)
