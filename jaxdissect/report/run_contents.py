"""What a run directory holds, for a report: whatever is there, and a list of what is not, and why."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from jaxdissect.errors import InputError, first_line
from jaxdissect.runtime.files import require_regular, sha256_file
from jaxdissect.runtime.run_directory import Run, require_same_run

Reader = Callable[[Path], Any]
STAGES = {  # what a report shows of each
    "activations": "how often every neuron fires for every class",
    "neurons": "class-specific neurons",
    "share": "which classes share neurons",
    "probe": "linear probes, which an ablation needs",
    "ablate": "what silencing neurons does to each class",
}
PRINTS = {"encoder": "encoder", "task": "task", "front_end": "front end"}


@dataclass(frozen=True)
class Missing:
    """Something that a report does without.

    Attributes:
      what: a file, or what would be shown.
      why: it is not there.
      command: that makes it; may be empty.
    """

    what: str
    why: str
    command: str = ""


@dataclass(frozen=True, eq=False)
class Contents:
    """What a run directory holds. Whatever could not be read is None, or not there, and listed as missing.

    Attributes:
      name: of the run directory.
      stages: the record of each stage that belongs to the run.
      data: netCDF files, by name without ending: `activations`, `top_clips`, `scores`, `sharing`, `permutations`.
      tables: CSV files, likewise.
      missing: what is not here.
      warnings: what a reader should know of what is.
    """

    name: str
    stages: Mapping[str, Any]
    data: Mapping[str, xr.Dataset] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def counts(self) -> xr.Dataset | None:
        """Active tokens (class, layer, neuron), tokens and clips (class)."""
        return self.data.get("activations")

    @property
    def neurons(self) -> pd.DataFrame | None:
        """A row per class and neuron that belong together; None: none were chosen."""
        return self.tables.get("neurons")


@dataclass(frozen=True)
class File:
    """A file that a report reads.

    Attributes:
      stage: that writes it.
      needed: variables of a netCDF file, or columns of a table; without them it is damaged.
      more: that it may have, and that are read.
      text: columns of a table that are no numbers.
      always: the stage writes it whatever its options are.
      maker: the command that writes it, if it is not the stage.
    """

    stage: str
    needed: tuple[str, ...]
    more: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    always: bool = True
    maker: str = ""

    def command(self, run: Run) -> str:
        """That makes it."""
        return command(self.maker or self.stage, run)


NETCDF = {
    "activations": File(
        "activations", ("active_tokens", "tokens", "clips", "total_clips", "total_tokens", "total_active_tokens")
    ),
    "top_clips": File("activations", ("clip", "active_share", "max_activation")),
    "scores": File(
        "neurons", ("rate", "aape", "aape_normalised", "kept", "probability_bar", "aape_cutoff"),
        ("aape_low", "aape_high", "margin_effect"),
    ),
    "sharing": File(
        "share", ("shared", "jaccard", "expected_shared", "q_value", "size_a", "size_b", "run_b"),
        ("expected_by_breadth", "q_by_breadth"),
    ),
    "permutations": File("neurons", ("pairs",), always=False),
    "clip_labels": File("activations", ("source",), always=False),
}  # fmt: skip
KEYS = ("label_set", "class")
CHANGES = ("clips", "change_clips", "margin_change", "ci_low", "ci_high", "control_mean", "control_sd", "p_value")
TABLES = {
    "clips": File(
        "activations", ("clip", "samples"), text=("file_name", "split", "status", "reason")
    ),
    "neurons": File(
        "neurons", ("layer", "neuron", "probability"), ("p_value", "q_value", "stability", "score"),
        (*KEYS, "selector"),
    ),
    "coverage": File(
        "neurons", ("classes", "covered", "coverage", "kept_neurons", "mean_neurons_per_class"),
        ("coverage_low", "coverage_high", "pairs", "pairs_by_chance", "pairs_significant", "split_half_jaccard",
         "classes_untested", "fixed_clips"),
        ("label_set",),
    ),
    "layers": File("neurons", ("layer", "kept", "neurons", "pairs"), ("pairs_significant",), ("label_set",)),
    "agreement": File(
        "neurons", ("rank_correlation", "jaccard"), (), ("label_set", "selector_a", "selector_b"), always=False
    ),
    "probe/scores": File("probe", ("clips", "score"), (), ("label_set", "test_fold", "seed", "split", "metric")),
    "probe/class_scores": File("probe", ("clips", "score"), (), (*KEYS, "test_fold", "seed")),
    "ablation": File(
        "ablate", ("gain", "neurons", "accuracy_before", "accuracy_after", *CHANGES, "controls", "q_value"), (),
        (*KEYS, "intervention", "mode"),
    ),
    "ablation_suite": File(
        "ablate", ("gain", "interventions", "margin_change", "controls", "control_mean", "control_sd", "p_value"), (),
        ("label_set", "mode", "contrast"),
    ),
    "causal_map": File(
        "ablate", ("layer", "neurons", "clips", "rank_correlation"), (), ("label_set",), always=False
    ),
    "reproduction": File("neurons", ("published", "found"), (), ("figure", "class"), always=False, maker="reproduce"),
}  # fmt: skip


def read_contents(folder: Path, option: str = "--run") -> Contents:
    """Read whatever a run directory holds, which the option has named.

    Raises:
      InputError: it is no run directory at all.
    """
    run, missing, warnings = Run(folder), list[Missing](), list[str]()
    known = ("run.json", *(f"{name}.nc" for name in NETCDF), *(f"{name}.csv" for name in TABLES))
    if not folder.is_dir() or not any((folder / name).exists() for name in known):
        raise InputError(
            f"{option} {folder} holds none of the files of a run: give a folder that `jaxdissect activations` has made."
        )
    stages = _stages(run, missing, warnings)
    data: dict[str, xr.Dataset] = {}
    tables: dict[str, pd.DataFrame] = {}

    def take(file: File, name: str, read: Callable[[Path], Any], into: dict[str, Any]) -> None:
        found = _read(run, stages, file, name, read, missing)
        if found is not None:
            into[name.split(".")[0]] = found

    for name, file in NETCDF.items():
        take(file, f"{name}.nc", _netcdf(run, file, stages), data)
    for name, file in TABLES.items():
        take(file, f"{name}.csv", _csv(file), tables)
    missing += [
        Missing(meaning, f"the stage {stage!r} has not been run", command(stage, run))
        for stage, meaning in STAGES.items()
        if stages is not None and stage not in stages and not any(stage == entry.what for entry in missing)
    ]
    _drop_foreign(run, data, tables, missing)
    warnings += _stale(run, stages or {}, data, tables)
    return Contents(folder.resolve().name, stages or {}, data, tables, tuple(missing), tuple(warnings))


def command(stage: str, run: Run) -> str:
    """The command that runs a stage; a folder that was named in full goes by its own name."""
    return f"jaxdissect {stage} {_run_option(run.path.name if run.path.is_absolute() else run.path)}"


def as_given(text: str, run: Run) -> str:
    """What a page says, for a terminal: commands name the run directory as it was given."""
    return text.replace(_run_option(run.path.name), _run_option(run.path)) if run.path.is_absolute() else text


def _run_option(path: Path | str) -> str:
    return f"--run {shlex.quote(str(path))}"


def _stages(run: Run, missing: list[Missing], warnings: list[str]) -> dict[str, Any] | None:
    """The stages of one encoder and task; None: `run.json` does not tell."""
    try:
        stages = run.stages()
    except InputError as error:
        stages = {}
        missing.append(Missing("run.json", plain_error(error, run), "jaxdissect activations ..."))
    if not stages:
        warnings.append("run.json does not tell how these files were made, nor whether they belong together.")
        if not missing:
            missing.append(Missing("run.json", "it is not there", "jaxdissect activations ..."))
        return None
    first = next(iter(stages)) if "activations" not in stages else "activations"
    reference = stages[first]["fingerprints"]
    for stage in list(stages):
        own = stages[stage]["fingerprints"]
        differing = [word for key, word in PRINTS.items() if own.get(key, reference.get(key)) != reference.get(key)]
        if differing:
            why = f"it is of another {' and another '.join(differing)} than the stage {first!r}"
            missing.append(Missing(stage, why, command(stage, run)))
            del stages[stage]
    return stages


def _read(
    run: Run, stages: Mapping[str, Any] | None, file: File, name: str, read: Reader, missing: list[Missing]
) -> Any:
    """A file of a stage that is done, else None and a line that says why."""
    path = run.file(name)
    if stages is not None and file.stage not in stages:
        if path.exists() and not any(entry.what == file.stage for entry in missing):
            why = f"the stage {file.stage!r} that writes it is not recorded as done"
            missing.append(Missing(name, why, file.command(run)))
        return None
    if not path.exists():
        if file.always and stages is not None:
            missing.append(Missing(name, "it is not there", file.command(run)))
        return None
    try:
        require_regular(path)
        if not path.resolve().is_relative_to(run.path.resolve()):
            raise InputError("it is a link that leaves the run directory")
        return read(path)
    except Exception as error:  # a damaged file may break a reader in any way
        missing.append(Missing(name, f"it cannot be used: {plain_error(error, run)}", file.command(run)))
        return None


def _netcdf(run: Run, file: File, stages: Mapping[str, Any] | None) -> Reader:
    def read(path: Path) -> xr.Dataset:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            lacking = [name for name in file.needed if name not in dataset.variables]
            if lacking:
                raise InputError(f"it lacks {', '.join(lacking)}")
            if file.stage == "activations" and stages is not None:
                require_same_run(run, dataset.attrs, stages[file.stage])
            kept = [name for name in (*file.needed, *file.more) if name in dataset.variables]
            return dataset[kept].load()

    return read


def _csv(file: File) -> Reader:
    def read(path: Path) -> pd.DataFrame:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
        lacking = [name for name in (*file.needed, *file.text) if name not in table]
        if lacking:
            raise InputError(f"it lacks the column {', '.join(lacking)}")
        for name in (*file.needed, *file.more):
            if name in table:
                table[name] = [float(value or "nan") for value in table[name]]
        return table

    return read


def _drop_foreign(
    run: Run, data: dict[str, xr.Dataset], tables: dict[str, pd.DataFrame], missing: list[Missing]
) -> None:
    """Leave out what names classes, layers or neurons that were not counted."""
    counts = data.get("activations")
    if counts is None:
        return
    axes = {name: counts.sizes[name] for name in ("class", "layer", "neuron")}
    classes = set(zip(counts["label_set"].values.tolist(), counts["class"].values.tolist(), strict=True))

    def drop(into: dict[str, Any], name: str, ending: str, stage: str, why: str) -> None:
        into.pop(name)
        missing.append(Missing(f"{name}.{ending}", why, command(stage, run)))

    for name, file in NETCDF.items():
        if name in data and any(data[name].sizes.get(axis, size) != size for axis, size in axes.items()):
            drop(data, name, "nc", file.stage, "it has other classes, layers or neurons than were counted")
    if "sharing" in data:
        own, beside = (_pairs(data["sharing"], side) for side in "ab")
        if not set(own) <= classes or beside[: len(own)] != own:
            drop(data, "sharing", "nc", "share", "it names classes that were not counted")
    for name in ("neurons", "ablation"):
        if name not in tables:
            continue
        named = set(zip(tables[name]["label_set"], tables[name]["class"], strict=True))
        if not named <= classes:
            drop(tables, name, "csv", TABLES[name].stage, "it names classes that were not counted")
    table = tables.get("neurons")
    if table is not None and not _within(table, axes):
        drop(tables, "neurons", "csv", "neurons", "it names layers or neurons that the encoder does not have")


def _within(table: pd.DataFrame, axes: Mapping[str, int]) -> bool:
    """Whether layers and neurons are whole numbers within the encoder."""
    values = ((table[name].to_numpy(), axes[name]) for name in ("layer", "neuron"))
    return all(bool(((value >= 0) & (value < most) & (value == np.floor(value))).all()) for value, most in values)


def _pairs(sharing: xr.Dataset, side: str) -> list[tuple[str, str]]:
    names = (sharing[f"{name}_{side}"].values.tolist() for name in ("label_set", "class"))
    return list(zip(*names, strict=True))


def _stale(
    run: Run, stages: Mapping[str, Any], data: Mapping[str, xr.Dataset], tables: Mapping[str, pd.DataFrame]
) -> Iterable[str]:
    """What was made of other neurons, or judged by another probe, than those that are there now."""
    table = tables.get("neurons")
    if table is None:
        return
    size = table.groupby(["label_set", "class"]).size().to_dict()
    sharing = data.get("sharing")
    if sharing is not None and [size.get(key, 0) for key in _pairs(sharing, "a")] != sharing["size_a"].values.tolist():
        yield f"Sharing was computed from other neurons than those chosen now: run `{command('share', run)}` again."
    reproduction, coverage = tables.get("reproduction"), tables.get("coverage")
    if reproduction is not None and coverage is not None and len(coverage):
        found = reproduction[reproduction["figure"] == "neurons per class"]["found"].tolist()
        if found != coverage["mean_neurons_per_class"].tolist()[:1]:
            yield "reproduction.csv is of other neurons than those chosen now: run `jaxdissect reproduce` again."
    made_of = stages.get("ablate", {}).get("fingerprints", {})
    silenced, judge, probe = made_of.get("neurons"), made_of.get("probe"), run.file("probe") / "probe.json"
    if "ablation" in tables and silenced is not None and silenced != sha256_file(run.file("neurons.csv")):
        yield (
            f"Neurons were chosen anew since the ablation, which may have silenced others than are listed now: run "
            f"`{command('ablate', run)}` again."
        )
    if "ablation" in tables and judge is not None and probe.is_file() and judge != sha256_file(probe):
        yield (
            f"The probe was trained anew since the ablation, which another one judged: run `{command('ablate', run)}` "
            f"again."
        )


def plain_error(error: Exception, run: Run) -> str:
    """What an error says, without the run directory's path, which is nobody's business."""
    text = first_line(error)
    for path in (str(run.path.resolve()), str(run.path.absolute()), *([] if run.path == Path() else [str(run.path)])):
        text = text.replace(f"{path}/", "").replace(path, run.path.name)
    return text
