"""The report without a browser: what is missing is told, nothing is markup, the size holds, and numbers are right."""

import base64
import hashlib
import io
import json
import os
import re
import shlex
import shutil
from functools import partial

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import soundfile
from made_runs import HOSTILE, make_run

from jaxdissect import InputError
from jaxdissect.cli import main
from jaxdissect.cli.parsing import parse
from jaxdissect.options.report import ReportOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.report.media import FORMATS, audio_format, encode_audio, encode_png
from jaxdissect.report.numbers import packed, short, to_json
from jaxdissect.report.paper import dose_table
from jaxdissect.report.payload_results import classes_of
from jaxdissect.report.run_contents import read_contents
from jaxdissect.report.snippets import clips_wanted
from jaxdissect.runtime.tables import read_netcdf, write_netcdf
from jaxdissect.selection.neuron_set_files import published_sets, read_neuron_set
from jaxdissect.selection.neuron_sets import parse_neuron_set
from jaxdissect.stages.report import run_report
from jaxdissect.stages.share import run_share

FILES = (
    "run.json", "activations.nc", "top_clips.nc", "clips.csv", "scores.nc", "neurons.csv", "coverage.csv", "layers.csv",
    "sharing.nc", "ablation.csv", "ablation_suite.csv", "probe/scores.csv", "probe/class_scores.csv",
)  # fmt: skip
EXTRA = ("agreement.csv", "permutations.nc", "causal_map.csv", "reproduction.csv")  # which a run may do without
NAMES = ("cat", "dog", "rain", "wind")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "run", NAMES)


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def report(run, **options):
    return run_report(ReportOptions(run=run, figures=False, **options))


