"""Encoder and clips of a run, as far as they can be found: a report without them shows the rest."""

import dataclasses

from jaxdissect.encoder.directory import load_encoder
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError, require
from jaxdissect.options.report import ReportOptions
from jaxdissect.report.run_contents import Contents, Missing, command
from jaxdissect.report.snippets import Snippets, Wanted, make_snippets
from jaxdissect.stages.inputs import counted_clips, encoder_fingerprint, load_recorded_task, stage_inputs
from jaxdissect.tasks.table import Task

SOUND, ACTIVATION = "sound and log-mel pictures", "activation over time and frequency"
SAMPLE_RATE = 16000  # of sound without an encoder, Hz


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Where the clips of a report come from.

    Attributes:
      task: clips that were counted, in their order; None if they are not found.
      encoder: encoder that was counted; None if it is not found.
      missing: what the report therefore does without.
    """

    task: Task | None
    encoder: Encoder | None
    missing: tuple[Missing, ...] = ()


def find_source(options: ReportOptions, contents: Contents) -> Source:
    """Encoder and clips as the run recorded them, or as the options give them.

    Args:
      options: options of the report, with a data folder and an encoder directory if these have moved.
      contents: files of the run.
    """
    clips, counted = contents.tables.get("clips.csv"), contents.stages.get("activations")
    report = command("report", contents.run)
    if clips is None or counted is None:
        why = "which clips were counted is not known"
        return Source(None, None, (Missing(SOUND, why, command("activations", contents.run)),))
    try:
        inputs = stage_inputs(options, contents.run, "activations")
        task = counted_clips(load_recorded_task(inputs), counted["options"])
        same = list(task.file_names) == clips["file_name"].tolist()
        require(same, "the data folder's table has other clips than were counted")
    except InputError as error:
        return Source(None, None, (Missing(SOUND, without_paths(error, options), f"{report} --data DIR"),))
    # Without the encoder there is sound; without the clips there would be no activation either.
    try:
        encoder = load_encoder(inputs["encoder"], inputs["dtype"], inputs["units"])
        same = encoder_fingerprint(encoder) == counted["fingerprints"].get("encoder")
        require(same, "the encoder found is another than the one that was counted")
    except InputError as error:
        return Source(task, None, (Missing(ACTIVATION, without_paths(error, options), f"{report} --encoder DIR"),))
    return Source(task, encoder)


def snippets_of(
    options: ReportOptions, contents: Contents, source: Source, wanted: Wanted, room: float, missing: list[Missing]
) -> Snippets | None:
    """Clips with activations; else without them; else None. `missing` gets a line for what is not there.

    Args:
      options: options of the report.
      contents: files of the run.
      source: encoder and clips that were found.
      wanted: clips and neurons.
      room: bytes that clips may take in the page.
      missing: list of what the report does without.
    """
    assert source.task is not None
    rate = SAMPLE_RATE if source.encoder is None else source.encoder.sample_rate
    try:
        return make_snippets(source.task, source.encoder, wanted, room)
    except InputError as error:
        reason = without_paths(error, options)
    try:
        # Where this succeeds, the encoder was at fault: its patches lie on no grid, or it gives no finite activations.
        snippets = make_snippets(source.task, None, wanted, room, rate)
        missing.append(Missing(ACTIVATION, reason))
        return snippets
    except InputError as error:
        report = command("report", contents.run)
        missing.append(Missing(SOUND, without_paths(error, options), f"{report} --data DIR"))
        return None


def without_paths(error: InputError, options: ReportOptions) -> str:
    """An error without the paths that were given for this report alone: a page shows only paths of `run.json`."""
    text = str(error)
    for name, value in (("DIR", options.data), ("ENCODER", options.encoder)):
        text = text.replace(str(value), name) if value is not None else text
    return text
