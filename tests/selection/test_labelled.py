"""Labelled arrays and tables by the letter of the page on files, on a task of five clips made by hand."""

import math
from pathlib import Path

import h5netcdf
import numpy as np
import pandas as pd
import pytest
import slow_method as slow
import xarray as xr

from jaxdissect import InputError, LabelSet, SelectionRule, Task, select_neurons
from jaxdissect.audio.decode import ClipStatus
from jaxdissect.counting.clip_log import ClipLog
from jaxdissect.counting.labelled import label_activations
from jaxdissect.counting.statistics import Totals
from jaxdissect.counting.stream import Counted
from jaxdissect.counting.top_clips import TopClips
from jaxdissect.runtime.tables import read_netcdf, write_csv, write_netcdf
from jaxdissect.tasks.table import label_set, make_task

LAYERS, NEURONS, RANKS = 2, 3, 4
NOBODY = "nobody"
COUNT_NAMES = ("active_tokens", "sum", "sum_squares")
RULE = SelectionRule(keep=0.5, drop_weakest=0, bar=0.5)

# Active tokens of six neurons in two layers, of as many tokens as TOKENS says.
ACTIVE = {
    ("emotion", "ANG"): [[20, 0, 0], [0, 2, 10]],
    ("emotion", "HAP"): [[10, 0, 3], [0, 1, 0]],
    ("emotion", NOBODY): [[0, 0, 0], [0, 0, 0]],  # a class without a clip
    ("emotion", "other"): [[10, 0, 6], [0, 1, 0]],
    ("gender", "F"): [[5, 0, 9], [0, 3, 5]],
    ("gender", "other"): [[5, 0, 0], [7, 3, 5]],
    ("all", "all"): [[40, 0, 9], [0, 4, 10]],
}
TOKENS = [20, 10, 0, 10, 10, 10, 50]
CLIPS = [2, 1, 0, 1, 1, 1, 5]


def tiny_task(label_sets=None):
    """Five clips: two of ANG, one of HAP, one other, one without an emotion; two of them have a gender."""
    if label_sets is None:
        label_sets = (
            LabelSet("emotion", ("ANG", "HAP", NOBODY, "other"), ((0,), (0,), (1,), (3,), ())),
            LabelSet("gender", ("F", "other"), ((0,), (1,), (), (), (0, 1))),
        )
    return Task(
        "tiny",
        Path("nowhere"),
        1.0,
        tuple(f"{n}.wav" for n in range(5)),
        ("train",) * 4 + ("test",),
        (1, 2, None, 3, 4),
        label_sets,
    )


def tiny_counts(active=None, tokens=TOKENS, clips=CLIPS):
    active = np.array(list(ACTIVE.values()) if active is None else active, np.int64)
    top = np.arange(RANKS * LAYERS * NEURONS).reshape(RANKS, LAYERS, NEURONS)
    recordings = [
        ClipStatus(16000, "ok"),
        ClipStatus(900, "short"),
        ClipStatus(16000, "silent"),
        ClipStatus(0, "unreadable", 'no "audio", none'),
        ClipStatus(16000, "ok"),
    ]
    log = ClipLog(len(recordings))
    for clip, status in enumerate(recordings):
        log.put(clip, status, 0)
    return Counted(
        Totals(
            clips=np.array(clips, np.int64),
            tokens=np.array(tokens, np.int64),
            active_tokens=active,
            sum=active * 0.1,
            sum_squares=active * 0.01,
            top=TopClips(
                clip=(top % 5 - 1).astype(np.int32),
                active_tokens=top.astype(np.int32),
                tokens=np.full_like(top, 100, np.int32),
                maximum=(top / 10).astype(np.float32),
            ),
        ),
        log,
    )


@pytest.fixture
def activations():
    return label_activations(tiny_counts(), tiny_task(), {"task": "tiny", "threshold": 0.0})


@pytest.fixture
def neurons(activations):
    return select_neurons(activations, RULE)


# --- activations.nc and top_clips.nc


