"""`jaxdissect report`: one page on which the neurons of a run can be seen and heard."""

import dataclasses
import datetime as dt
import time
from pathlib import Path

import jaxdissect
from jaxdissect.options.report import ReportOptions
from jaxdissect.report.numbers import to_json
from jaxdissect.report.overview import Overview, overview, selection_words
from jaxdissect.report.page import Page, render
from jaxdissect.report.paper import draw_paper_figures
from jaxdissect.report.payload import Axes, axes_of, clips_payload, run_payload, wanted_clips
from jaxdissect.report.payload_evidence import evidence_payload
from jaxdissect.report.payload_results import ablation_payload, sharing_payload, summary_payload
from jaxdissect.report.run_contents import (
    Contents,
    Missing,
    as_given,
    command,
    leave_out_misfits,
    plain_error,
    read_contents,
)
from jaxdissect.report.snippets import Snippets, Wanted
from jaxdissect.runtime.files import replaced_folder, whole_file
from jaxdissect.runtime.progress import under_way
from jaxdissect.runtime.run_directory import Run
from jaxdissect.stages.report_commands import commands
from jaxdissect.stages.report_source import find_source, snippets_of
from jaxdissect.types import Record

MEGABYTE = 1e6  # bytes
SHELL_BYTES = 200_000  # of script, style and all else in a page beside data and clips, at most


