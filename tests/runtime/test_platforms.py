"""A platform that the environment asks JAX for and that is not here: one paragraph, not a traceback."""

import json
import logging
import os
import subprocess
import sys

import jax
import pytest

from jaxdissect.cli import entry, main
from jaxdissect.runtime.startup import available_platforms, in_one_line, missing_platform, platform_message


def test_missing_platform_of_a_command_is_one_paragraph(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cuda"}
    options = ["--encoder", "m2d_tiny", "--task", "notes", "--run", str(tmp_path), "--json"]
    command = [sys.executable, "-m", "jaxdissect", "activations", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["exit_code"], answer["command"]) == (2, 2, "activations")
    assert done.stderr == f"jaxdissect: {answer['error']}\n"
    for part in ("JAX_PLATFORMS=cuda", "JAX finds cpu", "Unset JAX_PLATFORMS", "'jax[cuda12]'"):
        assert part in answer["error"]
    assert "Traceback" not in done.stderr


def test_missing_platform_is_looked_for_only_where_a_variable_asks(monkeypatch):
    def fails():
        raise AssertionError

    monkeypatch.setattr(jax, "local_devices", fails)
    assert missing_platform({"JAX_PLATFORMS": "", "PATH": "cuda"}) is None
    assert "JAX_PLATFORMS=tpu asks" in (missing_platform({"JAX_PLATFORMS": "tpu"}) or "")
    assert "JAX_PLATFORM_NAME=cuda" in (missing_platform({"JAX_PLATFORMS": "cpu", "JAX_PLATFORM_NAME": "cuda"}) or "")


def test_missing_platform_is_none_where_it_is_here():
    assert missing_platform({"JAX_PLATFORMS": "cpu"}) is None


def test_available_platforms_leaves_what_was_asked():
    before = jax.config.values["jax_platforms"]
    assert available_platforms() == ("cpu",)
    assert jax.config.values["jax_platforms"] == before


@pytest.mark.parametrize(
    ("asked", "reason", "parts"),
    [
        ("cuda", "", ["JAX_PLATFORMS=cuda asks JAX for a platform that is not here. JAX finds cpu.", "jax[cuda12]"]),
        ("tpu", "No libtpu. (set JAX_PLATFORMS='' to choose)\nmore", ["not here (No libtpu). JAX", "jax[tpu]"]),
        ("gpuu", "x", ["JAX_PLATFORMS=gpuu", "Unset JAX_PLATFORMS to compute on that."]),
    ],
)
def test_platform_message(asked, reason, parts):
    message = platform_message("JAX_PLATFORMS", asked, reason, ("cpu",))
    assert all(part in message for part in parts)
    assert "\n" not in message
    assert ("pip install" in message) == (asked in ("cuda", "tpu"))


def test_missing_platform_is_not_looked_for_by_help_and_version(monkeypatch, capsys):
    def fails(environment):
        raise AssertionError

    monkeypatch.setattr(entry, "missing_platform", fails)
    assert [main(line) for line in (["--help"], ["--version"], ["neurons", "--help"])] == [0, 0, 0]
    assert "jaxdissect" in capsys.readouterr().out


def test_missing_platform_of_a_job_is_named_after_the_failure(monkeypatch, capsys, tmp_path):
    """The processes of a job must meet before JAX may look for devices."""
    calls = []

    def fails(options):
        assert not calls
        raise AssertionError

    monkeypatch.setattr("jaxdissect.stages.activations.join", fails)
    monkeypatch.setattr(entry, "missing_platform", lambda environment: calls.append(1) or "no such platform")
    options = ["--encoder", "m2d_tiny", "--task", "notes", "--run", str(tmp_path / "run"), "--distributed"]
    assert main(["activations", *options]) == 2
    assert capsys.readouterr().err == "jaxdissect: no such platform\n"


def test_in_one_line_leaves_no_traceback():
    try:
        raise OSError("libbroken.so: cannot open\nmore")
    except OSError:
        record = logging.LogRecord("jax", logging.ERROR, "f", 1, "plugin %s fails", ("broken",), sys.exc_info())
    assert in_one_line(record)
    assert logging.Formatter().format(record) == "plugin broken fails (OSError: libbroken.so: cannot open)"
