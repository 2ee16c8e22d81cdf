"""The command line as people and programs expect it: help, mistakes, --quiet, --json, colours, progress."""

import io
import json
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import make_run

import jaxdissect
import jaxdissect.commands.share
from jaxdissect import commands
from jaxdissect.cli import main
from jaxdissect.cli.answer import plain
from jaxdissect.cli.catalogue import COMMANDS, FIRST_EXAMPLES
from jaxdissect.cli.parsing import parse
from jaxdissect.commands.neurons import _listed_pairs
from jaxdissect.errors import InputError
from jaxdissect.runtime import progress
from jaxdissect.runtime.tables import read_netcdf
from jaxdissect.significance.cautions import INDEPENDENT

RULE = ("--keep", "0.3", "--preset", "lape", "--bar", "0.5")  # by which every class has a neuron
KEYS = ["command", "run", "results", "files", "warnings", "error", "exit_code"]


def strict(text):
    """The one JSON object that a text holds, by the standard, which knows no NaN."""

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def records(path):
    """A table's rows as strict JSON has them."""
    return plain(pd.read_csv(path, dtype={"class": str}))


@pytest.fixture
def answer(capsys):
    """Run a command with --json; returns its exit code, its object and what it told on stderr."""

    def run(*arguments):
        capsys.readouterr()
        code = main([*map(str, arguments), "--json"])
        printed, told = capsys.readouterr()
        assert printed.count("\n") == 1
        found = strict(printed)
        assert list(found) == KEYS
        assert found["exit_code"] == code
        assert all(Path(file).exists() for file in found["files"])
        return code, found, told

    return run