def test_label_activations_has_the_dimensions_types_and_coordinates_of_the_page(activations):
    counts = activations.counts
    assert dict(counts.sizes) == {"class": 6, "layer": LAYERS, "neuron": NEURONS}
    types = {"active_tokens": np.int64, "sum": np.float64, "sum_squares": np.float64}
    for name, dtype in types.items():
        assert counts[name].dims == ("class", "layer", "neuron")
        assert counts[f"total_{name}"].dims == ("layer", "neuron")
        assert counts[name].dtype == counts[f"total_{name}"].dtype == dtype
    for name in ("tokens", "clips"):
        assert counts[name].dims == ("class",)
        assert counts[f"total_{name}"].dims == ()
        assert counts[name].dtype == counts[f"total_{name}"].dtype == np.int64
    names = {*types, "tokens", "clips"}
    assert set(counts.data_vars) == names | {f"total_{name}" for name in names}
    assert counts["class"].values.tolist() == ["ANG", "HAP", NOBODY, "other", "F", "other"]
    assert counts["label_set"].dims == ("class",)
    assert counts["label_set"].values.tolist() == ["emotion"] * 4 + ["gender"] * 2
    assert counts["layer"].values.tolist() == [0, 1]
    assert counts["neuron"].values.tolist() == [0, 1, 2]
    assert counts.attrs == {"task": "tiny", "threshold": 0.0}


def test_label_activations_has_the_counts_of_the_accumulator(activations):
    totals, counts = tiny_counts().totals, activations.counts
    for name in (*COUNT_NAMES, "tokens", "clips"):
        np.testing.assert_array_equal(counts[name], getattr(totals, name)[:-1])
        np.testing.assert_array_equal(counts[f"total_{name}"], getattr(totals, name)[-1])
    one = counts.isel({"class": 5})
    assert (str(one["label_set"].values), str(one["class"].values)) == ("gender", "other")
    assert one["active_tokens"].values.tolist() == ACTIVE["gender", "other"]


def test_label_activations_has_the_rank_of_top_clips_last(activations):
    top, totals = activations.top_clips, tiny_counts().totals.top
    assert set(top.data_vars) == {"clip", "active_share", "max_activation"}
    expected = {"clip": totals.clip, "active_share": totals.active_tokens / 100, "max_activation": totals.maximum}
    for name, array in top.items():
        assert array.dims == ("layer", "neuron", "rank")
        assert array.shape == (LAYERS, NEURONS, RANKS)
        for rank in range(RANKS):
            np.testing.assert_array_equal(array[:, :, rank], expected[name][rank])


# --- clips.csv


def test_label_activations_makes_the_table_of_clips(activations, tmp_path):
    write_csv(activations.clips, tmp_path / "clips.csv")
    assert (tmp_path / "clips.csv").read_text() == (
        "clip,file_name,split,fold,status,reason,samples,emotion,gender\n"
        "0,0.wav,train,1,ok,,16000,ANG,F\n"
        "1,1.wav,train,2,short,,900,ANG,other\n"
        "2,2.wav,train,,silent,,16000,HAP,\n"
        '3,3.wav,train,3,unreadable,"no ""audio"", none",0,other,\n'
        '4,4.wav,test,4,ok,,16000,,"F,other"\n'
    )
    assert activations.bad_clips == 1


@pytest.mark.parametrize("name", ["status", "split", "clip", "samples"])
def test_label_activations_of_a_label_set_named_like_a_column_overwrites_nothing(name, tmp_path):
    """A table may have a label column `status`: it may be refused, but what became of the files must not be lost."""
    labels = LabelSet(name, ("bad", "good"), ((0,), (1,), (0,), (1,), (0,)))
    plain = tiny_task()
    counted = tiny_counts([ACTIVE["gender", "F"]] * 3, [10] * 3, [1] * 3)
    try:
        task = make_task("tiny", tmp_path, 1.0, plain.file_names, plain.splits, plain.folds, [labels])
        activations = label_activations(counted, task)
    except InputError as error:
        assert repr(name) in str(error)  # noqa: PT017
        return
    assert activations.bad_clips == 1
    expected = label_activations(tiny_counts(), plain).clips
    for column in ("clip", "file_name", "split", "status", "samples"):
        assert activations.clips[column].tolist() == expected[column].tolist()


# --- scores.nc


def test_select_neurons_has_the_dimensions_and_types_of_the_page(neurons):
    scores = neurons.scores
    assert dict(scores.sizes) == {"label_set": 2, "layer": LAYERS, "neuron": NEURONS}
    for name in ("rate", "aape", "aape_normalised", "kept"):
        assert scores[name].dims == ("label_set", "layer", "neuron")
        assert scores[name].dtype == (bool if name == "kept" else np.float64)
    assert scores["label_set"].values.tolist() == ["emotion", "gender"]
    for name in ("preset", "keep", "drop_weakest", "bar"):
        assert scores.attrs[name] == getattr(RULE, name)


