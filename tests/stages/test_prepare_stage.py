"""Prepared folders: what stands in for the files is what was in them, whole, checked, and made in any parts."""

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from foreign import IntegerEncoder
from limits import few_open_files

from jaxdissect import CountOptions, InputError, load_task
from jaxdissect.audio.pcm import FULL_SCALE
from jaxdissect.cli import main
from jaxdissect.counting.stream import count_clips
from jaxdissect.options.prepare import PrepareOptions
from jaxdissect.probe.embeddings import embed_clips
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.stages import prepare as preparing
from jaxdissect.stages.prepare import run_prepare, verify
from jaxdissect.tasks import shards as prepared_module
from jaxdissect.tasks.loader import batches
from jaxdissect.tasks.shards import prepared_reader, shard_file
from jaxdissect.training.crops import decoded_clips

CLIPS, SECONDS, SAMPLES = 14, 0.2, 3200


@pytest.fixture
def table(data_folder):
    """16-bit recordings: whole, long, short, silent, and one that cannot be read."""
    rows = ["file_name,label,place,split"]
    for number in range(CLIPS):
        length = {2: 1700, 5: 5000}.get(number, SAMPLES)
        noise = np.random.default_rng(number).uniform(-1, 1, length) * (number != 4)
        data_folder.write(f"sub/{number}.wav", noise, subtype="PCM_16")
        rows.append(f"sub/{number}.wav,{'abc'[number % 3]},{number % 2},{'train' if number % 4 else 'test'}")
    (data_folder.path / "sub/9.wav").write_bytes(b"no audio")
    return data_folder.table("noises.csv", "\n".join(rows) + "\n")


@pytest.fixture
def options(table, tmp_path):
    def make(**changes):
        defaults = {"task": str(table), "out": tmp_path / "out", "unit_seconds": SECONDS, "shard_clips": 4}
        return PrepareOptions(**(defaults | {"max_bad_clips": 0.1} | changes))

    return make


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def task_in(folder, **changes):
    return load_task(str(folder / "noises.csv"), **({"unit_seconds": SECONDS} | changes))


@pytest.mark.parametrize("label", ["label", "", "label,place"])
def test_prepare_refuses_a_label_where_tables_are_copied(options, label):
    with pytest.raises(InputError, match=r"--label .*: the table of --task .*noises\.csv is copied with all of its"):
        run_prepare(options(label=label))


def test_shards_hold_what_the_files_held(table, options):
    """PCM of 16 bits at the wanted rate is kept to the bit, and so are statuses, members and fingerprints."""
    result = run_prepare(options())
    assert (result.clips, result.unreadable, result.shards, result.complete, result.made) == (14, 1, 4, True, 14)
    assert result.size == sum(len(content) for name, content in files(options().out).items() if "array" in name)
    files_task, shards_task = task_in(table.parent), task_in(options().out)
    assert files_task.fingerprint() == shards_task.fingerprint()
    for plain, prepared in zip(batches(files_task, 16000, 5), batches(shards_task, 16000, 5), strict=True):
        assert (plain.pcm.dtype, prepared.pcm.dtype) == (np.float32, np.int16)
        np.testing.assert_array_equal(plain.pcm, prepared.pcm / np.float32(FULL_SCALE))
        np.testing.assert_array_equal(plain.members, prepared.members)
        assert plain.statuses == prepared.statuses


@pytest.mark.parametrize("devices", [1, 3])
def test_counts_and_embeddings_are_those_of_the_files(table, options, devices):
    run_prepare(options())
    encoder, chosen = IntegerEncoder(), jax.devices()[:devices]
    counted, embedded = [], []
    for folder in (table.parent, options().out):
        task = task_in(folder)
        counted.append(count_clips(encoder, task, CountOptions("sounding", batch_size=3), devices=chosen))
        embedded.append(embed_clips(encoder, task, 3, chosen))
    for name in ("active_tokens", "tokens", "sum", "sum_squares"):
        np.testing.assert_array_equal(getattr(counted[0].totals, name), getattr(counted[1].totals, name))
    assert counted[0].totals.active_tokens.any()
    assert counted[0].log.statuses() == counted[1].log.statuses()
    np.testing.assert_array_equal(embedded[0].values, embedded[1].values)
    assert embedded[0].reasons == embedded[1].reasons


