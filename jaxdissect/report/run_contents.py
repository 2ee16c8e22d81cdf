"""What a run directory holds for a report: each file that is there, readable and of this run, and what is left out."""

import shlex
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pandas as pd
import xarray as xr

from jaxdissect.errors import InputError, first_line, require
from jaxdissect.runtime.files import require_regular
from jaxdissect.runtime.run_directory import Run, record_attributes
from jaxdissect.types import Record

STAGES = {  # what a report shows of each
    "activations": "how often every neuron fires for every class",
    "neurons": "class-specific neurons",
    "share": "which classes share neurons",
    "probe": "linear probes, which an ablation needs",
    "ablate": "what silencing neurons does to each class",
}
FILES = {  # the stage that writes each; results come after what they are computed from
    "activations.nc": "activations",
    "top_clips.nc": "activations",
    "clip_labels.nc": "activations",
    "clips.csv": "activations",
    "scores.nc": "neurons",
    "neurons.csv": "neurons",
    "permutations.nc": "neurons",
    "coverage.csv": "neurons",
    "layers.csv": "neurons",
    "agreement.csv": "neurons",
    "reproduction.csv": "neurons",
    "sharing.nc": "share",
    "probe/scores.csv": "probe",
    "probe/class_scores.csv": "probe",
    "probe_layers.csv": "probe",
    "ablation.csv": "ablate",
    "ablation_suite.csv": "ablate",
    "causal_map.csv": "ablate",
}
OPTIONAL = {
    "clip_labels.nc",
    "permutations.nc",
    "agreement.csv",
    "reproduction.csv",
    "causal_map.csv",
    "probe_layers.csv",
}
AAPE_SCORES = ("aape", "aape_normalised", "aape_low", "aape_high")
BREADTH = ("expected_by_breadth", "q_by_breadth")
VARIABLES = {  # what a report reads of netCDF files: they hold more, 155 MB a variable for 527 classes and a ViT-B
    "activations.nc": ("active_tokens", "tokens", "clips", "total_clips", "total_tokens", "total_active_tokens"),
    "top_clips.nc": ("clip", "active_share", "max_activation"),
    "clip_labels.nc": ("source",),
    "scores.nc": ("rate", *AAPE_SCORES, "probability_bar", "aape_cutoff", "margin_effect"),
    "permutations.nc": ("pairs",),
    "sharing.nc": ("size_a", "size_b", "shared", "jaccard", "expected_shared", "q_value", *BREADTH),
}
NAME_COLUMNS = ["label_set", "class", "intervention"]  # text, even if every name looks like a number
RUN_RECORD = "run.json"
T = TypeVar("T")


@dataclass(frozen=True)
class Missing:
    """Something that a report does without.

    Attributes:
      what: file, or part of the page.
      why: reason that it is left out, without a full stop.
      command: command that makes it; empty where no command does.
    """

    what: str
    why: str
    command: str = ""


@dataclass(frozen=True, eq=False)
class Contents:
    """What a run directory holds. A file that is missing, unreadable or of another run is not in it.

    Attributes:
      run: the run directory.
      stages: record of each stage that belongs to the run, from `run.json`.
      data: netCDF files, by file name.
      tables: CSV files, by file name; every column but names is of floats.
      missing: what is left out, and why.
    """

    run: Run
    stages: Mapping[str, Record] = field(default_factory=dict)
    data: Mapping[str, xr.Dataset] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()

    @property
    def name(self) -> str:
        """Name of the run directory, without the folders above it."""
        return self.run.path.resolve().name

    @property
    def counts(self) -> xr.Dataset | None:
        """Active tokens (class, layer, neuron), tokens and clips (class)."""
        return self.data.get("activations.nc")

    @property
    def neurons(self) -> pd.DataFrame | None:
        """A row for each pair of a class and a neuron specific to it; None if no neurons were chosen."""
        return self.tables.get("neurons.csv")

    def only(self, names: Collection[str]) -> "Contents":
        """The same run with some of its files, `run.json` among them."""
        return replace(
            self,
            stages=self.stages if RUN_RECORD in names else {},
            data={name: dataset for name, dataset in self.data.items() if name in names},
            tables={name: table for name, table in self.tables.items() if name in names},
        )


def read_contents(folder: Path, option: str = "--run") -> Contents:
    """Read what a run directory holds; damaged files and those of another run are listed as missing.

    Args:
      folder: the run directory.
      option: option that named it, for the error.

    Raises:
      InputError: the folder holds none of the files of a run.
    """
    run = Run(folder)
    require(
        folder.is_dir() and any((folder / name).exists() for name in (RUN_RECORD, *FILES)),
        f"{option} {folder} holds none of the files of a run: give a folder that `jaxdissect activations` has made.",
    )
    missing: list[Missing] = []
    stages = _stages(run, missing)
    data: dict[str, xr.Dataset] = {}
    tables: dict[str, pd.DataFrame] = {}
    for name, stage in FILES.items():
        path = run.file(name)
        # Without run.json, every file that is there is shown.
        if stages and stage not in stages:
            continue  # the stage itself is listed
        if not path.exists():
            if stages and name not in OPTIONAL:
                missing.append(Missing(name, "it is not there", _maker(name, run)))
            continue
        try:
            require_regular(path)
            if path.suffix == ".nc":
                data[name] = _read_netcdf(path, stages.get("activations"))
            else:
                tables[name] = _read_table(path)
        except Exception as error:  # a damaged file may break its reader in any way
            missing.append(_misfit(name, error, run))
    return Contents(run, stages, data, tables, tuple(missing))


