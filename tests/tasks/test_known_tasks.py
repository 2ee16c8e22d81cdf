"""Task tables: EVAR's format, the known tasks, and the messages for bad ones."""

import csv
import os

import numpy as np
import pytest

from jaxdissect import InputError, load_task
from jaxdissect.runtime.progress import listening
from jaxdissect.tasks.known import KNOWN_TASKS, label_names

TABLE = """file_name,label,digit,split
a.wav,dog,10,train
b.wav,cat,9,valid
c.wav,dog,2,test
d.wav,bird,10,train
"""


def members_by_name(task):
    """{file name: {(label set, class), ...}}"""
    table = task.members(range(len(task)))
    rows = zip(task.file_names, table, strict=True)
    return {name: {task.classes[index] for index in np.flatnonzero(row)} for name, row in rows}


def test_load_task_reads_a_table_with_splits(data_folder):
    path = data_folder.table("animals.csv", TABLE)
    task = load_task(str(path), unit_seconds=1.5)
    assert (task.name, task.data, task.unit_seconds, task.keep) == ("animals", data_folder.path, 1.5, 0.01)
    assert task.splits == ("train", "valid", "test", "train")
    assert task.folds == (None,) * 4
    assert task.classes == (("label", "bird"), ("label", "cat"), ("label", "dog"))
    assert members_by_name(task)["a.wav"] == {("label", "dog")}


def test_load_task_orders_whole_numbers_numerically(data_folder):
    path = data_folder.table("animals.csv", TABLE)
    task = load_task(str(path), label=["digit", "label"], unit_seconds=1)
    assert [name for labels, name in task.classes if labels == "digit"] == ["2", "9", "10"]
    assert members_by_name(task)["b.wav"] == {("digit", "9"), ("label", "cat")}
    assert task.labels_per_clip == 2


def test_only_one_split_keeps_all_classes(data_folder):
    task = load_task(str(data_folder.table("animals.csv", TABLE)), unit_seconds=1)
    train = task.only("train")
    assert train.file_names == ("a.wav", "d.wav")
    assert train.classes == task.classes
    assert members_by_name(train) == {"a.wav": {("label", "dog")}, "d.wav": {("label", "bird")}}
    assert task.only("all") == task
    with pytest.raises(InputError, match=r"split 'nothing': .*train, valid, test, all"):
        task.only("nothing")


def test_load_task_reads_a_table_with_folds(data_folder):
    rows = "".join(f"{fold}.wav,x,{fold}\n" for fold in range(1, 6))
    path = data_folder.table("folds.csv", "file_name,label,fold\n" + rows)
    task = load_task(str(path), unit_seconds=1, test_fold=2)
    assert task.folds == (1, 2, 3, 4, 5)
    assert task.splits == ("train", "test", "train", "train", "train")
    with pytest.raises(InputError, match=r"test_fold 6: .*\[1, 2, 3, 4, 5\]"):
        load_task(str(path), unit_seconds=1, test_fold=6)


def test_load_task_separates_labels_at_commas_on_demand_in_every_column(data_folder):
    path = data_folder.table(
        "multi.csv", 'file_name,label,place,split\na.wav,"dog, cat,dog","Rome,Paris",train\nb.wav,,Bonn,train\n'
    )
    cells = (("label", "dog, cat,dog"), ("place", "Bonn"), ("place", "Rome,Paris"))
    for given in ({}, {"multi_label": None}, {"multi_label": False}):
        assert load_task(str(path), label=["label", "place"], unit_seconds=1, **given).classes == cells
    multi = load_task(str(path), label=["label", "place"], unit_seconds=1, multi_label=True)
    assert members_by_name(multi) == {
        "a.wav": {("label", "cat"), ("label", "dog"), ("place", "Rome"), ("place", "Paris")},
        "b.wav": {("place", "Bonn")},
    }
    assert multi.labels_per_clip == 4
    assert [labels.multi_label for labels in multi.label_sets] == [True, True]


