"""The stage `prepare`: decode a task's clips once, into shards of 16-bit PCM that take the data folder's place."""

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jaxdissect
from jaxdissect.audio.decode import ClipStatus
from jaxdissect.errors import InputError, require
from jaxdissect.options.prepare import PrepareOptions
from jaxdissect.runtime.files import cannot_write, locked, parse_part, require_folder, require_space, sweep, whole_file
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.runtime.records import differences
from jaxdissect.stages.inputs import ClipReading
from jaxdissect.tasks.known import label_names, load_task, table_files
from jaxdissect.tasks.loader import recordings, unit_samples
from jaxdissect.tasks.shards import (
    PREPARED_FILE,
    PREPARED_FORMAT,
    FileDigest,
    Shard,
    find_fault,
    list_file,
    read_description,
    read_shard,
    shard_file,
    to_shard,
)
from jaxdissect.tasks.table import Task
from jaxdissect.tasks.tfds import PREFIX
from jaxdissect.types import Record

LOCK_PREFIX = ".part-"  # of the folders that parts of a preparation lock


@dataclasses.dataclass(frozen=True)
class PrepareResult(ClipReading):
    """Result of the stage `prepare`.

    Attributes:
      clips: number of clips in the finished shards' task.
      unreadable: number of unreadable clips in the finished shards.
      shards: number of finished shards.
      size: size of the finished shards, bytes.
      complete: whether all shards are finished.
      made: number of clips that this command decoded.
      reading: options by which the other commands read the shards.
      seconds: duration, s.
      max_bad_clips: fraction of unreadable clips that is allowed.
    """

    clips: int
    unreadable: int
    shards: int
    size: int
    complete: bool
    made: int
    reading: tuple[str, ...]
    seconds: float
    max_bad_clips: float

    def clips_read(self) -> tuple[int, int]:
        """Number of unreadable clips, and of all clips."""
        return self.unreadable, self.clips


def run_prepare(options: PrepareOptions) -> PrepareResult:
    """Decode, and write shards, their lists, the task's table and `prepared.json`.

    Args:
      options: options of the stage.

    Raises:
      InputError: an option breaks a rule, the folder holds something else, another process prepares the same shards, or
        the disk has no room; finished shards stay.
    """
    part, parts = parse_part(options.part or "1/1")
    task = _task(options)
    plan = _plan(options, task)
    begun = time.perf_counter()
    require_folder(options.out)
    _begin(options, task, plan)
    with _alone(options, part, parts):
        mine = dict(list(plan.items())[part - 1 :: parts])
        with under_way("Looking for finished shards"):
            shards = {name: _made(options, task, name, rows) for name, rows in mine.items()}
        unfinished = {name: rows for name, rows in mine.items() if shards[name] is None}
        clips = sum(map(len, unfinished.values()))
        require_space(options.out, clips * unit_samples(task, options.sample_rate) * 2, "16-bit PCM")
        if parts == 1:
            for name in (PREPARED_FILE, *_tables(options, task)):
                sweep(options.out / name)
        with progress_bar(what=f"Preparing {task.name}", total=clips, at_once=True) as bar:
            for name, rows in unfinished.items():
                shards[name] = _write_shard(options, task, name, rows, bar.update)
        shards |= {name: _made(options, task, name, rows) for name, rows in plan.items() if name not in mine}
        finished = {name: shard for name in plan if (shard := shards[name]) is not None}
        if len(finished) == len(plan):
            _finish(options, task, plan, finished)
    return PrepareResult(
        clips=len(task),
        unreadable=sum(status.status == "unreadable" for shard in finished.values() for _, status in shard.clips),
        shards=len(finished),
        size=sum(shard.digest.bytes for shard in finished.values()),
        complete=len(finished) == len(plan),
        made=clips,
        reading=_reading(options, task),
        seconds=time.perf_counter() - begun,
        max_bad_clips=options.max_bad_clips,
    )


