"""Encoder and clips of a run, as far as they are at hand: a report comes without them, too."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from jaxdissect.encoder.directory import fingerprint, load_encoder
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.report.run_contents import Contents, Missing, command
from jaxdissect.runtime.run_directory import Run
from jaxdissect.stages.inputs import load_recorded_task, stage_inputs
from jaxdissect.tasks.table import Task

SOUND, ACTIVATION = "sound and log-mel pictures", "activation over time and frequency"


@dataclass(frozen=True, eq=False)
class Source:
    """What clips can be seen and heard with.

    Attributes:
      task: the clips that were counted, in their order; None: not at hand.
      encoder: None: not at hand.
      missing: what is not at hand.
    """

    task: Task | None
    encoder: Encoder | None
    missing: tuple[Missing, ...] = ()


def find_source(options: Any, run: Run, contents: Contents) -> Source:
    """Encoder and clips as the run recorded them, or as given.

    Args:
      options: with `encoder` and `data`.
      run: the run directory.
      contents: that it holds.
    """
    report = command("report", run)
    clips, record = contents.tables.get("clips"), contents.stages.get("activations")
    if clips is None or record is None:
        why = "which clips were counted is not known"
        return Source(None, None, (Missing(SOUND, why, command("activations", run)),))
    missing: list[Missing] = []
    try:
        inputs = stage_inputs(options, run, "activations")
    except InputError as error:
        return Source(None, None, (Missing(SOUND, told(error, options), f"{report} --data DIR"),))
    try:
        task = _counted_task(load_recorded_task(inputs), record, clips)
    except InputError as error:
        return Source(None, None, (Missing(SOUND, told(error, options), f"{report} --data DIR"),))
    encoder = None
    try:
        encoder = load_encoder(inputs["encoder"], inputs["dtype"])
        if fingerprint(encoder) != record["fingerprints"].get("encoder"):
            raise InputError("the encoder found is another than the one that was counted")
    except InputError as error:
        encoder = None
        missing.append(Missing(ACTIVATION, told(error, options), f"{report} --encoder DIR"))
    return Source(task, encoder, tuple(missing))


def _counted_task(task: Task, record: Any, clips: pd.DataFrame) -> Task:
    """The clips that were counted.

    Raises:
      InputError: the data folder holds another table.
    """
    counted = task.only(str(record["options"].get("split", "all")))
    if list(counted.file_names) != clips["file_name"].tolist():
        raise InputError("the data folder's table has other clips than were counted")
    return counted


def told(error: InputError, options: Any) -> str:
    """What an error says, without paths that were given for this report alone."""
    text = str(error)
    for name, value in (("DIR", options.data), ("ENCODER", options.encoder)):
        text = text.replace(str(value), name) if value is not None else text
    return text
