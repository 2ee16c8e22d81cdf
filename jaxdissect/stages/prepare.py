"""`jaxdissect prepare`: decode a task's clips once, into shards of 16-bit PCM that take the data folder's place."""

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jaxdissect
from jaxdissect.audio.decode import ClipStatus
from jaxdissect.errors import InputError, require
from jaxdissect.options.prepare import PrepareOptions
from jaxdissect.runtime.files import cannot_write, locked, parse_part, require_folder, require_space, sweep, whole_file
from jaxdissect.runtime.progress import progress_bar, under_way
from jaxdissect.runtime.records import differences
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

LOCK = ".part-"


@dataclasses.dataclass(frozen=True)
class PrepareResult:
    """What was prepared.

    Attributes:
      clips, unreadable: of the whole task.
      shards, size: how many, and their bytes.
      complete: all shards are there.
      made: clips that were decoded by this command.
      reading: options by which the other commands read it.
      seconds: that it took.
      max_bad_clips: share of unreadable clips that is allowed.
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

    @property
    def too_many_bad(self) -> bool:
        """Whether more clips than allowed could not be read."""
        return self.unreadable > self.max_bad_clips * self.clips


def run_prepare(options: PrepareOptions) -> PrepareResult:
    """Decode, and write shards, their lists, the task's table and `prepared.json`.

    Raises:
      InputError: an option breaks a rule, the folder holds something else, another process prepares the same, or there
        is no room; finished shards stay.
    """
    part, parts = parse_part(options.part or "1/1")
    task = _task(options)
    plan = _plan(options, task)
    begun = time.perf_counter()
    require_folder(options.out)
    _begin(options, task, plan)
    with _alone(options, part, parts):
        mine = dict(list(plan.items())[part - 1 :: parts])
        with under_way("Looking which shards are there"):
            shards = {name: _made(options, task, name, rows) for name, rows in mine.items()}
        own = {name: rows for name, rows in mine.items() if shards[name] is None}
        clips = sum(map(len, own.values()))
        require_space(options.out, clips * unit_samples(task, options.sample_rate) * 2, "16-bit PCM")
        if parts == 1:
            for name in (PREPARED_FILE, *_tables(options, task)):
                sweep(options.out / name)
        with progress_bar(what=f"Preparing {task.name}", total=clips, at_once=True) as bar:
            for name, rows in own.items():
                shards[name] = _write_shard(options, task, name, rows, bar.update)
        shards |= {name: _made(options, task, name, rows) for name, rows in plan.items() if name not in mine}
        there = {name: shard for name in plan if (shard := shards[name]) is not None}
        if len(there) == len(plan):
            _finish(options, task, plan, there)
    return PrepareResult(
        clips=len(task),
        unreadable=sum(status.status == "unreadable" for shard in there.values() for _, status in shard.clips),
        shards=len(there),
        size=sum(shard.digest.bytes for shard in there.values()),
        complete=len(there) == len(plan),
        made=clips,
        reading=_reading(options, task),
        seconds=time.perf_counter() - begun,
        max_bad_clips=options.max_bad_clips,
    )


def verify(folder: Path) -> list[str]:
    """Read every file of a prepared folder; returns a sentence for each that is not as it was written.

    Raises:
      InputError: the folder is not prepared, or `prepared.json` is damaged.
    """
    files = read_description(folder).files
    bar = progress_bar(files.items(), what=f"Verifying {folder}", total=len(files), unit="file")
    return [wrong for name, wanted in bar if (wrong := find_fault(folder, name, wanted)) is not None]


def _task(options: PrepareOptions) -> Task:
    from_tfds = options.task.startswith(PREFIX)
    if options.label is not None and not from_tfds:
        raise InputError(
            f"--label {options.label}: the table of --task {options.task} is copied with all of its columns: leave "
            f"--label out, and give it to the commands that count."
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
    count = -(-len(task) // options.shard_clips)
    return {
        f"shard-{number:05d}-of-{count:05d}": range(
            number * options.shard_clips, min((number + 1) * options.shard_clips, len(task))
        )
        for number in range(count)
    }


def _record(options: PrepareOptions, task: Task, plan: Mapping[str, range]) -> dict[str, Any]:
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
    """Say what is being prepared, or refuse to mix it with something else."""
    path, record = options.out / PREPARED_FILE, _record(options, task, plan)
    if path.is_file():
        try:
            there = json.loads(path.read_bytes())
            there |= {"complete": False, "files": {}}
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path} cannot be read ({error}): remove it, or choose another --out.") from error
        differing = differences(there, record, names=record)
        require(
            not differing,
            f"--out {options.out} holds a preparation that differs in {', '.join(differing.values())}: choose another "
            f"--out, or remove that folder.",
        )
        return
    found = [other.name for other in options.out.iterdir() if not other.name.startswith(f".{PREPARED_FILE}-")]
    if found and not any(name.startswith("shard-") for name in found):
        raise InputError(f"--out {options.out} is not empty: choose another folder.")
    _write_json(path, record)


@contextlib.contextmanager
def _alone(options: PrepareOptions, part: int, parts: int) -> Iterator[None]:
    """Keep away who would write the same shards: this part again, or parts of another division.

    A folder in `out` is the lock; it is there as long as the block lasts, or until the next one after a kill.
    """

    def only_here(folder: Path) -> contextlib.AbstractContextManager[None]:
        number, _, count = folder.name.removeprefix(LOCK).partition("-of-")
        return locked(folder, f"--out {options.out} --part {number}/{count}")

    own = options.out / f"{LOCK}{part}-of-{parts}"
    with only_here(own):
        try:
            for other in options.out.glob(f"{LOCK}*-of-*"):
                if not other.name.endswith(f"-of-{parts}"):
                    with only_here(other), contextlib.suppress(OSError):
                        other.rmdir()  # a killed process has left it
            yield
        finally:
            with contextlib.suppress(OSError):
                own.rmdir()


def _made(options: PrepareOptions, task: Task, name: str, rows: range) -> Shard | None:
    """A shard that is there, whole, and as it is wanted."""
    try:
        shard = read_shard(options.out, name)
        size = shard_file(options.out, name).stat().st_size
    except (InputError, OSError):
        return None
    wanted, names = (size, options.sample_rate, task.unit_seconds), [task.file_names[row] for row in rows]
    same = [file_name for file_name, _ in shard.clips] == names
    return shard if same and (shard.digest.bytes, shard.sample_rate, shard.unit_seconds) == wanted else None


def _write_shard(
    options: PrepareOptions, task: Task, name: str, rows: range, progress: Callable[[int], object]
) -> Shard:
    from array_record.python.array_record_module import ArrayRecordWriter

    path, list_path = shard_file(options.out, name), list_file(options.out, name)
    sweep(path)
    sweep(list_path)
    clips: list[tuple[str, ClipStatus]] = []
    with whole_file(path) as temporary:
        try:
            writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")  # a clip can be read by itself
            for clip, recording in recordings(task, options.sample_rate, rows):
                writer.write(to_shard(task.file_names[clip], recording))
                clips.append((task.file_names[clip], recording.clip))
                progress(1)
            writer.close()
        except RuntimeError as error:  # the writer's own
            raise cannot_write(path, OSError(str(error))) from error
        shard = Shard(FileDigest.of(temporary), options.sample_rate, task.unit_seconds, tuple(clips))
    listed = [[file_name, status.samples, status.status, status.reason] for file_name, status in clips]
    rest = {"sample_rate": shard.sample_rate, "unit_seconds": shard.unit_seconds, "clips": listed}
    _write_json(list_path, dataclasses.asdict(shard.digest) | rest)
    return shard


def _finish(options: PrepareOptions, task: Task, plan: Mapping[str, range], shards: Mapping[str, Shard]) -> None:
    """Put the tables into their place, and say what every file holds."""
    files = {}
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
    known = {name: dataclasses.asdict(content) for name, content in files.items()}
    _write_json(options.out / PREPARED_FILE, _record(options, task, plan) | {"complete": True, "files": known})


def _tables(options: PrepareOptions, task: Task) -> Mapping[str, Path | None]:
    """The tables by their place in `out`, each with what it is a copy of; None: it is to be written."""
    return table_files(options.task, task.data) or {f"{task.name}.csv": None}


def _reading(options: PrepareOptions, task: Task) -> tuple[str, ...]:
    """The options of other commands that read what was prepared."""
    name, seconds = options.task, options.unit_seconds
    if name.startswith(PREFIX):
        name, seconds = str(options.out / f"{task.name}.csv"), task.unit_seconds
    length = () if seconds is None else ("--unit-seconds", str(seconds))
    return ("--task", name, *length, "--data", str(options.out))


def _write_table(task: Task, path: Path) -> None:
    """A table in EVAR's format, for a task that came without one."""
    import csv

    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "split", *(labels.name for labels in task.label_sets)])
        for clip, (file_name, split) in enumerate(zip(task.file_names, task.splits, strict=True)):
            labels = [",".join(one.classes[index] for index in one.members[clip]) for one in task.label_sets]
            writer.writerow([file_name, split, *labels])


def _write_json(path: Path, content: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