def verify(folder: Path) -> list[str]:
    """Read every file of a prepared folder; returns a sentence for each file that is not as it was written.

    Args:
      folder: prepared folder.

    Raises:
      InputError: the folder is not prepared, or `prepared.json` is damaged.
    """
    files = read_description(folder).files
    bar = progress_bar(files.items(), what=f"Verifying {folder}", total=len(files), unit="file")
    return [sentence for name, digest in bar if (sentence := find_fault(folder, name, digest)) is not None]


def _task(options: PrepareOptions) -> Task:
    """The task whose clips are to be decoded.

    Raises:
      InputError: the task breaks a rule, or its table is copied whole and has no use for a label.
    """
    from_tfds = options.task.startswith(PREFIX)
    require(
        options.label is None or from_tfds,
        f"--label {options.label}: the table of --task {options.task} is copied with all of its columns: leave "
        f"--label out, and give it to the commands that count.",
    )
    return load_task(
        options.task,
        options.data,
        label_names(options.label) if from_tfds else None,
        options.unit_seconds,
        test_fold=None,
        progress=lambda clips: progress_bar(clips, what=f"Reading {options.task}"),
    )


def _plan(options: PrepareOptions, task: Task) -> dict[str, range]:
    """The clips of each shard."""
    starts = range(0, len(task), options.shard_clips)
    return {
        f"shard-{number:05d}-of-{len(starts):05d}": range(start, min(start + options.shard_clips, len(task)))
        for number, start in enumerate(starts)
    }


def _record(options: PrepareOptions, task: Task, plan: Mapping[str, range]) -> Record:
    """`prepared.json` of a preparation that has just begun."""
    return {
        "format": PREPARED_FORMAT,
        "made_by": f"jaxdissect {jaxdissect.__version__}",
        "task": task.name,
        "task_sha256": task.fingerprint(),
        "sample_rate": options.sample_rate,
        "unit_seconds": task.unit_seconds,
        "clips": len(task),
        "complete": False,
        "shards": list(plan),
        "files": {},
    }


def _begin(options: PrepareOptions, task: Task, plan: Mapping[str, range]) -> None:
    """Write `prepared.json`, or compare with the one that an earlier preparation has left.

    Raises:
      InputError: the folder holds another preparation, or something else.
    """
    path, record = options.out / PREPARED_FILE, _record(options, task, plan)
    if path.is_file():
        try:
            earlier = json.loads(path.read_bytes())
            earlier |= {"complete": False, "files": {}}  # these two change when it is finished
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path} cannot be read ({error}): remove it, or choose another --out.") from error
        differing = differences(earlier, record, names=record)
        require(
            not differing,
            f"--out {options.out} holds a preparation that differs in {', '.join(differing.values())}: choose another "
            f"--out, or remove that folder.",
        )
        return
    # Shards without their record are those of a preparation that is repeated, such as after the record was removed.
    names = [path.name for path in options.out.iterdir() if not path.name.startswith(f".{PREPARED_FILE}-")]
    require(
        not names or any(name.startswith("shard-") for name in names),
        f"--out {options.out} is not empty: choose another folder.",
    )
    _write_json(path, record)


@contextlib.contextmanager
def _alone(options: PrepareOptions, part: int, parts: int) -> Iterator[None]:
    """Keep away processes that would write the same shards: the same part, or parts of another division.

    The lock is a folder in `out`. It exists while the block lasts; after a kill, until the next preparation.

    Raises:
      InputError: another process prepares the same shards.
    """

    def only_here(folder: Path) -> contextlib.AbstractContextManager[None]:
        number, _, count = folder.name.removeprefix(LOCK_PREFIX).partition("-of-")
        return locked(folder, f"--out {options.out} --part {number}/{count}")

    lock = options.out / f"{LOCK_PREFIX}{part}-of-{parts}"
    with only_here(lock):
        try:
            for other in options.out.glob(f"{LOCK_PREFIX}*-of-*"):
                if not other.name.endswith(f"-of-{parts}"):
                    with only_here(other), contextlib.suppress(OSError):
                        other.rmdir()  # a killed process has left it
            yield
        finally:
            with contextlib.suppress(OSError):
                lock.rmdir()


