"""The device run, rehearsed on a processor: what it compares, and that a cut run keeps what it has."""

import dataclasses
import json
import sys

import jax
import pytest

from benchmarks.speed import device_day, programs
from benchmarks.speed.device_day import Options
from jaxdissect.encoder.families.vit import vit_config


def test_exact_compares_counts_and_products_with_the_processor():
    found = device_day.exact()
    assert found["counts_equal"]
    assert found["maxima_equal"]
    assert found["top_clips_equal"]
    assert found["float32_product_relative_error"] < found["tf32_would_be_about"] / 10


@pytest.mark.parametrize("name", ["counting", "ablation_resumed"])
def test_timed_runs_programs_whose_arguments_are_donated(name):
    options = programs.Options("here", clips=2, edits=2, seconds=0.5, dtype="float32")
    of = programs.given(options, 1, programs.local_mesh(jax.local_devices()[:1]))
    small = dataclasses.replace(of.encoder, config=vit_config("tiny", depth=1))
    variables = jax.eval_shape(lambda: programs.init_vit(small.config, jax.random.key(0)))
    small = dataclasses.replace(small, variables={**small.variables, "params": variables})
    of = dataclasses.replace(of, encoder=small)
    found = device_day._timed(programs.PROGRAMS[name](of), 2)
    assert "failure" not in found
    assert found["clips_per_second"] > 0


def test_main_keeps_what_a_part_has_written_before_it_is_stopped(tmp_path, monkeypatch, capsys):
    writes = "import json, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(json.dumps([1])); "
    scripts = {"exact": writes, "programs": writes + "time.sleep(60)", "float32": "raise SystemExit('no device')"}
    monkeypatch.setattr(device_day, "command_of", lambda part, _, out: [sys.executable, "-c", scripts[part], str(out)])
    device_day.main(Options(tmp_path / "day.json", minutes=0.05, parts=("exact", "float32", "programs")))
    found = json.loads((tmp_path / "day.json").read_text())
    assert found["exact"]["ended"] == "done"
    assert (found["float32"]["ended"], found["float32"]["written"]) == ("no device", None)
    assert found["programs"]["ended"].startswith("stopped after")
    assert found["exact"]["written"] == found["programs"]["written"] == [1]
    assert capsys.readouterr().out.count("\n") == 3


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of an import of PyTorch itself
def test_command_of_every_part_is_understood(tmp_path):
    options = Options(tmp_path / "day.json")
    for part in device_day.PARTS:
        _, _, module, *words = device_day.command_of(part, options, tmp_path / "part.json")
        parse = __import__(module, fromlist=["Options"])
        assert device_day.tyro.cli(parse.Options, args=words).out == tmp_path / "part.json"