@dataclasses.dataclass(frozen=True)
class ReportResult:
    """What the stage `report` has made.

    Attributes:
      path: path of the page.
      size: size of the page, or of its folder, bytes.
      neurons: number of class-specific neurons.
      clips: number of clips that can be heard.
      left_out: number of top clips without room in the page.
      missing: what the page does without.
      warnings: cautions of the page.
      figures: SVG files of the figures for papers.
      seconds: time that the report took.
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Shown:
    """What the page shows of a run's files, before any clip is decoded.

    Attributes:
      axes: numbering of classes and neurons.
      overview: the first section.
      payload: the other sections, without clips.
      wanted: clips that should be seen and heard.
      commands: command lines that made the run.
    """

    axes: Axes
    overview: Overview
    payload: Record
    wanted: Wanted
    commands: tuple[str, ...]


def run_report(options: ReportOptions) -> ReportResult:
    """Write `report.html`, or with `full` the folder `report/`, and `figures/`.

    Raises:
      InputError: the folder is no run directory, or cannot be written.
    """
    started = time.perf_counter()
    run = Run(options.run)
    with under_way("Reading the run"):
        contents, shown = leave_out_misfits(read_contents(run.path), _shown)
        other = None if options.with_ is None else _summary(options.with_)
    missing = list(contents.missing)  # clips and figures may add to it
    payload = shown.payload | {"other": other, "beside": options.full}
    with run.locked():
        figures = _figures(contents, shown.axes, missing) if options.figures else ()
        snippets, about_clips = _snippets(options, contents, shown, missing)
        payload["clips"] = clips_payload(contents, shown.axes, shown.wanted, snippets)
        cautions = {**shown.overview.cautions, "clips": about_clips}
        payload["cautions"] = cautions
        with under_way("Writing the page"):
            page = Page(
                title=contents.name,
                overview=dataclasses.replace(shown.overview, cautions=cautions),
                payload=payload,
                missing=tuple(missing),
                commands=shown.commands,
                made=f"jaxdissect {jaxdissect.__version__}, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
            )
            path = _write(run, page, snippets, options.full)
        _record(contents, options, started)
    files = path.parent.rglob("*") if options.full else [path]
    # A sentence about recordings is beside several numbers, but a terminal shows it once.
    sentences = dict.fromkeys(sentence for about in cautions.values() for sentence in about)
    return ReportResult(
        path=path,
        size=sum(file.stat().st_size for file in files if file.is_file()),
        neurons=len(shown.axes.neurons),
        clips=0 if snippets is None else len(snippets.clips),
        left_out=0 if snippets is None else snippets.left_out,
        missing=tuple(dataclasses.replace(entry, command=as_given(entry.command, run)) for entry in missing),
        warnings=tuple(as_given(sentence, run) for sentence in sentences),
        figures=figures,
        seconds=time.perf_counter() - started,
    )


def _shown(contents: Contents) -> _Shown:
    """What the page shows of a run; any error of it means that a file does not fit.

    Args:
      contents: files of the run.
    """
    axes, run = axes_of(contents), contents.run
    payload = run_payload(contents, axes) | {
        "title": contents.name,
        "sharing": sharing_payload(contents, axes),
        "ablation": ablation_payload(contents, axes),
        "evidence": evidence_payload(contents, axes),
        "own": summary_payload(contents, axes),
        "rule": selection_words(contents),
        "commands": {
            "neurons": command("neurons", run),
            "share": command("share", run),
            "ablate": command("ablate", run),
            "compare": f"{command('report', run)} --with OTHER_RUN",
        },
    }
    return _Shown(axes, overview(contents, axes), payload, wanted_clips(contents, axes), tuple(commands(contents)))


def _summary(folder: Path) -> Record:
    """The other run of a comparison in numbers, without files that do not fit.

    Args:
      folder: run directory that `--with` named.
    """
    return leave_out_misfits(read_contents(folder, "--with"), lambda other: summary_payload(other, axes_of(other)))[1]


def _figures(contents: Contents, axes: Axes, missing: list[Missing]) -> tuple[Path, ...]:
    """Figures for papers, or none and a line that says why.

    Args:
      contents: files of the run.
      axes: numbering of classes and neurons.
      missing: list of what the report does without.

    Returns:
      Paths of the SVG files.
    """
    try:
        with under_way("Drawing figures for papers"):
            return draw_paper_figures(contents, axes, contents.run.file("figures"))
    except Exception as error:  # a figure's values or names may break matplotlib in any way
        reason = plain_error(error, contents.run)
        missing.append(Missing("figures for papers", reason, command("report", contents.run)))
        return ()


def _snippets(
    options: ReportOptions, contents: Contents, shown: _Shown, missing: list[Missing]
) -> tuple[Snippets | None, tuple[str, ...]]:
    """Sound, pictures and activations as far as the page has room, and cautions about them.

    Args:
      options: options of the report.
      contents: files of the run.
      shown: what the page shows beside clips.
      missing: list that gets a line for what is not found.

    Returns:
      The clips, or None if there are none; sentences about clips that are left out.
    """
    if not shown.wanted.clips:
        given = [
            flag for flag, value in (("--data", options.data), ("--encoder", options.encoder)) if value is not None
        ]
        return None, tuple(f"{flag} had no effect: no class has a neuron whose clips could be heard." for flag in given)
    source = find_source(options, contents)
    missing += source.missing
    if source.task is None:
        return None, ()
    # The page without sound and pictures, from which the room for these is known before a clip is decoded.
    without_media = shown.payload | {"clips": clips_payload(contents, shown.axes, shown.wanted, None)}
    room = float("inf") if options.full else options.max_mb * MEGABYTE - len(to_json(without_media)) - SHELL_BYTES
    if room <= 0:
        return None, (
            f"What the neurons need alone is more than {options.max_mb:g} MB, so that there is no sound: choose fewer "
            "neurons, a larger --max-mb, or --full.",
        )
    snippets = snippets_of(options, contents, source, shown.wanted, room, missing)
    if snippets is None:
        return None, ()
    cautions = []
    if snippets.left_out:
        cautions.append(
            f"{snippets.left_out:,} of {len(shown.wanted.clips):,} top clips are left out to keep the page below "
            f"{options.max_mb:g} MB: `{command('report', contents.run)} --full` writes a folder with all of them."
        )
    if snippets.unreadable:
        cautions.append(f"{len(snippets.unreadable):,} top clips can no longer be read, and are not heard here.")
    return snippets, tuple(cautions)


def _write(run: Run, page: Page, snippets: Snippets | None, full: bool) -> Path:
    """Write the page, or a folder with the page and its clips.

    Args:
      run: the run directory.
      page: content of the page.
      snippets: clips to see and hear.
      full: whether clips become files of a folder.

    Returns:
      Path of the page.
    """
    if not full:
        path = run.file("report.html")
        with whole_file(path) as temporary:
            # A file name that is no Unicode has lone surrogates, which UTF-8 refuses.
            temporary.write_text(render(page, snippets), encoding="utf-8", errors="replace")
        return path
    folder = run.file("report")
    with replaced_folder(folder) as temporary:
        (temporary / "clips").mkdir()
        if snippets is not None:
            for clip, snippet in snippets.clips.items():
                (temporary / "clips" / f"{clip}.{snippets.form.ending}").write_bytes(snippet.audio)
                (temporary / "clips" / f"{clip}.png").write_bytes(snippet.picture)
        (temporary / "report.html").write_text(render(page, None, beside=True), encoding="utf-8", errors="replace")
    return folder / "report.html"


def _record(contents: Contents, options: ReportOptions, started: float) -> None:
    """Note the stage in `run.json`, unless that is missing or damaged: the report says so.

    Args:
      contents: files of the run.
      options: options of the report.
      started: time at which the report began, s.
    """
    if not contents.stages:
        return
    first = contents.stages.get("activations", next(iter(contents.stages.values())))
    with_ = None if options.with_ is None else options.with_.name
    record = {
        "options": {"with": with_, "max_mb": options.max_mb, "full": options.full, "figures": options.figures},
        "fingerprints": first["fingerprints"],
        "seconds": round(time.perf_counter() - started, 3),
        "status": "done",
    }
    contents.run.finish("report", record)