def data_of(page):
    """What the page's script reads."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text())[1])


def test_a_whole_run_lacks_only_its_sound(run):
    done = report(run)
    assert [entry.what for entry in done.missing] == ["sound and log-mel pictures"]
    assert "--data" in done.missing[0].command
    data = data_of(done.path)
    table = pd.read_csv(run / "neurons.csv")
    assert len(data["pairs"]["class"]) == len(table)
    assert done.neurons == len(table[["layer", "neuron"]].drop_duplicates()) == len(data["neurons"]["layer"])
    assert json.loads((run / "run.json").read_text())["stages"]["report"]["status"] == "done"


def test_clips_are_counted_once_however_many_label_sets_they_have(dissected, tmp_path):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    read = int((pd.read_csv(run / "clips.csv")["status"] != "unreadable").sum())
    for _ in range(2):
        assert re.search(r"<dt>Clips counted</dt><dd><b>(\d+)</b>", report(run).path.read_text())[1] == str(read)
        (run / "clips.csv").unlink(missing_ok=True)


def test_commands_can_be_given_as_the_terminal_tells_them(tmp_path):
    """The page names a run directory without the folders above it, which are nobody's business."""
    run = make_run(tmp_path / "my run", ["a", "b", "c"], shared=False)
    done = report(run)
    (told,) = (shlex.split(entry.command) for entry in done.missing if entry.command.startswith("jaxdissect share"))
    assert told == ["jaxdissect", "share", "--run", str(run)]
    page = done.path.read_text()
    assert "jaxdissect share --run &#39;my run&#39;" in page
    assert str(tmp_path) not in page


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *((name, harm) for name in FILES for harm in ("gone", "garbage")),
        *((name, harm) for name in ("run.json", "scores.nc", "neurons.csv") for harm in ("empty", "cut", "folder")),
    ],
)
def test_a_file_less_is_a_line_more(run, name, harm):
    path = run / name
    content = path.read_bytes()
    path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm != "gone":
        path.write_bytes(
            {"garbage": b"\x00\xffgarbage,<b>\n1", "empty": b"", "cut": content[: len(content) // 2]}[harm]
        )
    done = report(run)
    assert "<h1" in done.path.read_text()
    if name.endswith(".csv") and harm == "cut" and name not in {entry.what for entry in done.missing}:
        return  # a table cut between two rows is a table
    assert name in {entry.what for entry in done.missing}, done.missing
    told = next(entry for entry in done.missing if entry.what == name)
    assert told.why
    assert told.command.startswith("jaxdissect ")


@pytest.mark.parametrize("name", EXTRA)
def test_what_a_run_may_lack_is_missed_only_if_damaged(run, name):
    (run / name).write_bytes(b"\x00\xffgarbage,<b>\n1")
    assert name in {entry.what for entry in report(run).missing}
    (run / name).unlink()
    assert name not in {entry.what for entry in report(run).missing}


def test_what_is_of_another_encoder_is_left_out(run):
    stages = json.loads((run / "run.json").read_text())
    stages["stages"]["share"]["fingerprints"]["encoder"] = "1" * 64
    stages["stages"]["ablate"]["fingerprints"]["task"] = "1" * 64
    (run / "run.json").write_text(json.dumps(stages))
    done = report(run)
    told = {entry.what: entry.why for entry in done.missing}
    assert "another encoder" in told["share"]
    assert "another task" in told["ablate"]
    data = data_of(done.path)
    assert data["sharing"] == []
    assert data["ablation"] is None


def test_files_of_another_run_are_left_out(run, tmp_path):
    other = make_run(tmp_path / "other", ("cat", "dog", "rain", "fog", "ice"), width=48)
    for name in ("activations.nc", "scores.nc", "neurons.csv", "sharing.nc"):
        kept = (run / name).read_bytes()
        shutil.copy(other / name, run / name)
        if name == "activations.nc":  # says the same of itself, but the others then do not suit
            assert len(report(run).missing) > 2
        else:
            assert name in {entry.what for entry in report(run).missing}
        (run / name).write_bytes(kept)


def test_a_stage_that_did_not_finish_is_told(run):
    stages = json.loads((run / "run.json").read_text())
    del stages["stages"]["neurons"]
    (run / "run.json").write_text(json.dumps(stages))
    told = {entry.what: entry.why for entry in report(run).missing}
    assert "not recorded as done" in told["neurons.csv"]


def test_sharing_of_other_neurons_is_told(run):
    table = pd.read_csv(run / "neurons.csv")
    table.iloc[:-3].to_csv(run / "neurons.csv", index=False)
    assert any("Sharing was computed from other neurons" in sentence for sentence in report(run).warnings)


def test_the_checks_are_those_of_the_files(run):
    page = report(run).path
    data, table = data_of(page), pd.read_csv(run / "neurons.csv")
    checks, names = data["checks"], data["classes"]["name"]
    null = read_netcdf(run / "permutations.nc")["pairs"].values
    assert checks["null"][0]["observed"] == len(table)
    assert sum(checks["null"][0]["bins"]) == checks["null"][0]["permutations"] == null.size
    assert checks["null"][0]["highest"] == null.max()
    assert checks["null"][0]["reached"] == 0
    agreement = checks["agreement"][0]
    assert agreement["selectors"] == ["aape", "probability", "d_prime"]
    assert agreement["rank_correlation"][0][1] == agreement["rank_correlation"][1][0] == -0.81
    assert agreement["jaccard"][1][2] == 0.3
    assert checks["layers"][0]["pairs"] == table.groupby("layer").size().reindex(range(3), fill_value=0).tolist()
    probed = pd.read_csv(run / "probe" / "class_scores.csv").groupby("class")["score"].mean()
    assert checks["probe"]["score"] == pytest.approx([probed[name] for name in names])
    assert checks["probe"]["clips"] == [4] * len(names)
    effect = read_netcdf(run / "scores.nc")["margin_effect"].values
    own = [effect[names.index(row["class"]), row["layer"], row["neuron"]] for _, row in table.iterrows()]
    causal = checks["causal"][0]
    assert causal["helping"] == sum(value < 0 for value in own)
    assert causal["pairs"] == len(own)
    assert causal["all"] == pytest.approx(np.sqrt((effect**2).mean(axis=(0, 2))), rel=1e-3)
    in_first = [value for value, layer in zip(own, table["layer"], strict=True) if layer == 0]
    assert causal["specific"][0] == pytest.approx(np.sqrt(np.mean(np.square(in_first))), rel=1e-3)
    assert causal["check"][0] == {"layer": 0, "neurons": 4, "clips": 8, "rank_correlation": 0.9}
    told = page.read_text()
    assert "55.0% ± 5.0" in told
    assert "accuracy on 16 test clips, 2 probes; train 100.0%" in told
    assert re.search(r"accuracy &lt;after&gt; ablation</th><td>a&amp;b</td><td[^>]*>-</td><td[^>]*>0.25<", told)


def test_files_that_do_not_fit_together_are_told(run):
    for name, column in (("ablation.csv", "neurons"), ("layers.csv", "layer"), ("probe/scores.csv", "score")):
        table = pd.read_csv(run / name)
        table[column] = np.nan
        table.to_csv(run / name, index=False)
    sharing = read_netcdf(run / "sharing.nc")
    write_netcdf(sharing.assign(jaccard=sharing["jaccard"] * np.nan), run / "sharing.nc")
    done = report(run)
    assert "do not fit together" in {entry.what: entry.why for entry in done.missing}["ablation"]
    data = data_of(done.path)
    assert data["ablation"] is None
    assert data["checks"]["null"]
    assert len(data["sharing"][0]["rows"]) == len(data["sharing"][0]["columns"]) <= len(NAMES)


def test_published_figures_of_other_neurons_are_told(run):
    table = pd.read_csv(run / "reproduction.csv")
    table["found"] += 1
    table.to_csv(run / "reproduction.csv", index=False)
    assert any("reproduction.csv is of other neurons" in sentence for sentence in report(run).warnings)


def unpacked(values):
    kinds = {"u4": "<u4", "f4": "<f4"}
    return np.frombuffer(base64.b64decode(values["data"]), kinds[values["type"]]).reshape(values["shape"])


def test_sharing_across_label_sets_and_runs_is_there(dissected, tmp_path):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    other = shutil.copytree(dissected / "run", tmp_path / "other")
    keys = ["label_set_a", "class_a", "run_b", "label_set_b", "class_b"]
    table = run_share(ShareOptions(run=run, with_=(other,))).table
    rows = {tuple(row[key] for key in keys): row for row in table.to_dict("records")}
    data = data_of(report(run).path)
    sets, names = data["label_sets"], data["classes"]["name"]
    seen = []
    for block in data["sharing"]:
        first, foreign = sets[block["set"]], "run" in block
        second = block["label_set"] if foreign else sets[data["classes"]["set"][block["columns"][0]]]
        seen.append((first, second, block.get("run")))
        assert block["names"] == [names[c] for c in block["columns"]] or (foreign and set(block["columns"]) == {-1})
        cells = [(i, j) for i in range(len(block["rows"])) for j in range(len(block["names"]))]
        compared = 0
        for i, j in cells:
            key = (first, names[block["rows"][i]], str(other if foreign else run), second, block["names"][j])
            for name in ("shared", "jaccard", "q_by_breadth") if key in rows else ():
                assert unpacked(block[name])[i, j] == pytest.approx(rows[key][name], nan_ok=True)
                compared += 1
        assert compared >= len(cells)
    assert seen[0][:2] == (sets[0], sets[0])
    assert (sets[0], sets[1], None) in seen
    assert (sets[1], sets[0], "other") in seen
    assert not any(block.get("foreign") for block in data["sharing"]), "it is the same encoder"
    assert str(other) not in (run / "report.html").read_text()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_no_pipe_and_no_link_out_is_read(run, tmp_path):
    (run / "neurons.csv").rename(tmp_path / "neurons.csv")
    (run / "neurons.csv").symlink_to(tmp_path / "neurons.csv")
    (run / "coverage.csv").unlink()
    os.mkfifo(run / "coverage.csv")
    told = {entry.what: entry.why for entry in report(run).missing}
    assert "leaves the run directory" in told["neurons.csv"]
    assert "regular file" in told["coverage.csv"]


def test_what_is_no_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"--run .* holds none of the files of a run"):
            report(folder)


def test_names_are_text(tmp_path):
    done = report(make_run(tmp_path / "run", HOSTILE, label_set="<i>set</i>"))
    page = done.path.read_text()
    assert "<script>alert" not in page
    assert "onerror=alert(1)>" not in page.replace("\\u003e", "")
    assert "<i>set" not in page
    assert "<b>file" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "\u2028" not in page
    assert data_of(done.path)["classes"]["name"] == list(HOSTILE)


def test_json_stands_in_a_script():
    value = {"a": "</script><!--<script>&\u2028\u2029🦜", "b": [1.5, None, True]}
    text = to_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        to_json({"a": float("nan")})


def test_numbers_are_short_and_arrays_exact():
    assert short(np.array([[1.23456, np.nan], [np.inf, 2.0]])) == [[1.235, None], [None, 2]]
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000
    found = packed(values)
    assert found["shape"] == [2, 3]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(found["data"]), "<u2"), values.ravel())


