"""The stage `report` without a browser: what it lists as missing, escapes, warns of and shows; the page's size."""

import base64
import hashlib
import io
import json
import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import NAMES
from made_runs import HOSTILE, make_run

from jaxdissect import InputError
from jaxdissect.cli import main
from jaxdissect.options.report import ReportOptions
from jaxdissect.options.share import ShareOptions
from jaxdissect.report.cautions import cautions_of
from jaxdissect.report.media import audio_format
from jaxdissect.report.run_contents import read_contents
from jaxdissect.runtime.tables import read_netcdf, write_netcdf
from jaxdissect.significance.cautions import INDEPENDENT
from jaxdissect.stages.report import run_report
from jaxdissect.stages.share import run_share


def report(run, **options):
    return run_report(ReportOptions(run=run, figures=False, **options))


def data_of(page):
    """What the page's script reads."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text())[1])


def unpacked(values):
    kinds = {"u4": "<u4", "f4": "<f4"}
    return np.frombuffer(base64.b64decode(values["data"]), kinds[values["type"]]).reshape(values["shape"])


def test_run_report_of_a_whole_run_lacks_only_its_sound(run):
    done = report(run)
    assert [entry.what for entry in done.missing] == ["sound and log-mel pictures"]
    assert "--data" in done.missing[0].command
    data = data_of(done.path)
    table = pd.read_csv(run / "neurons.csv")
    assert len(data["pairs"]["class"]) == len(table)
    assert done.neurons == len(table[["layer", "neuron"]].drop_duplicates()) == len(data["neurons"]["layer"])
    assert json.loads((run / "run.json").read_text())["stages"]["report"]["status"] == "done"


def test_overview_counts_a_clip_of_several_label_sets_once(dissected, tmp_path):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    read = int((pd.read_csv(run / "clips.csv")["status"] != "unreadable").sum())
    for _ in range(2):
        assert re.search(r"<dt>Clips counted</dt><dd><b>(\d+)</b>", report(run).path.read_text())[1] == str(read)
        (run / "clips.csv").unlink(missing_ok=True)


def test_run_report_names_the_run_as_given_and_the_page_without_folders(tmp_path):
    """The page names a run directory without the folders above it, which are private."""
    run = make_run(tmp_path / "my run", ["a", "b", "c"], shared=False)
    done = report(run)
    (words,) = (shlex.split(entry.command) for entry in done.missing if entry.command.startswith("jaxdissect share"))
    assert words == ["jaxdissect", "share", "--run", str(run)]
    page = done.path.read_text()
    assert "jaxdissect share --run &#39;my run&#39;" in page
    assert str(tmp_path) not in page


def harm_table(name, column, value):
    """Set a column of a table to a value; None: remove it."""

    def harm(run):
        table = pd.read_csv(run / name)
        table = table.drop(columns=column) if value is None else table.assign(**{column: value})
        table.to_csv(run / name, index=False)

    return name, harm


def harm_dataset(name, change):
    def harm(run):
        dataset = change(read_netcdf(run / name))
        (run / name).unlink()
        write_netcdf(dataset, run / name)

    return name, harm


MISFITS = (
    harm_table("neurons.csv", "layer", 99),
    harm_table("neurons.csv", "class", "fog"),
    harm_table("neurons.csv", "probability", "much"),
    harm_table("neurons.csv", "neuron", None),
    harm_table("coverage.csv", "covered", None),
    harm_table("ablation.csv", "neurons", np.nan),
    harm_table("ablation.csv", "class", "fog"),
    harm_table("layers.csv", "kept", "many"),
    harm_table("probe/scores.csv", "score", "good"),
    harm_table("reproduction.csv", "found", "four"),
    harm_dataset("scores.nc", lambda scores: scores.drop_vars("probability_bar")),
    harm_dataset("scores.nc", lambda scores: scores.isel(neuron=slice(8))),
    harm_dataset("top_clips.nc", lambda top: top.isel(layer=slice(1))),
    harm_dataset("sharing.nc", lambda sharing: sharing.assign_coords(class_a=sharing["class_a"].values[::-1] + "x")),
    harm_dataset("permutations.nc", lambda null: null.assign(pairs=null["pairs"].isel(label_set=0, drop=True))),
    harm_table("probe_layers.csv", "score", "good"),
    harm_table("probe_layers.csv", "depth", None),
    harm_table("probe_layers.csv", "depth", 2),
)


@pytest.mark.parametrize(("name", "harm"), MISFITS)
def test_run_report_leaves_out_a_file_that_does_not_fit(run, name, harm):
    """Whatever is wrong with one file, the page is written of the others, and the file is named."""
    harm(run)
    done = report(run)
    reasons = {entry.what: entry.why for entry in done.missing if entry.what != "sound and log-mel pictures"}
    assert set(reasons) == {name}
    assert re.match(r"it cannot be used: .+", reasons[name])
    page = done.path.read_text()
    assert f"<b>{name}</b>: it cannot be used: " in page
    assert "<h1" in page


def test_run_report_leaves_out_several_files_that_do_not_fit(run):
    for _, harm in (MISFITS[4], MISFITS[5], MISFITS[10]):
        harm(run)
    done = report(run)
    assert {"coverage.csv", "ablation.csv", "scores.nc"} < {entry.what for entry in done.missing}
    data = data_of(done.path)
    assert data["ablation"] is None
    assert data["evidence"]["null"]
    assert len(data["sharing"][0]["rows"]) == len(data["sharing"][0]["columns"]) <= len(NAMES)


def test_run_report_compares_with_a_damaged_run(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    MISFITS[3][1](other)
    data = data_of(report(run, with_=other).path)
    assert "size" not in data["other"]["sets"]["event"]
    assert data["other"]["sets"]["event"]["histogram"]


def test_cautions_of_outdated_sharing(run):
    assert cautions_of(read_contents(run))["sharing"] == ()
    table = pd.read_csv(run / "neurons.csv")
    table.iloc[:-3].to_csv(run / "neurons.csv", index=False)
    assert "Sharing was computed from other neurons" in cautions_of(read_contents(run))["sharing"][0]


def test_cautions_of_outdated_figures(run):
    assert cautions_of(read_contents(run))["published"] == ()
    table = pd.read_csv(run / "reproduction.csv")
    table["found"] += 1
    table.to_csv(run / "reproduction.csv", index=False)
    assert "reproduction.csv is of other neurons" in cautions_of(read_contents(run))["published"][0]


@pytest.mark.parametrize(
    ("made_of", "file", "caution"),
    [
        ("neurons", "neurons.csv", "Neurons were chosen anew since the ablation"),
        ("probe", "probe/probe.json", "The probe was trained anew since the ablation"),
    ],
)
def test_cautions_of_an_outdated_ablation(run, made_of, file, caution):
    (run / "probe").mkdir(exist_ok=True)
    with (run / file).open("a"):  # made if it is not there
        stages = json.loads((run / "run.json").read_text())
    stages["stages"]["ablate"]["fingerprints"][made_of] = hashlib.sha256((run / file).read_bytes()).hexdigest()
    (run / "run.json").write_text(json.dumps(stages))
    assert not any("since the ablation" in sentence for sentence in cautions_of(read_contents(run))["ablation"])
    with (run / file).open("a") as other:
        other.write("\n")
    assert cautions_of(read_contents(run))["ablation"][0].startswith(caution)


def test_cautions_are_beside_their_numbers_and_after_the_findings(run):
    """Each warning of the result is on the page once for each of its parts, under the heading of its numbers."""
    done = report(run)
    page = done.path.read_text()
    order = [page.index(part) for part in ('id="findings"', ">Coverage and significance<", ">Counts<", ">Published")]
    assert order == sorted(order)
    by_part = cautions_of(read_contents(run))
    assert set(done.warnings) == {sentence for sentences in by_part.values() for sentence in sentences}
    assert any("AAPE keeps a fixed fraction" in sentence for sentence in by_part["selection"])
    assert any("Every token was counted" in sentence for sentence in by_part["counts"])
    assert INDEPENDENT in by_part["ablation"]
    assert order[1] < page.index("AAPE keeps a fixed fraction") < order[2] < page.index("Every token was counted")
    assert data_of(done.path)["cautions"]["ablation"] == list(by_part["ablation"])


def test_evidence_is_that_of_the_files(run):
    page = report(run).path
    data, table = data_of(page), pd.read_csv(run / "neurons.csv")
    evidence, names = data["evidence"], data["classes"]["name"]
    null = read_netcdf(run / "permutations.nc")["pairs"].values
    assert evidence["null"][0]["observed"] == len(table)
    assert sum(evidence["null"][0]["bins"]) == evidence["null"][0]["permutations"] == null.size
    assert evidence["null"][0]["highest"] == null.max()
    assert evidence["null"][0]["reached"] == 0
    agreement = evidence["agreement"][0]
    assert agreement["selectors"] == ["aape", "probability", "d_prime"]
    assert agreement["rank_correlation"][0][1] == agreement["rank_correlation"][1][0] == -0.81
    assert agreement["jaccard"][1][2] == 0.3
    assert evidence["layers"][0]["pairs"] == table.groupby("layer").size().reindex(range(3), fill_value=0).tolist()
    probed = pd.read_csv(run / "probe" / "class_scores.csv").groupby("class")["score"].mean()
    assert evidence["probe"]["score"] == pytest.approx([probed[name] for name in names])
    assert evidence["probe"]["clips"] == [4] * len(names)
    depths = evidence["depths"][0]
    tested = pd.read_csv(run / "probe_layers.csv").query("split == 'test'").groupby("depth")["score"]
    assert depths["test"] == pytest.approx(tested.mean().tolist())
    assert depths["deviation"] == pytest.approx(tested.std(ddof=0).tolist())
    assert depths["valid"] == [None] * 4
    assert (depths["metric"], depths["probes"], depths["clips"]) == ("accuracy", 2, 4 * len(names))
    effect = read_netcdf(run / "scores.nc")["margin_effect"].values
    effects = [effect[names.index(row["class"]), row["layer"], row["neuron"]] for _, row in table.iterrows()]
    causal = evidence["causal"][0]
    assert causal["helping"] == sum(value < 0 for value in effects)
    assert causal["pairs"] == len(effects)
    assert causal["all"] == pytest.approx(np.sqrt((effect**2).mean(axis=(0, 2))), rel=1e-3)
    in_first = [value for value, layer in zip(effects, table["layer"], strict=True) if layer == 0]
    assert causal["specific"][0] == pytest.approx(np.sqrt(np.mean(np.square(in_first))), rel=1e-3)
    assert causal["check"][0] == {"layer": 0, "neurons": 4, "clips": 8, "rank_correlation": 0.9}
    text = page.read_text()
    assert "55.0% ± 5.0" in text
    assert "accuracy on 16 test clips, 2 probes; train 100.0%" in text
    assert re.search(r"accuracy &lt;after&gt; ablation</th><td>a&amp;b</td><td[^>]*>-</td><td[^>]*>0.25<", text)


def test_sharing_payload_has_label_sets_and_other_runs(dissected, tmp_path):
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


def test_run_report_escapes_names(tmp_path):
    done = report(make_run(tmp_path / "run", HOSTILE, label_set="<i>set</i>"))
    page = done.path.read_text()
    assert "<script>alert" not in page
    assert "onerror=alert(1)>" not in page.replace("\\u003e", "")
    assert "<i>set" not in page
    assert "<b>file" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "\u2028" not in page
    assert data_of(done.path)["classes"]["name"] == list(HOSTILE)


def test_policy_allows_no_network(run):
    page = report(run).path.read_text()
    rules = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'").split("; ")
    assert "default-src 'none'" in rules
    assert not any("http" in rule or "*" in rule or "unsafe" in rule or "self" in rule for rule in rules)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


def test_draw_paper_figures_writes_the_data_too(run):
    done = run_report(ReportOptions(run=run))
    assert {path.stem for path in done.figures} == {
        "layers-event", "neurons-per-class-event", "specificity-event", "dose-response-event",
    }  # fmt: skip
    for path in done.figures:
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in path.read_text()
    table = pd.read_csv(run / "figures" / "layers-event.csv", index_col="class")
    assert table.to_numpy().sum() == len(pd.read_csv(run / "neurons.csv"))


def test_run_report_without_counts_keeps_classes_without_neurons(tmp_path):
    run = make_run(tmp_path / "run", NAMES, keep=0.02)
    table, ablation = (pd.read_csv(run / f"{name}.csv") for name in ("neurons", "ablation"))
    assert set(table["class"]) < set(NAMES)
    assert "coverage 50%" in drawn(run)
    (run / "activations.nc").unlink()
    assert "coverage" not in drawn(run), "the number of classes is unknown"
    data = data_of(run / "report.html")
    (block,) = data["ablation"]["sets"]
    assert [data["classes"]["name"][c] for c in block["classes"]] == list(NAMES)
    change = unpacked(block["margin_change"])
    for row, column in np.ndindex(change.shape):
        name, measured = block["interventions"][row]["name"], NAMES[column]
        (expected,) = ablation[(ablation["intervention"] == name) & (ablation["class"] == measured)]["margin_change"]
        assert change[row, column] == pytest.approx(expected)


def drawn(run):
    """The text of the figure of class sizes."""
    run_report(ReportOptions(run=run))
    return (run / "figures" / "neurons-per-class-event.svg").read_text()


def test_run_report_without_matplotlib_has_no_figures(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run_report(ReportOptions(run=run))
    assert done.path.exists()
    assert any(entry.what == "figures for papers" and "matplotlib" in entry.why for entry in done.missing)


def test_run_report_compares_two_runs(run, tmp_path):
    other = make_run(tmp_path / "other", (*NAMES[:3], "fog"), seed=1)
    data = data_of(report(run, with_=other).path)
    assert data["own"]["name"] == "run"
    assert data["other"]["name"] == "other"
    assert sum(data["own"]["sets"]["event"]["size"]) == len(pd.read_csv(run / "neurons.csv"))
    assert data["other"]["sets"]["event"]["classes"] == [*NAMES[:3], "fog"]
    assert data_of(report(run).path)["other"] is None


def test_run_report_shows_no_path_but_those_of_run_json(run, tmp_path):
    (run / "sharing.nc").write_bytes(b"broken")
    (run / "figures").write_text("not a folder")
    done = run_report(ReportOptions(run=run, data=tmp_path / "elsewhere", with_=make_run(tmp_path / "other", NAMES)))
    page = done.path.read_text()
    assert len(done.missing) == 3
    assert str(tmp_path) not in page
    assert "/nowhere" in page, "from run.json"


def test_run_report_embeds_sound_within_the_size(dissected, tmp_path, capsys):
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


def test_run_report_size_counts_everything_of_a_clip(dissected, tmp_path, monkeypatch):
    """The rest of the page gets no more room than it takes."""
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    page = report(run).path.read_text()
    media = sum(len(line) + 1 for line in page.splitlines() if 'type="text/plain"' in line)
    shell = len(page.encode()) - media - len(re.search(r'id="data">(.*?)</script>', page)[1])
    monkeypatch.setattr("jaxdissect.stages.report.SHELL_BYTES", shell + 500)  # and a sentence on what is left out
    for limit in np.linspace(0.16, len(page) / 1e6, 5):
        done = report(run, max_mb=limit)
        assert done.size <= limit * 1e6, (done.clips, done.left_out)
        assert done.clips


def test_dissect_ends_with_a_report(dissected, tmp_path, capsys):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    stages = json.loads((run / "run.json").read_text())["stages"]
    inputs = stages["activations"]["inputs"]
    counting = ["--encoder", str(dissected / "encoder"), "--task", inputs["task"], "--unit-seconds", "0.1"]
    counting.append("--no-keep-clips")
    choosing = ["--label", "label,place", "--preset", "lape", "--keep", "0.3", "--bar", "0.5"]
    assert main(["dissect", *counting, *choosing, "--report", "--run", str(run)]) == 0
    assert re.search(rf"^Written to {re.escape(str(run))}: .*\breport\.html\b", capsys.readouterr().out, re.MULTILINE)
    data = data_of(run / "report.html")
    assert len(data["sharing"]) == 3, "each of two label sets, and one with the other"
    assert sum(data["clips"]["audio"]) > 5


def test_run_report_full_writes_a_folder_with_every_clip(dissected, tmp_path):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    done = report(run, full=True, max_mb=0.2)
    assert done.path == run / "report" / "report.html"
    assert done.left_out == 0
    files = {path.suffix for path in (run / "report" / "clips").iterdir()}
    assert files == {f".{audio_format().ending}", ".png"}
    assert len(list((run / "report" / "clips").iterdir())) == 2 * done.clips
    assert 'type="text/plain"' not in done.path.read_text()


def test_run_report_asks_for_data_that_moved(dissected, tmp_path):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    moved = shutil.copytree(dissected / "data", tmp_path / "moved")
    stages = json.loads((run / "run.json").read_text())
    for stage in stages["stages"].values():
        if "inputs" in stage:
            stage["inputs"] |= {"data": str(tmp_path / "gone"), "task": str(moved / "t.csv")}
    (run / "run.json").write_text(json.dumps(stages))
    done = report(run)
    entry = next(missing for missing in done.missing if missing.what.startswith("sound"))
    assert "must be a folder" in entry.why
    assert entry.command.endswith("--data DIR")
    assert done.clips == 0
    assert report(run, data=moved).clips > 5


@pytest.mark.parametrize("again", ["--sample-rate 8000", "--unit-seconds 0.05", "damaged"])
def test_run_report_misses_clips_that_can_no_longer_be_read(dissected, tmp_path, again):
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
    entry = next(missing for missing in done.missing if missing.what.startswith("sound"))
    assert entry.command.endswith("--data DIR")
    assert str(tmp_path) not in done.path.read_text()
    assert done.clips == 0


def test_run_report_does_not_show_another_encoder(dissected, tmp_path):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    done = report(run, encoder="m2d_tiny")
    assert any("another than the one that was counted" in entry.why for entry in done.missing)
    assert "grids" not in data_of(done.path)["clips"]
    assert done.clips > 5


def test_run_report_warns_that_data_has_no_effect(tmp_path):
    run = make_run(tmp_path / "run", ["a", "b"], ablated=False, shared=False, keep=0.0)
    done = report(run, data=tmp_path)
    assert [text for text in done.warnings if "--data had no effect: no class has a neuron" in text]


def test_report_options_refuse_a_size_of_zero(run):
    with pytest.raises(InputError, match="--max-mb"):
        report(run, max_mb=0)