def test_load_task_judges_single_labels_as_multi_label_on_demand(data_folder):
    """The same table with the same fingerprint: how a label set is judged is no part of it."""
    path = data_folder.table("animals.csv", TABLE)
    one, other = (load_task(str(path), unit_seconds=1, multi_label=several) for several in (None, True))
    assert one.classes == other.classes
    assert one.fingerprint() == other.fingerprint()
    assert [task.label_sets[0].multi_label for task in (one, other)] == [False, True]


@pytest.mark.parametrize(
    ("rows", "given", "warning"),
    [
        (('"Guitar,Music"', '"Music,Piano"', "Piano", ""), None, "2 of 3 labels hold commas"),
        (('"Guitar,Music"', '"Music,Piano"', "Piano", "Piano"), None, ""),  # no more than half
        (('"Guitar,Music"', '"Music,Piano"', "Piano", ""), False, ""),
        (('"Guitar,Music"', '"Music,Piano"', "Piano", ""), True, ""),
    ],
)
def test_load_task_warns_that_multi_label_may_have_been_forgotten(data_folder, rows, given, warning):
    lines = [f"{clip}.wav,{tags},train" for clip, tags in enumerate(rows)]
    path = data_folder.table("t.csv", "\n".join(["file_name,tags,split", *lines, ""]))
    with listening(quiet=True) as warned:
        for _ in range(2):  # the stages of one command: the first one warns
            load_task(str(path), label="tags", unit_seconds=1, multi_label=given)
    assert len(warned) == bool(warning)
    assert all(warning in text and "'tags'" in text and "Set multi_label" in text for text in warned)


def test_load_task_wants_label_sets_for_multi_label(data_folder):
    path = data_folder.table("animals.csv", TABLE)
    for given in (True, False):
        with pytest.raises(InputError, match="multi_label: no label set is read"):
            load_task(str(path), label=None, unit_seconds=1, multi_label=given)


def test_load_task_applies_multi_label_to_known_tasks(data_folder, esc50):
    rows = 'file_name,label,place,split\na.wav,"Bark,Dog","in,out",train\nb.wav,Dog,out,test\n'
    data_folder.table("fsd50k.csv", rows)

    def classes(multi_label):
        return load_task("fsd50k", data_folder.path, label=["event", "place"], multi_label=multi_label).classes

    assert classes(None) == (("event", "Bark"), ("event", "Dog"), ("place", "in,out"), ("place", "out"))
    assert classes(True) == (("event", "Bark"), ("event", "Dog"), ("place", "in"), ("place", "out"))
    assert classes(False) == (("event", "Bark,Dog"), ("event", "Dog"), ("place", "in,out"), ("place", "out"))
    for multi_label in (None, False, True):
        task = load_task("esc50", esc50.path, label=["event", "group"], multi_label=multi_label)
        assert [labels.multi_label for labels in task.label_sets] == [bool(multi_label)] * 2
        assert task.fingerprint() == load_task("esc50", esc50.path, label=["event", "group"]).fingerprint()


def test_load_task_refuses_a_test_fold_where_there_are_none(data_folder):
    path = data_folder.table("animals.csv", TABLE)
    header, *rows = TABLE.splitlines()
    with_folds = [f"{header},fold", *(f"{row},{fold}" for fold, row in enumerate(rows, start=1))]
    both = data_folder.table("both.csv", "\n".join([*with_folds, ""]))
    for table in (path, both):
        for fold in (3, 5):
            with pytest.raises(InputError, match=rf"test_fold {fold}: the column 'split' of .*{table.name}.* leave"):
                load_task(str(table), unit_seconds=1, test_fold=fold)
        assert (
            load_task(str(table), unit_seconds=1).splits == load_task(str(table), unit_seconds=1, test_fold=None).splits
        )
    with pytest.raises(InputError, match=r"test_fold 5: a data set of TFDS has splits and no folds: leave it out"):
        load_task("tfds:crema_d", data_folder.path, test_fold=5)
    data_folder.table("notes.csv", TABLE.replace("label", "octave"))
    with pytest.raises(InputError, match="test_fold 5: the column 'split' of"):
        load_task("notes", data_folder.path, label="octave", test_fold=5)