def test_the_policy_lets_nothing_in(run):
    page = report(run).path.read_text()
    rules = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'").split("; ")
    assert "default-src 'none'" in rules
    assert not any("http" in rule or "*" in rule or "unsafe" in rule or "self" in rule for rule in rules)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


def test_pictures_and_sound_come_back():
    grey = np.random.default_rng(0).integers(0, 256, (7, 11), np.uint8)
    np.testing.assert_array_equal(np.rint(255 * matplotlib.image.imread(io.BytesIO(encode_png(grey)))), grey)
    tone = 0.4 * np.sin(np.arange(32000) * 0.1).astype(np.float32)
    for form in (one for one in FORMATS if soundfile.check_format(one.container, one.subtype)):
        for rate in (16000, 22050):
            back, found = soundfile.read(io.BytesIO(encode_audio(tone, rate, form)))
            assert len(back) / found == pytest.approx(len(tone) / rate, abs=0.03)
            middle = back[len(back) // 4 : -len(back) // 4]
            assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.05), form
    assert audio_format() in FORMATS


def test_every_neuron_hears_its_best_clips_first():
    top = np.array([[5, 4, 3, -1], [5, 9, 8, 7]])
    wanted = clips_wanted(top, np.zeros((2, 2), np.int64), [0] * 8 + [1, 0])
    assert wanted.clips == (5, 4, 8, 3, 9, 7), "after the best of all, the best of another class comes first"
    assert wanted.of_clip[5] == (0, 1)