def _made(options: PrepareOptions, task: Task, name: str, rows: range) -> Shard | None:
    """A finished shard that is whole and fits the options; None if there is none."""
    try:
        shard = read_shard(options.out, name)
        size = shard_file(options.out, name).stat().st_size
    except (InputError, OSError):
        return None
    facts = (shard.digest.bytes, shard.sample_rate, shard.unit_seconds, [name for name, _ in shard.clips])
    expected = (size, options.sample_rate, task.unit_seconds, [task.file_names[row] for row in rows])
    return shard if facts == expected else None


def _write_shard(
    options: PrepareOptions, task: Task, name: str, rows: range, progress: Callable[[int], object]
) -> Shard:
    """Decode the clips of a shard and write it with its list.

    Args:
      options: options of the stage.
      task: whole task.
      name: name of the shard.
      rows: clips of the shard, as rows of the table.
      progress: called with 1 after each clip.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path, list_path = shard_file(options.out, name), list_file(options.out, name)
    sweep(path)
    sweep(list_path)
    clips: list[tuple[str, ClipStatus]] = []
    with whole_file(path) as temporary:
        try:
            # Groups of one record, so that each clip can be read by itself.
            writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
            for clip, recording in recordings(task, options.sample_rate, rows):
                writer.write(to_shard(task.file_names[clip], recording))
                clips.append((task.file_names[clip], recording.clip))
                progress(1)
            writer.close()
        except RuntimeError as error:  # the writer's own
            raise cannot_write(path, OSError(str(error))) from error
        shard = Shard(FileDigest.of(temporary), options.sample_rate, task.unit_seconds, tuple(clips))
    listed = [[file_name, status.samples, status.status, status.reason] for file_name, status in clips]
    facts = {"sample_rate": shard.sample_rate, "unit_seconds": shard.unit_seconds, "clips": listed}
    _write_json(list_path, dataclasses.asdict(shard.digest) | facts)
    return shard


def _finish(options: PrepareOptions, task: Task, plan: Mapping[str, range], shards: Mapping[str, Shard]) -> None:
    """Copy the tables, and record size and hash of every file."""
    files: dict[str, FileDigest] = {}
    for name, shard in shards.items():
        files[f"{name}.array_record"] = shard.digest
        files[f"{name}.json"] = FileDigest.of(list_file(options.out, name))
    for name, source in _tables(options, task).items():
        path = options.out / name
        if source is None:
            _write_table(task, path)
        else:
            with whole_file(path) as temporary:
                shutil.copyfile(source, temporary)
        files[name] = FileDigest.of(path)
    digests = {name: dataclasses.asdict(digest) for name, digest in files.items()}
    _write_json(options.out / PREPARED_FILE, _record(options, task, plan) | {"complete": True, "files": digests})


def _tables(options: PrepareOptions, task: Task) -> Mapping[str, Path | None]:
    """The tables by their place in `out`, with the file to copy; None for a table that must be written."""
    return table_files(options.task, task.data) or {f"{task.name}.csv": None}


def _reading(options: PrepareOptions, task: Task) -> tuple[str, ...]:
    """Options by which other commands read the shards."""
    name, seconds = options.task, options.unit_seconds
    if name.startswith(PREFIX):
        name, seconds = str(options.out / f"{task.name}.csv"), task.unit_seconds
    length = () if seconds is None else ("--unit-seconds", str(seconds))
    return ("--task", name, *length, "--data", str(options.out))


def _write_table(task: Task, path: Path) -> None:
    """Write a table in EVAR's format, for a task that came without one."""
    import csv

    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "split", *(labels.name for labels in task.label_sets)])
        for clip, (file_name, split) in enumerate(zip(task.file_names, task.splits, strict=True)):
            # Commas join the labels of a clip in several classes, as EVAR's tables have it.
            cells = [",".join(labels.classes[row] for row in labels.members[clip]) for labels in task.label_sets]
            writer.writerow([file_name, split, *cells])


def _write_json(path: Path, content: Record) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
