"""`jaxdissect prepare`: decode a task's clips once, into shards of 16-bit PCM that take the data folder's place."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jaxdissect
from jaxdissect.errors import InputError
from jaxdissect.files import (
    cannot_write,
    parse_part,
    path_beside,
    require_folder,
    require_space,
    sha256_file,
    sweep,
    whole_file,
)
from jaxdissect.progress import progress_bar
from jaxdissect.tasks.known import load_task, table_files
from jaxdissect.tasks.loader import recordings, unit_samples
from jaxdissect.tasks.prepared import RECORD, read_prepared, read_shard, shard_file, to_shard
from jaxdissect.tasks.table import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Decode a task's clips once: 16-bit PCM in shards, which then take the place of the data folder.

    Attributes:
      task: known task, tfds:NAME, or a CSV in EVAR's format.
      out: folder to make; afterwards the --data of every other command. A preparation that was interrupted goes on.
      data: data folder. Default for a CSV: its own folder.
      sample_rate: Hz, that of the encoders to come: 16000 or, for M2D's 32 kHz models, 32000.
      unit_seconds: length to which clips are cropped, s. A known task brings its own.
      label: features of a TFDS set that its new table lists, joined by commas; other tables are copied whole.
      shard_clips: clips in a shard.
      part: I/N: of N processes that share the work this is the I-th; run the command without it at the end.
      max_bad_clips: share of unreadable clips above which the command fails, after everything else was prepared.
    """

    task: str
    out: Path
    data: Path | None = None
    sample_rate: int = 16000
    unit_seconds: float | None = None
    label: str | None = None
    shard_clips: int = 2048
    part: str | None = None
    max_bad_clips: float = 0.01


@dataclasses.dataclass(frozen=True)
class PrepareResult:
    """What was prepared.

    Attributes:
      clips, unreadable: of the whole task.
      shards, size: how many, and their bytes.
      complete: all shards are there.
      made: clips that were decoded by this command.
      seconds: that it took.
      max_bad_clips: share of unreadable clips that is allowed.
    """

    clips: int
    unreadable: int
    shards: int
    size: int
    complete: bool
    made: int
    seconds: float
    max_bad_clips: float

    @property
    def too_many_bad(self) -> bool:
        """Whether more clips than allowed could not be read."""
        return self.unreadable > self.max_bad_clips * self.clips


def run_prepare(options: PrepareOptions) -> PrepareResult:
    """Decode, and write shards, their lists, the task's table and `prepared.json`.

    Raises:
      InputError: an option breaks a rule, the folder holds something else, or there is no room; finished shards stay.
    """
    part, parts = parse_part(options.part or "1/1")
    if options.shard_clips < 1 or options.sample_rate < 1:
        raise InputError(
            f"--shard-clips and --sample-rate must be positive, got {options.shard_clips} and {options.sample_rate}."
        )
    if not 0 <= options.max_bad_clips <= 1:
        raise InputError(f"--max-bad-clips must be a share from 0 to 1, got {options.max_bad_clips}.")
    task = _task(options)
    plan = _plan(options, task)
    begun = time.perf_counter()
    require_folder(options.out)
    mine = dict(list(plan.items())[part - 1 :: parts])
    own = {name: rows for name, rows in mine.items() if not _is_made(options, name, task, rows)}
    most = sum(map(len, own.values())) * unit_samples(task, options.sample_rate) * 2
    require_space(options.out, most, "16-bit PCM")
    _begin(options, task, plan)
    with progress_bar(what=f"Preparing {task.name}", total=sum(map(len, own.values())), at_once=True) as bar:
        for name, rows in own.items():
            _write_shard(options, task, name, rows, bar.update)
    complete = _finish(options, task, plan)
    made = [read_shard(options.out, name) for name in plan if (options.out / f"{name}.json").is_file()]
    return PrepareResult(
        clips=len(task),
        unreadable=sum(status.status == "unreadable" for shard in made for _, status in shard.clips),
        shards=len(made),
        size=sum(shard.bytes for shard in made),
        complete=complete,
        made=sum(map(len, own.values())),
        seconds=time.perf_counter() - begun,
        max_bad_clips=options.max_bad_clips,
    )