def test_dose_and_response_are_of_the_own_class():
    """By whatever name its set goes: in quotes or with its label set, where these are needed."""
    table = pd.DataFrame(
        [
            ("cat x 0", 0.0, "cat", -1.0), ("cat x 0", 0.0, "big dog", 5.0), ("cat x 2", 2.0, "cat", 1.0),
            ("cat", 0.0, "big dog", 3.0),
            ('"big dog" x 0', 0.0, "big dog", -2.0), ('"big dog" x 2', 2.0, "big dog", 4.0),
            ("event:rain x 0", 0.0, "rain", -3.0), ("event:rain x 1", 1.0, "rain", 0.0),
            ("place:rain x 0", 0.0, "rain", 7.0), ("place:rain x 2", 2.0, "rain", 7.0),
            ("cat | event:rain x 0", 0.0, "rain", 8.0), ("cat | event:rain x 2", 2.0, "rain", 8.0),
        ],
        columns=["intervention", "gain", "class", "margin_change"],
    ).assign(label_set="event", **dict.fromkeys(["ci_low", "ci_high", "control_mean", "control_sd"], 0.0))  # fmt: skip
    classes = (("event", "cat"), ("event", "big dog"), ("event", "rain"), ("place", "rain"))
    found = dose_table(table, classes)
    assert found[["silenced", "gain", "margin_change"]].to_numpy().tolist() == [
        ['"big dog"', 0.0, -2.0], ['"big dog"', 1.0, 0.0], ['"big dog"', 2.0, 4.0],
        ["cat", 0.0, -1.0], ["cat", 1.0, 0.0], ["cat", 2.0, 1.0],
        ["event:rain", 0.0, -3.0], ["event:rain", 1.0, 0.0],
    ]  # fmt: skip