def leave_out_misfits(contents: Contents, make: Callable[[Contents], T]) -> tuple[Contents, T]:
    """Make something of a run, without the files that it cannot be made of.

    A file can be readable and still lack a column, or not fit the others. It is looked for only where `make` fails:
    the files are then added one by one, and each with which `make` fails is left out and listed as missing.

    Args:
      contents: the run.
      make: what is made; any error of it means that a file is at fault.

    Returns:
      The run without the files at fault, and what was made of it.
    """
    try:
        return contents, make(contents)
    except Exception:  # which file it is shows below
        names = [name for name in (RUN_RECORD, *FILES) if name in {RUN_RECORD, *contents.data, *contents.tables}]
    kept: list[str] = []
    missing = list(contents.missing)
    for name in names:
        try:
            make(contents.only([*kept, name]))
            kept.append(name)
        except Exception as error:
            missing.append(_misfit(name, error, contents.run))
    fitting = replace(contents.only(kept), missing=tuple(missing))
    return fitting, make(fitting)


def command(stage: str, run: Run) -> str:
    """The command that runs a stage.

    Args:
      stage: name of the command.
      run: the run directory; one that is given in full is named without the folders above it, as the page shows it.
    """
    return f"jaxdissect {stage} {_run_option(run.path.name if run.path.is_absolute() else run.path)}"


def as_given(text: str, run: Run) -> str:
    """A sentence of the page for a terminal: its commands name the run directory as it was given.

    Args:
      text: sentence with commands of `command`.
      run: the run directory.
    """
    return text.replace(_run_option(run.path.name), _run_option(run.path)) if run.path.is_absolute() else text


def plain_error(error: Exception, run: Run) -> str:
    """The first line of an error, without the folders above the run directory.

    Args:
      error: any error; a `KeyError` means that a column or variable is missing.
      run: the run directory.
    """
    text = f"it lacks {first_line(error)}" if isinstance(error, KeyError) else first_line(error)
    # Two names of the folder if there is a link above it.
    for path in (run.path.resolve(), run.path.absolute()):
        text = text.replace(f"{path}/", "").replace(str(path), run.path.name)
    return text


def _run_option(path: Path | str) -> str:
    return f"--run {shlex.quote(str(path))}"


def _maker(name: str, run: Run) -> str:
    """The command that makes a file again."""
    if name == RUN_RECORD:
        return "jaxdissect activations ..."
    return command("reproduce" if name == "reproduction.csv" else FILES[name], run)


def _misfit(name: str, error: Exception, run: Run) -> Missing:
    """A line about a file that cannot be used, with the reason and the command that makes it again."""
    return Missing(name, f"it cannot be used: {plain_error(error, run)}", _maker(name, run))


def _stages(run: Run, missing: list[Missing]) -> dict[str, Record]:
    """The stages of one encoder, task and front end.

    Args:
      run: the run directory.
      missing: list that gets a line for each stage that is missing or of another encoder, task or front end.

    Returns:
      The record of each stage; none if `run.json` is missing or damaged.
    """
    try:
        stages = run.stages()
    except InputError as error:
        missing.append(_misfit(RUN_RECORD, error, run))
        return {}
    if not stages:
        missing.append(Missing(RUN_RECORD, "it is not there", _maker(RUN_RECORD, run)))
        return {}
    # All stages are compared with the one that counted, or else with the first.
    first = next(iter(stages)) if "activations" not in stages else "activations"
    counted = stages[first]["fingerprints"]
    for stage in list(stages):
        prints = stages[stage]["fingerprints"]
        differing = [name.replace("_", " ") for name in counted if prints.get(name, counted[name]) != counted[name]]
        if differing:
            why = f"it belongs to another {' and another '.join(differing)} than the stage {first!r}"
            missing.append(Missing(stage, why, command(stage, run)))
            del stages[stage]
    # A stage of another run is listed already.
    listed = {entry.what for entry in missing}
    missing += [
        Missing(meaning, f"the stage {stage!r} has not been run, or has not finished", command(stage, run))
        for stage, meaning in STAGES.items()
        if stage not in stages and stage not in listed
    ]
    return stages


def _read_netcdf(path: Path, counted: Record | None) -> xr.Dataset:
    """The variables of a file that a report shows.

    Args:
      path: path of the file.
      counted: record of the stage `activations`, with which the file's attributes must agree; None if unknown.

    Raises:
      InputError: the file belongs to another run.
    """
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        # Files of earlier versions may lack an attribute; sharing.nc has none.
        wanted = {} if counted is None else record_attributes(counted)
        differing = [name for name, value in wanted.items() if dataset.attrs.get(name, value) != value]
        require(not differing, f"it belongs to another run: {', '.join(differing)} differ from run.json")
        return dataset[[name for name in VARIABLES[path.name] if name in dataset]].load()


def _read_table(path: Path) -> pd.DataFrame:
    """A table with names as text and columns of numbers as floats, NaN where a cell is empty.

    Args:
      path: path of the file.

    Raises:
      ValueError: the file is damaged.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)  # a class may be called "NaN"
    if path.name == "clips.csv":  # its label columns have any names
        return table.astype({"samples": float})
    for name in table.columns.difference(NAME_COLUMNS):
        with suppress(ValueError):  # text
            table[name] = [float(value or "nan") for value in table[name]]
    return table