def test_load_task_holds_out_fold_5_by_default(data_folder):
    rows = "".join(f"{fold}.wav,x,{fold}\n" for fold in (0, 4, 5))
    path = data_folder.table("folds.csv", "file_name,label,fold\n" + rows)

    def splits(**given):
        return load_task(str(path), unit_seconds=1, **given).splits

    assert splits() == splits(test_fold="default") == splits(test_fold=5) == ("train", "train", "test")
    assert splits(test_fold=0) == ("test", "train", "train")
    assert splits(test_fold=None) == ("train",) * 3


@pytest.mark.parametrize(
    ("text", "names"), [(None, ()), ("a", ("a",)), ("a, b,", ("a", "b")), ("", InputError), (" ,", InputError)]
)
def test_label_names_are_joined_by_commas(text, names):
    if names is InputError:
        with pytest.raises(InputError, match="--label must name a label set, got"):
            label_names(text)
    else:
        assert label_names(text) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("file_name,label,split\n", "has no rows"),
        ("name,label,split\na,b,train\n", "column 'file_name' is missing; the table has name, label, split"),
        ("file_name,split\na,train\n", "no label column 'label'; the table has file_name, split"),
        ("file_name,label\na,b\n", "column 'split' or 'fold' is missing"),
        ("file_name,label,split\na,b,training\n", "line 2: split must be one of .* found 'training'"),
        ("file_name,label,fold\na,b,one\n", "line 2: fold must be a whole number, found 'one'"),
        ("file_name,label,split\na,b\n", "line 2: expected 3 fields"),
        ("file_name,label,split\na,b,train,more\n", "line 2: expected 3 fields as in the header, found 4"),
        ("file_name,label,label,split\na,b,c,train\n", "a name of its own, found file_name, label, label, split"),
        ("file_name,label,split\na,b,train\na,c,train\n", "line 3: 'a' is in the table twice"),
        ("file_name,label,split\na,b,train\n./a,c,train\n", "line 3: './a' is in the table twice"),
        ("file_name,label,split\na,b\0,train\n", r"line 2: a field must not hold control characters, found 'b\\x00'"),
        ('file_name,label,split\na,"b\nc",train\n', "must not hold control characters"),
        ("file_name,label,split\na,b\x1b[31m,train\n", "must not hold control characters"),
        ("file_name,label,fold\na,b," + "9" * 5000 + "\n", "fold must be a whole number"),
        ("file_name,label,split\n../a,b,train\n", "line 2: a file name must be a path inside .* found '../a'"),
        ("file_name,label,split\n/etc/a,b,train\n", "inside the data folder, found '/etc/a'"),
        ("file_name,label,split\nx/../../a,b,train\n", "inside the data folder"),
        ("file_name,label,split\nC:\\a,b,train\n", "inside the data folder"),
        ("file_name,label,split\n,b,train\n", "inside the data folder, found ''"),
        ("file_name,label,split\na,,train\n", "label set 'label' holds no label"),
        ('file_name,label,split\na,"b,train\n', "cannot be read as a UTF-8 CSV"),
    ],
)
def test_load_task_refuses_bad_tables(data_folder, text, message):
    path = data_folder.table("bad.csv", text)
    with pytest.raises(InputError, match=message):
        load_task(str(path), unit_seconds=1)