def test_a_set_of_a_file_is_meant_for_the_classes_that_it_was_read_for(tmp_path):
    """The page knows it by its name alone; here the files are there, and read."""
    classes = (("emotion", "ANG"), ("emotion", "HAP"), ("emotion", "0"), ("place", "ANG"))
    specific = {key: [(0, 1)] for key in classes}
    (tmp_path / "other.csv").write_text("class,layer,neuron\nANG,0,1\nHAP,1,2\n")
    (tmp_path / "set.yaml").write_text("int_neurons: [[0, 1]]\nint_gain: 0.5\n")
    names = [f"@{name}" for name in published_sets()]
    expressions = [*names, f"@{tmp_path}/other.csv:HAP", f"@{tmp_path}/other.csv:ANG - HAP", f"@{tmp_path}/set.yaml",
                   "emotion:ANG & HAP"]  # fmt: skip
    found = [parse_neuron_set(one, specific, partial(read_neuron_set, classes=classes)).classes for one in expressions]
    assert [classes_of(one, classes) for one in expressions] == found
    assert any(found[: len(names)])
    assert found[-4:] == [(classes[1],), (classes[0], classes[3]), (), classes[:2]]
    assert classes_of("no such class", classes) == ()


def test_figures_lie_beside_with_their_data(run):
    done = run_report(ReportOptions(run=run))
    assert {path.stem for path in done.figures} == {
        "layers-event", "neurons-per-class-event", "specificity-event", "dose-response-event",
    }  # fmt: skip
    for path in done.figures:
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in path.read_text()
    table = pd.read_csv(run / "figures" / "layers-event.csv", index_col="class")
    assert table.to_numpy().sum() == len(pd.read_csv(run / "neurons.csv"))


def test_without_counts_classes_without_neurons_are_not_forgotten(tmp_path):
    run = make_run(tmp_path / "run", NAMES, keep=0.02)
    table, ablation = (pd.read_csv(run / f"{name}.csv") for name in ("neurons", "ablation"))
    assert set(table["class"]) < set(NAMES)
    assert "coverage 50%" in drawn(run)
    (run / "activations.nc").unlink()
    assert "coverage" not in drawn(run), "of how many classes is not known"
    data = data_of(run / "report.html")
    (one,) = data["ablation"]["sets"]
    assert [data["classes"]["name"][c] for c in one["classes"]] == list(NAMES)
    change = unpacked(one["margin_change"])
    for row, column in np.ndindex(change.shape):
        name, of = one["interventions"][row]["name"], NAMES[column]
        (told,) = ablation[(ablation["intervention"] == name) & (ablation["class"] == of)]["margin_change"]
        assert change[row, column] == pytest.approx(told)


def drawn(run):
    """The text of the figure of class sizes."""
    run_report(ReportOptions(run=run))
    return (run / "figures" / "neurons-per-class-event.svg").read_text()