def test_select_neurons_equals_the_slow_selection_of_each_label_set(activations, neurons):
    counts = activations.counts
    for name in ("emotion", "gender"):
        chosen = (counts["label_set"] == name).values & (counts["tokens"] > 0).values
        part = counts.isel({"class": np.flatnonzero(chosen)})
        expected = slow.select(
            part["active_tokens"].values, part["tokens"].values, keep=RULE.keep, weakest=0, bar_rate=RULE.bar
        )
        scores = neurons.scores.sel(label_set=name)
        assert [tuple(place) for place in np.argwhere(scores["kept"].values).tolist()] == expected.kept
        for place, aape in expected.aape.items():
            classes = int(chosen.sum())
            for score, divisor in (("aape", 1.0), ("aape_normalised", math.log(classes))):
                value = math.nan if aape is None else float(aape) / divisor
                assert scores[score].values[place] == pytest.approx(value, abs=1e-12, nan_ok=True)
            assert scores["rate"].values[place] == pytest.approx(float(expected.rate[place]), rel=1e-12)
        rows = neurons.neurons[neurons.neurons["label_set"] == name]
        labels = part["class"].values.tolist()
        found = [
            (labels.index(label), *place)
            for label, *place in rows[["class", "layer", "neuron"]].itertuples(index=False)
        ]
        assert found == expected.specific
        assert rows["probability"].tolist() == [float(expected.probability[place]) for place in expected.specific]
        row = neurons.coverage.set_index("label_set").loc[name].to_dict()
        counted = slow.coverage(expected.specific, expected.kept, len(labels))
        assert {column: row[column] for column in counted} == pytest.approx(counted)


def test_select_neurons_leaves_out_a_class_without_a_clip_and_names_it(neurons):
    """Neuron (0, 0) answers to all three classes alike: ln 3, and not less for the class without a clip."""
    emotion = neurons.scores.sel(label_set="emotion")
    assert emotion["aape"].values[0, 0] == pytest.approx(math.log(3), abs=1e-12)
    assert emotion["aape_normalised"].values[0, 0] == pytest.approx(1.0, abs=1e-12)
    assert emotion["rate"].values[0, 0] == pytest.approx(1.0, abs=1e-12)
    assert neurons.scores.attrs["skipped_classes"] == f"emotion:{NOBODY}"
    assert NOBODY not in neurons.neurons["class"].tolist()
    assert neurons.coverage["classes"].tolist() == [3, 2]


def test_select_neurons_skips_no_class_where_all_have_clips():
    counted = tiny_counts([[[1, 2, 3], [4, 5, 6]]] * 7, [10] * 7, [1] * 7)
    assert select_neurons(label_activations(counted, tiny_task()), RULE).scores.attrs["skipped_classes"] == ""


def test_select_neurons_leaves_out_classes_with_clips_and_no_token():
    """`--tokens sounding` may count no token of a class's clips."""
    counted = tiny_counts(tokens=[20, 10, 0, 10, 10, 10, 50], clips=[2, 1, 3, 1, 1, 1, 5])
    scores = select_neurons(label_activations(counted, tiny_task()), RULE).scores
    assert scores.attrs["skipped_classes"] == f"emotion:{NOBODY}"


def test_select_neurons_refuses_a_label_set_without_a_token():
    counted = tiny_counts(tokens=[0, 0, 0, 0, 10, 10, 50])
    with pytest.raises(InputError, match="'emotion' has no class with a counted token"):
        select_neurons(label_activations(counted, tiny_task()), RULE)


# --- neurons.csv and coverage.csv


