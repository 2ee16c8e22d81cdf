"""`jaxdissect report`: one page on which the neurons of a run can be seen and heard."""

import dataclasses
import datetime as dt
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jaxdissect
from jaxdissect.encoder.protocol import Encoder
from jaxdissect.errors import InputError
from jaxdissect.options.report import ReportOptions
from jaxdissect.report.numbers import to_json
from jaxdissect.report.overview import overview
from jaxdissect.report.page import Page, render
from jaxdissect.report.paper import draw_paper_figures
from jaxdissect.report.payload import Frame, clips_payload, frame, run_payload, wanted_clips
from jaxdissect.report.payload_checks import NO_CHECKS, checks_payload
from jaxdissect.report.payload_results import ablation_payload, sharing_payload, summary_payload
from jaxdissect.report.run_contents import Contents, Missing, as_given, command, plain_error, read_contents
from jaxdissect.report.snippets import Snippets, Wanted, make_snippets
from jaxdissect.runtime.files import replaced_folder, whole_file
from jaxdissect.runtime.progress import under_way
from jaxdissect.runtime.run_directory import Run
from jaxdissect.stages.report_commands import commands
from jaxdissect.stages.report_source import ACTIVATION, SOUND, find_source, told
from jaxdissect.tasks.table import Task

MEGABYTE = 1e6
SHELL = 200_000  # bytes: script, style and what else stands in the page, at most
SECTIONS = {
    "overview": "Overview", "classes": "Classes", "neurons": "Neurons", "layers": "Layers", "sharing": "Sharing",
    "ablation": "Ablation", "compare": "Compare",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ReportResult:
    """What the stage `report` has made.

    Attributes:
      path: of the page.
      size: of the page, or of its folder, bytes.
      neurons: class-specific neurons that it shows.
      clips: that can be heard.
      left_out: top clips for which there was no room.
      missing: what it does without.
      warnings: sentences.
      figures: SVG files.
      seconds: that it took.
    """

    path: Path
    size: int
    neurons: int
    clips: int
    left_out: int
    missing: tuple[Missing, ...]
    warnings: tuple[str, ...]
    figures: tuple[Path, ...]
    seconds: float


def run_report(options: ReportOptions) -> ReportResult:
    """Write `report.html`, or with `full` the folder `report/`, and `figures/`.

    Raises:
      InputError: it is no run directory, or cannot be written.
    """
    started = time.perf_counter()
    run = Run(options.run)
    with under_way("Reading the run"):
        contents = read_contents(run.path)
        other = None if options.with_ is None else read_contents(options.with_, "--with")
    axes = frame(contents)
    missing, warnings = list(contents.missing), list[str]()
    figures: tuple[Path, ...] = ()
    with run.locked():
        if options.figures:
            try:
                with under_way("Drawing figures for papers"):
                    figures = draw_paper_figures(contents, axes, run.file("figures"))
            except InputError as error:
                missing.append(Missing("figures for papers", plain_error(error, run), command("report", run)))
        with under_way("Collecting what the page shows"):
            payload = _payload(contents, axes, other, run, missing)
        snippets = _snippets(options, run, contents, axes, payload, missing, warnings)
        payload["clips"] = clips_payload(contents, axes, wanted_clips(contents, axes), snippets)
        payload["beside"] = options.full
        with under_way("Writing the page"):
            page = _page(contents, axes, payload, tuple(missing), tuple(warnings))
            path = _write(run, page, snippets, options.full)
        _record(run, contents, options, started, warnings)
    size = sum(file.stat().st_size for file in (path.parent.rglob("*") if options.full else [path]) if file.is_file())
    return ReportResult(
        path, size, len(axes.neurons), 0 if snippets is None else len(snippets.clips),
        0 if snippets is None else snippets.left_out,
        tuple(dataclasses.replace(entry, command=as_given(entry.command, run)) for entry in missing),
        tuple(as_given(sentence, run) for sentence in page.overview.warnings), figures, time.perf_counter() - started,
    )  # fmt: skip


def _payload(
    contents: Contents, axes: Frame, other: Contents | None, run: Run, missing: list[Missing]
) -> dict[str, Any]:
    def part(what: str, stage: str, make: Callable[[], Any], nothing: Any) -> Any:
        """What files of one stage show, or nothing and a line that says why: each can be read, but they do not fit."""
        try:
            return make()
        except Exception as error:  # values that no stage writes may break this in any way
            missing.append(
                Missing(what, f"its files do not fit together: {plain_error(error, run)}", command(stage, run))
            )
            return nothing

    payload = run_payload(contents, axes)
    payload["title"] = contents.name
    payload["sharing"] = part("sharing", "share", lambda: sharing_payload(contents, axes), [])
    payload["ablation"] = part("ablation", "ablate", lambda: ablation_payload(contents, axes), None)
    payload["checks"] = part(
        "what supports the selection", "neurons", lambda: checks_payload(contents, axes), NO_CHECKS
    )
    payload["own"] = summary_payload(contents, axes)
    payload["other"] = None if other is None else summary_payload(other, frame(other))
    payload["commands"] = {
        "neurons": f"{command('neurons', run)} --preset lape",
        "share": command("share", run),
        "ablate": command("ablate", run),
        "probe": command("probe", run),
        "compare": f"{command('report', run)} --with OTHER_RUN",
    }
    return payload


def _snippets(
    options: ReportOptions,
    run: Run,
    contents: Contents,
    axes: Frame,
    payload: dict[str, Any],
    missing: list[Missing],
    warnings: list[str],
) -> Snippets | None:
    """Sound, pictures and activations, as far as encoder and clips are at hand and the page has room."""
    wanted = wanted_clips(contents, axes)
    if not wanted.clips:
        for flag, value in (("--data", options.data), ("--encoder", options.encoder)):
            if value is not None:
                warnings.append(f"{flag} had no effect: no class has a neuron whose clips could be heard.")
        return None
    source = find_source(options, run, contents)
    missing += source.missing
    if source.task is None:
        return None
    told_of_clips = payload | {"clips": clips_payload(contents, axes, wanted, None)}
    room = float("inf") if options.full else options.max_mb * MEGABYTE - len(to_json(told_of_clips)) - SHELL
    if room <= 0:
        warnings.append(
            f"What the neurons need alone is more than {options.max_mb:g} MB, so that there is no sound: choose fewer "
            f"neurons, a larger --max-mb, or --full."
        )
        return None
    made = _made(options, source.task, source.encoder, wanted, room, command("report", run), missing)
    if made is None:
        return None
    if made.left_out:
        warnings.append(
            f"{made.left_out:,} of {len(wanted.clips):,} top clips are left out to keep the page below "
            f"{options.max_mb:g} MB: `{command('report', run)} --full` writes a folder with all of them."
        )
    if made.unreadable:
        warnings.append(f"Top clips that cannot be read now and are not heard here: {len(made.unreadable):,}.")
    return made


def _made(
    options: ReportOptions,
    task: Task,
    encoder: Encoder | None,
    wanted: Wanted,
    room: float,
    again: str,
    missing: list[Missing],
) -> Snippets | None:
    """With activations, else without, else nothing and a line that says why."""
    rate = 16000 if encoder is None else encoder.sample_rate
    if encoder is not None:
        try:
            return make_snippets(task, encoder, wanted, room)
        except InputError as error:
            activation = Missing(ACTIVATION, told(error, options))
    try:
        made = make_snippets(task, None, wanted, room, rate)
    except InputError as error:
        missing.append(Missing(SOUND, told(error, options), f"{again} --data DIR"))
        return None
    if encoder is not None:
        missing.append(activation)
    return made


def _page(
    contents: Contents, axes: Frame, payload: Mapping[str, Any], missing: tuple[Missing, ...], warnings: tuple[str, ...]
) -> Page:
    made = f"jaxdissect {jaxdissect.__version__}, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    first = overview(contents, axes, missing, warnings, commands(contents))
    return Page(contents.name, first, payload, SECTIONS, made)


def _write(run: Run, page: Page, snippets: Snippets | None, full: bool) -> Path:
    if not full:
        path = run.file("report.html")
        with whole_file(path) as temporary:
            temporary.write_text(render(page, snippets), encoding="utf-8", errors="replace")
        return path
    folder = run.file("report")
    with replaced_folder(folder) as temporary:
        (temporary / "clips").mkdir()
        for clip, snippet in ({} if snippets is None else snippets.clips).items():
            assert snippets is not None
            (temporary / "clips" / f"{clip}.{snippets.form.ending}").write_bytes(snippet.audio)
            (temporary / "clips" / f"{clip}.png").write_bytes(snippet.picture)
        (temporary / "report.html").write_text(render(page, None, beside=True), encoding="utf-8", errors="replace")
    return folder / "report.html"


def _record(run: Run, contents: Contents, options: ReportOptions, started: float, warnings: list[str]) -> None:
    """Note the stage in `run.json`, unless that is damaged, which the report tells."""
    if not contents.stages:
        return
    first: Any = contents.stages.get("activations", next(iter(contents.stages.values())))
    with_ = None if options.with_ is None else options.with_.name
    record = {
        "options": {"with": with_, "max_mb": options.max_mb, "full": options.full, "figures": options.figures},
        "fingerprints": first["fingerprints"],
        "seconds": round(time.perf_counter() - started, 3),
        "status": "done",
    }
    run.finish("report", record)