def test_without_matplotlib_the_report_still_comes(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run_report(ReportOptions(run=run))
    assert done.path.exists()
    assert any(entry.what == "figures for papers" and "matplotlib" in entry.why for entry in done.missing)


def test_two_runs_stand_side_by_side(run, tmp_path):
    other = make_run(tmp_path / "other", (*NAMES[:3], "fog"), seed=1)
    data = data_of(report(run, with_=other).path)
    assert data["own"]["name"] == "run"
    assert data["other"]["name"] == "other"
    assert sum(data["own"]["sets"]["event"]["size"]) == len(pd.read_csv(run / "neurons.csv"))
    assert data["other"]["sets"]["event"]["classes"] == [*NAMES[:3], "fog"]
    assert data_of(report(run).path)["other"] is None


def test_no_path_of_the_machine_is_told(run, tmp_path):
    (run / "sharing.nc").write_bytes(b"broken")
    (run / "figures").write_text("not a folder")
    done = run_report(ReportOptions(run=run, data=tmp_path / "elsewhere", with_=make_run(tmp_path / "other", NAMES)))
    page = done.path.read_text()
    assert len(done.missing) == 3
    assert str(tmp_path) not in page
    assert "/nowhere" in page, "what run.json tells is told"


@pytest.mark.parametrize(
    ("made_of", "file", "told"),
    [
        ("neurons", "neurons.csv", "Neurons were chosen anew since the ablation"),
        ("probe", "probe/probe.json", "The probe was trained anew since the ablation"),
    ],
)
def test_an_ablation_of_other_neurons_or_by_another_probe_is_told(run, made_of, file, told):
    (run / "probe").mkdir(exist_ok=True)
    with (run / file).open("a"):  # it is there
        stages = json.loads((run / "run.json").read_text())
    stages["stages"]["ablate"]["fingerprints"][made_of] = hashlib.sha256((run / file).read_bytes()).hexdigest()
    (run / "run.json").write_text(json.dumps(stages))
    assert not any("since the ablation" in sentence for sentence in report(run).warnings)
    with (run / file).open("a") as other:
        other.write("\n")
    assert any(sentence.startswith(told) for sentence in report(run).warnings)


def test_sound_is_there_and_the_page_keeps_its_size(dissected, tmp_path, capsys):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    assert main(["report", "--run", str(run), "--no-figures"]) == 0
    printed = capsys.readouterr().out
    assert "clips to hear" in printed
    page = run / "report.html"
    data = data_of(page)
    heard = sum(data["clips"]["audio"])
    assert heard > 5
    number = data["clips"]["number"][0]
    sound = re.search(rf'id="audio-{number}">([^<]*)<', page.read_text())[1]
    pcm, _ = soundfile.read(io.BytesIO(base64.b64decode(sound)))
    assert len(pcm)
    assert data["clips"]["grids"]["levels"]["shape"][1:] == [2, 3]
    assert max(data["clips"]["grids"]["highest"]) > 0
    smaller = 0.25
    done = report(run, max_mb=smaller)
    assert done.size <= smaller * 1e6
    assert done.left_out > 0
    assert 0 < done.clips < heard
    assert any("--full" in sentence for sentence in done.warnings)


def test_the_size_counts_all_that_clips_bring(dissected, tmp_path, monkeypatch):
    """With no more room for the rest of the page than it takes."""
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    page = report(run).path.read_text()
    media = sum(len(line) + 1 for line in page.splitlines() if 'type="text/plain"' in line)
    shell = len(page.encode()) - media - len(re.search(r'id="data">(.*?)</script>', page)[1])
    monkeypatch.setattr("jaxdissect.stages.report.SHELL", shell + 500)  # and a sentence on what is left out
    for limit in np.linspace(0.16, len(page) / 1e6, 5):
        done = report(run, max_mb=limit)
        assert done.size <= limit * 1e6, (done.clips, done.left_out)
        assert done.clips


def test_dissect_ends_with_the_report(dissected, tmp_path, capsys):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    stages = json.loads((run / "run.json").read_text())["stages"]
    inputs = stages["activations"]["inputs"]
    counting = ["--encoder", str(dissected / "encoder"), "--task", inputs["task"], "--unit-seconds", "0.1"]
    choosing = ["--label", "label,place", "--preset", "lape", "--keep", "0.3", "--bar", "0.5"]
    assert main(["dissect", *counting, *choosing, "--report", "--run", str(run)]) == 0
    assert re.search(rf"^Written to {re.escape(str(run))}: .*\breport\.html\b", capsys.readouterr().out, re.MULTILINE)
    data = data_of(run / "report.html")
    assert len(data["sharing"]) == 3, "each of two label sets, and one with the other"
    assert sum(data["clips"]["audio"]) > 5


def test_full_is_a_folder_with_everything(dissected, tmp_path):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    done = report(run, full=True, max_mb=0.2)
    assert done.path == run / "report" / "report.html"
    assert done.left_out == 0
    files = {path.suffix for path in (run / "report" / "clips").iterdir()}
    assert files == {f".{audio_format().ending}", ".png"}
    assert len(list((run / "report" / "clips").iterdir())) == 2 * done.clips
    assert 'type="text/plain"' not in done.path.read_text()


def test_data_that_moved_is_asked_for(dissected, tmp_path):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    moved = shutil.copytree(dissected / "data", tmp_path / "moved")
    stages = json.loads((run / "run.json").read_text())
    for stage in stages["stages"].values():
        if "inputs" in stage:
            stage["inputs"] |= {"data": str(tmp_path / "gone"), "task": str(moved / "t.csv")}
    (run / "run.json").write_text(json.dumps(stages))
    done = report(run)
    told = next(entry for entry in done.missing if entry.what.startswith("sound"))
    assert "the data folder is missing" in told.why
    assert told.command.endswith("--data DIR")
    assert done.clips == 0
    assert report(run, data=moved).clips > 5


@pytest.mark.parametrize("again", ["--sample-rate 8000", "--unit-seconds 0.05", "damaged"])
def test_clips_that_cannot_be_read_any_more_are_missed(dissected, tmp_path, again):
    """Prepared data may be made anew otherwise, or be damaged, after they were counted."""
    run, prepared = shutil.copytree(dissected / "run", tmp_path / "run"), tmp_path / "prepared"
    options = shlex.split("" if again == "damaged" else again)
    given = ["--task", str(dissected / "data" / "t.csv"), "--out", str(prepared)]
    unit = [] if "--unit-seconds" in options else ["--unit-seconds", "0.1"]
    assert main(["prepare", *given, *unit, *options]) == 0
    if again == "damaged":
        (shard,) = prepared.glob("shard-*.json")
        shard.write_text(shard.read_text().replace("ok", "OK", 1))
    done = report(run, data=prepared)
    told = next(entry for entry in done.missing if entry.what.startswith("sound"))
    assert told.command.endswith("--data DIR")
    assert str(tmp_path) not in done.path.read_text()
    assert done.clips == 0


def test_another_encoder_is_not_shown(dissected, tmp_path):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    done = report(run, encoder="m2d_tiny")
    assert any("another than the one that was counted" in entry.why for entry in done.missing)
    assert "grids" not in data_of(done.path)["clips"]
    assert done.clips > 5


def test_commands_are_told_as_a_shell_takes_them(dissected):
    contents = read_contents(dissected / "run")
    from jaxdissect.stages.report_commands import commands

    first, second, third = commands(contents)
    assert first.startswith("jaxdissect activations --encoder ")
    assert "--unit-seconds 0.1" in first
    assert "--label label,place" in first
    assert "--preset lape --keep 0.3" in second
    assert "--learning-rate 0.03" in third
    assert "--seeds 2" in third


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"commas": "separate labels"}, "--multi-label "),
        ({"commas": "belong to labels"}, "--no-multi-label "),
        ({"commas": None, "test_fold": None}, ""),
        ({"multi_label": False, "test_fold": 5}, ""),  # as records had it before, whether given or not
        ({"multi_label": True, "test_fold": 3}, "--test-fold 3 --multi-label "),
    ],
)
def test_commands_give_what_was_given(run, inputs, words):
    from jaxdissect.stages.report_commands import commands

    stages = json.loads((run / "run.json").read_text())
    stages["stages"]["activations"]["inputs"] |= inputs
    stages["stages"]["ablate"]["options"] |= {"controls": 0, "match": "layer"}
    (run / "run.json").write_text(json.dumps(stages))
    told = commands(read_contents(run))
    first = "jaxdissect activations --encoder m2d_tiny --task /nowhere/no.csv --data /nowhere --label event "
    assert told[0] == f"{first}{words}--run {run.name}"
    assert told[-1] == f"jaxdissect ablate --controls 0 --run {run.name}"
    for line in told[0], told[-1]:
        _, name, *options = shlex.split(line)
        parse([name, *options])


def test_report_says_that_nothing_is_heard_of_the_data(tmp_path):
    run = make_run(tmp_path / "run", ["a", "b"], ablated=False, shared=False, keep=0.0)
    done = report(run, data=tmp_path)
    assert [text for text in done.warnings if "--data had no effect: no class has a neuron" in text]


def test_commands_have_every_digit_of_a_number(run):
    stages = json.loads((run / "run.json").read_text())
    stages["stages"]["activations"]["inputs"]["unit_seconds"] = 2.0
    stages["stages"]["neurons"]["options"] |= {"keep": 1 / 3, "bar": 1e-7}
    (run / "run.json").write_text(json.dumps(stages))
    told = report(run).path.read_text()
    assert "--unit-seconds 2 " in told
    assert "--keep 0.3333333333333333 " in told
    assert "--bar 1e-07 " in told


def test_a_budget_must_be_positive(run):
    with pytest.raises(InputError, match="--max-mb"):
        report(run, max_mb=0)