def dissecting(dissected, tmp_path):
    """Options that count a few tones anew; they can be damaged."""
    table = dissected / "data" / "t.csv"
    (tmp_path / "data").mkdir()
    rows = table.read_text().splitlines()[:9]
    for row in rows[1:]:
        name = row.partition(",")[0]
        (tmp_path / "data" / name).write_bytes((table.parent / name).read_bytes())
    (tmp_path / "data" / "t.csv").write_text("\n".join(rows) + "\n")
    options = ["--encoder", str(dissected / "encoder"), "--task", str(tmp_path / "data" / "t.csv"), *RULE]
    return [
        "dissect",
        *options,
        "--unit-seconds",
        "0.1",
        "--batch-size",
        "1",
        "--no-keep-clips",
        "--run",
        str(tmp_path / "new"),
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_a_command_that_parses(name):
    shown = COMMANDS[name].examples
    assert shown
    for line in shown:
        program, command, *options = shlex.split(line)
        assert (program, command) == ("jaxdissect", name)
        assert isinstance(parse([name, *options])[0], COMMANDS[name].options)
        with pytest.raises(InputError, match="Unrecognized options: --there-is-no-such"):
            parse([name, *options, "--there-is-no-such"])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_examples_and_defaults_with_units(name, capsys):
    assert main([name, "--help"]) == 0
    printed, told = capsys.readouterr()
    assert told == ""
    assert printed.startswith(f"usage: jaxdissect {name}")
    for line in COMMANDS[name].examples:
        assert f"  {line}\n" in printed
    assert not re.search(r"\{None|default: None", printed)
    assert "\x1b" not in printed
    told = " ".join(line.strip("│| ") for line in printed.splitlines())
    assert ("(default: 10 min)" in told) == ("--save-minutes" in told and name not in ("train", "neurons"))
    assert ("from which killed permutations resume. Default: 10." in told) == (name == "neurons")
    for option in ("--quiet", "--json"):
        assert re.search(rf"^[│| ]*{option}  ", printed, re.MULTILINE)
    rows = re.split(r"(?m)^[│|]? {0,2}(?=--)", printed.partition("-h, --help")[2])
    required = ["(required)" in row for row in rows if row.startswith("--")]
    assert required == sorted(required, reverse=True)  # they come first


def test_all_commands_are_told_in_a_line_each(capsys):
    assert main(["--help"]) == 0
    printed, told = capsys.readouterr()
    assert told == ""
    lines = printed.splitlines()
    for name, command in COMMANDS.items():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.endswith(command.purpose)
        assert len(line) <= 80
    order = [line.split()[0] for line in lines if re.match(r"  \w+ +[A-Z]", line)]
    assert order == list(COMMANDS)
    for line in FIRST_EXAMPLES:
        parse(shlex.split(line)[1:])
        assert f"  {line}" in lines
    assert main([]) == 2
    assert capsys.readouterr() == ("", printed)


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"jaxdissect {jaxdissect.__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("neuron --run r", "there is no command neuron: did you mean neurons?"),
        ("nonsense", "there is no command nonsense. `jaxdissect --help` shows all commands."),
        ("--quiet neurons", "the command comes first, its options follow"),
        ("neurons --run r --kep 1", "neurons: Unrecognized options: --kep, 1 Perhaps you meant: --keep FLOAT"),
        ("neurons --run r --no-quiet", "neurons: Unrecognized options: --no-quiet"),
        ("neurons", "Missing from jaxdissect neurons: --run PATH run directory that holds the counts."),
        ("dissect --run r", "Missing from jaxdissect dissect: --encoder STR"),
        (
            "neurons --run r --preset lap",
            "invalid choice 'lap' for argument '--preset'. Expected one of ('auroc', 'lape', 'aape')",
        ),
        ("dissect --encoder e --task t --run r --tokens some", "invalid choice 'some' for argument '--tokens'"),
        (
            "neurons --run r --keep much",
            "Error parsing --keep: no type matching FLOAT could be instantiated from ['much']",
        ),
        (
            "ablate --run r --resamples much",
            "Error parsing --resamples: invalid literal for int() with base 10: 'much'",
        ),
        (
            "neurons --run r --seed 1.5 --quiet",
            "Error parsing --seed: no type matching INT could be instantiated from ['1.5']",
        ),
        ("neurons --run r --keep", "Missing value for argument '--keep'"),
        ("neurons --run r stray", "Unrecognized options: stray"),
        (
            "ablate --run r --gain 0 x",
            "Error parsing --gain: no type matching {[FLOAT [FLOAT ...]]} could be instantiated from ['0', 'x']",
        ),
        (
            "train --objective m2d --task t --out o --ema 1",
            "Error parsing --ema: no type matching {FLOAT FLOAT} could be instantiated from ['1']",
        ),
        (
            "bench --encoder e --batch-sizes 1 x",
            "--batch-sizes: Could not find valid parse for arguments: ['1', 'x']",
        ),
        (
            "probe --run r --head mine",
            "invalid choice 'mine' for argument '--head'. Expected one of ('trained', 'encoder')",
        ),
        ("verify", "Missing from jaxdissect verify: FOLDER folder that `jaxdissect prepare` made."),
        ("convert", "Missing from jaxdissect convert: CHECKPOINT"),
        ("verify a b", "Unrecognized options: b"),
        ("share --run r --with a b --with c", "--with was given twice: give it once"),
        ("ablate --run r --neurons a --neurons b", "--neurons was given twice: give it once"),
        ("ablate --run r --gain 0 --gain=2", "--gain was given twice: give it once"),
        ("report --run r --max-mb 0", "jaxdissect: report: --max-mb must be a positive number, got 0.0."),
        ("share --run r --with", "--with has no value"),
        ("ablate --neurons --run r", "--neurons has no value"),
    ],
)
def test_mistakes_are_told_in_one_paragraph(line, found, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    printed, told = capsys.readouterr()
    assert printed == ""
    assert told.startswith("jaxdissect: ")
    assert found in told
    assert told.count("\n") == 1
    assert "│" not in told
    assert not list(tmp_path.iterdir())


def test_quiet_says_nothing_when_all_is_well(dissected, tmp_path, ablate, capsys):
    assert main([*dissecting(dissected, tmp_path), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "new" / "coverage.csv").is_file()
    rule = ("--preset", "lape", "--keep", "0.3", "--bar", "0.5")
    code, printed, told = ablate("--quiet", *rule, command="neurons")
    assert (code, printed) == (0, "")
    assert all("almost alike" in line or "not judged" in line for line in told.splitlines())
    assert ablate("--quiet", command="share") == (0, "", "")
    options = ["--neurons", "label:a", "--controls", "2", "--batch-size", "1", "--at-once", "2", "--map-sample", "2"]
    code, printed, told = ablate(*options, "--quiet")
    assert (code, printed) == (0, "")
    assert all(line.startswith("jaxdissect: Caution: ") for line in told.splitlines())


def test_quiet_tells_what_went_wrong(dissected, tmp_path, capsys):
    arguments = dissecting(dissected, tmp_path)
    (tmp_path / "data" / "0.wav").write_bytes(b"")
    assert main([*arguments, "--quiet"]) == 1
    printed, told = capsys.readouterr()
    assert printed == ""
    assert told.splitlines() == [
        "jaxdissect: Not counted: 0.wav: empty file: fetch or copy it again",
        "jaxdissect: more than 1.0% of the clips could not be read (--max-bad-clips 0.01); everything else was counted "
        "and saved. See clips.csv.",
    ]


def test_json_holds_what_the_files_hold(dissected, tmp_path, answer):
    code, found, told = answer(*dissecting(dissected, tmp_path), "--label", "label,place")
    run = tmp_path / "new"
    assert (code, found["command"], found["run"], found["error"]) == (0, "dissect", str(run), None)
    assert "Counting" in told  # progress goes on
    assert list(found["results"]) == ["activations", "neurons"]
    counts, counted = read_netcdf(run / "activations.nc"), found["results"]["activations"]
    assert counted["clips"] == int(counts["total_clips"]) == 6
    assert counted["clips_by_status"] == pd.read_csv(run / "clips.csv")["status"].value_counts().to_dict()
    assert counted["tokens"] == int(counts["total_tokens"])
    active = counts["total_active_tokens"].values
    assert counted["active_share"] == pytest.approx(active.sum() / active.size / counted["tokens"])
    assert counted["neurons_that_never_fire"] == int((active == 0).sum())
    recorded = strict((run / "run.json").read_text())["stages"]["activations"]
    assert (counted["seconds"], counted["reused"]) == (recorded["seconds"], False)
    label_sets, pairs = found["results"]["neurons"]["label_sets"], pd.read_csv(run / "neurons.csv", dtype=str)
    table = records(run / "coverage.csv")
    assert [{name: row[name] for name in table[0]} for row in label_sets] == table
    for row in label_sets:
        own = pairs[pairs["label_set"] == row["label_set"]]
        assert row["neurons_by_class"] == own["class"].value_counts().to_dict()
        layers = own.drop_duplicates(["layer", "neuron"])["layer"].value_counts().to_dict()
        assert row["neurons_by_layer"] == [layers.get(str(layer), 0) for layer in range(2)]
    assert set(found["files"]) >= {str(run / name) for name in ("activations.nc", "coverage.csv", "neurons.csv")}
    assert answer(*dissecting_again(run))[1]["results"]["neurons"] == found["results"]["neurons"]


def dissecting_again(run):
    return ["neurons", "--run", run, *RULE]


def test_results_of_neurons_that_were_replaced_are_told(dissected, tmp_path, answer):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    rule = ["--preset", "lape", "--keep", "0.3", "--bar", "0.5"]  # as before
    assert answer("share", "--run", run)[0] == 0
    told = answer("neurons", "--run", run, *rule)[1]["warnings"]
    assert not any("other neurons than those" in text for text in told)
    before = pd.read_csv(run / "neurons.csv")
    warnings = answer("neurons", "--run", run, "--preset", "lape", "--keep", "0.1", "--bar", "0.5")[1]["warnings"]
    assert len(pd.read_csv(run / "neurons.csv")) < len(before)
    assert [
        text
        for text in warnings
        if "The results in sharing.csv are still of those: run `jaxdissect share` again" in text
    ]
    assert not any("ablation.csv" in text for text in warnings), "nothing was ablated"
    (tmp_path / "neurons.csv").write_text("label_set,class,layer,neuron,score\ncountry,NA,0,1,\n")
    assert _listed_pairs(tmp_path) == {("country", "NA", "0", "1")}


def test_where_no_class_has_a_neuron_the_summary_says_what_helps(dissected, tmp_path, capsys):
    run = shutil.copytree(dissected / "run", tmp_path / "run")
    assert main(["neurons", "--run", str(run), "--preset", "aape", "--bar", "1.0"]) == 0  # which nothing exceeds
    assert "No class of label, place has a neuron" in (told := capsys.readouterr().out)
    assert "Take --preset auroc, or --preset lape" in told
    assert main(["neurons", "--run", str(run), "--preset", "lape", "--keep", "0.3", "--bar", "0.5"]) == 0
    assert "No class of" not in capsys.readouterr().out


def test_json_with_clips_that_cannot_be_read(dissected, tmp_path, answer):
    arguments = dissecting(dissected, tmp_path)
    (tmp_path / "data" / "0.wav").write_bytes(b"")
    code, found, told = answer(*arguments)
    assert code == 1
    assert found["warnings"] == ["Not counted: 0.wav: empty file: fetch or copy it again"]
    assert found["error"].startswith("more than 1.0% of the clips could not be read")
    assert f"jaxdissect: {found['error']}" in told
    assert found["results"]["activations"]["clips_by_status"] == {"ok": 5, "unreadable": 1}
    assert found["results"]["neurons"]["label_sets"][0]["label_set"] == "label"


def test_json_of_the_later_stages(ablate, answer):
    run = ablate.path
    options = ["--neurons", "label:a", "--controls", "2", "--batch-size", "1", "--at-once", "2", "--map-sample", "2"]
    _, found, _ = answer("ablate", "--run", run, *options)
    assert INDEPENDENT not in found["warnings"]  # the table has the column src_file
    found = found["results"]["ablate"]
    table = pd.read_csv(run / "ablation.csv")
    own = table[(table["label_set"] == "label") & (table["class"] == "a")]
    (row,) = found["own_classes"]
    assert row == pytest.approx(plain(own)[0], abs=1e-12)
    assert found["suite"] == records(run / "ablation_suite.csv")
    assert found["causal_map_check"] == records(run / "causal_map.csv")
    found = answer("share", "--run", run)[1]["results"]["share"]
    table = pd.read_csv(run / "sharing.csv", dtype={"class_a": str, "class_b": str})
    assert [(row["label_set_a"], row["label_set_b"]) for row in found["label_set_pairs"]] == [
        ("label", "label"), ("label", "place"), ("place", "place"),
    ]  # fmt: skip
    for row in found["label_set_pairs"]:
        pairs = table[(table["label_set_a"] == row["label_set_a"]) & (table["label_set_b"] == row["label_set_b"])]
        pairs = pairs[(pairs["size_a"] > 0) & (pairs["size_b"] > 0)]
        assert row["pairs"] == len(pairs)
        assert row["mean_shared_neurons"] == pytest.approx(pairs["shared"].mean())
        assert row["pairs_above_breadth"] == int((pairs["q_by_breadth"] <= 0.05).sum())
    options = ["--epochs", "3", "--seeds", "2", "--learning-rate", "0.03", "--batch-size", "2"]
    code, found, _ = answer("probe", "--run", run, *options)
    scores = pd.read_csv(run / "probe" / "scores.csv")
    for row in found["results"]["probe"]["label_sets"]:
        own = scores[scores["label_set"] == row["label_set"]].groupby("split")["score"]
        assert row["mean_score"] == pytest.approx(own.mean().to_dict())
        assert row["sd_score"] == pytest.approx(own.std(ddof=0).to_dict())
        assert row["probes"] == 2
    code, found, _ = answer("report", "--run", run, "--no-figures")
    assert (code, found["results"]["report"]["size_bytes"]) == (0, (run / "report.html").stat().st_size)
    assert found["files"] == [str(run / "report.html")]


def test_json_of_prepared_data(dissected, tmp_path, answer):
    table, out = dissected / "data" / "t.csv", tmp_path / "out"
    given = ["prepare", "--task", table, "--unit-seconds", "0.1", "--out", out]
    found = answer(*given, "--shard-clips", "20")[1]["results"]["prepare"]
    assert (found["clips"], found["shards"], found["complete"], found["decoded_now_clips"]) == (48, 3, True, 48)
    assert found["size_bytes"] == sum(file.stat().st_size for file in out.glob("*.array_record"))
    assert answer("verify", out)[1]["results"]["verify"] == {"not_as_written": []}
    (out / "t.csv").write_text("changed")
    code, found, told = answer("verify", out)
    assert (code, found["error"]) == (1, f"{out}: 1 file not as written.")
    assert found["results"]["verify"]["not_as_written"] == found["warnings"]
    assert found["warnings"][0] in told


def test_json_of_a_mistake(answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, command in (
        (["neurons", "--run", "r"], "neurons"),
        (["neurons", "--rn", "r"], "neurons"),
        (["x"], None),
    ):
        code, found, told = answer(*arguments)
        assert (code, found["command"], found["results"], found["files"]) == (2, command, {}, [])
        assert told == f"jaxdissect: {found['error']}\n"


def test_json_is_json_whatever_the_stream_can_encode(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["neurons", "--run", "Bär 🦜 \udcff", "--json"]) == 2
    assert strict(stream.buffer.getvalue().decode("ascii"))["run"] == "Bär 🦜 \udcff"


def test_json_of_what_was_done_before_it_was_stopped(dissected, tmp_path, answer, monkeypatch):
    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxdissect.commands.neurons.run_neurons", stop)
    code, found, _ = answer(*dissecting(dissected, tmp_path))
    assert code == 130
    assert list(found["results"]) == ["activations"]
    assert "the same command resumes" in found["error"]


def test_json_tells_what_was_warned_of_on_the_way(tmp_path, answer, monkeypatch):
    run = make_run(tmp_path / "run", ["a", "b"], ablated=False, shared=False)
    (run / "permutations.nc").unlink()
    original = commands.share.run

    def warned(options):
        progress.warn("the state was not saved")
        return original(options)

    monkeypatch.setattr(commands.share, "run", warned)
    code, found, told = answer("share", "--run", run)
    assert code == 0
    assert found["warnings"] == ["the state was not saved"]
    assert "jaxdissect: the state was not saved\n" in told


def test_json_stands_alone_whatever_an_encoder_prints(dissected, tmp_path, answer, monkeypatch):
    (tmp_path / "loud.py").write_text(
        "from jaxdissect import load_encoder\n"
        "def factory(dtype):\n"
        "    print('Loading ...')\n"
        f"    return load_encoder({str(dissected / 'encoder')!r})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = dissecting(dissected, tmp_path)
    arguments[arguments.index("--encoder") + 1] = "loud:factory"
    code, found, told = answer(*arguments)
    assert (code, found["error"]) == (0, None)
    assert "Loading ...\n" in told


def test_values_that_json_does_not_know():
    table = pd.DataFrame({"a": [1.5, np.nan], "b": ["x", None], "n": pd.array([1, None], "Int64")})
    found = strict(
        json.dumps(plain({"t": table, "x": np.float32(0.5), "i": np.inf, "p": Path("r"), "s": {3: (np.int64(2),)}}))
    )
    assert found["t"] == [{"a": 1.5, "b": "x", "n": 1}, {"a": None, "b": None, "n": None}]
    assert (found["x"], found["i"], found["s"]) == (0.5, None, {"3": [2]})
    assert found["p"] == "r"


def test_options_of_a_command_do_not_hold_how_it_answers():
    """A training resumes, whether the command that began it was quiet or not."""
    for name, command in COMMANDS.items():
        options, output = parse([*shlex.split(command.examples[0])[1:], "--quiet"])
        assert output.quiet
        assert not {"quiet", "json"} & set(vars(options)), name


@pytest.mark.parametrize(("index", "speaks"), [(0, True), (1, False)])
def test_of_several_processes_the_first_answers(index, speaks, capsys, monkeypatch):
    def fail(options):
        raise InputError("no")

    monkeypatch.setattr("jaxdissect.commands.activations.run_activations", fail)
    given = ["--distributed", "--coordinator", "h:1", "--processes", "2", "--process", str(index), "--json"]
    assert main(["activations", "--encoder", "e", "--task", "t", "--run", "r", *given]) == 2
    printed, told = capsys.readouterr()
    assert told == "jaxdissect: no\n"
    assert (printed != "") == speaks


def shown_on_a_terminal(arguments, **environment):
    """What a command writes where its output is a terminal."""
    leader, follower = pty.openpty()
    settings = (
        {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | environment
    )
    command = [sys.executable, "-m", "jaxdissect", *arguments]
    with subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower, env=settings) as started:
        os.close(follower)
        shown = b""
        while started.poll() is None or select.select([leader], [], [], 0.1)[0]:
            if select.select([leader], [], [], 0.1)[0]:
                try:
                    shown += os.read(leader, 65536)
                except OSError:  # the other end has gone
                    break
    os.close(leader)
    return shown.decode(), started.returncode


def test_colours_on_a_terminal_only():
    """Piped ones are looked at above."""
    coloured, code = shown_on_a_terminal(["neurons", "--help"])
    assert (code, "\x1b[" in coloured) == (0, True)
    plain_text, code = shown_on_a_terminal(["neurons", "--help"], NO_COLOR="1")
    assert (code, "\x1b[" in plain_text) == (0, False)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain_text
    mistake, code = shown_on_a_terminal(["neurons", "--preset", "x", "--run", "r"])
    assert (code, "\x1b" in mistake, mistake.count("\n")) == (2, False, 1)


def wait_for(sign, seconds):
    """Until there is one, or so long."""
    end = time.monotonic() + seconds
    while not sign() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_bar_shows_although_its_first_item_takes_long(monkeypatch):
    monkeypatch.setattr(progress, "BRIEF_SECONDS", 0.05)
    for quiet, shown in ((False, True), (True, False)):
        monkeypatch.setattr(sys, "stderr", told := io.StringIO())
        with progress.listening(quiet), progress.progress_bar(what="Counting", total=3) as bar:
            wait_for(lambda told=told: told.getvalue(), 30 if shown else 0.3)
            assert ("Counting:   0%" in told.getvalue()) == shown
            bar.update(3)
        assert told.getvalue().endswith("\n") == shown
    monkeypatch.setattr(progress, "BRIEF_SECONDS", 60.0)
    monkeypatch.setattr(sys, "stderr", told := io.StringIO())
    with progress.progress_bar(what="Counting", total=3) as bar:
        bar.update(3)
    assert told.getvalue() == ""


def test_what_takes_long_at_no_known_rate_is_told(monkeypatch):
    for soon, quiet, told in ((0.05, False, "Drawing ...\n"), (0.05, True, ""), (60.0, False, "")):
        monkeypatch.setattr(progress, "BRIEF_SECONDS", soon)
        monkeypatch.setattr(sys, "stderr", found := io.StringIO())
        with progress.listening(quiet), progress.under_way("Drawing"):
            wait_for(lambda found=found: found.getvalue().endswith("\n"), 30 if told else 0.3)
        assert found.getvalue() == told