def test_load_task_refuses_a_table_that_is_not_utf8(data_folder):
    path = data_folder.table("bad.csv", "")
    path.write_bytes("file_name,label,split\na.wav,\xe9,train\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        load_task(str(path), unit_seconds=1)


def test_load_task_drops_a_byte_order_mark(data_folder):
    path = data_folder.table("a.csv", "\ufefffile_name,label,split\na.wav,b,train\n")
    assert load_task(str(path), unit_seconds=1).file_names == ("a.wav",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "nonsense"}, "neither a known task .*esc50.*notes2.* nor a .csv"),
        ({"task": "missing.csv", "unit_seconds": 1.0}, "missing.csv is missing"),
        ({"task": "TABLE"}, "needs unit_seconds"),
        ({"task": "TABLE", "unit_seconds": 0.0}, "unit_seconds must be a positive number"),
        ({"task": "TABLE", "unit_seconds": 1e9}, "at most 3600, got 1000000000"),
        ({"task": "TABLE", "unit_seconds": float("nan")}, "unit_seconds must be a positive number"),
        ({"task": "TABLE", "unit_seconds": 1.0, "label": ["nope"]}, "no label column 'nope'"),
        ({"task": "TABLE", "unit_seconds": 1.0, "label": ["digit", "digit"]}, "named once"),
        ({"task": "TABLE", "unit_seconds": 1.0, "data": "no such folder"}, "data no such folder must be a folder"),
        ({"task": "esc50"}, "needs data: the folder that holds meta/esc50.csv"),
        ({"task": "esc50", "data": "no such folder"}, "esc50.csv is missing"),
        ({"task": "gise51", "data": "."}, "Task 'gise51' needs unit_seconds"),
    ],
)
def test_load_task_refuses_bad_arguments(data_folder, options, message):
    path = data_folder.table("a.csv", TABLE)
    with pytest.raises(InputError, match=message):
        load_task(**{**options, "task": str(path) if options["task"] == "TABLE" else options["task"]})


def test_load_task_refuses_a_table_that_is_a_pipe(data_folder):
    data_folder.table("unused.csv", "")
    os.mkfifo(data_folder.path / "pipe.csv")
    with pytest.raises(InputError, match=r"pipe\.csv must be a regular file"):
        load_task(str(data_folder.path / "pipe.csv"), unit_seconds=1)


def test_load_task_takes_one_label_as_a_word(data_folder):
    path = data_folder.table("animals.csv", TABLE)
    assert load_task(str(path), label="digit", unit_seconds=1) == load_task(str(path), label=["digit"], unit_seconds=1)


@pytest.fixture
def esc50(data_folder):
    """ESC-50's layout with two clips a fold."""
    clips = [(fold, target, name) for fold in range(1, 6) for target, name in ((0, "dog"), (49, "hand_saw"))]
    rows = [f"{fold}-{target}-A.wav,{fold},{target},{name},{name == 'dog'},{target},A" for fold, target, name in clips]
    (data_folder.path / "meta").mkdir(parents=True)
    data_folder.table("meta/esc50.csv", "\n".join(["filename,fold,target,category,esc10,src_file,take", *rows]) + "\n")
    return data_folder


def test_load_task_reads_esc50_in_its_own_layout(esc50):
    task = load_task("esc50", esc50.path, label=["event", "group", "esc10"])
    assert (task.unit_seconds, task.keep, len(task)) == (5.0, 0.02, 10)
    assert task.file_names[0] == "audio/1-0-A.wav"
    assert task.splits.count("test") == 2
    assert members_by_name(task)["audio/1-49-A.wav"] == {
        ("event", "hand_saw"),
        ("group", "exterior"),
        ("esc10", "False"),
    }
    assert load_task("esc50", esc50.path).classes == (("event", "dog"), ("event", "hand_saw"))


def test_load_task_refuses_a_label_set_that_a_known_task_lacks(esc50):
    with pytest.raises(InputError, match=r"no label column 'octave'; the table has event, group, filename, fold"):
        load_task("esc50", esc50.path, label=["octave"])


