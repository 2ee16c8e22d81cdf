"""The tasks of the M2D and AAPE papers: unit length, labels, derived labels and how many neurons to keep."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_cache_path

from jaxdissect.errors import InputError
from jaxdissect.runtime.files import sha256_file
from jaxdissect.runtime.progress import under_way, warn
from jaxdissect.tasks.recordings import (
    BY_COLUMN,
    BY_NAME,
    Rule,
    cremad_actor,
    esc50_source,
    named_recordings,
    nsynth_instrument,
    speech_commands_speaker,
    surge_patch,
    synthesised_note,
    urbansound_source,
    voxceleb_video,
    voxforge_session,
)
from jaxdissect.tasks.table import (
    Fold,
    LabelSet,
    Task,
    cell_labels,
    clip_splits,
    column_labels,
    evar_task,
    label_set,
    make_task,
    read_table,
)
from jaxdissect.tasks.tfds import PREFIX, load_tfds_task

Columns = Mapping[str, list[str]]
Derive = Callable[[Columns, Path], list[str]]

VOXCELEB_META = "vox1_meta.csv"
ESC50_GROUPS = ("animals", "nature", "human", "interior", "exterior")


def _octave(columns: Columns, folder: Path) -> list[str]:
    """Octave of a MIDI pitch: `midi // 12 - 1`."""
    bad = sorted({label for label in columns["label"] if not label.isdecimal()})
    if bad:
        raise InputError(f"{folder}: the octave is derived from MIDI pitch numbers, found the label {bad[0]!r}.")
    return [str(int(label) // 12 - 1) for label in columns["label"]]


def _esc50_group(columns: Columns, folder: Path) -> list[str]:
    """ESC-50's five groups: `target // 10`."""
    if not all(target.isdecimal() and int(target) < 50 for target in columns["target"]):
        raise InputError(f"{folder}: ESC-50's targets must be whole numbers from 0 to 49.")
    return [ESC50_GROUPS[int(target) // 10] for target in columns["target"]]


def _voxceleb(column: str) -> Derive:
    """A property of VoxCeleb1's speakers, from its metadata file (tab-separated, beside the table)."""

    def derive(columns: Columns, folder: Path) -> list[str]:
        path = folder / VOXCELEB_META
        speakers = read_table(path, ["VoxCeleb1 ID", column], delimiter="\t")
        value = dict(zip(speakers["VoxCeleb1 ID"], speakers[column], strict=True))
        unknown = sorted(set(columns["label"]) - set(value))
        if unknown:
            raise InputError(f"{path} does not list the speaker {unknown[0]!r} ({len(unknown)} unknown in all).")
        return [value[speaker] for speaker in columns["label"]]

    return derive


@dataclass(frozen=True)
class KnownTask:
    """What comes with the name of a task.

    Attributes:
      unit_seconds: length of a clip, s; None where it is not published and must be given.
      label: name of the label set in the table's column `label`.
      multi_label: commas in that column separate several labels.
      keep: fraction of all neurons that selection keeps.
      derived: further label sets, each with its rule.
      table: the task's table, relative to the data folder; None: `NAME.csv`.
      beside: further files that derived label sets need.
      recording: the recording of a clip by its published file name, where the table has no column `src_file`.
    """

    unit_seconds: float | None
    label: str
    multi_label: bool = False
    keep: float = 0.01
    derived: Mapping[str, Derive] = field(default_factory=dict)
    table: str | None = None
    beside: tuple[str, ...] = ()
    recording: Rule | None = None


KNOWN_TASKS: Mapping[str, KnownTask] = {
    "esc50": KnownTask(
        5.0, "event", keep=0.02, derived={"group": _esc50_group}, table="meta/esc50.csv", recording=esc50_source
    ),
    "gise51": KnownTask(None, "event", multi_label=True, keep=0.02),
    "us8k": KnownTask(4.0, "event", recording=urbansound_source),
    "fsd50k": KnownTask(7.6358, "event", multi_label=True),
    "as20k": KnownTask(10.0, "event", multi_label=True),
    "as": KnownTask(10.0, "event", multi_label=True),
    "gtzan": KnownTask(30.0, "genre"),
    "nsynth": KnownTask(4.0, "instrument_family", recording=nsynth_instrument),
    "nspitch": KnownTask(4.0, "pitch", derived={"octave": _octave}, recording=nsynth_instrument),
    "surge": KnownTask(4.0, "pitch", derived={"octave": _octave}, recording=surge_patch),
    "cremad": KnownTask(2.5, "emotion", recording=cremad_actor),
    "cremad_gender": KnownTask(2.5, "gender", recording=cremad_actor),
    "spcv2": KnownTask(1.0, "keyword", recording=speech_commands_speaker),
    "vc1": KnownTask(
        8.2,
        "speaker",
        derived={"gender": _voxceleb("Gender"), "country": _voxceleb("Nationality")},
        beside=(VOXCELEB_META,),
        recording=voxceleb_video,
    ),
    "voxforge": KnownTask(5.8, "language", recording=voxforge_session),
}
SYNTHETIC_TASKS = ("notes", "notes2")


def load_task(
    task: str,
    data: str | Path | None = None,
    label: str | Sequence[str] | None = (),
    unit_seconds: float | None = None,
    multi_label: bool | None = None,
    test_fold: Fold = "default",
    progress: Callable = iter,
) -> Task:
    """Load a known task by name, a data set that TFDS has prepared, or any task from a CSV in EVAR's format.

    Args:
      task: a name of `KNOWN_TASKS` or `SYNTHETIC_TASKS`, `tfds:NAME`, or the path of a CSV.
      data: the data folder; of TFDS its data_dir; default for a CSV: its own folder; for synthetic tasks: the user's
        cache.
      label: label sets to count: columns of the table or label sets derived from them; default: the task's first;
        None: none, as for training that looks at no labels.
      unit_seconds: length of a clip, s; a known task brings its own.
      multi_label: commas separate several labels in every label set named by `label`, which is then judged as
        multi-label; False: they do not, in a known task neither; None: as the known task says, else they do not.
      test_fold: of a table with folds, the one held out as the test split; "default": fold 5; None: none.
      progress: wraps the iteration over clips that are synthesised, or read for their labels.

    Raises:
      InputError: the task is unknown, its table breaks a rule of `read_table` or `make_task`, a fold is named where
        there are none, or `multi_label` is given and no label set is to be read.
    """
    if label is not None:
        label = (label,) if isinstance(label, str) else tuple(label)
    elif multi_label is not None:
        raise InputError("--multi-label: no label set is read here, whose commas it would tell of: leave it out.")
    loaded = _load(task, data, label, unit_seconds, multi_label, test_fold, progress)
    if multi_label is None:
        _warn_of_commas(loaded)
    return loaded


def label_names(text: str | None) -> tuple[str, ...]:
    """The label sets that an option names, joined by commas; none where it is not given.

    Raises:
      InputError: it is given and names none.
    """
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise InputError(f"--label must name a label set, got {text!r}: leave it out for the task's first.")
    return names


def _load(
    task: str,
    data: str | Path | None,
    label: tuple[str, ...] | None,
    unit_seconds: float | None,
    multi_label: bool | None,
    test_fold: Fold,
    progress: Callable,
) -> Task:
    if task.startswith(PREFIX):
        if data is None:
            raise InputError(f"--task {task} needs --data: TFDS's data_dir, the folder that holds the data set.")
        if isinstance(test_fold, int):
            raise InputError(f"--test-fold {test_fold}: a data set of TFDS has splits and no folds: leave it out.")
        return load_tfds_task(task, Path(data), label, unit_seconds, bool(multi_label), progress)
    if task in SYNTHETIC_TASKS:
        return _synthetic(task, data, label, unit_seconds, multi_label, test_fold, progress)
    if task in KNOWN_TASKS:
        if data is None:
            raise InputError(
                f"--task {task} needs --data: the folder that holds "
                f"{KNOWN_TASKS[task].table or task + '.csv'} and the audio."
            )
        first = (KNOWN_TASKS[task].label,)
        with under_way(f"Reading the table of {task}"):
            return _known(
                task, KNOWN_TASKS[task], Path(data), _chosen(label, first), unit_seconds, multi_label, test_fold
            )
    path = Path(task)
    if path.suffix.lower() != ".csv":
        raise InputError(
            f"--task {task!r} is neither a known task ({', '.join((*KNOWN_TASKS, *SYNTHETIC_TASKS))}), nor a set that "
            f"TFDS has prepared ({PREFIX}NAME), nor a .csv file."
        )
    if unit_seconds is None:
        raise InputError(
            f"--task {task}: a table needs --unit-seconds, the length to which clips are cropped or padded."
        )
    folder = path.parent if data is None else Path(data)
    name = path.stem.encode("utf-8", "replace").decode()  # a name from the file system may hold what is no text
    with under_way(f"Reading {path}"):
        return evar_task(name, path, folder, unit_seconds, _chosen(label, ("label",)), multi_label, test_fold)


def table_files(task: str, data: Path) -> dict[str, Path]:
    """The files that a task's table stands in, by their place in a data folder; none for a set of TFDS."""
    if task.startswith(PREFIX):
        return {}
    if task in SYNTHETIC_TASKS:
        return {f"{task}.csv": data / f"{task}.csv"}
    if task not in KNOWN_TASKS:
        return {Path(task).name: Path(task)}
    names = (KNOWN_TASKS[task].table or f"{task}.csv", *KNOWN_TASKS[task].beside)
    return {name: data / name for name in names if (data / name).is_file()}


def task_in_full(task: str) -> str:
    """A known task's name as it is, whatever files have that name; the path of a table in full."""
    known = task in KNOWN_TASKS or task in SYNTHETIC_TASKS or task.startswith(PREFIX)
    return task if known else str(Path(task).absolute())


def _chosen(label: tuple[str, ...] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    return () if label is None else label or default


def _warn_of_commas(task: Task) -> None:
    """Say what may have been forgotten where most labels of a label set hold commas and each is one class."""
    for labels in task.label_sets:
        if labels.multi_label:
            continue
        own = [labels.classes[index] for members in labels.members for index in members]
        several = [name for name in own if "," in name]
        if 2 * len(several) > len(own):
            warn(
                f"Label set {labels.name!r}: {len(several):,} of {len(own):,} labels hold commas, and each counts as "
                f"one class, as {several[0]!r} does. Give --multi-label if commas separate labels, else "
                f"--no-multi-label.",
                once=True,
            )


def _known(
    name: str,
    known: KnownTask,
    data: Path,
    label: Sequence[str],
    unit_seconds: float | None,
    multi_label: bool | None,
    test_fold: Fold,
) -> Task:
    seconds = known.unit_seconds if unit_seconds is None else unit_seconds
    if seconds is None:
        raise InputError(f"--task {name}: its unit length is not published: give --unit-seconds.")
    path = data / (known.table or f"{name}.csv")
    columns = read_table(
        path, ["filename", "fold", "target", "category"] if name == "esc50" else ["file_name", "label"]
    )
    if name == "esc50":  # in the data set's own layout
        columns = {
            **columns,
            "file_name": [f"audio/{file}" for file in columns["filename"]],
            "label": columns["category"],
        }
    splits, folds = clip_splits(columns, path, test_fold)
    labels = [_known_labels(known, columns, column, path, multi_label) for column in label]
    recordings, told_by = columns.get(BY_COLUMN), BY_COLUMN
    if recordings is None and known.recording is not None:
        recordings, told_by = named_recordings(columns["file_name"], known.recording), BY_NAME
    return make_task(name, data, seconds, columns["file_name"], splits, folds, labels, known.keep, recordings, told_by)


def _known_labels(known: KnownTask, columns: Columns, name: str, path: Path, multi_label: bool | None) -> LabelSet:
    several = bool(multi_label)
    if name == known.label:
        labels = column_labels(columns, "label", path, known.multi_label if multi_label is None else several)
        return dataclasses.replace(labels, name=name)
    if name in known.derived:
        derived = known.derived[name](columns, path.parent)
        return label_set(name, [cell_labels(value, several) for value in derived], several)
    if name in columns:
        return column_labels(columns, name, path, several)
    raise InputError(
        f"--label {name}: {path} has no such label set; there are {known.label}, "
        f"{''.join(f'{derived}, ' for derived in known.derived)}and its columns {', '.join(columns)}."
    )


def _synthetic(
    name: str,
    data: str | Path | None,
    label: tuple[str, ...] | None,
    unit_seconds: float | None,
    multi_label: bool | None,
    test_fold: Fold,
    progress: Callable,
) -> Task:
    from jaxdissect.tasks import notes as synthesis
    from jaxdissect.tasks.notes import SECONDS, write_notes

    # Named by the synthesiser's code: what another state of it has made is not taken for the notes of this one.
    kept = user_cache_path("jaxdissect") / f"{name}-{sha256_file(Path(synthesis.__file__))[:8]}"
    folder = kept if data is None else Path(data)
    table = folder / f"{name}.csv"
    if not table.is_file():
        try:
            write_notes(name, folder, progress)
        except InputError:
            if not table.is_file():  # else another process was faster
                raise
    labels = _chosen(label, ("octave", "pitch_class", "instrument"))
    seconds = SECONDS if unit_seconds is None else unit_seconds
    task = evar_task(name, table, folder, seconds, labels, multi_label, test_fold)
    notes = named_recordings(task.file_names, synthesised_note)
    if task.recordings is not None or not any(notes):
        return task
    sources = tuple(note or file_name for note, file_name in zip(notes, task.file_names, strict=True))
    return dataclasses.replace(task, recordings=sources, recordings_from=BY_NAME)