def verify(folder: Path) -> list[str]:
    """Read every shard of a prepared folder; returns the names of those whose SHA-256 is another than was written.

    Raises:
      InputError: the folder is not prepared, or a shard has another size than was written.
    """
    prepared = read_prepared(folder)
    shards = progress_bar(prepared.shards.items(), what=f"Verifying {folder}", total=len(prepared.shards), unit="shard")
    return [name for name, shard in shards if sha256_file(shard_file(folder, name)) != shard["sha256"]]


def _task(options: PrepareOptions) -> Task:
    labels = [name.strip() for name in (options.label or "").split(",") if name.strip()]
    from_tfds = not table_files(options.task, Path())
    return load_task(
        options.task, options.data, labels if from_tfds else None, options.unit_seconds, test_fold=None,
        progress=lambda clips: progress_bar(clips, what=f"Reading {options.task}"),
    )  # fmt: skip


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
        "format": 1,
        "made_by": f"jaxdissect {jaxdissect.__version__}",
        "task": task.name,
        "task_sha256": task.fingerprint(),
        "sample_rate": options.sample_rate,
        "unit_seconds": task.unit_seconds,
        "clips": len(task),
        "complete": False,
        "shards": dict.fromkeys(plan),
    }


def _begin(options: PrepareOptions, task: Task, plan: Mapping[str, range]) -> None:
    """Say what is being prepared, or refuse to mix it with something else."""
    path, record = options.out / RECORD, _record(options, task, plan)
    if path.is_file():
        try:
            there = json.loads(path.read_text())
            there |= {"complete": False, "shards": dict.fromkeys(there["shards"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error}): choose another --out.") from error
        differing = [name for name in record if there.get(name) != record[name]]
        if differing:
            raise InputError(
                f"--out {options.out} holds a preparation that differs in {', '.join(differing)}: choose another "
                f"--out, or remove that folder."
            )
        return
    if any(options.out.iterdir()) and not list(options.out.glob("shard-*")):
        raise InputError(f"--out {options.out} is not empty: choose another folder.")
    _write_json(path, record)


def _is_made(options: PrepareOptions, name: str, task: Task, rows: range) -> bool:
    """Whether a shard is there, whole, and as it is wanted."""
    try:
        shard = read_shard(options.out, name)
        size = shard_file(options.out, name).stat().st_size
    except (InputError, OSError):
        return False
    wanted, names = (size, options.sample_rate, task.unit_seconds), [task.file_names[row] for row in rows]
    same = [file_name for file_name, _ in shard.clips] == names
    return same and (shard.bytes, shard.sample_rate, shard.unit_seconds) == wanted


def _write_shard(
    options: PrepareOptions, task: Task, name: str, rows: range, progress: Callable[[int], object]
) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    path = shard_file(options.out, name)
    sweep(path)
    temporary = path_beside(path)
    clips = []
    try:
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")  # a clip can be read by itself
        for clip, recording in recordings(task, options.sample_rate, rows):
            writer.write(to_shard(task.file_names[clip], recording))
            status = recording.clip
            clips.append([task.file_names[clip], status.samples, status.status, status.reason])
            progress(1)
        writer.close()
        record = {
            "bytes": temporary.stat().st_size,
            "sha256": sha256_file(temporary),
            "sample_rate": options.sample_rate,
            "unit_seconds": task.unit_seconds,
            "clips": clips,
        }
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # the writer's own are RuntimeErrors
        raise cannot_write(path, error if isinstance(error, OSError) else OSError(str(error))) from error
    finally:
        temporary.unlink(missing_ok=True)
    _write_json(options.out / f"{name}.json", record)


def _finish(options: PrepareOptions, task: Task, plan: Mapping[str, range]) -> bool:
    """Put the table into its place and list all shards, if all are there."""
    if not all(_is_made(options, name, task, rows) for name, rows in plan.items()):
        return False
    for name, path in table_files(options.task, task.data).items():
        with whole_file(options.out / name) as temporary:
            shutil.copyfile(path, temporary)
    if not table_files(options.task, task.data):
        _write_table(task, options.out / f"{task.name}.csv")
    shards = {name: read_shard(options.out, name) for name in plan}
    listed = {
        name: {"clips": len(shard.clips), "bytes": shard.bytes, "sha256": shard.sha256}
        for name, shard in shards.items()
    }
    _write_json(options.out / RECORD, _record(options, task, plan) | {"complete": True, "shards": listed})
    return True


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
