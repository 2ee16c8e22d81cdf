"""What the machine says of itself."""

import sys
from pathlib import Path

import pytest

from jaxdissect.runtime.machine import available_memory

MEMINFO = "MemTotal:       24000 kB\nMemFree:         1000 kB\nMemAvailable:    3000 kB\n"


@pytest.mark.parametrize(("text", "expected"), [(MEMINFO, 3000 * 1024), ("MemTotal: 24000 kB\n", None), ("", None)])
def test_available_memory_is_what_linux_says(monkeypatch, text, expected):
    monkeypatch.setattr(Path, "read_text", lambda path: {"/proc/meminfo": text}[str(path)])
    assert available_memory() == expected


def test_available_memory_is_unknown_without_linux(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert available_memory() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory is available")
def test_available_memory_of_this_machine_is_in_bytes():
    assert 1e6 < available_memory() < 1e14