def test_training_hears_the_same(table, options, tmp_path):
    run_prepare(options())
    folders = [tmp_path / name for name in ("files", "shards")]
    for folder, source in zip(folders, (table.parent, options().out), strict=True):
        folder.mkdir()
        decoded_clips(task_in(source), 16000, folder)
    one, other = (np.load(folder / "pcm.npy") for folder in folders)
    np.testing.assert_array_equal(one, other)


def test_a_shorter_unit_is_cut_from_what_was_prepared(table, options):
    run_prepare(options())
    short = {"unit_seconds": 0.1}
    plain, prepared = (next(batches(task_in(folder, **short), 16000, 6)) for folder in (table.parent, options().out))
    assert plain.pcm.shape == prepared.pcm.shape == (6, 1600)
    np.testing.assert_array_equal(plain.pcm, prepared.pcm / np.float32(FULL_SCALE))
    np.testing.assert_array_equal(plain.samples, prepared.samples)


def test_a_prepared_folder_can_be_prepared_again(table, options):
    """For a shorter unit, say: what comes of it is what comes of the files, to the bit."""
    run_prepare(options())
    short, again = options().out.with_name("short"), options().out.with_name("again")
    run_prepare(options(out=short, unit_seconds=0.1))
    run_prepare(options(out=again, unit_seconds=0.1, task=str(options().out / "noises.csv")))
    assert files(again) == files(short)
    plain, cut = (next(batches(task_in(folder, unit_seconds=0.1), 16000, 14)) for folder in (table.parent, again))
    np.testing.assert_array_equal(plain.pcm, cut.pcm / np.float32(FULL_SCALE))


def test_resampling_and_rounding(table, options):
    """At another rate a shard holds what the decoder gives, to half of the last bit."""
    run_prepare(options(sample_rate=32000, out=options().out / "32"))
    plain = next(batches(task_in(table.parent), 32000, CLIPS)).pcm
    prepared = next(batches(task_in(options().out / "32"), 32000, CLIPS)).pcm
    assert np.abs(np.clip(plain, -1, 1 - 1 / FULL_SCALE) * FULL_SCALE - prepared).max() <= 0.5


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_make_the_same(options, order):
    run_prepare(options())
    out = options().out.with_name("parts")
    made = [run_prepare(options(out=out, part=f"{part}/3")) for part in order]
    assert [one.complete for one in made] == [False, False, True]
    assert sum(one.made for one in made) == CLIPS
    assert files(out) == files(options().out)
    assert run_prepare(options(out=out)).made == 0


def test_every_list_is_read_once(options, monkeypatch):
    run_prepare(options(part="1/2"))
    run_prepare(options(part="2/2"))
    seen, read_shard = [], preparing.read_shard
    monkeypatch.setattr(preparing, "read_shard", lambda data, name: seen.append(name) or read_shard(data, name))
    assert run_prepare(options(part="1/2")).complete
    assert sorted(seen) == [f"shard-0000{number}-of-00004" for number in range(4)]


def test_a_preparation_goes_on_where_it_was_broken_off(options, monkeypatch):
    run_prepare(options())
    out, kept, to_shard = options().out.with_name("broken"), [], preparing.to_shard

    def stop(file_name, recording):
        kept.append(recording)
        if len(kept) == 7:
            raise KeyboardInterrupt
        return to_shard(file_name, recording)

    monkeypatch.setattr(preparing, "to_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        run_prepare(options(out=out))
    assert not list(out.glob(".*"))
    with pytest.raises(InputError, match="is not wholly prepared: repeat the `jaxdissect prepare` that began it"):
        next(batches(task_in_copy(out, options), 16000, 4))
    (out / ".shard-00001-of-00004.array_record-0123abcd").write_bytes(b"of a killed one")
    monkeypatch.setattr(preparing, "to_shard", to_shard)
    assert run_prepare(options(out=out)).made == CLIPS - 4
    assert files(out) == files(options().out)


def test_what_killed_ones_have_left_is_swept_by_whose_it_is(options):
    run_prepare(options())
    out = options().out.with_name("killed")
    run_prepare(options(out=out, part="1/4"))
    left = [".shard-00001-of-00004.array_record-0123abcd", ".shard-00002-of-00004.json-0123abcd"]
    for name in (*left, ".prepared.json-0123abcd", ".noises.csv-0123abcd"):
        (out / name).write_bytes(b"of a killed one")
    (out / ".part-3-of-7").mkdir()
    run_prepare(options(out=out, part="2/4"))
    assert {name for name in left if (out / name).exists()} == {left[1]}  # of another part
    run_prepare(options(out=out))
    assert files(out) == files(options().out)
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (None, None, "--part 1/1: another process is writing to it"),
        ("1/2", "1/2", "--part 1/2: another process is writing to it"),
        ("1/2", None, "--part 1/2: another process is writing to it"),
        (None, "2/3", "--part 1/1: another process is writing to it"),
        ("1/3", "2/3", None),
    ],
)
def test_two_commands_at_once(options, monkeypatch, one, other, found):
    """Who would write the same shards is refused and disturbs nothing; other parts are welcome."""
    run_prepare(options())
    out, met, to_shard = options().out.with_name("twice"), [], preparing.to_shard

    def meet(file_name, recording):
        if not met:
            met.append(None)
            if found is None:
                met.append(run_prepare(options(out=out, part=other)))
            else:
                with pytest.raises(InputError, match=found):
                    run_prepare(options(out=out, part=other))
        return to_shard(file_name, recording)

    monkeypatch.setattr(preparing, "to_shard", meet)
    run_prepare(options(out=out, part=one))
    run_prepare(options(out=out))
    assert met
    assert files(out) == files(options().out)
    assert not list(out.glob(".*"))


