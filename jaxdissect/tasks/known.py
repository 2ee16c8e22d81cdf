"""The tasks of the M2D and AAPE papers: unit length, labels, derived labels and how many neurons to keep."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from platformdirs import user_cache_path

from jaxdissect.errors import InputError, require
from jaxdissect.runtime.files import sha256_file
from jaxdissect.runtime.progress import under_way, warn
from jaxdissect.tasks import notes, recordings
from jaxdissect.tasks.recordings import BY_COLUMN, BY_NAME
from jaxdissect.tasks.table import (
    Columns,
    Fold,
    LabelSet,
    Task,
    cells_label_set,
    clip_splits,
    make_task,
    names_between_commas,
    read_table,
)
from jaxdissect.tasks.tfds import PREFIX, load_tfds_task

Derive = Callable[[Columns, Path], list[str]]  # columns and folder of a table -> label of each clip

VOXCELEB_META = "vox1_meta.csv"
ESC50_GROUPS = ("animals", "nature", "human", "interior", "exterior")


def _octave(columns: Columns, folder: Path) -> list[str]:
    """Octave of a MIDI pitch: `midi // 12 - 1`."""
    odd = next((label for label in columns["label"] if not label.isdecimal()), None)
    require(odd is None, f"{folder}: the octave is derived from MIDI pitch numbers, found the label {odd!r}.")
    return [str(int(label) // 12 - 1) for label in columns["label"]]


def _esc50_group(columns: Columns, folder: Path) -> list[str]:
    """ESC-50's five groups: `target // 10`."""
    valid = all(target.isdecimal() and int(target) < 50 for target in columns["target"])
    require(valid, f"{folder}: ESC-50's targets must be whole numbers from 0 to 49.")
    return [ESC50_GROUPS[int(target) // 10] for target in columns["target"]]


def _voxceleb(column: str) -> Derive:
    """A property of VoxCeleb1's speakers, from its metadata file (tab-separated, beside the table)."""

    def derive(columns: Columns, folder: Path) -> list[str]:
        path = folder / VOXCELEB_META
        speakers = read_table(path, ["VoxCeleb1 ID", column], delimiter="\t")
        values = dict(zip(speakers["VoxCeleb1 ID"], speakers[column], strict=True))
        unknown = sorted(set(columns["label"]) - set(values))
        example = next(iter(unknown), None)
        require(not unknown, f"{path} does not list the speaker {example!r} ({len(unknown)} unknown in all).")
        return [values[speaker] for speaker in columns["label"]]

    return derive


@dataclasses.dataclass(frozen=True)
class KnownTask:
    """What comes with the name of a task.

    Attributes:
      unit_seconds: length of a clip, s; None where it is not published and must be given.
      label: name of the label set in the table's column `label`.
      multi_label: whether commas in that column separate several labels.
      keep: fraction of all neurons that selection keeps.
      derived: further label sets, each with the rule that derives it.
      table: table of the task, relative to the data folder; None: `NAME.csv`.
      beside: further files that derived label sets need.
      recording: rule that gives the recording of a clip by its published file name, if the table has no column
        `src_file`.
      default_labels: label sets that are counted where none is named; none: `label`.
    """

    unit_seconds: float | None
    label: str = "label"
    multi_label: bool = False
    keep: float = 0.01
    derived: Mapping[str, Derive] = dataclasses.field(default_factory=dict)
    table: str | None = None
    beside: tuple[str, ...] = ()
    recording: recordings.Rule | None = None
    default_labels: tuple[str, ...] = ()


KNOWN_TASKS: Mapping[str, KnownTask] = {
    "esc50": KnownTask(
        5.0,
        "event",
        keep=0.02,
        derived={"group": _esc50_group},
        table="meta/esc50.csv",
        recording=recordings.esc50_source,
    ),
    "gise51": KnownTask(None, "event", multi_label=True, keep=0.02),
    "us8k": KnownTask(4.0, "event", recording=recordings.urbansound_source),
    "fsd50k": KnownTask(7.6358, "event", multi_label=True),
    "as20k": KnownTask(10.0, "event", multi_label=True),
    "as": KnownTask(10.0, "event", multi_label=True),
    "gtzan": KnownTask(30.0, "genre"),
    "nsynth": KnownTask(4.0, "instrument_family", recording=recordings.nsynth_instrument),
    "nspitch": KnownTask(4.0, "pitch", derived={"octave": _octave}, recording=recordings.nsynth_instrument),
    "surge": KnownTask(4.0, "pitch", derived={"octave": _octave}, recording=recordings.surge_patch),
    "cremad": KnownTask(2.5, "emotion", recording=recordings.cremad_actor),
    "cremad_gender": KnownTask(2.5, "gender", recording=recordings.cremad_actor),
    "spcv2": KnownTask(1.0, "keyword", recording=recordings.speech_commands_speaker),
    "vc1": KnownTask(
        8.2,
        "speaker",
        derived={"gender": _voxceleb("Gender"), "country": _voxceleb("Nationality")},
        beside=(VOXCELEB_META,),
        recording=recordings.voxceleb_video,
    ),
    "voxforge": KnownTask(5.8, "language", recording=recordings.voxforge_session),
}
SYNTHETIC_TASKS = tuple(notes.VARIANTS)
SYNTHETIC = KnownTask(
    notes.SECONDS,
    recording=recordings.synthesised_note,
    default_labels=("octave", "pitch_class", "instrument"),
)


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
      data: data folder; for TFDS its data_dir. Default for a CSV: its own folder; for synthetic tasks: the user's
        cache.
      label: label sets to count: columns of the table or label sets derived from them; default: the task's first;
        None: none, as for training without labels.
      unit_seconds: length of a clip, s; a known task brings its own.
      multi_label: whether commas separate several labels in every label set named by `label`, which is then judged as
        multi-label; None: as in the known task, else no.
      test_fold: fold of a table with folds that is held out as the test split; "default": fold 5; None: none.
      progress: wrapper of the iteration over clips that are synthesised, or read for their labels.

    Raises:
      InputError: the task is unknown, its table breaks a rule of `read_table` or `make_task`, a fold is named where
        there are none, or `multi_label` is given without a label set.
    """
    require(label is not None or multi_label is None, "multi_label: no label set is read, so leave it out.")
    if isinstance(label, str):
        label = (label,)
    if task.startswith(PREFIX):
        require(
            not isinstance(test_fold, int),
            f"test_fold {test_fold}: a data set of TFDS has splits and no folds: leave it out.",
        )
        folder = _data_folder(task, data, "TFDS's data_dir, the folder that holds the data set")
        loaded = load_tfds_task(task, folder, label, unit_seconds, bool(multi_label), progress)
    else:
        known, path, folder = _find_table(task, data, progress)
        seconds = known.unit_seconds if unit_seconds is None else unit_seconds
        if seconds is None:
            raise InputError(f"Task {task!r} needs unit_seconds, the length to which clips are cropped or padded.")
        name = task if _is_named(task) else path.stem.encode("utf-8", "replace").decode()  # a path may be no text
        chosen = () if label is None else tuple(label) or known.default_labels or (known.label,)
        with under_way(f"Reading {path}"):
            columns = _read_columns(task, path)
            by_clip = columns["file_name"], *clip_splits(columns, path, test_fold)
            label_sets = [_read_labels(known, columns, labels, path, multi_label) for labels in chosen]
            sources = _read_recordings(known, columns)
            loaded = make_task(name, folder, seconds, *by_clip, label_sets, known.keep, *sources)
    if multi_label is None:
        _warn_of_commas(loaded)
    return loaded


def label_names(text: str | None) -> tuple[str, ...]:
    """The label sets that the option `--label` names; none where it is not given.

    Args:
      text: names joined by commas; None: the option is not given.

    Raises:
      InputError: it is given and names none.
    """
    names = tuple(names_between_commas(text or ""))
    require(
        text is None or bool(names), f"--label must name a label set, got {text!r}: leave it out for the task's first."
    )
    return names


def table_files(task: str, data: Path) -> dict[str, Path]:
    """The files that hold a task's table, by their place in a data folder; none for a set of TFDS.

    Args:
      task: name of the task, or path of its table.
      data: data folder.
    """
    if task.startswith(PREFIX):
        return {}
    if not _is_named(task):
        return {Path(task).name: Path(task)}
    known = KNOWN_TASKS.get(task, SYNTHETIC)
    names = (_table_name(task, known), *known.beside)
    return {name: data / name for name in names if (data / name).is_file()}


def task_in_full(task: str) -> str:
    """A task's name as it is, whatever files have that name; the path of a table in full.

    Args:
      task: name of the task, or path of its table.
    """
    return task if _is_named(task) else str(Path(task).absolute())


def _is_named(task: str) -> bool:
    """Whether a task is named, and not the path of a table."""
    return task in KNOWN_TASKS or task in SYNTHETIC_TASKS or task.startswith(PREFIX)


def _table_name(task: str, known: KnownTask) -> str:
    return known.table or f"{task}.csv"


def _data_folder(task: str, data: str | Path | None, content: str) -> Path:
    if data is None:
        raise InputError(f"Task {task!r} needs data: {content}.")
    return Path(data)


def _find_table(task: str, data: str | Path | None, progress: Callable) -> tuple[KnownTask, Path, Path]:
    """What is known of a task, its table, and its data folder; the clips of a synthetic task are made if need be."""
    if task in SYNTHETIC_TASKS:
        folder = _synthesised(task, data, progress)
        return SYNTHETIC, folder / _table_name(task, SYNTHETIC), folder
    if task in KNOWN_TASKS:
        name = _table_name(task, KNOWN_TASKS[task])
        folder = _data_folder(task, data, f"the folder that holds {name} and the audio")
        return KNOWN_TASKS[task], folder / name, folder
    path = Path(task)
    require(
        path.suffix.lower() == ".csv",
        f"Task {task!r} is neither a known task ({', '.join((*KNOWN_TASKS, *SYNTHETIC_TASKS))}), nor a set that TFDS "
        f"has prepared ({PREFIX}NAME), nor a .csv file.",
    )
    return KnownTask(None), path, path.parent if data is None else Path(data)


def _synthesised(name: str, data: str | Path | None, progress: Callable) -> Path:
    """The folder of a synthetic task, whose clips are made if its table is not there."""
    # Named by the synthesiser's code: notes that another version of it has made are not used.
    version = sha256_file(Path(notes.__file__))[:8]
    folder = user_cache_path("jaxdissect") / f"{name}-{version}" if data is None else Path(data)
    table = folder / _table_name(name, SYNTHETIC)
    if not table.is_file():
        try:
            notes.write_notes(name, folder, progress)
        except InputError:
            if not table.is_file():  # else another process was faster
                raise
    return folder


def _read_columns(task: str, path: Path) -> Columns:
    if task != "esc50":
        return read_table(path, ["file_name", "label"] if task in KNOWN_TASKS else ["file_name"])
    columns = read_table(path, ["filename", "fold", "target", "category"])  # the data set's own layout
    names = [f"audio/{name}" for name in columns["filename"]]
    return columns | {"file_name": names, "label": columns["category"]}


def _read_recordings(known: KnownTask, columns: Columns) -> tuple[Sequence[str] | None, str]:
    """The recording of each clip, if it is known, and the column that shows it."""
    if BY_COLUMN in columns or known.recording is None:
        return columns.get(BY_COLUMN), BY_COLUMN
    return recordings.named_recordings(columns["file_name"], known.recording), BY_NAME


def _read_labels(known: KnownTask, columns: Columns, name: str, path: Path, multi_label: bool | None) -> LabelSet:
    """One of a task's label sets: that of the column `label`, a derived one, or any other column."""
    several = bool(multi_label)
    # Only the column `label` of a known task is known to hold several labels; the others do by `multi_label`.
    if name == known.label and "label" in columns:
        return cells_label_set(name, columns["label"], known.multi_label if multi_label is None else several)
    if name in known.derived:
        return cells_label_set(name, known.derived[name](columns, path.parent), several)
    if name in columns:
        return cells_label_set(name, columns[name], several)
    from_label = [other for other in (known.label, *known.derived) if "label" in columns and other not in columns]
    listed = ", ".join((*from_label, *columns))
    raise InputError(f"{path}: there is no label column {name!r}; the table has {listed}: choose one of these.")


def _warn_of_commas(task: Task) -> None:
    """Warn of label sets in which most labels hold commas although each is one class."""
    for labels in task.label_sets:
        if labels.multi_label:
            continue
        names = [labels.classes[index] for members in labels.members for index in members]
        with_comma = [name for name in names if "," in name]
        if 2 * len(with_comma) > len(names):
            warn(
                f"Label set {labels.name!r}: {len(with_comma):,} of {len(names):,} labels hold commas, and each counts "
                f"as one class, as {with_comma[0]!r} does. Set multi_label: true if commas separate labels, else "
                f"false.",
                once=True,
            )