def test_select_neurons_table_of_neurons_worked_out(neurons, tmp_path):
    """Three of six neurons are kept in each label set, and the bar is the middle one of all shares.

    Emotion: AAPE is 0 for (1, 2), the entropy of (1/3, 2/3) for (0, 2), and ln 3 for (0, 0) and, after it, (1, 1). Nine
    of the 18 shares are 0, so the 9th smallest is 0. Gender: AAPE is 0 for (0, 2) and (1, 0), and ln 2 for (0, 0) and
    others after it. The shares are 0 0 0 0 .3 .3 .5 .5 .5 .5 .7 .9, of which the 6th is 0.3.
    """
    write_csv(neurons.neurons, tmp_path / "neurons.csv")
    header, *lines = (tmp_path / "neurons.csv").read_text().splitlines()
    assert header == "label_set,class,layer,neuron,probability,aape,aape_normalised,selector,score,ratio"
    assert [line.rsplit(",", 5)[0] for line in lines] == [
        "emotion,ANG,0,0,1.0",
        "emotion,ANG,1,2,0.5",
        "emotion,HAP,0,0,1.0",
        "emotion,HAP,0,2,0.3",
        "emotion,other,0,0,1.0",
        "emotion,other,0,2,0.6",
        "gender,F,0,0,0.5",
        "gender,F,0,2,0.9",
        "gender,other,0,0,0.5",
        "gender,other,1,0,0.7",
    ]
    table = pd.read_csv(tmp_path / "neurons.csv")
    # p over that of the other classes' tokens together: 20 of 20 against 20 of 20, 10 of 20 against 0, and so on.
    assert table["ratio"].tolist() == pytest.approx([1, np.inf, 1, 1.5, 1, 6, 1, np.inf, 1, np.inf])
    assert set(table["selector"]) == {"aape"}
    assert table["score"].tolist() == table["aape"].tolist()
    third = math.log(3) - 2 / 3 * math.log(2)  # entropy of (1/3, 2/3)
    expected = {(0, 0): math.log(3), (0, 2): third, (1, 2): 0.0}
    emotion = table[table["label_set"] == "emotion"]
    assert emotion["aape"].tolist() == pytest.approx(
        [expected[place] for place in zip(emotion["layer"], emotion["neuron"], strict=True)], abs=1e-12
    )
    assert (emotion["aape_normalised"] * math.log(3)).tolist() == pytest.approx(emotion["aape"].tolist(), abs=1e-12)


def test_select_neurons_table_of_coverage_worked_out(neurons, tmp_path):
    write_csv(neurons.coverage, tmp_path / "coverage.csv")
    header, emotion, gender = (tmp_path / "coverage.csv").read_text().splitlines()
    assert header == (
        "label_set,classes,covered,coverage,kept_neurons,mean_neurons_per_class,mean_classes_per_neuron,"
        "probability_bar,median_aape_normalised,median_ratio"
    )
    third = 1 - 2 / 3 * math.log(2) / math.log(3)  # of (1/3, 2/3); the six pairs have 0, twice this, and thrice 1
    assert emotion.startswith("emotion,3,3,1.0,3,2.0,2.0,0.0,")
    assert [float(cell) for cell in emotion.split(",")[-2:]] == pytest.approx([(third + 1) / 2, (1 + 1.5) / 2])
    assert gender == f"gender,2,2,1.0,3,2.0,{4 / 3},0.3,0.5,inf"


def test_select_neurons_counts_classes_without_a_neuron_in_coverage():
    rule = SelectionRule(keep=1 / 6, drop_weakest=0, bar=0.5)
    coverage = select_neurons(label_activations(tiny_counts(), tiny_task()), rule).coverage
    assert coverage["kept_neurons"].tolist() == [1, 1]
    assert coverage["covered"].tolist() == [1, 1]  # emotion: (1, 2) for ANG; gender: (0, 2) for F
    assert coverage["coverage"].tolist() == [1 / 3, 1 / 2]


def test_select_neurons_keeps_one_name_in_two_label_sets_apart(neurons):
    other = neurons.neurons[neurons.neurons["class"] == "other"]
    assert other["label_set"].tolist() == ["emotion"] * 2 + ["gender"] * 2
    assert other["probability"].tolist() == [1.0, 0.6, 0.5, 0.7]


def test_select_neurons_sorts_tables_by_label_set_even_if_the_task_does_not():
    emotion, gender = tiny_task().label_sets
    order = [4, 5, 0, 1, 2, 3, 6]
    counted = tiny_counts(np.array(list(ACTIVE.values()))[order], np.array(TOKENS)[order], np.array(CLIPS)[order])
    swapped = select_neurons(label_activations(counted, tiny_task((gender, emotion))), RULE)
    straight = select_neurons(label_activations(tiny_counts(), tiny_task()), RULE)
    pd.testing.assert_frame_equal(swapped.neurons, straight.neurons)
    pd.testing.assert_frame_equal(swapped.coverage, straight.coverage)
    for name in ("emotion", "gender"):
        xr.testing.assert_equal(swapped.scores.sel(label_set=name), straight.scores.sel(label_set=name))