def test_every_file_is_on_the_disk_before_it_has_its_name(options, monkeypatch):
    synced, fsync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.add(os.fstat(file).st_ino) or fsync(file))
    run_prepare(options())
    assert {path.stat().st_ino for path in options().out.iterdir()} <= synced


def task_in_copy(out, options):
    shutil.copy(options().task, out / "noises.csv")
    return task_in(out)


def test_a_shard_that_cannot_be_written(options, monkeypatch):
    class Full:
        def __init__(self, path, how):
            Path(path).touch()

        def write(self, content):
            raise RuntimeError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr("array_record.python.array_record_module.ArrayRecordWriter", Full)
    with pytest.raises(InputError, match=r"shard-00000-of-00004.array_record cannot be written \(RESOURCE_EXHAUSTED"):
        run_prepare(options())
    assert set(files(options().out)) == {"prepared.json"}


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)


def test_a_changed_bit_is_found_by_reading_and_by_verifying(options, capsys):
    run_prepare(options())
    out = options().out
    assert verify(out) == []
    assert main(["verify", str(out)]) == 0
    shard = shard_file(out, "shard-00001-of-00004")
    flip(shard, 3000)
    assert verify(out) == [
        f"{shard} is damaged: its SHA-256 is another than was written. Copy it again, or remove it and repeat "
        f"`jaxdissect prepare`."
    ]
    assert main(["verify", str(out)]) == 1
    assert "shard-00001-of-00004.array_record is damaged" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"a shard is damaged \(.*hash mismatch.*jaxdissect verify"):
        list(batches(task_in(out), 16000, 4))


def test_the_record_tells_of_every_file(options):
    run_prepare(options())
    whole = files(options().out)
    told = json.loads(whole.pop("prepared.json"))["files"]
    assert told == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in whole.items()
    }


def test_verifying_goes_over_everything(options, monkeypatch, capsys):
    run_prepare(options())
    out = options().out
    names = sorted(set(files(out)) - {"prepared.json"})
    ends = ["0-of-00004.array_record", "1-of-00004.array_record", "2-of-00004.array_record", "3-of-00004.array_record"]
    shard, short, long, folder = (out / f"shard-0000{end}" for end in ends)
    flip(shard, 3000)
    short.write_bytes(short.read_bytes()[:-1])
    long.write_bytes(long.read_bytes() + b"0")
    folder.unlink()
    folder.mkdir()
    (out / "shard-00001-of-00004.json").unlink()
    flip(out / "shard-00002-of-00004.json", 200)
    flip(out / "noises.csv", 30)
    refused, sha256_file = out / "shard-00003-of-00004.json", prepared_module.sha256_file

    def refuse(path):
        if path == refused:
            raise PermissionError(13, "Permission denied")
        return sha256_file(path)

    monkeypatch.setattr(prepared_module, "sha256_file", refuse)
    wrong = {
        "shard-00000-of-00004.array_record": "is damaged: its SHA-256",
        "shard-00001-of-00004.array_record": "is truncated: it should have",
        "shard-00002-of-00004.array_record": "is another file: it should have",
        "shard-00003-of-00004.array_record": "is no regular file",
        "shard-00001-of-00004.json": "is missing",
        "shard-00002-of-00004.json": "is damaged: its SHA-256",
        "shard-00003-of-00004.json": "cannot be read (Permission denied)",
        "noises.csv": "is damaged: its SHA-256",
    }
    assert set(names) - set(wrong) == {"shard-00000-of-00004.json"}
    found = verify(out)
    assert len(found) == len(wrong)
    for name, what in wrong.items():
        assert any(sentence.startswith(f"{out / name} {what}") for sentence in found)
    assert main(["verify", str(out)]) == 1
    assert capsys.readouterr().err.endswith(f"{out}: 8 files not as written.\n")


