"""Parts of a report without a run: numbers, sound and pictures, the choice of clips, tables behind figures."""

import base64
import io
import json
from functools import partial

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import soundfile

from jaxdissect.report.media import FORMATS, audio_format, encode_audio, encode_png
from jaxdissect.report.numbers import packed, short, to_json
from jaxdissect.report.paper import dose_table
from jaxdissect.report.payload_results import classes_of
from jaxdissect.report.snippets import clips_wanted
from jaxdissect.selection.neuron_set_files import published_sets, read_neuron_set
from jaxdissect.selection.neuron_sets import parse_neuron_set


def test_to_json_fits_into_a_script_element():
    value = {"a": "</script><!--<script>&\u2028\u2029🦜", "b": [1.5, None, True]}
    text = to_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        to_json({"a": float("nan")})


def test_short_numbers_have_few_digits_and_packed_arrays_are_exact():
    assert short(np.array([[1.23456, np.nan], [np.inf, 2.0]])) == [[1.235, None], [None, 2]]
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000
    found = packed(values)
    assert found["shape"] == [2, 3]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(found["data"]), "<u2"), values.ravel())


def test_encode_png_and_audio_can_be_decoded():
    grey = np.random.default_rng(0).integers(0, 256, (7, 11), np.uint8)
    np.testing.assert_array_equal(np.rint(255 * matplotlib.image.imread(io.BytesIO(encode_png(grey)))), grey)
    tone = 0.4 * np.sin(np.arange(32000) * 0.1).astype(np.float32)
    for form in (known for known in FORMATS if soundfile.check_format(known.container, known.subtype)):
        for rate in (16000, 22050):
            back, found = soundfile.read(io.BytesIO(encode_audio(tone, rate, form)))
            assert len(back) / found == pytest.approx(len(tone) / rate, abs=0.03)
            middle = back[len(back) // 4 : -len(back) // 4]
            assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.05), form
    assert audio_format() in FORMATS


def test_clips_wanted_begin_with_the_best_clip_of_each_neuron():
    top = np.array([[5, 4, 3, -1], [5, 9, 8, 7]])
    wanted = clips_wanted(top, np.zeros((2, 2), np.int64), [0] * 8 + [1, 0])
    assert wanted.clips == (5, 4, 8, 3, 9, 7), "after the best of all, the best of another class comes first"
    assert wanted.of_clip[5] == (0, 1)


def test_dose_table_is_of_the_own_class():
    """Names of sets are in quotes or with their label set where these are needed."""
    table = pd.DataFrame(
        [
            ("cat x 0", 0.0, "cat", -1.0),
            ("cat x 0", 0.0, "big dog", 5.0),
            ("cat x 2", 2.0, "cat", 1.0),
            ("cat", 0.0, "big dog", 3.0),
            ('"big dog" x 0', 0.0, "big dog", -2.0),
            ('"big dog" x 2', 2.0, "big dog", 4.0),
            ("event:rain x 0", 0.0, "rain", -3.0),
            ("event:rain x 1", 1.0, "rain", 0.0),
            ("place:rain x 0", 0.0, "rain", 7.0),
            ("place:rain x 2", 2.0, "rain", 7.0),
            ("cat | event:rain x 0", 0.0, "rain", 8.0),
            ("cat | event:rain x 2", 2.0, "rain", 8.0),
        ],
        columns=["intervention", "gain", "class", "margin_change"],
    ).assign(label_set="event", **dict.fromkeys(["ci_low", "ci_high", "control_mean", "control_sd"], 0.0))
    classes = (("event", "cat"), ("event", "big dog"), ("event", "rain"), ("place", "rain"))
    found = dose_table(table, classes)
    assert found[["silenced", "gain", "margin_change"]].to_numpy().tolist() == [
        ['"big dog"', 0.0, -2.0],
        ['"big dog"', 1.0, 0.0],
        ['"big dog"', 2.0, 4.0],
        ["cat", 0.0, -1.0],
        ["cat", 1.0, 0.0],
        ["cat", 2.0, 1.0],
        ["event:rain", 0.0, -3.0],
        ["event:rain", 1.0, 0.0],
    ]


def test_classes_of_a_file_are_those_that_it_was_read_for(tmp_path):
    """The page knows only the name of the file; the test reads the file itself."""
    classes = (("emotion", "ANG"), ("emotion", "HAP"), ("emotion", "0"), ("place", "ANG"))
    specific = {key: [(0, 1)] for key in classes}
    (tmp_path / "other.csv").write_text("class,layer,neuron\nANG,0,1\nHAP,1,2\n")
    (tmp_path / "set.yaml").write_text("int_neurons: [[0, 1]]\nint_gain: 0.5\n")
    names = [f"@{name}" for name in published_sets()]
    expressions = [
        *names,
        f"@{tmp_path}/other.csv:HAP",
        f"@{tmp_path}/other.csv:ANG - HAP",
        f"@{tmp_path}/set.yaml",
        "emotion:ANG & HAP",
    ]
    found = [
        parse_neuron_set(text, specific, partial(read_neuron_set, classes=classes)).classes for text in expressions
    ]
    assert [classes_of(text, classes) for text in expressions] == found
    assert any(found[: len(names)])
    assert found[-4:] == [(classes[1],), (classes[0], classes[3]), (), classes[:2]]
    assert classes_of("no such class", classes) == ()
