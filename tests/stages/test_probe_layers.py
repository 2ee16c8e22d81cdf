"""The stage `probe` on every layer: `probe_layers.csv`, what the command answers, and what a later probe leaves."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from tones import FILES, contents, names, strict_json

from jaxdissect.probe import evaluation
from jaxdissect.stages.probe import run_probe

KEYS = ["label_set", "test_fold", "seed", "split", "clips", "metric"]


@pytest.fixture
def every_layer(options):
    def make(**changes):
        return options(**{"encoder": "foreign:layered", "layers": "all"} | changes)

    make.run = options.run
    return make


def table_of(run):
    return pd.read_csv(run / "probe_layers.csv")


def test_run_probe_of_every_layer_scores_as_encoders_of_so_many_layers(every_layer, tmp_path):
    """An encoder that ends after the layer in question, probed as ever, has the same scores on the same clips."""
    result = run_probe(every_layer(label="label,place"))
    table = table_of(every_layer.run)
    assert table.columns.tolist() == ["label_set", "depth", *KEYS[1:], "score"]
    assert table["label_set"].tolist() == ["label"] * 18 + ["place"] * 18
    assert table["depth"].tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [0] * 6 + [1] * 6 + [2] * 6
    for depth, name in enumerate(("of_no_layer", "of_one_layer", "layered")):
        run = tmp_path / name
        run_probe(every_layer(label="label,place", encoder=f"foreign:{name}", layers="last", run=run))
        assert not (run / "probe_layers.csv").exists()
        alone = pd.read_csv(run / "probe" / "scores.csv")
        of_depth = table[table["depth"] == depth].drop(columns="depth").reset_index(drop=True)
        pd.testing.assert_frame_equal(of_depth[KEYS], alone[KEYS])
        np.testing.assert_allclose(of_depth["score"], alone["score"], rtol=1e-6)
    assert table.groupby("depth")["score"].mean().nunique() == 3, "depths that score alike would hide a mistake"
    np.testing.assert_allclose(result.layer_scores["score"], table["score"], rtol=1e-6)


def test_run_probe_of_every_layer_leaves_the_ordinary_probe_as_it_is(every_layer, tmp_path):
    run_probe(every_layer())
    run_probe(every_layer(layers="last", run=tmp_path / "last"))
    assert names(every_layer.run) == {"run.json", "probe", "probe_layers.csv"}
    assert names(every_layer.run / "probe") == FILES
    for name in ("scores.csv", "class_scores.csv"):
        alone = pd.read_csv(tmp_path / "last" / "probe" / name)
        pd.testing.assert_frame_equal(pd.read_csv(every_layer.run / "probe" / name), alone)
    record, of_last = (
        strict_json(run / "run.json")["stages"]["probe"]["options"] for run in (every_layer.run, tmp_path / "last")
    )
    assert record == of_last | {"layers": "all"}
    assert "layers" not in of_last


def test_run_probe_of_the_last_layer_removes_the_scores_of_all(every_layer):
    run_probe(every_layer())
    run_probe(every_layer(layers="last"))
    assert names(every_layer.run) == {"run.json", "probe"}
    assert "layers" not in strict_json(every_layer.run / "run.json")["stages"]["probe"]["options"]


def test_run_probe_of_every_layer_is_repeatable(every_layer):
    run_probe(every_layer())
    first = contents(every_layer.run)
    run_probe(every_layer())
    second = contents(every_layer.run)
    for path, content in first.items():
        if path.suffix == ".csv":
            assert second[path] == content, path


def test_run_probe_of_every_layer_holds_out_every_fold(every_layer, tones):
    table = tones.write("folds.csv", fold=lambda clip: clip % 3 + 1)
    run_probe(every_layer(task=str(table), folds="all", seeds=1))
    rows = table_of(every_layer.run).query("split == 'test'")
    assert rows[["depth", "test_fold"]].to_numpy().tolist() == [[d, fold] for d in (0, 1, 2) for fold in (1, 2, 3)]
    assert rows["clips"].tolist() == [16] * 9


def test_run_probe_of_every_layer_scores_several_labels_by_average_precision(every_layer, tones):
    table = tones.write("tags.csv", label=lambda clip: "abc"[clip % 3] + (",d" if clip % 5 == 0 else ""))
    run_probe(every_layer(task=str(table), multi_label=True))
    assert set(table_of(every_layer.run)["metric"]) == {"mean_average_precision"}


def test_run_probe_of_every_layer_leaves_out_a_label_set_that_fails(jaxdissect, tones):
    table = tones.write("rare.csv", rare=lambda clip: "ab"[clip % 2] if clip % 4 != 3 or clip == 3 else "")
    (tones.path / "3.wav").unlink()
    given = ["--encoder", "foreign:layered", "--layers", "all", "--label", "label,rare", "--max-bad-clips", "0.5"]
    code, _, error = jaxdissect("probe", "--task", str(table), *given)
    assert code == 2
    assert "The probes of label were saved." in error
    assert set(table_of(jaxdissect.path)["label_set"]) == {"label"}


def test_layer_scores_compile_one_program_for_all_layers(every_layer):
    evaluation._train_all.clear_cache()
    run_probe(every_layer())
    assert evaluation._train_all._cache_size() == 1


def test_the_command_answers_with_the_scores_of_every_layer(jaxdissect):
    given = ["--encoder", "foreign:layered", "--layers", "all", "--label", "label,place"]
    code, printed, _ = jaxdissect("probe", *given)
    assert code == 0
    assert f"Written to {jaxdissect.path / 'probe_layers.csv'}." in printed.splitlines()
    scores = table_of(jaxdissect.path).groupby(["label_set", "split", "depth"])["score"]
    mean, deviation = scores.mean(), scores.std(ddof=0)
    lines = re.findall(r"^([012]) +(\S+) \+- (\S+) +(\S+) \+- (\S+)$", printed, re.MULTILINE)
    assert re.search("^test score by layers run +label +place$", printed, re.MULTILINE)
    assert lines == [
        (
            str(depth),
            *(
                text
                for name in ("label", "place")
                for text in (f"{mean[name, 'test', depth]:.1%}", f"{100 * deviation[name, 'test', depth]:.1f}")
            ),
        )
        for depth in range(3)
    ]
    code, printed, _ = jaxdissect("probe", *given, "--json")
    answer = json.loads(printed)
    assert str(jaxdissect.path / "probe_layers.csv") in answer["files"]
    for row in answer["results"]["probe"]["label_sets"]:
        assert [one["depth"] for one in row["by_depth"]] == [0, 1, 2]
        assert row["by_depth"][-1] == {"depth": 2, "mean_score": row["mean_score"], "sd_score": row["sd_score"]}
        for one in row["by_depth"]:
            for split, value in one["mean_score"].items():
                assert value == pytest.approx(mean[row["label_set"], split, one["depth"]])
                assert one["sd_score"][split] == pytest.approx(deviation[row["label_set"], split, one["depth"]])


def test_the_command_says_nothing_of_layers_unless_asked(jaxdissect):
    _, printed, _ = jaxdissect("probe", "--encoder", "foreign:layered", "--json")
    assert "by_depth" not in printed
    assert "probe_layers.csv" not in printed