def test_shards_by_the_hundreds(options, monkeypatch):
    """Each is a file that stays open: the limit is raised, and what is told is no damage."""
    run_prepare(options(shard_clips=1))
    names = task_in(options().out).file_names
    with few_open_files(CLIPS // 2):
        read = prepared_reader(options().out, 16000, SAMPLES)
        assert sum(read(name).clip.status == "unreadable" for name in names) == 1
    monkeypatch.setattr(prepared_module, "allow_open_files", lambda count: None)
    with few_open_files(CLIPS // 2), pytest.raises(InputError, match="Too many open files") as told:
        list(map(prepared_reader(options().out, 16000, SAMPLES), names))
    assert "allow more open files (`ulimit -n`), or prepare the data with a larger --shard-clips" in str(told.value)
    assert "copy" not in str(told.value)


def test_a_shard_that_vanishes(options):
    run_prepare(options())
    read = prepared_reader(options().out, 16000, SAMPLES)
    shard_file(options().out, "shard-00001-of-00004").unlink()
    assert read("sub/0.wav").clip.status == "ok"
    with pytest.raises(
        InputError, match=r"a shard cannot be read \(open\(\) failed: No such file .* check that it exists"
    ):
        read("sub/4.wav")


def test_prepared_files_may_be_links_as_in_the_cache_of_a_model_hub(options, tmp_path):
    run_prepare(options())
    out, name = options().out, "shard-00001-of-00004"
    (tmp_path / "link").symlink_to(out)
    assert len(list(batches(task_in(tmp_path / "link"), 16000, 4))) == 4
    for path in (out / f"{name}.array_record", out / f"{name}.json", out / "prepared.json"):
        blob = path.rename(tmp_path / path.name)
        path.symlink_to(Path("..") / blob.name)
        assert len(list(batches(task_in(out), 16000, 4))) == 4
        assert verify(out) == []
    shard = shard_file(out, name)
    shard.unlink()
    shard.symlink_to(shard.name)
    with pytest.raises(InputError, match="Copy it again"):
        next(batches(task_in(out), 16000, 4))


@pytest.mark.parametrize("name", ["../shard-00001-of-00004", "/etc/shard", "sub\\..\\..\\shard"])
def test_prepared_names_that_leave_the_folder_are_refused(options, name):
    run_prepare(options())
    with pytest.raises(InputError, match="must lie in the prepared folder itself, and leaves it"):
        shard_file(options().out, name)
    path = options().out / "prepared.json"
    path.write_text(path.read_text().replace("shard-00001-of-00004", name.replace("\\", "\\\\")))
    with pytest.raises(InputError, match="must lie in the prepared folder itself, and leaves it"):
        next(batches(task_in(options().out), 16000, 4))


def test_a_count_that_meets_a_damaged_shard_keeps_its_state(options, tmp_path, capsys):
    run_prepare(options())
    out, run = options().out, tmp_path / "run"
    shard = shard_file(out, "shard-00002-of-00004")
    whole = shard.read_bytes()
    flip(shard, 3000)
    command = ["activations", "--encoder", "foreign:make", "--task", str(out / "noises.csv"), "--unit-seconds", "0.2"]
    command += ["--split", "all", "--batch-size", "1", "--run", str(run), "--max-bad-clips", "0.1"]
    assert main(command) == 2
    assert "a shard is damaged" in capsys.readouterr().err
    assert (run / "state" / "activations" / "counts-0-of-1.npz").is_file()
    shard.write_bytes(whole)
    assert main(command) == 0
    assert main([part if part != str(run) else str(tmp_path / "again") for part in command]) == 0
    one, other = (read_netcdf(folder / "activations.nc") for folder in (run, tmp_path / "again"))
    assert one.identical(other)
    assert not (run / "state").exists()


def test_damage_that_is_seen_at_once(options):
    run_prepare(options())
    out = options().out
    whole, task = files(out), task_in(out)

    def refused(name, content, match):
        (out / name).write_bytes(content)
        with pytest.raises(InputError, match=match):
            next(batches(task, 16000, 4))
        (out / name).write_bytes(whole[name])

    first = "shard-00000-of-00004"
    records = whole[f"{first}.array_record"]
    refused(f"{first}.array_record", records[:-9], f"is truncated: it should have {len(records):,} bytes")
    refused(f"{first}.array_record", records + b"0", "is another file: it should have")
    refused(f"{first}.json", b"{}", f"{first}.json cannot be read")
    another = f"{first}.json cannot be read .it is another list than prepared.json names"
    refused(f"{first}.json", whole["shard-00001-of-00004.json"], another)
    refused(f"{first}.json", whole[f"{first}.json"].replace(b'"ok"', b'"silent"', 1), another)
    refused("prepared.json", b"[]", "prepared.json cannot be read")
    record = json.loads(whole["prepared.json"])
    for name in (f"../{first}", f"{out}/../{first}"):
        told = {f"{name}{end}": record["files"][f"{first}{end}"] for end in (".array_record", ".json")}
        changed = json.dumps(record | {"shards": [name], "files": told}).encode()
        refused("prepared.json", changed, f"{first}.array_record must lie in the prepared folder itself, and leaves it")
    lacking = json.dumps(record | {"files": {}}).encode()
    refused("prepared.json", lacking, f"prepared.json cannot be read .it has no digest of {first}")
    next(batches(task, 16000, 4))


def test_shards_that_have_changed_places_are_told(options):
    """Files of shards often have the same size, to which they are padded."""
    run_prepare(options())
    out = options().out
    one, other = (shard_file(out, f"shard-0000{number}-of-00004") for number in (0, 1))
    content = one.read_bytes(), other.read_bytes()
    assert len(content[0]) == len(content[1])
    one.write_bytes(content[1])
    other.write_bytes(content[0])
    with pytest.raises(InputError, match="a record holds another clip than 'sub/"):
        list(batches(task_in(out), 16000, 4))
    assert [sentence.split(" ")[0] for sentence in verify(out)] == [str(one), str(other)]


def test_a_folder_of_another_format(options):
    run_prepare(options())
    out = options().out
    whole = files(out)
    (out / "prepared.json").write_bytes(whole["prepared.json"].replace(b'"format": 2', b'"format": 1'))
    with pytest.raises(InputError, match=r"has format 1, and this version of jaxdissect reads format 2: remove that"):
        next(batches(task_in(out), 16000, 4))
    with pytest.raises(InputError, match="holds a preparation that differs in format"):
        run_prepare(options())
    (out / "prepared.json").unlink()
    assert run_prepare(options()).made == 0
    assert files(out) == whole


def test_shards_of_another_rate_are_made_anew(options):
    run_prepare(options())
    out = options().out
    (out / "prepared.json").unlink()
    assert run_prepare(options(sample_rate=32000)).made == CLIPS
    assert {len(batch.pcm[0]) for batch in batches(task_in(out), 32000, 4)} == {6400}


def test_what_was_prepared_for_another_encoder_is_refused(options):
    run_prepare(options())
    task = task_in(options().out)
    with pytest.raises(
        InputError, match=r"was prepared at 16000 Hz, and the encoder takes 32000 Hz: prepare the data with"
    ):
        next(batches(task, 32000, 4))
    with pytest.raises(InputError, match=r"prepared for clips of 0.2 s, shorter than the 0.5 s asked for"):
        next(batches(task_in(options().out, unit_seconds=0.5), 16000, 4))


def test_a_clip_that_was_not_prepared_is_unreadable(options):
    run_prepare(options())
    table = options().out / "noises.csv"
    table.write_text(table.read_text() + "sub/new.wav,a,0,train\n")
    statuses = [status for batch in batches(task_in(options().out), 16000, 4) for status in batch.statuses]
    assert [status.reason for status in statuses][-1] == "is not among the prepared clips"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"part": "0/2"}, "--part must be I/N with I from 1 to N, e.g. 2/8, got '0/2'"),
        ({"part": "3/2"}, "--part must be I/N"),
        ({"part": "one"}, "--part must be I/N"),
        ({"shard_clips": 0}, "--shard-clips must be a whole number, at least 1, got 0"),
        ({"max_bad_clips": 2.0}, "--max-bad-clips must be a fraction from 0 to 1, got 2.0"),
        ({"unit_seconds": None}, "needs unit_seconds"),
        ({"task": "nothing"}, "neither a known task"),
    ],
)
def test_options_that_break_a_rule(options, changes, found):
    with pytest.raises(InputError, match=found):
        run_prepare(options(**changes))
    assert not options().out.exists()