def test_load_task_derives_octaves_from_pitches(data_folder):
    data_folder.table("surge.csv", "file_name,label,split\na.wav,21,train\nb.wav,60,train\nc.wav,108,test\n")
    task = load_task("surge", data_folder.path, label=["pitch", "octave"])
    pitches, octaves = (("pitch", pitch) for pitch in ("21", "60", "108")), (("octave", octave) for octave in "048")
    assert task.classes == (*pitches, *octaves)
    data_folder.table("nspitch.csv", "file_name,label,split\na.wav,C4,train\n")
    with pytest.raises(InputError, match="MIDI pitch numbers, found the label 'C4'"):
        load_task("nspitch", data_folder.path, label=["octave"])


def test_load_task_takes_gender_and_country_of_voxceleb_from_its_metadata(data_folder):
    data_folder.table("vc1.csv", "file_name,label,split\na.wav,id10001,train\nb.wav,id10002,test\n")
    header = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
    with pytest.raises(InputError, match=r"vox1_meta\.csv is missing"):
        load_task("vc1", data_folder.path, label=["gender"])
    data_folder.table("vox1_meta.csv", header + "id10001\tA.J._Buckley\tm\tIreland\tdev\n")
    with pytest.raises(InputError, match="does not list the speaker 'id10002'"):
        load_task("vc1", data_folder.path, label=["gender"])
    data_folder.table(
        "vox1_meta.csv", header + "id10001\tA.J._Buckley\tm\tIreland\tdev\nid10002\tA.R._Rahman\tm\tIndia\tdev\n"
    )
    task = load_task("vc1", data_folder.path, label=["gender", "country"])
    assert members_by_name(task)["b.wav"] == {("gender", "m"), ("country", "India")}


@pytest.mark.parametrize("name", sorted(set(KNOWN_TASKS) - {"esc50"}))
def test_load_task_reads_every_known_task_from_evars_table(data_folder, name):
    known = KNOWN_TASKS[name]
    by_fold = name in ("us8k",)
    with (data_folder.path.parent / "t.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label", "fold" if by_fold else "split"])
        writer.writerow(["a.wav", "60,61" if known.multi_label else "60", "1" if by_fold else "train"])
        writer.writerow(["b.wav", "72", "5" if by_fold else "test"])
    data_folder.table(f"{name}.csv", (data_folder.path.parent / "t.csv").read_text())
    task = load_task(name, data_folder.path, unit_seconds=None if known.unit_seconds else 3.0)
    assert task.unit_seconds == (known.unit_seconds or 3.0)
    assert {labels for labels, _ in task.classes} == {known.label}
    assert len(task.classes) == (3 if known.multi_label else 2)
    assert task.splits == ("train", "test")


def test_fingerprint_follows_the_table_and_not_its_place(data_folder, tmp_path):
    path = data_folder.table("a.csv", TABLE)
    one = load_task(str(path), unit_seconds=1)
    assert one.fingerprint() == load_task(str(path), tmp_path, unit_seconds=1).fingerprint()
    assert one.fingerprint() != load_task(str(path), unit_seconds=2).fingerprint()
    data_folder.table("a.csv", TABLE.replace("b.wav,cat", "b.wav,dog"))
    assert one.fingerprint() != load_task(str(path), unit_seconds=1).fingerprint()


def test_load_task_does_not_use_notes_of_another_synthesiser(tmp_path, monkeypatch):
    """The cache is named by the synthesiser's code, so that a change of it makes new notes."""
    monkeypatch.setattr("jaxdissect.tasks.known.user_cache_path", lambda name: tmp_path)
    monkeypatch.setattr("jaxdissect.tasks.notes.write_notes", lambda name, folder, progress: folder.mkdir())
    for digest in ("a" * 64, "b" * 64):
        monkeypatch.setattr("jaxdissect.tasks.known.sha256_file", lambda path, digest=digest: digest)
        with pytest.raises(InputError, match=rf"notes-{digest[:8]}/notes\.csv is missing"):
            load_task("notes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes-aaaaaaaa", "notes-bbbbbbbb"]