def test_label_set_has_octaves_in_the_order_of_numbers():
    octaves = label_set("octave", [["10"], ["2"], ["-1"], ["2"], ["9"]])
    assert octaves.classes == ("-1", "2", "9", "10")
    active = np.zeros((5, LAYERS, NEURONS), int)
    active[np.arange(5), [0, 0, 0, 1, 0], [0, 1, 2, 0, 0]] = 5  # class 0: neuron (0, 0), ..., class 3: (1, 0)
    counted = tiny_counts(active, [10] * 5, [1, 2, 1, 1, 5])
    activations = label_activations(counted, tiny_task((octaves,)))
    assert activations.counts["class"].values.tolist() == ["-1", "2", "9", "10"]
    found = select_neurons(activations, SelectionRule(keep=1, drop_weakest=0, bar=0)).neurons
    assert found["class"].tolist() == ["-1", "2", "9", "10"]
    assert list(zip(found["layer"], found["neuron"], strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_select_neurons_of_a_label_set_of_one_class():
    """Its normalised AAPE is NaN throughout, which must not disturb the tables."""
    label_sets = (LabelSet("one", ("only",), ((0,),) * 5), LabelSet("two", ("x", "y"), ((0,), (1,)) * 2 + ((),)))
    counted = tiny_counts(
        [ACTIVE["gender", "F"], ACTIVE["gender", "F"], ACTIVE["gender", "other"], ACTIVE["all", "all"]],
        [10, 10, 10, 50],
        [1, 1, 1, 5],
    )
    found = select_neurons(label_activations(counted, tiny_task(label_sets)), RULE)
    one = found.neurons[found.neurons["label_set"] == "one"]
    assert len(one)
    assert one["aape"].tolist() == [0.0] * len(one)
    assert one["aape_normalised"].isna().all()


def test_select_neurons_of_label_sets_without_a_specific_neuron():
    """No share exceeds the highest: the table is empty but has its columns, and nothing is covered."""
    found = select_neurons(label_activations(tiny_counts(), tiny_task()), SelectionRule(keep=0.5, bar=1))
    assert len(found.neurons) == 0
    assert list(found.neurons) == [
        "label_set",
        "class",
        "layer",
        "neuron",
        "probability",
        "aape",
        "aape_normalised",
        "selector",
        "score",
        "ratio",
    ]
    assert found.coverage["covered"].tolist() == [0, 0]
    assert found.coverage["mean_classes_per_neuron"].tolist() == [0.0, 0.0]


def test_select_neurons_that_keeps_nothing():
    """1 % of six neurons is none: no neuron per class, and no number of classes per neuron."""
    found = select_neurons(label_activations(tiny_counts(), tiny_task()), SelectionRule())
    assert found.coverage["kept_neurons"].tolist() == [0, 0]
    assert found.coverage["mean_neurons_per_class"].tolist() == [0.0, 0.0]
    assert found.coverage["mean_classes_per_neuron"].isna().all()
    assert found.scores["aape_cutoff"].isnull().all()


# --- files


ODD_NAMES = ("犬", 'Glass "breaking", loud', "a/b", "naïve", "nan", "007", "1e3", "NA", "x" * 300, "🎻", "-")


def odd_task():
    """Class names that are hard to keep, in a label set with a name that is too."""
    members = tuple((n, n + 5) if n + 5 < len(ODD_NAMES) else (n,) for n in range(5))
    return tiny_task((LabelSet("étiquette 1", ODD_NAMES, members), LabelSet("gender", ("F",), ((0,),) * 5)))


def odd_counts():
    rows = len(ODD_NAMES) + 2
    active = np.random.default_rng(0).integers(1, 10, (rows, LAYERS, NEURONS))
    active[0, 0, 0] = 2**53 + 1  # which a float64 does not hold
    return tiny_counts(active, [2**53 + 3] + [10] * (rows - 1), [1] * rows)


@pytest.mark.parametrize("make", [lambda: (tiny_counts(), tiny_task()), lambda: (odd_counts(), odd_task())])
def test_write_netcdf_keeps_datasets(make, tmp_path):
    activations = label_activations(*make(), {"task": "tiny", "threshold": 0.0, "label": "a,b", "empty": ""})
    scores = select_neurons(activations, RULE).scores
    for name, dataset in (("activations", activations.counts), ("top", activations.top_clips), ("scores", scores)):
        path = tmp_path / "new folder" / f"{name}.nc"
        write_netcdf(dataset, path)
        again = read_netcdf(path)
        xr.testing.assert_identical(again, dataset)
        assert dict(again.sizes) == dict(dataset.sizes)
        for key in dataset.variables:
            assert again[key].dims == dataset[key].dims
            if dataset[key].dtype != object:
                assert again[key].dtype == dataset[key].dtype, key
            else:
                assert again[key].values.tolist() == dataset[key].values.tolist()
        assert again.attrs == dataset.attrs
        assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []


def test_select_neurons_from_a_file_equals_that_from_memory(tmp_path):
    activations = label_activations(odd_counts(), odd_task())
    write_netcdf(activations.counts, tmp_path / "activations.nc")
    from_file, from_memory = (
        select_neurons(one, RULE) for one in (read_netcdf(tmp_path / "activations.nc"), activations)
    )
    pd.testing.assert_frame_equal(from_file.neurons, from_memory.neurons)
    pd.testing.assert_frame_equal(from_file.coverage, from_memory.coverage)
    xr.testing.assert_identical(from_file.scores, from_memory.scores)


def test_write_netcdf_makes_netcdf4_that_other_programs_read(activations, tmp_path):
    write_netcdf(activations.counts, tmp_path / "activations.nc")
    with h5netcdf.File(tmp_path / "activations.nc") as file:
        assert set(file.dimensions) == {"class", "layer", "neuron"}
        assert file.variables["active_tokens"].dimensions == ("class", "layer", "neuron")
        assert file.variables["active_tokens"].dtype == np.int64
        assert [str(name) for name in np.asarray(file.variables["class"][:], str)] == [
            "ANG",
            "HAP",
            NOBODY,
            "other",
            "F",
            "other",
        ]


def test_write_netcdf_keeps_large_arrays(tmp_path):
    random = np.random.default_rng(0)
    axes = ("class", "layer", "neuron")
    dataset = xr.Dataset(
        {
            "active_tokens": (axes, random.integers(0, 2**62, (3, 12, 100))),
            "sum": (axes, random.normal(size=(3, 12, 100))),
        }
    )
    write_netcdf(dataset, tmp_path / "large.nc")
    xr.testing.assert_identical(read_netcdf(tmp_path / "large.nc"), dataset)


def test_write_csv_keeps_tables(tmp_path):
    found = select_neurons(label_activations(odd_counts(), odd_task()), SelectionRule(keep=1, drop_weakest=0, bar=0))
    write_csv(found.neurons, tmp_path / "neurons.csv")
    again = pd.read_csv(
        tmp_path / "neurons.csv",
        dtype={"class": str},
        keep_default_na=False,
        na_values={"aape_normalised": [""], "ratio": [""]},
    )
    pd.testing.assert_frame_equal(again, found.neurons, check_dtype=False, rtol=1e-14)  # NaN for the one gender
    assert set(again["class"]) == {*ODD_NAMES, "F"}
    order = {("gender", "F"): 0} | {("étiquette 1", name): 1 + number for number, name in enumerate(ODD_NAMES)}
    keys = [(order[row[:2]], *row[2:]) for row in again[list(again)[:4]].itertuples(index=False, name=None)]
    assert keys == sorted(set(keys))


def test_read_netcdf_names_missing_and_damaged_files(tmp_path):
    with pytest.raises(InputError, match=r"none\.nc is missing"):
        read_netcdf(tmp_path / "none.nc")
    (tmp_path / "damaged.nc").write_bytes(b"\x89HDF\r\n\x1a\n and then nothing")
    with pytest.raises(InputError, match=r"damaged\.nc cannot be read"):
        read_netcdf(tmp_path / "damaged.nc")


def test_select_neurons_of_a_part_keeps_its_names(activations):
    """A dataset may be cut or transposed before selection: layers and neurons are those of its coordinates."""
    rule = SelectionRule(keep=1.0, drop_weakest=0.0, bar=0.1)
    whole = select_neurons(activations, rule)
    turned = select_neurons(activations.counts.transpose("neuron", "class", "layer"), rule)
    pd.testing.assert_frame_equal(turned.neurons, whole.neurons)
    last = activations.counts.isel(layer=[LAYERS - 1], neuron=[NEURONS - 1])
    part = select_neurons(last, rule)
    assert len(part.neurons)
    assert set(part.neurons["layer"]) == {LAYERS - 1}
    assert set(part.neurons["neuron"]) == {NEURONS - 1}
    assert part.scores["neuron"].values.tolist() == [NEURONS - 1]
