"""A run with every file that a report shows, made once and copied for each test."""

import shutil

import pytest
from made_runs import make_run

NAMES = ("cat", "dog", "rain", "wind")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "run", NAMES)


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")
