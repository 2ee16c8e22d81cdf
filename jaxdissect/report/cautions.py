"""Cautions of a report, each beside the numbers that it is about."""

from collections.abc import Iterator

import pandas as pd

from jaxdissect.report.run_contents import Contents, command
from jaxdissect.runtime.files import sha256_file
from jaxdissect.significance.cautions import (
    Basis,
    counting_cautions,
    has_p_values,
    recording_cautions,
    selection_cautions,
)

NO_RECORD = "run.json does not say how these files were made, nor whether they belong together."
FIXED_FRACTION = (
    "AAPE keeps a fixed fraction of the neurons, with shuffled labels too: the number of neurons alone means nothing. "
    "Count with --keep-clips for p- and q-values, and compare with an untrained encoder."
)
EVERY_TOKEN = (
    "Every token was counted, those of silence and padding too: neurons that answer to duration or silence may look "
    "class-specific. Compare with a run with --tokens sounding."
)


def cautions_of(contents: Contents) -> dict[str, tuple[str, ...]]:
    """Sentences about a run, by the part of the page whose numbers they are about.

    A sentence about recordings belongs to each part with p-values.

    Args:
      contents: files of the run.

    Returns:
      Sentences about `counts`, `selection`, `sharing`, `ablation` and `published`.
    """
    counting = contents.stages.get("activations", {})
    clips, coverage = contents.tables.get("clips.csv"), contents.tables.get("coverage.csv")
    counts = [] if contents.stages else [NO_RECORD]
    counts += counting_cautions(counting, clips)
    if counting.get("options", {}).get("tokens") == "all":
        counts.append(EVERY_TOKEN)
    recordings = _recordings(contents, coverage)
    selection: list[str] = []
    if coverage is not None:
        by_aape = contents.stages.get("neurons", {}).get("options", {}).get("selector", "aape") == "aape"
        if by_aape and not has_p_values(coverage):
            selection.append(FIXED_FRACTION)
        if "scores.nc" in contents.data:
            selection += selection_cautions(coverage, contents.data["scores.nc"].attrs)
        if has_p_values(coverage):  # else the caution would be about nothing
            selection += recordings
    ablated = "ablation.csv" in contents.tables
    return {
        "counts": tuple(counts),
        "selection": tuple(selection),
        "sharing": tuple(_outdated_sharing(contents)),
        "ablation": (*_outdated_ablation(contents), *recordings) if ablated else (),
        "published": tuple(_outdated_figures(contents)),
    }


def _recordings(contents: Contents, coverage: pd.DataFrame | None) -> list[str]:
    """Cautions about clips that may come from one recording, on which p-values and intervals rest.

    Args:
      contents: files of the run.
      coverage: table of coverage, which has the number of classes; None if it is missing.
    """
    labels = contents.data.get("clip_labels.nc")
    sources = None if labels is None else labels["source"].values.tolist()
    basis = Basis(contents.stages.get("activations", {}), contents.tables.get("clips.csv"), sources)
    return recording_cautions(basis, 0 if coverage is None else int(coverage["classes"].max()))


def _outdated_sharing(contents: Contents) -> Iterator[str]:
    """A sentence if sharing is of other neurons than those chosen now.

    `sharing.nc` records no fingerprint of the neurons, but the size of each class's set, which then differs.
    """
    table, sharing = contents.neurons, contents.data.get("sharing.nc")
    if table is None or sharing is None:
        return
    size = table.groupby(["label_set", "class"]).size().to_dict()
    keys = zip(sharing["label_set_a"].values.tolist(), sharing["class_a"].values.tolist(), strict=True)
    if [size.get(key, 0) for key in keys] != sharing["size_a"].values.tolist():
        yield (
            "Sharing was computed from other neurons than those chosen now: run "
            f"`{command('share', contents.run)}` again."
        )


def _outdated_ablation(contents: Contents) -> Iterator[str]:
    """Sentences if neurons were chosen, or the probe was trained, after the ablation.

    The ablation recorded the fingerprints of both files in `run.json`.
    """
    # An ablation of an earlier version recorded neither.
    prints, again = contents.stages.get("ablate", {}).get("fingerprints", {}), command("ablate", contents.run)
    neurons, probe = contents.run.file("neurons.csv"), contents.run.file("probe") / "probe.json"
    if contents.neurons is not None and prints.get("neurons") not in (None, sha256_file(neurons)):
        yield (
            "Neurons were chosen anew since the ablation, which may have silenced others than are listed now: run "
            f"`{again}` again."
        )
    if probe.is_file() and prints.get("probe") not in (None, sha256_file(probe)):
        yield f"The probe was trained anew since the ablation, which used the earlier one: run `{again}` again."


def _outdated_figures(contents: Contents) -> Iterator[str]:
    """A sentence if the published figures were compared with other neurons than those chosen now.

    `reproduction.csv` has no fingerprint either, but the numbers of neurons per class of all label sets.
    """
    published, coverage = contents.tables.get("reproduction.csv"), contents.tables.get("coverage.csv")
    if published is None or coverage is None or coverage.empty:
        return
    found = published[published["figure"].str.endswith("neurons per class")]["found"].tolist()
    if found != coverage["mean_neurons_per_class"].tolist():
        yield "reproduction.csv is of other neurons than those chosen now: run `jaxdissect reproduce` again."