def test_a_folder_that_holds_something_else(options):
    out = options().out
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty: choose another folder"):
        run_prepare(options())
    (out / "mine.txt").unlink()
    run_prepare(options())
    for changes, found in (
        ({"sample_rate": 32000}, r"sample_rate \(16000 before, 32000 now\)"),
        ({"unit_seconds": 0.1}, r"task_sha256 .*, unit_seconds \(0.2 before, 0.1 now\)"),
    ):
        with pytest.raises(InputError, match=f"holds a preparation that differs in {found}"):
            run_prepare(options(**changes))
    assert run_prepare(options()).made == 0


def test_too_many_unreadable_clips_fail_the_command_after_all(options, capsys):
    command = ["prepare", "--task", options().task, "--out", str(options().out), "--unit-seconds", "0.2"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "14 clips, 1 unreadable; 1 shard" in printed.out
    assert "more than 1.0% of the clips could not be read" in printed.err


def test_the_options_that_are_printed_read_what_was_prepared(options, tmp_path, capsys):
    out = tmp_path / "with blanks"
    command = ["prepare", "--task", options().task, "--out", str(out), "--unit-seconds", "0.2", "--max-bad-clips", "1"]
    assert main([*command, "--part", "1/2", "--shard-clips", "7"]) == 0
    assert "Not complete yet" in capsys.readouterr().out
    assert main([*command, "--shard-clips", "7"]) == 0
    (printed,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Complete.")]
    reading = shlex.split(printed.partition(" by: ")[2])
    assert reading == ["--task", options().task, "--unit-seconds", "0.2", "--data", str(out)]
    more = ["--split", "all", "--max-bad-clips", "0.1", "--run", str(tmp_path / "run")]
    assert main(["activations", "--encoder", "foreign:make", *reading, *more]) == 0
    assert "Counted 13 clips" in capsys.readouterr().out


def test_a_known_task_keeps_its_layout(data_folder, tmp_path, monkeypatch):
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for number in range(6):
        data_folder.write(f"audio/{number}.wav", np.random.default_rng(number).normal(0, 0.1, 16000))
        rows.append(f"{number}.wav,{number % 5 + 1},{number % 2 * 10},{'ab'[number % 2]},False,{number // 2},A")
    data_folder.table("esc50.csv", "\n".join(rows) + "\n")
    (data_folder.path / "meta").mkdir()
    (data_folder.path / "esc50.csv").rename(data_folder.path / "meta" / "esc50.csv")
    prepare = PrepareOptions(task="esc50", data=data_folder.path, out=tmp_path / "out")
    assert run_prepare(prepare).reading == ("--task", "esc50", "--data", str(tmp_path / "out"))
    shorter = dataclasses.replace(prepare, out=tmp_path / "shorter", unit_seconds=0.5)
    reading = ("--task", "esc50", "--unit-seconds", "0.5", "--data", str(tmp_path / "shorter"))
    assert run_prepare(shorter).reading == reading
    tasks = [load_task("esc50", folder, ["event", "group"]) for folder in (data_folder.path, tmp_path / "out")]
    assert tasks[0].fingerprint() == tasks[1].fingerprint()
    assert tasks[0].recordings == tasks[1].recordings
    batch = next(batches(tasks[1], 16000, 6))
    assert {status.status for status in batch.statuses} == {"short"}
    monkeypatch.chdir(data_folder.path)  # where files of the task's names lie
    assert run_prepare(prepare).made == 0
    with pytest.raises(InputError, match="is copied with all of its columns: leave --label out"):
        run_prepare(dataclasses.replace(prepare, label="of TFDS sets only"))
